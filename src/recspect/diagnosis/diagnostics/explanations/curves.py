"""Gain over random order as a share of what the measured explanation gains: the judgement that deletion and insertion share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from recspect.diagnosis.diagnostic import Needs, Scope
from recspect.diagnosis.diagnostics.explanations.scored import (
    CAUSES,
    FAIL_SHARE,
    REMEDIES,
    WARN_SHARE,
    combined,
    compared,
    explainers,
    mean_of,
    measured_explainers,
    ratio,
    require_explained,
    require_telling,
    stat_of,
)
from recspect.diagnosis.diagnostics.policy import between, number, percent, verdict_below
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Evidence, RankedTable
from recspect.diagnosis.explanation_columns import CONSTANT, MEASURED, OURS, RANDOM, TOP
from recspect.diagnosis.finding import Finding, Verdict
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable


@dataclass(frozen=True, kw_only=True)
class Area:
    """One curve to judge.

    Args:
        code: Of the finding.
        measure: Column of the area; high is good.
        at: Column of what is told after 1, 2 and 5 fields; empty for none.
        title: The question of the picture.
        done: What is done to rows, in words.
        seen: What is seen then.
        meaning, sources: Of the finding.
    """

    code: str
    measure: str
    at: str
    title: str
    done: str
    seen: str
    meaning: str
    sources: tuple[str, ...]


def area_needs(scope: Scope, area: Area) -> Needs:
    """Areas and the values after few fields, for every explainer.

    Raises:
        Unavailable: No explanations.
    """
    require_explained(scope, area.measure)
    measures = (area.measure, *(f"{area.at}@{k}" for k in TOP if area.at))
    return Needs.of(target=[stat_of(scope, measure, name) for measure in measures for name in explainers(scope, measure)])


def judged_area(target: Tally, scope: Scope, area: Area) -> Iterable[Finding]:
    """One finding.

    Raises:
        Unavailable: The measure cannot tell here.
    """
    unit = "logits"
    found = {name: mean_of(target, scope, area.measure, name, unit=unit) for name in measured_explainers(target, scope, area.measure)}

    def gain(name: str, over: str) -> Estimate:
        return combined(target, scope, [(area.measure, name), (area.measure, over)], lambda m: m[0] - m[1], unit=unit)

    gains = {name: (gain(name, RANDOM), gain(name, CONSTANT)) for name in (OURS, MEASURED)}
    require_telling(list(gains.values()), area.code.split(".")[1])
    share = combined(target, scope, [(area.measure, OURS), (area.measure, RANDOM), (area.measure, MEASURED)], lambda m: ratio(m[0] - m[1], m[2] - m[1]), unit="share of the gain of what is measured")
    verdict = verdict_below(share, fail=FAIL_SHARE, warn=WARN_SHARE) if gains[MEASURED][0].surely_above(0.0) else Verdict.PASS
    evidence: tuple[Evidence, ...] = (*compared(found, title=area.title, unit=f"{area.seen} ({unit})", better="more"), *(_table(target, scope, area, tuple(found)) if area.at else ()))
    yield Finding(
        code=area.code, verdict=verdict, estimate=share, limit=FAIL_SHARE if verdict is Verdict.FAIL else WARN_SHARE, neutral=1.0, evidence=evidence, sources=area.sources,
        claim=f"{area.done}, {area.seen} is {between(found[OURS])} logits, {number(found[RANDOM].value)} in random order: {between(gains[OURS][0])} more, which is {percent(share.value)} of what an "
              f"order measured by the scores themselves gains ({share.n:,} rows).",
        threshold=f"FAIL when surely less than {percent(FAIL_SHARE)} of what the measured order gains over random order, WARN when surely less than {percent(WARN_SHARE)}",
        meaning=area.meaning, causes=() if verdict is Verdict.PASS else CAUSES, remedies=() if verdict is Verdict.PASS else REMEDIES)


def _table(target: Tally, scope: Scope, area: Area, names: tuple[str, ...]) -> tuple[RankedTable, ...]:
    rows: list[tuple[str | None, ...]] = []
    for name in names:
        cells: list[str | None] = []
        for k in TOP:
            try:
                cells.append(between(mean_of(target, scope, f"{area.at}@{k}", name, unit="logits")))
            except Unavailable:  # fewer fields than that
                cells.append(None)
        rows.append((name, *cells))
    return (RankedTable(title=f"What is {area.at} after few fields?", columns=("explanation", *(f"{k} field{'' if k == 1 else 's'} (logits)" for k in TOP)), rows=tuple(rows),
                        caption="fall of the score when the first fields are exchanged for others of like frequency" if area.at == "comprehensiveness" else
                        "fall of the score when all but the first fields are exchanged; less is better"),)
