"""The laws of stats, for those who write one: call `assert_laws(stat, batch)` in a test of your own.

    zero is the identity; + is associative and commutative; rows may be split anywhere and come in any order; weight 2 is
    the row twice and weight 0 no row; empty, single-row, NaN and infinite input does not fail; the size is bounded; storage
    gives the same summary back; a query engine's pushdown equals the reference; and all this holds within `Weighted`,
    `Bucketed` and `Grouped` too.

Two summaries are equal when all their numbers agree within the stat's `tolerance`, or, for a sketch, when its own
`distance` (difference over what its error allows) is at most 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import narwhals as nw
import numpy as np

from recspect.diagnosis.batch import Array, Batch, Categorical
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.stat import Bucketed, Grouped, Pushable, Stat, Weighted, bucket_expression, unit_of
from recspect.diagnosis.tally import Tally
from recspect.testing.tables import spoiled, to_arrow

ID, GROUP, WEIGHT = "@law_id", "@law_group", "@law_weight"


@dataclass(frozen=True, kw_only=True)
class LawExample:
    """A stat and rows to try it on.

    Args:
        stat: With capacities small enough that 2,000 rows exceed them.
        make: (generator, number of rows) to a batch with the stat's columns, values of size about 1.
        max_bytes: What the stored summary may take, however many rows were added.
    """

    stat: Stat[Any]
    make: Callable[[np.random.Generator, int], Batch]
    max_bytes: int = 20_000


def assert_laws(stat: Stat[Any], batch: Batch, *, seed: int = 0) -> None:
    """Every law but boundedness, on these rows, and in every composition.

    Args:
        stat: The stat.
        batch: At least its columns; some tens of rows are enough.
        seed: Of the random splits, orders and weights.

    Raises:
        AssertionError: A law is broken; the message names it.
    """
    rng = np.random.default_rng(seed)
    batch = with_law_columns(stat, batch, rng)
    for one in (stat, *compositions(stat)):
        assert_monoid(one, batch, rng)
        assert_weights(one, batch, rng)
        assert_storage(one, batch)
        assert_degenerate(one, batch)
        assert_pushdown(one, batch)


def compositions(stat: Stat[Any]) -> tuple[Stat[Any], ...]:
    """The stat within every composition, over the columns that `with_law_columns` adds."""
    return (Weighted(stat=stat, by=WEIGHT), Bucketed(stat=stat, by=ID, buckets=5), Grouped(stat=stat, by=GROUP, capacity=3),
            Bucketed(stat=Weighted(stat=stat, by=WEIGHT), by=ID, buckets=5))


def with_law_columns(stat: Stat[Any], batch: Batch, rng: np.random.Generator) -> Batch:
    """Columns of ids, categories and whole weights, equal for all rows of a unit where the stat has units."""
    units = unit_codes(stat, batch)
    count = int(units.max(initial=-1)) + 1
    groups = np.array(["a", "b", "c", "d", "e"], dtype=object)
    return batch.with_columns({
        ID: rng.integers(0, 1000, count)[units], WEIGHT: rng.integers(0, 4, count).astype(float)[units],
        GROUP: Categorical(rng.integers(-1, 5, count)[units], groups)})


def unit_codes(stat: Stat[Any], batch: Batch) -> Array:
    """A number per row, equal for rows that must stay together."""
    unit = unit_of(stat)
    return np.arange(batch.rows) if unit is None else batch.categories(unit).codes + 1


def assert_monoid(stat: Stat[Any], batch: Batch, rng: np.random.Generator) -> None:
    """Identity, associativity, commutativity, and freedom of splits and of row order."""
    whole = stat.summarize(batch)
    zero = stat.zero()
    _assert_same(stat, zero + whole, whole, "zero + s is s")
    _assert_same(stat, whole + zero, whole, "s + zero is s")
    _assert_same(stat, zero + zero, zero, "zero + zero is zero")
    units = unit_codes(stat, batch)
    part = rng.integers(0, 3, int(units.max(initial=-1)) + 1)[units]
    a, b, c = (stat.summarize(batch.take(np.flatnonzero(part == i))) for i in range(3))
    _assert_same(stat, (a + b) + c, a + (b + c), "+ is associative")
    _assert_same(stat, a + b, b + a, "+ is commutative")
    _assert_same(stat, a + b + c, whole, "a summary of all rows is the sum of those of its parts")
    _assert_same(stat, stat.summarize(batch.take(rng.permutation(batch.rows))), whole, "the order of rows does not matter")


def assert_weights(stat: Stat[Any], batch: Batch, rng: np.random.Generator) -> None:
    """Weight 2 is the row (of stats per unit: the unit) twice, weight 0 none."""
    once = stat.summarize(batch)
    _assert_same(stat, stat.summarize(batch, np.full(batch.rows, 2.0)), once + once, "weight 2 is the row twice")
    units = unit_codes(stat, batch)
    weight = rng.integers(0, 4, int(units.max(initial=-1)) + 1)[units]
    repeated = stat.zero()
    for times in range(3):
        repeated = repeated + stat.summarize(batch.take(np.flatnonzero(weight > times)))
    _assert_same(stat, stat.summarize(batch, weight.astype(float)), repeated, "whole weights are repeated rows")
    _assert_same(stat, stat.summarize(batch, np.zeros(batch.rows)), stat.zero(), "weight 0 is no row")


def assert_storage(stat: Stat[Any], batch: Batch) -> None:
    """A stored tally gives the same stat and the same summary back."""
    for summary in (stat.summarize(batch), stat.zero()):
        back = Tally.from_bytes(Tally({(ALL, stat): summary}).to_bytes())
        assert list(back) == [(ALL, stat)], f"{_name(stat)}: storage must give an equal stat back, got {list(back)}"
        _assert_same(stat, back.get_summary(stat), summary, "storage keeps the summary")
        _assert_same(stat, back.get_summary(stat) + summary, summary + summary, "a stored summary still adds")


def assert_degenerate(stat: Stat[Any], batch: Batch) -> None:
    """Empty, single-row, missing and infinite input does not fail, and still adds."""
    none = stat.summarize(batch.take(np.arange(0)))
    _assert_same(stat, none, stat.zero(), "no rows give zero")
    whole = stat.summarize(batch)
    for name, rows in degenerate(batch):
        found = stat.summarize(rows)
        _assert_same(stat, found + whole, whole + found, f"+ is commutative with {name}")
        _assert_same(stat, found + stat.zero(), found, f"s + zero is s with {name}")


def degenerate(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """Batches that break what is not careful; the law columns stay as they are."""
    kept = (ID, GROUP, WEIGHT)
    if batch.rows:
        yield "a single row", batch.take(np.arange(1))
    for value in (np.nan, np.inf, -np.inf, 1e300, 0.0):
        yield f"only {value}", spoiled(batch, value, share=1.0, kept=kept)
        yield f"some {value}", spoiled(batch, value, share=0.3, kept=kept)


def assert_bounded(example: LawExample, *, rows: int = 2000, batches: int = 6, seed: int = 0) -> None:
    """The stored summary does not outgrow its bound, however many different rows are added."""
    rng = np.random.default_rng(seed)
    total = example.stat.zero()
    for _ in range(batches):
        total = total + example.stat.summarize(example.make(rng, rows))
        size = len(Tally({(ALL, example.stat): total}).to_bytes())
        assert size <= example.max_bytes, (
            f"{_name(example.stat)}: the summary takes {size:,} bytes, its bound is {example.max_bytes:,}")


def assert_pushdown(stat: Stat[Any], batch: Batch) -> int:
    """What Polars and DuckDB add up equals the reference; returns how many queries were compared (0: cannot be pushed)."""
    if not isinstance(stat, Pushable):
        return 0
    table = to_arrow(batch)
    reference = Batch.from_arrow(table)
    compared = 0
    for engine, frame in _frames(table):
        try:
            found = stat.pushdown(frame)
        except NotImplementedError:
            continue
        assert list(found) == [None], f"{_name(stat)}: without groups the one key is None, got {list(found)}"
        _assert_same(stat, found[None], stat.summarize(reference), f"{engine} adds up as the reference does")
        compared += 1
        if isinstance(stat, (Bucketed, Weighted)):
            continue
        weighted = stat.pushdown(frame, weight=WEIGHT)
        _assert_same(stat, weighted[None], stat.summarize(reference, reference.numbers(WEIGHT)), f"{engine} weighs as the reference")
        grouped = Bucketed(stat=stat, by=ID, buckets=4)
        by_bucket = stat.pushdown(frame, group=bucket_expression(ID, 4))
        for key, part in enumerate(grouped.summarize(reference).parts):
            _assert_same(stat, by_bucket.get(key, stat.zero()), part, f"{engine} groups as the reference does")
        compared += 2
    return compared


def _frames(table: Any) -> Iterator[tuple[str, nw.LazyFrame[Any]]]:
    import duckdb
    import polars as pl

    yield "Polars", nw.from_native(pl.LazyFrame(pl.from_arrow(table)))
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        connection.register("law_rows", table)
        yield "DuckDB", nw.from_native(connection.table("law_rows"))


def run_law_suite(example: LawExample, *, examples: int = 10, rows: int = 40) -> None:
    """The algebraic laws on many random inputs, clean and spoiled, by hypothesis, which reports the smallest that fails."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, rows),
           damage=st.sampled_from([None, np.nan, np.inf, -np.inf, 0.0]))
    def laws(seed: int, size: int, damage: float | None) -> None:
        rng = np.random.default_rng(seed)
        batch = example.make(rng, size)
        if damage is not None:
            batch = spoiled(batch, damage, share=0.2, kept=())
        batch = with_law_columns(example.stat, batch, rng)
        for stat in (example.stat, *compositions(example.stat)):
            assert_monoid(stat, batch, rng)
            assert_weights(stat, batch, rng)

    laws()


