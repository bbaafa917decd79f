"""One law, for every stat: the tally of one batch, of 100 batches in shuffled order, and of every engine and file agree to 1e-9.

The rows hold what breaks comparisons: nulls, NaN, infinities, text, lists, dates, times, vectors and weights of 0. What engines are
said to add up is read by nobody else: the sources here refuse to be read where everything was to be pushed down.
"""

import datetime as dt
import math
import pkgutil
from importlib import import_module

import narwhals as nw
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from recspect.diagnosis import stats
from recspect.diagnosis.batch import Batch, concatenate
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL, Slice
from recspect.diagnosis.source import Source, read
from recspect.diagnosis.source_arrow import to_batch
from recspect.diagnosis.stat import Bucketed, Grouped, Pushable, Stat, Weighted, unit_of
from recspect.diagnosis.stats.binned import BinnedLabel
from recspect.diagnosis.stats.calibration_histogram import CalibrationHistogram
from recspect.diagnosis.stats.categories import CategoryCounts
from recspect.diagnosis.stats.crosstab import Crosstab
from recspect.diagnosis.stats.distinct import Distinct
from recspect.diagnosis.stats.errors import PredictionError
from recspect.diagnosis.stats.exposure import Exposure
from recspect.diagnosis.stats.field_flow import FieldFlow
from recspect.diagnosis.stats.gram import Gram
from recspect.diagnosis.stats.inverse_propensity import InversePropensity
from recspect.diagnosis.stats.items_along import ItemsAlong
from recspect.diagnosis.stats.keyed_rows import KeyedRows
from recspect.diagnosis.stats.later import Later
from recspect.diagnosis.stats.measures import NDCG, AreaUnderCurve, AveragePrecision, Recall, ReciprocalRank
from recspect.diagnosis.stats.missing import Missing
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.stats.outcomes import Outcomes
from recspect.diagnosis.stats.policy_value import PolicyValue
from recspect.diagnosis.stats.quantiles import Quantiles
from recspect.diagnosis.stats.ranges import GroupRanges
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.stats.row_sample import RowSample
from recspect.diagnosis.stats.sample import BottomK
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.stats.series import Series
from recspect.diagnosis.stats.shared_rows import SharedRows
from recspect.diagnosis.stats.slice_sums import SliceSums
from recspect.diagnosis.stats.time_blocks import TimeBlocks
from recspect.diagnosis.stats.units import UnitActivity
from recspect.diagnosis.tally import Tally
from recspect.testing.laws import find_difference

ROWS = 1200
TOLERANCE = 1e-9


def log(seed: int = 0, rows: int = ROWS) -> pa.Table:
    """Rows with everything that makes engines disagree. Weights are equal for all rows of a user, as per-unit stats need."""
    rng = np.random.default_rng(seed)

    def some(values, share=0.1):
        return [None if rng.random() < share else value for value in values]

    user = some(rng.integers(-5, 60, rows).tolist(), 0.05)
    numbers = np.where(rng.random(rows) < 0.05, np.nan, rng.normal(1e6, 3, rows))
    numbers[rng.random(rows) < 0.02] = np.inf
    numbers[rng.random(rows) < 0.02] = -np.inf
    numbers[rng.random(rows) < 0.02] = 1e300
    weights = {None: None, **{u: [0.0, 1.0, 2.0, math.nan, 3.0][u % 5] for u in range(-5, 60)}}
    return pa.table({
        "user": pa.array(user, pa.int64()),
        "item": pa.array(rng.integers(0, 2**40, 40)[rng.integers(0, 40, rows)], pa.int64()),
        "x": pa.array(some(numbers.tolist()), pa.float64()),
        "nothing": pa.nulls(rows, pa.float64()),
        "flag": pa.array(some((rng.random(rows) < 0.3).tolist()), pa.bool_()),
        "price": pa.array(some((rng.integers(0, 9, rows) / 2).tolist()), pa.float64()),
        "text": pa.array(some(rng.choice(["a", "Zoë 東京", "1", "1.0", "nan", "None", 'a, "b"'], rows).tolist()), pa.string()),
        "day": pa.array(some([dt.date(2024, 1, 1) + dt.timedelta(days=int(d)) for d in rng.integers(0, 40, rows)]), pa.date32()),
        "time": pa.array(some([np.datetime64("2024-01-01", "us") + np.timedelta64(int(s), "s") for s in rng.integers(0, 4e6, rows)]),
                         pa.timestamp("us")),
        "tags": pa.array(some([rng.choice(["x", "y", "z"], n).tolist() for n in rng.integers(0, 4, rows)]), pa.list_(pa.string())),
        "@score": pa.array(some(np.where(rng.random(rows) < 0.05, np.nan, rng.integers(0, 40, rows) / 40).tolist()), pa.float64()),
        "@label": pa.array(some(rng.integers(0, 2, rows).tolist()), pa.int64()),
        "weight": pa.array([weights[u] for u in user], pa.float64()),
        "e": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(0.5, 1, rows * 3)), 3),
        "h": pa.FixedSizeListArray.from_arrays(pa.array(np.maximum(rng.normal(0, 1, rows * 2), 0)), 2),
        **{f"@{kind}:{field}": pa.array(rng.normal(0, 1, rows)) for kind in ("attribution", "usefulness") for field in "ab"},
        "@step": pa.array(rng.integers(0, 300, rows), pa.int64()),
        "@epoch": pa.array(rng.integers(0, 3, rows), pa.int64()),
        "@series": pa.array(rng.choice(["loss/train", "gradient_norm"], rows).tolist(), pa.string()),
        "@place": pa.array(some(rng.choice(["mlp.0", "mlp.1"], rows).tolist()), pa.string()),
        "@value": pa.array(np.where(rng.random(rows) < 0.01, np.nan, rng.normal(0, 1, rows)), pa.float64()),
    })


