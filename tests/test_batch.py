"""Columns in, the same columns out: Arrow, categories, hashes, buckets, concatenation."""

import datetime as dt
import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.diagnosis.batch import (
    Batch,
    Categorical,
    Ragged,
    bucket,
    column_from_arrow,
    concatenate,
    factorize,
    hash_rows,
    hash_values,
)
from recspect.errors import DataError
from recspect.testing.tables import to_arrow


def decoded(column):
    return column.decode().tolist()


def test_every_arrow_type_has_one_form():
    table = pa.table({
        "integer": pa.array([1, 2, 3]), "with_null": pa.array([1, None, 3]), "flag": pa.array([True, None, False]),
        "text": pa.array(["b", None, "a"]), "view": pa.array(["b", None, "a"], pa.string_view()),
        "dictionary": pa.array(["x", None, "x"]).dictionary_encode(), "number": pa.array([.5, None, np.nan]),
        "day": pa.array([dt.date(2024, 1, 2), None, dt.date(1970, 1, 1)]),
        "money": pa.array([1, None, 2], pa.decimal128(9, 2)), "tags": pa.array([["a", "b"], None, []]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array([1., 2, 3, 4, 5, 6]), 2), "nothing": pa.nulls(3)})
    batch = Batch.from_arrow(table)
    assert batch["integer"].dtype == np.int64
    np.testing.assert_array_equal(batch["with_null"], [1, np.nan, 3])
    assert decoded(batch["flag"]) == [True, None, False]
    np.testing.assert_array_equal(batch.numbers("flag"), [1, np.nan, 0])
    for name in ("text", "view"):
        assert decoded(batch[name]) == ["b", None, "a"]
    assert decoded(batch["dictionary"]) == ["x", None, "x"]
    np.testing.assert_array_equal(batch["number"], [.5, np.nan, np.nan])
    assert batch["day"].tolist()[2] == dt.datetime(1970, 1, 1)  # noqa: DTZ001 - times carry no zone here
    np.testing.assert_array_equal(batch["money"], [1, np.nan, 2])
    assert batch["tags"].lengths.tolist() == [2, 0, 0]
    assert batch["vector"].shape == (3, 2)
    assert np.isnan(batch["nothing"]).all()


def test_times_finer_than_microseconds_and_with_a_zone_are_read():
    column = column_from_arrow(pa.array([1_700_000_000_123_456_789], pa.timestamp("ns", "Europe/Berlin")))
    assert column.tolist() == [dt.datetime(2023, 11, 14, 22, 13, 20, 123456)]  # noqa: DTZ001


def test_integers_beyond_floats_with_nulls_stay_exact():
    column = column_from_arrow(pa.array([2**60 + 1, None, 2**60 + 2]))
    assert decoded(column) == [2**60 + 1, None, 2**60 + 2]
    assert bucket(column, 7).tolist()[0] == bucket(np.array([2**60 + 1]), 7)[0]


def test_types_without_meaning_are_refused():
    with pytest.raises(DataError, match="a column of type struct"):
        column_from_arrow(pa.array([{"a": 1}]))
    with pytest.raises(DataError, match="lists of lists"):
        column_from_arrow(pa.array([[[1]]]))
    with pytest.raises(DataError, match="differ in length"):
        Batch({"a": np.zeros(2), "b": np.zeros(3)})
    batch = Batch({"name": factorize(np.array(["a", "b"])), "v": np.zeros((2, 3)), "x": np.zeros(2)})
    with pytest.raises(DataError, match="column 'name' holds categories such as 'a', 'b', expected numbers"):
        batch.numbers("name")
    with pytest.raises(DataError, match="vectors of width 3, expected single values"):
        batch.categories("v")
    with pytest.raises(DataError, match="holds numbers, expected vectors"):
        batch.matrix("x")
    with pytest.raises(DataError, match="no column 'y'; columns: 'name', 'v', 'x'"):
        batch["y"]


def mixed(rng, rows):
    lengths = rng.integers(0, 3, rows)
    return Batch({
        "x": np.where(rng.random(rows) < .2, np.nan, rng.normal(size=rows)), "i": rng.integers(0, 5, rows),
        "c": Categorical(rng.integers(-1, 3, rows), np.array(["a", "b", "c"], dtype=object)), "v": rng.normal(size=(rows, 2)),
        "l": Ragged(rng.integers(0, 9, int(lengths.sum())), np.concatenate([[0], np.cumsum(lengths)])),
        "t": np.datetime64("2024-01-01", "us") + rng.integers(0, 10**9, rows)})


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 1000), rows=st.integers(0, 30), cut=st.integers(0, 30))
def test_splitting_concatenating_and_arrow_keep_the_rows(seed, rows, cut):
    batch = mixed(np.random.default_rng(seed), rows)
    cut = min(cut, rows)
    parts = [batch.take(np.arange(cut)), batch.take(np.arange(cut, rows))]
    again = concatenate([*parts, batch.take(np.zeros(rows, dtype=bool))])
    want = hash_rows(batch, list(batch))
    np.testing.assert_array_equal(hash_rows(again, list(batch)), want)
    np.testing.assert_array_equal(np.concatenate([hash_rows(part, list(batch)) for part in parts]), want)
    np.testing.assert_array_equal(hash_rows(Batch.from_arrow(to_arrow(batch)), list(batch)), want)


