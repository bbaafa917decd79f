"""Real tables as worlds of the exam, each cut down so that a case trains in a few seconds.

Which rows are taken depends on the seed, so that seeds are other samples of the same source. Columns known to tell the future (item statistics of
KuaiRand, the length of the call in UCI Bank) are left out: here nothing is wrong until a fault is planted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, concatenate
from recspect.exam.case import Columns
from recspect.features import encode_label
from recspect.schema import Kind, Label, Schema

OUTCOME = "outcome"
"""Name of the label, 0/1, whatever it was made from."""


@dataclass(frozen=True, kw_only=True)
class RealTable:
    """A data set of `recspect.datasets`, and what is used of it.

    Args:
        dataset: Its name there.
        fields: Those the model reads.
        columns: What faults can be planted in; the label is `outcome`.
        rows: About so many rows are taken: of users drawn whole where the table has users, of rows else.
        unknown_share: Share of ids that training hides, so that ids new to it have a trained vector to read.
        minimum_counts: Of fields of ids: those seen less often in training share one vector, since too few rows teach only themselves.
    """

    dataset: str
    fields: Sequence[str]
    columns: Columns
    rows: int
    unknown_share: float = 0.0
    minimum_counts: Mapping[str, int] = field(default_factory=dict)

    def schema(self) -> Schema:
        """The data set's schema with the fields that are used, and the 0/1 label."""
        from recspect.datasets import card

        whole = card(self.dataset).schema
        kept = tuple(replace(one, minimum_count=self.minimum_counts.get(one.name, one.minimum_count)) for one in whole.fields if one.name in self.fields)
        return replace(whole, fields=kept, labels=(Label(name=OUTCOME),), ignored=())

    def parts(self, seed: int) -> tuple[Batch, Batch, Batch]:
        """Rows to train (76%), to stop by (4%) and held out (20%): by time, or at random where there is none.

        Raises:
            DataError: The data set is nowhere on this machine.
        """
        whole, rng = _whole(self.dataset, tuple(self.fields)), np.random.default_rng(seed)
        user, time = self.columns.user, self.columns.time
        units = np.arange(whole.rows) if user is None else whole.categories(user).codes
        share = min(1.0, self.rows / whole.rows)
        rows = whole.take(np.flatnonzero((rng.random(int(units.max()) + 1) < share)[units]))
        order = np.argsort(rows.numbers(time), kind="stable") if time is not None else rng.permutation(rows.rows)
        first, second = round(0.76 * rows.rows), round(0.8 * rows.rows)
        return rows.take(order[:first]), rows.take(order[first:second]), rows.take(order[second:])


@cache
def _whole(dataset: str, fields: tuple[str, ...]) -> Batch:
    """The table's columns that are used, its label as 0/1, its numeric fields as floating point. Kept: one process sits many cells."""
    from recspect.datasets import load

    found = load(dataset)
    schema = found.schema
    columns = dict.fromkeys([*fields, schema.label.name, *(c for c in (schema.user, schema.item, schema.time) if c)])
    rows = concatenate(list(found.source.batches(list(columns))))
    numbers = {one.name: _known(rows.numbers(one.name), one.missing) for one in schema.fields if one.name in fields and one.kind is Kind.NUMERIC}
    label = encode_label(schema.label, rows).astype(np.int64)
    kept = [name for name in rows if name != schema.label.name]
    return rows.select(kept).with_columns({**numbers, OUTCOME: label})


def _known(values: NDArray[Any], missing: Sequence[object]) -> NDArray[np.float64]:
    """The numbers with the codes that mean "not known" as NaN."""
    out = values.astype(np.float64)
    for code in missing:
        out[out == code] = np.nan
    return out


REAL_TABLES = {
    "kuairand": RealTable(
        dataset="kuairand-pure", rows=50_000, minimum_counts={"user_id": 10, "video_id": 10, "author_id": 10},
        fields=("user_id", "user_active_degree", "register_days", "video_id", "author_id", "video_type", "duration_ms", "music_type", "tab", "hour"),
        columns=Columns(label=OUTCOME, category="video_id", number="duration_ms", user="user_id", item="video_id", time="time_ms", group="user_active_degree",
                        member="full_active")),
    "movielens": RealTable(
        dataset="movielens-latest-small", rows=50_000, unknown_share=0.1, minimum_counts={"userId": 50, "movieId": 10},
        fields=("userId", "movieId", "genres", "release_year"),
        columns=Columns(label=OUTCOME, category="movieId", number="release_year", user="userId", item="movieId", time="timestamp")),
    "bank": RealTable(
        dataset="uci-bank", rows=36_000,
        fields=("age", "job", "marital", "education", "default", "balance", "housing", "loan", "contact", "day", "month", "campaign", "pdays", "previous", "poutcome"),
        columns=Columns(label=OUTCOME, category="job", number="age", group="marital", member="single")),
}
"""Three real tables: short videos with a time split, film ratings of few users, and calls of a bank with neither users nor a time."""

__all__ = ["OUTCOME", "REAL_TABLES", "RealTable"]
