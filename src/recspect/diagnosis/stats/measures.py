"""What a ranked list is worth: the measures of `PerUnit`.

They share one convention, so that two numbers in a report can be compared. *Relevant* is a row whose label is above 0.
*Ties*: the expected value over all orders of rows with equal score, in closed form (McSherry and Najork 2008, "Computing
Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores"), so that no measure depends on the
order in which rows are stored. *Candidates* are the rows of the list: whether seen items were filtered out is the business
of whoever wrote the table. A list without relevant rows has no value (NaN); `PerUnit.undefined` says what becomes of it.
Lists shorter than k are taken as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recspect.diagnosis.stat import Setting
from recspect.diagnosis.stats.lists import Floats, Lists
from recspect.errors import UsageError


class Measure(Setting, ABC):
    """A number per list. Plug-ins subclass it as frozen keyword-only dataclasses."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As reports show it, such as "NDCG@10"."""

    @abstractmethod
    def values(self, lists: Lists) -> Floats:
        """One value per list, NaN where undefined; shape (lists,). No loop over lists."""


@dataclass(frozen=True, kw_only=True)
class AreaUnderCurve(Measure):
    """How often a relevant row has a higher score than an irrelevant one of the same list.

    P(score of relevant > of irrelevant) + P(equal) / 2, exact. Range 0 to 1, 0.5 for random or constant scores.
    Ideal: 1. Discount: none, whole list. Ties: 1/2. Undefined: lists with only relevant or only irrelevant rows.
    Mean over users weighted by rows is GAUC. Source: Zhou et al. 2018, "Deep Interest Network".
    """

    @property
    def name(self) -> str:
        return "AUC"

    def values(self, lists: Lists) -> Floats:
        rows, which = lists.relevant_rows, lists.list_of_relevant
        rank = 2.0 * (rows - lists.starts[which])
        if lists.has_ties:
            groups = lists.groups
            mean_rank = np.repeat(2.0 * groups.rank + groups.sizes - 1, groups.sizes)
            rank = mean_rank[rows]
        below = np.bincount(which, 2.0 * (lists.lengths[which] - 1) - rank, minlength=len(lists.lengths))
        relevant = lists.relevant
        pairs = relevant * (lists.lengths - relevant)
        return _ratio((below - relevant * (relevant - 1)) / 2, pairs)


@dataclass(frozen=True, kw_only=True)
class NDCG(Measure):
    """How good the first k places are, compared with the best order of the same rows.

    DCG@k / ideal DCG@k with DCG = sum of gain / log2(1 + place), place from 1. Gain: the label (`linear`) or
    2^label - 1 (`exponential`, labels above 100 as 100); the same for 0/1 labels. Ideal: the list's own rows in the best order, cut at k, so 1 can
    always be reached. Ties: expected gain. Undefined: lists without relevant rows. Range 0 to 1.
    Some libraries differ: LensKit does not discount place 2; RecTools by default takes k relevant items as ideal.
    Source: Jarvelin and Kekalainen 2002, in the form of Burges et al. 2005.

    Args:
        k: Places, or None for the whole list.
        gain: What a label is worth.
    """

    k: int | None = 10
    gain: Literal["linear", "exponential"] = "linear"

    def __post_init__(self) -> None:
        _require_places(self.k)
        if self.gain not in ("linear", "exponential"):
            raise UsageError(f"NDCG: gain is {self.gain!r}", hint="gains are 'linear' and 'exponential'")

    @property
    def name(self) -> str:
        return _at("NDCG", self.k) + (" (exponential gain)" if self.gain == "exponential" else "")

    def values(self, lists: Lists) -> Floats:
        top = lists.top(self.k)
        longest = int(lists.lengths.max(initial=0))
        discount = 1 / np.log2(np.arange(2, longest + 2))
        by_place = discount[top.rank]
        if lists.has_ties:
            gains = lists.expected(self._gain(lists.labels))[top.rows]
        else:
            gains = self._gain(lists.labels[top.rows])
        if lists.is_binary:
            reach = lists.relevant if self.k is None else np.minimum(lists.relevant, self.k)
            ideal = np.append([0.0], np.cumsum(discount))[reach.astype(np.int64)]
        else:
            ideal = top.sums(self._gain(lists.ideal_labels[top.rows]) * by_place)
        return _ratio(top.sums(gains * by_place), ideal)

    def _gain(self, labels: Floats) -> Floats:
        return labels if self.gain == "linear" else np.exp2(np.minimum(labels, 100)) - 1


