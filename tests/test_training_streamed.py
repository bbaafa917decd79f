"""Training from Parquet files larger than the buffer: the same rows in the same parts, bounded rows in memory, the same weights after a stop."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from recspect.diagnosis.batch import Batch, concatenate  # noqa: E402
from recspect.diagnosis.source import read  # noqa: E402
from recspect.errors import DataError, UsageError  # noqa: E402
from recspect.models import ModelConfig  # noqa: E402
from recspect.schema import Field, Label, Schema  # noqa: E402
from recspect.schema_derived import Derived  # noqa: E402
from recspect.training.borders import borders_at  # noqa: E402
from recspect.training.config import TrainingConfig  # noqa: E402
from recspect.training.epoch import epoch_seed  # noqa: E402
from recspect.training.loop import resume, train  # noqa: E402
from recspect.training.rows import Tables, schema_columns  # noqa: E402
from recspect.training.run import Run  # noqa: E402
from recspect.training.shuffling import bytes_per_row  # noqa: E402
from recspect.training.split import split_rows  # noqa: E402
from recspect.training.streaming import StreamedTable  # noqa: E402
from recspect.training.supply import Supply  # noqa: E402
from training_kills import killed_training  # noqa: E402

ROWS, GROUP = 6_000, 500

SCHEMA = Schema(user="user", item="item", time="time", time_unit="s", labels=[Label(name="click"), Label(name="like")], fields=[
    Field(name="user", side="user"), Field(name="item", side="item", minimum_count=2), Field(name="age", kind="numeric", scaling="quantile", quantile_buckets=8),
    Field(name="tags", kind="multi_valued", separator="|"), Field(name="hashed", hash_buckets=50)])
SMALL = ModelConfig(embedding_width=4, hidden=(8,), dropout=0.2)
CONFIG = TrainingConfig(model=SMALL, maximum_epochs=2, batch_rows=256, observe_every=5, histograms_every=0, seed=3, device="cpu")
ROOMY = 2**26


def frame(rows=ROWS, *, ordered=False, seed=0):
    draw = np.random.default_rng(seed)
    user, item = draw.integers(0, 60, rows), draw.integers(0, 40, rows)
    time = draw.integers(0, rows // 3, rows)  # with ties across groups
    return pl.DataFrame({
        "user": [f"u{value}" for value in user], "item": item, "time": np.sort(time) if ordered else time, "age": draw.integers(15, 80, rows),
        "tags": [("a|b", "b", "", "c|a")[value] for value in draw.integers(0, 4, rows)], "hashed": item * 7,
        "click": (draw.random(rows) < 0.2 + 0.5 * (item % 2)).astype(np.int64), "like": (draw.random(rows) < 0.1).astype(np.int64)})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("streamed") / "log.parquet"
    frame().write_parquet(path, row_group_size=GROUP)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("files")
    for day in range(6):
        frame(800 + 100 * day, seed=day).write_parquet(where / f"day-{day}.parquet", row_group_size=300)
    return where


def weights(run):
    return {name: tensor.numpy().tobytes() for name, tensor in run.load_model("last").state_dict().items()}


def figures(run):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.epochs]


def seen(run):
    """What was observed, but for layers on evenly spaced training rows: those are spaced in the table's order, in memory in time's."""
    steps = pl.from_arrow(run.steps())
    return steps.filter(~pl.col("series").str.contains("layer_auc|fluctuation"))


def buffer_of(rows, file_):
    sizes = Supply.of(read(file_), SCHEMA, CONFIG).transform.sizes
    return rows * bytes_per_row(sizes, 1, timed=True)


# ------------------------------------------------------------------ which rows are where


@given(st.lists(st.one_of(st.integers(-5, 5).map(float), st.floats(-1e300, 1e300)), min_size=1, max_size=200), st.data())
@settings(deadline=None, max_examples=100)
def test_a_border_is_found_without_sorting(times, data):
    ranks = tuple(data.draw(st.lists(st.integers(0, len(times) - 1), min_size=1, max_size=2)))
    values = np.array(times) + 0.0
    order = np.argsort(values, kind="stable")
    for rank, border in zip(ranks, borders_at(ranks, lambda: iter(np.array_split(values, 4))), strict=True):
        assert border.time == values[order[rank]]
        found, seen = [], 0
        for part in np.array_split(values, 3):
            passed, seen = border.passed(part, seen)
            found += passed.tolist()
        assert sorted(np.flatnonzero(found)) == sorted(order[rank:])


def test_the_parts_are_those_of_a_table_in_memory(file):
    config = replace(CONFIG, buffer_bytes=ROOMY)
    streamed, whole = Tables.cut(read(file), SCHEMA, config), Tables.cut(read(file), SCHEMA, CONFIG)
    assert streamed.fingerprint == whole.fingerprint
    assert {**streamed.split} == {**whole.split}
    for part in ("train", "validation", "test"):
        one, other = getattr(streamed, part), getattr(whole, part)
        for name in other:
            assert Batch({name: one[name]}).hashes(name).tolist() == Batch({name: other[name]}).hashes(name).tolist()


def test_files_are_parts_as_wholes(folder):
    config = replace(CONFIG, buffer_bytes=ROOMY, split="file")
    stream = StreamedTable.of(read(folder), SCHEMA, config, schema_columns(read(folder), SCHEMA))
    assert stream.split["rows"] == {"train": 800 + 900 + 1000 + 1100, "validation": 1200, "test": 1300}
    three = tuple(read(folder / name) for name in ("day-0.parquet", "day-1.parquet", "day-5.parquet"))
    assert StreamedTable.of(three, SCHEMA, config, schema_columns(three, SCHEMA)).split["rows"] == {"train": 800, "validation": 900, "test": 1300}


# ------------------------------------------------------------------ the same training


@pytest.mark.parametrize("labels", [(), ("click", "like")])
def test_a_buffer_for_all_rows_trains_what_memory_trains(file, tmp_path, labels):
    """Weights and figures to the bit, with dropout; the features are of kinds that pieces teach exactly."""
    config = replace(CONFIG, labels=labels, model=replace(SMALL, name="mmoe" if labels else "deepfm"))
    memory = train(read(file), SCHEMA, config, tmp_path / "memory")
    streamed = train(read(file), SCHEMA, replace(config, buffer_bytes=ROOMY), tmp_path / "streamed")
    assert weights(streamed) == weights(memory)
    assert figures(streamed) == figures(memory)
    assert seen(streamed).equals(seen(memory))
    assert streamed.record["data_fingerprint"] == memory.record["data_fingerprint"]


def test_numbers_are_scaled_within_rounding(file, tmp_path):
    """Moments added up over pieces differ from NumPy's in the last bits, and the weights with them."""
    schema = replace(SCHEMA, fields=(*SCHEMA.fields[:2], Field(name="age", kind="numeric")))
    config = replace(CONFIG, model=replace(SMALL, dropout=0))
    memory = train(read(file), schema, config, tmp_path / "memory").load_model("last").state_dict()
    streamed = train(read(file), schema, replace(config, buffer_bytes=ROOMY), tmp_path / "streamed").load_model("last").state_dict()
    for name, tensor in memory.items():
        np.testing.assert_allclose(streamed[name].numpy(), tensor.numpy(), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ bounded memory


def marks(steps):
    """How often each row came, by what it holds; and the largest step."""
    found, most = Counter(), 0
    for step in steps:
        most = max(most, step.rows)
        inputs = step.encoded.inputs
        for row in range(step.encoded.rows):
            found[hashlib.blake2b(b"".join(inputs[name][row].numpy().tobytes() for name in sorted(inputs)) + step.target[row].numpy().tobytes()).hexdigest()] += 1
    return found, most


@pytest.mark.parametrize("readers", [1, 3])
def test_an_epoch_reads_every_training_row_once_and_holds_no_more_than_the_buffer(file, readers):
    room = 700
    config = replace(CONFIG, buffer_bytes=buffer_of(room, file), readers=readers)
    part = Supply.of(read(file), SCHEMA, config).train
    torch.manual_seed(5)
    streamed, most = marks(part.batches(256, seed=5))
    assert most <= 256
    assert part.most_rows <= room * readers
    assert part.groups_read == ROWS // GROUP  # its time is not sorted: every group holds training rows
    assert part.rows_read == part.rows == 4_560
    torch.manual_seed(5)
    assert streamed == marks(Supply.of(read(file), SCHEMA, CONFIG).train.batches(256, seed=5))[0]
    assert part.steps(256, seed=5) == sum(1 for _ in part.batches(256, seed=5))


def test_the_order_is_the_seeds_and_mixes_groups(file):
    config = replace(CONFIG, buffer_bytes=buffer_of(1_500, file))
    part = Supply.of(read(file), SCHEMA, config).train

    def order(seed):
        torch.manual_seed(seed)
        return torch.cat([step.encoded.ids["user"] for step in part.batches(256, seed=seed)]).tolist()

    assert order(1) == order(1) != order(2)
    assert part.dealt(1) != part.dealt(2)


def test_groups_of_the_test_are_not_read_while_training(tmp_path):
    path = tmp_path / "ordered.parquet"
    frame(ordered=True).write_parquet(path, row_group_size=GROUP)
    part = Supply.of(read(path), SCHEMA, replace(CONFIG, buffer_bytes=ROOMY)).train
    torch.manual_seed(0)
    list(part.batches(256, seed=0))
    assert part.groups_read == -(-part.rows // GROUP) < ROWS // GROUP


def test_held_out_rows_are_bounded_and_evenly_spaced(file):
    supply = Supply.of(read(file), SCHEMA, replace(CONFIG, buffer_bytes=buffer_of(400, file)))
    assert [part.rows for part in supply.judged[1:]] == [100, 100]
    assert supply.split["judged"] == {"validation": 100, "test": 100}
    assert supply.split["rows"]["test"] == 1_200


# ------------------------------------------------------------------ stopped and resumed


def test_a_killed_streamed_training_goes_on_to_the_bit(file, tmp_path):
    settings_ = f"""TrainingConfig(model=ModelConfig(embedding_width=4, hidden=(8,), dropout=0.2), maximum_epochs=3, patience_epochs=3, batch_rows=256, observe_every=5,
        histograms_every=0, seed=3, device="cpu", buffer_bytes={buffer_of(700, file)}, readers=2)"""
    config = eval(settings_)
    whole = train(read(file), SCHEMA, config, tmp_path / "whole")
    killed = killed_training(f"""
from recspect.diagnosis.source import read
from recspect.models import ModelConfig
from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from test_training_streamed import SCHEMA
config = {settings_}
train(read(arguments[0]), SCHEMA, config, folder, progress=tell)
""", tmp_path / "killed", str(file))
    assert Run.open(killed).record["epochs_done"] == 1
    went_on = resume(killed, read(file))
    assert weights(went_on) == weights(whole)
    assert figures(went_on) == figures(whole)
    assert went_on.config == config


def test_a_streamed_run_is_examined_by_a_sample(file, tmp_path):
    from recspect.examining.runs import examine_run

    run = train(read(file), SCHEMA, replace(CONFIG, maximum_epochs=1, buffer_bytes=buffer_of(700, file)), tmp_path / "run", reference={"kind": "file", "path": str(file)})
    report = examine_run(run.folder, sample_rows=500)
    assert report.provenance["rows"] == {"train": 4560, "validation": 240, "test": 1200}


# ------------------------------------------------------------------ derived columns, mistakes


def test_derived_columns_are_computed_for_streams(file, tmp_path):
    schema = replace(SCHEMA, derived=(Derived(name="seen", kind="count", by="user"), Derived(name="hour", kind="hour"),
                                      Derived(name="last", kind="last", by="user", of="item", where="click", length=3)),
                     fields=(*SCHEMA.fields, Field(name="seen", kind="numeric", scaling="quantile"), Field(name="hour"), Field(name="last", kind="sequence")))
    memory = train(read(file), schema, replace(CONFIG, maximum_epochs=1), tmp_path / "memory")
    streamed = train(read(file), schema, replace(CONFIG, maximum_epochs=1, buffer_bytes=ROOMY), tmp_path / "streamed")
    assert weights(streamed) == weights(memory)


def test_what_cannot_be_streamed(file, tmp_path):
    config = replace(CONFIG, buffer_bytes=ROOMY)
    with pytest.raises(UsageError, match="no column with role 'time'"):
        train(read(file), replace(SCHEMA, time=None, time_unit=None), config, tmp_path / "a")
    with pytest.raises(DataError, match="cannot be streamed"):
        train(concatenate(list(read(file).batches())), SCHEMA, config, tmp_path / "b")
    with pytest.raises(UsageError, match="holds no row"):
        train(read(file), SCHEMA, replace(config, buffer_bytes=10), tmp_path / "c")
    with pytest.raises(DataError, match="1 files with rows, too few"):
        train(read(file), SCHEMA, replace(config, split="file"), tmp_path / "d")
    with pytest.raises(UsageError, match="split by time or by file"):
        replace(config, split="random")
    with pytest.raises(UsageError, match="for rows that are streamed"):
        replace(CONFIG, readers=2)
    frame().with_columns(pl.when(pl.col("item") == 3).then(None).otherwise(pl.col("time")).alias("time")).write_parquet(tmp_path / "gaps.parquet", row_group_size=GROUP)
    with pytest.raises(DataError, match="has no time in"):
        train(read(tmp_path / "gaps.parquet"), SCHEMA, config, tmp_path / "e")
    assert not list(tmp_path.glob("[a-e]"))


def test_the_split_of_time_is_split_rows(file):
    """The independent reference: the parts' times, from `split_rows` of the whole table."""
    batch = concatenate(list(read(file).batches()))
    parts = split_rows(batch, SCHEMA, test_share=0.2, validation_share=0.05)
    supply = Supply.of(read(file), SCHEMA, replace(CONFIG, buffer_bytes=ROOMY))
    assert supply.judged[2].label.tolist() == batch.numbers("click")[parts.test].tolist()
    assert epoch_seed(3, 1) != epoch_seed(3, 2)
