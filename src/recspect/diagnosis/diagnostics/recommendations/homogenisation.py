"""Do users' lists become more alike from one generation of the model, or stretch of time, to the next?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, plural
from recspect.diagnosis.diagnostics.recommendations.exposure import gini
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.jackknife import t_quantile
from recspect.diagnosis.stats.crosstab import sums_of_others
from recspect.diagnosis.stats.items_along import ROWS, ItemsAlong
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

Floats = NDArray[np.float64]
WARN, FAIL, UNEVEN = 0.1, 0.5, 0.05
LENGTH, BLOCKS, ENOUGH_ROWS, ENOUGH_BLOCKS, FEW_BUCKETS = 10, 16, 100, 3, 5
ITEMS, BUCKETS = 2048, 20
"""Items and buckets of users kept apart: with all blocks 80 MB when judged."""
JUDGED_BLOCKS, ALIKE = 6, 1.1
"""From so many blocks on, what these differ by among themselves widens the interval; Gini is judged where no block has so many times the places of another."""


class Homogenisation(Diagnostic):
    """Rise of the Jaccard overlap of two users' lists, relative to its mean, from the first to the last generation; and of the Gini of exposure.

    P = chance that a place of one user and a place of another hold the same item, over pairs of users in different buckets: it does not depend on how much
    users are shown. Two lists of k places then share k^2 P items, and J = k P / (2 - k P) is the Jaccard overlap of that.

    Args:
        along: A column that orders the rows, such as the generation of the model. Default: the generation of lists, else the time.
    """

    code = "recommendations.homogenisation"
    question = "Do users' lists become more alike from one generation or stretch of time to the next?"
    sources = ("Chaney et al. 2018, How Algorithmic Confounding in Recommendation Systems Increases Homogeneity and Decreases Utility",
               "Mansoury et al. 2020, Feedback Loop and Bias Amplification in Recommender Systems")

    def __init__(self, along: str | None = None) -> None:
        self.along = along

    def needs(self, scope: Scope) -> Needs:
        """Places of each item by generation and bucket of users: of lists, else of the training rows, else of the held-out rows."""
        stat, trained = self._stat(scope)
        return Needs.of(target=[] if trained else [stat], reference=[stat] if trained else [])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding."""
        stat, trained = self._stat(scope)
        summary = (reference if trained else target).get_summary(stat)
        places, grid = summary.grid(stat.buckets)
        cells = grid[..., ROWS].transpose(2, 0, 1)  # blocks, buckets, items
        enough = cells.sum((1, 2)) >= ENOUGH_ROWS
        places, cells = places[enough], cells[enough]
        if len(places) < ENOUGH_BLOCKS:
            raise Unavailable(f"only {plural(len(places), 'generation or stretch', 'generations or stretches')} of time have {ENOUGH_ROWS} rows; {ENOUGH_BLOCKS} are needed",
                              hint="give lists of several generations (a column 'generation'), or the log of a longer time")
        if (cells.sum((0, 2)) > 0).sum() < FEW_BUCKETS:
            raise Unavailable("there are too few users", hint="give the rows of more users")
        x = (places - places[0]).astype(np.float64)
        overlap, unevenness = _overlap(cells), np.array([gini(block.sum(0)) for block in cells])
        held = cells.sum((0, 2)) > 0
        without = sums_of_others(cells.transpose(1, 0, 2))[held]  # buckets, blocks, items
        n = int(cells.sum())
        rise = _rise(x, overlap, np.array([_overlap(np.delete(cells, bucket, axis=1)) for bucket in np.flatnonzero(held)]), n, relative=True)
        uneven = _rise(x, unevenness, np.array([[gini(block) for block in left] for left in without]), n, relative=False)
        sizes = cells.sum((1, 2))
        judged = bool(sizes.max() <= ALIKE * sizes.min())
        verdict = Verdict.FAIL if rise.surely_above(FAIL) else Verdict.WARN if rise.surely_above(WARN) or (judged and uneven.surely_above(UNEVEN)) else Verdict.PASS
        by_gini = verdict is Verdict.WARN and not rise.surely_above(WARN)
        what = "stretches of time" if stat.along == scope.schema.time else "generations"
        numbers = (f"over {len(x)} {what} the overlap of two users' lists of {LENGTH} went from {number(float(overlap[0]), 3)} to {number(float(overlap[-1]), 3)} (Jaccard; rise of "
                   f"{between(rise, 2)} of its mean), the Gini of exposure from {number(float(unevenness[0]), 3)} to {number(float(unevenness[-1]), 3)}"
                   f"{'' if judged else ' (not judged: they differ in size)'} ({n:,} places{', a sample of items' if summary.truncated else ''})")
        yield Finding(
            code=self.code, verdict=verdict, estimate=uneven if by_gini else rise, limit=UNEVEN if by_gini else FAIL if verdict is Verdict.FAIL else WARN, sources=self.sources,
            claim=f"{'Users are not shown more alike as time goes on' if verdict is Verdict.PASS else 'Users are shown more and more the same'}: {numbers}.",
            threshold=f"FAIL when the overlap surely rises by more than {FAIL} of its mean, WARN when by more than {WARN}, or when the Gini of blocks of equal size surely rises by more than {UNEVEN}",
            meaning="A model that learns from what it showed before narrows what it can learn next: users get the same, and the tail is forgotten.",
            causes=("the model is trained on its own lists without correction or exploration", "popularity is a field or a prior that each training raises",
                    "the catalogue or the mix of users changed"),
            remedies=(Remedy(code="explore", text="Show a share of random items and learn from these with their propensity."),
                      Remedy(code="correct_sampling", text="Weigh training rows by the inverse of how often an item was shown."),
                      Remedy(code="rerank_diverse", text="Re-rank with a bound on how often an item is shown.")),
            evidence=(Curve(title="Do users' lists become more alike?", x_title=what if not stat.along.startswith("@list") else "generation", y_title="Jaccard overlap, Gini",
                            lines=(Line(name=f"overlap of two lists of {LENGTH}", x=tuple(x.tolist()), y=tuple(overlap.tolist())),
                                   Line(name="Gini of exposure", x=tuple(x.tolist()), y=tuple(unevenness.tolist()), role="reference")), caption=f"{n:,} places"),))

    def _stat(self, scope: Scope) -> tuple[ItemsAlong, bool]:
        """The stat, and whether it is taken over the training rows."""
        if self.along is None and {"@list:generation", "@list:item", "@list:user"} <= scope.target:
            return ItemsAlong(item="@list:item", along="@list:generation", cluster="@list:user", places=BLOCKS, capacity=ITEMS, buckets=BUCKETS), False
        along, item, time = self.along or scope.require_role("time"), scope.require_role("item"), scope.schema.time
        columns = {item, along, "@cluster"}
        trained = columns <= scope.reference
        if not trained:
            scope.require_target(*sorted(columns))
        if scope.schema.user is None:
            raise Unavailable("no column has the role 'user'", hint="name one in the schema")
        unit = scope.schema.time_unit if along == time else None
        return ItemsAlong(item=item, along=along, time_unit=unit, width=3600.0 if along == time and unit != "row" else 1.0, places=BLOCKS, capacity=ITEMS, buckets=BUCKETS), trained