@dataclass(frozen=True, kw_only=True)
class Recall(Measure):
    """Share of a list's relevant rows that are among the first k.

    Ideal: 1 only where there are at most k relevant rows. Discount: none. Ties: expected number of relevant rows.
    Undefined: lists without relevant rows. Range 0 to 1.
    """

    k: int = 10

    def __post_init__(self) -> None:
        _require_places(self.k)

    @property
    def name(self) -> str:
        return _at("Recall", self.k)

    def values(self, lists: Lists) -> Floats:
        return _ratio(_relevant_in_top(lists, self.k), lists.relevant)


@dataclass(frozen=True, kw_only=True)
class Precision(Measure):
    """Share of the first k places that are relevant.

    Divided by k also where the list is shorter (as TREC does). Ideal: min(relevant rows, k) / k. Discount: none. Ties:
    expected number of relevant rows. Undefined: lists without relevant rows (0 there under `undefined="zero"`).
    """

    k: int = 10

    def __post_init__(self) -> None:
        _require_places(self.k)

    @property
    def name(self) -> str:
        return _at("Precision", self.k)

    def values(self, lists: Lists) -> Floats:
        return np.where(lists.relevant > 0, _relevant_in_top(lists, self.k) / self.k, np.nan)


@dataclass(frozen=True, kw_only=True)
class HitRate(Measure):
    """Whether any of the first k places is relevant: 1 or 0, or the probability of it under ties.

    Ideal: 1. Discount: none. Ties: 1 - C(s - p, m) / C(s, m), when m of s tied rows, p of them relevant, fill the last
    places. Undefined: lists without relevant rows.
    """

    k: int = 10

    def __post_init__(self) -> None:
        _require_places(self.k)

    @property
    def name(self) -> str:
        return _at("HitRate", self.k)

    def values(self, lists: Lists) -> Floats:
        if not lists.has_ties:
            hit = (_relevant_in_top(lists, self.k) > 0).astype(np.float64)
            return np.where(lists.relevant > 0, hit, np.nan)
        groups = lists.groups
        last = groups.rank < np.minimum(lists.lengths, self.k)[groups.of_list]  # of these, the last one of each list is cut
        inside = np.flatnonzero(last)
        cut = inside[np.append(np.diff(groups.of_list[inside]) > 0, [True])]
        size, relevant = groups.sizes[cut], groups.relevant[cut].astype(np.int64)
        slots = np.minimum(np.minimum(lists.lengths, self.k) - groups.rank[cut], size)
        factorial = _log_factorials(int(groups.sizes.max()))
        rest = size - relevant
        possible = rest >= slots
        left = np.where(possible, rest - slots, 0)
        miss = np.where(possible, np.exp(factorial[rest] - factorial[left] - factorial[size] + factorial[size - slots]), 0.0)
        hit = np.where(groups.relevant_before[cut] > 0, 1.0, 1 - miss)
        return np.where(lists.relevant > 0, hit, np.nan)


@dataclass(frozen=True, kw_only=True)
class ReciprocalRank(Measure):
    """One over the place of the first relevant row; 0 where it lies beyond place k. Its mean is MRR.

    Ideal: 1. Discount: 1 / place. Ties: expected value; with p of s tied rows relevant, the first of them is the j-th with
    probability C(s - j, p - 1) / C(s, p). Undefined: lists without relevant rows.

    Args:
        k: Places, or None for the whole list.
    """

    k: int | None = 10

    def __post_init__(self) -> None:
        _require_places(self.k)

    @property
    def name(self) -> str:
        return _at("RR", self.k)

    def values(self, lists: Lists) -> Floats:
        found = np.full(len(lists.lengths), np.nan)
        reach = np.inf if self.k is None else self.k
        if not lists.has_ties:
            which = lists.list_of_relevant
            first = np.flatnonzero(np.append([True], which[1:] != which[:-1])[:len(which)])
            place = lists.relevant_rows[first] - lists.starts[which[first]] + 1
            found[which[first]] = np.where(place <= reach, 1 / place, 0.0)
            return found
        groups = lists.groups
        hold = np.flatnonzero(groups.relevant > 0)
        hold = hold[np.append([True], np.diff(groups.of_list[hold]) > 0)[:len(hold)]]  # the first such group of each list
        size, relevant, rank = groups.sizes[hold], groups.relevant[hold].astype(np.int64), groups.rank[hold]
        tries = np.minimum(size - relevant + 1, np.maximum(reach - rank, 0)).astype(np.int64)
        which = np.repeat(np.arange(len(hold)), tries)
        j = np.arange(len(which)) - np.repeat(np.cumsum(tries) - tries, tries) + 1
        s, p = size[which], relevant[which]
        f = _log_factorials(int(groups.sizes.max()))
        log_probability = (f[s - j] - f[p - 1] - f[s - j - p + 1]) - (f[s] - f[p] - f[s - p])
        found[groups.of_list[hold]] = np.bincount(which, np.exp(log_probability) / (rank[which] + j), minlength=len(hold))
        return found


