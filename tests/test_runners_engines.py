"""The engines, really: torchrun with two ranks, a Ray cluster of two nodes, Spark; each with a worker that is killed. `make test-engines` brings Ray and PySpark."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recspect.diagnosis.runners.kept import Kept
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.distinct import Distinct
from recspect.diagnosis.stats.measures import AreaUnderCurve
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.tally import Tally
from recspect.errors import DataError, UsageError
from test_runners import SOME, Doubled, KillOnce, spoil
from test_same_tally import assert_same, log, reference

HERE = Path(__file__).resolve().parent
BY_USER = (ALL, PerUnit(unit="user", measures=(AreaUnderCurve(),)))
MODEL = [(ALL, Moments(column="@doubled")), (ALL, PerUnit(unit="user", measures=(AreaUnderCurve(),), score="@doubled"))]


@pytest.fixture(scope="module")
def table():
    return log()


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("log")
    for number in range(5):
        pq.write_table(table.slice(number * 240, 240), path / f"part-{number}.parquet", row_group_size=120, write_page_checksum=True)
    return path


@pytest.fixture(scope="module")
def spoilt(table, folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("spoilt")
    for file in folder.glob("*.parquet"):
        shutil.copy(file, path)
    spoil(path / "part-1.parquet")
    return path


@pytest.fixture(scope="module")
def expected(table):
    return reference(table, [*SOME, BY_USER])


def assert_engine(runner, folder, spoilt, expected, tmp_path):
    """What every engine must do: the same totals, a model's too; a killed worker, a damaged file, a mistake of the user's."""
    keys = [*SOME, BY_USER]
    assert_same(runner.tally(read(folder), keys, rows=100), expected, keys)
    assert_same(runner.tally(read(folder), MODEL, rows=100, probes=[Doubled()]), tally(read(folder), MODEL, probes=[Doubled()]), MODEL)
    killed = [(ALL, Moments(column="price")), (ALL, Moments(column="@killed")), (ALL, Distinct(column="item"))]
    note = tmp_path / "killed"
    assert_same(runner.tally(read(folder), killed, probes=[KillOnce(note)]), tally(read(folder), killed, probes=[KillOnce(note)]), killed)
    assert note.exists()
    assert_partial(runner, spoilt)
    with pytest.raises(DataError, match="text"):
        runner.tally(read(folder), [(ALL, Moments(column="text"))], pushdown=False)


def assert_partial(runner, spoilt):
    lost = []
    keys = [(ALL, Distinct(column="user")), BY_USER]
    found = runner.tally(read(spoilt), keys, loss=lost.append, pushdown=False)
    assert [one.name for one in lost] == [f"{spoilt / 'part-1.parquet'}, row group 0"]
    assert_same(found, reference(rest(), keys), keys)


def rest():
    """All rows but those of the row group whose page is damaged."""
    return pa.concat_tables([log().slice(0, 240), log().slice(360)])


# ---------------------------------------------------------------------- torchrun

RANK = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from recspect.diagnosis.runners.torchrun import torchrun_here
from recspect.diagnosis.runners.kept import Kept
from recspect.diagnosis.source import read
from recspect.errors import DataError
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.stats.moments import Moments
from test_runners import Doubled, KillOnce
from test_runners_engines import BY_USER, MODEL, SOME, Distinct

folder, spoilt, out = map(Path, sys.argv[1:4])
runner = torchrun_here(piece_rows=120, keep=Kept(out / "kept"))
rows, lost = [], []
killed = runner.tally(read(folder), [(ALL, Moments(column="@killed")), (ALL, Distinct(column="item"))], probes=[KillOnce(out / "note")], progress=rows.append)
(out / f"rows-{{runner.rank}}-{{os.environ['TORCHELASTIC_RESTART_COUNT']}}").write_text(str(sum(rows)))
killed.write(out / f"killed-{{runner.rank}}")
runner.tally(read(folder), [*SOME, BY_USER], rows=100).write(out / f"some-{{runner.rank}}")
runner.tally(read(folder), MODEL, rows=100, probes=[Doubled()]).write(out / f"model-{{runner.rank}}")
runner.tally(read(spoilt), [(ALL, Distinct(column="user")), BY_USER], loss=lost.append, pushdown=False).write(out / f"spoilt-{{runner.rank}}")
try:
    runner.tally(read(folder), [(ALL, Moments(column="text"))], pushdown=False)
except DataError as error:
    lost.append(error)
(out / f"lost-{{runner.rank}}").write_text(json.dumps([str(getattr(one, "name", one)) for one in lost]))
"""


