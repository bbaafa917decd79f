"""Whether the model is much better on rows it was trained on."""

from __future__ import annotations

from collections.abc import Iterator

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, percent, verdict_above, worst
from recspect.diagnosis.diagnostics.training.goodness import Goodness
from recspect.diagnosis.diagnostics.training.strangers import STRANGERS, THRESHOLD, share_of_strangers, user_counts
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.stat import jackknife
from recspect.diagnosis.tally import Tally

GAP_FAIL, GAP_WARN = 0.10, 0.05
LOSS_FAIL, LOSS_WARN = 0.15, 0.10
R_SQUARED_FAIL, R_SQUARED_WARN = 0.20, 0.10


class Overfitting(Diagnostic):
    """Is the model much better on the rows it learned from than on new ones?

    gap = AUC(train) - AUC(held-out) and NE(held-out) - NE(train); R squared in place of both for grades.
    """

    code = "training.overfitting"
    question = "Is the model much better on the rows it learned from than on new ones?"
    sources = ("He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook (normalised entropy)",
               "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        columns = ("@score", "@label")
        scope.require_target(*columns)
        scope.require_reference(*columns)
        return Needs.of(both=[scope.bucketed(Goodness.of(scope).stat()), *user_counts(scope)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        goodness = Goodness.of(scope)
        stat = scope.bucketed(goodness.stat())
        held_out, train = target.get_summary(stat), reference.get_summary(stat)
        new, old = held_out.total, train.total
        goodness.require(new, "the held-out rows")
        goodness.require(old, "the training rows")
        gap = jackknife([held_out, train], lambda t: goodness.value(t[1]) - goodness.value(t[0]),
                        unit=f"{goodness.name}, training less held-out", n=int(new.count))
        limits = (GAP_FAIL, GAP_WARN) if goodness.binary else (R_SQUARED_FAIL, R_SQUARED_WARN)
        by_gap = verdict = verdict_above(gap, fail=limits[0], warn=limits[1])
        decided, threshold = gap, f"FAIL above {limits[0]:.2f} {goodness.name}, WARN above {limits[1]:.2f}"
        before, after = goodness.value(old), goodness.value(new)
        claim = (f"{goodness.name} is {before:.3f} on training rows and {after:.3f} on held-out rows: a gap of "
                 f"{between(gap, 3)} ({new.count:,.0f} held-out rows).")
        if goodness.binary:
            loss = jackknife([held_out, train], lambda t: goodness.loss(t[0]) - goodness.loss(t[1]),
                             unit="normalised entropy, held-out less training", n=int(new.count))
            by_loss = verdict_above(loss, fail=LOSS_FAIL, warn=LOSS_WARN)
            verdict = worst([by_gap, by_loss])
            if by_loss.severity > by_gap.severity:
                decided = loss
            threshold += f"; or {LOSS_FAIL:.2f} and {LOSS_WARN:.2f} normalised entropy"
            claim += (f" Normalised entropy is {goodness.loss(old):.3f} and {goodness.loss(new):.3f}, a gap of "
                      f"{between(loss, 3)}.")
        strangers = share_of_strangers(target, reference, scope)
        if strangers > STRANGERS:
            threshold += f"; {THRESHOLD}"
            if verdict is not Verdict.PASS:
                verdict = Verdict.WARN
                claim += (f" {percent(strangers)} of the held-out rows are of users that training never saw: part of the gap is what it costs not to know them, "
                          "however well the model was trained.")
        start = ("The model fits training rows about as well as new ones. " if verdict is Verdict.PASS else
                 "The model is much better on the rows it learned from. " if strangers > STRANGERS else
                 "The model has learned training rows by heart to some degree. " if verdict is Verdict.WARN else
                 "The model has learned training rows by heart. ")
        yield Finding(
            code=self.code, verdict=verdict, claim=start + claim, estimate=decided, threshold=threshold,
            limit=(limits if decided is gap else (LOSS_FAIL, LOSS_WARN))[verdict is not Verdict.FAIL],
            meaning="What a model knows about training rows alone is worth nothing on new ones, and crowds out what is.",
            causes=("too many epochs (see training.one_epoch)", "id embeddings of users and items with few rows",
                    "training rows that occur several times, or a field shuffled or missing on the held-out side",
                    "the held-out rows come from another time or population"),
            remedies=(Remedy(code="stop_after_one_epoch", text="Train for one epoch."),
                      Remedy(code="raise_minimum_count", text="Let rare ids share one embedding (minimum_count)."),
                      Remedy(code="raise_embedding_decay", text="Add weight decay to the embeddings only.")),
            evidence=(Bars(title="How good is the model on rows it has seen and on new ones?", unit=goodness.name,
                           names=("training", "held-out"), values=(before, after),
                           caption=f"{old.count:,.0f} training rows, {new.count:,.0f} held-out rows"),),
            sources=self.sources)
