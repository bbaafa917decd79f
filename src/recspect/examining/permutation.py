"""Permutation importance of fields as one call: how much worse the model ranks or predicts without what a field says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.features.permuted import (
    FieldPermutation,
    QualityMetric,
    field_permutations,
    list_column,
    metric_named,
    permutation_stats,
)
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.probes.permutation import (
    PermutationBoundProbe,
    PermutationProbe,
    PermutedRows,
    bound_column,
    with_positions,
)
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.subject import Subject, TorchSubject
from recspect.diagnosis.tally import Tally
from recspect.errors import UsageError
from recspect.examining.sampling import all_rows, scope_over
from recspect.examining.tables import sample_of, standard_probes
from recspect.schema import Schema

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class PermutationImportance:
    """What permuting each field costs.

    Args:
        metric: What was judged.
        value: The metric with nothing permuted, with interval.
        permuted: The fields that were permuted, most important first.
        bounds: Field to what permuting it can add to the loss per row (nats, or squared units), from one backward pass; empty without screening.
        repeats, seed, rows: How it was measured.
        tally, scope: The totals behind it.
    """

    metric: QualityMetric
    value: Estimate
    permuted: tuple[FieldPermutation, ...]
    bounds: Mapping[str, float]
    repeats: int
    seed: int
    rows: int
    tally: Tally
    scope: Scope

    @property
    def screened_out(self) -> tuple[str, ...]:
        """Fields that were not permuted, since screening put them behind the others; the highest bound first."""
        done = {one.field for one in self.permuted}
        return tuple(sorted((name for name in self.bounds if name not in done), key=lambda name: (-self.bounds[name], name)))

    def table(self) -> pl.DataFrame:
        """One row per field, the permuted ones first: importance with interval, deviation over repeats, and with screening the bound. Null where not permuted."""
        import polars as pl

        rows: list[dict[str, Any]] = [
            {"field": one.field, "permuted": True, "importance": one.importance.value, "low": one.importance.low, "high": one.importance.high,
             "deviation": one.deviation if np.isfinite(one.deviation) else None} for one in self.permuted]
        rows += [{"field": name, "permuted": False, "importance": None, "low": None, "high": None, "deviation": None} for name in self.screened_out]
        if self.bounds:
            rows = [{**row, "bound": self.bounds[row["field"]]} for row in rows]
        numbers = ("importance", "low", "high", "deviation", *(("bound",) if self.bounds else ()))
        return pl.DataFrame(rows, schema={"field": pl.String, "permuted": pl.Boolean, **dict.fromkeys(numbers, pl.Float64)})

    def evidence(self) -> Bars:
        """Bars with intervals, as data to draw."""
        top = self.permuted[:25]
        return Bars(title="How much is lost when a field is permuted?", unit=f"{self.metric.unit} lost", names=tuple(one.field for one in top),
                    values=tuple(one.importance.value for one in top),
                    low=tuple(one.importance.value if one.importance.low is None else one.importance.low for one in top),
                    high=tuple(one.importance.value if one.importance.high is None else one.importance.high for one in top), reference=0.0,
                    caption=f"{self.rows:,} rows, {self.repeats} permutations each, seed {self.seed}; 95% intervals")


def permutation_importance(subject: Subject, table: Any, schema: Schema, *, metric: str = "auto", fields: Sequence[str] | None = None,
                           groups: Mapping[str, Sequence[str]] | None = None, screen: int | None = None, repeats: int = 5, rows: int = 20_000,
                           buckets: int = 50, seed: int = 0) -> PermutationImportance:
    """How much worse the model gets when a field's values are dealt out to other rows.

    Costs one forward pass per field and repeat, without reading tables where the model is a PyTorch module; with `screen` one backward pass for all
    fields, and forward passes for so many of them only.

    Args:
        subject: Any model, also one of which only scores can be had.
        table: Rows to judge by, held out from training; anything that `read` takes.
        schema: What the columns mean.
        metric: `auc`, `auc_per_user`, `ndcg` (at 10, per user), `log_loss`, `rmse` or `squared_error`; `auto` is AUC for 0/1 labels, else RMSE.
        fields: Fields to permute; default all that the model reads, or the names of `groups` and the fields in none.
        groups: Name to fields that are permuted together, such as an item and what is known of it.
        screen: Permute only so many fields, those that can raise the loss most to first order.
        repeats: Permutations of each field.
        rows: At most so many rows are taken at random; whole users for metrics per user.
        buckets: Of users, for intervals.
        seed: Of the sample and the permutations.

    Raises:
        UsageError: An unknown metric or field, or screening where slopes cannot be had.
        Unavailable: The metric is not defined on these rows.
    """
    chosen = metric_named(("auc" if schema.label.kind == "binary" else "rmse") if metric == "auto" else metric)
    everything = all_rows(table)
    sample = with_positions(_whole_units(everything, list_column(schema), rows, seed) if chosen.per_unit else sample_of(everything, rows, seed=seed))
    known = subject.sites(sample).fields if isinstance(subject, TorchSubject) else subject.fields
    together = {name for own in (groups or {}).values() for name in own}
    asked = tuple(fields) if fields is not None else (*(groups or {}), *(name for name in known if name not in together))
    own = standard_probes(schema, list(sample), score_from_table=False)
    permuted = PermutedRows(subject, sample, fields=asked, groups=groups, repeats=repeats, seed=seed, whole_passes=chosen.per_unit)
    bounds = {} if screen is None else _bounds(permuted, sample, own)
    if screen is not None:
        if screen < 1:
            raise UsageError(f"screen is {screen}, expected at least 1 field to permute")
        permuted.fields = tuple(sorted(asked, key=lambda name: (-bounds[name], name))[:screen])
    probe = PermutationProbe(permuted)
    scope = scope_over(schema, sample, [*own, probe], fields=known, buckets=buckets)
    stats = [*permutation_stats(scope, chosen), *(stat for name in permuted.fields for stat in permutation_stats(scope, chosen, name))]
    total = tally(read(sample), [(ALL, stat) for stat in stats], probes=[*own, probe])
    value = total.get_summary(stats[0]).estimate(chosen.value, unit=chosen.unit, n=lambda t: t.count, of=chosen.of)
    return PermutationImportance(chosen, value, tuple(field_permutations(total, scope, chosen, permuted.fields)), bounds, repeats, seed, sample.rows, total, scope)


def screened_fields(permuted: PermutedRows, sample: Batch, own: Sequence[Probe], most: int) -> tuple[str, ...]:
    """The fields that can raise the loss most when permuted, by one backward pass."""
    bounds = _bounds(permuted, sample, own)
    return tuple(sorted(bounds, key=lambda name: (-bounds[name], name))[:most])


def _bounds(permuted: PermutedRows, sample: Batch, own: Sequence[Probe]) -> dict[str, float]:
    stats = {name: Moments(column=bound_column(name)) for name in permuted.fields}
    total = tally(read(sample), [(ALL, stat) for stat in stats.values()], probes=[*own, PermutationBoundProbe(permuted)])
    return {name: float(total.get_summary(stat).mean) for name, stat in stats.items()}


def _whole_units(batch: Batch, unit: str, rows: int, seed: int) -> Batch:
    """Users drawn at random with all their rows, about so many rows, in their order; at least one user."""
    if batch.rows <= rows:
        return batch
    codes = batch.categories(unit).codes
    size = np.bincount(codes[codes >= 0])
    drawn = np.random.default_rng(seed).permutation(len(size))
    kept = drawn[:max(1, int(np.searchsorted(np.cumsum(size[drawn]), rows, side="right")))]
    return batch.take(np.flatnonzero(np.isin(codes, kept)))
