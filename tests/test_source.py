"""Sources: every kind gives the same rows; what cannot be read says why."""

import datetime as dt

import duckdb
import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from recspect.diagnosis import source_csv
from recspect.diagnosis.batch import Batch, Categorical, Ragged, concatenate, hash_rows
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import Source, read, require_columns
from recspect.diagnosis.source_frames import LazyEngine, LazyPolars
from recspect.diagnosis.stats.moments import Moments
from recspect.errors import DataError, UsageError

ROWS = 1_000


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Small and large integers, a missing value, text with a missing value, times, a flag."""
    random = np.random.default_rng(7)
    return pa.table({
        "user": pa.array(random.integers(0, 120, ROWS), pa.int16()),
        "item": pa.array(random.integers(-5, 60, ROWS), pa.int8()),
        "time": pa.array(1_650_000_000_000 + np.arange(ROWS), pa.int64()),
        "price": pa.array([None if i % 13 == 0 else i / 7 for i in range(ROWS)], pa.float64()),
        "country": pa.array([None if i % 11 == 0 else ("de", "fr", "it's")[i % 3] for i in range(ROWS)]),
        "seen at": pa.array(np.datetime64("2024-01-01T00:00:00.000000") + np.arange(ROWS) * 60_000_000),
        "clicked": pa.array(random.random(ROWS) < 0.3),
    })


def _loader(table: pa.Table):
    torch = pytest.importorskip("torch")
    whole = Batch.from_arrow(table)

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return whole.rows

        def __getitem__(self, index):
            row = {}
            for name, column in whole.items():
                value = column.decode()[index] if isinstance(column, Categorical) else column[index]
                row[name] = value
            return row

    def collate(rows):
        columns = {name: [row[name] for row in rows] for name in whole}
        numbers = {name: torch.tensor(np.array(columns[name])) for name in whole
                   if name not in ("country", "seen at")}
        return {**columns, **numbers, "seen at": np.array(columns["seen at"])}

    return torch.utils.data.DataLoader(Rows(), batch_size=64, collate_fn=collate)


def _mapping(table: pa.Table):
    batch = Batch.from_arrow(table)
    return {name: column.decode() if isinstance(column, Categorical) else column for name, column in batch.items()}


def _spread(table: pa.Table, folder):
    for i in range(3):
        (folder / f"day={i}").mkdir()
        pq.write_table(table.slice(i * 400, 400), folder / f"day={i}" / "part.parquet", row_group_size=130)
    (folder / "_SUCCESS").touch()
    return folder


def _parquet(table, folder):
    pq.write_table(table, folder / "log.parquet", row_group_size=170)
    return folder / "log.parquet"


def _csv(table, folder):
    pl.from_arrow(table).write_csv(folder / "log.csv")
    return folder / "log.csv"


def _tsv(table, folder):
    pl.from_arrow(table).write_csv(folder / "log.tsv", separator="\t")
    return folder / "log.tsv"


def _gzipped(table, folder):
    pl.from_arrow(table).to_pandas().to_csv(folder / "log.csv.gz", index=False)
    return folder / "log.csv.gz"


def _feather(table, folder):
    feather.write_feather(table, folder / "log.feather")
    return folder / "log.feather"


def _pattern(table, folder):
    for i in range(2):
        pq.write_table(table.slice(i * 500, 500), folder / f"part-{i}.parquet")
    return str(folder / "part-*.parquet")


def _database(table, folder):
    connection = duckdb.connect(str(folder / "log.duckdb"))
    connection.register("arrow_log", table)
    connection.execute("CREATE TABLE log AS SELECT * FROM arrow_log")
    return connection


KINDS = {
    "pandas": lambda table, folder: read(table.to_pandas()),
    "pandas with categories": lambda table, folder: read(table.to_pandas().astype({"country": "category"})),
    "polars": lambda table, folder: read(pl.from_arrow(table)),
    "polars lazy": lambda table, folder: read(pl.from_arrow(table).lazy()),
    "arrow": lambda table, folder: read(table),
    "narwhals": lambda table, folder: read(nw.from_native(table)),
    "other engine": lambda table, folder: LazyEngine(name="other", lazy=nw.from_native(pl.from_arrow(table).lazy())),
    "duckdb relation": lambda table, folder: read(duckdb.connect().from_arrow(table)),
    "duckdb query": lambda table, folder: read(_database(table, folder), sql="SELECT * FROM log"),
    "duckdb registered": lambda table, folder: read(
        duckdb.connect().register("log", table), sql="SELECT * FROM log"),
    "query over a file": lambda table, folder: read(_parquet(table, folder), sql="SELECT * FROM data"),
    "query over a csv": lambda table, folder: read(_csv(table, folder), sql="SELECT * FROM data"),
    "query over a frame": lambda table, folder: read(pl.from_arrow(table), sql="SELECT * FROM data"),
    "query over a lazy frame": lambda table, folder: read(pl.from_arrow(table).lazy(), sql="SELECT * FROM data"),
    "parquet": lambda table, folder: read(_parquet(table, folder)),
    "parquet on duckdb": lambda table, folder: read(_parquet(table, folder), engine="duckdb"),
    "parquet pattern": lambda table, folder: read(_pattern(table, folder)),
    "csv": lambda table, folder: read(_csv(table, folder)),
    "tsv": lambda table, folder: read(_tsv(table, folder)),
    "gzipped csv": lambda table, folder: read(_gzipped(table, folder)),
    "feather": lambda table, folder: read(_feather(table, folder)),
    "mapping": lambda table, folder: read(_mapping(table)),
    "batch": lambda table, folder: read(Batch.from_arrow(table)),
    "mappings": lambda table, folder: read([_mapping(table.slice(i, 300)) for i in range(0, ROWS, 300)]),
    "torch loader": lambda table, folder: read(_loader(table)),
}

# The other tests leave out what differs from another kind only in how its files are found or opened.
MAIN = [kind for kind in KINDS if kind not in (
    "narwhals", "query over a csv", "query over a lazy frame", "parquet on duckdb", "tsv", "gzipped csv", "batch")]


def _hashes(source: Source, columns=None, **how) -> np.ndarray:
    """One hash per row, over the columns in a fixed order; times and flags as numbers."""
    hashes = []
    for batch in source.batches(columns, **how):
        plain = {name: column.astype(np.float64) if isinstance(column, np.ndarray) and column.dtype.kind in "biu" else column
                 for name, column in batch.items()}
        hashes.append(hash_rows(Batch(plain, rows=batch.rows), sorted(plain)))
    return np.concatenate(hashes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_rows_in_order(kind, table, tmp_path):
    source = KINDS[kind](table, tmp_path)
    expected = _hashes(read(table))
    assert set(source.columns) == set(table.schema.names)
    assert (_hashes(source) == expected).all()
    assert (_hashes(source, rows=97) == expected).all()  # and again: a source can be read twice
    sizes = [batch.rows for batch in source.batches(["user"], rows=300)]
    assert sum(sizes) == ROWS
    assert max(sizes) <= 300
    assert source.count() in (ROWS, None)


@pytest.mark.parametrize("kind", MAIN)
def test_only_the_columns_asked_for_come_in_the_order_asked(kind, table, tmp_path):
    source = KINDS[kind](table, tmp_path)
    for batch in source.batches(["price", "user"], rows=400):
        assert list(batch) == ["price", "user"]
    assert (_hashes(source, ["user", "country"]) == _hashes(read(table), ["user", "country"])).all()


@pytest.mark.parametrize("kind", MAIN)
@pytest.mark.parametrize("unit", ["user", "country"])
def test_units_stay_whole_in_every_kind(kind, unit, table, tmp_path):
    source = KINDS[kind](table, tmp_path)
    seen: set = set()
    for batch in source.batches(["item", "time"], rows=50, together=unit):
        assert list(batch) == ["item", "time"]
    hashes = []
    for batch in source.batches(rows=50, together=unit):
        units = set(batch.categories(unit).decode().tolist())
        assert not units & seen
        seen |= units
    hashes = _hashes(source, rows=50, together=unit)
    assert (np.sort(hashes) == np.sort(_hashes(read(table)))).all()


@pytest.mark.parametrize("kind", MAIN)
def test_the_frame_computes_what_the_batches_hold(kind, table, tmp_path):
    frame = KINDS[kind](table, tmp_path).frame()
    if kind in ("mappings", "torch loader"):
        assert frame is None
        return
    found = frame.select(nw.col("user").cast(nw.Int64()).sum(), nw.col("price").max(), nw.len().alias("rows"))
    row = found.collect("pyarrow").to_native().to_pylist()[0]
    assert row == {"user": sum(table["user"].to_pylist()), "price": pytest.approx(999 / 7), "rows": ROWS}


@pytest.mark.parametrize("kind", MAIN)
def test_the_fingerprint_stays_and_changes_with_the_content(kind, table, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = KINDS[kind](table, tmp_path / "a")
    changed = table.set_column(0, "user", pa.array([*table["user"].to_pylist()[:-1], 119], pa.int16()))
    if table["user"][-1].as_py() == 119:
        raise AssertionError("the test must change a value")
    second = KINDS[kind](changed, tmp_path / "b")
    assert first.fingerprint() == first.fingerprint()
    assert len(first.fingerprint()) == 32
    if kind not in ("mappings", "torch loader"):  # of these only the first batch is looked at
        assert first.fingerprint() != second.fingerprint()


def test_a_folder_is_read_with_its_partitions_as_columns(table, tmp_path):
    source = read(_spread(table, tmp_path))
    assert source.columns == (*table.schema.names, "day")
    whole = concatenate(list(source.batches(rows=150)))
    assert (whole.numbers("time") == table["time"].to_numpy()).all()
    assert np.bincount(whole.numbers("day").astype(int)).tolist() == [400, 400, 200]
    assert source.frame().select(nw.col("day").max()).collect().item() == 2


def test_types_of_parquet_arrive_as_columns(tmp_path):
    table = pa.table({
        "kind": pa.array(["a", "b", None, "a"]).dictionary_encode(),
        "small": pa.array([1, None, -3, 4], pa.int8()),
        "genres": pa.array([["x", "y"], [], None, ["y"]]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8.0)), 2),
        "when": pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * 3 + [None], pa.timestamp("ns", "Europe/Berlin")),
        "nothing": pa.nulls(4),
        "flag": pa.array([True, None, False, True]),
    })
    pq.write_table(table, tmp_path / "types.parquet")
    for source in (read(tmp_path / "types.parquet"), read(tmp_path / "types.parquet", sql="FROM data")):
        (batch,) = source.batches()
        assert batch.categories("kind").decode().tolist() == ["a", "b", None, "a"]
        np.testing.assert_array_equal(batch.numbers("small"), [1, np.nan, -3, 4])
        genres = batch["genres"]
        assert isinstance(genres, Ragged)
        assert genres.lengths.tolist() == [2, 0, 0, 1]
        assert batch.matrix("vector").tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert batch["when"][0] == np.datetime64("2024-01-01T00:00:00")
        assert np.isnat(batch["when"][3])
        assert np.isnan(batch.numbers("nothing")).all()
        np.testing.assert_array_equal(batch.numbers("flag"), [1, np.nan, 0, 1])


def test_numbers_of_unlike_width_in_two_files_are_widened(tmp_path):
    pq.write_table(pa.table({"item": pa.array([1, 2], pa.int8()), "at": ["x", "y"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"item": pa.array([300, 70_000], pa.int32()), "at": ["y", "z"]}), tmp_path / "b.parquet")
    (batch,) = read(tmp_path).batches()
    assert batch.numbers("item").tolist() == [1, 2, 300, 70_000]
    assert batch.categories("at").decode().tolist() == ["x", "y", "y", "z"]


def test_tensors_and_lists_become_columns():
    torch = pytest.importorskip("torch")
    source = read({
        "label": torch.tensor([[1.0], [0.0]], requires_grad=True), "vector": torch.ones(2, 3),
        "half": torch.tensor([0.5, 2.0], dtype=torch.bfloat16), "genres": [["a"], ["a", "b"]],
        "history": [torch.tensor([1, 2]), torch.tensor([3])], "name": np.array([b"x", b"y"]),
    })
    (batch,) = source.batches()
    assert batch.numbers("label").tolist() == [1, 0]
    assert batch.matrix("vector").shape == (2, 3)
    assert batch.numbers("half").tolist() == [0.5, 2]
    assert batch["genres"].lengths.tolist() == [1, 2]
    assert batch["history"].values.tolist() == [1, 2, 3]
    assert batch.categories("name").decode().tolist() == ["x", "y"]


def test_two_passes_over_one_database_do_not_disturb_each_other(table, tmp_path):
    connection = _database(table, tmp_path)
    for source in (read(connection, sql="SELECT * FROM log"), read(connection.table("log"))):
        first = source.batches(["user"], rows=100)
        rows = next(first).rows
        second = sum(batch.rows for batch in source.batches(["item"], rows=70))
        connection.execute("SELECT count(*) FROM log").fetchall()
        assert source.count() == ROWS
        assert rows + sum(batch.rows for batch in first) == ROWS
        assert second == ROWS


def test_a_query_filters_and_derives(table, tmp_path):
    source = read(_parquet(table, tmp_path), sql='SELECT "user", price * 2 AS twice FROM data WHERE country = \'de\'')
    expected = [row["user"] for row in table.to_pylist() if row["country"] == "de"]
    assert source.columns == ("user", "twice")
    assert np.concatenate([b.numbers("user") for b in source.batches(rows=10)]).tolist() == expected
    assert source.count() == len(expected)


def test_column_names_need_no_care(tmp_path):
    names = ['a "b"', "from", "x; DROP TABLE data", "it's", "ü.1"]
    table = pa.table({name: [1, 2] for name in names})
    pq.write_table(table, tmp_path / "odd names.parquet")
    pl.from_arrow(table).write_csv(tmp_path / "it's.csv")
    for data in (tmp_path / "odd names.parquet", tmp_path / "it's.csv", duckdb.connect().from_arrow(table)):
        source = read(data)
        assert source.columns == tuple(names)
        (batch,) = source.batches(names[::-1], together=names[2])
        assert list(batch) == names[::-1]


def test_a_lazy_frame_is_not_collected_to_tell_its_columns(table):
    source = read(pl.from_arrow(table).lazy().with_columns(twice=pl.col("user") * 2))
    assert isinstance(source, LazyPolars)
    assert "twice" in source.columns


# ---------------------------------------------------------------------- errors


def _raises(what: str, hint: str):
    return pytest.raises(DataError, match=f"(?s){what}.*Hint: .*{hint}")


def test_a_missing_file_names_its_neighbours(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "train.parquet")
    with _raises("no file at .*trian.parquet", "train.parquet"):
        read(tmp_path / "trian.parquet")
    with _raises("no file at", "does not exist either"):
        read(tmp_path / "nowhere" / "x.parquet")
    with _raises("no file matches", "pattern"):
        read(tmp_path / "*.csv")


def test_an_empty_file_and_an_empty_folder(tmp_path):
    (tmp_path / "zero.parquet").touch()
    with _raises("zero.parquet is empty", "write it again"):
        read(tmp_path / "zero.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.md").write_text("x")
    with _raises("no file that can be read; files: 'notes.md'", ".parquet"):
        read(tmp_path / "folder")


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_truncated_parquet(kept, table, tmp_path):
    path = _parquet(table, tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with _raises("log.parquet is damaged or cut short", "export the file again"):
        read(path)


def test_parquet_damaged_in_the_middle(table, tmp_path):
    path = _parquet(table, tmp_path)
    content = bytearray(path.read_bytes())
    content[4:2_000] = b"\xff" * 1_996
    path.write_bytes(content)
    with _raises("log.parquet is damaged or cut short", "export the file again"):
        list(read(path).batches())


def test_truncated_feather(table, tmp_path):
    path = _feather(table, tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with _raises("log.feather is damaged or cut short", "export"):
        read(path)


def test_no_rows(tmp_path):
    empty = pa.table({"a": pa.array([], pa.int64())})
    pq.write_table(empty, tmp_path / "none.parquet")
    (tmp_path / "none.csv").write_text("a,b\n")
    for data in (tmp_path / "none.parquet", tmp_path / "none.csv", empty, empty.to_pandas(), pl.from_arrow(empty), {"a": []}):
        with _raises("holds no rows", "right file or query"):
            read(data)
    for lazy in (read(pl.from_arrow(empty).lazy()), read(pl.DataFrame({"a": [1]}), sql="FROM data WHERE a > 1")):
        with _raises("holds no rows", "right file or query"):
            list(lazy.batches())
    with _raises("holds no rows", "empty"):
        list(read([]).batches([]))


def test_unknown_and_mixed_endings(tmp_path):
    (tmp_path / "log.xlsx").write_text("x")
    with _raises("unknown ending '.xlsx'", ".parquet"):
        read(tmp_path / "log.xlsx")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("a\n1\n")
    with _raises("several forms", "one form at a time"):
        read([tmp_path / "a.parquet", tmp_path / "b.csv"])


def test_files_of_unlike_columns_or_types(tmp_path):
    pq.write_table(pa.table({"a": [1], "b": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [1], "c": [1]}), tmp_path / "2.parquet")
    with _raises("2.parquet.*unlike columns: 'b', 'c'", "same columns"):
        read(tmp_path)
    pq.write_table(pa.table({"a": ["x"], "b": [1]}), tmp_path / "2.parquet")
    with _raises("disagree on a column's type", "same types"):
        read(tmp_path)


def test_missing_columns_are_named_and_the_others_listed(table):
    source = read(table, name="the log")
    with _raises("the log lacks the column 'userid'; columns: 'user', 'item'", "schema"):
        source.batches(["userid"])
    with _raises("lacks the columns 'x', 'y'", "schema"):
        require_columns(source, ["x", "user", "y"])
    with _raises("lacks the column 'session'", "schema"):
        source.batches(together="session")
    with pytest.raises(UsageError, match="rows per batch is 0"):
        source.batches(rows=0)
    with pytest.raises(UsageError, match=r"columns=\['user'\]"):
        source.batches("user")


def test_what_can_be_read_only_once_is_refused():
    with _raises("generator can be read only once", "DataLoader"):
        read({"a": [i]} for i in range(3))
    with _raises("can be read only once", "list"):
        read(iter([{"a": [1]}]))


def test_loaders_of_other_things_are_refused():
    with _raises("gives tuple, expected a mapping", "collate_fn"):
        list(read([([1], [2])]).batches())
    with _raises("single value 1", "whole columns"):
        list(read([{"a": 1}, {"a": 2}]).batches())
    with _raises("batch 1 of .* lacks 'b'", "every batch"):
        list(read([{"a": [1], "b": [1]}, {"a": [1]}]).batches())


def test_what_is_no_table_is_refused(table):
    for thing in (3, None, object(), b"bytes"):
        with _raises("cannot read an object of type", "data frame"):
            read(thing)
    with _raises("'mixed'.* mixes types", "all strings"):
        read({"mixed": [1, "x", 2.0]})
    with _raises("shape", "one vector per row"):
        read({"cube": np.zeros((2, 2, 2))})
    with pytest.raises(UsageError, match="engine is 'spark'"):
        read(table, engine="spark")


def test_columns_without_meaning_are_named():
    source = read(pa.table({"ok": [1], "struct": [{"a": 1}]}))
    assert next(source.batches(["ok"])).rows == 1
    with _raises("column 'struct' of Arrow table", "numbers"):
        list(source.batches())


def test_pandas_columns_of_mixed_type_are_named():
    with _raises("mixed", "astype"):
        read(pd.DataFrame({"mixed": [1, "x", 2.5]}, dtype=object))


def test_queries_that_cannot_run(table, tmp_path):
    path = _parquet(table, tmp_path)
    with _raises("a query was given where data is expected", "sql="):
        read("SELECT * FROM log")
    with _raises("connection alone", "sql="):
        read(duckdb.connect())
    with _raises("must be one SELECT", "FROM data"):
        read(path, sql="DROP TABLE data")
    with _raises("must be one SELECT", "FROM data"):
        read(path, sql="SELECT 1; SELECT 2")
    with _raises("(?i)cannot run.*nowhere", "data"):
        read(path, sql="SELECT * FROM nowhere")
    with _raises("(?i)cannot run.*syntax", "data"):
        read(path, sql="SELECT FROM WHERE")
    with _raises("(?i)cannot run.*missing_column", "data"):
        read(duckdb.connect(), sql="SELECT missing_column FROM (SELECT 1 AS a)")


def test_unreadable_csv(tmp_path):
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 40)
    with _raises("binary.csv", "first line|right file"):
        list(read(tmp_path / "binary.csv").batches())


def test_two_columns_of_one_name():
    with _raises("columns of the same name: 'a'", "rename"):
        read(pa.table([[1], [2]], names=["a", "a"]))


def test_a_late_line_of_another_type_in_a_csv_whose_types_come_from_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(source_csv, "SNIFFED_BYTES", 0)
    path = tmp_path / "late.csv"
    path.write_text("user,score\n" + "17,0.5\n" * 1_100_000 + "oops,x\n")
    source = read(path)
    keys = [(ALL, Moments(column="score"))]
    for ask in (lambda: sum(batch.rows for batch in source.batches()), lambda: tally(source, keys), lambda: tally(source, keys, pushdown=False),
                lambda: sum(batch.rows for batch in read(source, sql="SELECT user, score FROM data").batches())):
        with pytest.raises(DataError, match="Line: 1100002"):
            ask()


def test_yes_and_no_in_a_csv_stay_as_they_are_written(tmp_path):
    """A schema says `positive = "yes"`; the same table as Parquet holds these words too."""
    (tmp_path / "calls.csv").write_text("y,default,known,flag\nyes,T,true,1\nno,F,false,0\nyes,,True,1\n")
    batch = next(read(tmp_path / "calls.csv").batches())
    assert batch.categories("y").decode().tolist() == ["yes", "no", "yes"]
    assert sorted(batch.categories("default").values) == ["F", "T"]
    assert batch.numbers("known").tolist() == [1, 0, 1]
    assert batch.numbers("flag").tolist() == [1, 0, 1]


def test_folders_named_by_dates_are_a_column(tmp_path):
    """Texts in folder names lie in no dictionary of a file."""
    for day in ("2026-01-01", "2026-01-02"):
        (tmp_path / f"date={day}").mkdir()
        pq.write_table(pa.table({"x": [1.0, 2.0], "text": ["a", "b"]}), tmp_path / f"date={day}" / "part.parquet")
    rows = concatenate(list(read(tmp_path).batches()))
    dates = rows.categories("date")
    assert [dates.values[code] for code in dates.codes] == ["2026-01-01"] * 2 + ["2026-01-02"] * 2
