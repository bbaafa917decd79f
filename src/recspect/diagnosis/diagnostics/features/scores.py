"""The two scores of every field, and their pictures: reliance (what the model uses) and usefulness (what helps). See docs/importance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.policy import ENOUGH_ROWS, number, percent, require_rows
from recspect.diagnosis.estimate import Estimate, significant_digits
from recspect.diagnosis.evidence import Bars, Curve, Evidence, HeatMap, Line, RankedTable
from recspect.diagnosis.stat import jackknife
from recspect.diagnosis.stats.field_flow import FieldFlow, FieldFlowSummary
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

MOST_LINES = 6
"""Fields drawn as lines; the table has all."""

LOGIT = "logit"
"""Name of the column of whole contributions, beside the layers."""


@dataclass(frozen=True, kw_only=True)
class FieldScore:
    """What one field counts.

    Args:
        field: Its name.
        reliance: Score between 0 and 1 with interval; all fields sum to 1.
        usefulness: Loss that it takes away per row, nats (or squared units), with interval; None without labels.
        contribution: Mean size of its contribution, logits.
        deviation: Standard deviation of its contribution over rows, logits.
        shares: Its share of the flow per layer, then of the whole contributions.
        cancellation, bypass: Per layer, 0 to 1.
    """

    field: str
    reliance: Estimate
    usefulness: Estimate | None
    contribution: float
    deviation: float
    shares: tuple[float, ...]
    cancellation: tuple[float, ...]
    bypass: tuple[float, ...]


def flow_stat(scope: Scope, *, suffix: str = "") -> FieldFlow:
    """What to add up: contributions of all fields, through the layers whose flows are there.

    Raises:
        Unavailable: The contributions of fewer than two fields were measured.
    """
    named = scope.fields or scope.schema.field_names
    fields = tuple(field for field in named if f"@attribution:{field}{suffix}" in scope.target)
    if len(fields) < 2:
        raise Unavailable("the contribution of fields to the score was not measured", hint="give the model, not only its scores")
    layers = tuple(layer for layer in scope.layers if all(f"@conductance:{field}:{layer}{suffix}" in scope.target for field in fields))
    loss = all(f"@usefulness:{field}{suffix}" in scope.target for field in fields)
    return FieldFlow(fields=fields, layers=layers, loss=loss, suffix=suffix)


def loss_stat(scope: Scope) -> FieldFlow:
    """Whole contributions and the loss that they take away, which are measured on more rows than flows are.

    Raises:
        Unavailable: There are no labels, or the contributions were not measured.
    """
    stat = flow_stat(scope)
    if not stat.loss:
        raise Unavailable("the loss that fields take away was not measured", hint="give rows with labels")
    return replace(stat, layers=())


def error_stats(scope: Scope) -> tuple[Moments, ...]:
    """What says how far the contributions of all fields are from the differences that they explain; nothing where flows were not measured."""
    stats = (Moments(column="@flow_error"), Moments(column="@flow_explained"))
    return stats if all(stat.column in scope.target for stat in stats) else ()


def epoch_stats(scope: Scope) -> dict[int, FieldFlow]:
    """The same for the model after each epoch, where it was measured."""
    found = {}
    for epoch in scope.epochs:
        try:
            found[epoch] = flow_stat(scope, suffix=f":epoch-{epoch}")
        except Unavailable:
            continue
    return found


def field_scores(target: Tally, scope: Scope) -> list[FieldScore]:
    """The scores of all fields, most relied on first.

    Raises:
        Unavailable: Contributions were not measured, or on too few rows, or nothing moves the logit.
    """
    stat = flow_stat(scope)
    bucketed = target.get_summary(scope.bucketed(stat))
    total: FieldFlowSummary = bucketed.total
    require_rows(total.count, "the rows whose fields were examined")
    n, reliance, shares = int(total.count), total.reliance(), _shares(total)
    if not np.isfinite(reliance).all():
        raise Unavailable("no field moves the score on these rows")
    useful = usefulness(target, scope) if stat.loss else {}
    found = []
    for f, field in enumerate(stat.fields):
        score = jackknife([bucketed], lambda t, f=f: float(t[0].reliance()[f]), unit="reliance score", n=n)  # type: ignore[misc]
        found.append(FieldScore(
            field=field, reliance=score, usefulness=useful.get(field), contribution=float(total.mean_attribution()[f]),
            deviation=float(total.deviation()[f]), shares=tuple(shares[f].tolist()), cancellation=tuple(total.cancellation()[f].tolist()),
            bypass=tuple(total.bypass_share()[f].tolist())))
    return sorted(found, key=lambda score: (-score.reliance.value, score.field))


def usefulness(side: Tally, scope: Scope) -> dict[str, Estimate]:
    """Field to the loss that it takes away per row of a side.

    Raises:
        Unavailable: It was not measured there, or on too few rows.
    """
    stat = loss_stat(scope)
    bucketed = side.get_summary(scope.bucketed(stat))
    require_rows(bucketed.total.count, "the rows whose fields were examined")
    n = int(bucketed.total.count)
    return {field: jackknife([bucketed], lambda t, f=f: float(t[0].mean_usefulness()[f]),  # type: ignore[misc]
                             unit="nats of loss taken off per row", n=n) for f, field in enumerate(stat.fields)}


def _shares(total: FieldFlowSummary) -> NDArray[np.float64]:
    whole = total.attribution.sum()
    return np.column_stack([total.layer_shares(), total.attribution / whole if whole > 0 else np.full(len(total.attribution), np.nan)])


# ---------------------------------------------------------------------- pictures


def score_evidence(target: Tally, scope: Scope, scores: Sequence[FieldScore], trained: Mapping[str, Estimate]) -> tuple[Evidence, ...]:
    """Bars, the table of scores, and where layers, epochs or slices were measured their pictures.

    Args:
        target, scope: As for `field_scores`.
        scores: Of the held-out rows.
        trained: Usefulness on the training rows, where it was measured.
    """
    layers = flow_stat(scope).layers
    return (reliance_bars(scores, _error(target, scope)), score_table(scores, layers, trained), *layer_evidence(scores, layers), *epoch_evidence(target, scope, scores),
            *slice_evidence(target, scope, scores))


def _error(target: Tally, scope: Scope) -> float:
    stats = error_stats(scope)
    if not stats or not all(target.has(stat) for stat in stats):
        return float("nan")
    error, explained = (target.get_summary(stat).mean for stat in stats)
    return float(error / explained) if explained > 0 else float("nan")


def reliance_bars(scores: Sequence[FieldScore], error: float) -> Bars:
    """The reliance scores with their intervals; `error` is the share of the logit's differences that the contributions miss."""
    top = scores[:25]
    return Bars(title="How much does the model rely on each field?", unit="reliance score", names=tuple(s.field for s in top),
                values=tuple(s.reliance.value for s in top),
                low=tuple(s.reliance.value if s.reliance.low is None else max(0.0, s.reliance.low) for s in top),
                high=tuple(s.reliance.value if s.reliance.high is None else s.reliance.high for s in top),
                highlighted=tuple(s.field for s in top if s.usefulness is not None and s.usefulness.value <= 0), reference=1 / len(scores),
                caption=f"{top[0].reliance.n:,} rows, {100 * top[0].reliance.level:g}% intervals; the line is an equal share; marked: does not lower the loss"
                        + (f"; contributions add up to within {percent(error)} of the logit's differences" if np.isfinite(error) else ""))


