"""Passes in which some fields of every row are taken from other rows, without reading tables again.

Shapes: B rows of the sample, R rows of a piece, F fields, D embedding width, K columns of a matrix's input, H its outputs.

A sample is encoded and its lookups are recorded once. In a pass with exchanged fields only their lookups are put together anew. Where a matrix
product reads a concatenation of lookups (the first layer of nearly every recommender), its result is kept, and only what the exchanged columns change is added:
D of K columns instead of all. Which columns are copies of which lookup is told by a pass with random numbers; columns that are none are always compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.lookups import Trace, require_gradient, undisturbed
from recspect.diagnosis.probes.attribution.points import Layout
from recspect.diagnosis.probes.linear_calls import LinearInputs, is_linear
from recspect.diagnosis.sites import check_same
from recspect.diagnosis.subject import SCORE_ROWS, TorchSubject
from recspect.errors import SubjectError

_WORTH_TAKING_OUT = 0.7
"""Share of rows that change, below which these are taken out and run alone: taking out costs a copy of their lookups."""

_FEW = 16
"""Rows of the pass that tells which columns are copies."""


class RecordedRows:
    """The inputs and lookups of a sample of rows.

    Args:
        subject: The model.
        batch: The rows, B of them.
        budget_mib: Lookups may take so much memory.
        whole_passes: Keep no results of first layers and take no rows out. What is kept makes rows that are equal in all fields differ by rounding, where they
            came to it on different ways; measures of short lists, which count ties, shall not see that.

    Raises:
        SubjectError: Inputs are no dict of tensors by row, lookups are not row by row or cannot be told, or they take more memory than allowed.
    """

    def __init__(self, subject: TorchSubject, batch: Batch, *, budget_mib: float = 1024.0, whole_passes: bool = False) -> None:
        self.subject, self.rows = subject, batch.rows
        self._stack: list[str] | None = None
        self.sites = subject.sites(batch)
        self.inputs: dict[str, Tensor] = subject.encode(batch)
        if not isinstance(self.inputs, dict) or not all(isinstance(t, Tensor) and t.dim() and t.shape[0] == batch.rows for t in self.inputs.values()):
            raise SubjectError("fields can be exchanged only in inputs that are a dict of tensors, each with one entry per row",
                               hint="let encode(batch) return a dict, and take it apart in forward=lambda model, inputs: ...")
        with undisturbed(subject.model, naming=False) as stack:
            self.layout = Layout.of(subject, self.sites, stack, batch)
            if not self.layout.repeatable:
                raise SubjectError("inputs do not grow with the rows, so that rows cannot be taken apart")
            with torch.no_grad():
                values: list[list[Tensor]] = [[] for _ in self.sites.lookups]
                self.width: list[int | None] = [None] * len(values)
                taken = 0
                for start in range(0, batch.rows, SCORE_ROWS):
                    trace = subject.run(_rows(self.inputs, slice(start, start + SCORE_ROWS)), stack)
                    check_same(self.sites, trace)
                    own = min(SCORE_ROWS, batch.rows - start)
                    for k, lookup in enumerate(trace.lookups):
                        value = lookup.output.detach()
                        if not self.layout.per_row[k]:
                            values[k] = [value]
                            continue
                        if value.shape[0] != own:  # all entries of all rows at once, [R * L, D]
                            self.width[k] = value.shape[0] // own
                            value = value.reshape(own, -1, value.shape[-1])
                        values[k].append(value)
                        taken += value.numel() * value.element_size()
                    if taken > budget_mib * 2**20:
                        raise SubjectError(f"the lookups of {batch.rows:,} rows take more than {budget_mib:g} MiB", hint="take fewer rows")
                self.values = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in values]
            self.copies = {} if whole_passes else _copies(self, stack)
        self.whole_passes = whole_passes

    @contextmanager
    def running(self) -> Iterator[list[str]]:
        """The model made ready once for many passes."""
        if self._stack is not None:
            yield self._stack
            return
        with undisturbed(self.subject.model, naming=False) as stack:
            self._stack = stack
            try:
                yield stack
            finally:
                self._stack = None

    def piece(self, rows: NDArray[np.int64]) -> Piece:
        """Some of the rows, at hand for passes."""
        at = torch.from_numpy(np.ascontiguousarray(rows))
        return Piece(self, _rows(self.inputs, at), [value[at] if grows else value for value, grows in zip(self.values, self.layout.per_row, strict=True)])


@dataclass
class Piece:
    """Some rows of a recorded sample.

    Args:
        recorded: The sample.
        inputs: Their encoded inputs.
        values: Their lookups, shape [R, ...] each.
    """

    recorded: RecordedRows
    inputs: dict[str, Tensor]
    values: list[Tensor]
    _products: list[tuple[Tensor, Tensor]] | None = field(default=None, repr=False)
    _own: Tensor | None = field(default=None, repr=False)

    def score(self) -> Tensor:
        """What the model gives for the rows themselves, shape [R]; kept, with the results of first layers, for `exchanged`."""
        keeping = _Keeping(self.recorded.copies)
        with keeping:
            self._own = self._pass(self.inputs, self.values).output
        self._products = keeping.kept
        return self._own

    def exchanged(self, fields: Sequence[str], donors: NDArray[np.int64]) -> Tensor:
        """The same with some fields taken from other rows of the sample, one donor per row; shape [R].

        Rows whose donor has the same value keep their score; where they are many, the others alone are run.
        """
        own = self.score() if self._own is None else self._own
        assert self._products is not None
        at = torch.from_numpy(np.ascontiguousarray(donors))
        changed = self._changed(fields, at)
        if changed is not None and not len(changed):
            return own.clone()
        few = changed if changed is not None and not self.recorded.whole_passes and len(changed) < _WORTH_TAKING_OUT * len(at) else None
        inputs, values = self._with(fields, at, few)
        with _Reusing(self.recorded.copies, self._products, fields, few) if self.recorded.copies else nullcontext():
            found = self._pass(inputs, values).output
        if changed is None:
            return found
        out = own.clone()
        out[changed] = found if few is not None else found[changed]
        return out

    def _changed(self, fields: Sequence[str], donors: Tensor) -> Tensor | None:
        """Positions of the rows whose encoded value differs from their donor's; None where a field's value cannot be seen in the inputs."""
        if not all(name in self.inputs for name in fields):
            return None
        differs = torch.zeros(len(donors), dtype=torch.bool)
        for name in fields:
            other = self.recorded.inputs[name][donors] != self.inputs[name]
            differs |= other.reshape(len(donors), -1).any(1).cpu()
        return differs.nonzero().reshape(-1)

    def slopes(self) -> tuple[Trace, list[Tensor | None], dict[str, Tensor | None]]:
        """One backward pass: the trace, and the gradient of the logit by every lookup and dense input."""
        leaves = [value.detach().clone().requires_grad_(value.is_floating_point()) for value in self.values]
        dense = {name: self.inputs[name].detach().clone().requires_grad_() for name in self.recorded.sites.dense}
        with self.recorded.running() as stack, torch.enable_grad():
            trace = self.recorded.subject.run({**self.inputs, **dense}, stack, replay=self._flat(leaves))
            require_gradient(trace.additive)
            found = torch.autograd.grad(trace.additive.sum(), [*leaves, *dense.values()], allow_unused=True)
        return trace, list(found[:len(leaves)]), dict(zip(dense, found[len(leaves):], strict=True))

    def moved(self, fields: Sequence[str], donors: NDArray[np.int64], slopes: tuple[list[Tensor | None], Mapping[str, Tensor | None]]) -> Tensor:
        """How far the logit moves, to first order, when fields are taken from other rows; shape [R]."""
        at = torch.from_numpy(np.ascontiguousarray(donors))
        inputs, values = self._with(fields, at)
        rows = len(at)
        total = torch.zeros(rows, dtype=torch.float64)
        for own, other, slope in zip(self.values, values, slopes[0], strict=True):
            if own is not other and slope is not None:
                total += ((other - own) * slope).reshape(rows, -1).sum(1).double().cpu()
        for name, slope in slopes[1].items():
            if name in fields and slope is not None:
                total += ((inputs[name] - self.inputs[name]) * slope).reshape(rows, -1).sum(1).double().cpu()
        return total

    def _with(self, fields: Sequence[str], donors: Tensor, few: Tensor | None = None) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Inputs and lookups with fields exchanged, of all rows or of a few."""
        recorded = self.recorded
        donors = donors if few is None else donors[few]
        inputs = {name: recorded.inputs[name][donors] if name in fields else tensor if few is None else tensor[few] for name, tensor in self.inputs.items()}
        values = []
        for k, (site, own) in enumerate(zip(recorded.sites.lookups, self.values, strict=True)):
            mine = [part for part in site.parts if part.field in fields]
            if mine and (mine[0].columns is None or len(mine) == len(site.parts)):
                values.append(recorded.values[k][donors])
                continue
            value = own if few is None or not recorded.layout.per_row[k] else own[few]
            if mine:
                columns = [column for part in mine for column in part.columns or ()]
                value = value.clone() if value is own else value
                value[:, columns] = recorded.values[k][donors.unsqueeze(1), torch.tensor(columns, device=donors.device)]
            values.append(value)
        return inputs, values

    def _flat(self, values: Sequence[Tensor]) -> list[Tensor]:
        return [value if width is None else value.flatten(0, 1) for value, width in zip(values, self.recorded.width, strict=True)]

    def _pass(self, inputs: dict[str, Tensor], values: Sequence[Tensor]) -> Trace:
        with self.recorded.running() as stack, torch.no_grad():
            return self.recorded.subject.run(inputs, stack, replay=self._flat(values))


