"""What a built-in model is made of: settings that rebuild it from a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recspect.errors import UsageError

Activation = Literal["relu", "silu", "gelu", "tanh"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings shared by the built-in models.

    Args:
        name: `deepfm` or `mlp`.
        embedding_width: Numbers per embedding vector (D).
        hidden: Neurons of each hidden layer.
        activation: Of the hidden layers: `relu`, `silu`, `gelu` or `tanh`.
        dropout: Share of hidden activations dropped in training, 0 to below 1.
        embedding_deviation: Standard deviation of embeddings at the start.
        output: What the model returns: `logit` for a binary label, `value` (in the label's unit) for a graded one.
        output_mean: The output is `output_mean + output_scale * raw`; for a value, the label's mean in training.
        output_scale: For a value, the label's standard deviation in training.
    """

    name: str = "deepfm"
    embedding_width: int = 16
    hidden: tuple[int, ...] = (256, 128)
    activation: Activation = "relu"
    dropout: float = 0.0
    embedding_deviation: float = 0.01
    output: Literal["logit", "value"] = "logit"
    output_mean: float = 0.0
    output_scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
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
        }
        for message, is_wrong in wrong.items():
            if is_wrong:
                raise UsageError(f"model settings: {message}")
