"""Recording and replaying the embedding lookups of any PyTorch model, without touching it.

A recommender's inputs are ids; gradients exist only from the embedding lookups on. Every lookup passes through a handful of PyTorch functions
whatever framework is around it, and a `TorchFunctionMode` sees these calls. One forward pass records them; later passes
replay them with other values (interpolated, ablated, dual), without reading the tables again. The same mode sees the last sigmoid,
whose argument is the logit, and every activation function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from recspect.errors import SubjectError

_SIGMOIDS = {torch.sigmoid, Tensor.sigmoid, F.sigmoid, torch.special.expit}
_ACTIVATIONS: dict[Callable[..., Any], str] = {
    F.relu: "relu", torch.relu: "relu", Tensor.relu: "relu", torch.relu_: "relu", Tensor.relu_: "relu", F.relu6: "relu6",
    F.leaky_relu: "leaky_relu", F.elu: "elu", F.selu: "selu", F.gelu: "gelu", F.silu: "silu", F.mish: "mish",
    F.softplus: "softplus", F.hardtanh: "hardtanh", F.hardswish: "hardswish", F.prelu: "prelu", torch.prelu: "prelu",
    torch.tanh: "tanh", Tensor.tanh: "tanh", F.tanh: "tanh", torch.sigmoid: "sigmoid", Tensor.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
}
_SQUASHING = {"sigmoid", "tanh"}
_DIRECT = {F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.einsum, torch.addmm,
           Tensor.t, torch.t, Tensor.transpose, torch.transpose, Tensor.T.__get__, Tensor.mT.__get__}
PIECEWISE_LINEAR = {"relu", "relu6", "leaky_relu", "hardtanh", "hardswish", "prelu"}
"""Activations whose gradient jumps along a path, so that Gauss-Legendre nodes have no advantage there."""


@dataclass
class Lookup:
    """One read of a table.

    Args:
        table: Name of the parameter that was read.
        ids: Row numbers that were looked up, as the model passed them.
        offsets: For bags given as flat ids, where each row's bag begins; else None.
        output: What the model got: [B, D], [B, L, D] or [B, F, D].
        weight: The table itself, shape [rows, D].
        bag: Whether the entries of a row were pooled inside the lookup.
    """

    table: str
    ids: Tensor
    offsets: Tensor | None
    output: Tensor
    weight: Tensor
    bag: bool


@dataclass
class Trace:
    """What one forward pass did.

    Args:
        lookups: In the order of the calls.
        output: What the model returned, flattened to [B].
        logit: Argument of the last sigmoid where its result is the output, else None; shape [B].
        activations: (name, tensor [B, ...]) of every activation function's result, in the order of the calls.
        squashed: Name of an activation of a sigmoid or tanh to its argument.
        direct_reads: Names of looked-up tables that a matrix product also reads directly.
        functions: Names of the activation functions seen.
    """

    lookups: list[Lookup] = field(default_factory=list)
    output: Tensor = field(default_factory=lambda: torch.empty(0))
    logit: Tensor | None = None
    activations: list[tuple[str, Tensor]] = field(default_factory=list)
    squashed: dict[str, Tensor] = field(default_factory=dict)
    direct_reads: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)

    @property
    def additive(self) -> Tensor:
        """The quantity that attributions add up to: the logit where there is one, else the output."""
        return self.output if self.logit is None else self.logit


class _Recorder(TorchFunctionMode):
    """Sees the calls; with `replay`, answers the k-th lookup with the k-th given value."""

    def __init__(self, names: dict[int, str], *, replay: Sequence[Tensor] | None, keep_activations: bool,
                 stack: list[str]) -> None:
        super().__init__()
        self.names = names
        self.replay = replay
        self.keep_activations = keep_activations
        self.stack = stack
        self.trace = Trace()
        self.sigmoid: tuple[Tensor, Tensor] | None = None
        self.calls = 0
        self.read_directly: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        lookup = _lookup_arguments(func, args, kwargs)
        if lookup is not None:
            weight, ids, offsets, bag = lookup
            table = self._table(weight, small=hasattr(func, "reads_rows"))
            if table is not None:
                return self._answer(func, args, kwargs, table, weight, ids, offsets, bag=bag)
        result = func(*args, **kwargs)
        if func in _SIGMOIDS and isinstance(result, Tensor):
            self.sigmoid = (args[0] if args else kwargs["input"], result)
        if func in _ACTIVATIONS and isinstance(result, Tensor):
            self.trace.functions.append(_ACTIVATIONS[func])
            if self.keep_activations and result.is_floating_point() and result.dim() >= 2 and result.shape[-1] > 1:
                name = self._place(_ACTIVATIONS[func])
                self.trace.activations.append((name, result))
                if _ACTIVATIONS[func] in _SQUASHING:
                    self.trace.squashed[name] = args[0] if args else kwargs["input"]
        elif func in _DIRECT:
            for argument in args:
                if isinstance(argument, Tensor) and (name := self._table(argument)) is not None:
                    self.read_directly[name] = None
        return result

    def _answer(self, func: Any, args: Any, kwargs: Any, table: str, weight: Tensor, ids: Tensor,
                offsets: Tensor | None, *, bag: bool) -> Tensor:
        position = self.calls
        self.calls += 1
        if self.replay is not None:
            if position >= len(self.replay):
                raise SubjectError("the model looked up more tables on this pass than when it was recorded",
                                   hint="lookups must not depend on values; examine a model whose calls are the same for every batch")
            return self.replay[position]
        output: Tensor = func(*args, **kwargs)
        self.trace.lookups.append(Lookup(table, ids.detach(), None if offsets is None else offsets.detach(), output,
                                         weight.detach(), bag))
        return output

    def _table(self, weight: Tensor, *, small: bool = False) -> str | None:
        if not (weight.is_floating_point() or (small and weight.dtype is torch.int8)) or weight.dim() != 2:
            return None
        try:
            return self.names.get(weight.untyped_storage().data_ptr())
        except NotImplementedError:  # a tensor inside a torch.func transform has no storage, so it is no table
            return None

    def _place(self, function: str) -> str:
        inside = self.stack[-1] if self.stack else ""
        taken = [name for name, _ in self.trace.activations]
        name = inside or function
        count = sum(other == name or other.startswith(f"{name}#") for other in taken)
        return f"{name}#{count}" if count else name


def _lookup_arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any],
                      ) -> tuple[Tensor, Tensor, Tensor | None, bool] | None:
    """(weight, ids, offsets, bag) where the call reads rows of a matrix, else None.

    A function with the attribute `reads_rows` is called with (ids, weight, ...) and gives float vectors, whatever the weight is made of, such as 8-bit codes with scales.
    """
    if hasattr(func, "reads_rows"):
        return args[1], args[0], None, False
    if func is F.embedding:
        return kwargs.get("weight", args[1] if len(args) > 1 else None), args[0] if args else kwargs["input"], None, False
    if func is torch.embedding:
        return args[0] if args else kwargs["weight"], args[1] if len(args) > 1 else kwargs["indices"], None, False
    if func is F.embedding_bag:
        ids = args[0] if args else kwargs["input"]
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        offsets = args[2] if len(args) > 2 else kwargs.get("offsets")
        if not ids.is_floating_point() and weight.is_floating_point():
            return weight, ids, offsets, True
        return ids, weight, offsets, True  # the deprecated order (weight, input)
    if func in (torch.index_select, Tensor.index_select):
        source = args[0] if args else kwargs["input"]
        dimension = args[1] if len(args) > 1 else kwargs["dim"]
        index = args[2] if len(args) > 2 else kwargs["index"]
        return (source, index, None, False) if dimension == 0 else None
    if func is Tensor.__getitem__ and len(args) == 2 and isinstance(args[1], Tensor):
        source, index = args
        if not index.is_floating_point() and index.dtype is not torch.bool:
            return source, index, None, False
    return None


def parameter_names(model: nn.Module) -> dict[int, str]:
    """Storage address to parameter name, for the floating matrices of a model and those of 8-bit codes."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    names: dict[int, str] = {}
    for name, tensor in tensors:
        if tensor.dim() == 2 and (tensor.is_floating_point() or tensor.dtype is torch.int8) and tensor.numel():
            names.setdefault(tensor.untyped_storage().data_ptr(), name)
    return names


