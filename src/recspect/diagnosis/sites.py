"""Which lookup belongs to which field.

The evidence is tried in this order, and what cannot be told is an error that says how to name it, never a guess:

1. the user's word;
2. the ids share memory with one of the batch's tensors (this tells shared tables and repeated calls apart);
3. the ids, or one column of a fused lookup, equal one field's values up to a constant offset;
4. the table's parameter name holds the name of exactly one field;
5. the ids are the same in every row: positions and the like, no field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.lookups import Lookup, Trace
from recspect.errors import SubjectError, listing

if TYPE_CHECKING:
    from recspect.diagnosis.subject import TorchSubject


@dataclass(frozen=True)
class Part:
    """Some columns of a lookup's output that belong to one field.

    Args:
        field: Which.
        columns: Positions along dimension 1 of a [B, F, D] output, or None for the whole output.
    """

    field: str
    columns: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Site:
    """One lookup of the model.

    Args:
        position: Its place in the order of calls.
        table: Parameter name.
        parts: Which fields it serves; empty when it depends on none.
        how: The evidence, in words.
    """

    position: int
    table: str
    parts: tuple[Part, ...]
    how: str


@dataclass(frozen=True)
class Sites:
    """Everything through which fields enter the model.

    Args:
        lookups: In the order of calls.
        dense: Names of float inputs that are read directly.
        unread: Fields of the inputs that no lookup and no dense input reads.
        functions: Activation functions seen.
        has_logit: Whether the output is a sigmoid whose argument was seen.
        direct_reads: Looked-up tables that a matrix product also reads.
    """

    lookups: tuple[Site, ...]
    dense: tuple[str, ...]
    unread: tuple[str, ...]
    functions: tuple[str, ...]
    has_logit: bool
    direct_reads: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields that enter the model, in the order met."""
        found = [part.field for site in self.lookups for part in site.parts]
        return tuple(dict.fromkeys([*found, *self.dense]))


def resolve(subject: TorchSubject, sample: Batch) -> Sites:
    """Find the field of every lookup on a sample of rows.

    Raises:
        SubjectError: A lookup cannot be told.
    """
    inputs = subject.encode(sample)
    tensors = input_tensors(inputs)
    with subject.undisturbed() as stack, torch.no_grad():
        trace = subject.run(inputs, stack)
    if trace.output.numel() != sample.rows:
        raise SubjectError(f"the model returned {trace.output.numel():,} scores for {sample.rows:,} rows",
                           hint="return one score per row; name the task of a multi-task model")
    integer = {name: tensor for name, tensor in tensors.items() if not tensor.is_floating_point()}
    dense = tuple(name for name, tensor in tensors.items() if tensor.is_floating_point())
    sites, unknown = [], []
    seen: dict[str, int] = {}
    used: set[str] = set()
    for position, lookup in enumerate(trace.lookups):
        occurrence = seen.get(lookup.table, 0)
        seen[lookup.table] = occurrence + 1
        site = _resolve_one(position, occurrence, lookup, integer, subject.declared_sites, sample.rows)
        if site is None:
            unknown.append(f"{lookup.table}#{occurrence} (ids of shape {tuple(lookup.ids.shape)})")
        else:
            sites.append(site)
            used |= {part.field for part in site.parts}
    if unknown:
        raise SubjectError(
            f"cannot tell which field these lookups read: {listing(unknown)}; fields: {listing(integer)}",
            hint="say so: TorchSubject(..., sites={'table.weight': 'field'}), or a tuple of fields for a fused table, "
                 "or '' for a lookup that depends on no field")
    _warn_undeclared(subject.declared_sites, seen)
    return Sites(lookups=tuple(sites), dense=dense, unread=tuple(name for name in integer if name not in used),
                 functions=tuple(dict.fromkeys(trace.functions)), has_logit=trace.logit is not None,
                 direct_reads=tuple(trace.direct_reads))


def input_tensors(inputs: Any) -> dict[str, Tensor]:
    """The tensors of the model's inputs by field name: a mapping, or an object that wraps one."""
    for candidate in (inputs, getattr(inputs, "interaction", None)):
        if isinstance(candidate, Mapping):
            return {str(name): value for name, value in candidate.items() if isinstance(value, Tensor)}
    if isinstance(inputs, Tensor):
        return {"input": inputs}
    raise SubjectError(f"the encoded inputs are a {type(inputs).__name__}, expected a mapping of field name to tensor",
                       hint="let encode(batch) return a dict, and take it apart in forward=lambda model, inputs: ...")


def check_same(sites: Sites, trace: Trace) -> None:
    """The model made the same lookups as when it was resolved.

    Raises:
        SubjectError: It did not.
    """
    found = [lookup.table for lookup in trace.lookups]
    expected = [site.table for site in sites.lookups]
    if found != expected:
        raise SubjectError(f"the model looked up {listing(found)} on this batch, but {listing(expected)} on the sample",
                           hint="lookups must not depend on values; examine models whose calls are the same for every batch")


# ---------------------------------------------------------------------- evidence