# ---------------------------------------------------------------------- comparing summaries


def _assert_same(stat: Stat[Any], found: Any, expected: Any, law: str) -> None:
    difference = find_difference(found, expected, tolerance=_tolerance(stat))
    assert not difference, f"{_name(stat)} breaks the law '{law}': {difference}"


def _tolerance(stat: Stat[Any]) -> float:
    inner = getattr(stat, "stat", None)
    return _tolerance(inner) if isinstance(inner, Stat) else stat.tolerance


def _name(stat: Stat[Any]) -> str:
    inner = getattr(stat, "stat", None)
    return f"{type(stat).__name__}({_name(inner)})" if isinstance(inner, Stat) else type(stat).__name__


def find_difference(found: Any, expected: Any, *, tolerance: float = 1e-9, where: str = "summary") -> str:
    """Where two summaries differ, in words, or "" where they agree within the tolerance."""
    if hasattr(found, "distance"):
        distance = found.distance(expected)
        return "" if distance <= 1 else f"{where} is {distance:.3g} times its allowed error away"
    if is_dataclass(found) and type(found) is type(expected):
        scale = max(_scale(found), _scale(expected))
        for spec in fields(found):
            inner = _compare(getattr(found, spec.name), getattr(expected, spec.name), tolerance=tolerance,
                             where=f"{where}.{spec.name}", scale=scale)
            if inner:
                return inner
        return ""
    return _compare(found, expected, tolerance=tolerance, where=where, scale=1.0)