def test_concatenating_lists_with_a_part_of_missing_lists():
    some = Batch({"l": Ragged(np.array([1, 2]), np.array([0, 2]))})
    none = Batch({"l": np.array([np.nan, np.nan])})
    for parts, lengths in (((some, none), [2, 0, 0]), ((none, some), [0, 0, 2])):
        assert concatenate(parts)["l"].lengths.tolist() == lengths


def test_concatenating_categories_of_different_types():
    parts = [Batch({"c": Categorical(np.array([0, -1]), np.array(["a"], dtype=object))}), Batch({"c": np.array([np.nan, np.nan])}),
             Batch({"c": Categorical(np.array([1, 0]), np.array(["b", "a"], dtype=object))})]
    assert decoded(concatenate(parts)["c"]) == ["a", None, None, None, "a", "b"]


def test_factorizing_many_forms():
    assert decoded(factorize(np.array([3.0, np.nan, 1.0]))) == [3, None, 1]
    assert decoded(factorize(np.array([3.5, np.nan, np.inf]))) == [3.5, None, np.inf]
    assert decoded(factorize(np.array(["b", "a"]))) == ["b", "a"]
    assert decoded(factorize(np.array(["b", None, float("nan")], dtype=object))) == ["b", None, None]
    assert factorize(np.array([5, 2, 5, 10**15])).codes.tolist() == [1, 0, 1, 2]
    assert factorize(np.array(["2024-01-01", "NaT"], dtype="M8[us]")).codes.tolist() == [0, -1]


# ---------------------------------------------------------------------- hashes


def splitmix(seed):
    """First output of SplitMix64 (Steele, Lea and Flood 2014) from this seed."""
    mask = 2**64 - 1
    z = (seed + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_hashes_are_the_same_in_every_type_and_version():
    forms = (np.array([3, 7]), np.array([3, 7], dtype=np.int8), np.array([3.0, 7.0]), np.array([3, 7], dtype=np.float32))
    for form in forms:
        assert hash_values(form).tolist() == [splitmix(3), splitmix(7)]
    assert splitmix(3) == 2092789425003139053  # stored tallies rely on it
    want = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in (b"a", b"b")]
    assert hash_values(np.array(["a", "b"], dtype=object)).tolist() == want
    assert hash_values(np.array([-0.0])) == hash_values(np.array([0]))
    assert len(np.unique(hash_values(np.array([0.1, 0.2, -0.1, np.inf, -np.inf, 1, -1])))) == 7


def test_missing_hashes_alike_in_every_form():
    forms = [np.array([np.nan]), np.array([-np.nan]), np.array(["NaT"], dtype="M8[us]"),
             Categorical(np.array([-1]), np.array(["a"], dtype=object))]
    assert len({int(hash_rows(Batch({"x": form}), ["x"])[0]) for form in forms}) == 1


def test_row_hashes_tell_columns_order_and_list_order_apart():
    a, b = np.array([1]), np.array([2])
    assert hash_rows(Batch({"a": a, "b": b}), ["a", "b"]) != hash_rows(Batch({"a": b, "b": a}), ["a", "b"])
    ab = Batch({"l": Ragged(np.array([1, 2, 2, 1]), np.array([0, 2, 4]))})
    first, second = hash_rows(ab, ["l"])
    assert first != second
    later = Batch({"l": Ragged(np.array([9, 2, 1, 9]), np.array([1, 3]))})  # a view into a longer array
    assert hash_rows(later, ["l"])[0] == second


@pytest.mark.parametrize("ids", [np.arange(20_000), np.arange(20_000) * 1000, np.random.default_rng(0).integers(0, 2**62, 20_000),
                                 -np.arange(20_000)], ids=["dense", "strided", "random", "negative"])
def test_buckets_are_even(ids):
    counts = np.bincount(bucket(ids, 50), minlength=50)
    chi_square = ((counts - 400) ** 2 / 400).sum()
    assert chi_square < 100  # 99.999% of random assignments to 50 buckets stay below


def test_a_whole_number_keeps_its_bucket_beside_others_that_are_none():
    whole = bucket(np.array([1, 2, 3]), 7)
    for other in (np.nan, np.inf, 3.5):
        np.testing.assert_array_equal(bucket(np.array([1.0, 2.0, 3.0, other]), 7)[:3], whole)


def test_buckets_do_not_depend_on_the_form_of_the_id():
    ids = np.array([7, 123456789, 5])
    want = bucket(ids, 50).tolist()
    assert bucket(ids.astype(float), 50).tolist() == want
    assert bucket(Categorical(np.array([0, 1, 2]), ids), 50).tolist() == want
    with_missing = bucket(np.array([7.0, np.nan]), 50).tolist()
    assert with_missing == [want[0], 0]
    with pytest.raises(DataError, match="ids are single values, this column holds vectors"):
        bucket(np.zeros((2, 2)), 5)


def test_dictionaries_with_unsigned_codes_are_read():
    """Polars and Parquet readers number their dictionaries so."""
    column = pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.uint32()), pa.array(["a", "b"]))
    found = Batch.from_arrow(pa.table({"x": column}))["x"]
    assert list(found.decode()) == ["a", None, "b"]
