"""The feature transform: reserved ids, laws, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.diagnosis.batch import Batch, Categorical, Ragged, concatenate
from recspect.errors import DataError, RunError, SchemaError
from recspect.features import Encoded, FeatureTransform
from recspect.features.encoded import FIRST_KNOWN, MISSING, RARE, UNKNOWN
from recspect.schema import Field, Schema


def batch_of(**columns) -> Batch:
    return Batch.from_arrow(pa.table({name: pa.array(values) for name, values in columns.items()}))


def fit(field: Field, values, **more) -> FeatureTransform:
    return FeatureTransform.fit(Schema(fields=[field]), batch_of(**{field.name: values}, **more))


def ids(transform: FeatureTransform, name: str, values) -> list:
    return transform.transform(batch_of(**{name: values})).ids[name].tolist()


SCHEMA = Schema(fields=[
    Field(name="text", minimum_count=2, missing=("?",)),
    Field(name="whole", missing=(-1,)),
    Field(name="hashed", hash_buckets=7),
    Field(name="real", kind="numeric"),
    Field(name="skewed", kind="numeric", scaling="log", missing=(-1,)),
    Field(name="cut", kind="numeric", scaling="quantile", quantile_buckets=4),
    Field(name="tags", kind="multi_valued", separator="|", max_length=3),
    Field(name="seen", kind="sequence", max_length=3),
    Field(name="image", kind="vector"),
])

some = st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(-1.0), st.just(float("inf")))
rows_strategy = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "ä", "?", None]), st.sampled_from([1, 2, 300, -1, None]), st.sampled_from("xyz"),
              some, some, some, st.sampled_from(["u|v", "v", "", None, "u|w|v|t"]), st.lists(st.integers(0, 5), max_size=5)),
    min_size=1, max_size=30)


def table(rows) -> Batch:
    text, whole, hashed, real, skewed, cut, tags, seen = zip(*rows, strict=True)
    floats = pa.float64()
    return Batch.from_arrow(pa.table({
        "text": pa.array(text, pa.string()), "whole": pa.array(whole, pa.int64()), "hashed": pa.array(hashed, pa.string()),
        "real": pa.array(real, floats), "skewed": pa.array(skewed, floats), "cut": pa.array(cut, floats),
        "tags": pa.array(tags, pa.string()), "seen": pa.array(seen, pa.list_(pa.int64())),
        "image": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * len(rows))), 2),
    }))


def assert_same(one: Encoded, other: Encoded) -> None:
    assert one.rows == other.rows
    assert list(one.inputs) == list(other.inputs)
    for name, tensor in one.inputs.items():
        assert tensor.dtype == other.inputs[name].dtype
        assert torch.equal(tensor, other.inputs[name]), name


@settings(max_examples=60, deadline=None)
@given(train=rows_strategy, later=rows_strategy)
def test_rows_are_encoded_one_by_one(train, later):
    transform = FeatureTransform.fit(SCHEMA, table(train))
    whole = transform.transform(table(later))
    cut = len(later) // 2
    parts = [part for rows in (slice(0, cut), slice(cut, None)) if (part := table(later).take(rows)).rows]
    joined = [transform.transform(part) for part in parts]
    for name, tensor in whole.inputs.items():
        assert torch.equal(tensor, torch.cat([part.inputs[name] for part in joined])), name
    assert_same(whole, transform.transform(concatenate(parts)))


@settings(max_examples=40, deadline=None)
@given(train=rows_strategy, later=rows_strategy)
def test_encoded_values_fit_the_sizes(train, later):
    transform = FeatureTransform.fit(SCHEMA, table(train))
    encoded = transform.transform(table(later))
    assert [size.name for size in transform.sizes] == list(SCHEMA.field_names)
    for size in transform.sizes:
        tensor = encoded.inputs[size.name]
        assert len(tensor) == len(later)
        if size.form == "numbers":
            assert tensor.dtype == torch.float32
            assert torch.isfinite(tensor).all()
            assert tensor.shape == ((len(later),) if size.width == 1 else (len(later), size.width))
        else:
            assert tensor.dtype == torch.int64
            assert tensor.min() >= 0
            assert tensor.max() < size.rows
            assert tensor.shape == ((len(later),) if size.form == "id" else (len(later), size.width))


@settings(max_examples=40, deadline=None)
@given(train=rows_strategy, later=rows_strategy)
def test_saved_and_loaded_is_the_same(train, later, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    transform = FeatureTransform.fit(SCHEMA, table(train))
    transform.save(folder)
    loaded = FeatureTransform.load(folder)
    assert loaded.sizes == transform.sizes
    assert loaded.schema == transform.schema
    assert_same(loaded.transform(table(later)), transform.transform(table(later)))
    assert {path.name for path in folder.iterdir()} == {"features.json", "features.safetensors"}


@settings(max_examples=40, deadline=None)
@given(train=rows_strategy)
def test_training_rows_hold_nothing_unknown(train):
    transform = FeatureTransform.fit(SCHEMA, table(train))
    encoded = transform.transform(table(train))
    assert set(encoded.unknown_share.values()) == {0.0}
    for name in ("text", "whole", "hashed", "tags", "seen"):
        counts = torch.bincount(encoded.ids[name].flatten(), minlength=transform.encoders[name].codes.rows)
        if name not in ("tags", "seen"):  # lists are cut to max_length, counts are of all entries
            assert counts[FIRST_KNOWN:].tolist() == transform.encoders[name].codes.row_counts()[FIRST_KNOWN:].tolist()


def test_reserved_ids():
    transform = fit(Field(name="c", minimum_count=2, missing=("?",)), ["a", "a", "a", "b", "b", "once", "?", None])
    assert ids(transform, "c", ["a", "b", "once", "new", "?", None]) == [3, 4, RARE, RARE, MISSING, MISSING]  # what training never saw is rare
    encoded = transform.transform(batch_of(c=["a", "new", None, "once"]))
    assert encoded.unknown_share["c"] == pytest.approx(1 / 3)
    assert encoded.missing_share["c"] == pytest.approx(1 / 4)


def test_the_type_of_a_number_does_not_matter():
    transform = fit(Field(name="c", missing=("-124",)), pa.array([5, 5, 7, -124], pa.int16()))
    for values in (pa.array([5, 7, 9, -124], pa.int64()), pa.array([5.0, 7.0, 9.0, -124.0]),
                   pa.array([5, 7, 9, -124], pa.int32())):
        assert ids(transform, "c", values) == [3, 4, UNKNOWN, MISSING]
    assert ids(transform, "c", pa.array([5.5, 5.0, None])) == [UNKNOWN, 3, MISSING]
    assert ids(transform, "c", pa.array([None, None], pa.float64())) == [MISSING, MISSING]


def test_fractions_and_booleans_and_times_are_categories_too():
    assert ids(fit(Field(name="c"), [0.5, 0.5, 2.0]), "c", [0.5, 2.0, 3.0]) == [3, 4, UNKNOWN]
    assert ids(fit(Field(name="c"), [True, True, False]), "c", [True, False]) == [3, 4]
    times = pa.array(np.array(["2020-01-01", "2020-01-02"], "datetime64[us]"))
    assert ids(fit(Field(name="c"), times), "c", times[1:]) == [4]


def test_a_column_that_changed_its_type_is_an_error():
    transform = fit(Field(name="c"), ["1", "2"])
    with pytest.raises(DataError, match="held strings in training and holds numbers here"):
        ids(transform, "c", [1, 2])


def test_hashing_reports_collisions_and_untrained_buckets():
    transform = fit(Field(name="c", hash_buckets=4), [f"v{i}" for i in range(100)])
    codes = transform.encoders["c"].codes
    assert (codes.distinct, codes.collided, codes.rows) == (100, 100, 7)
    lone = fit(Field(name="c", hash_buckets=1000), ["only", "only"])
    assert lone.encoders["c"].codes.collided == 0
    assert lone.transform(batch_of(c=["only", "other"])).unknown_share["c"] == 0.5


def test_numbers_are_standardised_by_training_rows():
    values = [1.0, 2.0, 3.0, 6.0]
    encoded = fit(Field(name="n", kind="numeric"), values).transform(batch_of(n=[3.0, 1e9])).numbers["n"]
    assert encoded[0].item() == pytest.approx((3 - np.mean(values)) / np.std(values), rel=1e-6)
    assert encoded[1].item() == 10.0  # held within CLIP_DEVIATIONS
    logs = np.log1p(values)
    encoded = fit(Field(name="n", kind="numeric", scaling="log"), values).transform(batch_of(n=[-3.0])).numbers["n"]
    assert encoded.item() == pytest.approx((-np.log1p(3) - logs.mean()) / logs.std(), rel=1e-6)
    constant = fit(Field(name="n", kind="numeric"), [0.1] * 7).transform(batch_of(n=[0.1, 0.1])).numbers["n"]
    assert constant.abs().max() < 1e-6


def test_gaps_in_numbers_have_an_indicator_where_training_had_gaps():
    field = Field(name="n", kind="numeric", missing=(-1,))
    gappy = fit(field, [1.0, 3.0, None, -1.0])
    assert gappy.transform(batch_of(n=[3.0, None, -1.0, float("inf")])).numbers["n"].tolist() == [[1, 0], [0, 1], [0, 1], [0, 1]]
    whole = fit(field, [1.0, 3.0])
    encoded = whole.transform(batch_of(n=[3.0, None]))
    assert encoded.numbers["n"].tolist() == [1, 0]
    assert encoded.unknown_share["n"] == 0.5


def test_quantile_buckets_hold_equal_counts():
    values = np.random.default_rng(0).permutation(1000).astype(float)
    transform = fit(Field(name="n", kind="numeric", scaling="quantile", quantile_buckets=8), values)
    encoded = transform.transform(batch_of(n=values)).ids["n"]
    counts = torch.bincount(encoded)[FIRST_KNOWN:]
    assert counts.tolist() == [125] * 8
    order = torch.from_numpy(np.argsort(values))
    assert (encoded[order].diff() >= 0).all()
    mostly_zero = fit(Field(name="n", kind="numeric", scaling="quantile", quantile_buckets=8), [0.0] * 90 + [1.0] * 10)
    assert mostly_zero.transform(batch_of(n=[0.0, 1.0, -5.0, None])).ids["n"].tolist() == [3, 4, 3, MISSING]


def test_lists_are_padded_and_cut():
    seen = [[1, 2, 3, 4], [1], [], [2, 1]]
    sequence = fit(Field(name="s", kind="sequence", max_length=3), pa.array(seen))
    multiple = fit(Field(name="s", kind="multi_valued", max_length=3), pa.array(seen))
    one, two, three, four = (FIRST_KNOWN + i for i in (0, 1, 2, 3))
    assert ids(sequence, "s", pa.array(seen)) == [[two, three, four], [one, 0, 0], [0, 0, 0], [two, one, 0]]
    assert ids(multiple, "s", pa.array(seen))[0] == [one, two, three]
    assert ids(sequence, "s", pa.array([[9, None, 1], None], pa.list_(pa.int64()))) == [[UNKNOWN, MISSING, one], [0, 0, 0]]
    short = fit(Field(name="s", kind="sequence", max_length=50), pa.array([[1], [2, 1]]))
    assert short.sizes[0].width == 2


def test_strings_are_split():
    field = Field(name="s", kind="multi_valued", separator="|", missing=("(none)",))
    transform = fit(field, ["x| y", "x", "(none)"])
    assert ids(transform, "s", ["y|x", None, "", "(none)", "z|x"]) == [[4, 3], [0, 0], [0, 0], [0, 0], [UNKNOWN, 3]]
    with pytest.raises(DataError, match="expected lists") as error:
        fit(Field(name="s", kind="multi_valued"), ["x|y"])
    assert "separator" in error.value.hint
    with pytest.raises(DataError, match="holds numbers, expected lists"):
        fit(Field(name="s", kind="sequence"), [1.5, 2.0])


def test_lists_inside_a_larger_column():
    column = Ragged(Categorical(np.array([0, 1, 1, 0]), np.array(["p", "q"], dtype=object)), np.array([0, 1, 3, 4]))
    transform = FeatureTransform.fit(Schema(fields=[Field(name="s", kind="sequence")]), Batch({"s": column}))
    whole = transform.transform(Batch({"s": column})).ids["s"]
    sliced = Ragged(column.values, column.offsets[1:])  # offsets that do not start at 0
    assert torch.equal(transform.transform(Batch({"s": sliced})).ids["s"], whole[1:])


def test_vectors():
    schema = Schema(fields=[Field(name="v", kind="vector")])
    transform = FeatureTransform.fit(schema, Batch({"v": np.ones((3, 4))}))
    found = transform.transform(Batch({"v": np.array([[1, 2, 3, 4], [1, np.nan, 1, 1]])}))
    assert found.numbers["v"].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0]]
    as_lists = batch_of(v=[[1.0, 2.0, 3.0, 4.0], None])
    assert transform.transform(as_lists).numbers["v"].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0]]
    with pytest.raises(DataError, match="width 4 in training, 3 here"):
        transform.transform(Batch({"v": np.ones((1, 3))}))
    with pytest.raises(DataError, match="vectors of width 4 expected, found lists of 1 to 2"):
        transform.transform(batch_of(v=[[1.0], [1.0, 2.0]]))


def test_what_cannot_be_fitted():
    with pytest.raises(SchemaError, match="no input fields"):
        FeatureTransform.fit(Schema(), batch_of(a=[1]))
    with pytest.raises(DataError, match="no rows"):
        fit(Field(name="a"), pa.array([], pa.int64()))
    with pytest.raises(DataError, match="no column 'b'"):
        FeatureTransform.fit(Schema(fields=[Field(name="b")]), batch_of(a=[1]))
    with pytest.raises(DataError, match="expected numbers"):
        fit(Field(name="a", kind="numeric"), ["x", "y"])
    assert fit(Field(name="a", kind="numeric"), pa.array([None, None], pa.float64())).sizes[0].width == 2


def test_damaged_files_are_told(tmp_path: Path):
    with pytest.raises(RunError, match=r"features\.json is missing"):
        FeatureTransform.load(tmp_path)
    fit(Field(name="a"), ["x", "y"]).save(tmp_path)
    written = (tmp_path / "features.json").read_text()
    (tmp_path / "features.json").write_text(json.dumps({**json.loads(written), "version": 99}))
    with pytest.raises(RunError, match="version 99"):
        FeatureTransform.load(tmp_path)
    (tmp_path / "features.json").write_text(written[:40])
    with pytest.raises(RunError, match="damaged"):
        FeatureTransform.load(tmp_path)
    (tmp_path / "features.json").write_text(written)
    (tmp_path / "features.safetensors").write_bytes((tmp_path / "features.safetensors").read_bytes()[:10])
    with pytest.raises(RunError, match="damaged"):
        FeatureTransform.load(tmp_path)


def test_taking_and_slicing_agree():
    encoded = fit(Field(name="c"), ["a", "b", "c", "d"]).transform(batch_of(c=["d", "a", "b", "zz"]))
    assert_same(encoded.slice(1, 3), encoded.take(torch.tensor([1, 2])))
    assert encoded.slice(3, 9).rows == 1
    assert encoded.slice(9, 12).rows == 0
