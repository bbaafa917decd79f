"""Models of the user's that fail, and run directories that are damaged: the error names their line or file, exit code 2."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from hostile import CommandLine, table
from recspect.diagnosis.users_code import users_code
from recspect.errors import SubjectError

pytest.importorskip("torch", reason="models need torch")

MODEL = """
import torch
from torch import nn
from recspect.diagnosis.subject import ScoreSubject

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(50, 4), nn.Embedding(20, 4)
        self.mlp = nn.Linear(8, 1)
    def forward(self, x):
        {forward}
    def right(self, x):
        return torch.sigmoid(self.mlp(torch.cat([self.user(x["user"]), self.item(x["item"])], 1))).squeeze(1)

def load():
    {load}
"""

SCHEMA = """schema = 1
[roles]
user = "user"
item = "item"
[[labels]]
name = "click"
[fields]
user = "categorical"
item = "categorical"
"""

RIGHT, MADE = "return self.right(x)", "return Mine()"

MODELS = {
    "function raises": (RIGHT, "raise ValueError('boom')", ("load() of mine.py raised ValueError: boom", "mine.py, line ", "in load: raise ValueError")),
    "function exits": (RIGHT, "raise SystemExit(3)", ("raised SystemExit: 3", "mine.py, line ")),
    "function returns None": (RIGHT, "return None", ("expected a torch.nn.Module, found NoneType",)),
    "function returns a class": (RIGHT, "return Mine", ("expected a torch.nn.Module, found type",)),
    "weights missing": (RIGHT, "return torch.load('none.pt')", ("raised FileNotFoundError", "none.pt", "mine.py, line ")),
    "forward raises": ("raise ValueError('boom in forward')", MADE, ("the model Mine raised ValueError: boom in forward", "mine.py, line ", "in forward")),
    "forward asserts": ("assert x is None", MADE, ("raised AssertionError", "assert x is None")),
    "a library raises": ("return torch.zeros(3) @ torch.zeros(4)", MADE, ("raised RuntimeError", "mine.py, line ", "in forward")),
    "unknown ids": ("return self.user(x['user'] + 100).sum(1)", MADE, ("raised IndexError", "mine.py, line ", "size of their tables")),
    "another field": ("return self.user(x['age']).sum(1)", MADE, ("raised KeyError: 'age'", "mine.py, line ")),
    "endless": ("return self.forward(x)", MADE, ("raised RecursionError", "mine.py, line ")),
    "too few scores": ("return torch.zeros(3)", MADE, ("3", "one score per row")),
    "two columns": ("return torch.zeros(len(x['user']), 2)", MADE, ("(400, 2)", "one score per row")),
    "dict": ("return {'p': self.right(x)}", MADE, ("returned dict", "expected one tensor")),
    "None": ("return None", MADE, ("returned NoneType", "expected one tensor")),
    "array": ("return self.right(x).detach().numpy()", MADE, ("returned ndarray", "expected one tensor")),
    "scores of text": (RIGHT, "return ScoreSubject(lambda batch: ['a'] * batch.rows, fields=['user'])", ("returned list", "expected one number per row")),
    "one score": (RIGHT, "return ScoreSubject(lambda batch: [0.1], fields=['user'])", ("returned 1 scores for 400 rows",)),
    "service down": (RIGHT, "return ScoreSubject(lambda batch: 1 / 0, fields=['user'])", ("the scoring function", "ZeroDivisionError", "mine.py, line ")),
    "steers the terminal": ("raise ValueError('[bold]\\ud83d \\x1b[31m')", MADE, ("raised ValueError: [bold]",)),
}


@pytest.fixture
def line(tmp_path, capsys, monkeypatch):
    made = CommandLine(tmp_path, capsys, monkeypatch)
    Path("m.toml").write_text(SCHEMA)
    return made


def diagnose(table_name="t.parquet", subject="mine.py:load"):
    return ["diagnose", "--subject", subject, "--train", "t.parquet", "--eval", table_name, "--schema", "m.toml", "--out", "found.txt"]


@pytest.mark.parametrize(("forward", "load", "said"), MODELS.values(), ids=MODELS)
def test_what_a_model_raises_is_told_as_the_users(line, forward, load, said):
    Path("mine.py").write_text(MODEL.format(forward=forward, load=load))
    told = line.refuses(*diagnose(), said=said)
    assert "\x1b[31m" not in told


@pytest.mark.parametrize(("content", "said"), [
    (b"def load(:\n", ("running mine.py raised SyntaxError", "mine.py, line 1")), (b"import none_such\n", ("ModuleNotFoundError", "mine.py, line 1")),
    (b"1 / 0\n", ("ZeroDivisionError", "mine.py, line 1", "1 / 0")), (b"def load(a, b): pass\n", ("load() of mine.py raised TypeError",)),
    (b"\x00\x01", ("running mine.py raised",)), (b"load = 3\n", ("mine.py has no function 'load'",)), (b"def other(): pass\n", ("it has 'other'",)),
])
def test_files_that_are_no_model(line, content, said):
    Path("mine.py").write_bytes(content)
    line.refuses(*diagnose(), said=said)
    line.refuses("doctor", "--subject", "mine.py:load", "--eval", "t.parquet", said=said)


@pytest.mark.parametrize("spec", ["none.py:load", "none.py", "mine.py:", ":load", ".:load", "t.parquet:load", "x" * 300 + ".py:load"])
def test_subjects_that_are_not_there(line, spec):
    line.refuses(*diagnose(subject=spec), said=("file.py:function",))


TABLES = {
    "ids never seen": (pl.col("user") + 100, ("raised IndexError",)), "negative ids": (-pl.col("user") - 1, ("raised IndexError",)),
    "ids of text": (pl.lit("ann"), ("field 'user' holds text",)), "missing ids": (pl.when(pl.col("user") > 3).then(pl.col("user")), ("the model Mine raised",)),
}


@pytest.mark.parametrize(("user", "said"), TABLES.values(), ids=TABLES)
def test_rows_that_a_model_cannot_take(line, user, said):
    Path("mine.py").write_text(MODEL.format(forward=RIGHT, load=MADE))
    table().with_columns(user=user).write_parquet("other.parquet")
    line.refuses(*diagnose("other.parquet"), said=said)


def test_tables_beside_a_model(line):
    Path("mine.py").write_text(MODEL.format(forward=RIGHT, load=MADE))
    for name in ("item", "click"):
        table().drop(name).write_parquet("lacks.parquet")
        line.refuses(*diagnose("lacks.parquet"), said=(f"names '{name}', which lacks.parquet lacks",))
    line.refuses(*diagnose("none.parquet"), said=("no file at none.parquet",))
    line.refuses(*diagnose(), "--schema", "none.toml", said=("no schema file",))


def test_a_model_that_scores_nan_is_no_error(line):
    Path("mine.py").write_text(MODEL.format(forward="return self.right(x) * float('nan')", load=MADE))
    done = line(*diagnose()[:-2], "--format", "json")
    assert done.code in (0, 1), done.err
    verdicts = {finding["code"]: finding["verdict"] for finding in json.loads(done.out)["findings"]}
    assert verdicts["predictions.calibration"] == "UNKNOWN"
    assert verdicts["predictions.ranking_quality"] == "UNKNOWN"


def test_our_own_errors_are_not_blamed_on_the_user():
    from recspect.diagnosis.batch import Batch

    with pytest.raises(TypeError), users_code("the model", hint=""):
        Batch(3)
    with pytest.raises(SubjectError, match="the model raised ZeroDivisionError"), users_code("the model", hint=""):
        1 / 0  # noqa: B018


# ---------------------------------------------------------------------- run directories


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from recspect.diagnosis.source import read
    from recspect.schema import Schema
    from recspect.training.config import TrainingConfig
    from recspect.training.loop import train

    folder = tmp_path_factory.mktemp("trained")
    table(1000).write_parquet(folder / "t.parquet")
    schema = Schema.from_mapping({"roles": {"user": "user", "item": "item"}, "labels": ["click"], "fields": {"user": "categorical", "item": "categorical"}})
    train(read(folder / "t.parquet"), schema, TrainingConfig(maximum_epochs=2, observe_every=1), folder / "run",
          reference={"kind": "file", "path": str(folder / "t.parquet")})
    return folder


@pytest.fixture
def run(line, trained):
    """A copy of a trained run whose table is `t.parquet` of the folder."""
    shutil.copytree(trained / "run", "run")
    shutil.copy(trained / "t.parquet", "t.parquet")
    record("run", data={"kind": "file", "path": "t.parquet"})
    return Path("run")


def record(folder, **changes):
    path = Path(folder) / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGED = {
    "run.json": ((b"{", "damaged"), (b"\xff\xfe", "damaged"), (b"[]", "damaged"), (b"{}", "not the record of a run"), (None, "without run.json")),
    "features.json": ((b"", "damaged"), (b"{}", "damaged"), (b"[]", "damaged"), (None, "features.json is missing")),
    "features.safetensors": ((b"z" * 50, "damaged"), (None, "features.safetensors is missing")),
    "schema.toml": ((b"\xff\x00", "not UTF-8"), (b"", "no label"), (b"{}", "not valid TOML"), (None, "no schema file")),
    "checkpoints/epoch-001.safetensors": ((b"", "damaged"), (b"garbage" * 50, "damaged"), (-50, "damaged"), (None, "no checkpoint epoch-001")),
    "steps.parquet": ((b"zzz", "damaged"), (-30, "damaged")),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_of_a_run(line, run, name):
    whole = (run / name).read_bytes()
    for content, said in DAMAGED[name]:
        if content is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(whole[:content] if isinstance(content, int) else content)
        line.refuses("diagnose", run, said=(said,))
        if not name.startswith(("steps", "checkpoints")):  # the doctor reads the best epoch only
            line.refuses("doctor", run, said=(said if said != "without run.json" else "no run.json",))


RECORDS = [
    ({"version": 99}, "version 99"), ({"version": "1"}, "version '1'"), ({"status": "weird"}, "'status'"), ({"model": 3}, "'model'"),
    ({"model": {"name": "nope"}}, "no model named 'nope'"), ({"training": []}, "'training'"), ({"training": {"x": 1}}, "does not know"),
    ({"inputs": [3]}, "'inputs'"), ({"inputs": [{"a": 1}]}, "inputs"), ({"metrics": {}}, "'metrics'"), ({"metrics": 3}, "'metrics'"),
    ({"best_epoch": 99}, "no epoch 99"), ({"best_epoch": "x"}, "'best_epoch'"), ({"epochs_done": "x"}, "'epochs_done'"),
    ({"epochs_done": 99}, "'epochs_done'"), ({"data": 3}, "'data'"), ({"data": {}}, "in memory"), ({"data": {"kind": "file"}}, "does not say where"),
    ({"data": {"kind": "dataset", "name": "nope"}}, "no data set 'nope'"), ({"data": {"kind": "file", "path": "none.parquet"}}, "no file at none.parquet"),
    ({"data_fingerprint": "other"}, "was trained on other data"), ({"best_epoch": None}, "no finished epoch"),
]


def test_records_of_runs_that_cannot_be_right(line, run):
    whole = (run / "run.json").read_bytes()
    for changes, said in RECORDS:
        record(run, **changes)
        line.refuses("diagnose", run, said=(said,))
        (run / "run.json").write_bytes(whole)
    record(run, status="running")
    (run / "checkpoints" / "last.safetensors").write_bytes(b"zzz")
    line.refuses("train", "--resume", run, said=("last.safetensors is damaged",))


def test_data_that_changed_after_training(line, run):
    for change, said in ((table(1000).with_columns(click=1 - pl.col("click")), "was trained on other data"),
                         (table(1000).drop("item"), "lacks the column 'item'"), (None, "no file at t.parquet")):
        record(run, status="running")
        if change is None:
            Path("t.parquet").unlink()
        else:
            change.write_parquet("t.parquet")
        line.refuses("diagnose", run, said=(said,))
        line.refuses("train", "--resume", run, said=(said,))


def test_a_run_directory_is_not_used_twice(line, run):
    Path("tr.toml").write_text(SCHEMA)
    line.refuses("train", "t.parquet", "--schema", "tr.toml", "--run-dir", run, said=("already holds a run",))
    line.refuses("diagnose", run, "--schema", "m.toml", said=("is a run directory",))


FINDINGS = [b"", b"{", b"[]", b"3", b"{}", b"\xff\xfe", b"[" * 100_000, *(json.dumps({"format": "recspect-findings", **more}).encode() for more in (
    {"version": 99}, {"version": 1}, {"version": 1, "findings": 3}, {"version": 1, "findings": [3]}, {"version": 1, "findings": [{}]},
    {"version": 1, "findings": [], "overview": 3}, {"version": 1, "findings": [], "overview": [{"kind": "zz"}]},
    {"version": 1, "findings": [], "provenance": [3]}, {"version": 1, "findings": [{"code": "a.b", "verdict": "MEH", "claim": "", "place": {}}]}))]


def test_damaged_findings(line):
    Path("run").mkdir()
    for content in FINDINGS:
        Path("run/findings.json").write_bytes(content)
        for form in ("text", "html"):
            line.refuses("report", "run", "--format", form, said=("findings",))
