"""A Keras model that runs on TensorFlow, as a torch module: the same lookups, activations and gradients, seen by the same means.

A forward pass hops between the two: TensorFlow computes until an embedding is read or an activation function applied; that one call is made in
torch, where it can be recorded and replayed like any other, and TensorFlow goes on with its result. Backwards, torch asks TensorFlow's
GradientTape for each stretch. So every probe works on such a model, without a second implementation of any of them.

Source: tf.GradientTape and torch.autograd.Function; the layers' `call` and `activation` are swapped while a pass runs and put back after it, also
after an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recspect.errors import SubjectError

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu, "swish": F.silu, "elu": F.elu,
    "selu": F.selu, "softplus": F.softplus, "mish": F.mish, "relu6": F.relu6,
}
"""Keras activations whose torch twin computes the same; others stay in TensorFlow, differentiated but not seen as layers."""


class _Hop(nn.Module):
    """One activation function, under a name of its own so that it can be told in a trace."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class _Leave(torch.autograd.Function):
    """From TensorFlow to torch; backwards through the tape, to everything that had entered TensorFlow before."""

    @staticmethod
    def forward(ctx: Any, path: _Path, value: Any, entered: int, *_sources: Tensor) -> Tensor:
        ctx.path, ctx.value, ctx.entered = path, value, entered
        return _copied(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        import tensorflow as tf

        sources = [source for _, source in ctx.path.entered[:ctx.entered]]
        found = ctx.path.tape.gradient(ctx.value, sources, output_gradients=tf.constant(gradient.numpy()))
        return (None, None, None, *(None if g is None else _copied(g) for g in found))


class _Path:
    """One forward pass: what entered TensorFlow, and the tape that recorded it."""

    def __init__(self, tape: Any) -> None:
        self.tape = tape
        self.entered: list[tuple[Tensor, Any]] = []

    def enter(self, tensor: Tensor) -> Any:
        import tensorflow as tf

        value = tf.constant(tensor.detach().numpy())
        self.tape.watch(value)
        self.entered.append((tensor, value))
        return value

    def leave(self, value: Any) -> Tensor:
        left: Tensor = _Leave.apply(self, value, len(self.entered), *(tensor for tensor, _ in self.entered))
        return left


class TensorFlowModule(nn.Module):
    """A Keras model on TensorFlow that scores, and is differentiated, as a torch module.

    The embedding tables are copied once (they appear as parameters under their layers' names), so make it anew after further training.
    `TorchSubject(model, fields=...)` does this for you.

    Args:
        model: A built Keras model whose inputs are named like the fields, or take a dict of them.

    Raises:
        SubjectError: It has no embedding layer.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        import keras

        self.model = model
        layers = {layer.name: layer for layer in _layers(model)}
        self.embeddings = {name: layer for name, layer in layers.items() if isinstance(layer, keras.layers.Embedding)}
        if not self.embeddings:
            raise SubjectError(f"the Keras model {model.name!r} has no Embedding layer, so its ids cannot be followed",
                               hint="wrap it as ScoreSubject(score=function of a batch) for what needs scores only")
        self.tables = nn.ParameterDict({name: nn.Parameter(_copied(layer.embeddings), requires_grad=False)
                                        for name, layer in self.embeddings.items()})
        self.swapped = {name: layer for name, layer in layers.items() if _name_of(getattr(layer, "activation", None)) in _ACTIVATIONS}
        self.layers = nn.ModuleDict({name: _Hop(_ACTIVATIONS[_name_of(layer.activation)]) for name, layer in self.swapped.items()})

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Scores of a dict of tensors by field, shape as the Keras model gives them."""
        import tensorflow as tf

        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            path = _Path(tape)
            with self._hopping(path):
                given = {name: path.enter(value) if value.is_floating_point() else tf.constant(value.numpy()) for name, value in inputs.items()}
                out = self.model(given, training=False)
            return path.leave(out)

    @contextmanager
    def _hopping(self, path: _Path) -> Iterator[None]:
        """Embedding lookups and activations of this model are made in torch; both are put back at the end."""
        import keras

        original = keras.layers.Embedding.call
        mine = {id(layer): name for name, layer in self.embeddings.items()}
        activations = {name: layer.activation for name, layer in self.swapped.items()}

        def call(layer: Any, ids: Any, *rest: Any, **named: Any) -> Any:
            if (name := mine.get(id(layer))) is None:
                return original(layer, ids, *rest, **named)
            return path.enter(F.embedding(_copied(ids).long(), self.tables[name]))

        try:
            keras.layers.Embedding.call = call  # layers that inherit from Embedding ask their parent, so the class is what must answer
            for name, layer in self.swapped.items():
                object.__setattr__(layer, "activation", lambda x, hop=self.layers[name], **_: path.enter(hop(path.leave(x))))
            yield
        finally:
            keras.layers.Embedding.call = original
            for name, layer in self.swapped.items():
                object.__setattr__(layer, "activation", activations[name])


def _copied(value: Any) -> Tensor:
    """A TensorFlow tensor, variable or sparse gradient as a torch tensor of its own."""
    import tensorflow as tf

    return torch.from_numpy(tf.convert_to_tensor(value).numpy().copy())


def is_keras_on_tensorflow(model: Any) -> bool:
    """Whether this is a Keras model that TensorFlow runs (on the torch backend Keras models are torch modules)."""
    if isinstance(model, nn.Module) or not any(base.__module__.startswith("keras.") for base in type(model).__mro__):
        return False
    import keras

    return isinstance(model, keras.Model) and keras.backend.backend() == "tensorflow"


def _layers(model: Any) -> list[Any]:
    flatten = getattr(model, "_flatten_layers", None)
    return list(flatten(include_self=False)) if flatten is not None else list(model.layers)


def _name_of(activation: Any) -> str:
    return str(getattr(activation, "__name__", ""))
