"""Synthetic worlds whose truth is known, and faults to plant in them."""

from recspect.worlds.faults import (
    plant_default_value,
    plant_duplicates,
    plant_label_copy,
    plant_late_labels,
    plant_missing,
    plant_noise_field,
    plant_prior_shift,
    plant_random_labels,
    plant_rate_change,
    plant_row_copies,
    plant_shuffled_field,
)
from recspect.worlds.fields import FieldWorld
from recspect.worlds.list_faults import feedback_lists, plant_narrow_lists, plant_position_bias
from recspect.worlds.world import World, logit_of, sigmoid, split_by_time

__all__ = ["FieldWorld", "World", "feedback_lists", "logit_of", "plant_default_value", "plant_duplicates", "plant_label_copy", "plant_late_labels", "plant_missing",
           "plant_narrow_lists", "plant_noise_field", "plant_position_bias", "plant_prior_shift", "plant_random_labels", "plant_rate_change", "plant_row_copies", "plant_shuffled_field",
           "sigmoid", "split_by_time"]
