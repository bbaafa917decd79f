"""Does the model serve groups of users equally well?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from recspect.diagnosis.diagnostic import Needs, NullCalibrated, Scope
from recspect.diagnosis.diagnostics.policy import between, names, number, percent, plural, two_sided_p
from recspect.diagnosis.diagnostics.predictions.groups import (
    fields_of_groups,
    group_stat,
    is_enough,
    none_is_large_enough,
    others_of,
    required_group_stats,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import BucketedSummary, jackknife, t_quantile
from recspect.diagnosis.multiplicity import Check
from recspect.diagnosis.stats.score_label import ScoreLabelSummary
from recspect.diagnosis.tally import Tally

WARN, FAIL = 0.02, 0.05
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class _Gap:
    field: str
    group: str
    rows: int
    share: float
    gap: Estimate
    own: ScoreLabelSummary
    others: ScoreLabelSummary
    p_value: float
    excess: Estimate | None = None

    @property
    def name(self) -> str:
        return f"{self.field}={self.group}"

    @property
    def check(self) -> Check:
        return Check(p_value=self.p_value, effect=self.gap.value, minimum=WARN)


_Measured = tuple[list[_Gap], list[str]]
"""Every group against all others, and the fields that were left out."""


class GroupGap(NullCalibrated):
    """AUC of each group of users against the AUC of all other users; normalised entropy and calibration beside it.

    Groups are the categories of fields that the schema declares to describe the user. Where training rows are scored too, a gap that is there as well
    says that the group's choices are harder to tell apart; FAIL is for what came after.
    """

    code = "predictions.group_gap"
    question = "Does the model serve groups of users equally well?"
    sources = ("Borkan et al. 2019, Nuanced Metrics for Measuring Unintended Bias", "Gardner, Brooks and Baker 2019 (slicing AUC by group)", "Benjamini and Hochberg 1995")

    def needs(self, scope: Scope) -> Needs:
        """Scores against the label per category of every field that describes the user, of training rows too where they are scored."""
        stats = required_group_stats(scope)
        return Needs.of(target=stats, reference=[stat for stat in stats if {"@score", "@label", "@cluster", stat.by} <= scope.reference])

    def measure(self, target: Tally, reference: Tally, scope: Scope) -> _Measured:
        return _gaps(target, reference, scope)

    def checks(self, measured: _Measured) -> Sequence[Check]:
        """Every group against the others."""
        return [gap.check for gap in measured[0]]

    def findings(self, measured: _Measured, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - all is measured
        """A finding for each of the groups that are worst served, or one PASS."""
        gaps, left_out = measured
        gaps = sorted(gaps, key=lambda gap: (gap.check.counted > scope.p_limit, -gap.gap.value, gap.name))
        bad = [gap for gap in gaps if gap.check.counted <= scope.p_limit]
        note = f" Not looked at: {names(left_out)}." if left_out else ""
        table = RankedTable(
            title="How well is each group of users served?", columns=("group", "rows", "positives", "AUC", "AUC of others", "normalised entropy", "predicted / observed"),
            rows=tuple((g.name, g.rows, int(g.own.positive), round(g.own.auc, 4), round(g.others.auc, 4), round(g.own.normalised_entropy, 4), round(g.own.calibration_ratio, 3))
                       for g in gaps[:30]), caption=f"{plural(len(gaps), 'group')} of {plural(len({g.field for g in gaps}), 'field')}.{note}")
        threshold = (f"WARN when a group's AUC is more than {WARN} below that of the others and that is unlikely by chance among all checks of the run (q < 0.05), FAIL "
                     f"when surely more than {FAIL} and, where training rows are scored, surely more than {WARN} above the gap there")
        for gap in bad[:SHOWN]:
            verdict = Verdict.FAIL if gap.gap.surely_above(FAIL) and (gap.excess is None or gap.excess.surely_above(WARN)) else Verdict.WARN
            trained = "" if gap.excess is None else f" In training the gap is {number(gap.gap.value - gap.excess.value, 3)}."
            field = [g for g in gaps if g.field == gap.field]
            bars = Bars(title=f"How does the model rank within each group of {gap.field}?", unit="AUC", names=tuple(g.group or "missing" for g in field),
                        values=tuple(g.own.auc for g in field), highlighted=(gap.group or "missing",), reference=gap.others.auc, caption=f"{sum(g.rows for g in field):,} rows")
            yield Finding(
                code=self.code, verdict=verdict, place=Place(kind="slice", name=gap.name), estimate=gap.gap, limit=FAIL if verdict is Verdict.FAIL else WARN,
                concerns=gap.share, threshold=threshold, evidence=(bars, table), sources=self.sources,
                claim=f"Users with {gap.name} are served worse: AUC {number(gap.own.auc, 3)} where all others have {number(gap.others.auc, 3)} (gap {between(gap.gap, 3)}, "
                      f"{gap.rows:,} rows, {percent(gap.share)} of all). Normalised entropy {number(gap.own.normalised_entropy, 3)} against "
                      f"{number(gap.others.normalised_entropy, 3)}, predicted over observed {number(gap.own.calibration_ratio, 2)} against {number(gap.others.calibration_ratio, 2)}.{trained}",
                meaning="These users see worse choices than others. Where the group is protected, that can also be unlawful.",
                causes=("the group has few training rows", "a field is broken or missing for the group", "the group's choices vary less, so they are harder to tell apart",
                        "the model has no field for what the group chooses by"),
                remedies=(Remedy(code="check_fields", text=f"Compare missing and default values of the fields for {gap.name} and others."),
                          Remedy(code="reweight_group", text="Give the group's training rows more weight, or collect more of them."),
                          Remedy(code="add_field", text="Give the model a field that matters to the group.")))
        if bad[SHOWN:]:
            yield Finding(code=self.code, verdict=Verdict.WARN, estimate=bad[SHOWN].gap, limit=WARN, threshold=threshold, evidence=(table,), sources=self.sources,
                          concerns=bad[SHOWN].share, claim=f"{plural(len(bad) - SHOWN, 'more group')} are served worse: {names([g.name for g in bad[SHOWN:]], limit=10)}.")
        if not bad:
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=gaps[0].gap, limit=WARN, threshold=threshold, evidence=(table,), sources=self.sources,
                          claim=f"No group of users is ranked worse than others beyond chance: the largest gap, of {gaps[0].name}, is {between(gaps[0].gap, 3)} of AUC "
                                f"({plural(len(gaps), 'group')} of {plural(len({g.field for g in gaps}), 'field')}).{note}")


def _gaps(target: Tally, reference: Tally, scope: Scope) -> _Measured:
    """Every group of enough rows against all others, and what was left out.

    Raises:
        Unavailable: Too few rows, or no group is large enough.
    """
    gaps: list[_Gap] = []
    left_out: list[str] = []
    for field, parts, whole in fields_of_groups(target, scope, left_out):
        stat = group_stat(field, scope)
        before = reference.get_summary(stat).parts if reference.has(stat) else {}
        found = [_gap(field, name, part, parts, whole.total.count, before) for name, part in sorted(parts.items()) if is_enough(part)]
        gaps.extend(gap for gap in found if gap is not None)
    if not gaps:
        raise none_is_large_enough(left_out)
    return gaps, left_out


def _gap(field: str, group: str, part: BucketedSummary, parts: Mapping[str, BucketedSummary], rows: float, before: Mapping[str, BucketedSummary]) -> _Gap | None:
    others = others_of(group, parts)
    if not is_enough(others):
        return None
    gap = jackknife([part, others], lambda t: t[1].auc - t[0].auc, unit="AUC of others - AUC of the group", n=int(part.total.count))
    if not gap.has_interval:
        return None
    freedom = max(int(part.count) - 1, 1)
    error = (gap.error or 0.0) / t_quantile(0.95, max(int(max(part.count, others.count)) - 1, 1))
    return _Gap(field=field, group=group, rows=int(part.total.count), share=part.total.count / rows, gap=gap, own=part.total, others=others.total,
                p_value=two_sided_p(gap.value / error, freedom) if error > 0 else 1.0, excess=_excess(group, part, others, before))


def _excess(group: str, part: BucketedSummary, others: BucketedSummary, before: Mapping[str, BucketedSummary]) -> Estimate | None:
    """The gap less that on training rows, or None where these cannot say."""
    if group not in before or len(before) < 2:
        return None
    own, rest = before[group], others_of(group, before)
    if not (is_enough(own) and is_enough(rest)):
        return None
    return jackknife([part, others, own, rest], lambda t: (t[1].auc - t[0].auc) - (t[3].auc - t[2].auc), unit="AUC gap, held-out less training",
                     n=int(part.total.count))
