"""The words of what is told while a training goes on; codes, limits and remedies are those of the diagnostics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recspect.diagnosis.diagnostics.embeddings.collapse import FAIL as COLLAPSE_FAIL
from recspect.diagnosis.diagnostics.embeddings.collapse import WARN as COLLAPSE_WARN
from recspect.diagnosis.diagnostics.policy import number, percent
from recspect.diagnosis.diagnostics.training.dead_units import DEAD_FAIL, IDLE_WARN
from recspect.diagnosis.diagnostics.training.depth import Stack
from recspect.diagnosis.diagnostics.training.gradient_flow import BURST, VANISHING_RATIO
from recspect.diagnosis.diagnostics.training.loss_anomaly import ISOLATED, STAYS_UP
from recspect.diagnosis.diagnostics.training.one_epoch import SMALLEST_FALL
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.mirror import StepRow

_LOWER = Remedy(code="lower_learning_rate", text="Lower the learning rate, or warm it up.")
_CLIP = Remedy(code="clip_gradients", text="Clip gradients (or updates, Clippy).")
_CLEAN = Remedy(code="clean_numeric_fields", text="Remove NaN and infinite inputs; bound or log-scale numeric fields.")
_ACTIVATION = Remedy(code="change_activation", text="Use GELU, SiLU or leaky ReLU.")

_BAD = {
    "weights": "the weights of {place} are no longer finite", "gradient": "the gradient of {place} is the first that is not finite",
    "input": "the input of {place} holds them already, so they came from the data", "output": "{place} is the first module whose output is not finite",
    "unseen": "the loss is not finite, in a step whose modules were not looked at (every=1 would name the first one)",
}


def nonfinite(step: int, place: str, what: str) -> Finding:
    """NaN or infinities, and the first module in forward order that has them."""
    if what == "loss":
        return _loss_alone(step)
    return Finding(
        code="training.gradient_flow", verdict=Verdict.FAIL, place=Place(kind="layer", name=place) if place else Place(kind="step", name=str(step)),
        claim=f"NaN or infinite numbers at step {step:,}: {_BAD[what].format(place=place)}.", threshold="FAIL on any", limit=0.0,
        estimate=Estimate(value=float(step), unit="step", n=step, of="steps"),
        meaning="From then on nothing that is learned can be trusted: stop, and go on from an earlier state.",
        causes=("NaN or extreme values in the data",) if what == "input" else ("a learning rate that is too high", "a logarithm or division without a floor"),
        remedies=(_CLEAN,) if what == "input" else (_LOWER, _CLIP, _CLEAN))


def _loss_alone(step: int) -> Finding:
    """The loss is not finite, and nothing else was found to be."""
    return Finding(
        code="training.loss_anomaly", verdict=Verdict.FAIL, place=Place(kind="step", name=str(step)),
        claim=f"The loss is not finite at step {step:,}, while all outputs and weights are: the loss function made it.",
        threshold="FAIL on any", limit=0.0, estimate=Estimate(value=float(step), unit="step", n=step, of="steps"),
        meaning="One such step makes all weights NaN.", causes=("the logarithm of a probability of 0 or 1", "a division by a count of 0"),
        remedies=(Remedy(code="use_logits", text="Compute the loss from logits, not from probabilities."), _CLEAN))


def burst(step: int, place: str, times: float, *, n: int) -> Finding:
    """The gradient exploded."""
    where = f", most of all that of {place}" if place else ""
    return Finding(
        code="training.gradient_flow", verdict=Verdict.WARN, place=Place(kind="step", name=str(step)),
        claim=f"The gradient explodes: at step {step:,} its norm is {number(times, 0)} times that of the looks before{where} ({n} looks).",
        estimate=Estimate(value=times, unit="times the trailing median", n=n, of="looks"), threshold=f"WARN above {BURST:.0f} times", limit=BURST,
        meaning="One burst can undo thousands of steps, and often comes before the loss diverges.",
        causes=("a learning rate that is too high", "rows with extreme values", "a growing logit without normalisation"), remedies=(_CLIP, _LOWER, _CLEAN))


def spike(step: int, loss: float, z: float, *, stays: bool, n: int, seen_at: int) -> Finding:
    """The training loss jumped."""
    return Finding(
        code="training.loss_anomaly", verdict=Verdict.FAIL if stays else Verdict.WARN, place=Place(kind="step", name=str(step)),
        claim=f"The training loss jumped {'and stayed up' if stays else 'for a moment'}: {number(loss)} at step {step:,}, {number(z, 0)} robust deviations "
              f"above the steps before ({n} recorded losses, seen at step {seen_at:,}).",
        estimate=Estimate(value=z, unit="robust deviations", n=n, of="steps"), limit=STAYS_UP if stays else ISOLATED,
        threshold=f"FAIL above {STAYS_UP:.0f} robust deviations in two of three recorded steps, WARN above {ISOLATED:.0f} in one",
        meaning="A jump means that the update before it did harm.",
        causes=("a learning rate that is too high", "rows with extreme values or wrong labels", "a change of the data at that step"),
        remedies=(_LOWER, _CLIP, _CLEAN))


def vanishing(step: int, stack: Stack) -> Finding:
    """The gradient does not reach the first layer of a stack."""
    ratio = float(np.median(stack.ratios))
    return Finding(
        code="training.gradient_flow", verdict=Verdict.WARN, place=Place(kind="layer", name=stack.names[0]),
        claim=f"The gradient all but vanishes on its way to {stack.names[0]}: its norm there is {ratio:.1e} times that at {stack.names[-1]} "
              f"(median of {len(stack.ratios)} looks up to step {step:,}).",
        estimate=Estimate(value=ratio, unit="gradient norm of the first layer over the last", n=len(stack.ratios), of="looks"),
        threshold=f"WARN below {VANISHING_RATIO:g}", limit=VANISHING_RATIO, meaning="Layers that get no gradient stay as they were initialised.",
        causes=("a deep stack of sigmoid or tanh layers", "dead ReLU layers above", "weights too small at the start"),
        remedies=(_ACTIVATION, Remedy(code="fewer_layers", text="Use fewer layers, or residual connections."),
                  Remedy(code="add_normalisation", text="Put a normalisation layer before each activation.")))


def no_gradient(step: int, place: str, *, n: int) -> Finding:
    """A weight never got a gradient."""
    return Finding(
        code="training.gradient_flow", verdict=Verdict.FAIL, place=Place(kind="layer", name=place),
        claim=f"No gradient reaches {place}: it was exactly 0 at each of the last {n} looks up to step {step:,}.",
        estimate=Estimate(value=0.0, unit="gradient norm", n=n, of="looks"), threshold=f"FAIL when 0 at {n} looks in a row", limit=0.0,
        meaning="What gets no gradient learns nothing.", causes=("a dead ReLU layer above", "an output that the loss does not use"),
        remedies=(_ACTIVATION, _LOWER))


def dead(row: StepRow, verdict: Verdict, *, rows: int) -> Finding:
    """Units of a layer never fire."""
    return Finding(
        code="training.dead_units", verdict=verdict, place=Place(kind="layer", name=row.place),
        claim=f"{percent(row.value)} of the units of {row.place} are dead at step {row.step:,}: not above 0 in any of the last {rows:,} rows looked at.",
        estimate=Estimate(value=row.value, unit="share of dead units", n=rows, of="rows"),
        threshold=f"FAIL above {DEAD_FAIL:.0%} dead, WARN above {IDLE_WARN:.0%}", limit=DEAD_FAIL if verdict is Verdict.FAIL else IDLE_WARN,
        meaning="Dead units pass on neither signal nor gradient.",
        causes=("a learning rate that was too high early on", "biases or inputs far below zero", "inputs that are not scaled"),
        remedies=(_LOWER, _ACTIVATION, Remedy(code="reset_dead_units", text="Re-initialise the dead units and go on training (ReDo).")))


def collapse(row: StepRow, verdict: Verdict) -> Finding:
    """The rows of a table that steps touch use few of its dimensions."""
    return Finding(
        code="embeddings.collapse", verdict=verdict, place=Place(kind="table", name=row.place),
        claim=f"The embedding table {row.place} is collapsing: the rows that step {row.step:,} touched use {percent(row.value)} of its dimensions.",
        estimate=Estimate(value=row.value, unit="effective dimensions / width", n=row.step, of="steps"),
        threshold=f"FAIL up to {COLLAPSE_FAIL:.0%} of the width, WARN below {COLLAPSE_WARN:.0%}", limit=COLLAPSE_FAIL if verdict is Verdict.FAIL else COLLAPSE_WARN,
        meaning="Dimensions that all vectors share carry nothing.",
        causes=("strong weight decay on embeddings", "interaction with fields of few categories", "a width far beyond what the field needs"),
        remedies=(Remedy(code="lower_embedding_decay", text="Lower the weight decay on embeddings."),
                  Remedy(code="narrow_embeddings", text="Use narrower embeddings for this field.")))


def cliff(row: StepRow, first: float, fall: float) -> Finding:
    """Quality on new rows fell after the first epoch."""
    higher = row.series.startswith("auc")
    name = "AUC" if higher else "loss"
    return Finding(
        code="training.one_epoch", verdict=Verdict.WARN, place=Place(kind="epoch", name=str(row.epoch)),
        claim=f"The model memorises after the first epoch: validation {name} is {number(row.value)} after epoch {row.epoch}, and was {number(first)} after "
              "epoch 1, the best so far.",
        estimate=Estimate(value=-fall if higher else fall, unit="AUC, this epoch less the first" if higher else "rise of the loss over the first epoch", n=row.epoch,
                          of="epochs"),
        threshold=f"WARN at a fall of more than {SMALLEST_FALL} AUC, or a loss more than 1% higher", limit=-SMALLEST_FALL if higher else 0.01,
        meaning="From the second pass on, embeddings of rare ids fit the very rows they have met.",
        causes=("id fields with few rows per id", "a fast optimiser at a high rate on embeddings"),
        remedies=(Remedy(code="stop_after_one_epoch", text="Train for one epoch."),
                  Remedy(code="reset_embeddings_each_epoch", text="Re-initialise the embeddings at each epoch (MEDA).")))


def at_step(finding: Finding, step: int) -> Finding:
    """The same finding, with the step at which it was told."""
    return replace(finding, claim=f"{finding.claim[:-1]} (step {step:,}).", place=Place(kind="step", name=str(step)))
