"""Whether held-out quality falls after an early epoch while training quality goes on rising."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between
from recspect.diagnosis.diagnostics.training.goodness import Goodness
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import jackknife
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

SMALLEST_FALL = 0.002
CHANCE = 0.01
"""Two-sided chance of a fall that is none, over all choices of the best epoch."""


class OneEpoch(Diagnostic):
    """Does held-out quality fall after the first pass while training quality rises?

    G = AUC(held-out, last epoch) - AUC(held-out, best epoch), paired over users. FAIL where the model that was kept suffers, WARN
    where an earlier epoch was kept.
    """

    code = "training.one_epoch"
    question = "Does quality on new rows fall after the first pass over the training rows?"
    sources = ("Zhang et al. 2022, Towards Understanding the Overfitting Phenomenon of Deep Click-Through Rate Models",
               "Liu et al. 2023, Multi-Epoch Learning for Deep Click-Through Rate Prediction Models")

    def needs(self, scope: Scope) -> Needs:
        if len(scope.epochs) < 2:
            raise Unavailable("the scores of at least two epochs are needed", hint="keep a checkpoint of every epoch")
        goodness = Goodness.of(scope)
        columns = [_column(epoch) for epoch in scope.epochs]
        scope.require_target(*columns, "@label")
        scope.require_reference(*columns, "@label")
        stats = [scope.bucketed(goodness.stat(column)) for column in columns]
        kept = [scope.bucketed(goodness.stat())] if "@score" in scope.target else []
        return Needs.of(both=stats, target=kept)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        goodness, epochs = Goodness.of(scope), scope.epochs
        stats = [scope.bucketed(goodness.stat(_column(epoch))) for epoch in epochs]
        new, old = [target.get_summary(stat) for stat in stats], [reference.get_summary(stat) for stat in stats]
        goodness.require(new[0].total, "the held-out rows")
        goodness.require(old[0].total, "the training rows")
        held_out = [goodness.value(summary.total) for summary in new]
        train = [goodness.value(summary.total) for summary in old]
        if not np.isfinite([*held_out, *train]).all():
            raise Unavailable(f"{goodness.name} is undefined after some epoch", hint="look for NaN scores")
        best, last = int(np.argmax(held_out)), len(epochs) - 1
        kept = _kept(target, scope, goodness, [summary.total for summary in new])
        change = jackknife([new[best], new[last]], lambda t: goodness.value(t[1]) - goodness.value(t[0]),
                           unit=f"{goodness.name}, last epoch less best epoch", n=int(new[0].total.count),
                           level=1 - CHANCE / (len(epochs) - 1))  # the best of several is chosen by looking: Bonferroni
        rises = train[last] > train[best]
        falls = best < last and rises and change.surely_below(0) and change.value < -SMALLEST_FALL
        first, final = epochs[best], epochs[last]
        numbers = (f"held-out {goodness.name} falls from {held_out[best]:.3f} (epoch {first}) to {held_out[last]:.3f} "
                   f"(epoch {final}) (change {between(change, 3)}, {change.n:,} held-out rows) while training "
                   f"{goodness.name} rises from {train[best]:.3f} to {train[last]:.3f}.")
        if not falls:
            verdict = Verdict.PASS
            claim = (f"Held-out {goodness.name} does not fall as training goes on: {held_out[0]:.3f} after epoch {epochs[0]}, "
                     f"{held_out[last]:.3f} after epoch {final}, best {held_out[best]:.3f} after epoch {first}.")
            if best < last and change.value < 0:
                claim = (f"No fall beyond chance or {SMALLEST_FALL}: held-out {goodness.name} is {held_out[best]:.3f} after epoch "
                         f"{first} and {held_out[last]:.3f} after epoch {final} (change {between(change, 4)}).")
        elif kept <= best:
            verdict = Verdict.WARN if best == 0 else Verdict.PASS
            claim = (f"The model memorises after epoch {first}: {numbers} The model of epoch {epochs[kept]} was kept, so it "
                     "does not suffer; more epochs would not help.")
        else:
            verdict = Verdict.FAIL if best == 0 else Verdict.WARN
            when = "the first pass" if best == 0 else f"epoch {first}"
            claim = f"The model memorises after {when}: {numbers} The model of epoch {epochs[kept]} was kept."
        yield Finding(
            code=self.code, verdict=verdict, claim=claim, estimate=change, place=Place(kind="epoch", name=str(first)) if falls else Place(), limit=-SMALLEST_FALL,
            threshold=f"a fall beyond chance of more than {SMALLEST_FALL} {goodness.name}, while training {goodness.name} rises "
                      f"(interval at {100 * change.level:.1f}%, as the best of {len(epochs)} epochs was chosen by looking)",
            meaning="From the second pass on, embeddings of rare ids fit the very rows they have met, and the layers above come to "
                    "trust them.",
            causes=("id fields with few rows per id", "a fast optimiser (Adam, RMSprop) at a high rate on embeddings",
                    "embedding layers under a large network"),
            remedies=(Remedy(code="stop_after_one_epoch", text="Train for one epoch."),
                      Remedy(code="reset_embeddings_each_epoch", text="Re-initialise the embeddings at each epoch (MEDA)."),
                      Remedy(code="raise_minimum_count", text="Let rare ids share one embedding (minimum_count).")),
            evidence=(_curve(goodness, epochs, held_out, train, kept),), sources=self.sources)


def _column(epoch: int) -> str:
    return f"@score:epoch-{epoch}"


def _kept(target: Tally, scope: Scope, goodness: Goodness, epochs: list[Any]) -> int:
    """Position of the epoch whose scores are the model's own: the same quality and loss. The last one where unknown."""
    stat = scope.bucketed(goodness.stat())
    if not target.has(stat):
        return len(epochs) - 1
    own = target.get_summary(stat).total
    away = [abs(goodness.value(epoch) - goodness.value(own)) + abs(goodness.loss(epoch) - goodness.loss(own)) for epoch in epochs]
    return int(np.argmin(away))


def _curve(goodness: Goodness, epochs: tuple[int, ...], held_out: list[float], train: list[float], kept: int) -> Curve:
    x = tuple(float(epoch) for epoch in epochs)
    return Curve(title="Does quality on new rows fall as training goes on?", x_title="epoch", y_title=goodness.name,
                 lines=(Line(name="held-out", x=x, y=tuple(held_out)),
                        Line(name="training", x=x, y=tuple(train), role="reference")),
                 marks=((x[kept], "kept"),), caption="measured on the same rows after every epoch")
