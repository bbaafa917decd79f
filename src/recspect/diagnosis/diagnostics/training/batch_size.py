"""What the gradient noise scale says about the batch size: advice, never an alarm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import number, plural
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.jackknife import t_quantile
from recspect.diagnosis.stats.series import Series
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

SQUARE, VARIANCE, ROWS = Series(name="gradient_square"), Series(name="gradient_variance"), Series(name="batch_rows")
FEWEST = 10
FAR = 10.0
"""Times that the batch may be smaller or larger than the noise scale without advice."""

Floats = NDArray[np.float64]


class BatchSize(Diagnostic):
    """Would larger batches learn more from each step, or do these waste rows?

    B = tr(Sigma) / |G|^2 in rows, of the network above the tables: means over the later half of the measurements, each the unbiased estimate from two batch
    sizes (half a batch and a batch), divided after averaging.
    """

    code = "training.batch_size"
    question = "Would larger or smaller batches serve this training better?"
    sources = ("McCandlish et al. 2018, An Empirical Model of Large-Batch Training (appendix A.1)", "Fieller 1954, Some Problems in Interval Estimation")

    def needs(self, scope: Scope) -> Needs:
        scope.require_target(*SQUARE.columns, why="no training steps were recorded")
        return Needs.of(target=(SQUARE, VARIANCE, ROWS))

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - the interface's
        lines = [target.get_summary(stat).line() for stat in (SQUARE, VARIANCE, ROWS)]
        if any(line is None for line in lines):
            raise Unavailable("gradient noise was not measured", hint="give the losses of rows: look.before_backward(losses)")
        steps = np.array(sorted(set.intersection(*(set(line.steps.tolist()) for line in lines if line is not None))), dtype=np.int64)
        square, variance, rows = (line.values[np.isin(line.steps, steps)] for line in lines if line is not None)
        later = slice(len(steps) // 2, None)
        count = len(square[later])
        if count < FEWEST:
            raise Unavailable(f"{plural(len(steps), 'measurement')} of gradient noise are too few; {2 * FEWEST} are needed", hint="observe a longer training, or more often (observe_every)")
        if not (np.isfinite(square).all() and np.isfinite(variance).all()):
            raise Unavailable("gradients are NaN or infinite", hint="see training.gradient_flow")
        low, scale, high = noise_scale(square[later], variance[later])
        batch = float(np.median(rows[later]))
        yield self._finding(low, scale, high, batch, count, _curve(steps, square, variance, batch))

    def _finding(self, low: float, scale: float, high: float, batch: float, count: int, curve: Curve) -> Finding:
        bounded = np.isfinite(scale) and np.isfinite(high)
        seen = (f"the gradient noise scale is about {number(scale, 0)} rows ({number(low, 0)} to {number(high, 0)}; {count:,} measurements)" if bounded else
                f"the gradient noise scale is at least {number(low, 0)} rows ({count:,} measurements; the noise hides the gradient)")
        raised, wasted = low > FAR * batch, bounded and high < batch / FAR
        claim = (f"Larger batches would learn more from each step: a batch has {number(batch, 0)} rows, and {seen}." if raised else
                 f"Smaller batches would learn as much from each step: a batch has {number(batch, 0)} rows, and {seen}." if wasted else
                 f"The batch size is within ten times of what the gradient asks for, or cannot be told from it: a batch has {number(batch, 0)} rows, and {seen}.")
        remedies = (Remedy(code="raise_batch_size", text="Try batches of several times as many rows, with a higher learning rate; less noise per step, fewer steps per epoch."),) if raised else (
            Remedy(code="lower_batch_size", text="Try smaller batches: as many rows then make more steps."),) if wasted else ()
        estimate = Estimate(value=scale, low=low, high=high, unit="rows, gradient noise scale", n=count, of="measurements") if bounded else Estimate(
            value=low, unit="rows, at least: lower end of the gradient noise scale", n=count, of="measurements")
        return Finding(
            code=self.code, verdict=Verdict.PASS, claim=claim, estimate=estimate, evidence=(curve,), remedies=remedies, sources=self.sources,
            threshold=f"advice only; where the whole interval is more than {FAR:g} times from the batch size",
            meaning="Far below the noise scale steps mostly follow noise, and twice the rows are worth about two steps; far above it more rows bring nothing.")


def noise_scale(square: Floats, variance: Floats) -> tuple[float, float, float]:
    """(low, value, high) of mean(variance) / mean(square), by Fieller's 95 % interval; unbounded above where the mean square may be 0.

    Args:
        square: Unbiased estimates of |G|^2, shape (n,); single ones may be below 0.
        variance: Unbiased estimates of tr(Sigma), shape (n,).
    """
    n = len(square)
    top, bottom = float(variance.mean()), float(square.mean())
    spread = np.cov(np.stack([variance, square])) / n
    reach = t_quantile(0.95, n - 1) ** 2
    a, b, c = bottom**2 - reach * spread[1, 1], top * bottom - reach * spread[0, 1], top**2 - reach * spread[0, 0]
    root = np.sqrt(max(b * b - a * c, 0.0))
    if a > 0 and bottom > 0:
        return max(float((b - root) / a), 0.0), top / bottom, float((b + root) / a)
    # 0 is inside the interval of |G|^2: all ratios above the lower end are possible
    return max(float(c / (b + root)), 0.0) if b + root > 0 else 0.0, top / bottom if bottom > 0 else np.inf, np.inf


def _curve(steps: NDArray[np.int64], square: Floats, variance: Floats, batch: float) -> Curve:
    """Ratio of running means, where it is above 0, beside the batch size."""
    window = max(FEWEST, len(steps) // 4)
    kernel = np.ones(window) / window
    running = np.convolve(variance, kernel, "valid"), np.convolve(square, kernel, "valid")
    known = running[1] > 0
    x = tuple(steps[window - 1:][known].astype(float).tolist())
    measured = (Line(name="gradient noise scale", x=x, y=tuple((running[0][known] / running[1][known]).tolist())),) if x else ()
    return Curve(title="From which batch size on do more rows bring little?", x_title="step", y_title="rows",
                 lines=(*measured, Line(name="batch", x=(float(steps[0]), float(steps[-1])), y=(batch, batch), role="reference")),
                 log_y=True, caption=f"means over {window} measurements; left out where the noise hides the gradient")
