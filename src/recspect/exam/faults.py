"""The faults of the exam and the variations nobody should be alarmed by, as data.

Each fault names, before anything is run, the codes of which one must alarm (`expected`), those that must not (`silent`), the cause that must be
named, and the place where it is known. Severities are 0 (barely visible), 1 (typical) and 2 (gross).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recspect.exam import planting, planting_logs, planting_training
from recspect.exam.case import Case, Columns

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
        place: Name of the place that an expected finding must be about, with columns of the table in braces; "" where it is the whole run.
        needs: What a table must have (names of `Columns`) for it to be planted.
    """

    name: str
    change: Change
    expected: tuple[str, ...]
    cause: str
    silent: tuple[str, ...] = ()
    place: str = ""
    needs: tuple[str, ...] = ()

    def place_in(self, columns: Columns) -> str:
        """The name of the place in a table of these columns."""
        return self.place.format(**vars(columns))


@dataclass(frozen=True, kw_only=True)
class Benign:
    """A change that is no fault.

    Args:
        name: Short and stable.
        change: Makes it.
        needs: What a table must have for it.
    """

    name: str
    change: Callable[[Case], Case]
    needs: tuple[str, ...] = ()


_TRAINING = ("training.dead_units", "training.gradient_flow", "training.loss_anomaly", "training.learning_rate")
_DATA = ("data.drift", "data.missing_values", "data.split_overlap", "data.time_leak")

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (
    Fault(name="label_copy", change=planting.label_copy, expected=("data.target_leak",), cause="target_leak", silent=_DATA, place="leak"),
    Fault(name="future_window", change=planting.future_window, expected=("data.target_leak",), cause="target_leak", silent=_DATA, place="window_rate",
          needs=("user", "time")),
    Fault(name="random_split", change=planting.random_split, expected=("data.time_leak",), cause="split_leak", silent=("data.drift", "data.joint_drift"),
          needs=("time",)),
    Fault(name="test_rows_in_training", change=planting.copied_rows, expected=("data.split_overlap",), cause="split_leak", silent=("data.drift",)),
    Fault(name="duplicated_rows", change=planting.duplicates, expected=("data.split_overlap",), cause="duplicated_rows", silent=("data.joint_drift",),
          needs=("user", "time")),
    Fault(name="shuffled_field", change=planting.shuffled_field, expected=("data.joint_drift",), cause="broken_join", silent=("data.drift", *_TRAINING),
          place="{category}"),
    Fault(name="default_value", change=planting.default_value, expected=("data.drift",), cause="default_value", silent=_TRAINING, place="{category}"),
    Fault(name="missing_field", change=planting.missing_number, expected=("data.missing_values",), cause="missing_at_serving", silent=_TRAINING,
          place="{number}"),
    Fault(name="new_items", change=planting.new_items, expected=("embeddings.untrained_rows", "data.drift"), cause="new_ids", silent=_TRAINING,
          place="{item}", needs=("item",)),
    Fault(name="few_buckets", change=planting.few_buckets, expected=("features.hash_collisions",), cause="small_table", silent=(*_DATA, "training.dead_units"),
          place="{item}", needs=("item",)),
    Fault(name="dead_layer", change=planting_training.dead_layer, expected=("training.dead_units",), cause="dead_layer", silent=_DATA),
    Fault(name="learning_rate", change=planting_training.learning_rate,
          expected=("training.learning_rate", "training.loss_anomaly", "predictions.normalised_entropy"), cause="learning_rate", silent=_DATA),
    Fault(name="broken_batch", change=planting_training.broken_batch, expected=("training.loss_anomaly", "training.gradient_flow"), cause="broken_batch",
          silent=("data.drift", "data.missing_values")),
    Fault(name="deep_stack", change=planting_training.deep_stack, expected=("training.gradient_flow",), cause="vanishing_gradient", silent=_DATA),
    Fault(name="collapsed_table", change=planting_training.collapsed_table, expected=("embeddings.collapse",), cause="embedding_collapse", silent=_DATA,
          place="{category}"),
    Fault(name="too_many_epochs", change=planting_training.many_epochs, expected=("training.one_epoch", "training.overfitting"), cause="memorisation",
          silent=_DATA),
    Fault(name="noise_field", change=planting.noise_field, expected=("features.spurious",), cause="spurious_field", silent=_DATA, place="noise"),
    Fault(name="sampled_negatives", change=planting_logs.sampled_negatives, expected=("predictions.negative_sampling", "predictions.calibration"),
          cause="sampled_negatives", silent=("data.joint_drift", *_TRAINING)),
    Fault(name="prior_shift", change=planting_logs.prior_shift, expected=("predictions.calibration", "predictions.negative_sampling"), cause="prior_shift",
          silent=("data.drift", *_TRAINING)),
    Fault(name="concept_drift", change=planting_logs.rate_change, expected=("data.change_point",), cause="concept_drift",
          silent=("data.drift", *_TRAINING), needs=("time",)),
    Fault(name="late_labels", change=planting_logs.late_labels, expected=("data.label_maturity",), cause="late_labels",
          silent=("data.drift", *_TRAINING), needs=("time",)),
    Fault(name="broken_segment", change=planting_logs.broken_segment, expected=("predictions.group_gap", "predictions.worst_slices"), cause="bad_slice",
          silent=("data.drift", *_TRAINING), place="{member}", needs=("group", "member")),
    Fault(name="random_labels", change=planting_logs.random_labels, expected=("predictions.normalised_entropy", "predictions.ranking_quality"),
          cause="nothing_learned", silent=_DATA),
    Fault(name="unequal_arms", change=planting_logs.unequal_arms, expected=("data.sample_ratio",), cause="sample_ratio_mismatch", silent=_TRAINING,
          needs=("user",)),
    Fault(name="stale_values", change=planting_logs.stale_values, expected=("data.replay",), cause="serving_skew", silent=(*_DATA, *_TRAINING),
          place="{number}", needs=("user", "item", "time")),
    Fault(name="position_effect", change=planting_logs.position_effect, expected=("recommendations.position_bias",), cause="position_in_labels",
          silent=(*_DATA, "training.dead_units"), needs=("item",)),
    Fault(name="broken_propensities", change=planting_logs.broken_propensities, expected=("recommendations.policy_support",), cause="broken_propensities",
          silent=(*_DATA, *_TRAINING), needs=("item", "chance")),
    Fault(name="popularity_loop", change=planting_logs.popularity_loop, expected=("recommendations.homogenisation",), cause="feedback_loop",
          silent=_TRAINING, needs=("user", "item", "time")),
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
    Benign(name="fewer_users", change=planting.new_cohort, needs=("user",)),
    Benign(name="shown_places", change=planting_logs.shown_places, needs=("item",)),
    Benign(name="true_propensities", change=planting_logs.true_propensities, needs=("item", "chance")),
    Benign(name="logged_rows", change=planting_logs.logged_rows, needs=("user", "item", "time")),
)}
"""Every variation by name."""
