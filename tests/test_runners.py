"""Whoever adds up, the totals are the same: processes and their pieces in any order, a process killed in the middle, a damaged file, a run that goes on."""

import os
import random
import signal
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.kept import Kept, name_of
from recspect.diagnosis.runners.local import passes, tally
from recspect.diagnosis.runners.processes import Processes
from recspect.diagnosis.runners.runner import Local
from recspect.diagnosis.runners.spread import Spread
from recspect.diagnosis.runners.work import do
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.source_files import files
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.distinct import Distinct
from recspect.diagnosis.stats.measures import AreaUnderCurve
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.errors import DamagedError, DataError, MemoryBudgetError, RunnerError, UsageError
from test_same_tally import KEYS, SLICES, assert_same, log, reference

SOME = KEYS[::23]
"""Of many stats, plain and composed."""


@dataclass(frozen=True)
class Shuffled(Spread):
    """Every task here, in random order: the pieces and shares of all runners, without an engine."""

    seed: int = 0
    name: str = "shuffled"

    def results(self, work, tasks):
        order = list(tasks)
        random.Random(self.seed).shuffle(order)
        return (do(work, task) for task in order)


class Doubled(Probe):
    """A model that costs nothing, but says not so: adds `@doubled`."""

    adds = ("@doubled",)

    def observe(self, batch):
        return {"@doubled": 2 * batch.numbers("price")}


