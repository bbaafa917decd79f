"""One fault, one name: the surest slice is named, its rows are taken out of all others, and these are judged again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostics.predictions.slice_candidates import LEAST_POSITIVES, LEAST_ROWS, SAME, least_rows
from recspect.diagnosis.diagnostics.predictions.slice_null import (
    SHARES,
    Measure,
    chance_of_furthest,
    distances,
    furthest_by_chance,
)
from recspect.diagnosis.diagnostics.predictions.sliceline import score
from recspect.diagnosis.diagnostics.predictions.slices import LEAST_BUCKETS
from recspect.diagnosis.stats.slice_sums import POSITIVE, ROWS

Floats = NDArray[np.float64]
Terms = tuple[tuple[str, str], ...]
NAMED = 25
"""Slices named at most."""
CHANCE = 0.05
WHOLE_Z, WHOLE_SHARE = 2.5, 0.5
"""A crossing is told as the larger slice that holds it where the rest of that one is off too: by so many deviations, and by this share of how far the crossing is off."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Sums of every slice that was counted, for one kind of measure.

    Args:
        measures: That these sums tell of.
        terms: Of each slice; empty for all rows, which come first.
        sums: Shape [M, G, figures].
        declared: Names of slices that the user declared, which come last, one for each; "" for the others.
    """

    measures: tuple[Measure, ...]
    terms: tuple[Terms, ...]
    sums: Floats
    declared: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Named:
    """A slice, and what it is off by.

    Args:
        terms, declared: Which slice.
        also: Other names of the same rows.
        measure: What is off.
        share: By how much, of what is usual.
        z: In standard deviations.
        p_value: Chance that the search finds one as far off where nothing is wrong.
        score: SliceLine's.
        sums, usual: Of the slice, and of the rows that it is held against, shape [G, figures].
    """

    terms: Terms
    declared: str
    also: tuple[str, ...]
    measure: Measure
    share: float
    z: float
    p_value: float
    score: float
    sums: Floats
    usual: Floats

    @property
    def name(self) -> str:
        """Such as `city=Oslo,tab=2`."""
        return self.declared or name_of(self.terms)


def name_of(terms: Terms) -> str:
    """Such as `city=Oslo,tab=2`; how often training saw an id is `often(item)=rare`."""
    return ",".join(f"often({field.removeprefix('@often:')})={text}" if field.startswith("@often:") else f"{field}={text}" for field, text in terms)


def find(counted: Counted) -> tuple[list[Named], list[Named], int]:
    """The slices that are off beyond chance, surest first; the furthest off whether beyond chance or not; and how many could be judged, each set of rows once."""
    search = _Search(counted)
    furthest, judged = search.listed(), int(search.ready.sum())
    named: list[Named] = []
    while len(named) < NAMED and (found := search.surest()) is not None:
        named.append(search.named(found))
        search.take_out(found[0])
    return named, furthest, judged


class _Search:
    def __init__(self, counted: Counted) -> None:
        self.counted, self.sums = counted, counted.sums.copy()
        self.usual = counted.sums[0].copy()
        self.place = {frozenset(terms): i for i, (terms, declared) in enumerate(zip(counted.terms, counted.declared, strict=True)) if not declared}
        self.level = np.array([1 if declared else len(terms) for terms, declared in zip(counted.terms, counted.declared, strict=True)])
        self.rows = float(self.usual[:, ROWS].sum())
        self.also: dict[int, tuple[str, ...]] = {}
        self.ready = self._enough() & (self.level > 0)
        self._one_name_each()
        self.by_chance = {(measure.name, level): furthest_by_chance(measure, self.sums[self.ready & (self.level == level)], self.usual)
                          for measure in counted.measures for level in SHARES}
        self.done: set[int] = set()
        self._judge()

    def _enough(self) -> NDArray[np.bool_]:
        """Slices with enough rows of enough users, and of both classes where these are known."""
        size = self.sums[..., ROWS].sum(1)
        least = np.array([least_rows(self.rows, int(level)) for level in self.level])
        ok = (size >= least) & (size < self.rows) & ((self.sums[..., ROWS] > 0).sum(1) >= LEAST_BUCKETS)
        if self.counted.measures[0].name == "rate":
            positive = self.sums[..., POSITIVE].sum(1)
            ok &= np.minimum(positive, size - positive) >= LEAST_POSITIVES
        return np.asarray(ok)

    def _one_name_each(self) -> None:
        """Of slices of the same rows, the first of fewest terms stays."""
        keys = self.sums[..., :3].sum(1)
        size = keys[:, ROWS]
        order = [int(i) for i in np.lexsort((np.arange(len(size)), self.level)) if self.ready[i]]
        sizes, kept = np.array([size[i] for i in order]), np.ones(len(order), dtype=bool)
        by_size = np.argsort(sizes, kind="stable")
        ranked = sizes[by_size]
        for at, i in enumerate(order):
            if not kept[at]:
                continue
            near = by_size[np.searchsorted(ranked, size[i] * (1 - SAME)):np.searchsorted(ranked, size[i] * (1 + SAME), side="right")]
            for other in near[(near > at) & kept[near]]:
                j = order[other]
                if (np.abs(self.sums[i][:, :3] - self.sums[j][:, :3]).sum(0) <= SAME * np.maximum(keys[i], keys[j]) + 1e-9).all():
                    kept[other], self.ready[j] = False, False
                    if self.level[j] == 1:
                        self.also[i] = (*self.also.get(i, ()), self.counted.declared[j] or name_of(self.counted.terms[j]))

    def _judge(self) -> None:
        """How far off every slice is now."""
        count = len(self.sums)
        self.z, self.share, self.p = (np.full((len(self.counted.measures), count), fill) for fill in (np.nan, np.nan, 1.0))
        for k, measure in enumerate(self.counted.measures):
            which = np.flatnonzero(self.ready)
            if len(which):
                self.z[k, which], self.share[k, which] = distances(measure, self.sums[which], self.usual)
            for level, share in SHARES.items():
                mine = which[self.level[which] == level]
                far = np.abs(self.z[k, mine]) if measure.both_ways else self.z[k, mine]
                self.p[k, mine] = np.minimum(chance_of_furthest(far, self.by_chance[measure.name, level]) / (share * measure.part), 1.0)

    def surest(self) -> tuple[int, int] | None:
        """(slice, measure) of the smallest chance among those off by more than the minimum, or the larger slice behind it; None for none."""
        minimum = np.array([measure.minimum for measure in self.counted.measures])[:, None]
        ways = np.array([measure.both_ways for measure in self.counted.measures])[:, None]
        enough = np.where(ways, np.abs(self.share), self.share) > minimum
        p = np.where(enough & (self.p <= CHANCE), self.p, np.inf)
        p[:, list(self.done)] = np.inf
        if not np.isfinite(p).any():
            return None
        best = np.argwhere(p == p.min())
        k, i = (int(v) for v in max(best, key=lambda at: abs(self.z[at[0], at[1]])))
        return self._narrow(self._whole(i, k), k), k

    def _whole(self, i: int, k: int) -> int:
        """The largest slice that holds slice i and the rest of which is off too, or i itself."""
        terms = frozenset(self.counted.terms[i])
        if self.counted.declared[i]:
            return i
        size = self.sums[..., ROWS].sum(1)
        for j in sorted(np.flatnonzero(self.ready & (size > (1 + SAME) * size[i])), key=lambda j: (self.level[j], -size[j])):
            if j in self.done or self.counted.declared[j] or (self.level[j] >= self.level[i] and self.level[i] > 1):
                continue
            overlap = self._overlap(int(j), terms)
            if overlap is not None and overlap[:, ROWS].sum() >= (1 - SAME) * size[i] and self._rest_is_off(self.sums[j] - overlap, i, k):
                return int(j)
        return i

    def _narrow(self, i: int, k: int) -> int:
        """The surest crossing within slice i without which nothing is wrong with it, or i itself."""
        if self.counted.declared[i]:
            return i
        terms, measure = frozenset(self.counted.terms[i]), self.counted.measures[k]
        within = [j for j in np.flatnonzero(self.ready & (self.level > self.level[i]) & (self.p[k] <= CHANCE)).tolist() if terms < frozenset(self.counted.terms[j])]
        for j in sorted(within, key=lambda j: -abs(self.z[k, j])):
            if np.sign(self.share[k, j]) == np.sign(self.share[k, i]) and abs(self.share[k, j]) > measure.minimum and not self._rest_is_off(self.sums[i] - self.sums[j], j, k):
                return self._narrow(j, k)
        return i

    def _rest_is_off(self, rest: Floats, i: int, k: int) -> bool:
        """Whether what a larger slice holds beside slice i is off the same way, and not much less."""
        if rest[:, ROWS].sum() < LEAST_ROWS:
            return False
        z, share = distances(self.counted.measures[k], rest[None], self.usual)
        return bool(np.sign(share[0]) == np.sign(self.share[k, i]) and abs(z[0]) >= WHOLE_Z and abs(share[0]) >= WHOLE_SHARE * abs(self.share[k, i]))

    def _overlap(self, j: int, terms: frozenset[tuple[str, str]]) -> Floats | None:
        """Sums of the rows that are in slice j and have these terms; None where they were not counted."""
        own = frozenset(self.counted.terms[j])
        if self.counted.declared[j] or len({field for field, _ in own | terms}) < len(own | terms):
            return None
        at = self.place.get(own | terms)
        return None if at is None else self.sums[at]

    def take_out(self, i: int) -> None:
        """The rows of slice i are no longer in any slice, as far as it is known how many they are, nor in what others are held against."""
        self.done.add(i)
        before, terms = self.sums.copy(), frozenset(self.counted.terms[i])
        rest = self.usual - before[i]
        if self.counted.declared[i]:
            self._judge()
            return
        if rest[:, ROWS].sum() > 0 and (len(rest[0]) == 3 or rest[:, POSITIVE].sum() >= LEAST_POSITIVES):
            self.usual = rest
        known: dict[frozenset[tuple[str, str]], Floats] = {frozenset(): before[i]}
        for j, other in enumerate(self.counted.terms):
            if j != i and other and not self.counted.declared[j]:
                self.sums[j] = before[j] - self._shared(frozenset(other), terms, before, known)
        self.ready &= self._enough()
        self._judge()

    def _shared(self, other: frozenset[tuple[str, str]], terms: frozenset[tuple[str, str]], before: Floats, known: dict[frozenset[tuple[str, str]], Floats]) -> Floats:
        """Sums of the rows that are in both slices; where these were not counted, in proportion to what a slice of one term less shares."""
        if other in known:
            return known[other]
        both = other | terms
        at = self.place.get(both)
        if len({field for field, _ in both}) < len(both):
            found = np.zeros_like(before[0])
        elif at is not None:
            found = before[at]
        else:
            dropped = min(other, key=lambda term: (term in terms, other - {term} not in self.place, term))
            less = other - {dropped}
            of, mine = (before[self.place[one]][:, ROWS].sum() if one in self.place else 0.0 for one in (less, other))
            found = self._shared(less, terms, before, known) * (mine / of if of > 0 else 0.0)
        known[other] = np.asarray(found)
        return known[other]

    def named(self, found: tuple[int, int]) -> Named:
        i, k = found
        measure = self.counted.measures[k]
        sums, usual = self.sums[i], self.usual
        error, size = (measure.error, measure.size) if self.share[k, i] < 0 or not measure.both_ways else (measure.size, measure.error)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = usual[:, error].sum() / usual[:, size].sum()
            worth = score(sums[None, :, error].sum(1), sums[None, :, size].sum(1), mean_error=float(mean), rows=float(self.counted.sums[0][:, size].sum()))
        return Named(terms=self.counted.terms[i], declared=self.counted.declared[i], also=self.also.get(i, ()), measure=measure, share=float(np.nan_to_num(self.share[k, i])),
                     z=float(np.nan_to_num(self.z[k, i])), p_value=float(self.p[k, i]), score=float(np.nan_to_num(worth[0], neginf=0.0, posinf=0.0)), sums=sums.copy(), usual=usual.copy())

    def listed(self) -> list[Named]:
        """Every slice that can be judged, furthest off first."""
        far = np.nanmax(np.abs(np.where(np.isnan(self.z), 0.0, self.z)), axis=0)
        which = np.flatnonzero(self.ready)
        return [self.named((int(i), int(np.argmax(np.abs(np.nan_to_num(self.z[:, i])))))) for i in which[np.argsort(-far[which], kind="stable")][:30]]
