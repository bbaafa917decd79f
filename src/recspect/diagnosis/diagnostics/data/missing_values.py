"""Are there more missing values in the held-out rows than in the rows that the model learned from?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import (
    examined_fields,
    names,
    percent,
    plural,
    require_rows,
    verdict_above,
    worst,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import Bucketed, category_name, jackknife
from recspect.diagnosis.stats.missing import Missing
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Field

JUMP_FAIL, JUMP_WARN, MOSTLY = 0.20, 0.05, 0.50
SHOWN = 10


class MissingValues(Diagnostic):
    """Share of missing values per field, held-out against training; the codes of `Field.missing` count as missing."""

    code = "data.missing_values"
    question = "Are there more missing values in the held-out rows than in the rows that the model learned from?"
    sources = ("Breck et al. 2019, Data Validation for Machine Learning (MLSys)",)

    def needs(self, scope: Scope) -> Needs:
        """The number of missing values of every field, both sides."""
        scope.require_reference()
        fields = examined_fields(scope, reference=True)
        if not fields:
            raise Unavailable("no field of the schema is a column of both the training and the held-out rows")
        return Needs.of(both=[_stat(field, scope) for field in fields])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding per field whose share changed, and one for the rest."""
        judged = []
        for field in examined_fields(scope, reference=True):
            stat = _stat(field, scope)
            now, before = target.get_summary(stat), reference.get_summary(stat)
            require_rows(now.total.count, "the held-out rows")
            require_rows(before.total.count, "the training rows")
            jump = jackknife([now, before], lambda t: abs(t[0].share - t[1].share), n=int(now.total.count),
                             unit="change of the missing share")
            verdict = verdict_above(jump, fail=JUMP_FAIL, warn=JUMP_WARN)
            if now.total.share > MOSTLY:
                verdict = worst((verdict, Verdict.WARN))
            judged.append((verdict, jump, field.name, now.total.share, before.total.share))
        judged.sort(key=lambda row: (-row[0].severity, -row[1].value, row[2]))
        evidence = _bars(judged)
        bad = [row for row in judged if row[0] is not Verdict.PASS]
        for verdict, jump, name, now_share, before_share in bad[:SHOWN]:
            yield _finding(verdict, jump, name, shares=(before_share, now_share), evidence=evidence)
        if len(bad) < len(judged):
            rest = [row for row in judged if row[0] is Verdict.PASS]
            worst_row = max(rest, key=lambda row: row[3])
            most = (f"at most {percent(worst_row[3])} of a field's values are missing ({worst_row[2]})" if worst_row[3]
                    else "no value is missing")
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=rest[0][1], evidence=(evidence,), sources=self.sources,
                          claim=f"Values are about as often missing in the held-out rows as in training in "
                                f"{plural(len(rest), 'field')}: {most}, and no share differs by more than "
                                f"{percent(rest[0][1].value)}.", threshold=_THRESHOLD,
                          meaning="The model meets gaps as often as it did while learning.")
        if len(bad) > SHOWN:
            yield Finding(code=self.code, verdict=bad[SHOWN][0], estimate=bad[SHOWN][1], sources=self.sources, threshold=_THRESHOLD,
                          limit=bad[SHOWN][1].value,
                          claim=f"{plural(len(bad) - SHOWN, 'more field')} also changed or are mostly missing: "
                                f"{names([row[2] for row in bad[SHOWN:]])}.")


_THRESHOLD = "FAIL when the missing share surely changed by more than 20 points, WARN by more than 5 points or when over 50% is missing"


def _stat(field: Field, scope: Scope) -> Bucketed:
    return scope.bucketed(Missing(column=field.name, codes=tuple(category_name(code) for code in field.missing)))


def _finding(verdict: Verdict, jump: Estimate, name: str, *, shares: tuple[float, float], evidence: Bars) -> Finding:
    before, now = shares
    jumped = jump.surely_above(JUMP_WARN) or jump.value > JUMP_FAIL
    if jumped:
        claim = (f"{name} is missing in {percent(now)} of the held-out rows but in {percent(before)} of the training rows "
                 f"({jump.n:,} held-out rows).")
        meaning = "The model meets a value that it has hardly learned from, so its answer there is close to a guess."
    else:
        claim = f"{name} is missing in {percent(now)} of the held-out rows, as in training ({percent(before)}): it says little."
        meaning = "A field that is mostly missing costs parameters and latency, and tells only the few rows that have it apart."
    return Finding(
        code=MissingValues.code, verdict=verdict, place=Place(kind="field", name=name), estimate=jump, claim=claim, meaning=meaning,
        limit=(JUMP_FAIL if verdict is Verdict.FAIL else JUMP_WARN) if jumped else jump.value,
        threshold=_THRESHOLD, evidence=(evidence,), sources=MissingValues.sources,
        causes=("a join or an upstream feature job failed or was late for part of the rows",
                "the field came to the log later, or is collected on some surfaces only",
                "a code for 'not known' (such as -1) that the schema does not name under `missing`"),
        remedies=(Remedy(code="fix_feature_pipeline", text=f"Find which rows lack {name} (by day, surface, country) and mend the join."),
                  Remedy(code="drop_field", text=f"Train without {name} until it can be filled the same way in both places."),
                  Remedy(code="declare_missing_code", text="Name codes that mean 'not known' in the schema: missing = [-1].")))


def _bars(judged: list[tuple[Verdict, Estimate, str, float, float]]) -> Bars:
    top = judged[:15]
    return Bars(title="In which fields did the share of missing values change most?", unit="share of rows without a value",
                names=tuple(name for *_, name, now, before in top for _ in range(2)),
                values=tuple(share for *_, now, before in top for share in (before, now)),
                group=("train", "held-out") * len(top),
                highlighted=tuple(name for verdict, _, name, *_ in top if verdict is not Verdict.PASS),
                caption=f"{plural(len(top), 'field')} with the largest change of {len(judged)}")
