"""Whether the training loss jumped or broke."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import number
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stats.series import Series
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

LOSS = Series(name="loss/train")
FEWEST_STEPS, WINDOW, SHORTEST = 30, 200, 20
ROBUST_Z = 8.0


class LossAnomaly(Diagnostic):
    """Did the training loss jump, or become NaN?

    z_t = (loss_t - median) / (1.4826 MAD), over up to 200 sampled steps before t.
    """

    code = "training.loss_anomaly"
    question = "Did the training loss jump or break?"
    sources = ("Leys et al. 2013, Detecting Outliers: Use Absolute Deviation Around the Median",)

    def needs(self, scope: Scope) -> Needs:
        scope.require_target(*LOSS.columns, why="no training steps were recorded")
        return Needs.of(target=[LOSS])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - the interface's
        line = target.get_summary(LOSS).line()
        if line is None or not len(line.steps):
            raise Unavailable("no training loss was recorded", hint="observer.record('loss/train', loss)")
        steps, losses = line.steps, line.values
        broken = np.flatnonzero(~np.isfinite(losses))
        if len(broken):
            at = int(steps[broken[0]])
            yield self._finding(Verdict.FAIL, f"The training loss is NaN or infinite at {len(broken):,} of {len(steps):,} sampled steps, "
                                f"first at step {at:,}.", Estimate(value=float(len(broken)), unit="steps without a finite loss",
                                n=len(steps), of="steps"), at, line.steps, losses)
            return
        if len(steps) < FEWEST_STEPS:
            raise Unavailable(f"only {len(steps)} steps were sampled, {FEWEST_STEPS} are needed", hint="observe more often (every=...)")
        z = np.array([_robust_z(losses[i], losses[max(0, i - WINDOW):i]) for i in range(SHORTEST, len(losses))])
        jumps, worst = np.flatnonzero(z > ROBUST_Z), int(np.argmax(z))
        at = int(steps[SHORTEST + (int(jumps[0]) if len(jumps) else worst)])
        verdict = Verdict.FAIL if len(jumps) >= 2 else Verdict.WARN if len(jumps) else Verdict.PASS
        claim = (f"The training loss never jumped: at most {number(z[worst], 1)} robust deviations above the steps before "
                 f"({len(steps):,} sampled steps)." if verdict is Verdict.PASS else
                 f"The training loss jumped at {len(jumps)} of {len(z):,} sampled steps, first at step {at:,}, to "
                 f"{number(float(losses[SHORTEST + worst]))} at the highest ({number(z[worst], 0)} robust deviations above the steps before).")
        yield self._finding(verdict, claim, Estimate(value=float(z[worst]), unit="robust deviations", n=len(steps), of="steps"),
                            None if verdict is Verdict.PASS else at, steps, losses)

    def _finding(self, verdict: Verdict, claim: str, estimate: Estimate, at: int | None, steps: np.ndarray[tuple[int], np.dtype[np.int64]],
                 losses: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Finding:
        line = Line(name="training loss", x=tuple(map(float, steps)), y=tuple(map(float, np.where(np.isfinite(losses), losses, np.nan))))
        return Finding(
            code=self.code, verdict=verdict, claim=claim, estimate=estimate,
            place=Place() if at is None else Place(kind="step", name=str(at)),
            threshold=f"FAIL at two sampled steps above {ROBUST_Z:.0f} robust deviations or any NaN, WARN at one",
            meaning="A jump means that the update before it did harm; NaN means that nothing after it was learned.",
            causes=("a learning rate that is too high", "rows with extreme values or wrong labels", "a change of the data at that step"),
            remedies=(Remedy(code="lower_learning_rate", text="Lower the learning rate, or warm it up."),
                      Remedy(code="clip_gradients", text="Clip gradients."),
                      Remedy(code="clean_numeric_fields", text="Bound or log-scale numeric fields; look at the rows of that step.")),
            evidence=(Curve(title="Did the training loss jump?", x_title="step", y_title="loss", lines=(line,),
                            marks=() if at is None else ((float(at), "first jump"),)),), sources=self.sources)


def _robust_z(value: float, before: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    middle = float(np.median(before))
    spread = 1.4826 * float(np.median(np.abs(before - middle)))
    return (value - middle) / max(spread, 1e-3 * abs(middle), 1e-12)
