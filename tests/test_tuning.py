"""Searches over settings: spaces that models take, searches that go on as if they had not been stopped, a winner judged once on rows that chose nothing."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

pytest.importorskip("optuna", reason="the extra `tune` is not installed")

from commanding import command
from recspect.cli import app
from recspect.diagnosis.evidence import Curve, RankedTable, Scatter
from recspect.diagnosis.finding import Report
from recspect.errors import RunError, UsageError
from recspect.models import MODELS, ModelConfig
from recspect.models.building import require_buildable
from recspect.models.spaces import SPACES, Choice, as_setting, as_value, space_of
from recspect.models.storage import Storage
from recspect.schema import Field, Kind, Label, Schema
from recspect.training.config import TrainingConfig
from recspect.training.files import read_json, write_json
from recspect.training.metrics import auc
from recspect.training.predict import predict
from recspect.training.rows import Tables
from recspect.training.run import Run
from recspect.training.settings_file import read_settings, to_toml, write_settings
from recspect.tuning.judging import judge, trials_of, winner_of
from recspect.tuning.objectives import chosen
from recspect.tuning.searching import Budget, search
from recspect.tuning.settings import values_of, with_values
from recspect.tuning.tuning import NOTE, SETTINGS, STUDY, Tuning
from recspect.tuning.writing import write
from recspect.worlds import World

WORLD = World(users=60, items=40, rows=1500, signal=1.5, seed=2)
BASE = TrainingConfig(model=ModelConfig(name="fm"), maximum_epochs=3, validation_share=0.2, observe_every=0, histograms_every=0, device="cpu")


def begun(folder, *objectives, base=BASE, schema=WORLD.schema):
    table = WORLD.exposures()
    tables = Tables.cut(table, schema, base)
    return Tuning.create(folder, schema=schema, base=base, objectives=objectives, data={"kind": "memory"}, data_fingerprint=tables.fingerprint), table, tables


def outcome(tuning):
    return [(one.number, one.state, one.values, one.settings, one.epochs) for one in trials_of(tuning)]


# ------------------------------------------------------------------ spaces and settings


def test_every_model_has_a_space_with_its_defaults_inside():
    assert set(SPACES) == set(MODELS)
    for name, space in SPACES.items():
        base = TrainingConfig(model=ModelConfig(name=name))
        values = values_of(base, space)
        assert with_values(base, values) == base
        for dimension in space:
            value = values[dimension.name]
            assert value in dimension.options if isinstance(dimension, Choice) else dimension.low <= value <= dimension.high, (name, dimension.name)
    with pytest.raises(UsageError, match="no model named"):
        space_of("bert")


@pytest.mark.parametrize("name", sorted(SPACES))
def test_whatever_a_space_offers_can_be_built_and_written(name, tmp_path):
    draw = np.random.default_rng(0)
    sizes = sizes_of_all_kinds()
    for _ in range(10):
        values = {dimension.name: draw.choice(np.array(dimension.options, object)) if isinstance(dimension, Choice)
                  else type(dimension.low)(draw.uniform(dimension.low, dimension.high)) for dimension in SPACES[name]}
        config = with_values(TrainingConfig(model=ModelConfig(name=name)), values)
        require_buildable(config.model, sizes)
        write_settings(tmp_path / "settings.toml", config, comment="two\nlines")
        assert read_settings(tmp_path / "settings.toml") == config
        assert values_of(config, SPACES[name]) == values


def sizes_of_all_kinds():
    from recspect.features import InputSize

    return [InputSize(name="item", form="id", rows=20), InputSize(name="past", form="ids", rows=20, width=3, shares="item"), InputSize(name="age", form="numbers", width=2)]


def test_sizes_of_layers_are_texts_in_a_space():
    assert as_setting("model.hidden", "256-128") == (256, 128)
    assert as_value("model.hidden", (256, 128)) == "256-128"
    assert as_setting("model.dropout", 0.25) == 0.25


@pytest.mark.parametrize(("text", "what"), [
    ("[training]\nlearning_rte = 1", "learning_rte"), ("[training]\nlearning_rate = 0.0", "learning_rate"), ("[modle]\nname = 'fm'", "modle"), ("training = 3", "expected a table"),
    ("[model]\nname = 'dcnv2'\n[model.own]\nlayerz = 2", "layerz"), ("[model]\nhidden = [0]", "hidden"), ("[training]\nlearning_rate = 'fast'", "settings.toml"), ("[training", "no TOML"),
])
def test_a_file_of_settings_that_makes_no_sense_is_refused(tmp_path, text, what):
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(UsageError, match=what):
        read_settings(tmp_path / "settings.toml")


def test_a_file_of_settings_keeps_what_it_does_not_name(tmp_path):
    (tmp_path / "settings.toml").write_text("[model]\nname = 'dcnv2'\n[model.own]\nlayers = 2\n")
    found = read_settings(tmp_path / "settings.toml", replace(TrainingConfig(), seed=7, batch_rows=99))
    assert found.model.name == "dcnv2"
    assert found.model.own.layers == 2
    assert (found.seed, found.batch_rows, found.model.embedding_width) == (7, 99, 16)
    with pytest.raises(UsageError, match="cannot read"):
        read_settings(tmp_path / "none.toml")
    assert "[model.own]" not in to_toml(TrainingConfig())


def test_objectives_are_named_once_and_one_is_how_well_it_does():
    schema = WORLD.schema
    assert [one.name for one in chosen((), schema)] == ["auc"]
    assert [one.name for one in chosen(("bytes", "auc"), schema)] == ["auc", "bytes"]
    for wrong in (("speed",), ("auc", "auc"), ("bytes",), ("auc", "loss")):
        with pytest.raises(UsageError):
            chosen(wrong, schema)
    graded = Schema(labels=[Label(name="stars", kind="graded")], fields=[Field(name="age", kind=Kind.NUMERIC)])
    assert [one.name for one in chosen((), graded)] == ["loss"]
    with pytest.raises(UsageError, match="binary"):
        chosen(("auc",), graded)


# ------------------------------------------------------------------ searching


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of six trials that nothing interrupted."""
    tuning, table, tables = begun(tmp_path_factory.mktemp("tuning") / "whole")
    return search(tuning, table, tables, Budget(trials=6)), table, tables


