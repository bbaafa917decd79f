"""The faults of the exam and the variations nobody should be alarmed by, as data.

Each fault names, before anything is run, the codes of which one must alarm (`expected`), those that must not (`silent`), the cause that must be
named, and the place where it is known. Severities are 0 (barely visible), 1 (typical) and 2 (gross).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recspect.exam import planting
from recspect.exam.case import Case

SEVERITIES = ("barely", "typical", "gross")
"""Names of the severities 0, 1, 2."""

Change = Callable[[Case, int], Case]
"""A case and a severity, to the case with the fault in it."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Args:
        name: Short and stable.
        change: Plants it.
        expected: Codes of which at least one must alarm.
        cause: Code of the root cause that must be named.
        silent: Codes that must not alarm because of it.
        place: Name of the place that an expected finding must be about, or "" where the place is the whole run.
    """

    name: str
    change: Change
    expected: tuple[str, ...]
    cause: str
    silent: tuple[str, ...] = ()
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class Benign:
    """A change that is no fault."""

    name: str
    change: Callable[[Case], Case]


_TRAINING = ("training.dead_units", "training.gradient_flow", "training.loss_anomaly", "training.learning_rate")
_DATA = ("data.drift", "data.missing_values", "data.split_overlap", "data.time_leak")

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (
    Fault(name="label_copy", change=planting.label_copy, expected=("data.target_leak",), cause="target_leak", silent=_DATA, place="leak"),
    Fault(name="future_window", change=planting.future_window, expected=("data.target_leak",), cause="target_leak", silent=_DATA, place="window_rate"),
    Fault(name="random_split", change=planting.random_split, expected=("data.time_leak",), cause="split_leak", silent=("data.drift", "data.joint_drift")),
    Fault(name="test_rows_in_training", change=planting.copied_rows, expected=("data.split_overlap",), cause="split_leak", silent=("data.drift",)),
    Fault(name="duplicated_rows", change=planting.duplicates, expected=("data.split_overlap",), cause="duplicated_rows", silent=("data.joint_drift",)),
    Fault(name="shuffled_field", change=planting.shuffled_item, expected=("data.joint_drift",), cause="broken_join", silent=("data.drift", *_TRAINING),
          place="item"),
    Fault(name="default_value", change=planting.default_value, expected=("data.drift",), cause="default_value", silent=_TRAINING, place="item"),
    Fault(name="missing_field", change=planting.missing_age, expected=("data.missing_values",), cause="missing_at_serving", silent=_TRAINING, place="age"),
    Fault(name="new_items", change=planting.new_items, expected=("embeddings.untrained_rows", "data.drift"), cause="new_ids", silent=_TRAINING, place="item"),
    Fault(name="dead_layer", change=planting.dead_layer, expected=("training.dead_units",), cause="dead_layer", silent=_DATA),
    Fault(name="learning_rate", change=planting.learning_rate, expected=("training.learning_rate", "training.loss_anomaly", "predictions.normalised_entropy"),
          cause="learning_rate", silent=_DATA),
    Fault(name="collapsed_table", change=planting.collapsed_table, expected=("embeddings.collapse",), cause="embedding_collapse", silent=_DATA, place="item"),
    Fault(name="too_many_epochs", change=planting.many_epochs, expected=("training.one_epoch", "training.overfitting"), cause="memorisation", silent=_DATA),
    Fault(name="noise_field", change=planting.noise_field, expected=("features.spurious",), cause="spurious_field", silent=_DATA, place="noise"),
    Fault(name="sampled_negatives", change=planting.sampled_negatives, expected=("predictions.negative_sampling", "predictions.calibration"),
          cause="sampled_negatives", silent=("data.joint_drift", *_TRAINING)),
    Fault(name="prior_shift", change=planting.prior_shift, expected=("predictions.calibration", "predictions.negative_sampling"), cause="prior_shift",
          silent=("data.drift", *_TRAINING)),
    Fault(name="concept_drift", change=planting.rate_change, expected=("data.change_point",), cause="concept_drift", silent=("data.drift", *_TRAINING)),
    Fault(name="late_labels", change=planting.late_labels, expected=("data.label_maturity",), cause="late_labels", silent=("data.drift", *_TRAINING)),
    Fault(name="broken_segment", change=planting.broken_segment, expected=("predictions.group_gap", "predictions.worst_slices"), cause="bad_slice",
          silent=("data.drift", *_TRAINING), place="trial"),
    Fault(name="random_labels", change=planting.random_labels, expected=("predictions.normalised_entropy", "predictions.ranking_quality"),
          cause="nothing_learned", silent=_DATA),
    Fault(name="unequal_arms", change=planting.unequal_arms, expected=("data.sample_ratio",), cause="sample_ratio_mismatch", silent=_TRAINING),
)}
"""Every fault by name."""

BENIGN: dict[str, Benign] = {benign.name: benign for benign in (
    Benign(name="wider_embeddings", change=lambda case: case.with_model(embedding_width=2 * case.config.model.embedding_width)),
    Benign(name="half_learning_rate", change=lambda case: case.with_settings(
        learning_rate=case.config.learning_rate / 2, table_learning_rate=case.config.table_learning_rate / 2)),
    Benign(name="dropout", change=lambda case: case.with_model(dropout=0.2)),
    Benign(name="deeper", change=lambda case: case.with_model(hidden=(*case.config.model.hidden, 32))),
    Benign(name="half_batch", change=lambda case: case.with_settings(batch_rows=case.config.batch_rows // 2)),
    Benign(name="few_missing", change=planting.few_missing),
    Benign(name="harmless_field", change=planting.harmless_field),
    Benign(name="fewer_users", change=planting.new_cohort),
)}
"""Every variation by name."""