def score_table(scores: Sequence[FieldScore], layers: Sequence[str], trained: Mapping[str, Estimate]) -> RankedTable:
    """Every field with both scores, the size of its contribution, and what its neurons cancel and what goes around the first layer."""
    columns = ["field", "reliance score", "usefulness (nats per row)"]
    columns += ["on training rows"] if trained else []
    columns += ["contribution (logits), mean size", "deviation"]
    columns += [f"cancelled in {layers[0]}", f"goes around {layers[0]}"] if layers else []
    rows = []
    for s in scores:
        row = [s.field, f"{percent(s.reliance.value)}{_interval(s.reliance, 100)}",
               None if s.usefulness is None else f"{number(s.usefulness.value)}{_interval(s.usefulness, 1)}"]
        if trained:
            row.append(number(trained[s.field].value) if s.field in trained else None)
        row += [number(s.contribution), number(s.deviation)]
        row += [percent(s.cancellation[0]), percent(s.bypass[0])] if layers else []
        rows.append(tuple(row))
    return RankedTable(title="What are the scores of each field?", columns=tuple(columns), rows=tuple(rows),
                       caption=f"reliance on {scores[0].reliance.n:,} rows, scores sum to 100%"
                               + ("" if scores[0].usefulness is None else f"; usefulness on {scores[0].usefulness.n:,} rows, above 0 lowers the loss"))


