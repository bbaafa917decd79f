"""Watching `model.fit` of Keras 3, on torch or on TensorFlow: `model.fit(..., callbacks=[Watch("runs/mine")])`.

On torch everything is seen. On TensorFlow a step is one compiled graph: weights before and after it, and the loss, are what can be seen.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from recspect.diagnosis.observing.insides import OUTPUT, Insides, See
from recspect.diagnosis.observing.observer import Observer
from recspect.errors import MissingExtraError, SubjectError

try:
    import keras
except ImportError:
    raise MissingExtraError("keras", extra="keras", purpose="The callback for Keras") from None


class Watch(keras.callbacks.Callback):  # type: ignore[misc] # Keras's types are not read
    """An observer that looks on while Keras trains.

    Args:
        folder: Where the files go that `recspect diagnose` reads; None keeps rows in memory.
        settings: Of `Observer`, such as `every`, `on_finding`, `keep_every_epochs`.

    Attributes:
        observer: The observer, once the training has begun.

    Raises:
        SubjectError: Keras runs on another backend.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, **settings: Any) -> None:
        super().__init__()
        self.folder, self.settings = folder, settings
        self.observer: Observer | None = None
        self._step: Any = None
        self._look: Any = None
        self._before = (0.0, 0.0)

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's interface
        backend = keras.backend.backend()
        if backend not in ("torch", "tensorflow"):
            raise SubjectError(f"Keras runs on {backend}, whose trainings cannot be watched", hint="use the backend torch or tensorflow")
        insides = TorchLayers(self.model) if backend == "torch" else TensorFlowWeights(self.model)
        self.observer = Observer(None, folder=self.folder, insides=insides, **self.settings)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.observer.epoch, self._before = epoch + 1, (0.0, 0.0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._step = self.observer.step()
        self._look = self._step.__enter__()
        if self._look.sampled:
            if self.observer.insides.has_gradients:
                self.observer.insides.before_apply = self._look.before_update
            else:
                self._look.before_update()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        with self.observer.guard():
            loss = self._batch_loss()
            if loss is not None:
                self._look.record_loss(loss)
        self._leave(None)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        names = {"val_loss": "loss/validation", "val_auc": "auc/validation"}
        self.observer.end_epoch({names[name]: float(value) for name, value in (logs or {}).items() if name in names})

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
        self._leave(RuntimeError("the training ended within a step"))
        self.observer.finish()

    def _leave(self, error: BaseException | None) -> None:
        step, self._step, self._look = self._step, None, None
        self.observer.insides.before_apply = None
        if step is not None:
            with suppress(RuntimeError):
                step.__exit__(None if error is None else type(error), error, None)

    def _batch_loss(self) -> float | None:
        """Keras tells the mean over the epoch so far; the batch's own is the difference of two sums."""
        for metric in self.model.metrics:
            if metric.name == "loss" and hasattr(metric, "total"):
                total, count = float(metric.total), float(metric.count)
                before, self._before = self._before, (total, count)
                return (total - before[0]) / (count - before[1]) if count > before[1] else None
        return None


class KerasInsides(Insides):
    """What both backends share.

    Attributes:
        before_apply: Called with no arguments before the optimiser changes the weights, while a look is open.
    """

    before_apply: Callable[[], None] | None = None

    def __init__(self, model: Any) -> None:
        self.model = model

    def layers(self) -> dict[str, Any]:
        """Layers without layers of their own, by name."""
        flatten = getattr(self.model, "_flatten_layers", None)
        found = list(flatten(include_self=False)) if flatten is not None else list(self.model.layers)
        return {layer.name: layer for layer in found if not getattr(layer, "_layers", None) and not isinstance(layer, keras.layers.InputLayer)}

    def tables(self) -> Mapping[int, str]:
        return {id(layer): layer.embeddings.path for layer in self.layers().values() if isinstance(layer, keras.layers.Embedding) and layer.built}


class TorchLayers(KerasInsides):
    """Keras on torch. Outputs are seen by standing in for each layer's `call`, gradients by standing in for the optimiser's `apply`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        compiled = bool(getattr(model, "jit_compile", False))
        self.left_out = ("the gradient noise scale is not measured: Keras does not give the losses of rows",)
        if compiled:
            self.left_out += ("activations are not seen: the model is compiled (jit_compile), and hooks would have it compiled anew at every look",)
        self.visible = not compiled

    def parameters(self) -> Mapping[str, Tensor]:
        return {variable.path: variable.value for variable in self.model.trainable_variables}

    def attach(self, see: See) -> Sequence[Callable[[], None]]:
        removers = [_stand_in(self.model.optimizer, "apply", self._apply)] if self.model.optimizer is not None else []
        if self.visible:
            removers += [_stand_in(layer, "call", functools.partial(_seen, see, name, layer)) for name, layer in self.layers().items()]
            removers.append(_stand_in(self.model, "call", functools.partial(_seen, see, OUTPUT, self.model)))
        return removers

    def _apply(self, original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if self.before_apply is not None:
            self.before_apply()
        return original(*arguments, **named)


class TensorFlowWeights(KerasInsides):
    """Keras on TensorFlow: copies of the weights, made at looks."""

    has_gradients = False
    left_out = ("activations and gradients are not seen: TensorFlow runs a step as one graph",)

    def parameters(self) -> Mapping[str, Tensor]:
        return {variable.path: torch.from_numpy(variable.numpy().copy()) for variable in self.model.trainable_variables}

    def attach(self, see: See) -> Sequence[Callable[[], None]]:  # noqa: ARG002 - nothing of a graph can be seen
        return ()


def _seen(see: See, place: str, layer: Any, original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    output = original(*arguments, **named)
    see(place, layer, arguments, output)
    return output


def _stand_in(target: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Let `function(original, ...)` answer for a method of one object; gives what puts the method back."""
    original = getattr(target, name)
    had = target.__dict__.get(name)
    object.__setattr__(target, name, functools.wraps(original)(functools.partial(function, original)))

    def back() -> None:
        if had is None:
            target.__dict__.pop(name, None)
        else:
            object.__setattr__(target, name, had)

    return back
