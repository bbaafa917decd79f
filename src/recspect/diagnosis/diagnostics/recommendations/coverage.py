"""Whether lists differ between users and reach the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, percent, require_rows, verdict_below
from recspect.diagnosis.diagnostics.recommendations.exposure import effective_items, gini, lorenz, over_catalogue
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.categories import CategoryCounts
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

SAME_LISTS, FEW_ITEMS, SMALLEST_CATALOGUE = 1.5, 4.0, 10.0
SHOWN = Bucketed(stat=CategoryCounts(column="@list:item"), by="@list:user")
RANK = Moments(column="@list:rank")


class Coverage(Diagnostic):
    """Do lists differ between users and reach the catalogue?

    exp(entropy of the items' shares of places) / length of the lists: 1 when all users get the same list. Coverage is the share of the
    training items that are in any list.
    """

    code = "recommendations.coverage"
    question = "Do different users get different items, and how much of the catalogue is reached?"
    sources = ("Ge et al. 2010, Beyond Accuracy: Evaluating Recommender Systems by Coverage and Serendipity",
               "Jost 2006, Entropy and Diversity (effective number)", "Fleder and Hosanagar 2009 (Gini of exposure)")

    def needs(self, scope: Scope) -> Needs:
        scope.require_target("@list:user", "@list:item", "@list:rank", why="" if "@list:item" in scope.target else "no recommended lists were made")
        item = scope.require_role("item")
        scope.require_reference(item)
        return Needs.of(target=[SHOWN, RANK], reference=[CategoryCounts(column=item)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        shown = target.get_summary(SHOWN)
        k = target.get_summary(RANK).high
        require_rows(shown.total.count, "the lists")
        item = scope.require_role("item")
        train = reference.get_summary(CategoryCounts(column=item))
        catalogue = {name for name in train.names if name}
        if train.truncated or shown.total.truncated:
            raise Unavailable(f"the catalogue has more than {train.capacity:,} items, too many to count one by one")
        if len(catalogue) < SMALLEST_CATALOGUE * k:
            raise Unavailable(f"lists of {k:.0f} from a catalogue of {len(catalogue):,} items overlap whatever the model",
                              hint=f"make shorter lists; {SMALLEST_CATALOGUE:.0f} times as many items are needed")
        variety = shown.estimate(lambda total: effective_items(over_catalogue(total, set())) / k, unit="effective items / list length",
                                 n=lambda total: total.count, of="places")
        verdict = verdict_below(variety, fail=SAME_LISTS, warn=FEW_ITEMS)
        counts = over_catalogue(shown.total, catalogue)
        reached = int((counts > 0).sum())
        possible = min(len(counts), int(counts.sum()))
        numbers = (f"{reached:,} of {len(counts):,} items are in any list ({percent(reached / len(counts))}; {possible:,} would fit), and they are shown "
                   f"as unevenly as {number(variety.value * k, 0)} items shown equally often ({between(variety)} times a list of {k:.0f}; "
                   f"{variety.n:,} places)")
        claim = (f"Lists differ between users: {numbers}." if verdict is Verdict.PASS else f"Nearly all users get the same items: {numbers}.")
        top = shown.total.most_frequent(10)
        yield Finding(
            code=self.code, verdict=verdict, claim=claim, estimate=variety, limit=SAME_LISTS if verdict is Verdict.FAIL else FEW_ITEMS,
            threshold=f"FAIL surely below {SAME_LISTS} times the length of a list, WARN surely below {FEW_ITEMS:.0f} times",
            meaning="A recommender whose lists are alike for all is a list of favourites: personal fields do not reach the ranking.",
            causes=("the model ranks by popularity", "user fields are missing or constant when lists are made", "user vectors that collapsed"),
            remedies=(Remedy(code="check_user_fields", text="See that user fields arrive when lists are made (features.importance, embeddings.collapse)."),
                      Remedy(code="correct_sampling", text="Correct for popularity in training."),
                      Remedy(code="rerank_diverse", text="Re-rank with a bound on how often an item is shown.")),
            evidence=(lorenz(counts), RankedTable(title="Which items take the most places?", columns=("item", "places", "share of places"),
                                                  rows=tuple((name, int(count), round(count / counts.sum(), 4)) for name, count in top),
                                                  caption=f"Gini of exposure over the catalogue: {gini(counts):.2f}")),
            sources=self.sources)
