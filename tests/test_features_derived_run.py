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


SUBJECT = """
from recspect.examining.runs import subject_of
from recspect.training.run import Run


def load():
    return subject_of(Run.open("run"))
"""


def test_tables_of_raw_events_are_examined_with_derived_columns(tmp_path):
    """`--subject` and `examine_table` on events alone say what they say of tables that have the columns, which come from both tables together."""
    from recspect.diagnosis.source import read
    from recspect.diagnosis.source_values import to_arrow
    from recspect.examining.examination import examine_table
    from recspect.features.derived import derive
    from recspect.schema import Schema

    write_log(tmp_path / "log.parquet", rows=3000)
    (tmp_path / "schema.toml").write_text(SCHEMA)
    (tmp_path / "mine.py").write_text(SUBJECT)
    schema = Schema.read(tmp_path / "schema.toml")
    log = pq.read_table(tmp_path / "log.parquet")
    whole = to_arrow(next(iter(derive(read(log), schema).batches())))
    for name, table in (("train", log[:2400]), ("eval", log[2400:]), ("train-full", whole[:2400]), ("eval-full", whole[2400:])):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    done = recspect("train", "train.parquet", "--schema", "schema.toml", "--epochs", "1", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    found = []
    for kind in ("", "-full"):
        tables = ("--train", f"train{kind}.parquet", "--eval", f"eval{kind}.parquet", "--schema", "schema.toml", "--format", "json")
        done = recspect("diagnose", "--subject", "mine.py:load", *tables, cwd=tmp_path)
        assert done.returncode in (0, 1), done.stderr
        found.append({(each["code"], each["place"]["name"], each["verdict"], each["claim"]) for each in json.loads(done.stdout)["findings"]
                      if each["code"] in ("data.drift", "features.unused", "predictions.calibration")})
        assert '"rate"' in done.stdout  # a field like any other
    assert found[0] == found[1]
    assert found[0]

    drifts = []
    for kind in ("", "-full"):
        report = examine_table(read(tmp_path / f"eval{kind}.parquet"), schema, reference=read(tmp_path / f"train{kind}.parquet"))
        assert '"rate"' in report.to_json()
        drifts.append([each.claim for each in report.findings if each.code == "data.drift"])
    assert drifts[0] == drifts[1] != []

    told = recspect("doctor", "--subject", "mine.py:load", "--eval", "eval.parquet", "--schema", "schema.toml", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "clicked" in told.stdout
