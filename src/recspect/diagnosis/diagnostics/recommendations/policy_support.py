"""Can this log speak for a policy other than the one that made it?"""

from __future__ import annotations

import math
from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import number, percent, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.distinct import Distinct
from recspect.diagnosis.stats.inverse_propensity import InversePropensity, InversePropensitySummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

LEAST_SHARE, MOST_OF_ONE, ERRORS = 0.05, 0.10, 3.0


class PolicySupport(Diagnostic):
    """Effective sample size, mean weight and largest weight if the log were to speak for the uniform policy over all items.

    weight = (1 / number of items) / propensity. Its mean is 1 when every item has a chance and the propensities are right. A policy that is nearer to the
    logged one has smaller weights, so this is the hardest case that is still common: comparing with random choice.
    """

    code = "recommendations.policy_support"
    question = "Can this log speak for a policy other than the one that made it?"
    sources = ("Kish 1965 (effective sample size)", "Saito et al. 2021, Open Bandit Dataset and Pipeline", "Li et al. 2011, Unbiased Offline Evaluation")

    def needs(self, scope: Scope) -> Needs:
        """Inverse propensities, and how many items there are."""
        propensity, item = scope.require_role("propensity"), scope.require_role("item")
        scope.require_target(propensity, item, "@cluster")
        return Needs.of(target=[_weights(propensity, scope), Distinct(column=item)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        """One finding."""
        bucketed = target.get_summary(_weights(scope.require_role("propensity"), scope))
        items = target.get_summary(Distinct(column=scope.require_role("item")))
        total: InversePropensitySummary = bucketed.total
        require_rows(total.count, "the rows with a propensity")
        if items.distinct < 2:
            raise Unavailable("the log has a single item, so there is nothing to choose between")
        mean = bucketed.estimate(lambda t: t.mean / items.distinct, unit="mean weight", n=lambda t: t.count)
        share = bucketed.estimate(lambda t: t.effective_share, unit="effective sample size / rows", n=lambda t: t.count)
        largest = total.largest / total.total
        deviation = math.sqrt(max(total.squares / total.count / items.distinct**2 - (total.mean / items.distinct) ** 2, 0.0) / total.count)
        error = max(deviation, (mean.error or 0.0) / 2)
        wrong = [text for fails, text in (
            (share.value < LEAST_SHARE, f"the effective sample size is {percent(share.value)} of the rows, {number(share.value * total.count, 0)} of {share.n:,}"),
            (abs(mean.value - 1) > max(ERRORS * error, 1e-6), f"the mean weight is {number(mean.value, 3)}, more than {ERRORS:.0f} standard errors from 1"),
            (largest > MOST_OF_ONE, f"one row has {percent(largest)} of all weight"),
            (total.invalid > 0, f"{number(total.invalid, 0)} rows have no propensity in (0, 1]")) if fails]
        verdict = Verdict.FAIL if wrong else Verdict.PASS
        figures = (f"effective sample size {percent(share.value)} of {share.n:,} rows, mean weight {number(mean.value, 3)}, largest share of one row {percent(largest)}, "
                   f"{number(items.distinct, 0)} items")
        decided: Estimate = mean if wrong and share.value >= LEAST_SHARE and largest <= MOST_OF_ONE and abs(mean.value - 1) > max(ERRORS * error, 1e-6) else share
        yield Finding(
            code=self.code, verdict=verdict, estimate=decided, neutral=1.0 if decided is mean else 0.0, sources=self.sources,
            limit=1 + math.copysign(ERRORS * error, mean.value - 1) if decided is mean else LEAST_SHARE,
            claim=(f"The log can speak for uniform choice: {figures}." if not wrong else f"The log cannot speak for uniform choice: {'; '.join(wrong)} ({figures})."),
            threshold=f"FAIL when the effective sample size is below {percent(LEAST_SHARE, 0)} of the rows, the mean weight is more than {ERRORS:.0f} standard errors from 1, one row has more "
                      f"than {percent(MOST_OF_ONE, 0)} of all weight, or a propensity is missing or outside (0, 1]",
            meaning="An off-policy estimate from such a log is decided by a few rows, or is about other probabilities than those logged; its interval does not show it.",
            causes=("the logged policy hardly ever shows some items", "propensities were clipped, rounded or logged for another place or model",
                    "items that could be shown never were, so the number of items is too small"),
            remedies=(Remedy(code="refuse_evaluation", text="Do not estimate the value of a policy far from the logged one from this log."),
                      Remedy(code="explore", text="Show a share of random items, and log the probability with which each item was shown."),
                      Remedy(code="check_propensities", text="Check that the probabilities of all items that could be shown sum to 1 in each place.")),
            evidence=(RankedTable(title="What would the log weigh for uniform choice?", columns=("figure", "value", "limit"),
                                  rows=(("effective sample size / rows", round(share.value, 4), LEAST_SHARE), ("mean weight", round(mean.value, 4), 1.0),
                                        ("largest share of one row", round(largest, 4), MOST_OF_ONE), ("rows without a propensity", total.invalid, 0.0)),
                                  caption=f"{share.n:,} rows, {items.distinct:,.0f} items"),))


def _weights(propensity: str, scope: Scope) -> Bucketed:
    return scope.bucketed(InversePropensity(column=propensity))
