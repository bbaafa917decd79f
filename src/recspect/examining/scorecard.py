"""The interpretability scorecard: how far a model can be seen through, explained, checked and understood, by proxies that can be measured.

Four aspects, each with its own figures and their intervals. They are never added up: a model that is easy to explain and wrongly explained is not half good. Beside ours stand what random numbers and the
best constant explanation reach on the same rows, and a proxy of explanations that does not put ours above both is marked, and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.explanations.scored import (
    combined,
    left_unexplained,
    mean_of,
    measured_explainers,
    moves_per_move,
    ratio,
    skill_of,
    stat_of,
)
from recspect.diagnosis.diagnostics.policy import between, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.explanation_columns import CONSTANT, OURS, PREFIX, RANDOM
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stat import jackknife
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Key, Tally
from recspect.errors import Unavailable
from recspect.examining.sampling import all_rows, scope_over
from recspect.examining.tables import sample_of, standard_probes
from recspect.schema import Schema

if TYPE_CHECKING:
    from recspect.diagnosis.probes.faithfulness import Explain
    from recspect.diagnosis.subject import TorchSubject

ASPECTS = ("transparency", "explainability", "verifiability", "user-friendliness")
NOT_MEASURED = ("completeness of model cards and data sheets", "answers and time of people on tasks with planted faults", "how much a student learns from explanations (simulatability)")
"""What belongs to the aspects and cannot be had from a model and rows; the caption names it."""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """One figure of one aspect.

    Args:
        aspect: One of `ASPECTS`.
        name: What it says, with its unit.
        better: `more` or `less`.
        value: Of our explanations, or of the model; None where it could not be measured.
        others: What other explainers reach, by name; empty for figures of the model.
        reason: Why there is no value, or why it does not count.
    """

    aspect: str
    name: str
    better: str
    value: Estimate | None
    others: dict[str, Estimate]
    reason: str = ""

    @property
    def tells(self) -> bool:
        """Whether ours is surely better than random numbers and the constant explanation, where the figure is of explanations."""
        return self.value is not None and not self.reason


@dataclass(frozen=True)
class Scorecard:
    """All figures, by aspect; what is shown of explanations is compared on the same rows, so intervals may overlap where one is surely better."""

    proxies: tuple[Proxy, ...]

    def of(self, aspect: str) -> tuple[Proxy, ...]:
        """The figures of one aspect."""
        return tuple(proxy for proxy in self.proxies if proxy.aspect == aspect)

    def table(self) -> RankedTable:
        """The scorecard as data to draw."""
        rows = tuple((proxy.aspect, proxy.name, proxy.better, "not measured" if proxy.value is None else between(proxy.value), *(between(proxy.others[name]) if name in proxy.others else None for name in (RANDOM, CONSTANT)),
                      "yes" if proxy.tells else f"no: {proxy.reason}") for proxy in self.proxies)
        n = max((proxy.value.n for proxy in self.proxies if proxy.value is not None), default=0)
        return RankedTable(title="How far can this model be explained?", columns=("aspect", "figure", "better", "ours", "random numbers", "the same for every row", "tells"), rows=rows,
                           caption=f"{n:,} held-out rows, 95% intervals over users; the four aspects are not averaged; not measured here: {', '.join(NOT_MEASURED)}")


def scorecard(subject: TorchSubject, table: Any, schema: Schema, *, pool: Any = None, explain: Explain | None = None, others: dict[str, Explain] | None = None, rows: int = 256,
              buckets: int = 50, seed: int = 0) -> Scorecard:
    """The scorecard of a model on some rows.

    Args:
        subject: The model.
        table: Rows to judge by, held out from training; anything that `read` takes.
        schema: What the columns mean.
        pool: Rows that baselines and exchanged values come from, usually training rows; default the table.
        explain: The explanation to be judged; default integrated gradients.
        others: More explainers to score beside it, such as the true one of a world.
        rows: A random sample of at most so many is explained.
        buckets: Of users, for intervals.
        seed: Of all draws.

    Raises:
        SubjectError, DataError: The model and the table do not fit together.
    """
    from recspect.diagnosis.probes.explanation_quality import ExplanationQualityProbe

    everything = all_rows(table)
    sample = sample_of(everything, rows, seed=seed)
    own = standard_probes(schema, list(sample), score_from_table=False)
    subject.sites(sample)
    probe = ExplanationQualityProbe(subject, pool=sample_of(everything if pool is None else all_rows(pool), 4096, seed=seed), explain=explain, others=others, seed=seed)
    scope = scope_over(schema, sample, [*own, probe], fields=subject.sites().fields, buckets=buckets)
    return scorecard_of(tally(read(sample), scorecard_needs(scope), probes=[*own, probe], rows=max(1, sample.rows)), scope)


def scorecard_needs(scope: Scope) -> tuple[Key, ...]:
    """Totals that the scorecard reads, where explanations were scored."""
    return tuple((ALL, scope.bucketed(Moments(column=column))) for column in sorted(scope.target) if column.startswith(PREFIX) and "@cluster" in scope.target)


def scorecard_of(target: Tally, scope: Scope) -> Scorecard:
    """The scorecard from totals.

    Raises:
        Unavailable: No explanations were scored.
    """
    if f"{PREFIX}gap:{OURS}" not in scope.target or not target.has(stat_of(scope, "gap", OURS)):
        raise Unavailable("no explanations were scored")

    transparent = [_model("transparency", name, better, one) for name, better, one in (
        ("share of the logit's variance that fields explain one by one", "more", lambda: _explained(target, scope, "left_alone")),
        ("share that fields and pairs of fields explain", "more", lambda: _explained(target, scope, "left_pairs")),
        ("fields that count in a row (effective number)", "less", lambda: mean_of(target, scope, "effective", OURS, unit="fields")))]
    scored = [_explanation(target, scope, figure) for figure in _FIGURES]
    friendly = [_model("user-friendliness", "fields that hold 80% of an explanation", "less", lambda: mean_of(target, scope, "needed", OURS, unit="fields"))]
    return Scorecard((*transparent, *scored, *friendly))


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A figure of explanations: a function of means of measures, one of them the explainer's own.

    Args:
        aspect, name, better: As of `Proxy`.
        measures: Of the explainer.
        beside: Further (measure, explainer) that are the same for all.
        value: Means in that order to the figure.
    """

    aspect: str
    name: str
    better: str
    measures: tuple[str, ...]
    beside: tuple[tuple[str, str], ...] = ()
    value: Callable[[list[float]], float] = lambda means: means[0]

    def columns(self, explainer: str) -> list[tuple[str, str]]:
        return [*((measure, explainer) for measure in self.measures), *self.beside]


