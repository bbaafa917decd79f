"""From a run, or a table with a schema, to a recommender."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, hash_rows
from recspect.errors import DataError, SchemaError, UsageError
from recspect.features.derived import derive
from recspect.recommending.pipeline.audience import Audience
from recspect.recommending.pipeline.catalogue import Catalogue
from recspect.recommending.pipeline.recommender import Recommender
from recspect.recommending.pipeline.settings import RecommenderSettings, SourceSettings, name_of
from recspect.recommending.pipeline.sources_learnt import Sequences, TwoTowers, TwoTowerSource
from recspect.recommending.pipeline.sources_plain import FreshSource, ItemKNNSource, PopularSource, SameAuthorSource
from recspect.schema import Schema

if TYPE_CHECKING:
    from recspect.training.run import Run

KNN_ITEMS = 30_000
"""Where nobody says which sources, item-kNN is left out beyond so many items with a positive: its fitting grows with their square."""


def build_recommender(rows: Batch, schema: Schema | None = None, *, run: Run | None = None, items: Batch | None = None,
                      settings: RecommenderSettings | None = None, epoch: Any = "best", say: Callable[[str], None] = lambda _: None) -> Recommender:
    """Learn from rows what a recommender needs; the ranking is that of a run.

    Args:
        rows: Rows with the user, the item, the fields and the label: the training rows where the lists are to be judged on later ones, else all there are.
        schema: What the columns mean; by default that of the run.
        run: Whose model ranks; without one, candidates are ordered by reciprocal rank fusion of the sources.
        items: A table of items, one row each, where there are items or columns that the rows do not have.
        settings: Sources and steps.
        epoch: Which epoch of the run: a number, `best` or `last`.
        say: Told what is being done.

    Raises:
        SchemaError: No user or item column, or what a source needs is not in the schema.
        DataError: No rows, or a column is missing.
        UsageError: A source or a step that needs what is not there.
        RunError: The run has no finished epoch.
    """
    settings = settings or RecommenderSettings()
    if schema is None:
        if run is None:
            raise UsageError("a recommender needs a run or a schema", hint="build_recommender(rows, schema), or build_recommender(rows, run=run)")
        schema = run.schema
    schema = _with_sides(schema)
    if schema.item is None or schema.user is None:
        absent = "item" if schema.item is None else "user"
        raise SchemaError(f"the schema names no {absent} column, so there are no lists to make", hint=f'add {absent} = "..." under [roles]')
    if not rows.rows:
        raise DataError("no rows to learn a recommender from", hint="check the file, the query and the filters")
    say("reading items and users")
    rows = derive(rows, schema)
    catalogue = Catalogue.from_rows(rows, schema, items=items, author=settings.author, category=settings.category)
    audience = Audience.from_rows(rows, schema, catalogue)
    if not len(audience.wanted.items):
        raise DataError("no row says that a user wanted an item, so there is nothing to recommend by", hint="check the label")
    chosen = settings.sources if settings.sources is not None else default_sources(schema, catalogue)
    sources = []
    for source in chosen:
        say(f"source {name_of(source)}")
        sources.append(source.fit(catalogue, audience, rows) if isinstance(source, TwoTowerSource) else source.fit(catalogue, audience))
    ranker = None
    if run is not None:
        from recspect.recommending.pipeline.ranker import Ranker

        say("ranking model")
        ranker = Ranker.of_run(run, catalogue.rows, epoch)
    mark = hashlib.blake2b(hash_rows(rows, [name for name in schema.columns if name in rows]).tobytes(), digest_size=8).hexdigest()
    created = datetime.now(UTC)
    record = {"created": created.isoformat(timespec="seconds"), "recspect": metadata.version("recspect"), "rows": rows.rows, "rows_fingerprint": mark,
              "run": None if run is None else run.id, "epoch": None if ranker is None else ranker.note["epoch"]}
    version = f"{run.id if run is not None else schema.name or 'recommender'}/{record['epoch'] or 0}/{created:%Y%m%dT%H%M%S.%f}"
    found = Recommender(replace(settings, sources=chosen, author=catalogue.author, category=catalogue.category), catalogue, audience, tuple(sources), ranker,
                        unit_vectors(sources), version, record)
    _require_usable_steps(found)
    return found


def default_sources(schema: Schema, items: Catalogue) -> tuple[SourceSettings, ...]:
    """All that the data allows but `sequence`, whose training takes longest."""
    found: list[SourceSettings] = []
    sides = {field.side == "item" for field in schema.fields}
    if sides == {True, False} and schema.labels:
        found.append(TwoTowerSource())
    if int((items.positives > 0).sum()) <= KNN_ITEMS:
        found.append(ItemKNNSource())
    if items.author is not None:
        found.append(SameAuthorSource())
    found.append(PopularSource())
    if schema.time is not None:
        found.append(FreshSource())
    return tuple(found)


def unit_vectors(sources: list[Any]) -> NDArray[np.float32] | None:
    """Vectors of items for steps that compare items: of the two towers, which know items by their fields, else of the sequence model."""
    for kind in (TwoTowers, Sequences):
        for source in sources:
            if isinstance(source, kind):
                vectors = source.vectors.astype(np.float32)
                length = np.linalg.norm(vectors, axis=1, keepdims=True)
                return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)
    return None


def _require_usable_steps(recommender: Recommender) -> None:
    """Let a step that lacks something say so now, not when the first list is asked for."""
    recommender.recommend([None], 2)


def _with_sides(schema: Schema) -> Schema:
    """The user's and the item's id columns are of their sides, whatever the schema's fields say."""
    sides = {schema.user: "user", schema.item: "item"}
    return replace(schema, fields=tuple(replace(field, side=sides.get(field.name, field.side)) for field in schema.fields))