@pytest.mark.slow
def test_torchrun_gives_the_same_totals_on_every_rank(folder, spoilt, expected, tmp_path):
    """One rank is killed in the first table: torchrun starts both anew, and what was kept is not read again."""
    (tmp_path / "rank.py").write_text(RANK.format(here=str(HERE)))
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", str(tmp_path / "rank.py"),
                           str(folder), str(spoilt), str(tmp_path)], capture_output=True, text=True, timeout=500, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (tmp_path / "stderr").write_text(done.stderr)
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if "Error" in line][-20:]
    assert (tmp_path / "note").exists()
    spoilt_keys = [(ALL, Distinct(column="user")), BY_USER]
    killed = [(ALL, Moments(column="@killed")), (ALL, Distinct(column="item"))]
    for rank in "01":
        assert_same(Tally.read(tmp_path / f"some-{rank}"), expected, [*SOME, BY_USER])
        assert_same(Tally.read(tmp_path / f"model-{rank}"), tally(read(folder), MODEL, probes=[Doubled()]), MODEL)
        assert_same(Tally.read(tmp_path / f"killed-{rank}"), tally(read(folder), killed, probes=[KillOnce(tmp_path / "note")]), killed)
        assert_same(Tally.read(tmp_path / f"spoilt-{rank}"), reference(rest(), spoilt_keys), spoilt_keys)
        lost, mistake = json.loads((tmp_path / f"lost-{rank}").read_text())
        assert lost.startswith(str(spoilt / "part-1.parquet"))
        assert "text" in mistake
        assert not (tmp_path / f"rows-{rank}-0").exists()
        assert int((tmp_path / f"rows-{rank}-1").read_text()) <= 1200


# ---------------------------------------------------------------------- Ray


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: make test-engines brings it")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 200 * 2**20})
    cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_totals(cluster, folder, spoilt, expected, tmp_path):
    from recspect.diagnosis.runners.ray_actors import ray_here

    runner = ray_here(piece_rows=120)
    assert runner.workers == 2
    assert_engine(runner, folder, spoilt, expected, tmp_path)
    kept = replace(runner, keep=Kept(tmp_path / "kept"))
    keys = [(ALL, Moments(column="price")), BY_USER]
    seen = []
    for rows in (2400, 0):
        seen.clear()
        kept.tally(read(folder), keys, progress=seen.append, pushdown=False)
        assert sum(seen) == rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_is_lost_changes_nothing(cluster, folder, tmp_path):
    """The node that an actor runs on is taken away while it works."""
    import threading

    from recspect.diagnosis.runners.ray_actors import Ray

    node = cluster.add_node(num_cpus=1, resources={"spare": 1}, object_store_memory=200 * 2**20)
    keys = [(ALL, Moments(column="@slow"))]
    timer = threading.Timer(3.0, cluster.remove_node, [node])
    timer.start()
    found = Ray(workers=3, piece_rows=120).tally(read(folder), keys, probes=[Slow()])
    timer.join()
    assert found[keys[0]].count == 1200
    assert found[keys[0]].mean == 1


class Slow(Doubled):
    """Half a second for every batch."""

    adds = ("@slow",)
    light = True
    reads = ("price",)

    def observe(self, batch):
        import time

        time.sleep(0.5)
        return {"@slow": np.ones(batch.rows)}


def test_where_there_is_no_cluster_the_error_says_what_to_do():
    ray = pytest.importorskip("ray", reason="Ray is not installed: make test-engines brings it")
    from recspect.diagnosis.runners.ray_actors import ray_here

    if ray.is_initialized():
        pytest.skip("a cluster is there")
    with pytest.raises(UsageError, match="no Ray cluster"):
        ray_here("127.0.0.1:1")


# ---------------------------------------------------------------------- Spark


@pytest.fixture(scope="module")
def spark():
    pytest.importorskip("pyspark.sql", reason="PySpark is not installed: make test-engines brings it")
    if shutil.which("java") is None:
        pytest.skip("no Java, which Spark runs on")
    from pyspark.sql import SparkSession

    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (SparkSession.builder.master("local-cluster[2,1,1024]" if os.environ.get("SPARK_HOME") else "local[2,3]").config("spark.ui.enabled", "false")
               .config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", "2").getOrCreate())
    yield session
    session.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_spark_gives_the_same_totals_of_files(spark, folder, spoilt, expected, tmp_path):
    from recspect.diagnosis.runners.spark import spark_here

    runner = spark_here(piece_rows=120)
    assert runner.spread.workers == 2
    assert_engine(runner, folder, spoilt, expected, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_spark_gives_the_same_totals_of_its_own_frames(spark, folder, table, tmp_path):
    from recspect.diagnosis.runners.spark import spark_here

    pq.write_table(table.drop_columns(["e", "h"]), tmp_path / "log.parquet", row_group_size=100)
    source = read(nw.from_native(spark.read.parquet(str(tmp_path / "log.parquet")).repartition(5)))
    keys = [key for key in [*SOME, BY_USER] if not {"e", "h"} & {*key[1].columns}]
    runner = spark_here()
    assert_same(runner.tally(source, keys, pushdown=False), reference(table, keys), keys)
    assert_same(runner.tally(source, MODEL, probes=[Doubled()]), tally(read(table), MODEL, probes=[Doubled()]), MODEL)
    pushed = [(ALL, Moments(column="price")), (ALL, Distinct(column="text"))]
    rows = []
    assert_same(runner.tally(source, pushed, progress=rows.append), reference(table, pushed), pushed)
    assert not rows
    with pytest.raises(DataError, match="text"):
        runner.tally(source, [(ALL, Moments(column="text"))], pushdown=False)
