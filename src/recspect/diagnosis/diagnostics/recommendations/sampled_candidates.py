"""Whether lists hold one relevant item among a fixed number of sampled ones, so that list measures of them are not those of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import number, percent
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.stats.distinct import Distinct
from recspect.diagnosis.stats.list_shapes import ListLength, RelevantRows
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

LISTS, SHORTEST = 30, 5
ALIKE, ONE = 0.02, 0.02
"""Deviation of lengths over their mean, and how far the relevant rows of a list are from one, on average and in deviation."""
WARN = 0.5
"""Lists of more than half of the catalogue are near enough to it."""
_LENGTH, _RELEVANT = ListLength(), RelevantRows()


class SampledCandidates(Diagnostic):
    """Rows and relevant rows per list, and items of the catalogue: lists of one length with one relevant row each, of a small part of the catalogue, are a sampled protocol.

    Of measures of such lists AUC alone says what it says of the catalogue; NDCG, recall and MRR do not, and can order models another way.
    """

    code = "recommendations.sampled_candidates"
    question = "Are lists judged over a few sampled items instead of the catalogue?"
    sources = ("Krichene and Rendle 2020, On Sampled Metrics for Item Recommendation (KDD)", "Canamares and Castells 2020, On Target Item Sampling in Offline Recommender System Evaluation")

    def needs(self, scope: Scope) -> Needs:
        """Rows and relevant rows of lists, and items of both sides."""
        item = scope.require_role("item")
        scope.require_binary()
        scope.require_target("@score", "@label", item)
        if scope.schema.position is not None and scope.schema.position in scope.target:
            raise Unavailable("rows have places: they are what was shown, not candidates")
        return Needs.of(target=[_shapes(scope), Distinct(column=item)], reference=[Distinct(column=item)] if item in scope.reference else [])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        """One finding."""
        shapes = target.get_summary(_shapes(scope))
        if shapes.units < LISTS:
            raise Unavailable(f"there are {shapes.units:,.0f} lists; {LISTS} are needed", hint="give rows of more users or requests")
        distinct = Distinct(column=scope.require_role("item"))
        items = target.get_summary(distinct)
        catalogue = (items + reference.get_summary(distinct) if reference.has(distinct) else items).distinct
        length, relevant = (shapes.of(measure).moments for measure in (_LENGTH, _RELEVANT))
        spread, spread_relevant = (float(one.variance) ** 0.5 if one.count > 1 else 0.0 for one in (length, relevant))
        alike = spread <= ALIKE * length.mean and length.mean >= SHORTEST
        single = abs(relevant.mean - 1) <= ONE and spread_relevant <= ONE**0.5
        share = length.mean / catalogue
        sampled = alike and single and share < WARN
        seen = (f"{shapes.units:,.0f} lists have {number(length.mean)} rows each (deviation {number(spread)}) and {number(relevant.mean, 2)} relevant ones (deviation {number(spread_relevant)}), "
                f"of a catalogue of {number(catalogue, 0)} items")
        claim = (f"Lists look sampled: {seen}. An item that comes first among {number(length.mean, 0)} stands anywhere in about the first {number(max(catalogue / length.mean, 1), 0)} of the catalogue, so recall, NDCG and MRR of these "
                 "lists are not those of the catalogue and can order models another way." if sampled else f"Lists do not look like one relevant item among sampled ones: {seen}.")
        table = RankedTable(title="What do the lists look like?", columns=("figure", "mean", "deviation", "smallest", "largest"),
                            rows=tuple((name, round(one.mean, 3), round(deviation, 3), one.low, one.high) for name, one, deviation in (("rows", length, spread), ("relevant rows", relevant, spread_relevant))),
                            caption=f"{shapes.units:,.0f} lists; {catalogue:,.0f} items")
        yield Finding(
            code=self.code, verdict=Verdict.WARN if sampled else Verdict.PASS, claim=claim, limit=WARN, evidence=(table,), sources=self.sources,
            estimate=Estimate(value=share, unit="rows of a list / items of the catalogue", n=int(shapes.units), of="lists"),
            threshold=f"WARN when lists have one length (deviation up to {percent(ALIKE, 0)}) and one relevant row each, of less than {percent(WARN, 0)} of the catalogue",
            meaning="A model chosen by sampled measures may be the worse one over the catalogue that it serves.",
            causes=("an evaluation protocol that ranks one chosen item among, say, 99 sampled ones",),
            remedies=(Remedy(code="rank_catalogue", text="Rank the whole catalogue: recspect.recommending has the protocols, and their cost is users x items scores."),
                      Remedy(code="use_auc", text="Where that is too much, compare models by AUC, which sampling leaves as it is.")))


def _shapes(scope: Scope) -> PerUnit:
    unit = scope.schema.request or scope.schema.user
    if unit is None or unit not in scope.target:
        raise Unavailable("rows are listed per request or per user, and the schema names neither", hint="name one in the schema")
    return PerUnit(unit=unit, measures=(_LENGTH, _RELEVANT))
