"""The commands as a user meets them: exit codes, formats, and errors that teach instead of tracebacks."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from recspect.diagnosis.finding import Report, Verdict
from recspect.examining.references import References

SCHEMA = """
schema = 1
[roles]
user = "user"
item = "item"
score = "score"
[[labels]]
name = "click"
[fields]
user = { kind = "categorical", side = "user" }
item = { kind = "categorical", side = "item" }
colour = "categorical"
"""


def recspect(*arguments, **settings):
    return subprocess.run([sys.executable, "-m", "recspect.cli", *map(str, arguments)], capture_output=True, text=True,
                          timeout=180, check=False, **settings)


@pytest.fixture
def scored(tmp_path):
    r = np.random.default_rng(0)
    n = 6000
    user, item = r.integers(0, 300, n), r.integers(0, 60, n)
    p = 1 / (1 + np.exp(-(r.normal(0, 1, 300)[user] + r.normal(0, 1, 60)[item] - 0.5)))
    table = pl.DataFrame({"user": user, "item": item, "colour": r.choice(["red", "blue"], n), "score": p,
                          "click": (r.random(n) < p).astype(int), "row": np.arange(n)})
    table.write_parquet(tmp_path / "scored.parquet")
    (tmp_path / "schema.toml").write_text(SCHEMA)
    return tmp_path


def test_a_scored_table_alone_is_examined(scored):
    done = recspect("diagnose", scored / "scored.parquet", "--schema", scored / "schema.toml", "--format", "json")
    report = Report.from_mapping(json.loads(done.stdout))
    assert done.returncode == (1 if report.verdict.value == "FAIL" else 0)
    assert {finding.verdict.value for finding in report.findings} <= {"PASS", "WARN", "FAIL", "UNKNOWN"}
    assert any(finding.verdict.value == "UNKNOWN" for finding in report.findings)  # no model, no training rows


def test_html_and_text_are_written(scored):
    done = recspect("diagnose", scored / "scored.parquet", "--schema", scored / "schema.toml", "--format", "html", "--out",
                    scored / "page.html")
    assert done.returncode in (0, 1), done.stderr
    assert "<html" in (scored / "page.html").read_text()
    text = recspect("diagnose", scored / "scored.parquet", "--schema", scored / "schema.toml")
    assert "UNKNOWN" in text.stdout


def test_schema_init_drafts_what_diagnose_reads(scored):
    done = recspect("schema", "init", scored / "scored.parquet", "--out", scored / "draft.toml")
    assert done.returncode == 0, done.stderr
    again = recspect("diagnose", scored / "scored.parquet", "--schema", scored / "draft.toml")
    assert again.returncode in (0, 1), again.stderr
    refused = recspect("schema", "init", scored / "scored.parquet", "--out", scored / "draft.toml")
    assert refused.returncode == 2
    assert "exists already" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(("arguments", "said"), [
    (["diagnose"], "nothing to examine"),
    (["diagnose", "missing.parquet"], "needs a schema"),
    (["diagnose", "missing.parquet", "--schema", "missing.toml"], "no schema file"),
    (["train"], "either a table"),
    (["train", "--dataset", "nothing-of-the-kind"], "nothing-of-the-kind"),
    (["report", "missing"], "no findings"),
    (["diagnose", "x", "--slice", "nonsense", "--schema", "y"], "cannot read the slice"),
    (["frobnicate"], "No such command"),
])
def test_mistakes_get_an_error_and_exit_2(tmp_path, arguments, said):
    done = recspect(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_bad_tables_get_an_error_and_exit_2(scored):
    truncated = (scored / "scored.parquet").read_bytes()[:-200]
    (scored / "cut.parquet").write_bytes(truncated)
    (scored / "empty.csv").write_text("")
    pl.read_parquet(scored / "scored.parquet").drop("click").write_parquet(scored / "unlabelled.parquet")
    for name in ("cut.parquet", "empty.csv", "unlabelled.parquet"):
        done = recspect("diagnose", scored / name, "--schema", scored / "schema.toml")
        assert done.returncode == 2, (name, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert "error:" in done.stderr


def test_a_small_model_is_trained_diagnosed_and_resumed(scored):
    schema = (scored / "schema.toml").read_text().replace('score = "score"\n', "")
    (scored / "train.toml").write_text(schema)
    trained = recspect("train", scored / "scored.parquet", "--schema", scored / "train.toml", "--epochs", "2", "--run-dir",
                       scored / "run")
    assert trained.returncode == 0, trained.stderr
    done = recspect("diagnose", scored / "run", "--format", "json")
    assert done.returncode in (0, 1), done.stderr
    report = Report.from_mapping(json.loads(done.stdout))
    assert report.provenance["best_epoch"] in (1, 2)
    assert (scored / "run" / "report.html").stat().st_size > 100_000
    assert Report.read(scored / "run" / "findings.json").verdict == report.verdict
    assert recspect("doctor", scored / "run").stdout.count("completeness") == 1
    assert recspect("train", "--resume", scored / "run").returncode == 0  # finished already: returned as it is


def test_the_model_of_a_user_is_examined(scored):
    (scored / "mine.py").write_text("""
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(300, 4), nn.Embedding(60, 4)
        self.mlp = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    def forward(self, x):
        return torch.sigmoid(self.mlp(torch.cat([self.user(x["user"]), self.item(x["item"])], 1))).squeeze(1)

