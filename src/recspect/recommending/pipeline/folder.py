"""A recommender as a folder: whole or not there, versioned, without pickle.

- `recommender.json`: format, version, where it comes from, settings, and what each part needs to be read;
- `items.parquet`, `counts.safetensors`: one row per item (id and columns); exposures, positives, first_seen;
- `users.parquet`, `usual.parquet`: one row per user (id and fields); one row with the usual values;
- `histories.safetensors`: what each user wanted and met; `vectors.safetensors`: of items, for steps that compare them;
- `ranker/`: features, weights and settings of the ranking model; `sources/NAME/`: files of each source.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.errors import RecspectError, RunError
from recspect.files import cannot_write, require_writable
from recspect.recommending.histories import Histories
from recspect.recommending.ids import distinct
from recspect.recommending.pipeline.audience import Audience
from recspect.recommending.pipeline.catalogue import Catalogue
from recspect.recommending.pipeline.id_table import IdTable
from recspect.recommending.pipeline.parts import REBUILD, read_arrays, read_table, write_arrays, write_table
from recspect.recommending.pipeline.recommender import Recommender
from recspect.recommending.pipeline.settings import SOURCES, STEPS, RecommenderSettings, from_plain, to_plain
from recspect.recommending.pipeline.sources_learnt import Sequences, TwoTowers
from recspect.recommending.pipeline.sources_plain import Neighbours, Ordered, SameAuthor
from recspect.schema import Schema

FORMAT = 1
"""Version of the folder."""

RECORD = "recommender.json"


def save(recommender: Recommender, folder: Path, *, replacing: bool = False) -> None:
    """Write the folder beside its place and move it there, so that nobody meets half of one.

    Args:
        recommender: What is written.
        folder: Where; missing folders above are made.
        replacing: Whether a recommender that is there already may be replaced. What is no recommender is never replaced.

    Raises:
        RunError: Something is there.
        UsageError: It cannot be written; nothing of it is left.
    """
    from recspect.training.files import write_json

    require_free(folder, replacing=replacing)
    beside = folder.parent / f".{folder.name[:40]}.{os.getpid()}"
    try:
        beside.mkdir(parents=True)
        note = _write_parts(recommender, beside)
        write_json(beside / RECORD, note)
        if folder.exists():
            old = folder.parent / f".{folder.name[:40]}.{os.getpid()}.old"
            folder.rename(old)  # readers have read their files into memory; between two renames there is none
            beside.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            beside.rename(folder)
    except BaseException as error:
        with suppress(OSError):
            shutil.rmtree(beside)
        if isinstance(error, OSError):
            raise cannot_write(folder, error) from None
        raise


def require_free(folder: Path, *, replacing: bool = False) -> None:
    """Make sure, before the work is done, that a recommender can be put there.

    Raises:
        RunError: Something else is there.
        UsageError: There is no right to write.
    """
    require_writable(folder, folder=True)
    require_writable(folder.parent, folder=True)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / RECORD).is_file():
            raise RunError(f"{folder} holds something else than a recommender", hint="choose another folder")
        if not replacing:
            raise RunError(f"{folder} already holds a recommender", hint="choose another folder, or --replace")


def is_recommender(folder: Path) -> bool:
    """Whether there is one."""
    return (folder / RECORD).is_file()


def load(folder: Path) -> Recommender:
    """Read a recommender's folder.

    Raises:
        RunError: It is none, is damaged, or was written by a newer recspect.
    """
    from recspect.training.files import read_json

    if not is_recommender(folder):
        raise RunError(f"no recommender in {folder}", hint="`recspect recommender build RUN --out FOLDER` makes one")
    note = read_json(folder / RECORD)
    if note.get("format") != "recspect-recommender" or note.get("version") != FORMAT:
        raise RunError(f"{folder} is of format {note.get('format')!r} version {note.get('version')!r}, this recspect reads version {FORMAT}",
                       hint="upgrade recspect")
    try:
        return _read_parts(folder, note)
    except RecspectError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RunError(f"the recommender in {folder} is damaged: {error!r:.300}", hint=REBUILD) from None


def _write_parts(recommender: Recommender, folder: Path) -> dict[str, Any]:
    items, audience = recommender.items, recommender.audience
    write_table(folder / "items.parquet", items.rows)
    write_arrays(folder / "counts.safetensors", {"exposures": items.exposures, "positives": items.positives, "first_seen": items.first_seen})
    write_table(folder / "users.parquet", audience.rows)
    if len(audience.usual):
        write_table(folder / "usual.parquet", audience.usual)
    write_arrays(folder / "histories.safetensors", {
        f"{name}_{part}": getattr(histories, part) for name, histories in (("wanted", audience.wanted), ("met", audience.met))
        for part in ("items", "times", "offsets")})
    if recommender.vectors is not None:
        write_arrays(folder / "vectors.safetensors", {"vectors": recommender.vectors})
    if recommender.ranker is not None:
        recommender.ranker.save(folder / "ranker")
    sources = {}
    for source in recommender.sources:
        own = folder / "sources" / source.name
        own.mkdir(parents=True)
        sources[source.name] = source.save(own)
    settings = recommender.settings
    return {
        **recommender.record, "format": "recspect-recommender", "version": FORMAT, "recommender": recommender.version,
        "schema": items.schema.to_mapping(), "sources": sources, "source_settings": [to_plain(source) for source in settings.sources or ()],
        "steps": [to_plain(step) for step in settings.steps], "per_source": settings.per_source, "candidates": settings.candidates,
        "author": items.author, "category": items.category, "time": audience.time, "ranker": recommender.ranker is not None,
        "vectors": recommender.vectors is not None, "items": len(items), "users": len(audience)}


def _read_parts(folder: Path, note: dict[str, Any]) -> Recommender:
    schema = Schema.from_mapping(note["schema"], where=str(folder / RECORD))
    rows, counts = read_table(folder / "items.parquet"), read_arrays(folder / "counts.safetensors", "exposures", "positives", "first_seen")
    items = Catalogue(schema, IdTable(_ids(rows, schema.require("item"), note["items"], folder)), rows, counts["exposures"], counts["positives"],
                      counts["first_seen"], note["author"], note["category"])
    people, parts = read_table(folder / "users.parquet"), read_arrays(folder / "histories.safetensors", "wanted_items", "met_items")
    wanted, met = (Histories(*(parts[f"{name}_{part}"] for part in ("items", "times", "offsets")), max(1, len(items))) for name in ("wanted", "met"))
    usual = read_table(folder / "usual.parquet") if (folder / "usual.parquet").exists() else Batch({}, rows=1)
    audience = Audience(schema, IdTable(_ids(people, schema.require("user"), note["users"], folder)), people, usual, wanted, met, int(note["time"]))
    sources = tuple(_source(name, folder / "sources" / name, own, audience) for name, own in note["sources"].items())
    ranker = None
    if note["ranker"]:
        from recspect.recommending.pipeline.ranker import Ranker

        ranker = Ranker.load(folder / "ranker", rows)
    vectors = read_arrays(folder / "vectors.safetensors", "vectors")["vectors"] if note["vectors"] else None
    settings = RecommenderSettings(
        sources=tuple(from_plain(entry, SOURCES, "source") for entry in note["source_settings"]),
        steps=tuple(from_plain(entry, STEPS, "step") for entry in note["steps"]), per_source=note["per_source"], candidates=note["candidates"],
        author=note["author"], category=note["category"])
    own = {"format", "version", "recommender", "schema", "sources", "source_settings", "steps", "per_source", "candidates", "author", "category", "time",
           "ranker", "vectors", "items", "users"}
    return Recommender(settings, items, audience, sources, ranker, vectors, str(note["recommender"]),
                       {key: value for key, value in note.items() if key not in own})


def _ids(rows: Any, column: str, count: int, folder: Path) -> Any:
    codes, values = distinct(rows, column)
    if len(values) != count or not np.array_equal(codes, np.arange(count)):
        raise RunError(f"the table of {column!r} in {folder} does not hold the {count:,} rows that {RECORD} tells of", hint=REBUILD)
    return values


def _source(name: str, folder: Path, note: dict[str, Any], audience: Audience) -> Any:
    kinds: dict[str, Any] = {"ordered": Ordered, "same_author": SameAuthor, "item_knn": Neighbours, "sequence": Sequences}
    kind = note["kind"]
    if kind == "two_tower":
        return TwoTowers.load(name, folder, note, audience)
    if kind not in kinds:
        raise RunError(f"the source {name!r} is of kind {kind!r}, which this recspect does not know", hint="upgrade recspect")
    return kinds[kind].load(name, folder, note)