MEASURES = (AreaUnderCurve(), NDCG(k=3), Recall(k=2), ReciprocalRank(k=3), AveragePrecision(k=5, over="achievable"))

PUSHED: tuple[Stat, ...] = (
    Moments(column="x"), Moments(column="price"), Moments(column="flag"), Moments(column="user"), Moments(column="nothing"),
    ScoreLabel(detail=2), ScoreLabel(score="price", label="flag", detail=1),
    PredictionError(), PredictionError(prediction="x", target="price"),
    CategoryCounts(column="text", capacity=4), CategoryCounts(column="x"), CategoryCounts(column="flag"),
    CategoryCounts(column="user", capacity=9), CategoryCounts(column="day", capacity=12), CategoryCounts(column="time"),
    Crosstab(row="text", column="flag", row_capacity=3), Crosstab(row="day", column="user", row_capacity=7, column_capacity=5),
    Distinct(column="x", k=40), Distinct(column="text"), Distinct(column="time", k=40), Distinct(column="nothing"),
    BottomK(over=("user", "text", "day"), k=64), BottomK(over=("x", "flag")),
)
"""Stats that an engine adds up, over columns that engines know."""

READ: tuple[Stat, ...] = (
    Moments(column="day"), Moments(column="time"),
    Missing(column="x"), Missing(column="text", codes=("1", "a")), Missing(column="day"), Missing(column="tags"),
    CategoryCounts(column="tags"), Distinct(column="tags"),
    Quantiles(column="price", k=4096), Quantiles(column="time", k=4096),
    BinnedLabel(column="price", label="@label"), CalibrationHistogram(bins=20, low=0.1, high=0.6), GroupRanges(by="text", over=("x", "price", "user")),
    GroupRanges(by="item", over=("price", "time"), capacity=12),
    PerUnit(unit="user", measures=MEASURES), PerUnit(unit="user", measures=MEASURES[:1], weighting="rows", undefined="zero"),
    Outcomes(over=("text",), cluster="user", buckets=3, capacity=4), Outcomes(over=("flag", "user"), cluster="text", buckets=2, capacity=9),
    Exposure(unit="user", by="text", cluster="user", buckets=3, capacity=4),
    SliceSums(crossings=((("text",), (("a",), ("",))), (("text", "flag"), (("a", "True"),))), cluster="user", buckets=3),
    FieldFlow(fields=("a", "b"), loss=True),
    TimeBlocks(time="time", width=86_400.0, capacity=16, cluster="user", buckets=3), TimeBlocks(time="@step", time_unit="row", width=9.0, cluster="user", score=None),
    RowSample(categories=("text", "user"), numbers=("price",), cluster="user", buckets=3, k=32), Later(column="time", than="day"),
    InversePropensity(column="@score"), PolicyValue(reward="@label", logged="@score", target="@score"),
    SharedRows(column="user", buckets=20, label="@label", capacity=40), KeyedRows(key=("user", "text"), categories=("flag",), numbers=("price",), k=32),
    ItemsAlong(item="text", along="time", width=86_400.0, places=8, capacity=4, cluster="user", buckets=3, label="@label"),
    Gram(column="e"), UnitActivity(column="h"), Series(name="loss/train", capacity=64, places=2),
)
"""Stats that are added up from batches."""

SLICES = (ALL, Slice.parse("text=a"), Slice.parse("text!=1, price>=1.5"), Slice.parse("flag=True"), Slice.parse("user="),
          Slice.parse("x>0, user<50"))