def _resolve_one(position: int, occurrence: int, lookup: Lookup, fields: Mapping[str, Tensor],
                 declared: Mapping[str, str | Sequence[str]], rows: int) -> Site | None:
    word = declared.get(f"{lookup.table}#{occurrence}", declared.get(lookup.table))
    if word is not None:
        return Site(position, lookup.table, _declared_parts(lookup, word), "as declared")
    ids = lookup.ids
    shared = [name for name, tensor in fields.items() if _same_memory(ids, tensor)]
    if len(shared) == 1:
        return Site(position, lookup.table, (Part(shared[0]),), "ids share memory with the input")
    if ids.dim() == 2 and lookup.output.dim() == 3 and ids.shape[0] == rows:
        fused = _fused_parts(ids, fields)
        if fused is not None:
            return Site(position, lookup.table, fused, "columns of the fused lookup equal the fields, up to offsets")
    equal = [name for name, tensor in fields.items() if _constant_offset(ids, tensor)]
    if len(equal) == 1:
        return Site(position, lookup.table, (Part(equal[0]),), "ids equal the input, up to an offset")
    candidates = equal or [name for name, tensor in fields.items() if tensor.shape[:1] == ids.shape[:1]]
    named = _named_in(lookup.table, candidates)
    if named is not None:
        return Site(position, lookup.table, (Part(named),), "the table's name holds the field's name")
    if not equal and (ids.dim() == 0 or ids.shape[0] != rows or (rows > 1 and bool((ids == ids[:1]).all()))):
        return Site(position, lookup.table, (), "the same for every row: depends on no field")
    return None


def _declared_parts(lookup: Lookup, word: str | Sequence[str]) -> tuple[Part, ...]:
    if isinstance(word, str):
        return (Part(word),) if word else ()
    width = lookup.output.shape[1] if lookup.output.dim() == 3 else 0
    if len(word) != width:
        raise SubjectError(f"{lookup.table} was declared to serve {len(word)} fields, but its output has shape "
                           f"{tuple(lookup.output.shape)}", hint="name one field per column of dimension 1")
    return _grouped(list(word))


def _same_memory(ids: Tensor, tensor: Tensor) -> bool:
    """The same elements of the same storage, whatever views lie between."""
    return (ids.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
            and ids.storage_offset() == tensor.storage_offset() and ids.numel() == tensor.numel() and ids.numel() > 0)


def _constant_offset(ids: Tensor, tensor: Tensor) -> bool:
    if ids.numel() != tensor.numel() or ids.numel() == 0:
        return False
    difference = ids.reshape(-1) - tensor.reshape(-1)
    return bool((difference == difference[0]).all())


def _fused_parts(ids: Tensor, fields: Mapping[str, Tensor]) -> tuple[Part, ...] | None:
    """Match every column of [B, F] ids to the one field that equals it up to a constant; in order where fields coincide."""
    columns: list[tuple[str, Tensor]] = []
    for name, tensor in fields.items():
        flat = tensor.reshape(tensor.shape[0], -1) if tensor.shape[:1] == ids.shape[:1] else None
        if flat is not None:
            columns += [(name, flat[:, j]) for j in range(flat.shape[1])]
    found: list[str] = []
    free = list(range(len(columns)))
    for j in range(ids.shape[1]):
        matches = [k for k in free if _constant_offset(ids[:, j], columns[k][1])]
        if not matches:
            return None
        names = {columns[k][0] for k in matches}
        if len(names) > 1 and not _aligned(ids, columns):
            return None
        chosen = j if len(names) > 1 and j in matches else matches[0]
        free.remove(chosen)
        found.append(columns[chosen][0])
    return _grouped(found)


def _aligned(ids: Tensor, columns: Sequence[tuple[str, Tensor]]) -> bool:
    """The lookup's columns are the inputs' columns in the inputs' order, so coinciding fields can be told by place."""
    return ids.shape[1] == len(columns) and all(
        _constant_offset(ids[:, j], columns[j][1]) for j in range(ids.shape[1]))


def _grouped(names: Sequence[str]) -> tuple[Part, ...]:
    positions: dict[str, list[int]] = {}
    for j, name in enumerate(names):
        positions.setdefault(name, []).append(j)
    return tuple(Part(name, tuple(places)) for name, places in positions.items())


def _named_in(table: str, fields: Sequence[str]) -> str | None:
    """The one field whose name stands in the parameter's name as whole words; the longest where one holds another."""
    text = "_" + re.sub(r"[^a-z0-9]+", "_", table.lower()) + "_"
    hits = [name for name in fields if "_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") + "_" in text]
    if len(hits) > 1:
        longest = max(len(name) for name in hits)
        hits = [name for name in hits if len(name) == longest]
    return hits[0] if len(hits) == 1 else None


def _warn_undeclared(declared: Mapping[str, Any], seen: Mapping[str, int]) -> None:
    unknown = [name for name in declared if name.split("#")[0] not in seen]
    if unknown:
        raise SubjectError(f"declared lookups that the model does not make: {listing(unknown)}; it looks up: {listing(seen)}",
                           hint="correct the names in TorchSubject(sites={...})")
