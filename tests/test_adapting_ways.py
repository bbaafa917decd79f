"""Ways to a metric side by side: each is what its own function gives, judged by one covariance; scenes; a surrogate index from users; what cannot be had is said."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from recspect.adapting.alternatives import largest_z
from recspect.adapting.commands import metrics_app
from recspect.adapting.fitting import fit_metric
from recspect.adapting.metric_file import MetricFile
from recspect.adapting.ways import told, ways
from recspect.adapting.weights import cosine
from recspect.errors import DataError
from recspect.experimenting.experiment import Corpus
from recspect.experimenting.tables import write_experiments
from recspect.worlds.experiments import BELIEFS, PILOT

DECLARED = 'name = "pilot"\n[north_star]\nname = "north_star"\n[decision]\nprior_experiments = 40\n' + "".join(f"[metrics.metric_{k + 1}]\nbelief = {belief}\n" for k, belief in enumerate(BELIEFS))


@pytest.fixture(scope="module")
def declared(tmp_path_factory):
    path = tmp_path_factory.mktemp("metrics") / "m.toml"
    path.write_text(DECLARED)
    return path, MetricFile.read(path)


def in_scenes(corpus, *names):
    """The experiments dealt out to scenes in turn."""
    return Corpus(tuple(replace(one, scene=names[place % len(names)]) for place, one in enumerate(corpus)))


def test_each_way_is_what_its_function_gives_and_the_learnt_one_has_the_best_quality(declared):
    _, file = declared
    corpus, _ = PILOT.draw(150, seed=1)
    found = ways(corpus, file)
    by_name = {way.name: way for way in found.ways}
    fitted = fit_metric(corpus, file)
    assert by_name["learnt"].quality == pytest.approx(fitted.quality, abs=1e-9)
    z = corpus.effects[:, 0] / np.sqrt(corpus.noise[:, 0, 0])
    signs = np.where(np.abs(z) >= 1.96, np.sign(z), 0)
    assert found.known == (int((signs != 0).sum()), 150)
    scale = np.sqrt(np.diag(fitted.noise))
    theirs = np.array([by_name["largest z"].weights.get(name, 0.0) for name in file.names])
    assert cosine(theirs, largest_z(corpus, signs) * scale) == pytest.approx(1.0, abs=1e-6)
    front = [way for way in found.ways if way.name.startswith("front")]
    assert len(front) > 2
    assert [way.alignment for way in front] == sorted((way.alignment for way in front), reverse=True)
    assert [way.sensitivity for way in front] == sorted(way.sensitivity for way in front)
    assert all(way.quality <= by_name["learnt"].quality + 0.02 for way in front)  # five metrics at most are learnt, the front takes all
    assert by_name["north star alone"].alignment == pytest.approx(1.0)
    assert by_name["north star alone"].quality < by_name["learnt"].quality
    assert all(any(way.name in line for line in told(found)) for way in found.ways)


def test_scenes_are_pooled_and_judged_by_each_other(declared):
    _, file = declared
    corpus = in_scenes(PILOT.draw(120, seed=2)[0], "home", "search", "mail")
    found = ways(corpus, file)
    assert {name: scene.experiments for name, scene in found.scenes.items()} == {"home": 40, "search": 40, "mail": 40}
    assert found.differ.scenes == 3
    assert all(0 < scene.quality <= 1 and scene.of_others > 0.3 for scene in found.scenes.values())  # scenes of one world: what the others learnt serves here
    assert sum("scene '" in line for line in told(found)) == 3
    assert ways(PILOT.draw(30, seed=2)[0], file).scenes == {}


def test_what_cannot_be_had_is_said(declared):
    _, file = declared
    quiet = Corpus(tuple(replace(one, effects=one.effects * 0.01) for one in PILOT.draw(60, seed=3)[0]))
    found = ways(quiet, file)
    assert set(found.left_out) == {"largest z", "learnt log-p"}
    assert found.known[0] < 5
    assert "not to be had" in " ".join(told(found))


def test_a_surrogate_index_of_users(declared, tmp_path):
    path, file = declared
    rng = np.random.default_rng(0)
    short = rng.normal(size=(5000, 8))
    pl.DataFrame({"north_star": short @ np.array([0.5, 0.2, 0, 0, 0, 0, 0, -0.3]) + rng.normal(size=5000), **{f"metric_{k + 1}": short[:, k] for k in range(8)}}).write_parquet(tmp_path / "users.parquet")
    corpus, _ = PILOT.draw(60, seed=4)
    index = ways(corpus, file, users=tmp_path / "users.parquet").surrogate
    np.testing.assert_allclose(index.weights, [0.5, 0.2, 0, 0, 0, 0, 0, -0.3], atol=0.06)
    assert index.r_squared == pytest.approx(0.38 / 1.38, abs=0.03)
    write_experiments(in_scenes(corpus, "home", "search")).write_parquet(tmp_path / "past.parquet")
    words = ["alternatives", str(path), "--experiments", str(tmp_path / "past.parquet"), "--users", str(tmp_path / "users.parquet")]
    done = CliRunner().invoke(metrics_app, [*words, "--format", "json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["surrogate"]["weights"]["metric_1"] == pytest.approx(float(index.weights[0]))
    assert set(found["scenes"]) == {"home", "search"}
    text = CliRunner().invoke(metrics_app, words)
    assert "surrogate index of 5,000 users: explains 2" in text.stdout
    pl.DataFrame({"north_star": [1.0]}).write_parquet(tmp_path / "few.parquet")
    with pytest.raises(DataError, match="metric_1"):
        ways(corpus, file, users=tmp_path / "few.parquet")
