"""What a model takes: bytes and numbers by part, operations counted as they are dispatched, table rows that training reads, and timed runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.subject import Subject, TorchSubject
from recspect.examining.tables import sample_of

if TYPE_CHECKING:
    from torch import nn

Ints = NDArray[np.int64]

COUNTED_ROWS, TIMED_ROWS, TIMED_RUNS = 256, 1000, 5
"""Rows whose operations are counted; rows of a timed run, and how many of these there are after one that is not timed."""

ITSELF = "the model itself"
"""Part of what belongs to no module below the model."""


@dataclass
class _Part:
    """Of one table or module, without the modules inside it.

    Args:
        numbers, learned: Parameters and buffers, and those of them that training changes.
        held: Their bytes.
        matrices: How many of them have two dimensions or more.
        operations: Floating-point operations of one row, forward.
        read: Bytes that one row looks up.
        made: Bytes that are computed for one row, forward: results of operations that are no views of what was there.
        seconds: Time that one row takes inside it, without what is inside; NaN where it was not taken.
        uses: How often training read each table row, None where that is not known or the table is not learned.
    """

    numbers: int = 0
    learned: int = 0
    held: int = 0
    matrices: int = 0
    operations: float = 0.0
    read: float = 0.0
    made: float = 0.0
    seconds: float = float("nan")
    table: bool = False
    uses: Ints | None = None


def costs_of(subject: TorchSubject, rows: Batch, uses: Mapping[str, Ints]) -> dict[str, Batch]:
    """Tables to add up: of the parts of the model, of a row, and of timed runs.

    Args:
        subject: The model, left as it was.
        rows: Held-out rows; the first ones of a sample are run.
        uses: Table to how often training read each of its rows, shape (table rows,), of tables of which that is known.
    """
    parts, row = counted(subject, sample_of(rows, COUNTED_ROWS), uses)
    seconds = timed_parts(subject, sample_of(rows, TIMED_ROWS))
    parts = parts.with_columns({"@part:seconds": np.array([seconds.get(str(name), np.nan) for name in parts["@part"]])})
    return {"by part": parts, "for a row": row, "in time": timed(subject, sample_of(rows, TIMED_ROWS))}


def counted(subject: TorchSubject, sample: Batch, uses: Mapping[str, Ints] | None = None) -> tuple[Batch, Batch]:
    """Bytes, numbers, operations and lookups of every part.

    Operations are those of matrix products, convolutions and attention, two per multiply-add, by the formulas of `torch.utils.flop_counter`; what acts number by number is not
    counted. The pass backward goes to the learned parameters and to the vectors that were looked up.

    Args:
        subject: The model, left as it was.
        sample: Rows to run.
        uses: Table to how often training read each of its rows, shape (table rows,), of tables of which that is known.

    Returns:
        One row per part, with the columns that begin with `@part` (NaN where training's reads are not known), and one row with the operations of a row forward and backward together
        (`@cost:operations_both_ways`, NaN where the score cannot be differentiated).
    """
    import torch

    own = dict(subject.model.named_parameters())
    learned = {name for name, parameter in own.items() if parameter.requires_grad}
    subject.sites(sample)
    inputs = subject.encode(sample)
    with subject.undisturbed() as stack:
        with torch.no_grad(), _operations(stack) as (_, computed):
            trace = subject.run(inputs, stack)
        tables = {lookup.table for lookup in trace.lookups}
        for name in learned - tables:
            own[name].requires_grad_(requires_grad=True)  # `undisturbed` has frozen these, and gives them back as they were
        leaves = [lookup.output.detach().requires_grad_(lookup.table in learned) for lookup in trace.lookups]
        with torch.enable_grad(), _operations(stack) as (counter, _):
            out = subject.run(inputs, stack, replay=leaves).additive
            forward = Counter(counter)
            wanted = [tensor for tensor in (*leaves, *(own[name] for name in sorted(learned - tables))) if tensor.requires_grad]
            backward = out.requires_grad and bool(wanted)
            if backward:
                torch.autograd.grad(out.sum(), wanted, allow_unused=True)
        both = sum(counter.values()) if backward else float("nan")
    parts = _held(subject.model, tables, learned)
    for place, operations in forward.items():
        parts.setdefault(place or ITSELF, _Part()).operations += operations / sample.rows
    for place, size in computed.items():
        parts.setdefault(place or ITSELF, _Part()).made += size / sample.rows
    for lookup in trace.lookups:
        parts[_of_table(lookup.table)].read += lookup.ids.numel() * lookup.weight.shape[1] * lookup.weight.element_size() / sample.rows
    for table, read in (uses or {}).items():
        if table in learned:
            parts[_of_table(table)].uses = read
    return _as_rows(parts), Batch({"@cost:operations_both_ways": np.array([both / sample.rows])})


def _held(model: nn.Module, tables: set[str], learned: set[str]) -> dict[str, _Part]:
    """Numbers and bytes of every table, and of every module without the tables and modules in it; a tensor with two names counts once."""
    parts: dict[str, _Part] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        part = parts.setdefault(_of_table(name) if name in tables else name.rpartition(".")[0] or ITSELF, _Part())
        part.table |= name in tables
        part.numbers += tensor.numel()
        part.learned += tensor.numel() if name in learned else 0
        part.held += tensor.numel() * tensor.element_size()
        part.matrices += tensor.dim() > 1
    return parts


def _of_table(name: str) -> str:
    return name.removesuffix(".weight")


def _operations(stack: list[str]) -> AbstractContextManager[tuple[Counter[str], Counter[str]]]:
    """Counts floating-point operations and computed bytes by the innermost module that runs, from the stack of `undisturbed`; backward passes belong to none."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import FlopCounterMode

    formulas = FlopCounterMode(display=False).flop_registry

    class Counting(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.found: Counter[str] = Counter()
            self.made: Counter[str] = Counter()

        def __enter__(self) -> tuple[Counter[str], Counter[str]]:
            super().__enter__()
            return self.found, self.made

        def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            out = func(*args, **kwargs)
            place = stack[-1] if stack else ""
            formula = formulas.get(func._overloadpacket)  # noqa: SLF001 - how torch.utils.flop_counter itself asks
            if formula is not None:
                self.found[place] += formula(*args, **kwargs, out_val=out)
            given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
            self.made[place] += sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in given)
            return out

    return Counting()


def _as_rows(parts: Mapping[str, _Part]) -> Batch:
    known = [part.uses for part in parts.values()]

    def numbers(values: list[float]) -> NDArray[np.float64]:
        return np.array(values, dtype=np.float64)

    def of_uses(what: Any) -> NDArray[np.float64]:
        return numbers([np.nan if uses is None else float(what(uses)) for uses in known])

    found = list(parts.values())
    return Batch({
        "@part": np.array(list(parts), dtype=object), "@part:numbers": numbers([part.numbers for part in found]), "@part:learned": numbers([part.learned for part in found]),
        "@part:bytes": numbers([part.held for part in found]), "@part:operations": numbers([part.operations for part in found]), "@part:read": numbers([part.read for part in found]),
        "@part:made": numbers([part.made for part in found]), "@part:seconds": numbers([part.seconds for part in found]),
        "@part:matrices": numbers([part.matrices for part in found]), "@part:table": numbers([part.table for part in found]), "@part:rows": of_uses(len), "@part:never": of_uses(lambda uses: (uses == 0).sum()),
        "@part:once": of_uses(lambda uses: (uses == 1).sum()), "@part:twice": of_uses(lambda uses: (uses == 2).sum()), "@part:lookups": of_uses(np.sum),
    })


def timed(subject: Subject, sample: Batch) -> Batch:
    """Seconds of scoring 1,000 rows, encoding included: one row for each of several runs, after one that does not count."""
    rows = sample.take(np.resize(np.arange(sample.rows), TIMED_ROWS))
    seconds = []
    for _ in range(TIMED_RUNS + 1):
        start = perf_counter()
        subject.score(rows)
        seconds.append(perf_counter() - start)
    return Batch({"@cost:run": np.arange(TIMED_RUNS), "@cost:seconds": np.array(seconds[1:])})


def timed_parts(subject: TorchSubject, sample: Batch) -> dict[str, float]:
    """Seconds per row inside every module, without the modules inside it: the median of several runs of 1,000 rows that are encoded already, after one that does not count.

    Where a graphics processor computes, a module's time is that of handing the work over.
    """
    rows = sample.take(np.resize(np.arange(sample.rows), TIMED_ROWS))
    inputs = subject.encode(rows)
    running: list[list[float]] = []
    runs: list[Counter[str]] = []

    def enter(_module: Any, _inputs: Any) -> None:
        running.append([perf_counter(), 0.0])

    def leave(name: str) -> Any:
        def left(_module: Any, _inputs: Any, _output: Any) -> None:
            start, inside = running.pop()
            whole = perf_counter() - start
            runs[-1][name or ITSELF] += whole - inside
            if running:
                running[-1][1] += whole

        return left

    import torch

    with subject.undisturbed() as stack, torch.no_grad():
        hooks = [hook for name, module in subject.model.named_modules()
                 for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave(name), always_call=True))]
        try:
            for _ in range(TIMED_RUNS + 1):
                runs.append(Counter())
                subject.run(inputs, stack)
        finally:
            for hook in hooks:
                hook.remove()
    return {name: float(np.median([run[name] for run in runs[1:]])) / TIMED_ROWS for name in runs[-1]}