def _overlap(cells: Floats) -> Floats:
    """Jaccard overlap per block from places by block, bucket of users and item: pairs of users in different buckets."""
    same = np.square(cells.sum(1)).sum(1) - np.square(cells).sum((1, 2))
    pairs = np.square(cells.sum((1, 2))) - np.square(cells.sum(2)).sum(1)
    shared = np.clip(LENGTH * same / np.maximum(pairs, 1e-12), 0.0, 1.0)
    return np.asarray(shared / (2 - shared))


def _rise(x: Floats, y: Floats, replicas: Floats, n: int, *, relative: bool) -> Estimate:
    """Slope of the line through y times the span, over the mean of y where `relative`; the larger of two variances: users, and what blocks differ by.

    Shapes: y (blocks,), replicas (buckets, blocks).
    """
    centred = x - x.mean()

    def of(values: Floats) -> Floats:
        rise = values @ centred / np.square(centred).sum() * (x[-1] - x[0])
        return np.asarray(rise / np.maximum(values.mean(-1), 1e-12) if relative else rise)

    value, each, groups, blocks = float(of(y)), of(replicas), len(replicas), len(x)
    reach = t_quantile(0.95, groups - 1) * float(np.sqrt((groups - 1) / groups * np.square(each - each.mean()).sum()))
    if blocks >= JUDGED_BLOCKS:
        noise = np.square(np.diff(y, 2)).sum() / (6 * (blocks - 2))  # variance of a block, from second differences: a bend is no noise
        error = float(np.sqrt(noise / np.square(centred).sum())) * (x[-1] - x[0]) / (max(float(y.mean()), 1e-12) if relative else 1.0)
        reach = max(reach, t_quantile(0.95, blocks - 2) * error)
    return Estimate(value=value, low=value - reach, high=value + reach, unit="rise of the overlap / its mean" if relative else "rise of Gini", n=n, of="places")
