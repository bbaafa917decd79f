"""What of a model can be seen while it trains: its parameters, and the outputs of its modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

OUTPUT = "(output)"
"""Place of what the whole model returns."""

See = Callable[[str, Any, Any, Any], None]
"""Told (place, module, inputs, output) of every module when it has run, in forward order."""


class Insides(ABC):
    """A model as an observer sees it.

    Attributes:
        left_out: What cannot be seen, and why, one sentence each.
    """

    left_out: tuple[str, ...] = ()

    @abstractmethod
    def parameters(self) -> Mapping[str, Tensor]:
        """Trained parameters by name, as they are now."""

    @abstractmethod
    def attach(self, see: See) -> Sequence[Callable[[], None]]:
        """Begin to see outputs; gives what takes each hook away again."""

    @abstractmethod
    def tables(self) -> Mapping[int, str]:
        """id() of an embedding module to the name of the table that its ids read."""

    has_gradients: bool = True
    """Whether gradients can be seen; where not, updates of all parameters are measured."""

    extra_gradients: bool = False
    """Whether gradients beside those of the training may be computed: hooks of the user's would see them."""


class TorchInsides(Insides):
    """A torch module. DataParallel and DistributedDataParallel are looked through.

    Of a compiled module the outputs are not seen: hooks would make torch compile it anew at every look, and the new code
    may round differently. Its gradients, weights and updates are.
    """

    def __init__(self, model: nn.Module) -> None:
        wrapped = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model.module if wrapped else model
        self.compiled = hasattr(inner, "_orig_mod")
        self.model: nn.Module = inner._orig_mod if self.compiled else inner  # noqa: SLF001 - where torch.compile keeps the module it was given
        self.model = self.model.module if isinstance(self.model, nn.parallel.DistributedDataParallel) else self.model
        self.compiled |= any(getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
                             for module in self.model.modules())
        scripted = any(isinstance(module, torch.jit.ScriptModule) for module in self.model.modules())
        reasons = []
        if self.compiled:
            reasons.append("activations are not seen: the model is compiled, and hooks would have it compiled anew at every look")
        if scripted:
            reasons.append("activations are not seen: the model is a TorchScript module")
        self.visible = not (self.compiled or scripted)
        hooked = any(parameter._backward_hooks for parameter in self.model.parameters()) or any(  # noqa: SLF001 - torch has no other way to ask
            module._backward_hooks or module._backward_pre_hooks for module in self.model.modules())  # noqa: SLF001
        self.extra_gradients = self.visible and not wrapped and not hooked
        if not self.extra_gradients:
            reasons.append("the gradient noise scale is not measured: the model is compiled, distributed, or has backward hooks of its own")
        self.left_out = tuple(reasons)

    def parameters(self) -> Mapping[str, Tensor]:
        return dict(self.model.named_parameters())

    def attach(self, see: See) -> Sequence[Callable[[], None]]:
        if not self.visible:
            return ()
        return [module.register_forward_hook(partial(see, name)).remove for name, module in places(self.model).items()]

    def tables(self) -> Mapping[int, str]:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {id(module): names[id(module.weight)] for module in self.model.modules()
                if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and id(module.weight) in names}


def places(model: nn.Module) -> dict[str, nn.Module]:
    """What is watched: leaf modules and modules with parameters of their own, by name, and the model's output."""
    found = {name: module for name, module in model.named_modules()
             if name and (not any(module.children()) or any(True for _ in module.parameters(recurse=False)))}
    return {**found, OUTPUT: model}


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor of what a module returned."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return next((value for value in output if isinstance(value, Tensor)), None)
    return None


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
        values = first_tensor(output)
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
