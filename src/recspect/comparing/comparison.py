"""Two models on the same rows, as a report with a release decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from recspect.comparing.pairs import (
    CANDIDATE,
    CURRENT,
    UNITS,
    Figure,
    SliceGain,
    UserGains,
    figures,
    in_words,
    slice_gains,
    user_gains,
)
from recspect.comparing.release import BROKEN, DEFAULT, HOLDS, ReleaseDecision, ReleaseRule, decide_release
from recspect.comparing.roles import LEAST_CHANGE, Role, roles
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.policy import between, percent
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, Evidence, RankedTable, Reasons
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict
from recspect.diagnosis.multiplicity import FALSE_DISCOVERIES
from recspect.errors import DataError, Unavailable
from recspect.experimenting.deciding import Action
from recspect.schema import Kind, Schema

if TYPE_CHECKING:
    from recspect.diagnosis.subject import Subject

CODES: Mapping[str, str] = {
    "effects.model_figure": "Is the candidate better than the current model by this figure?",
    "effects.model_slices": "For whom is the candidate better, for whom worse?",
    "effects.model_fields": "Which fields changed their role?",
    "effects.release": "Ship the candidate, hold it, or wait for more data?",
}
SOURCES = ("Kott 2001, The Delete-a-Group Jackknife (the same users left out of both)", "Benjamini and Hochberg 1995")
SHOWN = 30


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came of it.

    Args:
        report: Findings and figures.
        decision: Ship, hold or needs data.
        figures: Every figure of both models.
        slices: Gains of slices, largest loss first.
        users: Who gains and who loses; None where users have too few rows.
        roles: Of every field; empty where a model cannot be looked into.
    """

    report: Report
    decision: ReleaseDecision
    figures: tuple[Figure, ...]
    slices: tuple[SliceGain, ...]
    users: UserGains | None
    roles: tuple[Role, ...]


def compare_scores(rows: Batch, schema: Schema, current: Any, candidate: Any, *, rules: Sequence[ReleaseRule] = (), found_roles: tuple[Role, ...] = (), names: tuple[str, str] = ("current", "candidate"),
                   title: str = "", provenance: Mapping[str, Any] | None = None) -> Comparison:
    """Compare two models by their scores of the same rows.

    Args:
        rows: Held out from both models, with the schema's label.
        schema: What the columns mean.
        current, candidate: Scores, shape (rows,) each; probabilities where the label is 0/1.
        rules: What a release asks for; `DEFAULT` where empty.
        found_roles: Roles of fields, where they were measured.
        names: Of the models.
        title, provenance: For the report.

    Raises:
        DataError: Scores that are missing, or no probabilities.
        Unavailable: Too few rows.
    """
    from recspect.examining.tables import labelled

    binary = schema.label.kind == "binary"
    scores = {CURRENT: np.asarray(current, np.float64), CANDIDATE: np.asarray(candidate, np.float64)}
    for column, name in zip(scores, names, strict=True):
        wrong = ~np.isfinite(scores[column]) | ((scores[column] < 0) | (scores[column] > 1) if binary else False)
        if wrong.any():
            raise DataError(f"{name} gives {int(wrong.sum()):,} of {rows.rows:,} rows a score that is missing{' or no probability' if binary else ''}", hint="scores of both models for every row")
    table = labelled(rows, schema).with_columns(scores)
    found = figures(table, binary=binary, users=schema.user is not None)
    fields = [field.name for field in schema.fields if field.kind is Kind.CATEGORICAL and field.name in rows and field.name not in (schema.user, schema.item, schema.request)]
    slices = slice_gains(table, fields, binary=binary)
    try:
        users = user_gains(table, binary=binary) if schema.user is not None else None
    except Unavailable:
        users = None
    numbers = _numbers(found, slices, users, table, binary=binary)
    decision = decide_release(tuple(rules) or DEFAULT["binary" if binary else "graded"], numbers)
    findings = [*(_figure(one, names) for one in found), _slices(slices, users, names), *_fields(found_roles), _release(decision, names)]
    report = Report(findings=tuple(findings), overview=_overview(found, slices, found_roles, names), title=title or f"{names[1]} against {names[0]}", provenance=dict(provenance or {}))
    return Comparison(report=report, decision=decision, figures=found, slices=slices, users=users, roles=found_roles)


