"""Two processes of this machine against one: a model's scores and attributions over a table in memory, and whether the totals are the same.

    python bench/runners.py [--rows 200000] [--rounds 3]

Last line: one JSON object.

- `speedup_2_workers`: seconds on the clock with one process by seconds with two, of the same tasks, medians of alternating rounds; both pools have begun before.
  Two processes need two free cores: `load` is the machine's before, and with a load above 1 the figure says more about the others than about this.
- `work_share`: the larger of the two processes' processor time by their sum: 0.5 where the work was halved. It does not depend on the load; 0.5 / `work_share` times two
  is the speed-up that two free cores would give, less what is done by one alone.
- `alone_share`: processor time of this process (sending, adding up what came back) by all processor time.
- `speedup_on_free_cores`: from these two, all processor time by the time of the longest way: this process and the busier worker.
- `equal`: totals of local, one and two processes agree to 1e-9 of their size.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from _deepfm import FIELDS, DeepFM
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.internals import ScoreProbe
from recspect.diagnosis.runners.processes import Processes
from recspect.diagnosis.runners.runner import Local
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.measures import NDCG
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.subject import TorchSubject
from recspect.testing.laws import find_difference

IDS = 20_000


def processor_seconds(runner):
    """Of each of the runner's processes since it began (Linux)."""
    ticks = os.sysconf("SC_CLK_TCK")
    return [sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) / ticks for pid in sorted(runner._pool[0].executor._processes)]


def table(rows):
    rng = np.random.default_rng(0)
    columns = {f"f{k}": (IDS * rng.random(rows) ** 2).astype(np.int64) for k in range(FIELDS)}
    return read(Batch({**columns, "user": rng.integers(0, rows // 20, rows), "@label": (rng.random(rows) < 0.2).astype(np.int64)}), name="rows")


def subject():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = DeepFM(IDS).double()
    return TorchSubject(model, fields=[f"f{k}" for k in range(FIELDS)], forward=lambda module, inputs: torch.sigmoid(module(inputs)).reshape(-1), name="DeepFM")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    source, load = table(options.rows), os.getloadavg()[0]
    keys = [(ALL, Bucketed(stat=ScoreLabel(), by="user")), (ALL, Moments(column="@score")), (ALL, PerUnit(unit="user", measures=(NDCG(k=10),)))]
    probes = [ScoreProbe(subject())]
    runners = {"local": Local(), "one": Processes(workers=1), "two": Processes(workers=2)}
    times, own, worked, found = {name: [] for name in runners}, [], [], {}
    for round_ in range(options.rounds + 1):
        for name, runner in runners.items():
            before = processor_seconds(runner) if round_ and name == "two" else []
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = runner.tally(source, keys, probes=probes, rows=8192)
            if round_:  # in the first the processes begin
                times[name].append(time.perf_counter() - wall)
            if before:
                own.append(time.process_time() - cpu)
                worked.append([after - then for after, then in zip(processor_seconds(runner), before, strict=True)])
        print({name: round(spent[-1], 2) for name, spent in times.items() if spent}, f"load {os.getloadavg()[0]:.1f}", flush=True)
    equal = all(not find_difference(found[name][key], found["local"][key], tolerance=1e-9) for name in ("one", "two") for key in keys)
    work = [statistics.median(spent) for spent in zip(*worked, strict=True)]
    alone = statistics.median(own)
    print(json.dumps({
        "speedup_2_workers": round(statistics.median(times["one"]) / statistics.median(times["two"]), 2), "work_share": round(max(work) / sum(work), 3),
        "alone_share": round(alone / (alone + sum(work)), 3), "speedup_on_free_cores": round((alone + sum(work)) / (alone + max(work)), 2), "equal": bool(equal),
        "rows": options.rows, "seconds": {name: round(statistics.median(spent), 2) for name, spent in times.items()}, "load": round(load, 1), "rounds": options.rounds}))


if __name__ == "__main__":
    main()
