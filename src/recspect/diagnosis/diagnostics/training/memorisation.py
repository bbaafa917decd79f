"""Whether the model fits its training rows the better, the rarer their user or item is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, percent, require_classes, verdict_above
from recspect.diagnosis.diagnostics.training.strangers import STRANGERS, THRESHOLD, share_of_strangers, user_counts
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import estimate_from
from recspect.diagnosis.stats.outcomes import LOSS, POSITIVE, ROWS, Outcomes, OutcomesSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

Floats = NDArray[np.float64]
FAIL, WARN = 0.10, 0.05
GROUPS, FEWEST_GROUPS = 10, 3
ENOUGH, OF_A_CLASS = 200, 30
SMALLEST_SPAN = float(np.log(2))
KEPT = 4096


@dataclass(frozen=True, kw_only=True)
class _Tilt:
    """How the gap goes with frequency.

    Args:
        often: Mean ln(training rows of the id) of each group, ascending, shape (groups,).
        held_out, train: Normalised entropy of each group on either side, shape (groups,).
        slope: Of the gap, held-out less training, over `often`.
        extra: What the line says the gap of the rarest group is above that of the most frequent one.
    """

    often: Floats
    held_out: Floats
    train: Floats
    slope: float
    extra: Estimate


class Memorisation(Diagnostic):
    """Does the model know the training rows of rare ids by heart?

    Ids that are on both sides in groups d by their training rows f; gap(d) = NE(held-out) - NE(training), and a line of gap over ln f. Judged
    is what the line falls by from the rarest to the most frequent group. A held-out side that is harder for all ids alike moves the gap, not the line. Items are chosen by
    people, though: where training rows of rare items are those of users who are well known and the held-out users are strangers, rare items have the larger gap whatever was learned of them.
    """

    code = "training.memorisation"
    question = "Does the model know the training rows of rare users and items by heart?"
    sources = ("Zhang et al. 2022, Towards Understanding the Overfitting Phenomenon of Deep Click-Through Rate Models (rare ids)",
               "He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook (normalised entropy)", "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        """Outcomes per user and per item on both sides."""
        scope.require_binary()
        columns = ("@score", "@label", "@cluster")
        scope.require_target(*columns)
        scope.require_reference(*columns)
        ids = _columns(scope)
        if not ids:
            raise Unavailable("no column has the role 'user' or 'item' on both sides", hint="name one in the schema")
        return Needs.of(both=[*(_outcomes(name, scope) for _, name in ids), *user_counts(scope)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        """One finding for users, one for items; of the two, one that cannot be told stays silent where the other can."""
        found, reasons = [], []
        strangers = share_of_strangers(target, reference, scope)
        for role, name in _columns(scope):
            stat = _outcomes(name, scope)
            try:
                found.append(self._finding(role, name, _tilt(target.get_summary(stat), reference.get_summary(stat), role), strangers))
            except Unavailable as reason:
                reasons.append(reason)
        if not found:
            raise reasons[0]
        yield from found

    def _finding(self, role: str, column: str, tilt: _Tilt, strangers: float) -> Finding:
        extra, gap, often = tilt.extra, tilt.held_out - tilt.train, np.exp(tilt.often)
        verdict, note = verdict_above(extra, fail=FAIL, warn=WARN), ""
        if verdict is Verdict.FAIL and role == "item" and strangers > STRANGERS:
            verdict = Verdict.WARN
            note = f" {percent(strangers)} of the held-out rows are of users that training never saw, so this may be who chooses rare items as much as what was learned of them."
        ends = (f"{role}s with about {number(often[0], 0)} training rows have normalised entropy {tilt.train[0]:.3f} on training and {tilt.held_out[0]:.3f} on held-out rows, "
                f"those with about {number(often[-1], 0)} have {tilt.train[-1]:.3f} and {tilt.held_out[-1]:.3f}")
        line = f"along the line over ln(training rows), slope {tilt.slope:.3f}, the gap of the rarest is larger by {between(extra, 3)} ({extra.n:,} held-out rows)"
        start = f"Rare {role}s are fitted about as honestly as frequent ones" if verdict is Verdict.PASS else f"The model knows training rows of rare {role}s by heart"
        points = tuple(float(x) for x in tilt.often)
        fitted = gap.mean() + tilt.slope * (tilt.often - tilt.often.mean())
        curve = Curve(title=f"How does the gap between held-out and training rows go with how often training saw the {role}?",
                      x_title=f"ln(training rows of the {role})", y_title="normalised entropy, held-out less training",
                      lines=(Line(name="measured", x=points, y=tuple(gap.tolist())), Line(name="line", x=points, y=tuple(fitted.tolist()), role="reference")),
                      caption=f"{extra.n:,} held-out rows in {len(points)} groups of {role}s that are on both sides")
        return Finding(
            code=self.code, verdict=verdict, place=Place(kind="field", name=column), claim=f"{start}: {ends}; {line}.{note}", estimate=extra,
            limit=FAIL if verdict is Verdict.FAIL else WARN,
            threshold=f"FAIL when the extra gap is surely above {FAIL:.2f} normalised entropy; WARN when its value is, or when it is surely above {WARN:.2f}; of items {THRESHOLD}",
            meaning="An embedding that only few rows train can hold those rows' outcomes themselves: worth nothing on new rows, and it can give away what a person did.",
            causes=("several epochs over the same rows (see training.one_epoch)", "a fast optimiser or a high rate on the embeddings", "wide embeddings for ids with few rows"),
            remedies=(Remedy(code="stop_after_one_epoch", text="Train for one epoch."),
                      Remedy(code="raise_minimum_count", text="Let rare ids share one embedding (minimum_count)."),
                      Remedy(code="raise_embedding_decay", text="Add weight decay to the embeddings only, or narrow them.")),
            evidence=(curve,), sources=self.sources)


def _columns(scope: Scope) -> list[tuple[str, str]]:
    roles = (("user", scope.schema.user), ("item", scope.schema.item))
    return [(role, name) for role, name in roles if name is not None and name in scope.target and name in scope.reference]


def _outcomes(column: str, scope: Scope) -> Outcomes:
    return Outcomes(over=(column,), buckets=scope.buckets, capacity=KEPT)


def _tilt(held_out: OutcomesSummary, train: OutcomesSummary, role: str) -> _Tilt:
    """The line through the gaps of groups with about equal numbers of held-out rows, rarest first.

    Raises:
        Unavailable: Too few rows or groups, or all ids are about equally frequent.
    """
    for side, summary in (("the held-out rows", held_out), ("the training rows", train)):
        require_classes(summary.total[:, POSITIVE].sum(), summary.total[:, ROWS].sum(), side)
    place = {name: i for i, name in enumerate(train.names)}
    both = [(i, place[name]) for i, name in enumerate(held_out.names) if name and name in place]
    if not both:
        raise Unavailable(f"no {role} is on both sides", hint="held-out rows of ids that training has are needed")
    new, old = held_out.sums[[i for i, _ in both]], train.sums[[i for _, i in both]]
    often, rows = old[:, :, ROWS].sum(1), new[:, :, ROWS].sum(1)
    positive = new[:, :, POSITIVE].sum()
    groups = int(min(GROUPS, rows.sum() // ENOUGH, min(positive, rows.sum() - positive) // OF_A_CLASS))
    order = np.argsort(often, kind="stable")
    middle = np.cumsum(rows[order]) - rows[order] / 2
    which = np.minimum((middle / max(rows.sum(), 1) * max(groups, 1)).astype(int), max(groups, 1) - 1)
    members = [order[which == g] for g in np.unique(which)]
    sides = np.array([[side[mine].sum(0) for mine in members] for side in (new, old)])
    enough = [_is_enough(sides[0, g]) and _is_enough(sides[1, g]) for g in range(len(members))]
    x = np.array([np.average(np.log(often[mine]), weights=rows[mine]) for mine in members])[enough]
    if len(x) < FEWEST_GROUPS or np.ptp(x) < SMALLEST_SPAN:
        raise Unavailable(f"{role}s cannot be told apart by how often training saw them: {len(x)} groups with {ENOUGH} rows and {OF_A_CLASS} of each class on both sides"
                          + (f", seen about {number(np.exp(x[0]), 0)} to {number(np.exp(x[-1]), 0)} times" if len(x) else ""),
                          hint=f"{FEWEST_GROUPS} groups, the most frequent seen at least twice as often as the rarest, are needed: give more rows")
    parts = sides[:, enough]
    weight = parts[0, :, :, ROWS].sum(1)
    whole = parts.sum(2)
    point = _slope(whole, x, weight)
    replicas = np.array([_slope(whole - parts[:, :, b], x, weight) for b in range(parts.shape[2]) if parts[:, :, b, ROWS].any()])
    span = float(-np.ptp(x))
    extra = estimate_from(point * span, replicas * span, unit="normalised entropy, extra gap of the rarest", n=int(weight.sum()))
    held_out_entropy, train_entropy = _entropy(whole)
    return _Tilt(often=x, held_out=held_out_entropy, train=train_entropy, slope=point, extra=extra)


def _is_enough(sums: Floats) -> bool:
    rows, positive = float(sums[:, ROWS].sum()), float(sums[:, POSITIVE].sum())
    return rows >= ENOUGH and min(positive, rows - positive) >= OF_A_CLASS


def _slope(sums: Floats, x: Floats, weight: Floats) -> float:
    """Least squares slope of NE(held-out) - NE(training) over x; sums of shape (2, groups, 5)."""
    held_out, train = _entropy(sums)
    off = weight * (x - np.average(x, weights=weight))
    return float(off @ (held_out - train) / (off @ x))


def _entropy(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        b = sums[..., POSITIVE] / sums[..., ROWS]
        found: Floats = sums[..., LOSS] / sums[..., ROWS] / -(b * np.log(b) + (1 - b) * np.log(1 - b))
    return found
