"""Slices: reading them, their rows, and the same rows from an engine."""

import duckdb
import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.diagnosis.batch import Batch, Categorical, Ragged
from recspect.diagnosis.slice import ALL, Slice
from recspect.errors import DataError, UsageError
from recspect.testing.tables import to_arrow


def table():
    return Batch({
        "country": Categorical(np.array([0, 1, -1, 2, 0, 1]), np.array(["DE", "FR", ""], dtype=object)),
        "age": np.array([30., np.nan, 17, 45, np.inf, 30.5]), "n": np.array([1, 2, 3, 10, 1, 2]),
        "flag": np.array([True, False, True, True, False, False]),
        "t": np.array(["2024-01-01", "NaT", "2024-01-02", "2024-01-01", "2024-01-01", "2024-01-03"], dtype="M8[us]")})


CASES = {
    "": [0, 1, 2, 3, 4, 5], "country=DE": [0, 4], "country!=DE": [1, 2, 3, 5], "country=": [2, 3], "country!=": [0, 1, 4, 5],
    "country=XX": [], "age>=30": [0, 3, 4, 5], "age<30": [2], "age>30.2": [3, 4, 5], "age<=30": [0, 2], "age=30": [0],
    "age=30.5": [5], "age=": [1], "age!=30": [1, 2, 3, 4, 5], "age=inf": [4], "age=old": [], "n=1": [0, 4], "n=1.0": [], "n!=1": [1, 2, 3, 5],
    "n=": [], "n>2": [2, 3], "flag=True": [0, 2, 3], "flag=true": [], "country=FR, age>=30": [5], "age>20, age<40": [0, 5],
}


@pytest.mark.parametrize("text", CASES)
def test_rows_of_a_slice(text):
    assert np.flatnonzero(Slice.parse(text).mask(table())).tolist() == CASES[text]


@pytest.mark.parametrize("text", CASES)
def test_engines_keep_the_same_rows(text):
    data = to_arrow(table().with_columns({"row": np.arange(6)}))
    with duckdb.connect() as connection:
        connection.register("rows", data)
        for frame in (nw.from_native(pl.LazyFrame(pl.from_arrow(data))), nw.from_native(connection.table("rows"))):
            expression = Slice.parse(text).expression(frame.collect_schema())
            if expression is None:
                assert text == ""
                continue
            kept = frame.filter(expression).collect(backend="pyarrow")["row"].to_list()
            assert sorted(kept) == CASES[text], type(frame.to_native())


def test_what_no_query_can_say_is_left_to_the_mask():
    kinds = {"t": nw.Datetime("us"), "x": nw.Float32()}
    assert Slice.parse("t=2024-01-01").expression(kinds) is None
    assert Slice.parse("x=0.1").expression(kinds) is None
    assert Slice.parse("country=DE").expression() is None
    assert Slice.parse("country=DE, age>3").expression() is None
    assert Slice.parse("age>3").expression() is not None
    assert ALL.expression() is None
    assert Slice.parse("t=2024-01-02T00:00:00.000000").mask(table()).tolist() == [False, False, True, False, False, False]


def test_reading_and_writing():
    one = Slice.parse(" surface = home ,age>=30")
    assert str(one) == "age>=30, surface=home"
    assert one == Slice.parse(str(one)) == Slice.parse("age>=30, surface=home")
    assert hash(one) == hash(Slice.parse("age>=30, surface=home"))
    assert one.columns == ("age", "surface")
    assert str(ALL) == "all rows"
    assert Slice.parse("") == ALL
    assert Slice.of(country="DE", n=3.0) == Slice.parse("country=DE, n=3")
    assert Slice.parse("a=b=c").terms[0].value == "b=c"


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b c", "@d"]), st.sampled_from(["=", "!=", ">", ">=", "<", "<="]), st.integers(-9, 9)),
                max_size=4))
def test_a_written_slice_reads_back(terms):
    one = Slice.parse(", ".join(f"{column}{operator}{value}" for column, operator, value in terms))
    assert Slice.parse("" if one == ALL else str(one)) == one


def test_mistakes_are_told():
    with pytest.raises(UsageError, match="cannot read the slice 'country'"):
        Slice.parse("country")
    with pytest.raises(UsageError, match="'old' is not a number"):
        Slice.parse("age>old")
    with pytest.raises(DataError, match="no column 'city'"):
        Slice.parse("city=Bonn").mask(table())
    with pytest.raises(DataError, match="expected numbers"):
        Slice.parse("country>3").mask(table())
    with pytest.raises(DataError, match="expected single values"):
        Slice.parse("l=3").mask(Batch({"l": Ragged(np.array([1]), np.array([0, 1]))}))
