"""What came of an optimisation, as a report: one finding per remedy that was tried, before and after, and the chain of what was accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recspect.diagnosis.evidence import Bars, Evidence, RankedTable, Reasons
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict
from recspect.optimising.judging import Judgement, Outcome, between
from recspect.optimising.proving import Trial
from recspect.optimising.remedy import Proposal

if TYPE_CHECKING:
    from recspect.optimising.optimiser import Optimised

CODES: Mapping[str, str] = {
    "effects.remedy": "Did the remedy help, on rows that nothing was decided on before?",
    "effects.instruction": "What is left for a person to do?",
}
"""Codes of findings about remedies, and their questions."""
_VERDICTS = {Outcome.ACCEPTED: Verdict.PASS, Outcome.REJECTED: Verdict.WARN, Outcome.UNDECIDED: Verdict.UNKNOWN}


def report_of(done: Optimised, *, origin: str, rows: Mapping[str, int], seeds: Sequence[int]) -> Report:
    """The report of an optimisation."""
    findings = [*(_tried(trial) for trial in done.trials), *(_to_do(proposal) for proposal in done.instructions)]
    return Report(findings=tuple(findings), overview=_overview(done), title=f"Remedies for {origin or 'a model'}",
                  provenance={"of": origin, "status": done.status, "rows": dict(rows), "seeds": list(seeds), "accepted": [trial.proposal.code for trial in done.accepted],
                              "recipe": done.recipe.to_mapping()})


def name_of(proposal: Proposal) -> str:
    """Such as `drop_field colour`."""
    return f"{proposal.code} {proposal.place}".strip()


def _tried(trial: Trial) -> Finding:
    place, judged = Place(kind="arm", name=name_of(trial.proposal)), trial.judgement
    if judged is None:
        return Finding(code="effects.remedy", verdict=Verdict.UNKNOWN, place=place, claim=f"{trial.proposal.prepared.text} It could not be judged: {trial.trouble}", threshold="a training that ends")
    return Finding(
        code="effects.remedy", verdict=_VERDICTS[judged.outcome], place=place, estimate=judged.gain,
        claim=f"{judged.outcome.capitalize()}: {judged.reasons[0]}. {trial.proposal.prepared.text}",
        threshold=f"accepted when the target is healthy in 80% of the trainings and not with the placebo, quality allows it and nothing guarded gets surely worse; "
                  f"intervals at {100 * judged.use.level:.2f}%, as this is use {judged.use.number} of these rows",
        meaning=f"It answers: {trial.proposal.why}", limit=0.0, remedies=(Remedy(code=trial.proposal.code, text=trial.proposal.prepared.text),),
        evidence=(Reasons(title=f"Why is it {judged.outcome}?", items=judged.reasons), *(_figures(judged, trial.placebo),)),
        sources=tuple(filter(None, (trial.proposal.kind.source, "Kott 2001, The Delete-a-Group Jackknife"))))


def _figures(judged: Judgement, placebo: Judgement | None) -> RankedTable:
    of_placebo = {figure.name: figure.gain for figure in placebo.figures} if placebo is not None else {}
    rows = tuple((one.name, one.before, one.after, one.gain.value, one.gain.low, one.gain.high, of_placebo[one.name].value if one.name in of_placebo else None) for one in judged.figures)
    return RankedTable(title="What are the figures before and after?", columns=("figure", "before", "after", "gain", "from", "to", "gain of the placebo"), rows=rows,
                       caption=f"means over the pairs of trainings; {judged.gain.n:,} rows; a gain above 0 is better whatever the figure")


def _to_do(proposal: Proposal) -> Finding:
    return Finding(code="effects.instruction", verdict=Verdict.UNKNOWN, place=Place(kind="arm", name=name_of(proposal)), claim=f"By hand: {proposal.prepared.text}", meaning=f"It answers: {proposal.why}",
                   threshold="it changes something that we do not train", remedies=(Remedy(code=proposal.code, text=proposal.prepared.text),), sources=tuple(filter(None, (proposal.kind.source,))))


def _overview(done: Optimised) -> tuple[Evidence, ...]:
    judged = [(name_of(trial.proposal), trial, trial.judgement) for trial in done.trials if trial.judgement is not None]
    if not judged:
        return (Reasons(title="What was tried?", items=("Nothing: no finding has a remedy that can be applied to this training.",), stage="effects"),)
    table = RankedTable(title="Which remedies were tried, and what came of them?", columns=("remedy", "outcome", "healthy before", "healthy after", "quality before", "quality after", "gain", "use of the rows"),
                        rows=tuple(_row(name, one) for name, _, one in judged), stage="effects", caption="quality is normalised entropy (lower is better), on rows that nothing was decided on before")
    names, values, low, high, group = [], [], [], [], []
    for name, trial, one in judged:
        for series, of in (("remedy", one), *((("placebo", trial.placebo),) if trial.placebo is not None else ())):
            names.append(name)
            values.append(of.gain.value)
            low.append(of.gain.low if of.gain.low is not None else of.gain.value)
            high.append(of.gain.high if of.gain.high is not None else of.gain.value)
            group.append(series)
    bars = Bars(title="How much does each remedy gain, against a placebo?", unit="fall of normalised entropy", names=tuple(names), values=tuple(values), low=tuple(low), high=tuple(high), group=tuple(group),
                reference=0.0, stage="effects", highlighted=tuple(dict.fromkeys(name for name, trial, _ in judged if trial.accepted)), caption="intervals over seeds and users, wider with each use of the rows")
    return (table, bars)


def _row(name: str, one: Judgement) -> tuple[Any, ...]:
    quality = next(figure for figure in one.figures if figure.name == "quality")
    return (name, one.outcome.value, one.healthy_before, one.healthy_after, quality.before, quality.after, between(quality.gain), one.use.number)


__all__ = ["CODES", "name_of", "report_of"]
