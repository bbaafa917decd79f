"""What a model loses when it does not know the fields of a modality: the loss without them, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.probes.permutation import PermutedRows, positions_of
from recspect.diagnosis.subject import SCORE_ROWS, as_scores
from recspect.errors import UsageError

Floats = NDArray[np.float64]

_SMALLEST = 1e-12
"""Probabilities nearer to 0 or 1 count as this far from them."""


class WithoutGroupsProbe(Probe):
    """Adds `@loss_without:g`: the row's loss without the fields of group g, less its loss as it is, in nats (or squared units).

    Without means: the score's mean over rows from which the group's values could have come, so that a group that is noise lowers the loss when it goes. From R donors per row, L(mean of R scores) exceeds what
    endlessly many would give by about c / R and the mean of the R losses by c, so (R L(mean) - mean L) / (R - 1) is taken, which is exact for squared errors. NaN where a score is no probability.

    Args:
        rows: The sample with its groups and repeats, of which there must be two or more; batches must carry its column `@position`.
        binary: Whether the loss is log loss.
        label: Column of labels.
    """

    def __init__(self, rows: PermutedRows, *, binary: bool, label: str = "@label") -> None:
        if rows.repeats < 2:
            raise UsageError(f"{rows.repeats} repeats, expected at least 2")
        self.rows, self.binary, self.label = rows, binary, label

    @property
    def adds(self) -> tuple[str, ...]:
        return tuple(f"@loss_without:{name}" for name in self.rows.fields)

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        where, label, rows = positions_of(batch), batch.numbers(self.label), self.rows
        out: dict[str, Floats] = {name: np.empty(batch.rows) for name in self.adds}
        with nullcontext() if rows.recorded is None else rows.recorded.running():
            for start in range(0, batch.rows, SCORE_ROWS):
                chosen = slice(start, start + SCORE_ROWS)
                mine, y = where[chosen], label[chosen]
                piece = None if rows.recorded is None else rows.recorded.piece(mine)
                own = rows.subject.score(rows.sample.take(mine)) if piece is None else as_scores(piece.score(), len(mine))
                for name, column in zip(rows.fields, self.adds, strict=True):
                    scores = np.stack([rows.scores(mine, piece, name, repeat) for repeat in range(rows.repeats)])
                    single, together = self._loss(scores, y).mean(0), self._loss(scores.mean(0), y)
                    out[column][chosen] = (rows.repeats * together - single) / (rows.repeats - 1) - self._loss(own, y)
        return out

    def _loss(self, score: Floats, label: Floats) -> Floats:
        if not self.binary:
            return np.square(score - label)
        p = np.where((score >= 0) & (score <= 1), np.clip(score, _SMALLEST, 1 - _SMALLEST), np.nan)
        return -label * np.log(p) - (1 - label) * np.log1p(-p)
