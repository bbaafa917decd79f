"""Does the model rank better than chance, and better than simple baselines?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, percent, require_classes
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.stat import Bucketed, jackknife
from recspect.diagnosis.stats.binned import BinnedLabel
from recspect.diagnosis.stats.measures import AreaUnderCurve
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.tally import Tally

_PREFIX = "@baseline:"
_MEASURE = AreaUnderCurve()


class RankingQuality(Diagnostic):
    """AUC over all rows and within users, against 0.5 and against each baseline on the same rows."""

    code = "predictions.ranking_quality"
    question = "Does the model rank better than chance, and better than simple baselines?"
    sources = ("Dacrema et al. 2019, Are We Really Making Much Progress? (RecSys)", "Zhou et al. 2018, Deep Interest Network (AUC per user)")

    def needs(self, scope: Scope) -> Needs:
        """The scores of the model and of every baseline against the label, and the same within users."""
        scope.require_binary()
        scope.require_target("@score", "@label", "@cluster")
        return Needs.of(target=[_overall("@score", scope), *(_overall(b, scope) for b in _baselines(scope)),
                                *(_within(column, scope) for column in ("@score", *_baselines(scope)) if _has_users(scope))])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        """One finding."""
        model = target.get_summary(_overall("@score", scope))
        require_classes(model.total.positive, model.total.count, "the held-out rows")
        n = int(model.total.count)
        aucs = {"model": model.estimate(_auc, unit="AUC", n=lambda t: t.count)}
        for column in _baselines(scope):
            aucs[_name(column)] = target.get_summary(_overall(column, scope)).estimate(_auc, unit="AUC", n=lambda t: t.count)
        users = _user_sentence(target, scope)
        evidence = [_bars(aucs, "How well does the model rank over all rows?", f"{n:,} held-out rows"), *_user_bars(target, scope)]
        causes = ("the model has not converged, or diverged (see the training findings)", "score and label belong to different rows or labels",
                  "the fields say little beyond what the baseline knows", "held-out rows are unlike training (see data.drift)")
        remedies = (Remedy(code="check_join", text="Verify on a few rows that score and label belong together."),
                    Remedy(code="use_baseline", text="Serve the baseline until the model is better; it is cheaper and easier to explain."),
                    Remedy(code="tune_learning_rate", text="Try a learning rate ten times smaller, and one epoch."))
        meaning = "A model that does not rank better than a list of popular items costs more and gives nothing."
        best = max((name for name in aucs if name != "model"), key=lambda name: aucs[name].value, default=None)
        if best is None:
            estimate = aucs["model"]
            verdict = Verdict.PASS if estimate.surely_above(0.5) else Verdict.FAIL if estimate.surely_below(0.5) else Verdict.WARN
            claim = (f"The model ranks {_word(verdict)} chance: AUC {between(estimate, 3)} on {n:,} held-out rows. {users}No baseline was there to "
                     "compare with.")
            threshold = "FAIL when AUC is surely below 0.5, WARN when its interval includes 0.5"
        else:
            other = target.get_summary(_overall(_PREFIX + best, scope))
            estimate = jackknife([model, other], lambda t: _auc(t[0]) - _auc(t[1]), unit=f"AUC above baseline {best}", n=n)
            verdict = Verdict.PASS if estimate.surely_above(0.0) else Verdict.FAIL if estimate.surely_below(0.0) else Verdict.WARN
            claim = (f"The model ranks {_word(verdict)} the best baseline ({best}): AUC {between(aucs['model'], 3)} against {number(aucs[best].value, 3)}, "
                     f"a difference of {between(estimate, 3)}, on {n:,} held-out rows. {users}").strip()
            threshold = "FAIL when the model is surely worse than the best baseline, WARN when the interval of the difference includes 0"
        yield Finding(code=self.code, verdict=verdict, claim=claim.strip(), estimate=estimate, threshold=threshold, meaning=meaning,
                      causes=causes, remedies=remedies, evidence=tuple(evidence), sources=self.sources)


def _auc(total: Any) -> float:
    return float(total.auc)


def _word(verdict: Verdict) -> str:
    return {Verdict.PASS: "better than", Verdict.FAIL: "worse than"}.get(verdict, "not clearly better than")


def _name(column: str) -> str:
    return column.removeprefix(_PREFIX)


def _baselines(scope: Scope) -> tuple[str, ...]:
    return tuple(sorted(column for column in scope.target if column.startswith(_PREFIX)))


def _has_users(scope: Scope) -> bool:
    return scope.cluster_name == "users"


def _overall(column: str, scope: Scope) -> Bucketed:
    """Baseline scores can be any number, so they are binned by size rather than as probabilities."""
    return scope.bucketed(ScoreLabel() if column == "@score" else BinnedLabel(column=column, detail=7))


def _within(column: str, scope: Scope) -> Bucketed:
    return scope.bucketed(PerUnit(unit="@cluster", measures=(_MEASURE,), score=column, weighting="rows"))


def _user_auc(target: Tally, column: str, scope: Scope) -> Estimate | None:
    summary = target.get_summary(_within(column, scope))
    if not np.isfinite(summary.total.mean(_MEASURE)):
        return None
    found: Estimate = summary.estimate(lambda t: t.mean(_MEASURE), unit="AUC within users, weighted by rows",
                                       n=lambda t: t.of(_MEASURE).defined, of="users")
    return found


def _user_sentence(target: Tally, scope: Scope) -> str:
    if not _has_users(scope):
        return ""
    found = _user_auc(target, "@score", scope)
    if found is None:
        return "No user has both clicks and non-clicks, so ranking within users cannot be judged. "
    coverage = target.get_summary(_within("@score", scope)).total.coverage(_MEASURE)
    return f"Within users the AUC is {between(found, 3)} ({found.n:,} users with both classes, {percent(coverage)} of the rows). "


def _user_bars(target: Tally, scope: Scope) -> list[Bars]:
    if not _has_users(scope):
        return []
    found = {("model" if column == "@score" else _name(column)): _user_auc(target, column, scope) for column in ("@score", *_baselines(scope))}
    known = {name: estimate for name, estimate in found.items() if estimate is not None}
    return [_bars(known, "How well does the model rank within each user?", f"{known['model'].n:,} users")] if "model" in known else []


def _bars(aucs: dict[str, Estimate], title: str, caption: str) -> Bars:
    ranked = sorted(aucs.items(), key=lambda pair: -pair[1].value)
    return Bars(title=title, unit="AUC", names=tuple(name for name, _ in ranked), values=tuple(e.value for _, e in ranked),
                low=tuple(e.value if e.low is None else e.low for _, e in ranked),
                high=tuple(e.value if e.high is None else e.high for _, e in ranked), highlighted=("model",), reference=0.5, caption=caption)
