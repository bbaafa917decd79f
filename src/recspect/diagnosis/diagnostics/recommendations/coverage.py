"""Whether lists differ between users and reach the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

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

SAME_LIST, ALIKE, SMALLEST_CATALOGUE = 1.1, 0.05, 10.0
"""FAIL below so many lists' worth of items; WARN below so much, on the log scale, of the way from one list for all to what users get by chance: about half of where the lowest healthy runs of the worlds
lie, since click models asked for the best of a whole catalogue have much the same items for all. How alike a team's own lists are, its stored healthy runs say (run.unlike_healthy)."""
SHOWN = Bucketed(stat=CategoryCounts(column="@list:item"), by="@list:user")
RANK = Moments(column="@list:rank")


class Coverage(Diagnostic):
    """Do lists differ between users and reach the catalogue?

    variety = exp(entropy of the items' shares of places) / length of the lists: 1 when all users get the same list. It is held against the
    variety of as many places drawn from the items of training rows. Coverage is the share of the training items that are in any list.
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
        drawn = _by_chance(train.counts, int(shown.total.count)) / k
        limit = max(SAME_LIST, drawn**ALIKE)
        verdict = verdict_below(variety, fail=SAME_LIST, warn=limit)
        counts = over_catalogue(shown.total, catalogue)
        reached = int((counts > 0).sum())
        possible = min(len(counts), int(counts.sum()))
        numbers = (f"{reached:,} of {len(counts):,} items are in any list ({percent(reached / len(counts))}; {possible:,} would fit), and they are shown "
                   f"as unevenly as {number(variety.value * k, 0)} items shown equally often ({between(variety, 2)} times a list of {k:.0f}, where "
                   f"places drawn from training rows give {number(drawn, 1)} times; {variety.n:,} places)")
        claim = (f"Lists differ between users: {numbers}." if verdict is Verdict.PASS else f"{'All users get practically the same list' if verdict is Verdict.FAIL else 'Users get much the same items'}: {numbers}.")
        top = shown.total.most_frequent(10)
        yield Finding(
            code=self.code, verdict=verdict, claim=claim, estimate=variety, limit=SAME_LIST if verdict is Verdict.FAIL else limit,
            threshold=f"FAIL surely below {SAME_LIST} times the length of a list, WARN surely below {number(limit, 1)} times: {percent(ALIKE, 0)} of the way, on the "
                      "log scale, from one list for all to places drawn from training rows",
            meaning="A recommender whose lists are alike for all is a list of favourites: personal fields do not reach the ranking. A model that ranks "
                    "candidates which another model chose is not asked for the best of the whole catalogue, and learned little about most of it.",
            causes=("the model ranks by popularity", "it learned from rows that were shown, and few items look best among all", "user fields are missing or constant when lists are made", "user vectors that collapsed"),
            remedies=(Remedy(code="check_user_fields", text="See that user fields arrive when lists are made (features.importance, embeddings.collapse)."),
                      Remedy(code="correct_sampling", text="Correct for popularity in training."),
                      Remedy(code="rerank_diverse", text="Re-rank with a bound on how often an item is shown.")),
            evidence=(lorenz(counts), RankedTable(title="Which items take the most places?", columns=("item", "places", "share of places"),
                                                  rows=tuple((name, int(count), round(count / counts.sum(), 4)) for name, count in top),
                                                  caption=f"Gini of exposure over the catalogue: {gini(counts):.2f}")),
            sources=self.sources)


def _by_chance(train: NDArray[np.float64], places: int) -> float:
    """Effective items of so many places drawn in proportion to training rows: the mean of ten draws of a fixed seed."""
    rng = np.random.default_rng(0)
    return float(np.mean([effective_items(rng.multinomial(places, train / train.sum()).astype(np.float64)) for _ in range(10)]))
