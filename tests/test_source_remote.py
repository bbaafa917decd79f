"""Tables that are elsewhere: object storage, Delta, Iceberg, a warehouse. The same rows, the same totals, piece by piece; PostgreSQL for real."""

import pickle
import uuid
from pathlib import Path

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from event_stores import POSTGRES
from recspect.diagnosis.batch import concatenate
from recspect.diagnosis.runners.kept import Kept
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.runners.processes import Processes
from recspect.diagnosis.slice import ALL, Slice
from recspect.diagnosis.source import read
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.categories import CategoryCounts
from recspect.diagnosis.stats.distinct import Distinct
from recspect.diagnosis.stats.measures import AreaUnderCurve
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.errors import DataError
from test_runners import Shuffled, counted, spoil
from test_same_tally import PUSHED, assert_same, reference

KEYS = [(ALL, Moments(column="x")), (Slice.parse("text=a"), Moments(column="x")), (ALL, CategoryCounts(column="day")), (ALL, Distinct(column="user")),
        (ALL, Bucketed(stat=ScoreLabel(), by="user", buckets=5)), (ALL, PerUnit(unit="user", measures=(AreaUnderCurve(),)))]


def log(rows=600):
    rng = np.random.default_rng(0)
    score = rng.random(rows)
    return pa.table({"user": rng.integers(0, 50, rows), "x": rng.normal(0, 1, rows), "text": rng.choice(["a", "b"], rows).tolist(),
                     "day": np.repeat(["2026-01-01", "2026-01-02", "2026-01-03"], rows // 3).tolist(), "@score": score, "@label": (rng.random(rows) < score).astype(np.int64)})


@pytest.fixture(scope="module")
def table():
    return log()


@pytest.fixture(scope="module")
def expected(table):
    return reference(table, KEYS)


# ---------------------------------------------------------------------- object storage


@pytest.fixture
def storage():
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    system = fsspec.filesystem("memory")
    folder = f"/bucket-{uuid.uuid4().hex}"
    yield system, folder
    if system.exists(folder):
        system.rm(folder, recursive=True)


def by_day(table, system, folder, days=(0, 1, 2)):
    for day in days:
        with system.open(f"{folder}/log/day=2026-01-0{day + 1}/part.parquet", "wb") as file:
            pq.write_table(table.slice(day * 200, 200).drop_columns(["day"]), file, row_group_size=50, write_page_checksum=True)
    return f"memory:/{folder}/log"


def test_parquet_on_object_storage_is_read_like_files(table, expected, storage):
    address = by_day(table, *storage)
    source = read(address)
    assert read(Path(address)).fingerprint() == source.fingerprint()  # what the command line makes of it
    assert source.columns == ("user", "x", "text", "@score", "@label", "day")
    assert source.count() == 600
    assert_same(tally(source, KEYS, pushdown=False), expected, KEYS)
    assert_same(tally(source, KEYS), expected, KEYS)
    assert_same(Shuffled(workers=2, piece_rows=100).tally(source, KEYS), expected, KEYS)
    assert len(source.pieces(100)) == 6


def test_a_day_more_on_object_storage_reads_that_day_alone(table, storage, tmp_path):
    runner = Shuffled(workers=2, keep=Kept(tmp_path))
    for day in range(3):
        address = by_day(table, *storage, days=[day])
        found, rows = counted(runner, read(address), KEYS[:5])
        assert rows == 200
    assert_same(found, reference(table, KEYS[:5]), KEYS[:5])
    by_day(table.slice(200), *storage, days=[0])  # the first day is written again
    assert counted(runner, read(address), KEYS[:5])[1] == 200


def test_a_damaged_object_is_named(table, storage, tmp_path):
    system, folder = storage
    address = by_day(table, system, folder)
    for day, page in ((1, False), (2, True)):
        name = f"{folder}/log/day=2026-01-0{day + 1}/part.parquet"
        (tmp_path / "part").write_bytes(system.cat_file(name))
        spoil(tmp_path / "part", page=page)
        system.pipe_file(name, (tmp_path / "part").read_bytes())
    lost = []
    found = Shuffled(workers=2).tally(read(address), KEYS, loss=lost.append, pushdown=False)
    assert [one.name for one in lost] == [f"{folder}/log/day=2026-01-0{day}/part.parquet" for day in (2, 3)]
    assert_same(found, reference(table.slice(0, 200), KEYS), KEYS)


def test_addresses_that_hold_nothing_are_errors(storage):
    with pytest.raises(DataError, match="no Parquet file at memory://nowhere"):
        read("memory://nowhere/log")
    with pytest.raises(DataError, match="Protocol not known"):
        read("nonsense://bucket/log")


# ---------------------------------------------------------------------- Delta and Iceberg


def test_a_delta_table_is_read_at_one_version(table, expected, tmp_path):
    deltalake = pytest.importorskip("deltalake", reason="deltalake is not installed")
    place = tmp_path / "log"
    deltalake.write_deltalake(str(place), table, partition_by=["day"])
    source = read(place)
    assert len(source.pieces()) == 3
    assert_same(tally(pickle.loads(pickle.dumps(source)), KEYS, pushdown=False), expected, KEYS)
    assert_same(Shuffled(workers=2).tally(source, KEYS), expected, KEYS)
    deltalake.DeltaTable(str(place)).delete("x > 0")
    assert read(place).count() == int((np.asarray(table["x"]) <= 0).sum())
    assert read(place).fingerprint() != source.fingerprint()
    assert_same(tally(source, KEYS, pushdown=False), expected, KEYS)
    assert_same(tally(read(deltalake.DeltaTable(str(place), version=0)), KEYS, pushdown=False), expected, KEYS)


def test_a_day_more_of_a_delta_table_reads_that_day_alone(table, tmp_path):
    deltalake = pytest.importorskip("deltalake", reason="deltalake is not installed")
    runner = Shuffled(workers=2, keep=Kept(tmp_path / "kept"))
    for day in range(3):
        deltalake.write_deltalake(str(tmp_path / "log"), table.slice(day * 200, 200), mode="append")
        assert counted(runner, read(tmp_path / "log"), KEYS[:5])[1] == 200


def test_a_folder_that_is_no_whole_delta_table_is_an_error(tmp_path):
    pytest.importorskip("deltalake", reason="deltalake is not installed")
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(DataError, match="cannot read the Delta table"):
        read(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_an_iceberg_table_is_read_at_one_snapshot(table, expected, tmp_path):
    pytest.importorskip("pyiceberg", reason="PyIceberg is not installed")
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse")
    catalog.create_namespace("logs")
    lake = catalog.create_table("logs.clicks", schema=table.schema)
    with pytest.raises(DataError, match="holds no rows"):
        read(lake)
    for start in (0, 200, 400):
        lake.append(table.slice(start, 200))
    source = read(lake)
    assert source.name == "clicks"
    assert len(source.pieces()) == 3
    assert_same(tally(source, KEYS), expected, KEYS)
    assert_same(tally(read(lake.metadata_location), KEYS), expected, KEYS)
    assert_same(Processes(workers=2).tally(source, KEYS), expected, KEYS)
    lake.delete("x > 0")
    assert read(lake).count() == int((np.asarray(table["x"]) <= 0).sum())
    assert_same(Shuffled(workers=2).tally(source, KEYS), expected, KEYS)


# ---------------------------------------------------------------------- a warehouse


@pytest.fixture
def warehouse(table):
    """The rows in PostgreSQL, through Ibis."""
    ibis = pytest.importorskip("ibis", reason="Ibis is not installed")
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    name = f"recspect_test_{uuid.uuid4().hex[:12]}"
    try:
        own = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=5)
    except psycopg.Error as error:
        pytest.skip(f"no PostgreSQL at {POSTGRES}: {str(error).splitlines()[0]}")
    with own:
        own.execute(f'CREATE TABLE {name} ("user" bigint, x double precision, text text, day text, "@score" double precision, "@label" bigint)')
        with own.cursor() as cursor, cursor.copy(f"COPY {name} FROM STDIN") as copy:
            for row in table.to_pylist():
                copy.write_row(tuple(row.values()))
        connection = ibis.connect(POSTGRES)
        try:
            yield connection.table(name)
        finally:
            connection.disconnect()
            own.execute(f"DROP TABLE {name}")


@pytest.mark.filterwarnings("ignore")
def test_a_warehouse_gives_the_same_totals_whatever_it_refuses(warehouse, table, expected):
    """Ibis takes PostgreSQL's decimals for floats and refuses them, so that rows are streamed where a sum was asked for."""
    source = read(nw.from_native(warehouse))
    assert source.count() == 600
    assert_same(tally(source, KEYS, rows=100), expected, KEYS)
    assert concatenate(list(source.batches(["user", "day"], rows=70, together="user"))).rows == 600


DIALECTS = ("postgres", "clickhouse", "bigquery", "snowflake")


class Seen(Exception):
    def __init__(self, frame):
        self.frame = frame


def test_what_is_pushed_down_has_sql_in_every_dialect(monkeypatch):
    """The first query of every stat that engines add up, written for the dialect and parsed again by sqlglot."""
    ibis = pytest.importorskip("ibis", reason="Ibis is not installed")
    sqlglot = pytest.importorskip("sqlglot", reason="sqlglot is not installed")
    columns = {"user": "int64", "x": "float64", "price": "float64", "flag": "boolean", "text": "string", "@score": "float64", "@label": "int64", "nothing": "float64",
               "day": "date", "time": "timestamp"}
    frame = nw.from_native(ibis.table(columns, name="log"))

    def stop(self, *_, **__):
        raise Seen(self)

    monkeypatch.setattr(nw.LazyFrame, "collect", stop)
    stats = {type(stat): stat for stat in reversed(PUSHED)}
    assert len(stats) >= 7
    for stat in stats.values():
        with pytest.raises(Seen) as seen:
            stat.pushdown(frame)
        for dialect in DIALECTS:
            sql = str(ibis.to_sql(seen.value.frame.to_native(), dialect=dialect))
            assert [table.name for table in sqlglot.parse_one(sql, dialect=dialect).find_all(sqlglot.exp.Table)].count("log") >= 1, (stat, dialect)
