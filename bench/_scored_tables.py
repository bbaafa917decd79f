"""Scored tables for a bench: a world's log with more fields, as a model would have scored it. Run to write them: `python _scored_tables.py FOLDER ROWS REFERENCE_ROWS`."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recspect.diagnosis.slice import Slice
from recspect.schema import Field, Kind, Label, Schema
from recspect.worlds import World, logit_of, sigmoid

SCHEMA = Schema(
    fields=(Field(name="user", side="user"), Field(name="item", side="item"), Field(name="surface"), Field(name="country", side="user"),
            Field(name="device"), Field(name="age", kind=Kind.NUMERIC, side="user"), Field(name="price", kind=Kind.NUMERIC, side="item")),
    labels=(Label(name="click"),), user="user", item="item", time="time", time_unit="s", score="score", name="scored table")

SLICES = tuple(Slice.parse(text) for text in (
    "surface=home", "surface=search", "surface=related", "device=d0", "device=d1", "country=c0", "country=c1, surface=home", "age<25", "age>=60", "price>=40"))

USERS, ITEMS, COUNTRIES, DEVICES, ROW_GROUP = 200_000, 50_000, 40, 8, 500_000


def write(folder: Path, rows: int, reference: int) -> None:
    """`reference.parquet`, the earlier rows, and `scored.parquet`, the later ones."""
    log = World(users=USERS, items=ITEMS, rows=rows + reference, width=2, base_rate=.1, days=28).exposures()
    rng = np.random.default_rng(1)
    country = np.minimum(rng.geometric(.15, USERS) - 1, COUNTRIES - 1)
    price = np.round(rng.lognormal(3, .7, ITEMS), 2)
    device = rng.choice(DEVICES, log.rows, p=np.arange(DEVICES, 0, -1) / np.arange(DEVICES + 1).sum())
    truth = log.numbers("truth")
    score = sigmoid(logit_of(truth) * .9 + rng.normal(0, .5, log.rows)).astype(np.float32)
    columns = {
        "user": log["user"], "item": log["item"], "surface": _texts(log.categories("surface").codes, log.categories("surface").values),
        "country": _texts(country[log["user"]], [f"c{k}" for k in range(COUNTRIES)]), "device": _texts(device, [f"d{k}" for k in range(DEVICES)]),
        "age": log["age"], "price": price[log["item"]], "time": log["time"], "score": score, "click": log["click"]}
    table = pa.table(columns)
    pq.write_table(table.slice(0, reference), folder / "reference.parquet", row_group_size=ROW_GROUP)
    pq.write_table(table.slice(reference), folder / "scored.parquet", row_group_size=ROW_GROUP)


def _texts(codes, values):
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(list(values), pa.string())).cast(pa.string())


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
