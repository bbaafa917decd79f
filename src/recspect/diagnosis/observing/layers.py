"""What the output of one module says: its distribution, its dead and saturated units, its attention and gates."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from recspect.diagnosis.observing.histograms import spread

QUANTILES = {"activation_low": 0.05, "activation_median": 0.5, "activation_high": 0.95}
"""Series name to the quantile it holds."""

ACTIVATION_VALUES, QUANTILE_VALUES = 131_072, 1024
"""The figures of an output rest on at most so many evenly spaced numbers of it, and its quantiles on so many."""

SUPPORT_ROWS, LEAST_ROWS = 8192, 1000
"""A unit is called dead when it stayed silent in at least so many rows; at the end of an epoch, in so many."""

SATURATED = 4.0
"""Size of a sigmoid's or tanh's argument from which a unit counts as saturated, as in the stat UnitActivity."""

_SQUASHING = (nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Hardtanh)
_SILENT_BY_DESIGN = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.Identity)


class LayerSums:
    """Sums over all outputs of one module in one step. The spread is summed about the mean of each output."""

    def __init__(self) -> None:
        self.n, self.total, self.spread, self.zeros, self.absolute = 0, 0.0, 0.0, 0, 0.0
        self.some: Tensor | None = None

    def add(self, output: Tensor) -> int:
        """Add a float tensor; gives the count of NaN and infinities, which are left out."""
        bad = 0
        values = spread(output, ACTIVATION_VALUES).float()
        if not math.isfinite(float(output.sum(dtype=torch.float32))):  # all of it is asked: one bad number is enough
            bad = int(output.numel() - torch.isfinite(output).sum())
            values = values[torch.isfinite(values)].cpu().double() if bad else values.cpu().double()
        self.some = spread(output, QUANTILE_VALUES)
        total = float(values.sum())
        n = values.numel()
        if n == 0:
            return bad
        centred = values - total / n
        spread_here = float(torch.dot(centred, centred))
        if self.n:  # two parts of a variance: Chan, Golub and LeVeque 1979
            spread_here += (total / n - self.total / self.n) ** 2 * self.n * n / (self.n + n)
        self.n, self.total, self.spread = self.n + n, self.total + total, self.spread + spread_here
        self.zeros += n - int(torch.count_nonzero(values))
        self.absolute += float(torch.linalg.vector_norm(values, 1))
        return bad

    @property
    def rectified(self) -> bool:
        """Whether no number was below 0 and some were exactly 0: what a ReLU leaves."""
        return self.zeros > 0 and self.absolute - self.total <= 1e-6 * self.absolute

    def figures(self) -> dict[str, float]:
        """Series name to value; nothing where no finite number was seen."""
        if not self.n:
            return {}
        figures = {"activation_mean": self.total / self.n, "activation_deviation": math.sqrt(self.spread / self.n),
                   "activation_zero_share": self.zeros / self.n, "activation_absolute_mean": self.absolute / self.n}
        if self.some is not None:
            known = self.some.float()
            known = known[torch.isfinite(known)]
            if known.numel():
                wanted = torch.tensor(list(QUANTILES.values()), device=known.device)
                figures |= dict(zip(QUANTILES, torch.quantile(known, wanted).tolist(), strict=True))
        return figures


class UnitWindow:
    """Which units of a layer stayed silent, or were saturated, over rows of several looks; starts anew when it has told.

    Dead: not above 0 in any row. Saturated: share of (row, unit) whose argument of the sigmoid or tanh is beyond 4.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.highest: Tensor | None = None
        self.saturated, self.seen = 0, 0

    def add(self, values: Tensor, squashed: Tensor | None) -> None:
        """Add the outputs [..., units] of one call, and what was squashed where the layer squashes."""
        units = values.shape[-1]
        self.rows += values.numel() // units
        if squashed is None:
            highest = values.reshape(-1, units).amax(0)
            self.highest = highest if self.highest is None or self.highest.shape != highest.shape else torch.maximum(self.highest, highest)
        else:
            self.saturated += int((squashed.abs() > SATURATED).sum())
            self.seen += squashed.numel()

    def figures(self, least: int = SUPPORT_ROWS) -> dict[str, float]:
        """`dead_share` or `saturated_share`, with `support_rows`, once so many rows were seen; empty before."""
        if self.rows < least:
            return {}
        figures = {"support_rows": float(self.rows)}
        if self.highest is not None:
            figures["dead_share"] = float((self.highest <= 0).float().mean())
        if self.seen:
            figures["saturated_share"] = self.saturated / self.seen
        self.__init__()  # type: ignore[misc] # a new window
        return figures


def squashed_argument(module: Any, inputs: Any) -> Tensor | None:
    """What a sigmoid or tanh module of several units was given; None for other modules."""
    if isinstance(module, _SQUASHING) and isinstance(inputs, tuple) and inputs and isinstance(inputs[0], Tensor):
        return inputs[0].detach()
    return None


def has_units(module: Any, values: Tensor) -> bool:
    """Whether it makes sense to ask for silent units: several of them, and none silenced on purpose."""
    return values.dim() >= 2 and values.shape[-1] > 1 and not isinstance(module, _SILENT_BY_DESIGN)


def routing_figures(place: str, module: Any, output: Any) -> dict[str, float]:
    """Attention entropy of `nn.MultiheadAttention`, load of gates; empty for other modules.

    `attention_entropy`: mean over rows and queries of H(weights) / ln(keys): 1 is even, 0 looks at one key; only where the
    module is asked for its weights. `gate_highest_load`, `gate_balance` of a module named gate or router, or a softmax, whose
    outputs add up to 1: the mean share of the most used branch, and H(mean shares) / ln(branches): near 0 is collapse.
    """
    if isinstance(module, nn.MultiheadAttention):
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if weights is None or weights.shape[-1] < 2:
            return {}
        return {"attention_entropy": float(_entropy(weights.detach().float()).mean()) / math.log(weights.shape[-1])}
    named = re.search(r"gat(e|ing)|router", place.rsplit(".", 1)[-1]) or isinstance(module, nn.Softmax)
    if not named or not isinstance(output, Tensor) or output.dim() < 2 or output.shape[-1] < 2:
        return {}
    shares = output.detach().float()
    if bool((shares < 0).any()) or bool(((shares.sum(-1) - 1).abs() > 1e-3).any()):
        return {}
    load = shares.reshape(-1, shares.shape[-1]).mean(0)
    return {"gate_highest_load": float(load.max()), "gate_balance": float(_entropy(load)) / math.log(len(load))}


def _entropy(shares: Tensor) -> Tensor:
    return -torch.special.xlogy(shares, shares).sum(-1)
