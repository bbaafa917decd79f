"""Whole training runs on small made-up tables: learning, repeating, stopping, going on, and what is left on disk."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.source import read
from recspect.errors import DataError, RunError
from recspect.models import ModelConfig
from recspect.schema import Field, Label, Schema
from recspect.training.config import TrainingConfig
from recspect.training.loop import Progress, resume, train
from recspect.training.predict import predict
from recspect.training.run import Run, new_folder, runs_in
from training_kills import killed_training

SCHEMA = Schema(
    user="user", item="item", time="time", labels=[Label(name="click")],
    fields=[Field(name="user", side="user"), Field(name="item", side="item"), Field(name="price", kind="numeric", side="item"),
            Field(name="tags", kind="multi_valued", separator="|", side="item"), Field(name="hour")])

CONFIG = TrainingConfig(
    model=ModelConfig(embedding_width=4, hidden=(16, 8), dropout=0.1), maximum_epochs=3, patience_epochs=3, batch_rows=200,
    learning_rate=1e-2, table_learning_rate=0.05, observe_every=5, histograms_every=10, device="cpu")


def made_up(rows: int = 3000, seed: int = 0) -> Batch:
    """Clicks that depend on the item, the price and one tag. `rating` is 3 + twice the logit, plus noise."""
    draw = np.random.default_rng(seed)
    item = draw.integers(0, 40, rows)
    price = draw.normal(size=rows)
    logit = np.linspace(-2, 2, 40)[item] - price + (item % 3 == 0)
    return Batch.from_arrow(pa.table({
        "user": draw.integers(0, 100, rows), "item": pa.array([f"i{i}" for i in item]),
        "price": pa.array(np.where(draw.random(rows) < 0.05, None, price)),
        "tags": pa.array(["a|b" if i % 3 == 0 else ("b" if i % 2 else None) for i in item]),
        "hour": draw.integers(0, 24, rows), "time": np.arange(rows),
        "click": (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8),
        "rating": 3 + 2 * logit + draw.normal(size=rows),
    }))


def weights(run: Run, epoch="last") -> dict[str, torch.Tensor]:
    return run.load_model(epoch).state_dict()


def assert_same_weights(one: Run, other: Run) -> None:
    assert one.record["epochs_done"] == other.record["epochs_done"]
    for epoch in range(1, one.record["epochs_done"] + 1):
        for (name, left), right in zip(weights(one, epoch).items(), weights(other, epoch).values(), strict=True):
            assert torch.equal(left, right), (epoch, name)


def without_seconds(run: Run) -> list[dict]:
    return [{key: value for key, value in figures.items() if key != "seconds"} for figures in run.epochs]


def assert_same_run(one: Run, other: Run) -> None:
    """All but times of day."""
    assert_same_weights(one, other)
    assert without_seconds(one) == without_seconds(other)
    assert one.steps().equals(other.steps())
    assert one.histograms().equals(other.histograms())
    assert (one.status, one.best_epoch) == (other.status, other.best_epoch)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return train(made_up(), SCHEMA, CONFIG, tmp_path_factory.mktemp("runs") / "first", reference={"kind": "file", "path": "x"})


# ---------------------------------------------------------------------- what a run is


def test_it_learns(run):
    assert run.status == "finished"
    assert run.epochs[-1]["test_auc"] > 0.75  # the true probabilities reach about .86
    assert run.epochs[-1]["train_loss"] < run.epochs[0]["train_loss"]


def test_the_folder_holds_what_the_contract_says(run):
    assert {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()} == {
        "run.json", "schema.toml", "features.json", "features.safetensors", "steps.parquet", "histograms.parquet",
        "checkpoints/epoch-001.safetensors", "checkpoints/epoch-002.safetensors", "checkpoints/epoch-003.safetensors",
        "checkpoints/last.safetensors", "checkpoints/last.json"}
    record = json.loads((run.folder / "run.json").read_text())
    assert {"format", "version", "id", "status", "created", "recspect", "python", "packages", "seed", "command", "data",
            "data_fingerprint", "split", "training", "model", "label", "epochs_done", "best_epoch", "metrics"} <= set(record)
    assert record["data"] == {"kind": "file", "path": "x"}
    assert set(record["metrics"]["epochs"][0]) == {
        "epoch", "step", "seconds", "train_loss", "train_auc", "validation_loss", "validation_auc", "test_loss", "test_auc"}


def test_a_run_is_read_back(run):
    opened = Run.open(run.folder)
    assert opened.record == run.record
    assert opened.schema == SCHEMA
    assert replace(opened.config, model=CONFIG.model) == CONFIG
    assert opened.config.model == CONFIG.model
    assert runs_in(run.folder.parent) == [run.folder]
    model = opened.load_model()
    assert not model.training
    encoded = opened.transform.transform(made_up())
    probabilities = predict(model, encoded)
    assert probabilities.shape == (3000,)
    assert probabilities.min() > 0
    assert probabilities.max() < 1
    np.testing.assert_allclose(predict(model, encoded, batch_rows=7), probabilities, rtol=1e-5)
    assert probabilities.mean() == pytest.approx(made_up().numbers("click").mean(), abs=0.05)


def test_internals_are_recorded(run):
    steps = run.steps().to_pandas()
    measured = {"activation_absolute_mean", "activation_deviation", "activation_high", "activation_low", "activation_mean", "activation_median",
                "activation_zero_share", "batch_rows", "fluctuation/held_out", "fluctuation/train", "fluctuation_ratio", "gradient_norm", "gradient_square",
                "gradient_variance", "layer_auc/held_out", "layer_auc/train", "nonfinite", "touched_rows", "update_ratio", "weight_norm"}
    figures = {"auc/test", "auc/train", "auc/validation", "learning_rate", "loss/test", "loss/train", "loss/validation"}
    assert set(steps["series"]) >= measured | figures
    assert set(steps["series"]) - measured - figures <= {"dead_share", "support_rows", "effective_rank_share", "noise_scale"}
    assert {"mlp.0", "mlp.1", "vectors.table", "(output)"} <= set(steps["place"])
    validation = steps[steps["series"] == "auc/validation"]
    assert validation["epoch"].tolist() == [1, 2, 3]
    assert validation["value"].tolist() == [figures["validation_auc"] for figures in run.epochs]
    assert run.histograms().num_rows > 0


# ---------------------------------------------------------------------- repeating


def test_the_same_seed_gives_the_same_run_and_another_does_not(run, tmp_path):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = train(made_up(), SCHEMA, CONFIG, tmp_path / "again")
    assert torch.equal(before, torch.get_rng_state())  # the caller's random numbers are left alone
    assert_same_run(run, again)
    other = train(made_up(), SCHEMA, replace(CONFIG, seed=1), tmp_path / "other")
    assert any(not torch.equal(one, two) for one, two in zip(weights(run).values(), weights(other).values(), strict=True))


def test_observing_changes_nothing(run, tmp_path):
    blind = train(made_up(), SCHEMA, replace(CONFIG, observe_every=0, histograms_every=0), tmp_path / "blind")
    assert_same_weights(run, blind)
    assert set(blind.steps()["series"].to_pylist()) == {
        "auc/test", "auc/train", "auc/validation", "loss/test", "loss/validation", "learning_rate"}


def test_a_source_and_three_tables_give_the_same_as_one_table(run, tmp_path):
    batch = made_up()
    columns = {name: batch[name] for name in ("user", "price", "hour", "time", "click")}
    columns |= {name: batch.categories(name).decode().tolist() for name in ("item", "tags")}
    from_source = train(read(columns), SCHEMA, CONFIG, tmp_path / "source")
    assert_same_weights(run, from_source)
    assert from_source.record["data_fingerprint"] == run.record["data_fingerprint"]
    cuts = [run.record["split"]["rows"][part] for part in ("train", "validation", "test")]
    ends = np.cumsum([0, *cuts])
    parts = tuple(batch.take(slice(start, stop)) for start, stop in itertools.pairwise(ends))
    from_parts = train(parts, SCHEMA, CONFIG, tmp_path / "parts")
    assert_same_weights(run, from_parts)
    assert from_parts.record["split"] == {"kind": "given", "rows": run.record["split"]["rows"]}


@pytest.mark.parametrize("change", [
    {"table_optimiser": "sparse_adam"}, {"clip_norm": 0.5}, {"embedding_l2": 0.01, "dense_l2": 0.01}, {"split": "random"},
    {"precision": "bf16-mixed"}, {"select_by": "loss"}, {"model": ModelConfig(name="mlp", embedding_width=4, hidden=(8,))},
])
def test_other_settings_learn_too(change, tmp_path):
    found = train(made_up(), SCHEMA, replace(CONFIG, **change), tmp_path / "run")
    assert found.epochs[found.best_epoch - 1]["test_auc"] > 0.7
    assert found.status == "finished"


# ---------------------------------------------------------------------- graded labels


def test_a_graded_label_is_predicted_in_its_unit(tmp_path):
    schema = replace(SCHEMA, labels=(Label(name="rating", kind="graded"),))
    found = train(made_up(), schema, CONFIG, tmp_path / "graded")
    deviation = made_up().numbers("rating").std()
    last = found.epochs[-1]
    assert "test_auc" not in last
    assert last["test_rmse"] < 0.6 * deviation
    assert last["test_loss"] == pytest.approx(last["test_rmse"] ** 2)
    assert found.best_epoch == min(found.epochs, key=lambda figures: figures["validation_loss"])["epoch"]
    values = predict(found.load_model(), found.transform.transform(made_up()))
    assert values.mean() == pytest.approx(made_up().numbers("rating").mean(), abs=0.2)
    assert np.corrcoef(values, made_up().numbers("rating"))[0, 1] > 0.8


# ---------------------------------------------------------------------- stopping and going on


def test_early_stopping_keeps_the_best_epoch(tmp_path):
    found = train(made_up(400), SCHEMA, replace(CONFIG, maximum_epochs=30, patience_epochs=2, learning_rate=0.05), tmp_path / "run")
    values = [figures["validation_auc"] for figures in found.epochs]
    assert len(values) < 30
    assert found.best_epoch == len(values) - 2
    assert values[found.best_epoch - 1] == max(values)
    assert found.record["reason"] == "no better validation_auc for 2 epochs"


class StopError(Exception):
    """Raised in the middle of an epoch."""


def stopping_at(epoch: int, step: int, error: type[BaseException]):
    def tell(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (epoch, step):
            raise error

    return tell


@pytest.mark.parametrize("change", [{}, {"table_optimiser": "sparse_adam"}])
@pytest.mark.parametrize(("epoch", "step"), [(1, 4), (2, 1), (3, 9)])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, change, epoch, step):
    config = replace(CONFIG, **change)
    whole = train(made_up(), SCHEMA, config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(made_up(), SCHEMA, config, tmp_path / "stopped", progress=stopping_at(epoch, step, KeyboardInterrupt))
    stopped = Run.open(tmp_path / "stopped")
    assert (stopped.status, stopped.record["epochs_done"]) == ("interrupted", epoch - 1)
    assert_same_run(whole, resume(tmp_path / "stopped", made_up()))
    assert resume(tmp_path / "stopped", made_up()).record == Run.open(tmp_path / "stopped").record  # nothing more to do


def test_a_kill_between_two_writes_of_an_epoch_loses_nothing(tmp_path, monkeypatch):
    whole = train(made_up(), SCHEMA, CONFIG, tmp_path / "whole")
    for target in ("recspect.training.loop.save_state", "recspect.training.loop._noted", "recspect.training.state.write_json"):
        folder = tmp_path / target.rsplit(".", 1)[1]
        calls = []

        def stop(*arguments, target=target, calls=calls, real=None, **more):
            calls.append(target)
            if len(calls) == 2:
                raise StopError
            return real(*arguments, **more)

        module, name = target.rsplit(".", 1)
        real = getattr(sys.modules[module], name)
        with monkeypatch.context() as patch:
            patch.setattr(target, lambda *a, stop=stop, real=real, **k: stop(*a, real=real, **k))
            with pytest.raises(StopError):
                train(made_up(), SCHEMA, CONFIG, folder)
        assert_same_run(whole, resume(folder, made_up()))


def test_a_killed_process_leaves_a_run_that_goes_on_bit_for_bit(run, tmp_path):
    folder = killed_training("import test_training_runs as here; here.train(here.made_up(), here.SCHEMA, here.CONFIG, folder, progress=tell)", tmp_path / "killed")
    killed = Run.open(folder)
    assert (killed.status, killed.record["epochs_done"]) == ("running", 1)
    killed.load_model(1)
    assert_same_run(run, resume(folder, made_up()))


def test_other_data_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(made_up(), SCHEMA, CONFIG, tmp_path / "run", progress=stopping_at(1, 1, KeyboardInterrupt))
    with pytest.raises(RunError, match="was trained on other data"):
        resume(tmp_path / "run", made_up(seed=5))
    assert Run.open(tmp_path / "run").status == "interrupted"


@pytest.mark.parametrize("observe_every", [0, 1])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, observe_every):
    config = replace(CONFIG, learning_rate=1e30, observe_every=observe_every)
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step \d+ \(epoch 1\)") as error:
        train(made_up(), SCHEMA, config, tmp_path / "run")
    assert "learning rates" in error.value.hint
    stopped = Run.open(tmp_path / "run")
    assert stopped.status == "interrupted"
    assert "the loss is" in stopped.record["reason"]
    assert not (stopped.folder / "checkpoints").exists()


# ---------------------------------------------------------------------- what cannot be trained, read or found


@pytest.mark.parametrize(("change", "message"), [
    ({"click": np.ones(3000)}, "is 1 in all"), ({"click": np.full(3000, np.nan)}, "missing or not finite"),
    ({"click": np.arange(3000) % 3}, "holds 2, expected 0 and 1"), ({"price": made_up()["item"]}, "expected numbers"),
])
def test_bad_tables_leave_nothing(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        train(made_up().with_columns(change), SCHEMA, CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_column_is_named(tmp_path):
    batch = made_up().select(["user", "click", "time"])
    with pytest.raises(DataError, match="no column 'item'"):
        train(batch, SCHEMA, CONFIG, tmp_path / "run")
    with pytest.raises(DataError, match="item"):
        train(read({"user": [1], "click": [0], "time": [0]}), SCHEMA, CONFIG, tmp_path / "run")


def test_validation_rows_of_one_class_are_selected_by_loss(tmp_path):
    batch = made_up()
    click = batch.numbers("click").copy()
    click[2280:2400] = 0
    found = train(batch.with_columns({"click": click}), SCHEMA, CONFIG, tmp_path / "run")
    assert found.epochs[0]["validation_auc"] is None
    assert found.best_epoch == min(found.epochs, key=lambda figures: figures["validation_loss"])["epoch"]


def test_a_folder_with_a_run_is_not_overwritten(run):
    before = (run.folder / "run.json").read_bytes()
    with pytest.raises(RunError, match="already holds a run"):
        train(made_up(), SCHEMA, CONFIG, run.folder)
    assert (run.folder / "run.json").read_bytes() == before


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(RunError, match="no run directory at"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"no run\.json in"):
        Run.open(tmp_path)
    for content, message in (("{", "damaged"), ("[]", "damaged"), ('{"format": "other"}', "not the record of a run"),
                             ('{"format": "recspect-run", "version": 2}', "version 2, this recspect reads up to 1"),
                             ('{"format": "recspect-run", "version": 1}', "it lacks")):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(RunError, match=message):
            Run.open(tmp_path)


def test_damaged_parts_of_a_run(run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    copy = Run.open(folder)
    for path, read_it in ((folder / "checkpoints" / "epoch-001.safetensors", lambda: copy.load_model(1)),
                          (folder / "steps.parquet", copy.steps), (folder / "features.json", lambda: copy.transform)):
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(RunError, match="damaged"):
            read_it()
    (folder / "checkpoints" / "epoch-002.safetensors").unlink()
    with pytest.raises(RunError, match="no checkpoint"):
        copy.load_model(2)
    for epoch in (0, 4, "first"):
        with pytest.raises(RunError, match="has no epoch"):
            copy.load_model(epoch)


def test_new_folders_are_named_after_time_and_data(tmp_path):
    folder = new_folder(tmp_path, "my data/set.parquet")
    assert folder.name.endswith("-my-data-set.parquet")
    folder.mkdir()
    assert new_folder(tmp_path, "my data/set.parquet") != folder