def test_the_first_trial_has_the_default_settings_and_values_are_those_of_its_run(searched):
    tuning, _, _ = searched
    trials = trials_of(tuning)
    assert [one.number for one in trials] == list(range(6))
    assert trials[0].settings == values_of(BASE, SPACES["fm"])
    for one in trials:
        run = Run.open(tuning.run_folder(one.number))
        assert with_values(BASE, one.settings) == run.config
        values = [epoch["validation_auc"] for epoch in run.epochs]
        if one.state == "finished":
            assert one.values[0] == max(values)
        else:
            assert one.state == "pruned"
            assert len(values) < BASE.maximum_epochs
        best_so_far = np.maximum.accumulate(values)
        assert all(one.epochs[epoch] == best_so_far[epoch - 1] for epoch in one.epochs)


class Stopped(BaseException):
    """As a kill would."""


@pytest.mark.parametrize("every", [2, 5])
def test_a_search_that_is_stopped_again_and_again_makes_the_same_trials(searched, tmp_path, every):
    """Stopped in the midst of epochs and between them; a trial that has finished is not touched again."""
    whole, _, _ = searched
    tuning, table, tables = begun(tmp_path / "stopped")
    steps = sittings = 0
    finished = {}

    def step(_at):
        nonlocal steps
        steps += 1
        if steps % every == 0:
            raise Stopped

    while True:
        sittings += 1
        assert sittings < 100
        try:
            tuning = search(Tuning.open(tmp_path / "stopped"), table, tables, Budget(trials=6), progress=step if sittings < 8 else None)
            break
        except Stopped:
            finished |= {one.number: (tuning.run_folder(one.number) / "run.json").read_bytes() for one in trials_of(tuning) if one.state != "running" and one.number not in finished}
    assert sittings >= 4
    assert finished
    assert outcome(tuning) == outcome(whole)
    assert finished == {number: (tuning.run_folder(number) / "run.json").read_bytes() for number in finished}


def test_a_finished_search_trains_nothing_more_and_a_larger_budget_goes_on(searched):
    tuning, table, tables = searched

    def never(_at):
        raise AssertionError

    assert outcome(search(tuning, table, tables, Budget(trials=6), progress=never)) == outcome(tuning)
    said = []
    search(tuning, table, tables, Budget(trials=7, minutes=1e-9), say=said.append, progress=never)
    assert "minutes are spent after 6 trials" in said[0]


def test_minutes_end_a_trial_that_goes_on_later(tmp_path, monkeypatch):
    """By a clock that goes on with every step."""
    now = [0.0]
    monkeypatch.setattr("recspect.tuning.searching.time.monotonic", lambda: now[0])
    tuning, table, tables = begun(tmp_path / "tuning")

    def step(_at):
        now[0] += 20.0

    said = []
    tuning = search(tuning, table, tables, Budget(trials=2, minutes=1), say=said.append, progress=step)
    assert "spent in trial" in said[-1]
    assert [one.state for one in trials_of(tuning)][-1] == "running"
    assert tuning.note["seconds"] == now[0]
    tuning = search(Tuning.open(tmp_path / "tuning"), table, tables, Budget(trials=2))
    assert len(trials_of(tuning)) == 2
    assert all(one.state != "running" for one in trials_of(tuning))
    with pytest.raises(UsageError, match="trials"):
        Budget(trials=0)
    with pytest.raises(UsageError, match="minutes"):
        Budget(minutes=0)


