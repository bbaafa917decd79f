"""Names of the columns in which explanations are scored, and of the explainers that are: shared by who measures and who judges."""

from __future__ import annotations

PREFIX = "@explanation:"
OURS, ALIKE, MEASURED, GRADIENT, RANDOM, CONSTANT = "ours", "alike", "measured", "gradient_x_input", "random", "constant"
EXPLAINERS = (OURS, ALIKE, MEASURED, GRADIENT, RANDOM, CONSTANT)
TOP = (1, 2, 5)
"""Numbers of fields after which comprehensiveness and sufficiency are told."""
MOVED_SHARE = 0.05
"""Rows are moved towards their baseline by up to this share of the way, to see how much explanations move."""


def name_of(measure: str, explainer: str = "") -> str:
    """The column of a measure, of one explainer or of none."""
    return f"{PREFIX}{measure}:{explainer}" if explainer else f"{PREFIX}{measure}"


__all__ = ["ALIKE", "CONSTANT", "EXPLAINERS", "GRADIENT", "MEASURED", "MOVED_SHARE", "OURS", "PREFIX", "RANDOM", "TOP", "name_of"]
