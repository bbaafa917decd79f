"""What judges find and do not find on real tables, by the commands that a user types.

Held elsewhere: the statistics of items in KuaiRand-Pure and that nothing FAILs without them, and `duration` of UCI Bank, by their diagnostic (`test_diagnostics_data`); `duration` by the
commands (`test_datasets_end_to_end`); one in seven headline tests of Upworthy, and the policies of Open Bandit, by their diagnostics (`test_diagnostics_experiments`).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from recspect.diagnosis.finding import Report, Verdict
from recspect.schema import Label, Schema

pytestmark = pytest.mark.data


def recspect(*arguments):
    return subprocess.run([sys.executable, "-m", "recspect.cli", *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False)


def table_of(folder, name):
    file = Path(os.environ.get("RECSPECT_DATA_HOME", "nowhere"), folder, f"{name}.parquet")
    if not file.is_file():
        pytest.skip(f"{folder} is not on this machine (set RECSPECT_DATA_HOME)")
    return pl.read_parquet(file)


def diagnosed(folder, table, schema):
    """Exit code and report of a table without scores."""
    table.write_parquet(folder / "log.parquet")
    (folder / "schema.toml").write_text(schema.to_toml(), encoding="utf-8")
    done = recspect("diagnose", folder / "log.parquet", "--schema", folder / "schema.toml", "--format", "json")
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, Report.from_mapping(json.loads(done.stdout))


def failing(report):
    return {finding.code for finding in report.findings if finding.verdict is Verdict.FAIL}


# ---------------------------------------------------------------------- logs without scores


@pytest.mark.parametrize(("test", "equal"), [("52af567999f9bdaee60003ca", False), ("5435c74ffc61e2154300006b", True)])
def test_a_headline_test_whose_arms_are_not_equal_is_refused(test, equal, tmp_path):
    """Of Upworthy: 8,460, 6,659, 7,088 and 6,250 impressions of four headlines dealt out at random, and eight of about 4,080."""
    arms = table_of("upworthy", "packages").filter(pl.col("clickability_test_id") == test).with_row_index("arm")
    exit_code, report = diagnosed(tmp_path, arms, Schema(arm="arm", weight="impressions"))
    assert (exit_code, failing(report)) == ((0, set()) if equal else (1, {"data.sample_ratio"}))
    if not equal:
        (finding,) = [finding for finding in report.findings if finding.code == "data.sample_ratio"]
        assert finding.estimate.value == pytest.approx(8460 / (28_457 / 4), rel=1e-3)
        assert report.causes[0].code == "sample_ratio_mismatch"


@pytest.mark.parametrize(("policy", "supports"), [("bts_all", False), ("random_all", True)])
def test_a_bandit_log_that_cannot_speak_for_another_policy_is_refused(policy, supports, tmp_path):
    schema = Schema(item="item_id", propensity="propensity_score", position="position", labels=[Label(name="click")])
    exit_code, report = diagnosed(tmp_path, table_of("obd", policy).select(schema.columns), schema)
    assert ("recommendations.policy_support" in failing(report)) != supports
    assert exit_code == bool(failing(report))


# ---------------------------------------------------------------------- early-stopped models on time splits


def trained_and_diagnosed(name, folder, real_data):
    real_data(name)
    trained = recspect("train", "--dataset", name, "--run-dir", folder / "run")
    assert trained.returncode == 0, trained.stderr
    done = recspect("diagnose", folder / "run")
    assert done.returncode in (0, 1), done.stderr
    return json.loads((folder / "run" / "run.json").read_text()), done.returncode, Report.read(folder / "run" / "findings.json")


@pytest.mark.slow
def test_an_early_stopped_model_of_film_ratings_has_no_fail(real_data, tmp_path):
    """Split by time over twenty years: newer people rate newer films, and 94.6% of the held-out ratings are of people whom training never saw."""
    run, exit_code, report = trained_and_diagnosed("movielens-latest-small", tmp_path, real_data)
    assert run["split"]["kind"] == "time"
    assert run["best_epoch"] < len(run["metrics"]["epochs"])  # it stopped by itself
    assert (exit_code, failing(report)) == (0, set())
    (year,) = [finding for finding in report.findings if (finding.code, finding.place.name) == ("data.drift", "release_year")]
    assert year.verdict is Verdict.WARN
    assert year.estimate.low > 0.25  # of a size that FAILs
    assert "it moves as much anyhow" in year.claim


@pytest.mark.slow
def test_three_epochs_of_short_videos_memorise_and_the_first_has_no_fail(real_data, tmp_path):
    """KuaiRand-Pure without the statistics of items: the best epoch is the first, which is kept, and the two after it show why."""
    run, exit_code, report = trained_and_diagnosed("kuairand-pure", tmp_path, real_data)
    assert run["split"]["kind"] == "time"
    epochs = run["metrics"]["epochs"]
    assert (run["best_epoch"], len(epochs)) == (1, 3)  # the first is best on validation rows too, and two more show the fall
    assert epochs[0]["test_auc"] >= 0.73
    assert epochs[0]["test_auc"] - epochs[2]["test_auc"] > 0.005
    assert epochs[2]["train_auc"] - epochs[0]["train_auc"] > 0.02
    assert (exit_code, failing(report)) == (0, set())
    (one_epoch,) = [finding for finding in report.findings if finding.code == "training.one_epoch"]
    assert one_epoch.verdict is Verdict.WARN  # the model of the first epoch does not suffer
    assert one_epoch.estimate.high < -0.002
    assert "memorises after epoch 1" in one_epoch.claim
    assert "memorisation" in {cause.code for cause in report.causes}
