"""What a reader expects to see of a run whatever the verdicts: training curves, importance, and the pictures behind what passed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.features.unused import importance_evidence
from recspect.diagnosis.evidence import Curve, Evidence, Line
from recspect.diagnosis.finding import Finding, Verdict
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.stats.series import Series
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

SHOWN = ("predictions.ranking_quality", "predictions.calibration", "embeddings.collapse", "recommendations.popularity_bias",
         "training.one_epoch")
"""Findings whose pictures belong into every report, also when they passed."""


def overview(target: Tally, reference: Tally, scope: Scope, findings: Sequence[Finding]) -> tuple[Evidence, ...]:
    """Pictures of the run in the order of the loop: training, importance, then what the judges looked at and found in order."""
    shown: list[Evidence] = []
    shown += training_curves(target)
    with suppress(Unavailable):
        shown += importance_evidence(target, scope)
    for code in SHOWN:
        for finding in findings:
            if finding.code == code and finding.verdict is Verdict.PASS:
                shown += finding.evidence[:2]
    del reference
    return tuple(shown)


def training_curves(target: Tally) -> list[Evidence]:
    """Loss over training steps, where the run recorded it."""
    lines = []
    for (slice_, stat), summary in target.entries.items():
        if slice_ != ALL or not isinstance(stat, Series) or stat.name not in ("loss/train", "loss/validation"):
            continue
        line = summary.line("")
        if line is not None and len(line.steps):
            name = "training loss" if stat.name == "loss/train" else "validation loss"
            lines.append(Line(name=name, x=tuple(map(float, line.steps)), y=tuple(map(float, np.asarray(line.values))),
                              role="reference" if stat.name == "loss/train" else "target"))
    if not lines:
        return []
    return [Curve(title="How did the loss fall during training?", x_title="step", y_title="loss (nats)", lines=tuple(lines))]
