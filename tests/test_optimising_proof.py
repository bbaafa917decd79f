"""Optimisations as a whole: of a run that is killed, of one without minutes, of a training that recspect does not know, and from the command line."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from commanding import command
from recspect.diagnosis.batch import Categorical
from recspect.errors import RunError
from recspect.optimising.hook import optimise as optimise_yours
from recspect.optimising.proving import Terms
from recspect.schema import Field
from recspect.worlds import World, plant_label_copy

pytest.importorskip("torch", reason="trainings need torch")

from recspect.models import ModelConfig
from recspect.optimising.optimiser import Settings, optimise_recipe
from recspect.optimising.recipe import Recipe
from recspect.training.config import TrainingConfig
from training_kills import kill_when_there

TERMS = Terms(seeds=(0, 1), fewest=2)
"""Two pairs: that five are needed is another test's."""


def leaking():
    """Rows of three parts with a field that copies the label, and their schema."""
    from dataclasses import replace

    world = World(users=100, items=30, rows=6000, base_rate=0.3, seed=4)
    rows = plant_label_copy(world.exposures(), "click", agreement=0.95, seed=0)
    schema = replace(world.schema, fields=(*world.schema.fields, Field(name="leak")))
    return (rows.take(slice(0, 3400)), rows.take(slice(3400, 3600)), rows.take(slice(3600, 6000))), schema


def optimised(folder, **options):
    tables, schema = leaking()
    recipe = Recipe(schema=schema, config=TrainingConfig(model=ModelConfig(name="linear"), maximum_epochs=1, batch_rows=128, observe_every=5, histograms_every=0))
    settings = Settings(terms=TERMS, trials=1, finding="data.target_leak", sample_rows=500, minutes=options.pop("minutes", None))
    return optimise_recipe(recipe, tables, settings, folder=Path(folder), **options)


def finished(folder):
    """Folder of each finished training to when its record was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in Path(folder).glob("trainings/*/run.json") if json.loads(path.read_text())["status"] == "finished"}


@pytest.mark.slow
def test_a_killed_optimisation_goes_on_without_repeating_what_was_finished(tmp_path):
    folder, ready = tmp_path / "proof", tmp_path / "ready"
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from test_optimising_proof import finished, optimised
        def progress(at):
            if at.step == 5 and len(finished(sys.argv[2])) == 3:
                Path(sys.argv[3]).touch()
                time.sleep(120)
        optimised(sys.argv[2], progress=progress)
    """)
    process = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(folder), str(ready)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    kill_when_there(process, ready, seconds=1200)  # a machine that does much else
    before = finished(folder)
    assert len(before) == 3

    stopped = optimised(folder, minutes=1e-9)
    assert (stopped.status, stopped.trained) == ("stopped", 0)

    done = optimised(folder)
    assert done.status == "finished"
    assert done.trained == 3  # two without, two with, two with a placebo; three of them were finished, and the fourth goes on
    after = finished(folder)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    assert [trial.proposal.code for trial in done.accepted] == ["drop_leaking_field"]
    assert "leak" not in done.recipe.schema.field_names

    again = optimised(folder)
    assert again.trained == 0
    assert [trial.to_mapping() for trial in again.trials] == [trial.to_mapping() for trial in done.trials]
    assert len(json.loads((folder / "holdout.json").read_text())["uses"]) == 1
    content = json.loads((folder / "optimising.json").read_text())
    assert content["accepted"] == ["drop_leaking_field"]
    page = (folder / "report.html").read_text()
    assert "drop_leaking_field leak" in page
    assert "before" in page


def test_a_training_that_recspect_does_not_know(tmp_path):
    """A table of rates per value of a field, averaged in logits: the leak moves it most."""
    tables, schema = leaking()
    train, calls = tables[0], []

    def fit(remedies, seed):
        calls.append((tuple(one.code for one in remedies), seed))
        if any(one.code != "drop_leaking_field" for one in remedies):
            return None
        fields = [name for name in ("item", "surface", "leak") if name not in {one.place for one in remedies}]
        rng = np.random.default_rng(seed)
        rates = {}
        for name in fields:
            column: Categorical = train.categories(name)
            names = np.array([str(value) for value in column.values])[column.codes]
            rates[name] = {value: (train.numbers("click")[names == value].sum() + 0.3 + 0.01 * rng.random()) / ((names == value).sum() + 1) for value in np.unique(names)}

        def score(batch):
            logits = []
            for name in fields:
                column = batch.categories(name)
                p = np.array([rates[name].get(str(value), 0.3) for value in column.values])[column.codes]
                logits.append(np.log(p / (1 - p)))
            total = np.sum(logits, axis=0) - (len(fields) - 1) * np.log(0.3 / 0.7)
            return 1 / (1 + np.exp(-total))

        return score

    half = tables[2].rows // 2
    given = {"rows": train, "diagnosis": tables[2].take(slice(0, half)), "proof": tables[2].take(slice(half, tables[2].rows)), "schema": schema, "folder": tmp_path, "terms": TERMS,
             "finding": "data.target_leak", "trials": 1}
    trials = optimise_yours(fit, **given)
    assert [(trial.proposal.code, trial.accepted) for trial in trials] == [("drop_leaking_field", True)]
    assert len(calls) == len(set(calls)) == 6
    assert [trial.to_mapping() for trial in optimise_yours(fit, **given)] == [trial.to_mapping() for trial in trials]
    assert len(calls) == 6  # all were kept


def test_wrong_use_is_told(tmp_path):
    from recspect.cli import app

    with pytest.raises(RunError, match="no run directory"):
        command(app, "optimise", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no run\.json"):
        command(app, "optimise", tmp_path / "empty", "--seeds", "3")
