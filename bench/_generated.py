"""Scored rows that are made while they are read, however many: a source of pieces, each from its own seed, so that no file is written and nothing is held."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recspect.diagnosis import source_arrow
from recspect.diagnosis.source import ROWS, Source, require_request
from recspect.diagnosis.source_pieces import Piece
from recspect.schema import Field, Kind, Label, Schema

SCHEMA = Schema(
    fields=(Field(name="user", side="user"), Field(name="item", side="item"), Field(name="surface"), Field(name="device"),
            Field(name="age", kind=Kind.NUMERIC, side="user"), Field(name="price", kind=Kind.NUMERIC, side="item")),
    labels=(Label(name="click"),), user="user", item="item", time="time", time_unit="s", score="score", name="generated rows")

COLUMNS = ("user", "item", "surface", "device", "age", "price", "time", "score", "click")
ITEMS, PIECE, DAYS = 20_000, 262_144, 28
ROWS_PER_USER = 100
"""Users grow with the rows, as they do in logs."""


@dataclass(frozen=True)
class Generated(Source):
    """A log of so many rows: clicks of a known chance, scores that say it with some noise."""

    rows: int
    seed: int = 0
    name: str = "generated rows"

    @property
    def columns(self):
        return COLUMNS

    def batches(self, columns=None, *, rows=ROWS, together=None):
        wanted = require_request(self, columns, rows, together)
        shown = wanted if columns is None else tuple(dict.fromkeys(columns))
        tables = (table for piece in self.pieces() for table in self.tables(piece, wanted, rows=rows))
        return source_arrow.to_batches(tables, shown=shown, rows=rows, together=together, count=self.rows, name=self.name)

    def frame(self):
        return None

    def fingerprint(self):
        return f"{self.rows:016x}{self.seed:016x}"

    def count(self):
        return self.rows

    def pieces(self, rows=PIECE):
        size = max(rows // PIECE, 1) * PIECE
        return tuple(Piece(f"rows from {first:,}", f"{self.seed}-{first}-{size}", min(size, self.rows - first), 0, first, min(first + size, self.rows))
                     for first in range(0, self.rows, size))

    def tables(self, piece, columns, *, rows):
        del rows
        for first in range(piece.first, piece.last, PIECE):
            yield self.made(first, min(PIECE, piece.last - first)).select(list(columns))

    def made(self, first, count):
        rng = np.random.default_rng((self.seed, first))
        users = max(self.rows // ROWS_PER_USER, 1000)
        user = (users * rng.random(count) ** 1.5).astype(np.int64)
        item = (ITEMS * rng.random(count) ** 2).astype(np.int64)
        surface, device = rng.integers(0, 3, count, dtype=np.int8), rng.integers(0, 8, count, dtype=np.int8)
        logit = 0.3 * ((user * 7919) % 97 / 24 - 2) + 0.4 * ((item * 104729) % 89 / 22 - 2) - 2.2 + 0.2 * (surface - 1)
        chance = 1 / (1 + np.exp(-logit))
        score = 1 / (1 + np.exp(-(logit + rng.normal(0, 0.3, count))))
        time = (first + np.arange(count)) * (DAYS * 86_400 / self.rows)
        return pa.table({
            "user": user, "item": item, "surface": _texts(surface, ("home", "search", "related")), "device": _texts(device, [f"d{k}" for k in range(8)]),
            "age": 18 + user % 60, "price": (1 + item % 500) / 4, "time": time.astype(np.int64), "score": score.astype(np.float32),
            "click": (rng.random(count) < chance).astype(np.int8)})


def _texts(codes, values):
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(list(values), pa.string()))