def _compare(found: Any, expected: Any, *, tolerance: float, where: str, scale: float) -> str:
    if is_dataclass(found):
        return find_difference(found, expected, tolerance=tolerance, where=where)
    if isinstance(found, Mapping):
        if set(found) != set(expected):
            return f"{where} has keys {sorted(found)[:8]}, expected {sorted(expected)[:8]}"
        pairs = [(f"{where}[{key!r}]", value, expected[key]) for key, value in found.items()]
    elif isinstance(found, tuple):
        if len(found) != len(expected):
            return f"{where} has {len(found)} entries, expected {len(expected)}"
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(found, expected, strict=True))]
    elif isinstance(found, (float, int, np.number, np.ndarray)) and np.asarray(found).dtype.kind in "fiub":
        return _compare_numbers(np.asarray(found), np.asarray(expected), tolerance=tolerance, where=where, scale=scale)
    else:
        return "" if found == expected else f"{where} is {found!r}, expected {expected!r}"
    for place, a, b in pairs:
        inner = _compare(a, b, tolerance=tolerance, where=place, scale=scale)
        if inner:
            return inner
    return ""


def _compare_numbers(found: Array, expected: Array, *, tolerance: float, where: str, scale: float) -> str:
    if found.shape != expected.shape:
        return f"{where} has shape {found.shape}, expected {expected.shape}"
    if found.dtype.kind != "f" and expected.dtype.kind != "f":
        return "" if (found == expected).all() else f"{where} is {found}, expected {expected}"
    same = np.isclose(found.astype(float), expected.astype(float), rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    if same.all():
        return ""
    at = np.argwhere(~same)[0]
    return f"{where}{list(at) or ''} is {found[tuple(at)]!r}, expected {expected[tuple(at)]!r}"


def _scale(summary: Any) -> float:
    """Size of the largest number in a summary: what its small ones may have been rounded at."""
    largest = 1.0
    for spec in fields(summary):
        value = getattr(summary, spec.name)
        if isinstance(value, (float, np.ndarray)) and np.asarray(value).dtype.kind == "f":
            finite = np.abs(np.asarray(value)[np.isfinite(value)])
            largest = max(largest, float(finite.max(initial=0.0)))
    return largest
