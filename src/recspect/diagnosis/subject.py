"""The model under examination: any scoring model plus the names of its input fields.

`ScoreSubject` wraps a function from a batch to scores (a remote service, an ONNX file, TensorFlow). `TorchSubject` wraps a PyTorch module, whatever
framework built it, and finds by itself which lookup belongs to which field (see `recspect.diagnosis.sites`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.users_code import users_code
from recspect.errors import MissingExtraError, SubjectError, listing

if TYPE_CHECKING:
    import torch

    from recspect.diagnosis.lookups import Trace
    from recspect.diagnosis.sites import Sites

Inputs = Any
"""What the model's forward takes: usually a dict of field name to tensor."""

SCORE_ROWS = 4096
"""Rows in one forward pass: activations of more no longer fit the processor's cache, which costs half as much again per row."""


class Subject(ABC):
    """Any scoring model.

    Args:
        fields: Names of the input fields.
    """

    fields: tuple[str, ...]
    name: str

    @abstractmethod
    def score(self, batch: Batch) -> NDArray[np.float64]:
        """One score per row, shape (rows,): a probability for binary labels, the predicted value for graded ones."""


class ScoreSubject(Subject):
    """A model of which only the scores can be had.

    Args:
        score: Batch to scores, shape (rows,).
        fields: The columns it reads.
        name: What it is called in reports.
    """

    def __init__(self, score: Callable[[Batch], Any], *, fields: Sequence[str], name: str = "model") -> None:
        self._score = score
        self.fields = tuple(fields)
        self.name = name

    def score(self, batch: Batch) -> NDArray[np.float64]:
        with users_code(f"the scoring function of {self.name}", hint="it is called with a batch and must return one score per row"):
            scores = self._score(batch)
        return as_scores(scores, batch.rows)


