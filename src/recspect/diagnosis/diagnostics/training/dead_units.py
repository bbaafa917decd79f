"""Whether hidden units never fire."""

from __future__ import annotations

from collections.abc import Iterator

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import percent, plural, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stats.units import UnitActivity, UnitActivitySummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

FEWEST_ROWS = 1000
DEAD_FAIL, IDLE_WARN = 0.90, 0.50


class DeadUnits(Diagnostic):
    """Which layers have units that never fire?

    dead: max over rows of h <= 0. dormant: mean |h| at most 2.5 % of the layer's mean. Over held-out and training samples together.
    """

    code = "training.dead_units"
    question = "Are there layers whose units never fire?"
    sources = ("Sokar et al. 2023, The Dormant Neuron Phenomenon in Deep Reinforcement Learning",
               "Lu et al. 2019, Dying ReLU and Initialization")

    def needs(self, scope: Scope) -> Needs:
        if not scope.layers:
            raise Unavailable("no activations were seen", hint="examine a PyTorch model with hidden layers")
        stats = [_stat(layer) for layer in scope.layers]
        scope.require_target(*(stat.column for stat in stats))
        return Needs.of(target=stats, reference=[stat for stat in stats if stat.column in scope.reference])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        layers: dict[str, UnitActivitySummary] = {}
        for layer in scope.layers:
            summary = target.get_summary(_stat(layer))
            layers[layer] = summary + reference.get_summary(_stat(layer)) if reference.has(_stat(layer)) else summary
            require_rows(layers[layer].count, f"the activations of {layer}", least=FEWEST_ROWS)
        dead = {layer: float(s.dead.mean()) for layer, s in layers.items() if s.units}
        dormant = {layer: float((s.dormant() | s.dead).mean()) for layer, s in layers.items() if s.units}
        if not dead:
            raise Unavailable("the layers have no units", hint="look at the model with `recspect doctor`")
        verdicts = {layer: _verdict(dead[layer], dormant[layer]) for layer in dead}
        bars = Bars(title="Which share of each layer's units is dead or dormant?", unit="share of units", names=tuple(dead) * 2,
                    values=(*dead.values(), *dormant.values()), group=("dead",) * len(dead) + ("dead or dormant",) * len(dead),
                    highlighted=tuple(layer for layer, v in verdicts.items() if v is not Verdict.PASS),
                    caption=f"{min(s.count for s in layers.values()):,.0f} rows; dormant: mean activity at most 2.5 % of the layer's")
        named: dict[str, Verdict] = {layer: verdict for layer, verdict in verdicts.items() if verdict is not Verdict.PASS}
        if not named:
            named = {max(dead, key=lambda layer: dead[layer]): Verdict.PASS}
        for layer, verdict in named.items():
            yield self._finding(layer, layers[layer], verdict, bars)

    def _finding(self, layer: str, summary: UnitActivitySummary, verdict: Verdict, bars: Bars) -> Finding:
        units, dead = summary.units, int(summary.dead.sum())
        dormant = int((summary.dormant() & ~summary.dead).sum())
        rows = f"{summary.count:,.0f} rows"
        claim = (f"{dead} of {plural(units, 'unit')} of layer {layer} ({percent(dead / units)}) are dead: not above 0 in any of {rows}"
                 + (f"; {dormant} more hardly ever react." if dormant else "."))
        if verdict is Verdict.PASS:
            claim = "No layer is mostly dead or dormant; the most affected: " + claim
        share = (dead if verdict is not Verdict.WARN or dead / units > IDLE_WARN else dead + dormant) / units
        return Finding(
            code=self.code, verdict=verdict, claim=claim,
            place=Place() if verdict is Verdict.PASS else Place(kind="layer", name=layer),
            estimate=Estimate(value=share, unit="share of idle units", n=units, of="units"),
            threshold=f"FAIL above {DEAD_FAIL:.0%} dead, WARN above {IDLE_WARN:.0%} dead or dormant",
            limit=DEAD_FAIL if verdict is Verdict.FAIL else IDLE_WARN,
            meaning="Dead units pass on neither signal nor gradient: the layer is paid for but does nothing, and first-order and "
                    "factorisation parts can hide it from every quality metric.",
            causes=("a learning rate that was too high early on", "biases or inputs far below zero", "inputs that are not scaled"),
            remedies=(Remedy(code="lower_learning_rate", text="Lower the learning rate, or warm it up."),
                      Remedy(code="change_activation", text="Use GELU, SiLU or leaky ReLU."),
                      Remedy(code="reset_dead_units", text="Re-initialise the dead units and go on training (ReDo).")),
            evidence=(bars,), sources=self.sources)


def _stat(layer: str) -> UnitActivity:
    return UnitActivity(column=f"@activation:{layer}")


def _verdict(dead: float, idle: float) -> Verdict:
    if dead > DEAD_FAIL:
        return Verdict.FAIL
    return Verdict.WARN if idle > IDLE_WARN else Verdict.PASS