def _rows(inputs: Mapping[str, Tensor], rows: slice | Tensor) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in inputs.items()}


# ---------------------------------------------------------------------- first layers


@dataclass(frozen=True)
class Copies:
    """Which columns of a matrix product's input are copies of whose lookups.

    Args:
        columns: Field to its columns.
        other: Columns that are copies of no lookup.
    """

    columns: Mapping[str, tuple[int, ...]]
    other: tuple[int, ...]

    def of(self, fields: Sequence[str]) -> slice | list[int]:
        """Columns that may change when these fields do."""
        found = sorted([*self.other, *(column for name in fields for column in self.columns.get(name, ()))])
        return slice(found[0], found[-1] + 1) if found and found[-1] - found[0] + 1 == len(found) else found


class _Keeping(TorchFunctionMode):
    """Keeps input and result of the linear layers that read copies."""

    def __init__(self, copies: Mapping[int, Copies]) -> None:
        super().__init__()
        self.copies, self.calls = copies, 0
        self.kept: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if is_linear(func, args):
            if self.calls in self.copies:
                self.kept.append((args[0].clone(), result.clone()))  # what follows may write in place
            self.calls += 1
        return result


class _Reusing(TorchFunctionMode):
    """Answers these linear layers with the kept result plus what the exchanged columns change."""

    def __init__(self, copies: Mapping[int, Copies], kept: Sequence[tuple[Tensor, Tensor]], fields: Sequence[str], few: Tensor | None) -> None:
        super().__init__()
        self.copies, self.fields, self.few, self.calls = copies, fields, few, 0
        self.kept = dict(zip(copies, kept, strict=True))

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if not is_linear(func, args):
            return func(*args, **(kwargs or {}))
        call, self.calls = self.calls, self.calls + 1
        if call not in self.copies:
            return func(*args, **(kwargs or {}))
        own, result = self.kept[call]
        columns = self.copies[call].of(self.fields)
        own, result = own[:, columns], result if self.few is None else result[self.few]
        if not own.shape[1]:
            return result.clone()
        return torch.addmm(result, args[0][:, columns] - (own if self.few is None else own[self.few]), args[1][:, columns].t())


