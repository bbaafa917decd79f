"""Explanations scored beside others whose worth is known: what all questions about explanations share.

A measure is trusted on a model only where it puts what it must put first there: an explanation that looks at the model (ours, or the one measured by scores alone) surely above random numbers and
above the best explanation that is the same for all rows. Else the finding is UNKNOWN: the measure cannot tell here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recspect.diagnosis.diagnostic import Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, Evidence, RankedTable
from recspect.diagnosis.explanation_columns import (
    ALIKE,
    CONSTANT,
    GRADIENT,
    MEASURED,
    MOVED_SHARE,
    OURS,
    PREFIX,
    RANDOM,
    name_of,
)
from recspect.diagnosis.finding import Remedy
from recspect.diagnosis.stat import Bucketed, jackknife
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

CALLED = {OURS: "recspect's (integrated gradients)", ALIKE: "the same, from values of like frequency", MEASURED: "measured by scores alone", GRADIENT: "gradient x input", RANDOM: "random numbers", CONSTANT: "the same for every row"}

FAIL_SHARE, WARN_SHARE = 0.5, 0.8
"""Of what the measured explanation gains: half of it is a FAIL, four fifths a WARN."""

SOURCES = ("Nauta et al. 2023, From Anecdotal Evidence to Quantitative Evaluation Methods", "Kott 2001, The Delete-a-Group Jackknife (interval)")
CAUSES = ("the explanation is of other weights than the model's: of another checkpoint, or computed before the last update",
          "contributions stand beside the wrong fields: another order of columns", "the baseline is no row of these data, such as zeros for tables whose mean is far from 0")
REMEDIES = (Remedy(code="check_lookups", text="See how the model's lookups were told apart.", command="recspect doctor RUN"),
            Remedy(code="more_points", text="Integrate with more points, or with a tolerance instead of a fixed number."),
            Remedy(code="mean_baseline", text="Begin paths at the mean of the training rows."))


def stat_of(scope: Scope, measure: str, explainer: str = "") -> Bucketed:
    """Mean of a measure, in buckets of whole users."""
    return scope.bucketed(Moments(column=name_of(measure, explainer)))


def explainers(scope: Scope, measure: str) -> tuple[str, ...]:
    """Who was scored, the known ones first."""
    found = [column.removeprefix(f"{PREFIX}{measure}:") for column in scope.target if column.startswith(f"{PREFIX}{measure}:")]
    return (*(name for name in CALLED if name in found), *sorted(name for name in found if name not in CALLED))


def measured_explainers(target: Tally, scope: Scope, measure: str) -> tuple[str, ...]:
    """Who was scored and has a score: an explanation that a model does not allow has none. The explainers that a judgement needs stay, so that it says what is missing."""
    needed = (OURS, MEASURED, RANDOM, CONSTANT)
    return tuple(name for name in explainers(scope, measure) if name in needed or target.get_summary(stat_of(scope, measure, name)).total.count)


def require_explained(scope: Scope, *measures: str) -> None:
    """The measures are there.

    Raises:
        Unavailable: No model was explained, or it cannot be.
    """
    scope.require_target("@cluster")
    if not all(explainers(scope, measure) or name_of(measure) in scope.target for measure in measures):
        raise Unavailable("no explanations were measured", hint="examine a PyTorch model whose lookups can be told (recspect doctor), not only its scores")


def needs_of(scope: Scope, *measures: str) -> Needs:
    """The means of these measures, for everybody who was scored by them.

    Raises:
        Unavailable: No model was explained, or it cannot be.
    """
    require_explained(scope, *measures)
    return Needs.of(target=[stat_of(scope, measure, name) for measure in measures for name in explainers(scope, measure) or ("",)])


def cosines(target: Tally, scope: Scope, measure: str) -> dict[str, Estimate]:
    """The mean cosine that everybody who was scored has with another explanation of the same rows.

    Raises:
        Unavailable: It was measured on too few rows.
    """
    return {name: mean_of(target, scope, measure, name, unit="cosine") for name in explainers(scope, measure)}


def mean_of(target: Tally, scope: Scope, measure: str, explainer: str = "", *, unit: str) -> Estimate:
    """Mean of a measure over rows.

    Raises:
        Unavailable: It was measured on too few rows.
    """
    return combined(target, scope, [(measure, explainer)], lambda means: means[0], unit=unit)


def combined(target: Tally, scope: Scope, columns: Sequence[tuple[str, str]], value: Callable[[list[float]], float], *, unit: str) -> Estimate:
    """A function of several means with its interval; the same users are left out of all.

    Args:
        target, scope: What was added up.
        columns: (measure, explainer) of each mean.
        value: List of means to the number.
        unit: Of the number.

    Raises:
        Unavailable: Too few rows, or it is not finite.
    """
    summaries = [target.get_summary(stat_of(scope, measure, explainer)) for measure, explainer in columns]
    counts = [summary.total.count for summary in summaries]
    if not min(counts):
        raise Unavailable("this was not measured: the model does not allow it", hint="see the documentation of this finding")
    require_rows(min(counts), "the rows that were explained")
    return jackknife(summaries, lambda totals: float(value([total.mean for total in totals])), unit=unit, n=int(min(counts)))


def ratio(above: float, below: float) -> float:
    """NaN where nothing is below."""
    return above / below if below else float("nan")


def left_unexplained(means: Sequence[float]) -> float:
    """Of means of (gap, explained): the share of the score's differences that contributions leave."""
    return ratio(means[0], means[1])


def skill_of(means: Sequence[float]) -> float:
    """Of mean infidelities (of an explainer, of the best constant explanation): 1 is exact, 0 knows nothing of the row."""
    return 1 - ratio(means[0], means[1])


def moves_per_move(means: Sequence[float]) -> float:
    """Of means of (largest change of contributions, their length): how far they move, in moves of the row."""
    return ratio(means[0], means[1]) / MOVED_SHARE


def require_telling(gains: Sequence[tuple[Estimate, Estimate]], what: str) -> None:
    """The measure orders explanations right on this model.

    Args:
        gains: Of explanations that look at the model: by how much each is better than random, and than the constant one.
        what: The measure, in words.

    Raises:
        Unavailable: None is surely better than both.
    """
    if not any(one.surely_above(0.0) and other.surely_above(0.0) for one, other in gains):
        best = max((min(one.value, other.value) for one, other in gains), default=float("nan"))
        raise Unavailable(f"the measure cannot tell here: by {what}, no explanation that looks at this model is surely better than random numbers and than one that is the same for every row "
                          f"(the better one by {best:.3g}, on {gains[0][0].n if gains else 0:,} rows)", hint="give more rows; a model that hardly uses its fields cannot be explained")


def compared(estimates: dict[str, Estimate], *, title: str, unit: str, better: str) -> tuple[Evidence, ...]:
    """Bars and table of one measure for all explainers."""
    caption = f"{next(iter(estimates.values())).n:,} held-out rows, 95% intervals; {better} is better"
    called = {name: CALLED.get(name, name) for name in estimates}
    bars = Bars(title=title, unit=unit, names=tuple(called.values()), values=tuple(e.value for e in estimates.values()),
                low=tuple(e.value if e.low is None else e.low for e in estimates.values()), high=tuple(e.value if e.high is None else e.high for e in estimates.values()),
                highlighted=(called[OURS],) if OURS in called else (), caption=caption)
    return (bars, RankedTable(title=title, columns=("explanation", unit), rows=tuple((called[name], between(e)) for name, e in estimates.items()), caption=caption))
