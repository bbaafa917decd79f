"""A world for judging importance: fields of known worth, and beside them a duplicate, a constant and an oversized noise field.

logit(truth) = b + sum_k s_k effect_k(field_k) + s_p effect(left, right), where `left` and `right` count only together; every effect has mean 0
and deviation 1, so the strength s is what a field is worth. The duplicate says what the strongest field says; `constant` never
changes; `noise` has so many categories that each is met a few times, enough to be learned by heart and useless on other rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.schema import Field, Label, Schema
from recspect.worlds.world import TRUTH, sigmoid


@dataclass(frozen=True, kw_only=True)
class FieldWorld:
    """Settings that make rows with fields of known worth, the same for the same settings.

    Args:
        rows: How many.
        strengths: Worth of `field0`, `field1`, ... in logits: standard deviation of what the field adds.
        pair: Worth of `left` and `right` together; alone each says nothing. 0 leaves them out.
        categories: Of every field but noise.
        noise: Categories of the noise field; 0 leaves it out.
        duplicate: Whether `copy` repeats `field0`.
        constant: Whether there is a field that never changes.
        base_rate: Share of clicks aimed at.
        seed: Of everything drawn.
    """

    rows: int = 12_000
    strengths: tuple[float, ...] = (1.2, 0.9, 0.7, 0.5, 0.35, 0.2, 0.1)
    pair: float = 0.9
    categories: int = 12
    noise: int = 3000
    duplicate: bool = True
    constant: bool = True
    base_rate: float = 0.3
    seed: int = 0

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, in the order of the columns."""
        named = [f"field{k}" for k in range(len(self.strengths))]
        named += ["left", "right"] if self.pair else []
        named += ["copy"] if self.duplicate else []
        named += ["constant"] if self.constant else []
        return (*named, *(["noise"] if self.noise else []))

    @property
    def worth(self) -> dict[str, float]:
        """What knowing each field is worth: the variance of the logit that it decides; a pair, and a field with its duplicate, share evenly."""
        worth = {f"field{k}": strength**2 for k, strength in enumerate(self.strengths)}
        if self.pair:
            worth |= {"left": self.pair**2 / 2, "right": self.pair**2 / 2}
        if self.duplicate:
            worth["field0"] /= 2
            worth["copy"] = worth["field0"]
        return {name: worth.get(name, 0.0) for name in self.fields}

    @property
    def schema(self) -> Schema:
        """What the columns mean."""
        return Schema(fields=tuple(Field(name=name) for name in self.fields), labels=(Label(name="click"),), time="time", time_unit="s",
                      ignored=(TRUTH,), name="field world")

    def exposures(self) -> Batch:
        """Columns: the fields, time, click (0 or 1) and truth."""
        rng = np.random.default_rng(self.seed)
        columns, effects = self._drawn(rng)
        logit = np.full(self.rows, np.log(self.base_rate / (1 - self.base_rate)))
        for name, effect in effects.items():
            logit += effect[columns["left"], columns["right"]] if name == "left, right" else effect[columns[name]]
        if self.duplicate:
            columns["copy"] = columns["field0"].copy()
        if self.constant:
            columns["constant"] = np.zeros(self.rows, dtype=np.int64)
        if self.noise:
            columns["noise"] = rng.integers(0, self.noise, self.rows)
        truth = sigmoid(logit)
        return Batch({**columns, "time": np.sort(rng.uniform(0, 86_400, self.rows)),
                      "click": (rng.random(self.rows) < truth).astype(np.int64), TRUTH: truth})

    @property
    def effects(self) -> dict[str, NDArray[np.float64]]:
        """What each category of `field0`, `field1`, ... adds to the logit, shape (categories,), and each pair of `left` and `right` under "left, right", shape (categories, categories)."""
        return self._drawn(np.random.default_rng(self.seed))[1]

    def _drawn(self, rng: np.random.Generator) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.float64]]]:
        columns: dict[str, NDArray[np.int64]] = {}
        effects: dict[str, NDArray[np.float64]] = {}
        for k, strength in enumerate(self.strengths):
            columns[f"field{k}"] = rng.integers(0, self.categories, self.rows)
            effects[f"field{k}"] = strength * _standard(rng.normal(size=self.categories))
        if self.pair:
            left, right = rng.integers(0, self.categories, (2, self.rows))
            effect = rng.normal(size=(self.categories, 2)) @ rng.normal(size=(2, self.categories))
            effect -= effect.mean(0, keepdims=True)
            effect -= effect.mean(1, keepdims=True)
            columns |= {"left": left, "right": right}
            effects["left, right"] = self.pair * (effect / effect.std())
        return columns, effects


def _standard(effects: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((effects - effects.mean()) / effects.std())