def composed(stat: Stat) -> tuple[Stat, ...]:
    """The stat, and within every composition."""
    weighted = Weighted(stat=stat, by="weight")
    return (stat, weighted, Bucketed(stat=stat, by="user", buckets=4), Bucketed(stat=weighted, by="user", buckets=3),
            Bucketed(stat=stat, by="text", buckets=3), Grouped(stat=stat, by="text", capacity=3), Grouped(stat=weighted, by="flag"),
            Grouped(stat=Bucketed(stat=stat, by="user", buckets=2), by="flag", capacity=2))


KEYS = [(slice_, one) for stat in (*PUSHED, *READ) for one in composed(stat) for slice_ in (SLICES if one is stat else SLICES[:1])]
BY_ENGINE = [(slice_, one) for stat in PUSHED for one in composed(stat)[:4] for slice_ in (SLICES if one is stat else SLICES[1:2])]
"""What must be pushed down: plain over every slice; weighted, bucketed by a whole-number id, and both over one."""


def reference(table: pa.Table, keys) -> Tally:
    """By the definition: one summary of one batch."""
    batch = Batch.from_arrow(table)
    parts = {slice_: batch.take(slice_.mask(batch)) for slice_ in {slice_ for slice_, _ in keys}}
    return Tally({(slice_, stat): stat.summarize(parts[slice_]) for slice_, stat in keys})


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return log()


@pytest.fixture(scope="module")
def expected(table) -> Tally:
    return reference(table, [*KEYS, *BY_ENGINE])


def assert_same(found: Tally, expected: Tally, keys) -> None:
    """Every total of these agrees; all that differ are named."""
    wrong = [f"{stat} over {slice_}: {difference}" for slice_, stat in keys
             if (difference := find_difference(found.get_summary(stat, slice_), expected.get_summary(stat, slice_), tolerance=TOLERANCE))]
    assert not wrong, f"{len(wrong)} of {len(keys)} totals differ\n" + "\n".join(wrong[:8])


# ---------------------------------------------------------------------- every stat


def test_every_registered_stat_is_compared():
    for module in pkgutil.iter_modules(stats.__path__):
        import_module(f"{stats.__name__}.{module.name}")
    shipped = {cls for cls in Stat.registry.values() if cls.__module__.startswith("recspect.")}
    compared = {type(stat) for stat in (*PUSHED, *READ)}
    assert compared | {Weighted, Bucketed, Grouped} == shipped
    assert {type(stat) for stat in PUSHED} == {cls for cls in compared if hasattr(cls, "pushdown")}


@pytest.mark.slow
def test_one_batch_and_100_batches_in_shuffled_order(table, expected):
    """Units stay whole; within and between batches the order is random."""
    rng = np.random.default_rng(0)
    batch = Batch.from_arrow(table)
    total = Tally({})
    for unit in (None, "user"):
        keys = [key for key in KEYS if unit_of(key[1]) == unit]
        codes = np.arange(batch.rows) if unit is None else batch.categories(unit).codes + 1
        piece = rng.integers(0, 100, codes.max() + 1)[codes]
        shuffled = rng.permutation(batch.rows)
        for number in rng.permutation(100):
            rows = batch.take(shuffled[piece[shuffled] == number])
            parts = {slice_: rows.take(slice_.mask(rows)) for slice_ in SLICES}
            total = total + Tally({(slice_, stat): stat.summarize(parts[slice_]) for slice_, stat in keys})
    assert_same(total, expected, KEYS)


# ---------------------------------------------------------------------- every source


def as_csv(table, folder):
    pyarrow.csv.write_csv(table, folder / "log.csv")
    return read(folder / "log.csv")


def as_parquet(table, folder):
    pq.write_table(table, folder / "log.parquet", row_group_size=400)
    return read(folder / "log.parquet")


def as_folder(table, folder):
    for number, start in enumerate(range(0, table.num_rows, 400)):
        pq.write_table(table.slice(start, 400), folder / f"part-{number}.parquet")
    return read(folder)


def as_relation(table, folder):
    import duckdb

    return read(duckdb.connect().from_arrow(table))


