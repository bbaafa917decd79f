"""Watching a PyTorch model while it trains: activations, gradients, weights and updates, every k steps.

Three lines in any training loop:

    observer = Observer(model, every=50, folder="runs/today")
    for inputs, label in batches:
        with observer.step() as look:                       # 1: counts the step
            loss = criterion(model(inputs), label)
            optimiser.zero_grad()
            loss.backward()
            look.before_update(loss)                        # 2: gradients are there, weights still old
            optimiser.step()
    observer.flush()                                        # 3: writes steps.parquet and histograms.parquet

Watching never changes a result: it draws no random numbers, assigns nothing, and hooks are on the model during sampled
steps only, which are also removed when a step raises. A step that is not sampled costs one comparison.

Sums, dot products and norms are used because they are vectorised (0.1 ms per million numbers; `torch.var_mean` takes 6).
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recspect.diagnosis.mirror import HistogramRow, Mirror, StepRow
from recspect.errors import UsageError
from recspect.files import write_bytes

OUTPUT = "(output)"
"""Place of what the whole model returns."""

HISTOGRAM_VALUES = 65_536
"""A histogram looks at most at so many evenly spaced numbers of a tensor."""

SNAPSHOT_VALUES = 4_194_304
"""The update of a parameter with a dense gradient is measured on at most so many numbers of evenly spaced rows."""

STEPS = pa.schema([("step", pa.int64()), ("epoch", pa.int32()), ("series", pa.string()), ("place", pa.string()),
                   ("value", pa.float64())])
"""Columns of steps.parquet."""

HISTOGRAMS = pa.schema([("step", pa.int64()), ("epoch", pa.int32()), ("series", pa.string()), ("place", pa.string()),
                        ("edges", pa.list_(pa.float64())), ("counts", pa.list_(pa.int64()))])
"""Columns of histograms.parquet."""


class Observer:
    """Rows about the inside of a model, in memory and (with a folder) in files.

    Args:
        model: Any module. Every leaf module and every module with parameters of its own is a place; so is what the
            model returns, `(output)`.
        every: Steps between two looks; the first step is looked at too. 0 looks never. The loss alone, which costs nothing
            more than reading it, is recorded ten times as often, so that a short run has enough of it to judge.
        histograms_every: Steps between two sets of histograms, rounded up to looks; 0 for none.
        folder: Where `flush` writes; None keeps rows in memory.
        steps_done: Steps before this loop (a resumed training): rows of later steps in the folder are dropped.
        bins: Of histograms.
        sinks: Told every row when its step is over (see docs/sinks.md). Their `open` and `close` are for who trains.

    Attributes:
        steps_done: Steps counted so far.
        epoch: Written beside every row; the loop sets it.
        first_nonfinite: (step, place) of the first NaN or infinity seen, or None.

    Series of `table()`, in the order of a step (place is a module, a parameter, or "" for the whole model):
        `activation_mean`, `_deviation`, `_zero_share`, `_absolute_mean` per module; `loss/train`; `gradient_norm`,
        `weight_norm`, `update_ratio` (norm of the update / norm of the weights; of a table with sparse gradients: over
        the rows that the step touched), `touched_rows` per parameter; `nonfinite`, the count of NaN and infinities.
    """

    def __init__(self, model: nn.Module, *, every: int = 50, histograms_every: int = 0,
                 folder: str | os.PathLike[str] | None = None, steps_done: int = 0, bins: int = 32,
                 sinks: Sequence[Mirror] = ()) -> None:
        if every < 0 or histograms_every < 0 or bins < 1:
            raise UsageError(f"every is {every}, histograms_every {histograms_every}, bins {bins}; expected 0, 0, 1 or more")
        self.model = model
        self.every = every
        self.histograms_every = histograms_every
        self.folder = None if folder is None else Path(folder)
        self.bins = bins
        self.steps_done = steps_done
        self.epoch = 1
        self.first_nonfinite: tuple[int, str] | None = None
        self._next_histograms = steps_done + 1
        self.sinks = tuple(sinks)
        self._rows: list[StepRow] = []
        self._histogram_rows: list[HistogramRow] = []
        self._tables = [_kept(self.folder, "steps.parquet", STEPS, steps_done)]
        self._histogram_tables = [_kept(self.folder, "histograms.parquet", HISTOGRAMS, steps_done)]
        self._untold: list[StepRow] = []
        self._untold_histograms: list[HistogramRow] = []
        if self.sinks:
            self._untold += [StepRow(*row.values()) for row in self._tables[0].to_pylist()]
            self._untold_histograms += [HistogramRow(*row.values()) for row in self._histogram_tables[0].to_pylist()]
            self._tell()

    @contextmanager
    def step(self) -> Iterator[Look]:
        """One training step: forward, backward and update happen inside."""
        self.steps_done += 1
        sampled = self.every > 0 and (self.steps_done == 1 or self.steps_done % self.every == 0)
        if not sampled:
            yield _LossOnly(self) if self.every > 0 and self.steps_done % max(1, self.every // 10) == 0 else _BLIND
            return
        histograms = self.histograms_every > 0 and self.steps_done >= self._next_histograms
        if histograms:
            self._next_histograms = self.steps_done + self.histograms_every
        look = _Open(self, histograms=histograms)
        try:
            yield look
            look.after_update()
        finally:
            look.close()
            self._tell()

    def record(self, series: str, value: float, place: str = "", *, step: int | None = None) -> None:
        """Add a row of one's own, such as a validation loss or a learning rate."""
        row = StepRow(self.steps_done if step is None else step, self.epoch, series, place, float(value))
        self._rows.append(row)
        if self.sinks:
            self._untold.append(row)

    def record_histogram(self, series: str, values: Tensor, place: str = "") -> None:
        """Add a histogram of finite values: equal bins from the smallest to the largest."""
        edges, counts = histogram(values, self.bins)
        if counts:
            row = HistogramRow(self.steps_done, self.epoch, series, place, edges, counts)
            self._histogram_rows.append(row)
            if self.sinks:
                self._untold_histograms.append(row)

    def saw_nonfinite(self, place: str) -> None:
        """Remember the first place."""
        if self.first_nonfinite is None:
            self.first_nonfinite = (self.steps_done, place)

    def table(self) -> pa.Table:
        """All rows: step, epoch, series, place, value."""
        self._tables, self._rows = [_joined(self._tables, self._rows, STEPS)], []
        return self._tables[0]

    def histograms(self) -> pa.Table:
        """All histograms: step, epoch, series, place, edges, counts."""
        self._histogram_tables = [_joined(self._histogram_tables, self._histogram_rows, HISTOGRAMS)]
        self._histogram_rows = []
        return self._histogram_tables[0]

    def flush(self) -> None:
        """Write both files, each atomically; nothing where the observer has no folder. Sinks are told what is new."""
        self._tell()
        if self.folder is not None:
            _write(self.folder / "steps.parquet", self.table())
            _write(self.folder / "histograms.parquet", self.histograms())

    def _tell(self) -> None:
        steps, histograms = self._untold, self._untold_histograms
        if steps or histograms:
            self._untold, self._untold_histograms = [], []
            for sink in self.sinks:
                sink.rows(steps, histograms)


