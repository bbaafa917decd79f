"""What a built-in model is made of: settings that rebuild it from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from recspect.errors import RunError, UsageError
from recspect.features.encoded import FIRST_KNOWN
from recspect.models.registry import MODELS
from recspect.models.settings import OwnSettings, Task

Activation = Literal["relu", "silu", "gelu", "tanh"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings shared by the built-in models.

    Args:
        name: A key of `MODELS`.
        embedding_width: Numbers per embedding vector (D); `linear` has none.
        hidden: Neurons of each hidden layer; `linear` and `fm` have none.
        activation: Of the hidden layers: `relu`, `silu`, `gelu` or `tanh`.
        dropout: Share of hidden activations dropped in training, 0 to below 1.
        embedding_deviation: Standard deviation of embeddings at the start.
        rows_per_table: Most rows of a field's table; the vector of a field with more ids is the product of one for the remainder
            and one for the quotient of the id (see `FieldVectors`). None for a row per id, however many there are.
        output: What the model returns: `logit` for a binary label, `value` (in the label's unit) for a graded one.
        output_mean: The output is `output_mean + output_scale * raw`; for a value, the label's mean in training.
        output_scale: For a value, the label's standard deviation in training.
        tasks: The labels, the first being that of `output`, of a model that predicts several; empty else. Training fills it in.
        own: Settings that only this model has, see `recspect.models.settings`; its defaults where they are not given.
    """

    name: str = "deepfm"
    embedding_width: int = 16
    hidden: tuple[int, ...] = (256, 128)
    activation: Activation = "relu"
    dropout: float = 0.0
    embedding_deviation: float = 0.01
    rows_per_table: int | None = None
    output: Literal["logit", "value"] = "logit"
    output_mean: float = 0.0
    output_scale: float = 1.0
    tasks: tuple[Task, ...] = ()
    own: OwnSettings | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        object.__setattr__(self, "tasks", tuple(Task(**task) if isinstance(task, Mapping) else task for task in self.tasks))
        object.__setattr__(self, "own", _own(self.name, self.own))
        wrong = {
            f"embedding_width is {self.embedding_width}, expected 1 or more": self.embedding_width < 1,
            f"hidden is {self.hidden}, expected one or more layers of 1 or more neurons":
                not self.hidden or min(self.hidden) < 1,
            f"activation is {self.activation!r}, choices: 'relu', 'silu', 'gelu', 'tanh'":
                self.activation not in ("relu", "silu", "gelu", "tanh"),
            f"output is {self.output!r}, choices: 'logit', 'value'": self.output not in ("logit", "value"),
            f"output_scale is {self.output_scale}, expected more than 0": not self.output_scale > 0,
            f"dropout is {self.dropout}, expected 0 or more and below 1": not 0 <= self.dropout < 1,
            f"embedding_deviation is {self.embedding_deviation}, expected more than 0": not self.embedding_deviation > 0,
            f"rows_per_table is {self.rows_per_table}, expected {FIRST_KNOWN + 1} or more, or None":
                self.rows_per_table is not None and self.rows_per_table <= FIRST_KNOWN,
        }
        for message, is_wrong in wrong.items():
            if is_wrong:
                raise UsageError(f"model settings: {message}")


def _own(name: str, given: OwnSettings | Mapping[str, object] | None) -> OwnSettings | None:
    """The model's own settings: as given, from plain data (of `run.json`), or its defaults."""
    kind = MODELS[name].settings if name in MODELS else None
    if kind is None:
        if given is not None and name in MODELS:
            raise UsageError(f"model {name!r} has no settings of its own, found {type(given).__name__}", hint="leave `own` out")
        return None
    if given is None:
        return kind()
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - {spec.name for spec in fields(kind)})
        if unknown:
            raise RunError(f"the settings of model {name!r} hold {unknown}, which this recspect does not know", hint="upgrade recspect")
        return kind(**given)
    if not isinstance(given, kind):
        raise UsageError(f"the own settings of model {name!r} are {kind.__name__}, found {type(given).__name__}",
                         hint=f"ModelConfig(name={name!r}, own={kind.__name__}(...))")
    return given