class KillOnce(Probe):
    """Kills the process that first sees user 7, and leaves a note that it did."""

    adds = ("@killed",)
    light = True
    reads = ("user",)

    def __init__(self, note):
        self.note = str(note)

    def observe(self, batch):
        if (batch.numbers("user") == 7).any():
            try:
                os.close(os.open(self.note, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return {"@killed": np.ones(batch.rows)}


@pytest.fixture(scope="module")
def pool():
    """Two processes for all tests that end none."""
    found = Processes(workers=2)
    yield found
    found.close()


@pytest.fixture(scope="module")
def table():
    return log()


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("log")
    for number, start in enumerate(range(0, table.num_rows, 240)):
        pq.write_table(table.slice(start, 240), path / f"part-{number}.parquet", row_group_size=60)
    return path


@pytest.fixture(scope="module")
def expected(table):
    return reference(table, KEYS)


# ---------------------------------------------------------------------- the same totals


@pytest.mark.slow
def test_pieces_and_shares_in_any_order_give_the_same_totals(folder, expected):
    assert_same(Shuffled(workers=3, piece_rows=250).tally(read(folder), KEYS, rows=200), expected, KEYS)


def test_pieces_and_shares_of_some(folder, expected):
    assert_same(Shuffled(workers=3, piece_rows=100).tally(read(folder), SOME, rows=50), expected, SOME)


@pytest.mark.parametrize("form", ["csv", "memory", "feather"])
def test_other_forms_are_cut_too(form, table, tmp_path, expected):
    import pyarrow.csv
    import pyarrow.feather

    from test_same_tally import NO_LISTS

    kept = table.drop_columns(list(NO_LISTS)) if form == "csv" else table
    source = read(kept)
    if form != "memory":
        for part in range(3):
            piece = kept.slice(part * 400, 400)
            (pyarrow.csv.write_csv if form == "csv" else pyarrow.feather.write_feather)(piece, tmp_path / f"{part}.{form}")
        source = read(tmp_path)
    keys = [key for key in SOME if not set(NO_LISTS) & {*key[1].columns, *key[0].columns}]
    runner = Shuffled(workers=2)
    assert len(source.pieces(100)) >= 3
    assert_same(runner.tally(source, keys, rows=50), expected, keys)


def test_processes_give_the_same_totals_with_a_model_and_without(folder, expected, pool):
    seen = []
    runner = replace(pool, piece_rows=300)
    assert_same(runner.tally(read(folder), SOME, rows=100, progress=seen.append), expected, SOME)
    assert sum(seen) == 2 * 1200  # all rows for most stats, and once more the columns of lists by user
    keys = [(ALL, Bucketed(stat=Moments(column="@doubled"), by="user")), (SLICES[1], Moments(column="@doubled")),
            (ALL, PerUnit(unit="user", measures=(AreaUnderCurve(),), score="@doubled"))]
    seen.clear()
    assert_same(runner.tally(read(folder), keys, rows=100, probes=[Doubled()], progress=seen.append), tally(read(folder), keys, probes=[Doubled()]), keys)
    assert sum(seen) == 1200  # the model saw each row once


def test_two_runs_give_the_same_bits(folder):
    keys = [(ALL, Moments(column="price")), (ALL, Bucketed(stat=Moments(column="price"), by="user"))]
    found = [Shuffled(seed=seed, workers=2, piece_rows=100).tally(read(folder), keys, pushdown=False) for seed in range(3)]
    assert all(one[key] == found[0][key] for one in found for key in keys)


def test_what_a_model_sees_of_a_table_in_memory_are_the_batches_of_one_process(table):
    class Batches(Doubled):
        def observe(self, batch):
            return {"@doubled": np.full(batch.rows, float(batch.rows))}

    keys = [(ALL, Moments(column="@doubled"))]
    alone = tally(read(table), keys, rows=70, probes=[Batches()])
    assert Shuffled(workers=3).tally(read(table), keys, rows=70, probes=[Batches()])[keys[0]].mean == alone[keys[0]].mean


def test_a_loader_is_read_by_this_process_alone(expected, table):
    source = read([{"user": np.array([1, 2]), "x": np.array([0.5, 1.0])}])
    keys = [(ALL, Moments(column="x"))]
    assert Processes().tally(source, keys)[keys[0]].count == 2


# ---------------------------------------------------------------------- what goes wrong


def test_a_killed_process_changes_nothing(folder, tmp_path):
    keys = [(ALL, Moments(column="price")), (ALL, Moments(column="@killed")), (ALL, Distinct(column="item"))]
    note = tmp_path / "killed"
    found = Processes(workers=2, piece_rows=120).tally(read(folder), keys, probes=[KillOnce(note)])
    assert note.exists()
    assert_same(found, tally(read(folder), keys, probes=[KillOnce(note)]), keys)


def test_what_kills_every_process_is_an_error(folder):
    class KillAlways(KillOnce):
        def observe(self, batch):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RunnerError, match="3 times in a row a process died"):
        Processes(workers=1, piece_rows=120).tally(read(folder), [(ALL, Moments(column="@killed"))], probes=[KillAlways("")])


def spoil(path, *, page=True):
    """Turn some bytes of a Parquet file: of its first pages, or of its end, which says where its description of itself is."""
    content = bytearray(path.read_bytes())
    at = slice(40, 200) if page else slice(len(content) - 8, len(content))
    content[at] = bytes(255 - byte for byte in content[at])
    path.write_bytes(bytes(content))


@pytest.fixture
def spoilt(table, tmp_path):
    """Five files with checksums, the third damaged in its pages; and the rows of the others."""
    for number in range(5):
        pq.write_table(table.slice(number * 240, 240), tmp_path / f"part-{number}.parquet", write_page_checksum=True)
    spoil(tmp_path / "part-2.parquet")
    return tmp_path, pa.concat_tables([table.slice(0, 480), table.slice(720)])


def test_a_damaged_file_is_named_and_the_rest_is_added_up(spoilt, pool):
    folder, rest = spoilt
    keys = [(ALL, Moments(column="price")), (ALL, PerUnit(unit="user", measures=(AreaUnderCurve(),))), (ALL, Distinct(column="user"))]
    for runner in (Shuffled(workers=3), pool):
        lost = []
        found = runner.tally(read(folder), keys, loss=lost.append, pushdown=False)
        assert [(one.name, one.rows) for one in lost] == [(str(folder / "part-2.parquet"), 240)]
        assert "damaged" in lost[0].reason
        assert_same(found, reference(rest, keys), keys)
    with pytest.raises(DamagedError, match="part-2"):
        Shuffled().tally(read(folder), keys, pushdown=False)
    with pytest.raises(DamagedError):
        Local().tally(read(folder), keys, loss=lost.append, pushdown=False)


def test_a_piece_that_only_one_pass_finds_damaged_is_in_no_total(table, tmp_path):
    """The price's page is damaged, which the lists by user do not read."""
    small = table.select(["price", "user", "@score", "@label"])
    for number in range(3):
        pq.write_table(small.slice(number * 400, 400), tmp_path / f"part-{number}.parquet", write_page_checksum=True, compression="none")
    spoil(tmp_path / "part-1.parquet")
    keys = [(ALL, PerUnit(unit="user", measures=(AreaUnderCurve(),))), (ALL, Moments(column="price"))]
    lost = []
    found = Shuffled(workers=2).tally(read(tmp_path), keys, loss=lost.append, pushdown=False)
    assert [one.name for one in lost] == [str(tmp_path / "part-1.parquet")]
    assert_same(found, reference(pa.concat_tables([table.slice(0, 400), table.slice(800)]), keys), keys)


def test_files_whose_footer_is_damaged_are_left_out_where_that_is_allowed(spoilt):
    folder, _ = spoilt
    spoil(folder / "part-0.parquet", page=False)
    (folder / "part-1.parquet").write_bytes(b"")
    with pytest.raises(DamagedError):
        files([folder])
    source = files([folder], whole=False)
    assert [path.rsplit("/", 1)[1] for path, _ in source.left_out] == ["part-0.parquet", "part-1.parquet"]
    assert source.count() == 3 * 240


def test_where_all_is_damaged_there_is_an_error(spoilt):
    folder, _ = spoilt
    spoil(folder / "part-3.parquet")
    with pytest.raises(DamagedError, match="part-2"):
        Shuffled().tally(read([folder / "part-2.parquet", folder / "part-3.parquet"]), [(ALL, Distinct(column="user"))], loss=print, pushdown=False)


def test_a_mistake_in_the_table_is_no_damage(folder, pool):
    for runner in (Shuffled(piece_rows=100), replace(pool, piece_rows=300)):
        with pytest.raises(DataError, match="text"):
            runner.tally(read(folder), [(ALL, Moments(column="text"))], loss=print, pushdown=False)


def test_a_process_that_holds_too_much_says_so(folder, pool):
    with pytest.raises(MemoryBudgetError, match=r"may hold 0\.25"):
        Local(memory=2**28).tally(read(folder), [(ALL, Moments(column="price"))], probes=[Greedy()])
    with pytest.raises(MemoryBudgetError, match=r"may hold 0\.25"):
        replace(pool, memory=2**28, piece_rows=300).tally(read(folder), [(ALL, Moments(column="price"))], probes=[Greedy()])
    with pytest.raises(UsageError, match="at least 256"):
        Local(memory=2**20).tally(read(folder), [(ALL, Moments(column="price"))])


class Greedy(Doubled):
    """Keeps 64 MiB for every batch."""

    def observe(self, batch):
        self.__dict__.setdefault("held", []).append(np.ones(2**25))
        return super().observe(batch)


# ---------------------------------------------------------------------- going on


def counted(runner, source, keys, **more):
    seen = []
    return runner.tally(source, keys, progress=seen.append, pushdown=False, **more), sum(seen)


def test_a_run_that_was_stopped_reads_only_what_is_missing(folder, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(rows):
        stop.seen += rows
        if stop.seen >= 500:
            raise StoppedError

    stop.seen = 0
    keys = [(ALL, Moments(column="price")), (ALL, Distinct(column="user"))]
    runner = Shuffled(workers=1, piece_rows=120, keep=Kept(tmp_path / "kept"))
    with pytest.raises(StoppedError):
        runner.tally(read(folder), keys, progress=stop, pushdown=False)
    found, rows = counted(runner, read(folder), keys)
    assert 1200 - 120 * 5 <= rows < 1200
    assert_same(found, reference(log(), keys), keys)
    assert counted(runner, read(folder), keys)[1] == 0
    assert not [path for path in (tmp_path / "kept").iterdir() if path.suffix != ".tally"]


def test_a_day_more_reads_that_day_alone(table, tmp_path):
    """Totals of days add up to those of the week; lists of users, whose rows lie in several days, are read anew."""
    keys = [(ALL, Moments(column="price")), (ALL, Bucketed(stat=Distinct(column="item", k=64), by="user", buckets=3))]
    by_user = (ALL, PerUnit(unit="user", measures=(AreaUnderCurve(),)))
    runner = Shuffled(workers=2, keep=Kept(tmp_path / "kept"))
    for day in range(4):
        path = tmp_path / "log" / f"date=2026-11-0{day + 1}"
        path.mkdir(parents=True)
        pq.write_table(table.slice(day * 300, 300), path / "part.parquet")
        found, rows = counted(runner, read(tmp_path / "log"), keys)
        assert rows == 300
    assert_same(found, reference(table, keys), keys)
    found, rows = counted(runner, read(tmp_path / "log"), [*keys, by_user])
    assert rows == 1200  # the lists alone
    assert_same(found, reference(table, [*keys, by_user]), [*keys, by_user])


def test_what_is_kept_is_found_only_for_the_same_question(folder, tmp_path):
    source = read(folder)
    keys = [(ALL, Moments(column="@doubled"))]

    class Scaled(Doubled):
        def __init__(self, weights):
            self.weights = weights

    def name(probe, keys=keys, fingerprint="a"):
        return name_of(passes(keys, source, [probe])[0], 100, [fingerprint])

    same = name(Scaled(np.arange(3.0)))
    assert same
    assert name(Scaled(np.arange(3.0))) == same
    assert name(Scaled(np.array([0, 1, 2.5]))) != same
    assert name(Scaled(np.arange(3.0)), [(SLICES[1], keys[0][1])]) != same
    assert name(Scaled(np.arange(3.0)), fingerprint="b") != same
    assert name(Scaled(lambda x: 2 * x)) == name(Scaled(lambda x: 2 * x))
    assert name(Scaled(lambda x: 2 * x)) != name(Scaled(lambda x: 3 * x))
    with (tmp_path / "open").open("w") as file:
        assert name(Scaled(file.buffer.raw)) == ""


def test_a_model_of_other_weights_is_another_question(folder):
    import torch

    source = read(folder)

    def name(seed):
        torch.manual_seed(seed)
        probe = Doubled()
        probe.model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
        return name_of(passes([(ALL, Moments(column="@doubled"))], source, [probe])[0], 100, ["a"])

    assert name(0) == name(0) != ""
    assert name(0) != name(1)


def test_a_kept_total_that_is_damaged_is_made_anew(folder, tmp_path):
    keys = [(ALL, Moments(column="price"))]
    runner = Shuffled(piece_rows=300, keep=Kept(tmp_path))
    counted(runner, read(folder), keys)
    next(tmp_path.glob("*.tally")).write_bytes(b"no")
    found, rows = counted(runner, read(folder), keys)
    assert rows > 0
    assert_same(found, reference(log(), keys), keys)
    assert replace(runner, keep=None).tally(read(folder), keys)
