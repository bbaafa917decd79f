"""Importance of fields as one call: both scores with intervals, per layer and per neuron, without a whole examination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.features.scores import (
    FieldScore,
    error_stats,
    field_scores,
    flow_stat,
    loss_stat,
    score_evidence,
)
from recspect.diagnosis.evidence import Evidence
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL, Slice
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.field_flow import FieldFlow, FieldFlowSummary
from recspect.diagnosis.subject import TorchSubject
from recspect.diagnosis.tally import Tally
from recspect.errors import UsageError
from recspect.examining.sampling import all_rows, mean_baseline_over, scope_over
from recspect.examining.tables import sample_of, standard_probes
from recspect.schema import Schema

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Importance:
    """The importance of every field on some rows. Adds: importance of Monday + importance of Tuesday, for one model and one baseline.

    Args:
        tally: The totals behind it.
        scope: What was examined.
        per_neuron: The stat whose summaries hold sums per neuron.
    """

    tally: Tally
    scope: Scope
    per_neuron: FieldFlow

    def __add__(self, other: Importance) -> Importance:
        if self.scope != other.scope:
            raise UsageError("importance of different fields, layers or schemas cannot be added up", hint="add up rows of one model")
        return Importance(self.tally + other.tally, self.scope, self.per_neuron)

    @property
    def scores(self) -> list[FieldScore]:
        """The scores of every field, most relied on first.

        Raises:
            Unavailable: Fewer than 100 rows, or nothing moves the logit.
        """
        return field_scores(self.tally, self.scope)

    @property
    def total(self) -> FieldFlowSummary:
        """All sums, those per neuron included: `neuron_mean(layer)`, `neuron_deviation(layer)`, `specialisation(layer)`."""
        return self.in_slice(ALL)

    def in_slice(self, slice_: Slice) -> FieldFlowSummary:
        """The sums over one of the slices that were asked for.

        Raises:
            Unavailable: It was not.
        """
        summary: FieldFlowSummary = self.tally.get_summary(self.per_neuron, slice_)
        return summary

    def table(self) -> pl.DataFrame:
        """One row per field: both scores with intervals, contribution, deviation, and per layer share, cancellation and bypass."""
        import polars as pl

        rows = []
        for s in self.scores:
            row: dict[str, Any] = {"field": s.field, "reliance": s.reliance.value, "reliance_low": s.reliance.low, "reliance_high": s.reliance.high}
            if s.usefulness is not None:
                row |= {"usefulness": s.usefulness.value, "usefulness_low": s.usefulness.low, "usefulness_high": s.usefulness.high}
            row |= {"contribution": s.contribution, "deviation": s.deviation}
            for k, layer in enumerate(self.per_neuron.layers):
                row |= {f"share:{layer}": s.shares[k], f"cancellation:{layer}": s.cancellation[k], f"bypass:{layer}": s.bypass[k]}
            rows.append(row)
        return pl.DataFrame(rows)

    def neurons(self, layer: str) -> pl.DataFrame:
        """One row per field and neuron of a layer: mean, standard deviation and mean size of its flow over rows, logits.

        Raises:
            UsageError: There is no such layer.
        """
        import polars as pl

        if layer not in self.per_neuron.layers:
            raise UsageError(f"no layer {layer!r}; layers: {', '.join(self.per_neuron.layers) or 'none'}")
        k, total = self.per_neuron.layers.index(layer), self.total
        mean: NDArray[np.float64] = total.neuron_mean(k)
        fields, units = mean.shape
        return pl.DataFrame({
            "field": np.repeat(np.array(self.per_neuron.fields), units), "neuron": np.tile(np.arange(units), fields), "mean": mean.ravel(),
            "deviation": total.neuron_deviation(k).ravel(), "size": total.neuron_size(k).ravel()})

    def _repr_html_(self) -> str:
        """What a notebook shows: the same pictures as a report."""
        from recspect.report.notebook import framed

        return framed(self.evidence(), title="Importance of fields")

    def evidence(self) -> tuple[Evidence, ...]:
        """Bars, table, heat maps and course over layers: data to draw, as in a report."""
        return score_evidence(self.tally, self.scope, self.scores, {})


def importance(subject: TorchSubject, table: Any, schema: Schema, *, baseline_rows: Any = None, layers: Sequence[str] | None = None,
               slices: Sequence[Slice] = (), steps: int = 8, rows: int = 4096, buckets: int = 50, seed: int = 0) -> Importance:
    """How much the model relies on every field, and how much each helps.

    Args:
        subject: The model.
        table: Rows to judge by, held out from training; anything that `read` takes.
        schema: What the columns mean; without a label there is no usefulness.
        baseline_rows: Rows whose mean embedding is where every path begins, usually training rows; default the table itself. What shall be
            added up must begin at the same place.
        layers: Names of activations or modules; default every activation function.
        slices: Slices for which sums are kept too.
        steps: Points of the path per row: 8 are enough to rank fields.
        rows: A random sample of at most so many rows is examined.
        buckets: Of users, for intervals.
        seed: Of the sample.

    Raises:
        SubjectError, DataError, SchemaError: The model, the table and the schema do not fit together.
    """
    from recspect.diagnosis.probes.conductance import ConductanceProbe, find_layers

    sample = sample_of(all_rows(table), rows, seed=seed)
    subject.sites(sample)
    names = find_layers(subject, sample) if layers is None else tuple(layers)
    own = standard_probes(schema, list(sample), score_from_table=False)
    probe = ConductanceProbe(subject, baseline=mean_baseline_over(subject, baseline_rows, sample, seed=seed), layers=names, label="@label" if schema.labels else None, steps=steps)
    scope = scope_over(schema, sample, [*own, probe], fields=subject.sites().fields, buckets=buckets, layers=names)
    stat = flow_stat(scope)
    per_neuron = FieldFlow(fields=stat.fields, layers=stat.layers, loss=stat.loss, neurons=True)
    keys = [(ALL, scope.bucketed(stat)), *([(ALL, scope.bucketed(loss_stat(scope)))] if stat.loss else []),
            *((ALL, one) for one in error_stats(scope)), *((slice_, per_neuron) for slice_ in dict.fromkeys((ALL, *slices)))]
    return Importance(tally(read(sample), keys, probes=[*own, probe], rows=probe.rows_within(sample)), scope, per_neuron)