def test_hyperband_ends_trials_early_that_learn_nothing(tmp_path):
    """Of trials that differ in nothing but how fast they learn, the slowest is not trained to its end."""
    base = replace(BASE, model=ModelConfig(name="linear"), maximum_epochs=9, patience_epochs=9)
    tuning, table, tables = begun(tmp_path / "tuning", base=base)
    tuning = search(tuning, table, tables, Budget(trials=9))
    pruned = [one for one in trials_of(tuning) if one.state == "pruned"]
    finished = [one for one in trials_of(tuning) if one.state == "finished"]
    assert pruned
    assert np.median([one.values[0] for one in pruned]) < max(one.values[0] for one in finished)
    assert all(len(Run.open(tuning.run_folder(one.number)).epochs) < 9 for one in pruned)


def test_a_trial_whose_loss_is_not_finite_fails_and_the_search_goes_on(tmp_path, monkeypatch):
    from recspect.tuning import searching

    tuning, table, tables = begun(tmp_path / "tuning")
    suggested = searching.suggested
    monkeypatch.setattr(searching, "suggested", lambda trial, space: {**suggested(trial, space), **({"training.table_learning_rate": 1e30} if trial.number == 1 else {})})
    said = []
    tuning = search(tuning, table, tables, Budget(trials=3), say=said.append)
    assert [one.state for one in trials_of(tuning)][1] == "failed"
    assert "failed" in said[1]
    assert len(trials_of(tuning)) == 3


def test_several_objectives_have_a_front(tmp_path):
    tuning, table, tables = begun(tmp_path / "tuning", "bytes", "auc")
    tuning = search(tuning, table, tables, Budget(trials=4))
    trials = trials_of(tuning)
    assert all(one.state == "finished" for one in trials)
    for one in trials:
        better = [other for other in trials if other.values[0] >= one.values[0] and other.values[1] <= one.values[1] and other.values != one.values]
        assert one.front == (not better)
        model = Run.open(tuning.run_folder(one.number)).load_model()
        assert one.values[1] == sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    report = write(tuning, tables)
    assert any(isinstance(one, Scatter) and one.x == tuple(trial.values[1] for trial in trials) for one in report.overview)
    front = sorted((one.values[1], one.values[0]) for one in trials if one.front)
    if len(front) > 1:
        (line,) = next(one.lines for one in report.overview if isinstance(one, Curve) and one.title.startswith("Which trials are best"))
        assert list(zip(line.x, line.y, strict=True)) == front


# ------------------------------------------------------------------ the winner


def test_the_winner_is_judged_on_test_rows_and_its_settings_train_it_again(searched, tmp_path):
    tuning, _, tables = searched
    report = write(tuning, tables)
    tuning = Tuning.open(tuning.folder)
    trials = trials_of(tuning)
    best = winner_of(tuning, trials)
    assert best.values[0] == max(one.values[0] for one in trials if one.state == "finished")
    assert read_settings(tuning.folder / SETTINGS) == replace(with_values(BASE, best.settings), **{name: getattr(TrainingConfig(), name) for name in ("validation_share", "observe_every", "histograms_every", "device")})
    twin = Report.read(tuning.folder / "findings.json")
    assert twin == Report.from_mapping(json.loads(report.to_json()))
    assert any(isinstance(one, RankedTable) and len(one.rows) == 6 for one in twin.overview)
    if best.number == 0:
        pytest.skip("the default settings won")
    _, verdict = judge(tuning, trials, tables)
    label = tables.test.numbers("click")
    runs = [Run.open(tuning.run_folder(number)) for number in (best.number, 0)]
    values = [auc(label, predict(run.load_model(), run.transform.transform(tables.test))) for run in runs]
    assert verdict.gain.value == pytest.approx(values[0] - values[1], abs=1e-9)
    assert verdict.quality == pytest.approx(tuple(values), abs=1e-9)
    assert verdict.gain.low < verdict.gain.value < verdict.gain.high


