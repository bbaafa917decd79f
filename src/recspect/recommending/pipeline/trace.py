"""What became of every candidate: which source brought it at which rank, what each stage gave it, and why it is not shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspect.recommending.pipeline.candidates import Candidates
from recspect.recommending.pipeline.slate import Slate, Stage

SOURCE = pa.struct([("source", pa.string()), ("rank", pa.int32()), ("score", pa.float64())])
STAGE = pa.struct([("step", pa.string()), ("rank", pa.int32()), ("score", pa.float64())])


def candidate_type(item: pa.DataType) -> pa.DataType:
    """What is kept of a candidate."""
    return pa.struct([
        ("item", item), ("sources", pa.list_(SOURCE)), ("ranking_score", pa.float64()), ("stages", pa.list_(STAGE)), ("rank", pa.int32()),
        ("propensity", pa.float64()), ("dropped_by", pa.string()), ("reason", pa.string())])


def trace_schema(user: pa.DataType, item: pa.DataType) -> pa.Schema:
    """Columns of stored traces, one row per list."""
    return pa.schema([("user", user), ("recommender", pa.string()), ("seed", pa.int64()), ("notes", pa.list_(pa.string())),
                      ("candidates", pa.list_(candidate_type(item)))])


@dataclass(frozen=True, eq=False)
class Trace:
    """What became of the candidates of one list.

    Args:
        candidates: Of this list, with what each source gave.
        ranking: Item codes that were ranked, and their scores.
        stages: The list after each step, best first.
        shown: The list as it is shown.
        dropped: Taken out: (step, reason, item codes).
        notes: In words: sources that brought nothing, and why it was fallen back.
    """

    candidates: Candidates
    ranking: tuple[NDArray[np.int64], NDArray[np.float64]]
    stages: tuple[Stage, ...]
    shown: Slate
    dropped: tuple[tuple[str, str, NDArray[np.int64]], ...]
    notes: tuple[str, ...] = ()

    def rows(self, ids: Sequence[Any]) -> list[dict[str, Any]]:
        """One mapping per candidate: those that are shown by their rank, then the others by their source's rank.

        Args:
            ids: Id of each item, by code.
        """
        found = self.candidates
        scored = dict(zip(self.ranking[0].tolist(), self.ranking[1].tolist(), strict=True))
        shown = {item: place for place, item in enumerate(self.shown.items.tolist())}
        propensity = self.shown.propensity
        gone = {item: (step, reason) for step, reason, items in self.dropped for item in items.tolist()}
        staged = [(stage.step, {item: (place, score) for place, (item, score) in enumerate(zip(stage.items.tolist(), stage.scores.tolist(), strict=True), 1)})
                  for stage in self.stages]
        rows: list[dict[str, Any]] = []
        brought = {item: row for row, item in enumerate(found.item.tolist())}
        order = np.lexsort((found.item, np.where(found.ranks > 0, found.ranks, np.iinfo(np.int32).max).min(axis=1, initial=np.iinfo(np.int32).max)))
        extra = [item for item in shown if item not in brought]
        for item in [*shown, *(item for item in found.item[order].tolist() if item not in shown)]:
            row = brought.get(item)
            sources = [] if row is None else [
                {"source": name, "rank": int(rank), "score": number(score)}
                for name, rank, score in zip(found.sources, found.ranks[row].tolist(), found.scores[row].tolist(), strict=True) if rank > 0]
            place = shown.get(item)
            step, reason = gone.get(item, ("", "")) if place is None else ("", "")
            if place is None and not step:
                step, reason = "length", "below the last place of the list"
            rows.append({
                "item": ids[item], "sources": sources, "ranking_score": number(scored.get(item, float("nan"))),
                "stages": [{"step": name, "rank": places[item][0], "score": number(places[item][1])} for name, places in staged if item in places],
                "rank": None if place is None else place + 1,
                "propensity": None if place is None or propensity is None else number(float(propensity[place])),
                "dropped_by": step or None, "reason": reason or ("put there by a rule" if item in extra else None)})
        return rows


def number(value: float) -> float | None:
    """A number for JSON; None for NaN and infinities."""
    return float(value) if np.isfinite(value) else None


def as_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Traces as Arrow, one row per list."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
