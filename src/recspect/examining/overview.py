"""What a reader expects to see of a run whatever the verdicts: one chapter per stage of the loop, one function per chapter.

A chapter is a function of the totals and the findings that returns evidence; `CHAPTERS` lists them in the order of the loop,
and `overview` puts the name of the chapter on every piece. What cannot be shown because it was not measured is left out: the
UNKNOWN finding says why. A page that has drawn a piece beside its finding refers to it instead of drawing it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.features.unused import Importance, importance_evidence, measured_importance
from recspect.diagnosis.evidence import Bars, Curve, Evidence, Line, RankedTable
from recspect.diagnosis.finding import Finding
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.stats.series import Series, SeriesLine
from recspect.diagnosis.tally import Key, Tally
from recspect.errors import Unavailable
from recspect.examining.scorecard import scorecard_of

MOST_FIELDS = 25
"""Fields in the pictures of importance; the table has all."""
_CURVES = {"training loss": (Series(name="loss/train"), "reference"), "validation loss": (Series(name="loss/validation"), "target"),
           "test loss": (Series(name="loss/test"), "target")}

NEEDS: tuple[Key, ...] = tuple((ALL, stat) for stat, _ in _CURVES.values())
"""Totals that the overview wants beyond those of the diagnostics, where their columns are there."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What a chapter may draw from: the totals of both sides, what was examined, and the findings."""

    target: Tally
    reference: Tally
    scope: Scope
    findings: Sequence[Finding]

    def pictures(self, *codes: str, most: int = 2) -> list[Evidence]:
        """The evidence of these diagnostics, whatever their verdict: of each the first finding that has some."""
        shown: list[Evidence] = []
        for code in codes:
            pieces = next((f.evidence for f in self.findings if f.code == code and f.evidence), ())
            shown += pieces[:most]
        return shown


def overview(target: Tally, reference: Tally, scope: Scope, findings: Sequence[Finding]) -> tuple[Evidence, ...]:
    """Pictures of the run by chapter, in the order of the loop."""
    examined = Examined(target=target, reference=reference, scope=scope, findings=findings)
    shown: list[Evidence] = []
    for stage, chapter in CHAPTERS.items():
        try:
            pieces = chapter(examined)
        except Unavailable:
            continue
        shown += [replace(piece, stage=stage) for piece in dict.fromkeys(pieces)]
    return tuple(shown)


# ---------------------------------------------------------------------- the chapters


def data(examined: Examined) -> list[Evidence]:
    """How far held-out rows differ from training rows."""
    tables = [piece for f in examined.findings if f.code == "data.drift" for piece in f.evidence if isinstance(piece, RankedTable)]
    return [*tables[:1], *examined.pictures("data.missing_values", most=1)]


def features(examined: Examined) -> list[Evidence]:
    """Importance of fields: what each does to the score (mean and deviation) beside what it does for the loss, and the table.

    Raises:
        Unavailable: Contributions were not measured.
    """
    fields = measured_importance(examined.target, examined.scope)
    scores = examined.pictures("features.spurious", most=8)
    return [reliance_bars(fields), *usefulness_bars(fields), *examined.pictures("features.disagreement"), *(scores or [importance_evidence(examined.target, examined.scope)[1]])]


def training(examined: Examined) -> list[Evidence]:
    """Loss over steps with the ends of epochs, and quality after each epoch."""
    return [*training_curves(examined.target), *examined.pictures("training.one_epoch", "training.overfitting", most=1)]


def embeddings(examined: Examined) -> list[Evidence]:
    """Spectra of the tables."""
    return examined.pictures("embeddings.collapse")


def predictions(examined: Examined) -> list[Evidence]:
    """Against baselines, calibration, slices."""
    return examined.pictures("predictions.ranking_quality", "predictions.rating_error", "predictions.calibration", "predictions.worst_slices")


def recommendations(examined: Examined) -> list[Evidence]:
    """Who gets the places of lists."""
    return examined.pictures("recommendations.popularity_bias", "recommendations.coverage")