def test_every_further_winner_widens_the_intervals(searched):
    tuning, _, tables = searched
    trials = trials_of(tuning)
    best = winner_of(tuning, trials)
    if best.number == 0:
        pytest.skip("the default settings won")
    once, first = judge(Tuning(tuning.folder, {**tuning.note, "judgements": []}), trials, tables)
    again, same = judge(once, trials, tables)
    assert once.note["judgements"] == again.note["judgements"] == [best.number]
    assert same == first
    _, second = judge(Tuning(tuning.folder, {**tuning.note, "judgements": [99]}), trials, tables)
    assert second.times == 2
    assert second.gain.error > first.gain.error
    once.updated(judgements=[best.number])


def test_a_graded_label_is_judged_by_its_squared_error(tmp_path):
    draw = np.random.default_rng(0)
    user = draw.integers(0, 60, 1500)
    table = pl.DataFrame({"user": user, "age": draw.normal(0, 1, 1500), "stars": draw.normal(0, 1, 60)[user] + draw.normal(0, 0.5, 1500)})
    schema = Schema(user="user", labels=[Label(name="stars", kind="graded")], fields=[Field(name="user"), Field(name="age", kind=Kind.NUMERIC)])
    tables = Tables.cut(read_of(table), schema, BASE)
    tuning = Tuning.create(tmp_path / "tuning", schema=schema, base=BASE, objectives=(), data={"kind": "memory"}, data_fingerprint=tables.fingerprint)
    tuning = search(tuning, read_of(table), tables, Budget(trials=4))
    trials = trials_of(tuning)
    assert winner_of(tuning, trials).values[0] == min(one.values[0] for one in trials if one.state == "finished")
    write(tuning, tables)
    _, verdict = judge(tuning, trials, tables)
    if verdict is not None:
        assert verdict.gain.unit == "squared error"
        assert verdict.gain.value == pytest.approx(verdict.quality[1] ** 2 - verdict.quality[0] ** 2, rel=1e-6)


def read_of(table):
    from recspect.diagnosis.source import read

    return read(table)


# ------------------------------------------------------------------ the commands


def test_tune_resume_and_train_with_the_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({name: WORLD.exposures()[name] if not hasattr(WORLD.exposures()[name], "codes") else WORLD.exposures()[name].values[WORLD.exposures()[name].codes] for name in WORLD.exposures()}).write_parquet("log.parquet")
    (tmp_path / "schema.toml").write_text(WORLD.schema.to_toml())
    words = ["tune", "log.parquet", "--schema", "schema.toml", "--model", "linear", "--epochs", 1, "--out", "search"]
    assert command(app, *words, "--trials", 1).exit_code == 0
    done = command(app, "tune", "--resume", "search", "--trials", 2)
    assert done.exit_code == 0
    assert "2 trials" in done.stdout
    assert len(trials_of(Tuning.open("search"))) == 2
    with pytest.raises(RunError, match="already holds a search"):
        command(app, *words)
    with pytest.raises(UsageError, match="already"):
        command(app, "tune", "log.parquet", "--resume", "search")
    with pytest.raises(RunError, match="no search"):
        command(app, "tune", "--resume", "elsewhere")
    with pytest.raises(UsageError, match="speed"):
        command(app, "tune", "log.parquet", "--schema", "schema.toml", "--objective", "speed", "--out", "other")
    done = command(app, "train", "log.parquet", "--schema", "schema.toml", "--settings", f"search/{SETTINGS}", "--run-dir", "run", "--seed", 3)
    assert done.exit_code == 0
    best = winner_of(Tuning.open("search"), trials_of(Tuning.open("search")))
    run = Run.open("run")
    assert run.config.model == with_values(replace(BASE, model=ModelConfig(name="linear")), best.settings).model
    assert (run.config.maximum_epochs, run.config.seed, run.config.learning_rate) == (1, 3, best.settings["training.learning_rate"])
    with pytest.raises(UsageError, match="asked for 'fm'"):
        command(app, "train", "log.parquet", "--schema", "schema.toml", "--settings", f"search/{SETTINGS}", "--model", "fm", "--run-dir", "none")
    pl.read_parquet("log.parquet").head(1000).write_parquet("log.parquet")
    with pytest.raises(UsageError, match="other data"):
        command(app, "tune", "--resume", "search", "--trials", 3)


def test_a_damaged_search_is_told(tmp_path):
    tuning, _, _ = begun(tmp_path / "tuning")
    (tmp_path / "tuning" / STUDY).write_bytes(b"no database" * 100)
    with pytest.raises(RunError, match="damaged"):
        trials_of(tuning)
    write_json(tmp_path / "tuning" / NOTE, {**read_json(tmp_path / "tuning" / NOTE), "objectives": 3})
    with pytest.raises(RunError, match="damaged: objectives"):
        Tuning.open(tmp_path / "tuning")
    with pytest.raises(RunError, match="storage"):
        Storage.from_mapping({"bits": 3}, where="run.json")
