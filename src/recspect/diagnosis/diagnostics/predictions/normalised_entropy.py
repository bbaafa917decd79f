"""Are the probabilities better than saying the average every time?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, percent, require_classes, verdict_above
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.tally import Tally


class NormalisedEntropy(Diagnostic):
    """Log loss over the log loss of the base rate; 1 is no better than a constant."""

    code = "predictions.normalised_entropy"
    question = "Are the probabilities better than saying the average every time?"
    sources = ("He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook",)

    def needs(self, scope: Scope) -> Needs:
        """The scores against the label; also on training rows where they are scored."""
        scope.require_binary()
        scope.require_target("@score", "@label", "@cluster")
        stat = _stat(scope)
        trained = set(stat.columns) <= scope.reference
        return Needs.of(target=[stat], reference=[stat] if trained else [])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding."""
        stat = _stat(scope)
        summary = target.get_summary(stat)
        total = summary.total
        require_classes(total.positive, total.count, "the held-out rows")
        found = summary.estimate(lambda t: t.normalised_entropy, unit="normalised entropy", n=lambda t: t.count)
        verdict = verdict_above(found, fail=1.0)
        if verdict is Verdict.PASS and not found.surely_below(1.0):
            verdict = Verdict.WARN
        bars = {"held-out": found}
        if reference.has(stat) and 0 < reference.get_summary(stat).total.base_rate < 1:
            bars["train"] = reference.get_summary(stat).estimate(lambda t: t.normalised_entropy, unit="normalised entropy", n=lambda t: t.count)
        gain = 1 - found.value
        worth = (f"takes {percent(gain)} off the loss of" if gain > 0 else f"have a loss {percent(-gain)} above that of")
        told = f"The probabilities {'' if gain <= 0 else 'are worth something: the model '}{worth}"
        yield Finding(
            code=self.code, verdict=verdict, estimate=found, threshold="FAIL when surely above 1, WARN when the interval includes 1",
            limit=1.0 if verdict is Verdict.FAIL else found.value,
            claim=f"{told} saying the average ({percent(total.base_rate)}) every time: normalised entropy {between(found, 3)}, log loss "
                  f"{number(total.log_loss, 4)} nats, {found.n:,} held-out rows.",
            meaning="Above 1 the probabilities are worse than a constant: bids, blends and thresholds built on them lose, even where the order is good.",
            causes=("probabilities far too sure of themselves: too many epochs, a learning rate too high, no regularisation",
                    "negatives were sampled in training and not corrected for", "the label rate changed after training"),
            remedies=(Remedy(code="fewer_epochs", text="Train one epoch, or stop when held-out loss rises."),
                      Remedy(code="tune_learning_rate", text="Lower the learning rate by a factor of ten."),
                      Remedy(code="recalibrate", text="Fit a Platt or isotonic calibration on fresh rows.")),
            evidence=(Bars(title="Is the loss below that of a constant?", unit="normalised entropy", names=tuple(bars), reference=1.0,
                           values=tuple(e.value for e in bars.values()), low=tuple(e.value if e.low is None else e.low for e in bars.values()),
                           high=tuple(e.value if e.high is None else e.high for e in bars.values()), caption=f"{found.n:,} held-out rows"),),
            sources=self.sources)


def _stat(scope: Scope) -> Bucketed:
    return scope.bucketed(ScoreLabel())
