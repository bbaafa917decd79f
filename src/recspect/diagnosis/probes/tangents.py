"""How activations move when the path moves along one field: forward-mode derivatives through any model.

Shapes: B rows, F fields, n units of a layer.

All fields go through the model in one pass: `torch.func.jvp` along each field's direction, batched by `vmap`, so that what does not depend on
the direction is computed once. A model that these transforms refuse (numbers taken out of tensors, writing in place) gets one pass of dual numbers per field.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from recspect.diagnosis.probes.field_path import FieldPath
from recspect.errors import SubjectError

Layers = tuple[str, ...]


@contextmanager
def forward_mode() -> Iterator[None]:
    """Where forward-mode derivatives can be had: without gradients, and without the fused kernels of attention, which have none."""
    _load_forward_mode()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@cache
def _load_forward_mode() -> None:
    """Begin forward mode once: torch 2.13 then compiles some of its rules with a function that it itself calls deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script.*", DeprecationWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(()), torch.zeros(()))


def batched_tangents(path: FieldPath, alpha: float, layers: Layers) -> list[Tensor] | None:
    """Per layer the derivative along each field, shape [F, B, ...]; None where torch.func cannot transform the model."""
    leaves, dense = path.point(alpha)
    names = tuple(dense)

    def moved(*entries: Tensor) -> tuple[Tensor, ...]:
        inputs = path.inputs_with(dict(zip(names, entries[len(leaves):], strict=True)))
        with watched(path.subject.model, layers) as seen:
            _, activations = path.subject.replayed(inputs, path.stack, entries[:len(leaves)])
        return tuple(chosen(layers, [*activations, *seen], path.rows))

    def along(share: Tensor) -> tuple[Tensor, ...]:
        more, more_dense = path.direction(share, path.deltas, path.dense_deltas)
        return torch.func.jvp(moved, (*leaves, *dense.values()), (*more, *(more_dense[name] for name in names)))[1]

    try:
        with forward_mode():
            return list(torch.func.vmap(along)(path.one_field_at_a_time()))
    except (RuntimeError, NotImplementedError, SubjectError):  # errors of the model itself come again from the pass with dual numbers
        return None


def dual_tangents(path: FieldPath, alpha: float, layers: Layers) -> list[Tensor]:
    """The same, one field at a time with dual numbers.

    Raises:
        SubjectError: The model uses an operation that has no forward-mode derivative.
    """
    try:
        with forward_mode():
            return _dual_tangents(path, alpha, layers)
    except (RuntimeError, NotImplementedError) as error:
        raise SubjectError(f"the model cannot be differentiated forward: {str(error).splitlines()[0]}",
                           hint="attributions (integrated_gradients) need backward derivatives only; flows through layers need both") from error


def _dual_tangents(path: FieldPath, alpha: float, layers: Layers) -> list[Tensor]:
    leaves, dense = path.point(alpha)
    found: list[list[Tensor]] = []
    for share in path.one_field_at_a_time():
        more, more_dense = path.direction(share, path.deltas, path.dense_deltas)
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(leaf, one) if leaf.is_floating_point() else leaf
                     for leaf, one in zip(leaves, more, strict=True)]
            dual_dense = {name: forward_ad.make_dual(dense[name], one) for name, one in more_dense.items()}
            with watched(path.subject.model, layers) as seen:
                trace = path.pass_at(duals, dual_dense, keep_activations=True)
            parts = [forward_ad.unpack_dual(tensor) for tensor in chosen(layers, [*trace.activations, *seen], path.rows)]
            found.append([torch.zeros_like(primal) if tangent is None else tangent for primal, tangent in parts])
    return [torch.stack(tangents) for tangents in zip(*found, strict=True)]


# ---------------------------------------------------------------------- which tensors are layers


@contextmanager
def watched(model: nn.Module, layers: Sequence[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect (name, output) of those modules among `layers` whose output is one tensor; activations are seen by the recorder."""
    seen: list[tuple[str, Tensor]] = []
    modules = dict(model.named_modules())

    def see(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: seen.append((name, output)) if isinstance(output, Tensor) else None

    hooks = [modules[name].register_forward_hook(see(name)) for name in layers if name in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def chosen(layers: Sequence[str], found: Sequence[tuple[str, Tensor]], rows: int) -> list[Tensor]:
    """The tensors of these layers, in their order.

    Raises:
        SubjectError: One was not met, or does not begin with the rows.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in found:
        named.setdefault(name, tensor)
    missing = [name for name in layers if name not in named]
    if missing:
        raise SubjectError(f"the model has no layer {missing[0]!r} on this pass; layers seen: {', '.join(named) or 'none'}",
                           hint="layers are activation functions and modules that return one tensor, the same for every batch")
    for name in layers:
        if named[name].shape[:1] != (rows,):
            raise SubjectError(f"layer {name!r} has shape {tuple(named[name].shape)}, expected to begin with the {rows} rows",
                               hint="name layers whose output has one row per row of the batch")
    return [named[name] for name in layers]