def load():
    return Mine()
""")
    (scored / "mine.toml").write_text(SCHEMA.replace('colour = "categorical"\n', "").replace('score = "score"\n', ""))
    done = recspect("diagnose", "--subject", f"{scored / 'mine.py'}:load", "--train", scored / "scored.parquet", "--eval",
                    scored / "scored.parquet", "--schema", scored / "mine.toml", "--format", "json")
    assert done.returncode in (0, 1), done.stderr
    report = Report.from_mapping(json.loads(done.stdout))
    overlap = report.find("data.split_overlap")
    assert overlap[0].verdict.value in ("FAIL", "WARN")  # the same table on both sides is one copied row for each
    assert report.find("features.unused")
    told = recspect("doctor", "--subject", f"{scored / 'mine.py'}:load", "--eval", scored / "scored.parquet", "--schema", scored / "mine.toml")
    assert told.returncode == 0, told.stderr
    assert "completeness" in told.stdout


def test_a_table_is_held_against_healthy_runs(scored):
    asked = ("diagnose", scored / "scored.parquet", "--schema", scored / "schema.toml", "--format", "json")
    report = Report.from_mapping(json.loads(recspect(*asked).stdout))
    assert recspect(*asked, "--reference", scored / "healthy.json").returncode == 2  # not there yet
    well = dataclasses.replace(report, findings=tuple(f for f in report.findings if f.verdict.value != "FAIL"))
    kept = References()
    for run in range(18):
        kept = kept.with_run(dataclasses.replace(well, provenance={"run": f"run-{run}"}))
    kept.write(scored / "healthy.json")
    (scored / "well.json").write_text(dataclasses.replace(well, provenance={"run": "run-18"}).to_json())
    added = recspect("reference", "add", scored / "well.json", "--to", scored / "healthy.json")
    assert (added.returncode, "holds 19 healthy runs" in added.stderr) == (0, True), added.stderr
    held = Report.from_mapping(json.loads(recspect(*asked, "--reference", scored / "healthy.json").stdout))
    (finding,) = held.find("run.unlike_healthy")
    assert (finding.verdict.value, finding.estimate.n) == ("PASS", 19)
    assert len(held.with_verdict(Verdict.WARN)) <= len(report.with_verdict(Verdict.WARN))
    assert held.with_verdict(Verdict.FAIL) == report.with_verdict(Verdict.FAIL)
    (scored / "failing.json").write_text(dataclasses.replace(report, findings=(dataclasses.replace(report.findings[0], verdict=Verdict.FAIL),)).to_json())
    refused = recspect("reference", "add", scored / "failing.json", "--to", scored / "healthy.json")
    assert (refused.returncode, "not healthy" in refused.stderr) == (2, True)