class TorchSubject(Subject):
    """A PyTorch model, left exactly as it was: no hook, no gradient, no mode change stays behind.

    Args:
        model: The module. Compiled and DataParallel modules are unwrapped. A Keras model is taken on either backend, torch or TensorFlow.
        fields: Names of the input fields. Empty: the keys of the encoded inputs.
        encode: Batch to what the model takes. Default: a dict of tensors by field (integers and booleans as int64, floats as float32,
            lists padded with 0).
        forward: (model, inputs) to one tensor of scores, shape [B] or [B, 1]. Default: `model(inputs)`.
        sites: Words for lookups that cannot be told: table parameter name (or "name#k" for its k-th lookup) to field name, or to
            a tuple of field names for the columns of a fused table, or to "" for a lookup that depends on no field.
        name: What it is called in reports.
        sample_rows: How many rows the fields are resolved on.

    Example:
        >>> subject = TorchSubject(model, fields=["user", "item"])        # doctest: +SKIP
        >>> subject.score(Batch({"user": np.array([1]), "item": np.array([2])}))    # doctest: +SKIP
    """

    def __init__(self, model: torch.nn.Module, *, fields: Sequence[str] = (),
                 encode: Callable[[Batch], Inputs] | None = None,
                 forward: Callable[[torch.nn.Module, Inputs], torch.Tensor] | None = None,
                 sites: Mapping[str, str | Sequence[str]] | None = None, name: str = "", sample_rows: int = 512) -> None:
        try:
            import torch
        except ImportError:
            raise MissingExtraError("torch", extra="inspect", purpose="Examining a PyTorch model") from None
        from recspect.diagnosis.lookups import parameter_names

        self.model = _unwrapped(model, torch)
        self.name = name or type(self.model).__name__
        self.encoding = encode or default_encode(tuple(fields))
        self.forward = forward or (lambda module, inputs: module(inputs))
        self.fields = tuple(fields)
        self.declared_sites = dict(sites or {})
        self.sample_rows = sample_rows
        self._names = parameter_names(self.model)
        self._sites: Sites | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What another process is given: names of parameters are known by where these lie in memory, and are found there anew."""
        return {name: value for name, value in self.__dict__.items() if name != "_names"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        from recspect.diagnosis.lookups import parameter_names

        self.__dict__.update(state)
        self._names = parameter_names(self.model)

    # ------------------------------------------------------------------ running

    def encode(self, batch: Batch) -> Inputs:
        """What the model takes for these rows.

        Raises:
            SubjectError: The function that was given raises.
        """
        with users_code(f"the encode function of {self.name}", hint="it is called with a batch and must return the model's inputs"):
            return self.encoding(batch)

    def _output(self, inputs: Inputs) -> torch.Tensor:
        with users_code(f"the model {self.name}",
                        hint="are all ids of these rows below the size of their tables, no field missing, and the fields those of the model?"):
            return self.forward(self.model, inputs)

    def undisturbed(self) -> AbstractContextManager[list[str]]:
        """A context in which the model may be run and differentiated; see `recspect.diagnosis.lookups.undisturbed`."""
        from recspect.diagnosis.lookups import undisturbed

        return undisturbed(self.model)

    def run(self, inputs: Inputs, stack: list[str], *, replay: Sequence[torch.Tensor] | None = None,
            keep_activations: bool = False) -> Trace:
        """One recorded (or replayed) forward pass; call inside `undisturbed`."""
        from recspect.diagnosis.lookups import run

        return run(lambda: self._output(inputs), self._names, stack, replay=replay,
                   keep_activations=keep_activations)

    def replayed(self, inputs: Inputs, stack: list[str], values: Sequence[torch.Tensor],
                 ) -> tuple[torch.Tensor, list[tuple[str, torch.Tensor]]]:
        """Output and activations where the lookups give these values, fit for torch.func; call inside `undisturbed`."""
        from recspect.diagnosis.lookups import replayed

        return replayed(lambda: self._output(inputs), self._names, stack, values)

    def score(self, batch: Batch) -> NDArray[np.float64]:
        parts = [self.score_encoded(self.encode(part), part.rows) for part in batch.pieces(SCORE_ROWS)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def score_encoded(self, inputs: Inputs, rows: int) -> NDArray[np.float64]:
        """`score` of rows that `encode` has encoded."""
        import torch

        with self.undisturbed(), torch.no_grad():
            output = self._output(inputs)
        return as_scores(output, rows)

    def with_model(self, model: torch.nn.Module) -> TorchSubject:
        """The same subject with other weights, such as those of another epoch: both read the same encoded rows."""
        return TorchSubject(model, fields=self.fields, encode=self.encoding, forward=self.forward, sites=self.declared_sites,
                            name=self.name, sample_rows=self.sample_rows)

    # ------------------------------------------------------------------ structure

    def sites(self, sample: Batch | None = None) -> Sites:
        """Which lookup (and which dense input) belongs to which field, resolved once on a sample.

        Raises:
            SubjectError: No sample was given yet, or a lookup cannot be told; the message says how to name it.
        """
        if self._sites is None:
            if sample is None or sample.rows == 0:
                raise SubjectError("the lookups of the model have not been resolved yet", hint="call subject.sites(batch) first")
            from recspect.diagnosis.sites import resolve

            self._sites = resolve(self, sample.take(slice(0, self.sample_rows)))
            self.fields = self.fields or self._sites.fields
        return self._sites


def default_encode(fields: tuple[str, ...]) -> Callable[[Batch], dict[str, torch.Tensor]]:
    """Columns as tensors: integers as int64, floats as float32, lists padded with 0 to the longest."""

    def encode(batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        encoded = {}
        for name in fields or tuple(batch):
            column = batch[name]
            if isinstance(column, Ragged):
                values = np.asarray(column.values)
                padded = np.zeros((len(column), max(int(column.lengths.max(initial=0)), 1)), dtype=values.dtype)
                inside = np.arange(padded.shape[1]) < column.lengths[:, None]
                padded[inside] = values[column.offsets[0]:column.offsets[-1]]
                column = padded
            if not isinstance(column, np.ndarray):
                raise SubjectError(f"field {name!r} holds text; the model takes numbers",
                                   hint="pass encode=..., the function that turns a batch into the model's inputs")
            kind = np.float32 if column.dtype.kind == "f" else np.int64
            encoded[name] = torch.from_numpy(np.ascontiguousarray(column.astype(kind)))
        return encoded

    return encode


def as_scores(output: Any, rows: int) -> NDArray[np.float64]:
    """Scores as float64 of shape (rows,).

    Raises:
        SubjectError: Another number of scores than rows.
    """
    if hasattr(output, "detach"):
        output = output.detach().cpu()
        output = (output if output.is_complex() else output.float()).numpy()
    try:
        scores = np.asarray(output).astype(np.float64, casting="same_kind").reshape(-1)
    except (TypeError, ValueError):
        raise SubjectError(f"the model returned {_kind_of(output)}, expected one number per row",
                           hint="return a tensor or an array of probabilities") from None
    if len(scores) != rows:
        raise SubjectError(f"the model returned {len(scores)} scores for {rows} rows",
                           hint="return one score per row; name the task of a multi-task model")
    return scores


def _kind_of(output: Any) -> str:
    kind = getattr(output, "dtype", None)
    return type(output).__name__ if kind is None else f"{type(output).__name__} of {kind}"


def _unwrapped(model: Any, torch: Any) -> Any:
    if isinstance(model, torch.jit.ScriptModule):
        raise SubjectError("the model is a TorchScript module, whose lookups cannot be seen",
                           hint="examine the Python module it was made from, or wrap it as ScoreSubject(score=...)")
    if not isinstance(model, torch.nn.Module):
        from recspect.diagnosis.keras_tensorflow import TensorFlowModule, is_keras_on_tensorflow

        if is_keras_on_tensorflow(model):
            return TensorFlowModule(model)
        raise SubjectError(f"expected a torch.nn.Module, found {type(model).__name__}",
                           hint="for other models use ScoreSubject(score=function of a batch)")
    if hasattr(model, "_orig_mod"):
        model = model._orig_mod  # noqa: SLF001 - where torch.compile keeps the module it was given
    if isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def require_fields(sites_fields: Sequence[str], wanted: Sequence[str]) -> None:
    """Every wanted field was found.

    Raises:
        SubjectError: Some were not, with the list of what was found.
    """
    missing = [name for name in wanted if name not in sites_fields]
    if missing:
        raise SubjectError(f"no lookup or dense input was found for {listing(missing)}; found: {listing(sites_fields)}",
                           hint="run `recspect doctor`; name lookups with TorchSubject(sites={...}), or remove unused fields")
