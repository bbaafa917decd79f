"""The same findings whoever adds up: whole examinations of tables and models, and the command's options."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from recspect.diagnosis.finding import Report
from recspect.diagnosis.runners.choosing import runner_of
from recspect.diagnosis.runners.processes import Processes
from recspect.diagnosis.runners.runner import Local
from recspect.diagnosis.slice import Slice
from recspect.diagnosis.source import read
from recspect.errors import UsageError
from recspect.examining.examination import examine, examine_table
from recspect.examining.partial import CODE
from recspect.schema import Field, Label, Schema
from test_runners import Shuffled, spoil

SCHEMA = Schema(fields=(Field(name="hour"), Field(name="user"), Field(name="item")), labels=(Label(name="click"),), user="user", item="item", time="time",
                time_unit="s", score="score")
SKETCHED = {"data.change_point", "data.time_leak"}
"""Findings that rest on a sketch of quantiles, whose bits differ."""


def rows(seed=0, count=12_000):
    rng = np.random.default_rng(seed)
    chance = rng.beta(2, 5, count)
    return pl.DataFrame({"user": rng.integers(0, 400, count), "item": rng.zipf(1.5, count) % 150, "hour": rng.integers(0, 24, count),
                         "time": np.sort(rng.integers(0, 10**6, count)) + seed * 10**6, "click": (rng.random(count) < chance).astype(int), "score": chance})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables")
    rows(0).write_parquet(path / "train.parquet")
    (path / "eval").mkdir()
    table = rows(1).to_arrow()
    for part in range(6):
        pq.write_table(table.slice(part * 2000, 2000), path / "eval" / f"part-{part}.parquet", write_page_checksum=True)
    (path / "schema.toml").write_text(SCHEMA.to_toml())
    return path


def numbers(report):
    """What every finding says, and its number."""
    return {(one.code, str(one.place)): (one.verdict.value, one.estimate) for one in report.findings}


def assert_same_findings(found: Report, expected: Report, tolerance=1e-9):
    mine, theirs = numbers(found), numbers(expected)
    assert mine.keys() == theirs.keys()
    for key, (verdict, estimate) in theirs.items():
        assert mine[key][0] == verdict, key
        if estimate is None or key[0] in SKETCHED:
            continue
        for part in ("value", "low", "high", "n"):
            a, b = getattr(mine[key][1], part), getattr(estimate, part)
            assert a == b or a == pytest.approx(b, rel=tolerance, abs=tolerance), (key, part, a, b)


@pytest.fixture(scope="module")
def alone(folder):
    return examine_table(folder / "eval", SCHEMA, reference=folder / "train.parquet", slices=[Slice.parse("hour<6")])


def test_shuffled_partitions_give_the_same_findings(folder, alone):
    found = examine_table(folder / "eval", SCHEMA, reference=folder / "train.parquet", slices=[Slice.parse("hour<6")], runner=Shuffled(seed=3, workers=3, piece_rows=1500))
    assert len(alone.findings) > 20
    assert_same_findings(found, alone)
    assert not found.find(CODE)


def test_a_damaged_partition_is_named_in_the_report(folder, alone, tmp_path):
    for part in range(6):
        (tmp_path / f"part-{part}.parquet").write_bytes((folder / "eval" / f"part-{part}.parquet").read_bytes())
    spoil(tmp_path / "part-0.parquet")
    spoil(tmp_path / "part-4.parquet", page=False)
    found = examine_table(read(tmp_path, whole=False), SCHEMA, reference=folder / "train.parquet", runner=Shuffled(workers=2))
    (partial,) = found.find(CODE)
    assert partial.verdict.value == "WARN"
    assert "part-0.parquet" in partial.claim
    assert "part-4.parquet" in partial.claim
    assert "2,000 rows and more" in partial.claim
    rest = [tmp_path / f"part-{part}.parquet" for part in (1, 2, 3, 5)]
    expected = examine_table(rest, SCHEMA, reference=folder / "train.parquet")
    assert_same_findings(Report(findings=tuple(one for one in found.findings if one.code != CODE)), expected)


class Sum:
    """A model of two tables in float64, so that the order of rows in a batch moves no digit that counts."""

    def __new__(cls):
        import torch

        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.user, self.item = torch.nn.Embedding(400, 4), torch.nn.Embedding(150, 4)
                self.hidden, self.out = torch.nn.Linear(8, 6), torch.nn.Linear(6, 1)

            def forward(self, inputs):
                rows = torch.cat([self.user(inputs["user"]), self.item(inputs["item"])], 1)
                return torch.sigmoid(self.out(torch.relu(self.hidden(rows)))).squeeze(1)

        torch.manual_seed(0)
        return Network().double()


@pytest.mark.slow
def test_a_model_gives_the_same_findings_by_two_processes(folder, monkeypatch):
    """What runs the model is cut too: batches of 2,000 rows make six pieces."""
    from recspect.diagnosis.subject import TorchSubject
    from recspect.examining import sides

    whole = sides.View.over
    monkeypatch.setattr(sides.View, "over", classmethod(lambda cls, source, probes=(), *, rows=0: whole(source, probes, rows=2000)))
    schema = SCHEMA.with_roles(score=None)
    found = []
    for runner in (Local(), Processes(workers=2)):
        subject = TorchSubject(Sum(), fields=["user", "item"])
        found.append(examine(subject, folder / "eval", schema, reference=folder / "train.parquet", sample_rows=4000, path_steps=4, runner=runner))
    assert {finding.code.split(".")[0] for finding in found[0].findings} >= {"data", "embeddings", "explanations", "features", "predictions"}
    assert_same_findings(Report(findings=tuple(one for one in found[1].findings if one.code != "cost.model")),
                         Report(findings=tuple(one for one in found[0].findings if one.code != "cost.model")), tolerance=1e-7)


def command(*arguments):
    done = subprocess.run([sys.executable, "-m", "recspect.cli", "diagnose", *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_takes_a_runner_and_keeps_totals(folder, alone, tmp_path):
    arguments = ("--eval", folder / "eval", "--train", folder / "train.parquet", "--schema", folder / "schema.toml", "--slice", "hour<6", "--format", "json")
    code, out, err = command(*arguments, "--runner", "processes:1", "--keep", tmp_path / "kept", "--memory-gib", "2")
    assert code in (0, 1), err
    assert_same_findings(Report.from_mapping(json.loads(out)), alone)
    assert list((tmp_path / "kept").glob("*.tally"))


def test_the_command_says_what_is_wrong_with_its_options(folder, tmp_path):
    arguments = ("--eval", folder / "eval", "--schema", folder / "schema.toml")
    for more, words in ((("--runner", "sparc"), "runners: 'local'"), (("--memory-gib", "0.01"), "at least 256"), (("--keep", tmp_path), "processes:1")):
        code, _, err = command(*arguments, *more)
        assert code == 2, err
        assert words in err
        assert "Traceback" not in err


def test_runners_are_named():
    assert isinstance(runner_of("local"), Local)
    assert runner_of("processes:3").workers == 3
    mine = Processes(workers=2)
    assert runner_of(mine) is mine
    for wrong, word in (("proceses", "runners: 'local'"), ("processes:x", "number of processes"), ("local:2", "takes no"), ("torchrun", "not started by torchrun"), ("torchrun:2", "alone")):
        with pytest.raises(UsageError, match=word):
            runner_of(wrong)
    with pytest.raises(UsageError, match="processes:1"):
        runner_of("local", keep="somewhere")
    with pytest.raises(UsageError, match="beside a runner"):
        runner_of(mine, memory=2**30)
