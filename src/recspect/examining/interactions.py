"""Interaction importance as one call: which pairs of fields count for more together than each alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import HeatMap
from recspect.diagnosis.probes.attribution import Baseline, integrated_gradients
from recspect.diagnosis.probes.interactions import InteractionProbe
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.subject import TorchSubject
from recspect.diagnosis.tally import Tally
from recspect.errors import UsageError, listing
from recspect.examining.sampling import all_rows, mean_baseline_over, mean_over_rows, scope_over
from recspect.examining.tables import sample_of, standard_probes
from recspect.schema import Schema

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Interactions:
    """What pairs of fields make together, over some rows.

    Args:
        names: The fields whose pairs were resolved, those relied on most first; the last stands for all others where there are more.
        tally, scope: The totals behind it.
    """

    names: tuple[str, ...]
    tally: Tally
    scope: Scope

    def size(self, first: str, second: str) -> Estimate:
        """Mean size over rows of what two fields make together, logits; the same field twice: what it makes alone.

        Raises:
            UsageError: A field whose pairs were not resolved.
        """
        return self._mean("interaction_size", first, second)

    def mean(self, first: str, second: str) -> Estimate:
        """Mean of the same with its sign."""
        return self._mean("interaction", first, second)

    @property
    def error(self) -> float:
        """Mean over rows of what the sum of everything misses of the score's difference to the baseline, logits."""
        return float(self.tally.get_summary(self.scope.bucketed(Moments(column="@interaction_error"))).total.mean)

    def table(self) -> pl.DataFrame:
        """One row per pair of fields, the largest mean size first; `field` equals `other` for what a field makes alone."""
        import polars as pl

        rows = []
        for k, first in enumerate(self.names):
            for second in self.names[k:]:
                size, mean = self.size(first, second), self.mean(first, second)
                rows.append({"field": first, "other": second, "size": size.value, "low": size.low, "high": size.high, "mean": mean.value})
        return pl.DataFrame(sorted(rows, key=lambda row: (-row["size"], row["field"], row["other"])))

    def _repr_html_(self) -> str:
        """What a notebook shows: the sizes of all pairs."""
        from recspect.report.notebook import framed

        return framed([self.evidence()], title="Pairs of fields")

    def evidence(self) -> HeatMap:
        """Sizes of all pairs, as data to draw."""
        values = np.array([[self.size(first, second).value for second in self.names] for first in self.names])
        n = self.size(self.names[0], self.names[0]).n
        return HeatMap(title="Which fields count together?", unit="mean size of what the pair makes (logits)", rows=self.names, columns=self.names,
                       values=tuple(tuple(row) for row in values.tolist()), row_title="field", column_title="field",
                       caption=f"{n:,} rows; on the diagonal what a field makes alone")

    def _mean(self, kind: str, first: str, second: str) -> Estimate:
        wrong = [name for name in (first, second) if name not in self.names]
        if wrong:
            raise UsageError(f"the pairs of {listing(wrong)} were not resolved, only those of {listing(self.names)}", hint="interactions(..., fields=[...])")
        i, j = sorted((first, second), key=self.names.index)
        return mean_over_rows(self.tally, self.scope, f"@{kind}:{i}:{j}", unit="logits")


def interactions(subject: TorchSubject, table: Any, schema: Schema, *, fields: Sequence[str] | None = None, most: int = 8, baseline: Baseline | None = None,
                 baseline_rows: Any = None, steps: int = 8, rows: int = 1024, buckets: int = 50, seed: int = 0) -> Interactions:
    """Which pairs of fields count for more together than each alone; see `recspect.diagnosis.probes.interactions`.

    Costs `steps` forward and backward passes per row for every resolved field.

    Args:
        subject: The model.
        table: Rows to explain; anything that `read` takes.
        schema: What the columns mean.
        fields: Fields whose pairs are resolved; default the `most` that are relied on most, by integrated gradients.
        most: How many.
        baseline: Where the path begins; default the mean embedding over `baseline_rows`.
        baseline_rows: Usually training rows; default the table itself.
        steps: Points of the path.
        rows: At most so many rows are taken at random.
        buckets: Of users, for intervals.
        seed: Of the sample.

    Raises:
        UsageError: A field that the model does not have.
        SubjectError, DataError, SchemaError: The model, the table and the schema do not fit together.
    """
    sample = sample_of(all_rows(table), rows, seed=seed)
    subject.sites(sample)
    baseline = baseline or mean_baseline_over(subject, baseline_rows, sample, seed=seed)
    chosen = tuple(fields) if fields is not None else _relied_on(subject, sample, baseline, most)
    own = standard_probes(schema, list(sample), score_from_table=False)
    probe = InteractionProbe(subject, baseline=baseline, fields=chosen, steps=steps)
    scope = scope_over(schema, sample, [*own, probe], fields=subject.sites().fields, buckets=buckets)
    keys = [(ALL, scope.bucketed(Moments(column=name))) for name in probe.adds]
    return Interactions(probe.names, tally(read(sample), keys, probes=[*own, probe]), scope)


def _relied_on(subject: TorchSubject, sample: Batch, baseline: Baseline, most: int) -> tuple[str, ...]:
    found = integrated_gradients(subject, sample, baseline=baseline, steps=8)
    size = {name: float(value.abs().mean()) for name, value in found.reliance.items()}
    return tuple(sorted(size, key=lambda name: (-size[name], name))[:most])