def layer_evidence(scores: Sequence[FieldScore], layers: Sequence[str]) -> list[Evidence]:
    """How each field's share and cancellation change from layer to layer; nothing for a model without hidden layers."""
    if not layers:
        return []
    n, top = scores[0].reliance.n, scores[:25]
    places = (*layers, LOGIT)
    shares = HeatMap(title="By way of which layers does each field count?", unit="share of the flow through the layer", rows=tuple(s.field for s in top),
                     columns=places, values=tuple(s.shares for s in top), row_title="field", column_title="layer, input side first",
                     caption=f"{n:,} rows; columns sum to 1; '{LOGIT}' is the whole contribution, ways around the layers included")
    cancelled = HeatMap(title="Which fields cancel themselves inside a layer?", unit="share cancelled", rows=tuple(s.field for s in top), columns=tuple(layers),
                        values=tuple(s.cancellation for s in top), row_title="field", column_title="layer, input side first",
                        caption=f"{n:,} rows; 0: all neurons push the same way, 1: they take back all that they give")
    lines = tuple(Line(name=s.field, x=tuple(float(k) for k in range(1, len(places) + 1)), y=s.shares,
                       role="fault" if s.usefulness is not None and s.usefulness.value <= 0 else "target") for s in scores[:MOST_LINES])
    course = Curve(title="How does each field's share change from layer to layer?", x_title=f"layer: {', '.join(places)}", y_title="share of the flow",
                   lines=lines, caption=f"{n:,} rows; the {len(lines)} fields relied on most")
    return [shares, cancelled, course]


def epoch_evidence(target: Tally, scope: Scope, scores: Sequence[FieldScore]) -> list[Evidence]:
    """Reliance and usefulness after each epoch, where at least two were measured."""
    measured: dict[int, tuple[FieldFlow, FieldFlowSummary]] = {}
    for epoch, stat in epoch_stats(scope).items():
        if target.has(stat):
            measured[epoch] = stat, target.get_summary(stat)
    measured = {epoch: found for epoch, found in measured.items() if found[1].count and np.isfinite(found[1].reliance()).all()}
    if len(measured) < 2:
        return []
    x = tuple(float(epoch) for epoch in measured)
    n = int(min(total.count for _, total in measured.values()))

    def lines(value: str) -> tuple[Line, ...]:
        return tuple(Line(name=s.field, x=x, y=tuple(float(getattr(total, value)()[stat.fields.index(s.field)]) for stat, total in measured.values()),
                          role="fault" if s.usefulness is not None and s.usefulness.value <= 0 else "target") for s in scores[:MOST_LINES])

    pieces: list[Evidence] = [Curve(title="When did the model come to rely on each field?", x_title="epoch", y_title="reliance score", lines=lines("reliance"),
                                    caption=f"{n:,} held-out rows; the {min(MOST_LINES, len(scores))} fields relied on most")]
    if all(stat.loss for stat, _ in measured.values()):
        pieces.append(Curve(title="When did each field help?", x_title="epoch", y_title="nats of loss taken off per row", lines=lines("mean_usefulness"),
                            caption=f"{n:,} held-out rows; below 0 a field adds to the loss"))
    return pieces


def slice_evidence(target: Tally, scope: Scope, scores: Sequence[FieldScore]) -> list[Evidence]:
    """What each field takes off the loss in each slice that the user declared; nothing without slices of enough rows."""
    stat = replace(flow_stat(scope), layers=())
    totals = {str(slice_): target.get_summary(stat, slice_) for slice_ in scope.slices if stat.loss and target.has(stat, slice_)}
    totals = {name: total for name, total in totals.items() if total.count >= ENOUGH_ROWS}
    if not totals:
        return []
    top = scores[:25]
    values = {name: total.mean_usefulness() for name, total in totals.items()}
    rows = ", ".join(f"{name}: {total.count:,.0f}" for name, total in totals.items())
    return [HeatMap(title="In which slices does each field help?", unit="nats of loss taken off per row", rows=tuple(s.field for s in top),
                    columns=tuple(totals), values=tuple(tuple(float(value[stat.fields.index(s.field)]) for value in values.values()) for s in top),
                    row_title="field", column_title="slice", diverging=True, caption=f"held-out rows by slice: {rows}; below 0 a field adds to the loss")]


def _interval(estimate: Estimate, scale: float) -> str:
    """Its interval in brackets, to be put behind the number; nothing where there is none."""
    if estimate.low is None or estimate.high is None or not estimate.error:
        return ""
    places = significant_digits(scale * estimate.value, scale * estimate.error)
    return f" ({number(scale * estimate.low, places)} to {number(scale * estimate.high, places)})"