def compare_models(current: Subject, candidate: Subject, rows: Batch, schema: Schema, *, baseline_rows: Any = None, say: Callable[[str], None] = lambda _: None, **options: Any) -> Comparison:
    """Compare two models that can be run: scores, and the roles of fields where both are torch models.

    Args:
        current, candidate: The models.
        rows: Rows held out from both.
        schema: What the columns mean.
        baseline_rows: Training rows, where paths of attributions begin.
        say: Told what is being done.
        options: As for `compare_scores`.
    """
    from recspect.diagnosis.subject import TorchSubject

    say("scoring")
    scores = [np.concatenate([np.asarray(subject.score(piece), np.float64) for piece in rows.pieces(65_536)]) for subject in (current, candidate)]
    found: tuple[Role, ...] = ()
    if isinstance(current, TorchSubject) and isinstance(candidate, TorchSubject):
        say("measuring what each model relies on")
        found = roles(current, candidate, rows, schema, baseline_rows=baseline_rows, say=say)
    return compare_scores(rows, schema, scores[0], scores[1], found_roles=found, **options)


def _numbers(found: Sequence[Figure], slices: Sequence[SliceGain], users: UserGains | None, table: Batch, *, binary: bool) -> dict[str, Estimate]:
    numbers = {one.name: one.gain for one in found}
    if slices:
        numbers["worst_slice"] = _worst(slices)
    if users is not None:
        numbers["users_worse"] = users.worse
    apart = _churn(table) if binary else None
    if apart is not None:
        numbers["churn"] = apart
    return numbers


def _relative(one: SliceGain, widened: float = 1.0) -> tuple[float, float, float]:
    """Relative gain of a slice and the ends of its interval."""
    reach = widened * (one.gain.error or 0.0) * (one.relative / one.gain.value if one.gain.value else 0.0)
    return one.relative, one.relative - abs(reach), one.relative + abs(reach)


def _worst(slices: Sequence[SliceGain]) -> Estimate:
    """The smallest relative gain of all slices. Its interval is that of a minimum: from the lowest lower end to the lowest upper end of intervals that hold together (Bonferroni)."""
    normal = NormalDist()
    ends = [_relative(one, normal.inv_cdf(1 - 0.025 / len(slices)) / normal.inv_cdf(0.975)) for one in slices]
    first = slices[int(np.argmin([low for _, low, _ in ends]))]
    return Estimate(value=min(value for value, _, _ in ends), low=min(low for _, low, _ in ends), high=min(high for _, _, high in ends), n=first.rows,
                    unit=f"smallest relative gain of {len(slices)} slices, least sure where {first.name}")


def _churn(table: Batch) -> Estimate | None:
    """Mean |p1 - p2| over the mean score, as the finding predictions.churn has it."""
    from recspect.diagnosis.diagnostics.predictions.churn import relative_difference, score_difference
    from recspect.diagnosis.stat import Bucketed

    summary = Bucketed(stat=score_difference(), by="@cluster").summarize(table)
    try:
        return summary.estimate(relative_difference, unit="mean |p1 - p2| over the mean score", n=lambda total: total.count)
    except Unavailable:
        return None


def _figure(one: Figure, names: tuple[str, str]) -> Finding:
    better, worse = one.gain.surely_above(0.0), one.gain.surely_below(0.0)
    word = "better" if better else "worse" if worse else "neither surely better nor worse"
    return Finding(
        code="effects.model_figure", verdict=Verdict.FAIL if worse else Verdict.PASS if better else Verdict.UNKNOWN, place=Place(kind="metric", name=one.name), estimate=one.gain,
        claim=f"{names[1]} is {word} by {one.name}: {in_words(one)}, a gain of {between(one.gain)} {UNITS[one.name]} ({one.gain.n:,} {one.gain.of}, p {one.p:.2g}).",
        threshold="FAIL when the whole interval is a loss, PASS when it is a gain" if better or worse else "more rows would tell", limit=0.0,
        meaning="The current model serves people better by this figure." if worse else "", sources=SOURCES)


def _slices(slices: Sequence[SliceGain], users: UserGains | None, names: tuple[str, str]) -> Finding:
    place = Place(kind="run")
    if not slices and users is None:
        return Finding(code="effects.model_slices", verdict=Verdict.UNKNOWN, place=place, claim="No field has two values with enough rows, and no users have five.", threshold="give more rows, or fields of few values")
    losing = [one for one in slices if one.gain.value < 0 and one.rate < FALSE_DISCOVERIES]
    gaining = [one for one in slices if one.gain.value > 0 and one.rate < FALSE_DISCOVERIES]
    claim = f"Of {len(slices)} slices {len(gaining)} surely gain and {len(losing)} surely lose by {names[1]}"
    if losing:
        claim += f"; most where {losing[0].name}: the loss rises by {percent(-losing[0].relative)} ({losing[0].rows:,} rows)"
    if gaining:
        claim += f"; the largest gain where {gaining[-1].name}: {percent(gaining[-1].relative)} ({gaining[-1].rows:,} rows)"
    if users is not None:
        claim += (f". Of {users.users:,} users with five rows {percent(users.better.value)} ({percent(users.better.low or 0.0)} to {percent(users.better.high or 0.0)}) gain and "
                  f"{percent(users.worse.value)} ({percent(users.worse.low or 0.0)} to {percent(users.worse.high or 0.0)}) lose")
    evidence: tuple[Evidence, ...] = (_slice_bars(slices, stage=""),) if slices else ()
    estimate = losing[0].gain if losing else users.worse if users is not None else slices[0].gain
    return Finding(code="effects.model_slices", verdict=Verdict.WARN if losing else Verdict.PASS, place=place, claim=f"{claim}.", estimate=estimate,
                   threshold=f"WARN when a slice loses and the rate of false discoveries over all slices is below {FALSE_DISCOVERIES}", meaning="The mean gain is paid for by some." if losing else "",
                   remedies=(Remedy(code="look_at_slices", text="Examine the candidate on the slices that lose: recspect diagnose RUN --slice FIELD=VALUE."),) if losing else (), evidence=evidence, sources=SOURCES)


