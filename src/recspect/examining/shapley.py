"""Exact Shapley values of fields as one call, for models of up to 12 fields (or groups of fields)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.probes.attribution import Baseline
from recspect.diagnosis.probes.shapley import ShapleyProbe
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.subject import TorchSubject
from recspect.diagnosis.tally import Tally
from recspect.examining.sampling import all_rows, mean_baseline_over, mean_over_rows, scope_over
from recspect.examining.tables import sample_of, standard_probes
from recspect.schema import Schema

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class ShapleyImportance:
    """Exact Shapley values over some rows. Adds, for one model, one baseline and the same groups.

    Args:
        players: Fields, or groups of them.
        tally: The totals behind it.
        scope: What was examined.
        has_labels: Whether there are values of the loss.
    """

    players: tuple[str, ...]
    tally: Tally
    scope: Scope
    has_labels: bool

    def __add__(self, other: ShapleyImportance) -> ShapleyImportance:
        from recspect.errors import UsageError

        if (self.players, self.scope, self.has_labels) != (other.players, other.scope, other.has_labels):
            raise UsageError("Shapley values of different fields or schemas cannot be added up", hint="add up rows of one model")
        return ShapleyImportance(self.players, self.tally + other.tally, self.scope, self.has_labels)

    def size(self, player: str) -> Estimate:
        """Mean size of the value over rows, logits: what the model relies on."""
        return self._mean(f"@shapley_size:{player}", "logits")

    def mean(self, player: str) -> Estimate:
        """Mean of the signed value over rows, logits."""
        return self._mean(f"@shapley:{player}", "logits")

    def usefulness(self, player: str) -> Estimate:
        """What the player takes off the loss per row: nats, or squared units; all sum to the loss at the baseline less the loss.

        Raises:
            Unavailable: There are no labels.
        """
        return self._mean(f"@shapley_usefulness:{player}", "nats of loss taken off per row")

    def table(self) -> pl.DataFrame:
        """One row per player, the largest mean size first."""
        import polars as pl

        rows = []
        for player in sorted(self.players, key=lambda name: (-self.size(name).value, name)):
            size = self.size(player)
            row: dict[str, Any] = {"field": player, "size": size.value, "size_low": size.low, "size_high": size.high, "mean": self.mean(player).value}
            if self.has_labels:
                use = self.usefulness(player)
                row |= {"usefulness": use.value, "usefulness_low": use.low, "usefulness_high": use.high}
            rows.append(row)
        return pl.DataFrame(rows)

    def _mean(self, column: str, unit: str) -> Estimate:
        return mean_over_rows(self.tally, self.scope, column, unit=unit)


def shapley(subject: TorchSubject, table: Any, schema: Schema, *, baseline: Baseline | None = None, baseline_rows: Any = None,
            groups: Mapping[str, Sequence[str]] | None = None, rows: int = 256, buckets: int = 50, seed: int = 0) -> ShapleyImportance:
    """Exact Shapley values of all fields, of the logit and of the loss: what other methods approximate, for few fields.

    Costs 2^F forward passes per row: 256 rows of 8 fields are 65,536 rows through the model, of 12 fields a million.

    Args:
        subject: The model.
        table: Rows to explain; anything that `read` takes.
        schema: What the columns mean; without a label there are no values of the loss.
        baseline: What an absent field is; default its mean embedding over `baseline_rows`.
        baseline_rows: Usually training rows; default the table itself.
        groups: Name to fields that enter together; more than 12 fields need them.
        rows: At most so many rows are taken at random.
        buckets: Of users, for intervals.
        seed: Of the sample.

    Raises:
        UsageError: More than 12 players.
        SubjectError, DataError, SchemaError: The model, the table and the schema do not fit together.
    """
    sample = sample_of(all_rows(table), rows, seed=seed)
    baseline = baseline or mean_baseline_over(subject, baseline_rows, sample, seed=seed)
    subject.sites(sample)
    own = standard_probes(schema, list(sample), score_from_table=False)
    probe = ShapleyProbe(subject, baseline=baseline, groups=groups, label="@label" if schema.labels else None)
    scope = scope_over(schema, sample, [*own, probe], fields=subject.sites().fields, buckets=buckets)
    keys = [(ALL, scope.bucketed(Moments(column=name))) for name in probe.adds]
    return ShapleyImportance(probe.players, tally(read(sample), keys, probes=[*own, probe]), scope, bool(schema.labels))
