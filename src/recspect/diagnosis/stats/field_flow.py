"""How much every field counts, by way of every layer: sums of contributions and of their flow through neurons.

Shapes: F fields, L layers, n units of a layer. C[f, l, j] is the flow of a row's field f through neuron j of layer l (see
`recspect.diagnosis.probes.conductance`), IG[f] the field's whole contribution to the logit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat, Summary, Weights
from recspect.errors import DataError

Floats = NDArray[np.float64]

LARGEST = 1e70
"""Rows with a larger number are left out: squares of sums of such numbers are infinite."""


@dataclass(frozen=True)
class FieldFlowSummary(Summary):
    """Sums over rows.

    Args:
        count: Weight of the rows.
        invalid: Weight of rows with a missing, infinite or very large number, left out.
        attribution: Sum of |IG|, shape (F,).
        attribution_signed, attribution_squared: Sums of IG and of IG squared, shape (F,).
        usefulness: Sum of the loss taken away, nats, shape (F,); zeros where it was not read.
        size: Sum of sum_j |C|, shape (F, L).
        net: Sum of |sum_j C|, shape (F, L).
        bypass: Sum of |IG - sum_j C|, shape (F, L).
        neurons: Per layer the sums of C, |C| and C squared, shape (3, F, n); empty where neurons are not kept, n = 0 before any row.
    """

    count: float
    invalid: float
    attribution: Floats
    attribution_signed: Floats
    attribution_squared: Floats
    usefulness: Floats
    size: Floats
    net: Floats
    bypass: Floats
    neurons: tuple[Floats, ...]

    def __add__(self, other: FieldFlowSummary) -> FieldFlowSummary:
        return FieldFlowSummary(
            self.count + other.count, self.invalid + other.invalid, self.attribution + other.attribution,
            self.attribution_signed + other.attribution_signed, self.attribution_squared + other.attribution_squared,
            self.usefulness + other.usefulness, self.size + other.size, self.net + other.net, self.bypass + other.bypass,
            tuple(_together(a, b) for a, b in zip(self.neurons, other.neurons, strict=True)))

    # ------------------------------------------------------------------ scores, all of them functions of sums

    def reliance(self) -> Floats:
        """The reliance score of each field, shape (F,), sums to 1: the mean of its share of E|IG| and of its share of every layer's flow.

        A layer through which nothing flows has no shares and is left out. NaN where nothing moves the logit.
        """
        shares = np.column_stack([_shares(self.attribution), self.layer_shares()])
        counted = ~np.isnan(shares).all(0)
        return np.asarray(shares[:, counted].mean(1)) if counted.any() else np.full(len(shares), np.nan)

    def layer_shares(self) -> Floats:
        """Share of each field in the flow through each layer, shape (F, L); NaN for a layer through which nothing flows."""
        return np.column_stack([_shares(column) for column in self.size.T]) if self.size.size else np.zeros(self.size.shape)

    def flow(self) -> Floats:
        """G: mean over rows of sum_j |C|, logits, shape (F, L)."""
        return _divided(self.size, np.full_like(self.size, self.count))

    def mean_attribution(self) -> Floats:
        """E|IG|, logits, shape (F,)."""
        return _divided(self.attribution, np.full_like(self.attribution, self.count))

    def deviation(self) -> Floats:
        """Standard deviation of IG over rows, logits, shape (F,)."""
        return _deviation(self.attribution_signed, self.attribution_squared, self.count)

    def mean_usefulness(self) -> Floats:
        """Loss taken away per row, nats, shape (F,); below 0 the field adds to the loss."""
        return _divided(self.usefulness, np.full_like(self.usefulness, self.count))

    def cancellation(self) -> Floats:
        """1 - E|sum_j C| / E sum_j |C|, 0 to 1, shape (F, L): how much of a field's flow its neurons take back from each other. NaN without flow."""
        return 1 - _divided(self.net, self.size)

    def bypass_share(self) -> Floats:
        """E|IG - sum_j C| / (E|IG - sum_j C| + E|sum_j C|), 0 to 1, shape (F, L): how much of a field goes around a layer. NaN without any."""
        return _divided(self.bypass, self.bypass + self.net)

    def neuron_mean(self, layer: int) -> Floats:
        """Mean of C over rows, shape (F, n)."""
        return _divided(self.neurons[layer][0], np.full_like(self.neurons[layer][0], self.count))

    def neuron_size(self, layer: int) -> Floats:
        """Mean of |C| over rows, shape (F, n)."""
        return _divided(self.neurons[layer][1], np.full_like(self.neurons[layer][1], self.count))

    def neuron_deviation(self, layer: int) -> Floats:
        """Standard deviation of C over rows, shape (F, n)."""
        return _deviation(self.neurons[layer][0], self.neurons[layer][2], self.count)

    def spread(self, layer: int) -> Floats:
        """S: standard deviation over neurons of the mean |C|, logits, shape (F,)."""
        return np.asarray(self.neuron_size(layer).std(1))

    def specialisation(self, layer: int) -> Floats:
        """S over the mean over neurons, shape (F,): 0 where all neurons carry the same, sqrt(n - 1) where one carries all."""
        return _divided(self.spread(layer), self.neuron_size(layer).mean(1))


