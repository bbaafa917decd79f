"""Exposures with what came of them: the rows that a model is trained on.

A feedback event (click, purchase, ...) is credited to one exposure: where it names a request, to the latest exposure of that item to that
user in that request before it; else to the latest exposure of that item to that user before it, whatever the request (last touch). It counts
where it came within the kind's attribution window after the exposure. An exposure is mature when the longest window has passed by the end of
the log: before that, "no click" only means "no click yet" (delayed feedback; Chapelle, "Modeling delayed feedback in display advertising", KDD 2014).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recspect.diagnosis.source_query import literal
from recspect.errors import DataError, UsageError, listing
from recspect.events.event import MEASURED_KINDS, EventKind
from recspect.events.rows import EventRows, condition, known_kind
from recspect.events.store import EVENT_COLUMNS, TIME, EventStore, Window
from recspect.files import cannot_write, write_bytes
from recspect.schema import Field, Label, Schema

CARRIED = ("event_id", "user", "item", "request", "time", "position", "propensity", "model_version", "surface", "attributes")
"""Columns of an exposure that its row keeps."""


@dataclass(frozen=True)
class LabelledExposures:
    """Training rows, read from the store anew at each pass.

    Args:
        rows: One row per exposure: what was shown, one label per kind (0 or 1; for dwell the seconds in all, for rating the last grade, null
            where there was none) and `<kind>_time`, the first time of it.
        schema: What the columns mean, for `recspect train`.
        exposures: Number of rows.
        immature: Exposures left out since their window has not passed.
        credited: Feedback events that were credited to an exposure of the store within their window.
        uncredited: Those that were not.
    """

    rows: EventRows
    schema: Schema
    exposures: int
    immature: int
    credited: int
    uncredited: int

    def write(self, out: Path) -> Path:
        """Write the rows to a Parquet file, and the schema beside it; gives the schema's path. Never holds more than one batch.

        Raises:
            UsageError: It cannot be written there.
            DataError: There are no rows.
        """
        if not self.exposures:
            raise DataError(f"{self.rows.name}: no mature exposure to write ({self.immature:,} are not yet mature)", hint="shorten the window, or wait")
        beside = out.with_suffix(".schema.toml")
        temporary = out.with_name(f".{out.name[:40]}.{os.getpid()}")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(temporary, self.rows.schema) as writer:
                for table in self.rows.tables():
                    writer.write_table(table)
            temporary.replace(out)
        except OSError as error:
            raise cannot_write(out, error) from None
        finally:
            temporary.unlink(missing_ok=True)
        write_bytes(beside, self.schema.to_toml().encode())
        return beside


def label_exposures(store: EventStore, *, window_hours: float | Mapping[str, float] = 24.0, kinds: Sequence[EventKind | str] | None = None,
                    window: Window | None = None, as_of: datetime | None = None) -> LabelledExposures:
    """Exposures with their labels, as a query that the store computes.

    Args:
        store: Where the events are.
        window_hours: How long after an exposure feedback counts; one number, or one per kind.
        kinds: Which feedback; by default every kind that the store holds. The first is the label that is trained.
        window: Which exposures, by their time; all where None.
        as_of: Until when the log is known; by default the time of its newest event. Feedback after it is not seen.

    Raises:
        DataError: No exposures, or no feedback, in the store.
        UsageError: A window that is not positive, kinds without exposures' feedback.
    """
    chosen = [known_kind(kind) for kind in kinds] if kinds is not None else [kind for kind in EventKind if kind is not EventKind.EXPOSURE and store.count(kind)]
    chosen = list(dict.fromkeys(chosen))
    if EventKind.EXPOSURE in chosen:
        raise UsageError("an exposure is what is labelled, no label", hint="kinds such as click, purchase")
    if not store.count(EventKind.EXPOSURE):
        raise DataError(f"{store.where} holds no exposures", hint="labels are about what was shown: log every item shown as an event of kind exposure")
    if not chosen:
        raise DataError(f"{store.where} holds exposures and no feedback", hint="name the kinds whose absence is meant, such as --kinds click")
    hours = {kind: _hours(window_hours, kind) for kind in chosen}
    if as_of is None:
        as_of = _one(store, 'SELECT max("time") AS found FROM {events}', TIME)
    assert as_of is not None
    Window(end=as_of)  # a moment with a zone
    mature = f'"time" <= TIMESTAMPTZ {literal(as_of.isoformat())} - {_interval(max(hours.values()))}'
    within = f"kind = 'exposure' AND {condition(window)}"
    columns = pa.schema([*(EVENT_COLUMNS.field(name) for name in CARRIED), *(each for kind in chosen for each in _columns(kind))])
    labels = _labels_sql(hours, as_of)
    carried = ", ".join(f'shown."{name}"' for name in CARRIED)
    found = ", ".join(f'{_absent(kind)} AS "{kind.value}", labels."{kind.value}_time"' for kind in chosen)
    sql = (f"WITH {labels} SELECT {carried}, {found} FROM (SELECT * FROM {{events}} WHERE {within} AND {mature}) AS shown "  # noqa: S608 - literals
           "LEFT JOIN labels ON labels.event_id = shown.event_id")
    exposures = int(_one(store, f"SELECT count(*) AS found FROM {{events}} WHERE {within} AND {mature}", pa.int64()))  # noqa: S608 - literals
    shown = int(_one(store, f"SELECT count(*) AS found FROM {{events}} WHERE {within}", pa.int64()))  # noqa: S608 - literals
    credited = int(_one(store, f"WITH {labels} SELECT CAST(coalesce(sum(credited), 0) AS BIGINT) AS found FROM labels", pa.int64()))  # noqa: S608 - literals
    feedback = sum(store.count(kind) for kind in chosen)
    rows = EventRows(name=f"labelled exposures of {store.where}", store=store, sql=sql, schema=columns)
    return LabelledExposures(rows, _schema(store, chosen, within, f"{store.where}, labelled"), exposures, shown - exposures, credited, feedback - credited)


# ---------------------------------------------------------------------- details


def _labels_sql(hours: Mapping[EventKind, float], as_of: datetime) -> str:
    """Common table expressions that end in `labels`: one row per exposure that something came of.

    Exposures and feedback of a user and an item are put in order of time; a running count of exposures gives all that follows an exposure the same
    number, so that one sort does the join. Once within requests, once across them for feedback that names none.
    """
    kinds = ", ".join(literal(kind.value) for kind in hours)
    known = f'"time" <= TIMESTAMPTZ {literal(as_of.isoformat())}'
    kept = 'event_id, kind, "user", item, "time", value'
    sums, merged, counts = [], [], []
    for kind, most in hours.items():
        counted = f'kind = {literal(kind.value)} AND "time" <= last_shown + {_interval(most)}'
        name = kind.value
        counts.append(f"({counted})")
        sums.append(f'min(CASE WHEN {counted} THEN "time" END) AS "{name}_time"')
        merged.append(f'min("{name}_time") AS "{name}_time"')
        if kind is EventKind.RATING:
            sums.append(f'(array_agg(value ORDER BY "time" DESC) FILTER (WHERE {counted}))[1] AS "{name}"')
            sums.append(f'max(CASE WHEN {counted} THEN "time" END) AS "{name}_last"')
            merged.append(f'(array_agg("{name}" ORDER BY "{name}_last" DESC) FILTER (WHERE "{name}_last" IS NOT NULL))[1] AS "{name}"')
        elif kind is EventKind.DWELL:
            sums.append(f'sum(CASE WHEN {counted} THEN value END) AS "{name}"')
            merged.append(f'sum("{name}") AS "{name}"')
        else:
            sums.append(f'max(CASE WHEN {counted} THEN 1 ELSE 0 END) AS "{name}"')
            merged.append(f'max("{name}") AS "{name}"')
    anything = " OR ".join(counts)
    return (
        f"told AS (SELECT {kept}, request AS list FROM {{events}} WHERE kind IN ('exposure', {kinds}) AND request IS NOT NULL AND {known} "  # noqa: S608 - literals
        f"UNION ALL SELECT {kept}, NULL AS list FROM {{events}} WHERE (kind = 'exposure' OR (kind IN ({kinds}) AND request IS NULL)) AND {known}), "
        "counted AS (SELECT *, count(CASE WHEN kind = 'exposure' THEN 1 END) OVER before AS turn, max(CASE WHEN kind = 'exposure' THEN \"time\" END) OVER before AS last_shown "
        "FROM told WINDOW before AS (PARTITION BY \"user\", item, list ORDER BY \"time\", CASE WHEN kind = 'exposure' THEN 0 ELSE 1 END, event_id "
        "ROWS UNBOUNDED PRECEDING)), "
        f"once AS (SELECT max(CASE WHEN kind = 'exposure' THEN event_id END) AS event_id, {', '.join(sums)}, count(CASE WHEN {anything} THEN 1 END) AS credited "
        f'FROM counted WHERE turn > 0 GROUP BY "user", item, list, turn HAVING count(CASE WHEN {anything} THEN 1 END) > 0), '
        f"labels AS (SELECT event_id, {', '.join(merged)}, sum(credited) AS credited FROM once GROUP BY event_id)")


def _absent(kind: EventKind) -> str:
    value = f'labels."{kind.value}"'
    return value if kind in MEASURED_KINDS else f"CAST(coalesce({value}, 0) AS SMALLINT)"


def _columns(kind: EventKind) -> tuple[pa.Field, pa.Field]:
    return pa.field(kind.value, pa.float64() if kind in MEASURED_KINDS else pa.int16()), pa.field(f"{kind.value}_time", TIME)


def _hours(given: float | Mapping[str, float], kind: EventKind) -> float:
    found = given.get(kind.value) if isinstance(given, Mapping) else given
    if found is None:
        raise UsageError(f"window_hours has no {kind.value}", hint=f"kinds: {listing(given)}")  # type: ignore[arg-type]
    if not (math.isfinite(found) and 0 < found <= 24 * 3660):
        raise UsageError(f"the attribution window of {kind.value} is {found:g} hours, expected more than 0 and at most ten years")
    return float(found)


def _interval(hours: float) -> str:
    return f"INTERVAL '{hours * 3600:.3f} seconds'"


def _one(store: EventStore, sql: str, kind: pa.DataType) -> object:
    return pa.concat_tables(list(store.select(sql, pa.schema([("found", kind)]))))["found"][0].as_py()


def _schema(store: EventStore, kinds: Sequence[EventKind], within: str, name: str) -> Schema:
    """Roles only for what the exposures have: a position that nobody sent is no position."""
    optional = ("request", "position", "propensity", "surface")
    counts = pa.schema([(column, pa.int64()) for column in optional])
    asked = ", ".join(f'count("{column}") AS "{column}"' for column in optional)
    found = pa.concat_tables(list(store.select(f"SELECT {asked} FROM {{events}} WHERE {within}", counts))).to_pylist()[0]  # noqa: S608 - our own names
    there = [column for column in optional if found[column]]
    fields = [Field(name="user", side="user"), Field(name="item", side="item"), *([Field(name="surface")] if "surface" in there else [])]
    ignored = ["event_id", "model_version", "attributes", *(f"{kind.value}_time" for kind in kinds), *(column for column in optional if column not in there)]
    return Schema(name=name, user="user", item="item", time="time", fields=tuple(fields), ignored=tuple(ignored),
                  labels=tuple(Label(name=kind.value, kind="graded" if kind in MEASURED_KINDS else "binary") for kind in kinds),
                  **{column: column for column in there if column != "surface"})
