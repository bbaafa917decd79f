"""A training on derived columns: from a table and a schema file to a run that is examined from its own data, as typed by a user."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch", reason="training needs torch")

SCHEMA = """
schema = 1
name = "derived"
time_unit = "s"

[roles]
user = "user"
item = "item"
time = "time"

[[labels]]
name = "click"

[fields]
user = { side = "user", kind = "categorical" }
item = { side = "item", kind = "categorical" }
clicked = { side = "user", kind = "sequence" }
rate = { side = "user", kind = "numeric" }
hour = "categorical"

[derived]
clicked = { kind = "last", by = "user", of = "kind", where = "click", length = 5 }
rate = { kind = "rate", by = ["user", "kind"], of = "click", prior = 0.3, prior_rows = 4 }
hour = { kind = "hour", time_zone = "Europe/Berlin" }
"""


def write_log(path, rows=6000):
    """Users click what they clicked before: only their history tells, for who they are changes with time."""
    random = np.random.default_rng(0)
    user, time = random.integers(0, 60, rows), np.sort(random.integers(0, 10**6, rows))
    item = random.integers(0, 40, rows)
    likes = (user + time // 250_000) % 4 == item % 4
    pq.write_table(pa.table({"user": user, "item": item, "kind": item % 4, "time": time, "click": (random.random(rows) < np.where(likes, .8, .1)).astype(int)}), path)


def recspect(*words, cwd):
    return subprocess.run([sys.executable, "-m", "recspect.cli", *words], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_a_run_on_derived_columns_is_trained_and_examined(tmp_path):
    write_log(tmp_path / "log.parquet")
    (tmp_path / "schema.toml").write_text(SCHEMA)
    done = recspect("train", "log.parquet", "--schema", "schema.toml", "--epochs", "2", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "run" / "features.json").read_text())["schema"]["derived"]
    assert kept["rate"] == {"kind": "rate", "by": ["user", "kind"], "of": "click", "prior": .3, "prior_rows": 4}
    done = recspect("doctor", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "clicked" in done.stdout
    done = recspect("diagnose", "run", "--format", "json", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    # What users click changes with time here, and so does the rate that is derived from it: an ordinary column for every diagnostic.
    drift = [finding["place"] for finding in json.loads(done.stdout)["findings"] if finding["code"] == "data.drift"]
    assert {"kind": "field", "name": "rate"} in drift


def test_a_table_without_what_derived_columns_read_is_refused_before_anything_is_written(tmp_path):
    write_log(tmp_path / "log.parquet", rows=100)
    (tmp_path / "schema.toml").write_text(SCHEMA.replace('of = "kind"', 'of = "genre"'))
    done = recspect("train", "log.parquet", "--schema", "schema.toml", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "'genre'" in done.stderr
    assert not (tmp_path / "run").exists()
