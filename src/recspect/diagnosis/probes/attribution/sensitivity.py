"""How far the ranking of fields depends on where paths begin.

An attribution answers "compared with what?", and different baselines are different questions. Where they rank the fields differently, the ranking says more about
the baseline than about the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution.baselines import Baseline, mean_baseline, sampled_rows
from recspect.diagnosis.probes.attribution.integration import integrated_gradients
from recspect.diagnosis.ranks import rank_correlation
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class BaselineSensitivity:
    """The same rows explained from several baselines.

    Args:
        baselines: Their names.
        fields: F.
        reliance: Mean size of each field's contribution, in logits, shape (baselines, F).
        agreement: Spearman's rank correlation of the fields between every two baselines, shape (baselines, baselines), -1 to 1; NaN with
            fewer than 2 fields, or where all contribute alike.
        rows: How many rows were explained.
    """

    baselines: tuple[str, ...]
    fields: tuple[str, ...]
    reliance: NDArray[np.float64]
    agreement: NDArray[np.float64]
    rows: int

    @property
    def least(self) -> float:
        """The lowest agreement of any two baselines."""
        return float(self.agreement[np.triu_indices(len(self.baselines), 1)].min())


def baseline_sensitivity(subject: TorchSubject, batch: Batch, *, baselines: Sequence[Baseline] | None = None, tolerance: float = 0.01,
                         seed: int = 0) -> BaselineSensitivity:
    """Explain the rows from two or more baselines and compare the rankings of fields.

    Args:
        subject: The model.
        batch: Rows to explain.
        baselines: Default: the mean of these rows, and for every row another of them drawn at random.
        tolerance: See `integrated_gradients`.
        seed: Of the draw.

    Raises:
        UsageError: Fewer than two baselines.
    """
    if baselines is None:
        baselines = (mean_baseline(subject, batch), sampled_rows(batch, batch, seed=seed))
    if len(baselines) < 2:
        raise UsageError(f"comparing rankings needs 2 or more baselines, got {len(baselines)}")
    found = [integrated_gradients(subject, batch, baseline=baseline, tolerance=tolerance) for baseline in baselines]
    fields = subject.sites(batch).fields
    reliance = np.array([[float(one.reliance[name].abs().double().mean()) for name in fields] for one in found])
    return BaselineSensitivity(baselines=tuple(baseline.name for baseline in baselines), fields=fields, reliance=reliance,
                               agreement=np.array([[rank_correlation(one, other) for other in reliance] for one in reliance]), rows=batch.rows)
