"""Whether lists are more popular than what their users like."""

from __future__ import annotations

from collections.abc import Iterator

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, percent, require_rows, verdict_above
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.slice import Slice, Term
from recspect.diagnosis.stat import Bucketed, jackknife
from recspect.diagnosis.stats.categories import CategoryCounts
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally

FAIL, WARN = 1.0, 0.10
KNOWN = Slice((Term("@list:profile_popularity", ">=", "0"),))
"""Places in lists of users who have a profile to compare with."""
LISTED = Bucketed(stat=Moments(column="@list:popularity"), by="@list:user")
PROFILE = Bucketed(stat=Moments(column="@list:profile_popularity"), by="@list:user")
GROUPS = CategoryCounts(column="@list:group")


class PopularityBias(Diagnostic):
    """Are lists more popular than what their users like?

    PopLift = (mean popularity of listed items - of the same users' own items) / of the users' own items; popularity is the number
    of training interactions. Users without interactions are left out.
    """

    code = "recommendations.popularity_bias"
    question = "Are the recommended items more popular than what their users like?"
    sources = ("Abdollahpouri et al. 2019, The Unfairness of Popularity Bias in Recommendation",
               "Abdollahpouri et al. 2020, The Connection Between Popularity Bias, Calibration, and Fairness in Recommendation")

    def needs(self, scope: Scope) -> Needs:
        columns = ("@list:user", "@list:popularity", "@list:profile_popularity", "@list:group")
        scope.require_target(*columns, why=_missing(scope, columns))
        return Needs(target=((KNOWN, LISTED), (KNOWN, PROFILE), *Needs.of(target=[GROUPS]).target))

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - the interface's
        listed, profile = target.get_summary(LISTED, KNOWN), target.get_summary(PROFILE, KNOWN)
        require_rows(listed.total.count, "the lists of users with a profile")
        lift = jackknife([listed, profile], lambda t: t[0].mean / t[1].mean - 1 if t[1].mean else float("nan"),
                         unit="popularity of lists / of profiles - 1", n=int(listed.total.count), of="places")
        verdict = verdict_above(lift, fail=FAIL, warn=WARN)
        groups = {name: count for name, count in target.get_summary(GROUPS).as_dict().items() if name}
        places = sum(groups.values())
        shares = {name: groups.get(name, 0.0) / places for name in ("head", "mid", "tail")} if places else {}
        numbers = (f"listed items have {number(listed.total.mean)} training interactions on average, the items that the same users chose "
                   f"{number(profile.total.mean)} (lift {between(lift)}, {lift.n:,} places)")
        tail = f" The long tail, with about 20% of the interactions, gets {percent(shares['tail'])} of the places." if shares else ""
        claim = {Verdict.PASS: f"Lists are no more popular than their users' own choices: {numbers}.{tail}"}.get(
            verdict, f"Lists push what is popular: {numbers}.{tail}")
        evidence = (Bars(title="Which items get the recommended places?", unit="share of places", names=tuple(shares),
                         values=tuple(shares.values()), highlighted=() if verdict is Verdict.PASS else ("head",),
                         caption="in training, by definition, head items have about 20%, mid 60%, tail 20% of the interactions"),)
        yield Finding(
            code=self.code, verdict=verdict, claim=claim, estimate=lift, threshold=f"FAIL surely above {FAIL:.1f}, WARN surely above {WARN:.1f}",
            limit=FAIL if verdict is Verdict.FAIL else WARN,
            meaning="Users with a taste for less popular items are served worse, and what is shown now is what the next model learns from.",
            causes=("popular items are shown more, so the log holds more of them", "sampled negatives without a popularity correction",
                    "id embeddings of rare items with too few rows"),
            remedies=(Remedy(code="correct_sampling", text="Correct for popularity in training (inverse propensity, or log Q in a softmax)."),
                      Remedy(code="rerank_calibrated", text="Re-rank lists so that their popularity follows the user's profile."),
                      Remedy(code="explore", text="Show a small share of random items, so that the log can learn about the tail.")),
            evidence=evidence if shares else (), sources=self.sources)


def _missing(scope: Scope, columns: tuple[str, ...]) -> str:
    return "" if any(column in scope.target for column in columns) else "no recommended lists were made"
