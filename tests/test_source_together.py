"""Rows of one unit come in one batch, however small the memory: laws by hypothesis."""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source import read
from recspect.diagnosis.source_together import whole_units
from recspect.errors import DataError

UNITS = {
    "integers": st.one_of(st.none(), st.integers(-3, 6)),
    "large integers": st.integers(2**62, 2**62 + 4),
    "texts": st.one_of(st.none(), st.sampled_from(["", "ann", "bob", "ü", "nan", "1", "1.0"])),
    "fractions": st.one_of(st.none(), st.sampled_from([0.0, 1.0, 1.5, -2.0, float("nan")])),
    "flags": st.booleans(),
}


def _keys(table: pa.Table) -> list:
    return [None if value != value else value for value in table["unit"].to_pylist()]


def _prove(tables: list[pa.Table], given: pa.Table, rows: int) -> None:
    """No unit in two tables, all rows there once, in order within a unit, tables as small as units allow."""
    seen: set = set()
    for table in tables:
        units = set(_keys(table))
        assert not units & seen
        seen |= units
        assert table.num_rows <= rows or len(units) == 1
        for unit in units:
            numbers = [n for n, key in zip(table["row"].to_pylist(), _keys(table), strict=True) if key == unit]
            assert numbers == sorted(numbers)
    whole = pa.concat_tables(tables).to_pylist() if tables else []
    expected = {row["row"]: repr(row) for row in given.to_pylist()}
    assert {row["row"]: repr(row) for row in whole} == expected
    assert len(whole) == given.num_rows


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("memory", [1, 200, 2**20], ids=["all through files", "partly", "in memory"])
@settings(max_examples=50)  # fifteen times
@given(data=st.data(), rows=st.integers(1, 9), piece=st.integers(1, 40))
def test_units_are_never_split(kind, memory, data, rows, piece):
    values = data.draw(st.lists(UNITS[kind], max_size=40))
    table = pa.table({"unit": pa.array(values), "row": pa.array(range(len(values)), pa.int64()),
                      "text": pa.array([f"t{i % 3}" for i in range(len(values))]).dictionary_encode()})
    if values and all(value is None for value in values):
        table = table.set_column(0, "unit", pa.array(values, pa.int64()))
    pieces = [table.slice(start, piece) for start in range(0, len(values), piece)]
    found = list(whole_units(iter(pieces), "unit", rows=rows, memory=memory))
    plain = [t.set_column(2, "text", t["text"].cast(pa.string())) for t in found]
    _prove(plain, table.set_column(2, "text", table["text"].cast(pa.string())), rows)


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=60), rows=st.integers(1, 20))
def test_batches_of_a_source_keep_units_whole(values, rows):
    source = read({"user": values, "row": list(range(len(values)))})
    seen: set = set()
    numbers: list = []
    for batch in source.batches(["row"], rows=rows, together="user"):
        units = {values[int(row)] for row in batch.numbers("row")}
        assert not units & seen
        seen |= units
        numbers += batch.numbers("row").tolist()
    assert sorted(numbers) == list(range(len(values)))


def test_a_unit_larger_than_a_batch_makes_a_larger_batch():
    source = read({"user": [1] * 7 + [2] * 2 + [3] * 2})
    assert [batch.rows for batch in source.batches(rows=4, together="user")] == [7, 4]


def test_rows_already_in_order_are_not_moved():
    table = pa.table({"unit": np.repeat(np.arange(100), 3), "row": np.arange(300)})
    (whole,) = whole_units(iter([table]), "unit", rows=1_000)
    assert whole.column("row").chunk(0).buffers()[1].address == table.column("row").chunk(0).buffers()[1].address


def test_dictionaries_that_differ_between_pieces_mean_the_same_units():
    pieces = [pa.table({"unit": pa.array(units).dictionary_encode(), "row": pa.array(rows)})
              for units, rows in ((["a", "b"], [0, 1]), (["b", "c"], [2, 3]), (["c", "a"], [4, 5]))]
    for memory in (1, 2**20):
        found = list(whole_units(iter(pieces), "unit", rows=2, memory=memory))
        assert sorted(sorted(table["row"].to_pylist()) for table in found) == [[0, 5], [1, 2], [3, 4]]