@dataclass(frozen=True, kw_only=True)
class AveragePrecision(Measure):
    """Mean over a list's relevant rows of the precision at their place, 0 for those beyond place k. Its mean is MAP.

    Ideal: 1 where at most k rows are relevant. `over="relevant"` divides by the number of relevant rows (TREC, ranx,
    ir-measures), `over="achievable"` by min(that, k), so that 1 can always be reached (RecBole). torchmetrics divides by
    the relevant rows *found* among the first k, which rewards missing some. Ties: expected value; the i-th of s tied rows
    at place t + i, p of them relevant and r relevant above, adds p / s (r + 1 + (i - 1)(p - 1)/(s - 1)) / (t + i).
    Undefined: lists without relevant rows.

    Args:
        k: Places, or None for the whole list.
        over: The divisor.
    """

    k: int | None = 10
    over: Literal["relevant", "achievable"] = "relevant"

    def __post_init__(self) -> None:
        _require_places(self.k)
        if self.over not in ("relevant", "achievable"):
            raise UsageError(f"AveragePrecision: over is {self.over!r}", hint="choose 'relevant' or 'achievable'")

    @property
    def name(self) -> str:
        return _at("AP", self.k) + (" (achievable)" if self.over == "achievable" else "")

    def values(self, lists: Lists) -> Floats:
        top = lists.top(self.k)
        if lists.has_ties:
            groups = lists.groups
            group = (np.cumsum(~lists.ties) - 1)[top.rows]
            size, relevant = groups.sizes[group], groups.relevant[group]
            before = top.rank - groups.rank[group]
            partners = before * (relevant - 1) / np.maximum(size - 1, 1)
            found = relevant / size * (groups.relevant_before[group] + 1 + partners) / (top.rank + 1)
        else:
            hit = (lists.labels[top.rows] > 0).astype(np.float64)
            so_far = np.cumsum(hit)
            lengths = np.diff(np.append(top.starts, len(hit)))
            above = np.repeat((so_far - hit)[top.starts], lengths)
            found = hit * (so_far - above) / (top.rank + 1)
        reach = lists.relevant if self.over == "relevant" or self.k is None else np.minimum(lists.relevant, self.k)
        return _ratio(top.sums(found), reach)


def _relevant_in_top(lists: Lists, k: int) -> Floats:
    """Expected number of relevant rows among the first k, shape (lists,)."""
    if not lists.has_ties:
        rows, which = lists.relevant_rows, lists.list_of_relevant
        inside = rows - lists.starts[which] < k
        return np.bincount(which[inside], minlength=len(lists.lengths)).astype(np.float64)
    top = lists.top(k)
    return top.sums(lists.expected((lists.labels > 0).astype(np.float64))[top.rows])


def _ratio(part: Floats, whole: Floats) -> Floats:
    """The quotient, NaN where whole is 0."""
    out: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return out


def _log_factorials(largest: int) -> Floats:
    """Logarithms of 0! to largest!."""
    return np.append([0.0], np.cumsum(np.log(np.arange(1, largest + 1))))


def _at(name: str, k: int | None) -> str:
    return name if k is None else f"{name}@{k}"


def _require_places(k: int | None) -> None:
    if k is not None and k < 1:
        raise UsageError(f"k is {k}, expected at least 1 place", hint="k=10 judges the first ten rows of each list")