def _fields(found: Sequence[Role]) -> list[Finding]:
    if not found:
        return [Finding(code="effects.model_fields", verdict=Verdict.UNKNOWN, claim="What each model relies on was not measured.", threshold="compare two runs, or two torch models, instead of scores")]
    changed = [role for role in found if role.changed]
    told = "; ".join(f"{role.field} {percent(role.current.value)} to {percent(role.candidate.value)}" for role in changed[:5])
    first = found[0]
    claim = (f"{len(changed)} of {len(found)} fields changed their role (share of what moves the score): {told}." if changed
             else f"No field changed its role; most did {first.field}, from {percent(first.current.value)} to {percent(first.candidate.value)} of what moves the score.")
    return [Finding(code="effects.model_fields", verdict=Verdict.WARN if changed else Verdict.PASS, claim=claim, estimate=(changed or [first])[0].change,
                    threshold=f"WARN when a field's share surely (rate of false discoveries below {FALSE_DISCOVERIES}) changes by {percent(LEAST_CHANGE, 0)} points or more", evidence=(_roles_table(found, ""),),
                    meaning="The candidate decides by other things than the current model; offline figures do not say whether these hold when serving." if changed else "")]


def _release(decision: ReleaseDecision, names: tuple[str, str]) -> Finding:
    verdict = decision.action.verdict
    said = [reason for reason, state in zip(decision.reasons, decision.states, strict=True) if (state == BROKEN if decision.action is Action.HOLD else state != HOLDS)] or list(decision.reasons)
    return Finding(code="effects.release", verdict=verdict, claim=f"{decision.action.capitalize()} {names[1]}: {'; '.join(said)}.",
                   threshold="all declared rules hold, by whole intervals" if verdict is not Verdict.UNKNOWN else "give more rows held out from both models", evidence=(Reasons(title=f"Why {decision.action}?", items=decision.reasons),))


def _overview(found: Sequence[Figure], slices: Sequence[SliceGain], found_roles: Sequence[Role], names: tuple[str, str]) -> tuple[Evidence, ...]:
    rows = tuple((one.name, one.current, one.candidate, one.gain.value, one.gain.low, one.gain.high, one.p, one.gain.n) for one in found)
    table = RankedTable(title="How do both models do on the same rows?", columns=("figure", names[0], names[1], "gain", "from", "to", "p", "n"), rows=rows, stage="effects",
                        caption="a gain above 0 is for the candidate, whatever the figure; 95% intervals that leave out the same users on both sides")
    return (table, *((_slice_bars(slices, stage="effects"),) if slices else ()), *((_roles_table(found_roles, "effects"),) if found_roles else ()))


def _slice_bars(slices: Sequence[SliceGain], *, stage: str) -> Bars:
    shown = [*slices[:SHOWN // 2], *slices[max(SHOWN // 2, len(slices) - SHOWN // 2):]]
    found = [_relative(one) for one in shown]
    return Bars(title="Who gains, who loses?", unit="% less loss than the current model", names=tuple(one.name for one in shown), values=tuple(100 * value for value, _, _ in found),
                low=tuple(100 * low for _, low, _ in found), high=tuple(100 * high for _, _, high in found), reference=0.0, stage=stage,
                highlighted=tuple(one.name for one in shown if one.gain.value < 0 and one.rate < FALSE_DISCOVERIES), caption=f"{len(slices)} slices with at least 100 rows; those farthest from 0")


def _roles_table(found: Sequence[Role], stage: str) -> RankedTable:
    return RankedTable(title="What does each model rely on?", columns=("field", "current", "candidate", "change", "from", "to", "adjusted p"), stage=stage,
                       rows=tuple((role.field, role.current.value, role.candidate.value, role.change.value, role.change.low, role.change.high, role.rate) for role in found),
                       caption=f"share of what moves the score; {found[0].change.n:,} rows")


__all__ = ["CODES", "Comparison", "compare_models", "compare_scores"]