@dataclass(frozen=True, kw_only=True)
class FieldFlow(Stat[FieldFlowSummary]):
    """Sums of `@attribution:f` and `@conductance:f:l` for all fields and layers at once, so that shares and their intervals come from one total.

    Args:
        fields: Which, in order.
        layers: Which, input side first; empty for a model without hidden layers.
        loss: Also read `@usefulness:f`.
        neurons: Keep sums per neuron: 3 x F x (sum of n) numbers. Without it the size is 5 F + 3 F L.
        suffix: Behind the columns' names, such as ":epoch-3".
    """

    fields: tuple[str, ...]
    layers: tuple[str, ...] = ()
    loss: bool = False
    neurons: bool = False
    suffix: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        flows = [f"@conductance:{field}:{layer}" for field in self.fields for layer in self.layers]
        uses = [f"@usefulness:{field}" for field in self.fields] if self.loss else []
        return tuple(f"{name}{self.suffix}" for name in (*(f"@attribution:{field}" for field in self.fields), *uses, *flows))

    def zero(self) -> FieldFlowSummary:
        f, one = len(self.fields), (len(self.fields), len(self.layers))
        neurons = tuple(np.zeros((3, f, 0)) for _ in self.layers) if self.neurons else ()
        return FieldFlowSummary(0.0, 0.0, np.zeros(f), np.zeros(f), np.zeros(f), np.zeros(f), np.zeros(one), np.zeros(one), np.zeros(one), neurons)

    def summarize(self, batch: Batch, weight: Weights = None) -> FieldFlowSummary:
        whole = self._numbers("attribution", batch)
        uses = self._numbers("usefulness", batch) if self.loss else np.zeros((0, batch.rows))
        flows = [[batch.matrix(f"@conductance:{field}:{layer}{self.suffix}") for layer in self.layers] for field in self.fields]
        valid = (np.abs(whole) < LARGEST).all(0) & (np.abs(uses) < LARGEST).all(0)
        for by_layer in flows:
            for flow in by_layer:
                valid &= (np.abs(flow) < LARGEST).all(1)
        w = np.ones(batch.rows) if weight is None else weight
        invalid = float(w[~valid].sum())
        used = valid & (w > 0)
        if not used.any():
            return replace(self.zero(), invalid=invalid)
        if not used.all():
            whole, uses, w = whole[:, used], uses[:, used], w[used]
        size, net, bypass = (np.zeros((len(self.fields), len(self.layers))) for _ in range(3))
        sums: list[list[Floats]] = [[] for _ in self.layers]
        for f, by_layer in enumerate(flows):
            for k, flow in enumerate(by_layer):
                c = flow if used.all() else flow[used]
                absolute = np.abs(c)
                total = c.sum(1)
                size[f, k], net[f, k], bypass[f, k] = w @ absolute.sum(1), w @ np.abs(total), w @ np.abs(whole[f] - total)
                if self.neurons:
                    sums[k].append(np.stack([w @ c, w @ absolute, w @ np.square(c)]))
        return FieldFlowSummary(float(w.sum()), invalid, np.abs(whole) @ w, whole @ w, np.square(whole) @ w,
                                uses @ w if self.loss else np.zeros(len(self.fields)), size, net, bypass,
                                tuple(_stacked(mine) for mine in sums) if self.neurons else ())

    def _numbers(self, kind: str, batch: Batch) -> Floats:
        if not self.fields:
            return np.zeros((0, batch.rows))
        return np.stack([batch.numbers(f"@{kind}:{field}{self.suffix}") for field in self.fields])


def _stacked(by_field: Sequence[Floats]) -> Floats:
    widths = {part.shape[1] for part in by_field}
    if len(widths) > 1:
        raise DataError(f"the flows of different fields through one layer have {sorted(widths)} neurons, expected one number")
    return np.stack(by_field, 1) if by_field else np.zeros((3, 0, 0))


def _together(a: Floats, b: Floats) -> Floats:
    if not a.shape[2] or not b.shape[2]:
        return a if a.shape[2] else b
    if a.shape != b.shape:
        raise DataError(f"flows through {a.shape[2]} and through {b.shape[2]} neurons cannot be added up",
                        hint="add up rows of one model")
    return a + b


def _shares(values: Floats) -> Floats:
    whole = float(values.sum())
    return values / whole if whole > 0 else np.full(len(values), np.nan)


def _divided(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0))


def _deviation(signed: Floats, squared: Floats, count: float) -> Floats:
    if count <= 1:
        return np.full(np.shape(signed), np.nan)
    return np.asarray(np.sqrt(np.maximum(squared - signed**2 / count, 0.0) / (count - 1)))