def explanations(examined: Examined) -> list[Evidence]:
    """The interpretability scorecard.

    Raises:
        Unavailable: No explanations were scored.
    """
    return [scorecard_of(examined.target, examined.scope).table()]


CHAPTERS: dict[str, Callable[[Examined], list[Evidence]]] = {
    "data": data, "features": features, "training": training, "embeddings": embeddings, "predictions": predictions,
    "explanations": explanations, "recommendations": recommendations,
}
"""Stage to its chapter, in the order of the loop."""


# ---------------------------------------------------------------------- pictures that no finding has


def reliance_bars(fields: Sequence[Importance]) -> Bars:
    """How far each field moves the score: mean over rows, with the standard deviation over rows as its range."""
    top = fields[:MOST_FIELDS]
    return Bars(title="How far does each field move the score?", unit="mean size of its contribution to the logit",
                names=tuple(f.field for f in top), values=tuple(f.mean for f in top), low=tuple(max(0.0, f.mean - f.deviation) for f in top),
                high=tuple(f.mean + f.deviation for f in top),
                caption=f"{top[0].share.n:,} held-out rows; ranges are the mean ± one standard deviation over rows, not intervals of the mean"
                        + _first(top, fields))


def usefulness_bars(fields: Sequence[Importance]) -> list[Bars]:
    """How much loss each field takes off, in the order of `reliance_bars`; none where it was not measured."""
    top = fields[:MOST_FIELDS]
    measured = [f.usefulness for f in top]
    known = [use for use in measured if use is not None]
    if not known:
        return []
    return [Bars(title="Which of these fields help?", unit="nats of loss taken off per held-out row", names=tuple(f.field for f in top),
                 values=tuple(np.nan if use is None else use.value for use in measured),
                 low=tuple(np.nan if use is None or use.low is None else use.low for use in measured),
                 high=tuple(np.nan if use is None or use.high is None else use.high for use in measured),
                 highlighted=tuple(f.field for f in top if f.usefulness is not None and f.usefulness.value <= 0),
                 caption=f"{known[0].n:,} held-out rows, {100 * known[0].level:g}% intervals; fields in the same order; marked: does not lower the loss"
                         + _first(top, fields))]


def _first(top: Sequence[Importance], fields: Sequence[Importance]) -> str:
    return f"; the first {len(top)} of {len(fields)} fields" if len(top) < len(fields) else ""


def training_curves(target: Tally) -> list[Evidence]:
    """Loss over training steps with the ends of the epochs, where the run recorded it."""
    lines: list[Line] = []
    ends: dict[int, float] = {}
    for name, (stat, role) in _CURVES.items():
        line = target.get_summary(stat).line("") if target.has(stat) else None
        if line is not None and len(line.steps):
            lines.append(Line(name=name, x=tuple(map(float, line.steps)), y=tuple(map(float, np.asarray(line.values))), role=role))
            ends |= {epoch: max(step, ends.get(epoch, step)) for epoch, step in epoch_ends(line).items()}
    if not lines:
        return []
    last = max(x for line in lines for x in line.x)
    return [Curve(title="How did the loss fall during training?", x_title="step", y_title="loss (nats)", lines=tuple(lines),
                  marks=tuple((step, f"epoch {epoch} ends") for epoch, step in sorted(ends.items()) if step < last),
                  caption=f"{max(len(line.x) for line in lines):,} sampled steps of {last + 1:,.0f}")]


def epoch_ends(line: SeriesLine) -> dict[int, float]:
    """Last recorded step of each epoch that was recorded."""
    epochs = np.asarray(line.epochs)
    return {int(epoch): float(line.steps[epochs == epoch].max()) for epoch in np.unique(epochs) if epoch >= 0}


__all__ = ["CHAPTERS", "MOST_FIELDS", "NEEDS", "Examined", "epoch_ends", "overview", "reliance_bars", "training_curves", "usefulness_bars"]
