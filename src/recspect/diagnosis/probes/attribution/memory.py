"""What rows and points of the path hold in memory, measured on a few rows, so that no pass exceeds a budget.

What a pass holds depends on the model: activations saved for the backward pass, gradients, slopes of averaged kinks, intermediate tensors. So it is counted, not
estimated: a pass of a few rows and one of twice as many run under a mode that sees every tensor come and go; the difference is what rows cost, the rest is there whatever
the rows.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.probes.attribution.baselines import Baseline
from recspect.diagnosis.probes.attribution.points import Layout, Recording
from recspect.diagnosis.probes.attribution.quadrature import edges
from recspect.diagnosis.sites import Sites, input_tensors
from recspect.diagnosis.subject import TorchSubject


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made while it is active, also in backward passes: how many are alive, and the most that were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}  # noqa: SLF001 - as torch's own MemTracker
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            key = storage._cdata  # noqa: SLF001
            if key not in given and key not in self._alive:
                self._alive.add(key)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return out

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _storages(values: Any) -> Iterator[UntypedStorage]:
    """The memory of tensors; sparse ones have none of their own."""
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and value.layout is torch.strided:
            yield value.untyped_storage()


@dataclass(frozen=True)
class Footprint:
    """What recordings and passes hold, in bytes.

    Args:
        fixed: Whatever the rows.
        recording: Per row while it is recorded.
        row: Per row from then on, sums and results included.
        point: Per row and node while nodes are evaluated.
    """

    fixed: float
    recording: float
    row: float
    point: float

    def sizes(self, budget: float, chunk_rows: int) -> tuple[int, int]:
        """(rows to record, rows times nodes in one pass), half of the budget for each; one row at three nodes is the least, whatever it takes."""
        half = max(0.0, budget - self.fixed) / 2
        points = int(min(chunk_rows, max(3, half // self.point)))
        return int(max(1, min(points, half // max(self.recording, self.row)))), points


_MEASURED: weakref.WeakKeyDictionary[TorchSubject, dict[Any, Footprint]] = weakref.WeakKeyDictionary()


def footprint(subject: TorchSubject, sites: Sites, stack: list[str], layout: Layout, batch: Batch, baseline: Baseline, *, weights: NDArray[np.float64],
              averaged: bool, label: bool) -> Footprint:
    """Count what a few rows of the batch hold, those with its longest lists among them. Kept for the next batch of the same shapes.

    Args:
        subject, sites, stack, layout, batch, baseline: See `Recording`; run inside `undisturbed`.
        weights: Of the rules that are evaluated first, shape (R, n).
        averaged: Whether kinks are averaged.
        label: Whether there are contributions to the loss.
    """
    few = _widest(batch)
    shapes = tuple((name, tensor.shape[1:], tensor.dtype) for name, tensor in input_tensors(subject.encode(batch.take(few))).items())
    known = _MEASURED.setdefault(subject, {})
    key = (shapes, weights.shape[0], min(3, weights.shape[1]), averaged, label, baseline.is_fixed, baseline.name)
    if key not in known:
        once, twice = (_counted(subject, sites, stack, layout, batch, baseline, np.tile(few, times), weights, averaged=averaged, label=label) for times in (1, 2))
        nodes = min(3, weights.shape[1])
        slope = [max(1.0, (b - a) / len(few)) for a, b in zip(once, twice, strict=True)]
        fixed = max(0.0, *(2 * a - b for a, b in zip(once, twice, strict=True)))
        sums = 8 * layout.columns * (len(weights) + 5 + 2 * label)
        known[key] = Footprint(fixed, slope[0], slope[1] + sums, slope[2] / nodes)
    return known[key]


def _counted(subject: TorchSubject, sites: Sites, stack: list[str], layout: Layout, batch: Batch, baseline: Baseline, rows: NDArray[np.int64],
             weights: NDArray[np.float64], *, averaged: bool, label: bool) -> tuple[float, float, float]:
    """Bytes at most while rows are recorded, bytes kept, and bytes at most on top of them while up to three nodes are evaluated."""
    n = min(3, weights.shape[1])
    nodes = (np.arange(n) + 0.5) / n
    with LiveBytes() as live:
        recording = Recording(subject, sites, stack, layout, batch.take(rows), baseline.take(rows), n * len(rows))
        inputs = sum(tensor.nbytes for tensor in input_tensors(recording.inputs).values())  # read from arrays, which no mode sees
        recorded, kept = live.peak + inputs, live.now
        live.peak = kept
        recording.integrate(nodes, weights[:, :n], edges=edges(np.full(n, 1 / n)) if averaged and n > 1 else None,
                            rows=np.arange(len(rows)), label=recording.score if label else None)
    return recorded, kept + inputs, live.peak - kept


def _widest(batch: Batch) -> NDArray[np.int64]:
    """The first row, and for every column of lists the row with the longest: lists are padded to the longest beside them."""
    found = {0}
    for name in batch:
        column = batch[name]
        if isinstance(column, Ragged):
            found.add(int(np.argmax(column.lengths)))
    return np.array(sorted(found), dtype=np.int64)
