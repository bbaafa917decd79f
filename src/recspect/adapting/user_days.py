"""From events to what each user did on each day, in one pass, as the metric file declares it.

An event counts once (stores keep one per id; of other tables one of each id is taken). Where a metric gives `window_hours`, an event counts only within so many hours after the latest exposure of that item to that user, and on the
day of that exposure, so that what came of a day's lists stands beside them. Days whose longest window had not passed when the log ended are left out: "no click" only means "no click yet" there (Chapelle
2014), and numerators and denominators are cut at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from recspect.adapting.metric_file import PER_DAY, PER_USER, DeclaredMetric, MetricFile
from recspect.diagnosis.source import read
from recspect.diagnosis.source_query import literal
from recspect.errors import DataError, UsageError, listing
from recspect.events.event import EventKind
from recspect.events.rows import known_kind

USER, DAY, EVENTS, EXPOSURES = "user", "day", "events", "exposures"
NEEDED = ("event_id", "kind", "user", "item", "time")


@dataclass(frozen=True)
class UserDays:
    """What users did.

    Args:
        frame: One row per user and day: `user`, `day`, `events`, `exposures`, and a column per (kind of event, measure).
        last: The last day that is complete for every metric.
        log_end: The day of the newest event.
    """

    frame: pl.DataFrame
    last: Any
    log_end: Any


def column(kind: str, measure: str) -> str:
    """Name of the column of a kind's counts or values; whether there was any is told from the count."""
    return f"{kind}.{'value' if measure == 'value' else 'count'}"


def numerator(metric: DeclaredMetric) -> str:
    """Column of a metric's numerator."""
    return column(metric.event, metric.measure)


def windows(file: MetricFile) -> dict[str, float]:
    """Kind of event to its attribution window in hours.

    Raises:
        UsageError: A metric names no event, an unknown kind, or two metrics give one kind different windows.
    """
    found: dict[str, float] = {}
    for metric in file.all:
        if not metric.event:
            raise UsageError(f"metric {metric.name!r} names no event", hint=f'event = "click"; kinds: {listing(kind.value for kind in EventKind)}')
        for kind in (metric.event, *([] if metric.per in (PER_USER, PER_DAY) else [metric.per])):
            known_kind(kind)
    for metric in file.all:
        given = [other.window_hours for other in file.all if other.event == metric.event or other.per == metric.event]
        if len(set(given)) > 1 and any(other.event == metric.event and other.window_hours != metric.window_hours for other in file.all):
            raise UsageError(f"metrics give {metric.event!r} different windows", hint="one window_hours per kind of event")
        if metric.window_hours is not None:
            if metric.event == EventKind.EXPOSURE.value:
                raise UsageError(f"metric {metric.name!r}: an exposure is what a window begins with", hint="leave window_hours out")
            found[metric.event] = metric.window_hours
    return found


def user_days(events: Any, file: MetricFile) -> UserDays:
    """Add up events per user and day.

    Args:
        events: An event store, or a table with the columns of events (`event_id, kind, user, item, time`, `value` where values are measured).
        file: Its metrics name the kinds.

    Raises:
        DataError: No events of these kinds, or columns that are missing.
        UsageError: See `windows`.
    """
    limits = windows(file)
    wanted = dict.fromkeys((metric.event, metric.measure) for metric in file.all)
    counted = dict.fromkeys([*(kind for kind, _ in wanted), *(metric.per for metric in file.all if metric.per not in (PER_USER, PER_DAY)), EventKind.EXPOSURE.value])
    columns = [*((kind, "count") for kind in counted), *((kind, "value") for kind, measure in wanted if measure == "value")]
    schema = pa.schema([(USER, pa.string()), (DAY, pa.date32()), (EVENTS, pa.int64()), *((column(kind, measure), pa.float64()) for kind, measure in columns)])
    stored = hasattr(events, "select") and hasattr(events, "where")
    if stored:
        table = pa.concat_tables([schema.empty_table(), *events.select(_sql(columns, limits, "{events}"), schema)])
        name = events.where
    else:
        source = read(events)
        lacking = [needed for needed in (*NEEDED, *(["value"] if any(measure == "value" for _, measure in columns) else [])) if needed not in source.columns]
        if lacking:
            raise DataError(f"{source.name} lacks the columns {listing(lacking)} of events", hint=f"needed: {', '.join(NEEDED)}; recspect events import reads other names")
        name = source.name
        asked = read(source, sql=_sql(columns, limits, "(SELECT DISTINCT ON (event_id) * FROM data)"), name=name)
        table = pa.concat_tables([schema.empty_table(), *_tables(asked, schema)])
    frame = pl.DataFrame(pl.from_arrow(table))
    if not len(frame):
        raise DataError(f"{name} holds no event of {listing(counted)}", hint="kinds of the metric file and of the events have to agree")
    end = frame[DAY].max()
    last = end if not limits else end - pl.select(pl.duration(hours=max(limits.values()))).item()
    return UserDays(frame.filter(pl.col(DAY) <= last).with_columns(pl.col(column(EventKind.EXPOSURE.value, "count")).alias(EXPOSURES)), last, end)


def _tables(source: Any, schema: pa.Schema) -> list[pa.Table]:
    frame = source.frame()
    assert frame is not None  # a query runs on an engine
    return [frame.collect(backend="pyarrow").to_native().select(schema.names).cast(schema)]


def _sql(columns: list[tuple[str, str]], limits: dict[str, float], table: str) -> str:
    """One SELECT that both engines of the event stores understand."""
    kinds = ", ".join(literal(kind) for kind in dict.fromkeys(kind for kind, _ in columns))
    when = '"time"'
    if limits:
        when = f"CASE WHEN kind IN ({', '.join(literal(kind) for kind in limits)}) THEN shown ELSE \"time\" END"
    value = any(measure == "value" for _, measure in columns)
    inner = f'SELECT "user", kind, "time"{", value" if value else ""}'
    if limits:
        inner += (', max(CASE WHEN kind = \'exposure\' THEN "time" END) OVER (PARTITION BY "user", item ORDER BY "time", CASE WHEN kind = \'exposure\' THEN 0 ELSE 1 END, event_id '
                  "ROWS UNBOUNDED PRECEDING) AS shown")
    inner += f" FROM {table} AS told WHERE kind IN ({kinds})"
    kept = " AND ".join(f'(kind <> {literal(kind)} OR "time" <= shown + INTERVAL \'{hours * 3600:.3f} seconds\')' for kind, hours in limits.items()) or "true"
    sums = ", ".join((f"CAST(sum(CASE WHEN kind = {literal(kind)} THEN coalesce(value, 0) ELSE 0 END) AS DOUBLE PRECISION)" if measure == "value" else
                      f"CAST(sum(CASE WHEN kind = {literal(kind)} THEN 1 ELSE 0 END) AS DOUBLE PRECISION)") + f' AS "{column(kind, measure)}"' for kind, measure in columns)
    return (f'SELECT "user", CAST({when} AT TIME ZONE \'UTC\' AS DATE) AS "{DAY}", count(*) AS "{EVENTS}", {sums} FROM ({inner}) AS seen '  # noqa: S608 - literals
            f"WHERE {kept} GROUP BY 1, 2")


__all__ = ["DAY", "EVENTS", "EXPOSURES", "USER", "UserDays", "column", "numerator", "user_days", "windows"]