def test_pieces_of_unlike_number_types_mean_the_same_units():
    """A loader's column is integer in one batch and has a missing value in the next."""
    loader = [{"user": np.array([1, 2]), "v": np.array([0, 1])}, {"user": np.array([2.0, np.nan]), "v": np.array([2.5, 3])},
              {"user": np.array([1, 2]), "v": np.array([4, 5])}]
    pieces = [pa.table(batch) for batch in loader]
    for memory in (1, 2**20):
        found = [sorted(table["v"].to_pylist()) for table in whole_units(iter(pieces), "user", rows=1, memory=memory)]
        assert sorted(found) == [[0, 4], [1, 2.5, 5], [3]]
    found = [batch.numbers("v").tolist() for batch in read(loader).batches(rows=1, together="user")]
    assert sorted(map(sorted, found)) == [[0, 4], [1, 2.5, 5], [3]]


def test_pieces_of_other_types_are_refused():
    with pytest.raises(DataError, match="batches disagree on a column's type"):
        list(whole_units(iter([pa.table({"u": [1]}), pa.table({"u": ["x"]})]), "u", rows=2))


def test_lists_cannot_be_units():
    with pytest.raises(DataError, match="'unit', which holds lists"):
        list(whole_units(iter([pa.table({"unit": [[1], [2]]})]), "unit", rows=2))


def test_lists_vectors_and_times_travel_through_files(tmp_path):
    rows = 500
    table = pa.table({
        "unit": pa.array(np.arange(rows) % 37), "row": pa.array(np.arange(rows)),
        "genres": pa.array([["x"] * (i % 4) for i in range(rows)]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * rows)), 2),
        "when": pa.array(np.datetime64("2024-01-01T00:00:00.000000") + np.arange(rows) * 1_000_000),
    })
    found = list(whole_units(iter([table.slice(i, 60) for i in range(0, rows, 60)]), "unit", rows=50, memory=1_000))
    _prove(found, table, 50)


def test_a_large_file_is_dealt_into_temporary_files_and_leaves_none(tmp_path, monkeypatch):
    """2 million rows in pieces, with memory for a fraction of them; the temporary folder is empty afterwards."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    random = np.random.default_rng(3)
    frame = pl.DataFrame({"user": random.integers(0, 50_000, 2_000_000), "value": random.random(2_000_000)})
    frame.write_parquet(tmp_path / "log.parquet", row_group_size=100_000)
    monkeypatch.setattr("recspect.diagnosis.source_together.whole_units.__kwdefaults__",
                        {"count": None, "memory": 2**21})
    seen = np.zeros(50_000, dtype=bool)
    total = 0.0
    most = 0
    for batch in read(tmp_path / "log.parquet").batches(rows=100_000, together="user"):
        users = np.unique(batch.numbers("user").astype(int))
        assert not seen[users].any()
        seen[users] = True
        total += batch.numbers("value").sum()
        most = max(most, sum(file.stat().st_size for file in scratch.rglob("*.arrow")))
    assert most > 10 * 2**20  # it did go through files
    assert total == pytest.approx(frame["value"].sum())
    assert not list(scratch.iterdir())


def test_stopping_early_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tables = [pa.table({"unit": np.arange(100), "row": np.arange(100)})] * 3
    stream = whole_units(iter(tables), "unit", rows=10, memory=1)
    assert next(stream).num_rows
    assert list(tmp_path.iterdir())
    stream.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    table = pa.table({"unit": np.arange(100), "row": np.arange(100)})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stream = whole_units(_then_no_room(table, tmp_path), "unit", rows=10, memory=1)
    with pytest.raises(DataError, match=r"(?s)no room to sort.*TMPDIR"):
        next(stream)


def _then_no_room(table, folder):
    yield table
    for made in folder.iterdir():  # the folder vanishes, as good as a full disk
        for file in made.iterdir():
            file.unlink()
        made.rmdir()
    yield table.set_column(0, "unit", pa.array(np.arange(100, 200)))


def test_a_memory_of_a_parquet_file_is_bounded_by_batches(tmp_path):
    pq.write_table(pa.table({"user": np.arange(10_000)}), tmp_path / "log.parquet", row_group_size=1_000)
    sizes = [batch.rows for batch in read(tmp_path / "log.parquet").batches(rows=2_500)]
    assert sizes == [2_500] * 4
    assert all(isinstance(batch, Batch) for batch in read(tmp_path / "log.parquet").batches())