@contextmanager
def undisturbed(model: nn.Module, *, naming: bool = True) -> Iterator[list[str]]:
    """Evaluation mode, frozen parameters and a stack of the running modules' names; all of it undone, also after an exception.

    Yields the stack: its last entry is the innermost module whose forward is running. Without `naming` no hook is installed and the
    stack stays empty: for passes that keep no activations, which need no names.
    """
    training = {module: module.training for module in model.modules()}
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    stack: list[str] = []
    hooks = []

    def enter(name: str) -> Callable[..., None]:
        return lambda _module, _inputs: stack.append(name)

    def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        stack.pop()

    try:
        for name, module in model.named_modules() if naming else ():
            hooks.append(module.register_forward_pre_hook(enter(name)))
            hooks.append(module.register_forward_hook(leave, always_call=True))
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_(requires_grad=False)
        yield stack
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in training.items():
            module.training = flag
        for parameter in frozen:
            parameter.requires_grad_(requires_grad=True)


def run(forward: Callable[[], Tensor], names: dict[int, str], stack: list[str], *, replay: Sequence[Tensor] | None = None,
        keep_activations: bool = False) -> Trace:
    """One forward pass under the recorder. Call inside `undisturbed`.

    Raises:
        SubjectError: The model returns no tensor, or fewer lookups happen than are replayed.
    """
    recorder = _Recorder(names, replay=replay, keep_activations=keep_activations, stack=stack)
    with recorder:
        output = forward()
    if not isinstance(output, Tensor):
        raise SubjectError(f"the model returned {type(output).__name__}, expected one tensor of scores",
                           hint="pass forward=lambda model, inputs: model(inputs)['logits'] or similar")
    if replay is not None and recorder.calls != len(replay):
        raise SubjectError(f"the model made {recorder.calls} lookups on this pass, {len(replay)} when it was recorded",
                           hint="lookups must not depend on values")
    trace = recorder.trace
    trace.output = _flat(output)
    trace.direct_reads = [name for name in recorder.read_directly
                          if any(lookup.table == name for lookup in trace.lookups)] if replay is None else []
    if recorder.sigmoid is not None:
        argument, result = recorder.sigmoid
        if result.numel() == trace.output.numel() and torch.equal(result.detach().reshape(-1), trace.output.detach()):
            trace.logit = argument.reshape(-1)
            if trace.activations and trace.activations[-1][1] is result:
                trace.squashed.pop(trace.activations.pop()[0], None)
            if trace.functions and trace.functions[-1] == "sigmoid":
                trace.functions.pop()
    return trace