class Look(ABC):
    """What a loop holds during a step. `sampled` says whether this step is looked at."""

    sampled: bool

    @abstractmethod
    def before_update(self, loss: Tensor | float, losses: Tensor | None = None) -> None:
        """Call between `backward` and the optimiser's step.

        Args:
            loss: Of the batch.
            losses: Per row, for its histogram.
        """


class _Blind(Look):
    """A step that is not sampled."""

    sampled = False

    def before_update(self, loss: Tensor | float, losses: Tensor | None = None) -> None:
        del loss, losses


_BLIND = _Blind()


class _LossOnly(Look):
    """A step of which only the loss is recorded; sinks are told of it at the next look."""

    sampled = False

    def __init__(self, observer: Observer) -> None:
        self.observer = observer

    def before_update(self, loss: Tensor | float, losses: Tensor | None = None) -> None:
        del losses
        self.observer.record("loss/train", float(loss.detach() if isinstance(loss, Tensor) else loss))


class _Open(Look):
    """A sampled step."""

    sampled = True

    def __init__(self, observer: Observer, *, histograms: bool) -> None:
        self.observer = observer
        self.with_histograms = histograms
        self.activations: dict[str, _Activation] = {}
        self.snapshots: list[_Snapshot] = []
        self.nonfinite = 0
        self.handles = [module.register_forward_hook(partial(self._see, name))
                        for name, module in places(observer.model).items()]

    def _see(self, place: str, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG002 - the hook's signature
        values = _first_tensor(output)
        if values is None or not values.is_floating_point() or values.numel() == 0:
            return
        values = values.detach()
        bad = self.activations.setdefault(place, _Activation()).add(values.float().reshape(-1))
        if bad:
            self._found(place, bad)
        if self.with_histograms:
            self.observer.record_histogram("activation", values, place)

    def before_update(self, loss: Tensor | float, losses: Tensor | None = None) -> None:
        self._unhook()
        observer = self.observer
        for place, seen in self.activations.items():
            for series, value in seen.figures().items():
                observer.record(series, value, place)
        observer.record("loss/train", float(loss.detach() if isinstance(loss, Tensor) else loss))
        if losses is not None and self.with_histograms:
            observer.record_histogram("loss", losses, "")
        gradient_squares, weight_squares = 0.0, 0.0
        for name, parameter in observer.model.named_parameters():
            weights = parameter.detach()
            weight_norm = float(torch.linalg.vector_norm(weights))
            observer.record("weight_norm", weight_norm, name)
            weight_squares += weight_norm**2
            if self.with_histograms:
                observer.record_histogram("weight", weights, name)
            if parameter.grad is None:
                continue
            rows, values = None, parameter.grad.detach()
            if values.is_sparse:
                summed = values.coalesce()
                rows, values = summed.indices()[0], summed.values()
                observer.record("touched_rows", len(rows), name)
            gradient_norm = float(torch.linalg.vector_norm(values)) if values.numel() else 0.0
            if not math.isfinite(gradient_norm):
                bad = int(values.numel() - torch.isfinite(values).sum())
                if bad:
                    self._found(name, bad)
            observer.record("gradient_norm", gradient_norm, name)
            gradient_squares += gradient_norm**2
            if self.with_histograms:
                observer.record_histogram("gradient", values, name)
            self.snapshots.append(_Snapshot(name, weights, rows))
        observer.record("gradient_norm", math.sqrt(gradient_squares))
        observer.record("weight_norm", math.sqrt(weight_squares))
        observer.record("nonfinite", self.nonfinite)

    def after_update(self) -> None:
        updates, befores = 0.0, 0.0
        for snapshot in self.snapshots:
            update, before = snapshot.norms()
            updates, befores = updates + update**2, befores + before**2
            if before > 0:
                self.observer.record("update_ratio", update / before, snapshot.name)
        if befores > 0:
            self.observer.record("update_ratio", math.sqrt(updates / befores))

    def close(self) -> None:
        self._unhook()
        self.snapshots.clear()

    def _found(self, place: str, count: int) -> None:
        self.nonfinite += count
        self.observer.saw_nonfinite(place)
        self.observer.record("nonfinite", count, place)

    def _unhook(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []


class _Activation:
    """Sums over all outputs of one module in one step. The spread is summed about the mean of each output."""

    def __init__(self) -> None:
        self.n, self.total, self.spread, self.zeros, self.absolute = 0, 0.0, 0.0, 0, 0.0

    def add(self, values: Tensor) -> int:
        """Add a flat float tensor; gives the count of NaN and infinities, which are left out."""
        total = float(values.sum())
        bad = 0
        if not math.isfinite(total):
            finite = torch.isfinite(values)
            bad = int(values.numel() - finite.sum())
            values = values[finite]
            total = float(values.cpu().double().sum())
        n = values.numel()
        if n == 0:
            return bad
        centred = values - total / n
        spread = float(torch.dot(centred, centred))
        if self.n:  # two parts of a variance: Chan, Golub and LeVeque 1979
            spread += (total / n - self.total / self.n) ** 2 * self.n * n / (self.n + n)
        self.n, self.total, self.spread = self.n + n, self.total + total, self.spread + spread
        self.zeros += n - int(torch.count_nonzero(values))
        self.absolute += float(torch.linalg.vector_norm(values, 1))
        return bad

    def figures(self) -> dict[str, float]:
        """Series name to value; nothing where no finite number was seen."""
        if not self.n:
            return {}
        return {"activation_mean": self.total / self.n, "activation_deviation": math.sqrt(self.spread / self.n),
                "activation_zero_share": self.zeros / self.n, "activation_absolute_mean": self.absolute / self.n}


class _Snapshot:
    """Weights before the update: the touched rows of a table, all of a small parameter, some rows of a large one."""

    def __init__(self, name: str, parameter: Tensor, rows: Tensor | None) -> None:
        self.name, self.parameter, self.rows = name, parameter, rows
        if rows is None and parameter.numel() > SNAPSHOT_VALUES and parameter.dim() > 0:
            stride = -(-parameter.numel() // SNAPSHOT_VALUES)
            self.rows = torch.arange(0, parameter.shape[0], stride, device=parameter.device)
        self.before = self._now().clone()

    def norms(self) -> tuple[float, float]:
        """Norm of the update and of the weights before it."""
        difference = self._now() - self.before
        return float(torch.linalg.vector_norm(difference)), float(torch.linalg.vector_norm(self.before))

    def _now(self) -> Tensor:
        return self.parameter if self.rows is None else self.parameter.index_select(0, self.rows)


def places(model: nn.Module) -> dict[str, nn.Module]:
    """What is watched: leaf modules and modules with parameters of their own, by name, and the model's output."""
    found = {name: module for name, module in model.named_modules()
             if name and (not any(module.children()) or any(True for _ in module.parameters(recurse=False)))}
    return {**found, OUTPUT: model}


def name_nonfinite(model: nn.Module, forward: Callable[[], Any]) -> str:
    """Why a loss is not finite, in words: bad parameters, else the first module whose output is bad.

    Args:
        model: In the state that gave the bad loss.
        forward: Runs the model on the batch that gave it.
    """
    bad = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter.detach()).all())]
    if bad:
        return f"the weights of {bad[0]!r} are no longer finite"
    seen: list[str] = []

    def look(place: str, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001 - the hook's signature
        values = _first_tensor(output)
        if values is not None and values.is_floating_point() and not bool(torch.isfinite(values).all()):
            seen.append(place)

    handles = [module.register_forward_hook(partial(look, name)) for name, module in places(model).items()]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return f"the first bad output is that of {seen[0]!r}" if seen else "all outputs are finite, the loss itself is not"


def histogram(values: Tensor, bins: int) -> tuple[list[float], list[int]]:
    """Edges (bins + 1) and counts (bins) of the finite values; two empty lists where there are none.

    Of a large tensor, evenly spaced numbers are counted; the stride shares no factor with the last dimension, so that
    all columns are seen alike.
    """
    flat = values.detach().reshape(-1)
    stride = max(1, -(-flat.numel() // HISTOGRAM_VALUES))
    width = values.shape[-1] if values.dim() > 1 else 1
    while math.gcd(stride, width) != 1:
        stride += 1
    some: NDArray[np.float64] = flat[::stride].float().cpu().numpy().astype(np.float64)
    some = some[np.isfinite(some)]
    if not len(some):
        return [], []
    low, high = float(some.min()), float(some.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):  # bins need a width that float64 can hold
        margin = max(abs(low), abs(high)) * 1e-3 or 0.5
        low, high = low - margin, high + margin
    edges = np.linspace(low, high, bins + 1)
    counts, _ = np.histogram(some, bins=edges)
    return edges.tolist(), counts.tolist()


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return next((value for value in output if isinstance(value, Tensor)), None)
    return None


def _kept(folder: Path | None, name: str, schema: pa.Schema, steps_done: int) -> pa.Table:
    if folder is None or steps_done == 0 or not (folder / name).is_file():
        return schema.empty_table()
    earlier = pq.read_table(folder / name).cast(schema)
    return earlier.filter(pc.field("step") <= steps_done)


def _joined(tables: list[pa.Table], rows: list[Any], schema: pa.Schema) -> pa.Table:
    if not rows:
        return tables[0]
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)]
    return pa.concat_tables([*tables, pa.Table.from_arrays(columns, schema=schema)])


def _write(path: Path, table: pa.Table) -> None:
    content = pa.BufferOutputStream()
    pq.write_table(table, content, compression="zstd")
    write_bytes(path, content.getvalue())
