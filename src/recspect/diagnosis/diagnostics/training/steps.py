"""What the series of a training run say as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.stats.series import SeriesSummary


def total_by_step(norms: SeriesSummary) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Norm of all parameters' gradients at each sampled step: the whole model's where recorded, else the root of the sum of squares."""
    whole = norms.line()
    if whole is not None and len(whole.steps):
        return whole.steps, whole.values
    lines = list(norms.lines.values())
    steps, inverse = np.unique(np.concatenate([line.steps for line in lines]), return_inverse=True)
    values = np.concatenate([line.values for line in lines])
    return steps, np.sqrt(np.bincount(inverse, values**2, len(steps)))


def nonfinite_values(counts: SeriesSummary, *others: SeriesSummary) -> tuple[str, int, float] | None:
    """(place, first step, how many) of NaN and infinities: as counted while training, or in the series themselves."""
    found: list[tuple[int, str, float]] = []
    for place, line in counts.lines.items():
        bad = np.flatnonzero(~(line.values == 0))
        if len(bad):
            found.append((int(line.steps[bad[0]]), place, float(np.nan_to_num(line.totals[bad], nan=1.0, posinf=1.0).sum())))
    for series in others:
        for place, line in series.lines.items():
            bad = np.flatnonzero(~np.isfinite(line.values))
            if len(bad):
                found.append((int(line.steps[bad[0]]), place, float(len(bad))))
    if not found:
        return None
    step, place, _ = min(found)
    return place, step, sum(count for _, _, count in found)
