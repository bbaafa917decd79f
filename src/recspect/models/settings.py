"""Settings that only one model has; those that all share are in `ModelConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recspect.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CrossSettings:
    """Of `dcnv2`.

    Args:
        layers: Cross layers: the highest degree of a product is this plus 1.
        rank: Width of the bottleneck of a cross layer's matrix (W = U V'); None for a full matrix.
        structure: `stacked` (the MLP reads what the cross layers give) or `parallel` (both read the fields).
    """

    layers: int = 3
    rank: int | None = None
    structure: Literal["stacked", "parallel"] = "parallel"

    def __post_init__(self) -> None:
        _at_least_one("dcnv2", layers=self.layers, **({} if self.rank is None else {"rank": self.rank}))
        if self.structure not in ("stacked", "parallel"):
            raise UsageError(f"settings of dcnv2: structure is {self.structure!r}, choices: 'stacked', 'parallel'")


@dataclass(frozen=True, kw_only=True)
class DotSettings:
    """Of `dlrm`.

    Args:
        bottom: Neurons of each hidden layer below the numbers' vector.
    """

    bottom: tuple[int, ...] = (64,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bottom", tuple(self.bottom))
        _at_least_one("dlrm", **{f"bottom[{i}]": width for i, width in enumerate(self.bottom)})


@dataclass(frozen=True, kw_only=True)
class AttentionSettings:
    """Of `din`.

    Args:
        attention: Neurons of each hidden layer that weighs an entry of the history.
        normalised: Whether the weights of a row's entries are made to add up to 1 (softmax); the paper leaves them as they are, so
            that a history with many like entries has a larger vector.
    """

    attention: tuple[int, ...] = (36,)
    normalised: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention", tuple(self.attention))
        _at_least_one("din", **{f"attention[{i}]": width for i, width in enumerate(self.attention)})


@dataclass(frozen=True, kw_only=True)
class MixtureSettings:
    """Of `mmoe`.

    Args:
        experts: Hidden layers that stand side by side and are read by all labels.
        tower: Neurons of each hidden layer above them, per label.
    """

    experts: int = 4
    tower: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tower", tuple(self.tower))
        _at_least_one("mmoe", experts=self.experts, **{f"tower[{i}]": width for i, width in enumerate(self.tower)})


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """Of `ple`.

    Args:
        layers: Layers of experts.
        shared_experts: Per layer, those that all labels read.
        label_experts: Per layer and label, those that this label alone reads.
        tower: Neurons of each hidden layer above them, per label.
    """

    layers: int = 2
    shared_experts: int = 1
    label_experts: int = 1
    tower: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tower", tuple(self.tower))
        _at_least_one("ple", layers=self.layers, shared_experts=self.shared_experts, label_experts=self.label_experts,
                      **{f"tower[{i}]": width for i, width in enumerate(self.tower)})


@dataclass(frozen=True, kw_only=True)
class Task:
    """A label of a model that predicts several; made by training.

    Args:
        label: Its name.
        output: `logit` for a binary label, `value` for a graded one.
        mean, scale: The output is `mean + scale * raw`, as in `ModelConfig`.
        after: The label without which it never happens; empty for none.
        weight: Of its loss in the sum that is learned from.
    """

    label: str
    output: Literal["logit", "value"] = "logit"
    mean: float = 0.0
    scale: float = 1.0
    after: str = ""
    weight: float = 1.0


OwnSettings = CrossSettings | DotSettings | AttentionSettings | MixtureSettings | ExtractionSettings
"""Any of them."""


def _at_least_one(model: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"settings of {model}: {name} is {value}, expected 1 or more")