def _copies(recorded: RecordedRows, stack: list[str]) -> dict[int, Copies]:
    """Number of the linear layer to its copies, for those of whose input at least half is copied.

    Random numbers in place of lookups make every column different from all others, so that equal means copied.
    """
    few = min(_FEW, recorded.rows)
    if few < 2 or not recorded.values:
        return {}
    generator = torch.Generator().manual_seed(0)
    piece = recorded.piece(np.arange(few))
    values = [torch.rand(value.shape, generator=generator).to(value) if grows and value.is_floating_point() else value
              for value, grows in zip(piece.values, recorded.layout.per_row, strict=True)]
    owner: dict[bytes, str] = {}
    for site, value in zip(recorded.sites.lookups, values, strict=True):
        for part in site.parts:
            own = value if part.columns is None else value[:, list(part.columns)]
            flat = own.reshape(few, -1).cpu().numpy()
            owner |= {flat[:, k].tobytes(): part.field for k in range(flat.shape[1])}
    seeing = LinearInputs()
    try:
        with torch.no_grad(), seeing:
            recorded.subject.run(piece.inputs, stack, replay=piece._flat(values))  # noqa: SLF001 - of this module
    except SubjectError:  # a model that minds random vectors goes without
        return {}
    found = {}
    for call, tensor in enumerate(seeing.inputs):
        if tensor.shape[0] != few or tensor.dtype != values[0].dtype:
            continue
        columns: dict[str, list[int]] = {}
        other = []
        flat = tensor.cpu().numpy()
        for k in range(tensor.shape[1]):
            name = owner.get(flat[:, k].tobytes())
            if name is None:
                other.append(k)
            else:
                columns.setdefault(name, []).append(k)
        if 2 * len(other) < tensor.shape[1] and len(columns) > 1:
            found[call] = Copies({name: tuple(own) for name, own in columns.items()}, tuple(other))
    return found
