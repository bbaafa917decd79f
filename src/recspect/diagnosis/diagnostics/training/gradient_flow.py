"""Whether the gradient reaches the first layer, and stays within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.training.depth import Stack, stacks
from recspect.diagnosis.diagnostics.training.steps import nonfinite_values, total_by_step
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, Curve, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import Bucketed, jackknife
from recspect.diagnosis.stats.moments import Moments, MomentsSummary
from recspect.diagnosis.stats.series import Series
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

FEWEST_ROWS, FEWEST_STEPS = 500, 10
VANISHING_RATIO, VANISHING = 1e-3, 1e-7
BURST, WINDOW = 10.0, 20
NORM, NONFINITE = Series(name="gradient_norm"), Series(name="nonfinite")


class GradientFlow(Diagnostic):
    """Does the loss's gradient reach the first layer, and does it burst?

    vanishing: rms(first) / rms(last) of the per-row gradient by layer, on training rows; bursts: norm of all gradients over
    the median of the steps before; NaN and infinities as counted while training.
    """

    code = "training.gradient_flow"
    question = "Does the gradient reach the first layer without vanishing or bursting?"
    sources = ("Hochreiter 1998, The Vanishing Gradient Problem", "Glorot and Bengio 2010, Understanding the Difficulty of Training Deep Networks",
               "Tang et al. 2023, Improving Training Stability for Multitask Ranking Models")

    def needs(self, scope: Scope) -> Needs:
        layers = _layer_stats(scope)
        side = "reference" if layers and layers[0].columns[0] in scope.reference else "target"
        steps = (NORM, NONFINITE) if scope.target.issuperset(NORM.columns) else ()
        if not layers and not steps:
            raise Unavailable("neither gradients by layer nor training steps are there",
                              hint="examine a PyTorch model with labels, or a run that recspect trained")
        return Needs.of(target=(*steps, *(layers if side == "target" else ())), reference=layers if side == "reference" else ())

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        answers = []
        stats = _layer_stats(scope)
        side = reference if stats and reference.has(stats[0]) else target
        if stats and side.has(stats[0]):
            answers.append(self._by_layer(scope.layers, [side.get_summary(stat) for stat in stats]))
        if target.has(NORM):
            norms = {place: line.values for place, line in target.get_summary(NORM).lines.items() if len(line.steps)}
            bad = nonfinite_values(target.get_summary(NONFINITE), target.get_summary(NORM))
            if bad:
                answers.append(self._nonfinite(*bad))
            elif norms:
                answers.append(self._bursts(*total_by_step(target.get_summary(NORM))))
                if not stats:  # a log without the model: the norms of alike layers by depth are the next best
                    answers += [self._by_depth(stack) for stack in stacks(target.get_summary(NORM))]
        known = [answer for answer in answers if answer is not None]
        if not known:
            raise Unavailable("too few rows or steps with gradients", hint=f"{FEWEST_ROWS} rows or {FEWEST_STEPS} sampled steps are needed")
        yield from known

    def _by_layer(self, layers: tuple[str, ...], summaries: list[Any]) -> Finding | None:
        totals = [summary.total for summary in summaries]
        if min(total.count for total in totals) < FEWEST_ROWS and not any(t.infinite or t.missing for t in totals):
            return None
        broken = [layer for layer, t in zip(layers, totals, strict=True) if t.infinite or t.missing]
        if broken:
            rows = max(t.infinite + t.missing for t in totals)
            return self._nonfinite(broken[0], None, rows)
        sizes = [_rms(total) for total in totals]
        bars = Bars(title="How large is the gradient at each layer, input side first?", unit="log10 of the rms gradient of a row's loss",
                    names=layers, values=tuple(float(np.log10(max(size, 1e-30))) for size in sizes),
                    caption=f"{totals[0].count:,.0f} training rows")
        first, last, n = layers[0], layers[-1], int(totals[0].count)
        if sizes[-1] == 0:
            ratio = Estimate(value=0.0, unit="rms gradient of the last layer", n=n)
        elif len(layers) == 1:
            ratio = Estimate(value=sizes[0], unit="rms gradient of the only layer", n=n)
        else:
            ratio = jackknife([summaries[0], summaries[-1]], lambda t: _rms(t[0]) / _rms(t[1]),
                              unit="rms gradient of the first layer over the last", n=n)
        small = [layer for layer, size in zip(layers, sizes, strict=True) if size < VANISHING]
        vanishes = bool(small) or (len(layers) > 1 and ratio.surely_below(VANISHING_RATIO))
        verdict = Verdict.FAIL if vanishes else Verdict.PASS
        if not vanishes and len(layers) > 1 and ratio.value < VANISHING_RATIO:
            verdict = Verdict.WARN
        where = small[0] if small else first
        seen = (f"rms gradient {sizes[0]:.1e} at {first}, {sizes[-1]:.1e} at {last}"
                + (f", ratio {ratio.value:.1e}" if len(layers) > 1 and sizes[-1] else "") + f" ({n:,} rows)")
        claim = (f"The gradient reaches the first layer: {seen}." if verdict is Verdict.PASS else
                 f"The gradient all but vanishes on its way to layer {where}: {seen}.")
        return self._finding(verdict, claim, ratio, place=Place() if verdict is Verdict.PASS else Place(kind="layer", name=where),
                             threshold=f"FAIL below {VANISHING_RATIO:g} of the last layer's, or below {VANISHING:g} anywhere",
                             limit=VANISHING_RATIO if len(layers) > 1 else VANISHING,
                             evidence=bars, meaning="Layers that get no gradient stay as they were initialised.",
                             causes=("a deep stack of sigmoid or tanh layers", "dead ReLU layers above", "weights too small at the start"),
                             remedies=(Remedy(code="change_activation", text="Use ReLU, GELU or SiLU instead of sigmoid or tanh."),
                                       Remedy(code="fewer_layers", text="Use fewer layers, or residual connections."),
                                       Remedy(code="add_normalisation", text="Put a normalisation layer before each activation.")))

    def _by_depth(self, stack: Stack) -> Finding | None:
        if len(stack.ratios) < FEWEST_STEPS:
            return None
        low, middle, high = (float(value) for value in np.quantile(stack.ratios, (0.1, 0.5, 0.9)))
        verdict = Verdict.FAIL if high < VANISHING_RATIO else Verdict.WARN if middle < VANISHING_RATIO else Verdict.PASS
        first, last = stack.names[0], stack.names[-1]
        seen = (f"the gradient norm of {first} is {middle:.1e} times that of {last} (median of {len(stack.ratios):,} sampled steps; {low:.1e} to "
                f"{high:.1e} in 80% of them)")
        claim = f"The gradient reaches the first layer: {seen}." if verdict is Verdict.PASS else f"The gradient all but vanishes on its way to {first}: {seen}."
        return self._finding(
            verdict, claim, Estimate(value=middle, unit="gradient norm of the first layer over the last", n=len(stack.ratios), of="steps"),
            place=Place() if verdict is Verdict.PASS else Place(kind="layer", name=first),
            threshold=f"FAIL where 90% of the sampled steps lie below {VANISHING_RATIO:g}, WARN where half do", limit=VANISHING_RATIO,
            evidence=Bars(title="How large is the gradient at each layer, input side first?", unit="log10 of the gradient norm", names=stack.names,
                          values=tuple(float(np.log10(max(norm, 1e-30))) for norm in stack.medians), caption=f"{len(stack.ratios):,} sampled steps"),
            meaning="Layers that get no gradient stay as they were initialised.",
            causes=("a deep stack of sigmoid or tanh layers", "dead ReLU layers above", "weights too small at the start"),
            remedies=(Remedy(code="change_activation", text="Use ReLU, GELU or SiLU instead of sigmoid or tanh."),
                      Remedy(code="fewer_layers", text="Use fewer layers, or residual connections."),
                      Remedy(code="add_normalisation", text="Put a normalisation layer before each activation.")))

    def _bursts(self, steps: NDArray[np.int64], norms: NDArray[np.float64]) -> Finding | None:
        if len(steps) < FEWEST_STEPS:
            return None
        start = max(5, min(WINDOW, len(norms) // 2))
        medians = np.array([np.median(norms[max(0, i - WINDOW):i]) for i in range(start, len(norms))])
        ratios = np.divide(norms[start:], medians, out=np.ones(len(medians)), where=medians > 0)
        bursts = np.flatnonzero(ratios > BURST)
        worst = int(np.argmax(ratios))
        at = int(steps[start + (bursts[0] if len(bursts) else worst)])
        verdict = Verdict.FAIL if len(bursts) >= 2 else Verdict.WARN if len(bursts) else Verdict.PASS
        claim = (f"The gradient never grew suddenly: at most {ratios[worst]:.1f} times the median of the steps before "
                 f"(step {at:,}; {len(steps):,} sampled steps)." if verdict is Verdict.PASS else
                 f"The gradient bursts: at {len(bursts)} of {len(ratios):,} sampled steps its norm was more than {BURST:.0f} times the "
                 f"median of the steps before, first at step {at:,}, at most {ratios[worst]:,.0f} times.")
        line = Line(name="norm of all gradients", x=tuple(map(float, steps)), y=tuple(map(float, norms)))
        return self._finding(
            verdict, claim, Estimate(value=float(ratios[worst]), unit="times the trailing median", n=len(steps), of="steps"),
            place=Place() if verdict is Verdict.PASS else Place(kind="step", name=str(at)),
            threshold=f"FAIL at two sampled steps above {BURST:.0f} times the median of {WINDOW} steps before, WARN at one", limit=BURST,
            evidence=Curve(title="Does the gradient burst?", x_title="step", y_title="gradient norm", lines=(line,), log_y=bool((norms > 0).all()),
                           marks=tuple((float(steps[start + i]), "burst") for i in bursts[:3])),
            meaning="One burst can undo thousands of steps, and often comes before the loss diverges.",
            causes=("a learning rate that is too high", "rows with extreme values", "a growing logit without normalisation"),
            remedies=(Remedy(code="clip_gradients", text="Clip gradients (or updates, Clippy)."),
                      Remedy(code="lower_learning_rate", text="Lower the learning rate, or warm it up."),
                      Remedy(code="clean_numeric_fields", text="Bound or log-scale numeric fields.")))

    def _nonfinite(self, place: str, step: int | None, count: float) -> Finding:
        when = "" if step is None else f", first at step {step:,}"
        return self._finding(
            Verdict.FAIL, f"NaN or infinite numbers appeared in {place or 'the model'}{when} ({count:,.0f} values).",
            Estimate(value=count, unit="NaN or infinite values", n=int(count), of="values"),
            place=Place(kind="step", name=str(step)) if step is not None else Place(kind="layer", name=place),
            threshold="FAIL on any", limit=0.0, evidence=None, meaning="From then on nothing that was learned there can be trusted.",
            causes=("a learning rate that is too high", "NaN in an input", "a logarithm or division without a floor"),
            remedies=(Remedy(code="lower_learning_rate", text="Lower the learning rate."),
                      Remedy(code="clean_numeric_fields", text="Remove NaN and infinite inputs.")))

    def _finding(self, verdict: Verdict, claim: str, estimate: Estimate, *, place: Place, threshold: str, limit: float, meaning: str,
                 causes: tuple[str, ...], remedies: tuple[Remedy, ...], evidence: Bars | Curve | None) -> Finding:
        return Finding(code=self.code, verdict=verdict, claim=claim, estimate=estimate, place=place, threshold=threshold, limit=limit,
                       meaning=meaning, causes=causes, remedies=remedies, evidence=() if evidence is None else (evidence,),
                       sources=self.sources)


def _layer_stats(scope: Scope) -> list[Bucketed]:
    columns = [f"@gradient_norm:{layer}" for layer in scope.layers]
    there = scope.reference if scope.reference.issuperset(columns) else scope.target
    return [scope.bucketed(Moments(column=column)) for column in columns] if there.issuperset((*columns, "@cluster")) else []


def _rms(total: MomentsSummary) -> float:
    return float(np.sqrt(total.mean**2 + total.m2 / total.count)) if total.count else float("nan")