_FIGURES = (
    _Figure(aspect="explainability", name="completeness: share of the score left unexplained", better="less", measures=("gap",), beside=(("explained", ""),), value=left_unexplained),
    _Figure(aspect="explainability", name="infidelity: skill against the best constant explanation", better="more", measures=("infidelity",), beside=(("infidelity", CONSTANT),),
            value=skill_of),
    _Figure(aspect="explainability", name="deletion: mean fall of the score (logits)", better="more", measures=("deletion",)),
    _Figure(aspect="explainability", name="insertion: mean rise of the score (logits)", better="more", measures=("insertion",)),
    _Figure(aspect="explainability", name="likeness with what scores alone measure (cosine)", better="more", measures=("measured",)),
    _Figure(aspect="verifiability", name="claims that hold when tried: direction of the first three fields (share)", better="more", measures=("claims",)),
    _Figure(aspect="verifiability", name="likeness from other baselines (cosine)", better="more", measures=("baselines",)),
    _Figure(aspect="verifiability", name="likeness with random weights (cosine)", better="less", measures=("randomised",)),
    _Figure(aspect="verifiability", name="sensitivity: moves of the explanation per move of the row", better="less", measures=("moved", "length"), value=moves_per_move),
)


def _model(aspect: str, name: str, better: str, value: Callable[[], Estimate]) -> Proxy:
    try:
        return Proxy(aspect=aspect, name=name, better=better, value=value(), others={})
    except Unavailable as reason:
        return Proxy(aspect=aspect, name=name, better=better, value=None, others={}, reason=reason.reason)


def _explanation(target: Tally, scope: Scope, figure: _Figure) -> Proxy:
    sign = 1.0 if figure.better == "more" else -1.0
    known = {"aspect": figure.aspect, "name": figure.name, "better": figure.better}
    try:
        found = {name: combined(target, scope, figure.columns(name), figure.value, unit=figure.name) for name in measured_explainers(target, scope, figure.measures[0])}
        passing = []
        for other in (RANDOM, CONSTANT):
            if other not in found:
                continue
            size = len(figure.columns(other))
            gain = combined(target, scope, [*figure.columns(OURS), *figure.columns(other)], lambda m, size=size: sign * (figure.value(m[:size]) - figure.value(m[size:])), unit=figure.name)  # type: ignore[misc]
            if not gain.surely_above(0.0):
                passing.append(other)
    except Unavailable as reason:
        return Proxy(**known, value=None, others={}, reason=reason.reason)
    ours = found.pop(OURS)
    return Proxy(**known, value=ours, others=found, reason=f"not surely better than {' and '.join(passing)}" if passing else "")


def _explained(target: Tally, scope: Scope, left: str) -> Estimate:
    """1 - variance of what is left of the logit / variance of the logit; below 0 where single fields say more than they do together.

    Raises:
        Unavailable: All scores are equal, or too few rows.
    """
    summaries = [target.get_summary(stat_of(scope, measure)) for measure in (left, "score")]
    require_rows(summaries[1].total.count, "the rows that were explained")
    return jackknife(summaries, lambda totals: 1 - ratio(totals[0].variance, totals[1].variance), unit="share of variance", n=int(summaries[1].total.count))


__all__ = ["ASPECTS", "NOT_MEASURED", "Proxy", "Scorecard", "scorecard", "scorecard_needs", "scorecard_of"]