def replayed(forward: Callable[[], Tensor], names: dict[int, str], stack: list[str],
             values: Sequence[Tensor]) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """What the model returns where its lookups give these values, and its activations; see `run`. Call inside `undisturbed`.

    Looks at no number, so that it can run inside the transforms of torch.func, and tells no logit.
    """
    recorder = _Recorder(names, replay=values, keep_activations=True, stack=stack)
    with recorder:
        output = forward()
    return output, recorder.trace.activations


def require_gradient(out: Tensor, *, of: str = "the score") -> None:
    """`out` can be differentiated by the lookups.

    Raises:
        SubjectError: It cannot.
    """
    if not out.requires_grad:
        raise SubjectError(f"{of} does not depend on the lookups by differentiable operations",
                           hint="the model may run under torch.no_grad() or detach its embeddings; give forward=... that does not")


def loss_slope(score: Tensor, label: Tensor, *, has_logit: bool) -> Tensor:
    """Derivative of a row's loss by its score: of cross-entropy by the logit, or of the squared error by the value."""
    return torch.sigmoid(score) - label if has_logit else 2 * (score - label)


def _flat(output: Tensor) -> Tensor:
    if output.dim() > 1 and output.numel() != output.shape[0]:
        raise SubjectError(f"the model returned scores of shape {tuple(output.shape)}, expected one score per row",
                           hint="name the task: forward=lambda model, inputs: model(inputs)[:, 0]")
    return output.reshape(-1)