NO_LISTS = ("tags", "e", "h")
KINDS = {
    "Arrow": (lambda table, folder: read(table), ()),
    "Arrow by DuckDB": (lambda table, folder: read(table, engine="duckdb"), ()),
    "Polars": (lambda table, folder: read(pl.from_arrow(table)), ()),
    "lazy Polars": (lambda table, folder: read(pl.from_arrow(table).lazy()), ()),
    "pandas": (lambda table, folder: read(table.to_pandas()), ("e", "h")),
    "DuckDB relation": (as_relation, ()),
    "Parquet": (as_parquet, ()),
    "Parquet folder": (as_folder, ()),
    "CSV": (as_csv, NO_LISTS),
}
"""How to read the rows, and columns that this kind cannot hold: pandas and CSV have no vectors of one width, CSV no lists."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_tally(kind, table, expected, tmp_path):
    make, lacking = KINDS[kind]
    kept = table.drop_columns(list(lacking))
    keys = [key for key in KEYS if not set(lacking) & {*key[1].columns, *key[0].columns}]
    assert len(keys) > 0.8 * len(KEYS)
    source = make(kept, tmp_path)
    for pushdown in (False, True):
        assert_same(tally(source, keys, rows=500, pushdown=pushdown), expected, keys)


def test_a_table_of_one_batch_is_added_up_to_the_same_bits_every_time():
    """The threads of an engine add in any order, which moved the last digits of a report from one run to the next."""
    rng = np.random.default_rng(0)
    table = pa.table({"x": rng.lognormal(size=5_000), "user": rng.integers(0, 300, 5_000)})
    keys = [(ALL, Bucketed(stat=Moments(column="x"), by="user")), (ALL, Moments(column="x"))]
    by_numpy = {key: key[1].summarize(to_batch(table, name="rows")) for key in keys}
    for _ in range(5):
        assert all(tally(read(table), keys)[key] == by_numpy[key] for key in keys)


# ---------------------------------------------------------------------- every engine, really


class Unread(Source):
    """A source whose rows only its engine may look at."""

    def __init__(self, inner: Source) -> None:
        self.inner, self.name = inner, inner.name

    @property
    def columns(self):
        return self.inner.columns

    def batches(self, columns=None, *, rows=1, together=None):
        raise AssertionError(f"{columns} of {self.name} were read, though its engine can add them up")

    def frame(self):
        return self.inner.frame()

    def fingerprint(self):
        return self.inner.fingerprint()

    def count(self):
        return self.inner.count()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Polars", "Arrow by DuckDB", "Parquet"])
def test_what_an_engine_can_add_up_is_not_read(kind, table, expected, tmp_path):
    assert all(isinstance(stat, Pushable) for _, stat in BY_ENGINE)
    read_rows = []
    found = tally(Unread(KINDS[kind][0](table, tmp_path)), BY_ENGINE, progress=read_rows.append)
    assert sum(read_rows) == 0
    assert_same(found, expected, BY_ENGINE)


@pytest.mark.slow
def test_rows_are_read_once_for_all_that_is_left(table, expected):
    seen = []
    keys = [(ALL, stat) for stat in READ]
    found = tally(read(table), [*BY_ENGINE, *keys], rows=100, progress=seen.append)
    assert sum(seen) == table.num_rows
    assert_same(found, expected, [*BY_ENGINE, *keys])


@pytest.fixture(scope="module")
def spark():
    sql = pytest.importorskip("pyspark.sql", reason="PySpark is not installed: make test-spark brings it")
    session = (sql.SparkSession.builder.master("local[1]").config("spark.sql.shuffle.partitions", "1").config("spark.ui.enabled", "false")
               .config("spark.sql.session.timeZone", "UTC").getOrCreate())
    yield session
    session.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas")
def test_pyspark_gives_the_same_tally(spark, table, expected, tmp_path):
    pq.write_table(table.drop_columns(["e", "h"]), tmp_path / "log.parquet")
    source = read(nw.from_native(spark.read.parquet(str(tmp_path / "log.parquet"))))
    some = BY_ENGINE[::7]  # each is a job of Spark's
    assert_same(tally(Unread(source), some), expected, some)
    keys = [key for key in KEYS if not {"e", "h"} & {*key[1].columns}]
    assert_same(tally(source, keys, pushdown=False), expected, keys)


# ---------------------------------------------------------------------- the comparison finds differences


def test_a_difference_of_one_row_is_found(table, expected):
    keys = [(ALL, stat) for stat in (*PUSHED, *READ)]
    fewer = tally(read(table.slice(1)), keys)
    differ = [stat for _, stat in keys if find_difference(fewer.get_summary(stat), expected.get_summary(stat), tolerance=TOLERANCE)]
    assert len(differ) >= 0.8 * len(keys)
    batch = concatenate([to_batch(table, name="log"), to_batch(table.slice(0, 1), name="log")])
    with pytest.raises(AssertionError, match="totals differ"):
        assert_same(Tally({(ALL, stat): stat.summarize(batch) for _, stat in keys}), expected, keys)
