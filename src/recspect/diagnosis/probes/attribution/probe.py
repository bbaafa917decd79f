"""Attributions as columns, for stats to add up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.probes.attribution.baselines import Baseline
from recspect.diagnosis.probes.attribution.integration import integrated_gradients
from recspect.diagnosis.probes.attribution.quadrature import RuleName
from recspect.diagnosis.subject import TorchSubject


class AttributionProbe(Probe):
    """What every field contributed to the score of a row.

    Adds `@attribution:f` (signed, logit), `@reliance:f` (its size), `@usefulness:f` (nats) for every field f, and
    `@completeness_error`, `@explained` (size of score - baseline) per row.

    Args:
        subject: The model.
        baseline: Where paths begin, the same for every batch.
        label: Column of labels for usefulness, or None.
        steps, rule, tolerance: See `integrated_gradients`; None steps take as many points as each row needs.
    """

    def __init__(self, subject: TorchSubject, *, baseline: Baseline, label: str | None = "@label", steps: int | None = 8,
                 rule: RuleName = "auto", tolerance: float = 0.01) -> None:
        self.subject, self.baseline, self.label, self.steps, self.rule, self.tolerance = subject, baseline, label, steps, rule, tolerance

    @property
    def adds(self) -> tuple[str, ...]:
        fields = self.subject.sites().fields
        kinds = ("attribution", "reliance", *(("usefulness",) if self.label else ()))
        return (*(f"@{kind}:{field}" for kind in kinds for field in fields), "@completeness_error", "@explained")

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        label = batch.numbers(self.label) if self.label else None
        found = integrated_gradients(self.subject, batch, baseline=self.baseline, steps=self.steps, rule=self.rule, label=label,
                                     tolerance=self.tolerance)
        columns: dict[str, Column] = {}
        for field in self.subject.sites().fields:
            signed = _array(found.reliance[field])
            columns[f"@attribution:{field}"] = signed
            columns[f"@reliance:{field}"] = np.abs(signed)
            if label is not None:
                columns[f"@usefulness:{field}"] = _array(found.usefulness[field])
        columns["@completeness_error"] = _array(found.error)
        columns["@explained"] = np.abs(_array(found.score - found.baseline))
        return columns


def _array(tensor: Tensor) -> NDArray[np.float64]:
    out: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return out
