"""Maps from a model's logit to a calibrated one, fitted on rows that it was not trained on.

`intercept` adds a constant, `temperature` scales, `platt` does both, `isotonic` is the best rising step function (read as straight lines between the middles of its
steps), `sampling` undoes that only a share of the negatives was kept: p = p' / (p' + (1 - p') / rate), which is logit + ln(rate).

Sources: Platt 1999; Zadrozny and Elkan 2002 (isotonic); Guo et al. 2017 (temperature); He et al. 2014 (negative sampling).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recspect.errors import UsageError, listing

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
MAPS = ("intercept", "temperature", "platt", "isotonic", "sampling")
"""From the fewest numbers to the most; `sampling` is not fitted but computed from the rate."""
FEWEST_OF_STEP = 50
"""Rows that an isotonic step is made of at least, so that its ends are no single outcomes."""
_FAR = 30.0


@dataclass(frozen=True)
class Calibration:
    """logit -> slope * logit + offset, or where there are knots, straight lines between these.

    Args:
        slope, offset: Of the straight map.
        knots, values: Rising logits, and what they become; empty for the straight map.
    """

    slope: float = 1.0
    offset: float = 0.0
    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def of(self, logit: Floats) -> Floats:
        """The calibrated logits, shape (rows,)."""
        if self.knots:
            found: Floats = np.interp(logit, self.knots, self.values)
            return found
        return self.slope * logit + self.offset

    def of_tensor(self, logit: torch.Tensor) -> torch.Tensor:
        """The same for a tensor, differentiable."""
        import torch

        if not self.knots:
            return self.slope * logit + self.offset
        knots, values = (torch.tensor(side, dtype=logit.dtype, device=logit.device) for side in (self.knots, self.values))
        inside = logit.clamp(knots[0], knots[-1])
        right = torch.searchsorted(knots, inside.detach().contiguous()).clamp(1, len(knots) - 1)
        low, high = knots[right - 1], knots[right]
        return values[right - 1] + (inside - low) / (high - low) * (values[right] - values[right - 1])


def fitted(step: Mapping[str, Any], logit: Floats, label: Floats) -> Calibration:
    """The map of a step of a recipe.

    Args:
        step: {"map": one of `MAPS`}; `sampling` has a `rate`.
        logit: Of rows that were not trained on, shape (rows,).
        label: 0 or 1, shape (rows,).

    Raises:
        UsageError: No such map, or a rate outside (0, 1].
    """
    name = step.get("map")
    if name == "sampling":
        rate = float(step.get("rate", 0))
        if not 0 < rate <= 1:
            raise UsageError(f"the rate at which negatives were kept is {rate}, expected above 0 and at most 1")
        return Calibration(offset=math.log(rate))
    if name == "isotonic":
        return _isotonic(logit, label)
    if name not in MAPS:
        raise UsageError(f"no calibration is called {name!r}", hint=f"calibrations: {listing(MAPS)}")
    return _straight(logit, label, slope=name != "intercept", offset=name != "temperature")


def loss(calibration: Calibration, logit: Floats, label: Floats) -> Floats:
    """Log loss per row, nats, shape (rows,)."""
    found = calibration.of(logit)
    return np.logaddexp(0, found) - label * found


def best_map(logit: Floats, label: Floats) -> str:
    """The map that a later half of rows prefers when it is fitted on the earlier half: the simplest of those within one standard error of the best.

    Args:
        logit, label: In order of time, shape (rows,).
    """
    half = len(logit) // 2
    losses = {name: loss(fitted({"map": name}, logit[:half], label[:half]), logit[half:], label[half:]) for name in MAPS[:4]}
    best = min(losses, key=lambda name: float(losses[name].mean()))
    for name in MAPS[:4]:
        worse = losses[name] - losses[best]
        if worse.mean() <= worse.std() / math.sqrt(len(worse)):
            return name
    return best


def _straight(logit: Floats, label: Floats, *, slope: bool, offset: bool) -> Calibration:
    """Newton's method for a + c logit; what is not fitted stays 0 and 1."""
    logit = np.clip(logit, -_FAR, _FAR)
    free = np.array([offset, slope])
    beta = np.array([0.0, 1.0])
    design = np.stack([np.ones_like(logit), logit], axis=1)
    value = _mean_loss(beta, design, label)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -_FAR, _FAR)))
        gradient = (design * (p - label)[:, None]).sum(0)[free]
        curvature = (design.T @ (design * (p * (1 - p))[:, None]))[np.ix_(free, free)] + 1e-9 * np.eye(int(free.sum()))
        step = np.linalg.solve(curvature, gradient)
        if np.abs(step).max() < 1e-10:
            break
        size = 1.0
        while size > 1e-6:  # halved until the loss does not rise: Newton's step can be too long far from the end
            moved = beta.copy()
            moved[free] -= size * step
            next_value = _mean_loss(moved, design, label)
            if next_value <= value + 1e-15:
                beta, value = moved, next_value
                break
            size /= 2
        else:
            break
    return Calibration(slope=float(beta[1]), offset=float(beta[0]))


def _mean_loss(beta: Floats, design: Floats, label: Floats) -> float:
    found = design @ beta
    return float((np.logaddexp(0, found) - label * found).mean())


def _isotonic(logit: Floats, label: Floats) -> Calibration:
    """Neighbours are pooled while their rates fall (pool adjacent violators), starting from groups of `FEWEST_OF_STEP` rows."""
    order = np.argsort(logit, kind="stable")
    groups = np.array_split(order, max(2, len(order) // FEWEST_OF_STEP))
    pooled: list[list[float]] = []  # sum of labels, rows, sum of logits
    for group in groups:
        pooled.append([float(label[group].sum()), float(len(group)), float(logit[group].sum())])
        while len(pooled) > 1 and pooled[-2][0] * pooled[-1][1] >= pooled[-1][0] * pooled[-2][1]:
            last = pooled.pop()
            pooled[-1] = [a + b for a, b in zip(pooled[-1], last, strict=True)]
    knots, values = _rising([total / rows for _, rows, total in pooled], [(good + 0.5) / (rows + 1) for good, rows, _ in pooled])
    if len(knots) < 2:  # one rate for all: a constant
        rate = (label.sum() + 0.5) / (len(label) + 1)
        return Calibration(slope=0.0, offset=float(np.log(rate / (1 - rate))))
    return Calibration(knots=tuple(knots), values=tuple(float(np.log(rate / (1 - rate))) for rate in values))


def _rising(knots: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Without knots that are equal to the one before."""
    kept = [0, *(k for k in range(1, len(knots)) if knots[k] > knots[k - 1] + 1e-9)]
    return [knots[k] for k in kept], [values[k] for k in kept]


__all__ = ["MAPS", "Calibration", "best_map", "fitted", "loss"]
