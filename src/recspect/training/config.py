"""How a model is trained: every setting, with its unit, in one value that goes into `run.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from recspect.errors import RunError, UsageError, listing
from recspect.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of one training run. The defaults were chosen on KuaiRand-Pure (click, time split); see docs of `train`.

    Args:
        model: Which model, and its size.
        labels: Labels that one model is to predict together (`mmoe`, `ple`); the run is selected and judged by the first. Empty: the schema's first label alone.
        label_weights: Of the losses of several labels in their sum: `equal`, or `entropy`: each loss is divided by that of a constant guess
            (the entropy of the label's training rate; 1 for a graded label), so that a rare label weighs as much as a frequent one.
            The first label keeps the weight 1.
        other_labels: Weight of all labels but the first, times that of `label_weights`; below 1 where they are there to help the first.
        maximum_epochs: Passes over the training rows at most.
        patience_epochs: Stop after so many epochs in a row without a better validation value.
        select_by: What the best epoch is chosen by: `auc` (binary labels only) or `loss`; by default AUC for binary and
            loss for graded labels. Always on validation rows, never on test rows.
        batch_rows: Rows per step.
        learning_rate: Of Adam, for everything but the embedding tables.
        table_learning_rate: Of the tables' optimiser.
        table_optimiser: `rowwise_adagrad` or `sparse_adam`.
        dense_l2: Weight of |w|^2 / 2 for weight matrices; biases have none.
        embedding_l2: The same for embedding rows, when they are touched.
        clip_norm: Largest joint gradient norm; None for no clipping.
        unknown_share: Share of known ids that each step reads as "unknown", which trains the row that ids new to the model read;
            0 leaves that row as it was initialised. Off by default: on KuaiRand-Pure it changed nothing beyond the noise of seeds.
        test_share: Last share of the rows (in time; at random without a time), never used for fitting or selection.
        validation_share: Last share of the remaining rows, used for early stopping only.
        split: `time`, `random`, or `auto`: by time where the schema has a time column. `file`, of a folder that is streamed: whole files, in
            the order of their names, the last ones for the test.
        buffer_bytes: 0 holds the whole table in memory. Else the rows come from Parquet files: each reader holds at most so many bytes of
            encoded training rows, shuffled, and at most a quarter of that of each of validation and test rows.
        readers: Into how many streams, each with a buffer of its own, the training rows are dealt; each gives its share of every step.
            Several processes take whole streams; by default there are as many as processes.
        observe_every: Steps between two looks at gradients, activations and updates, and ten times those at the loss; 0 for none.
        histograms_every: Steps between two sets of histograms; 0 for none.
        keep_every_steps: Steps between two saved states of the model (`states/`), from which any series can be computed later; 0 for none.
        seed: Of weights, order of rows, dropout and the random split.
        device: `cpu`, `cuda`, `mps` or `auto`.
        precision: Of Lightning Fabric: `32-true` or `bf16-mixed`.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    labels: tuple[str, ...] = ()
    label_weights: Literal["equal", "entropy"] = "equal"
    other_labels: float = 1.0
    maximum_epochs: int = 20
    patience_epochs: int = 2
    select_by: Literal["auc", "loss"] | None = None
    batch_rows: int = 1024
    learning_rate: float = 1e-3
    table_learning_rate: float = 0.01
    table_optimiser: Literal["rowwise_adagrad", "sparse_adam"] = "rowwise_adagrad"
    dense_l2: float = 0.0
    embedding_l2: float = 0.0
    clip_norm: float | None = None
    unknown_share: float = 0.0
    test_share: float = 0.2
    validation_share: float = 0.05
    split: Literal["auto", "time", "random", "file"] = "auto"
    buffer_bytes: int = 0
    readers: int = 1
    observe_every: int = 50
    histograms_every: int = 200
    keep_every_steps: int = 0
    seed: int = 0
    device: str = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if len(set(self.labels)) < len(self.labels):
            raise UsageError(f"training settings: labels are {listing(self.labels)}, expected each once")
        for name, least in (("maximum_epochs", 1), ("patience_epochs", 1), ("batch_rows", 1), ("observe_every", 0),
                            ("histograms_every", 0), ("keep_every_steps", 0), ("buffer_bytes", 0), ("readers", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"training settings: {name} is {getattr(self, name)}, expected {least} or more",
                                 hint=f"use {least} or more")
        for name in ("learning_rate", "table_learning_rate", "other_labels"):
            if not getattr(self, name) > 0:
                raise UsageError(f"training settings: {name} is {getattr(self, name)}, expected more than 0")
        for name in ("dense_l2", "embedding_l2"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"training settings: {name} is {getattr(self, name)}, expected 0 or more")
        for name in ("test_share", "validation_share"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"training settings: {name} is {getattr(self, name)}, expected between 0 and 1",
                                 hint="rows are needed to train on, to stop by and to judge by")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"training settings: seed is {self.seed}, expected 0 to 2**63 - 1", hint="use a small number such as 0")
        if not 0 <= self.unknown_share < 1:
            raise UsageError(f"training settings: unknown_share is {self.unknown_share}, expected 0 or more and below 1",
                             hint="0.003 to 0.03 are usual")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UsageError(f"training settings: clip_norm is {self.clip_norm}, expected more than 0 or None")
        for name, choices in (("label_weights", ("equal", "entropy")), ("select_by", (None, "auc", "loss")), ("split", ("auto", "time", "random", "file")),
                              ("table_optimiser", ("rowwise_adagrad", "sparse_adam")),
                              ("precision", ("32-true", "bf16-mixed"))):
            if getattr(self, name) not in choices:
                raise UsageError(f"training settings: {name} is {getattr(self, name)!r}, choices: {choices}")
        if not self.buffer_bytes and (self.readers > 1 or self.split == "file"):
            what = "readers" if self.readers > 1 else "split = 'file'"
            raise UsageError(f"training settings: {what} is for rows that are streamed", hint="give buffer_bytes too")
        if self.buffer_bytes and self.split == "random":
            raise UsageError("training settings: rows that are streamed are split by time or by file, not at random", hint="split = 'file', or give three tables")
        if self.table_optimiser == "sparse_adam" and self.embedding_l2:
            raise UsageError("training settings: sparse_adam has no embedding_l2", hint="use rowwise_adagrad")

    def to_mapping(self) -> dict[str, Any]:
        """Plain data without the model's settings, which `run.json` holds beside it."""
        content = asdict(self)
        del content["model"]
        if not self.labels:
            del content["labels"], content["label_weights"], content["other_labels"]  # as before there were several
        if not self.buffer_bytes:
            del content["buffer_bytes"], content["readers"]  # as before there were streams
        return content

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], model: ModelConfig) -> TrainingConfig:
        """The inverse of `to_mapping`.

        Raises:
            RunError: Unknown settings (written by a newer recspect).
        """
        return cls(**known(cls, content, "training"), model=model)


def known(target: type[Any], content: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The mapping, after refusing settings that this version does not know."""
    names = {spec.name for spec in fields(target)}
    unknown = sorted(set(content) - names)
    if unknown:
        raise RunError(f"the run's {what} settings hold {unknown}, which this recspect does not know", hint="upgrade recspect")
    return dict(content)
