"""How the cost of all table diagnostics grows with the rows: 100,000 to 100,000,000 generated scored rows, streamed, each size in a process of its own.

    python bench/growth.py [--sizes 1e5,1e6,1e7,1e8] [--reference 100000] [--slices 3] [--runner local]

Last line: one JSON object.

- `rows_per_second`: rows by processor seconds of `examine_table` (all diagnostics, a reference of 100,000 rows, baselines, three slices; making the rows is in it), by
  size. Processor seconds, as they do not depend on how busy the machine is; the time on the clock stands beside them.
- `ratio_last_to_first`: of rows per second, the largest size to the smallest. What is done once whatever the rows (judging, baselines) weighs on the smallest.
- `marginal_microseconds`: processor time per further row between one size and the next, in which what is done once cancels out; `marginal_ratio` is the last to the first.
- `peak_gib`: the most memory that a process held, over all sizes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from _generated import SCHEMA, Generated
from recspect.diagnosis.slice import Slice
from recspect.examining.examination import examine_table

SLICES = tuple(Slice.parse(text) for text in ("surface=home", "device=d0, surface=search", "age<25"))


def examined(rows, reference, slices, runner):
    """In the process of its own: what the report took."""
    wall, cpu = time.perf_counter(), time.process_time()
    report = examine_table(Generated(rows), SCHEMA, reference=Generated(reference, seed=1), slices=SLICES[:slices], runner=runner)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    verdicts = [finding.verdict.name for finding in report.findings]
    print(json.dumps({"rows": rows, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu + children.ru_utime + children.ru_stime,
                      "peak_gib": max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children.ru_maxrss) / 2**20,
                      "verdicts": {name: verdicts.count(name) for name in sorted(set(verdicts))}}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1e5,1e6,1e7,1e8")
    parser.add_argument("--reference", type=int, default=100_000)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--runner", default="local")
    parser.add_argument("--one", type=int, help="this size alone, in this process")
    options = parser.parse_args()
    if options.one:
        examined(options.one, options.reference, options.slices, options.runner)
        return
    sizes = sorted(int(float(size)) for size in options.sizes.split(","))
    found = []
    for size in sizes:
        done = subprocess.run([sys.executable, str(Path(__file__).resolve()), "--one", str(size), "--reference", str(options.reference), "--slices", str(options.slices),
                               "--runner", options.runner], stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{size:,} rows: {found[-1]}; load {os.getloadavg()[0]:.1f}", flush=True)
    speed = [one["rows"] / one["cpu"] for one in found]
    steps = [1e6 * (b["cpu"] - a["cpu"]) / (b["rows"] - a["rows"]) for a, b in pairwise(found)]
    print(json.dumps({
        "rows_per_second": {f"{one['rows']:.0e}".replace("e+0", "e"): round(rate) for one, rate in zip(found, speed, strict=True)},
        "ratio_last_to_first": round(speed[-1] / speed[0], 3), "marginal_microseconds": [round(step, 2) for step in steps],
        "marginal_ratio": round(steps[-1] / steps[0], 3) if len(steps) > 1 else None, "peak_gib": round(max(one["peak_gib"] for one in found), 2),
        "peak_gib_by_size": [round(one["peak_gib"], 2) for one in found], "seconds": [round(one["wall"], 1) for one in found], "cpu_seconds": [round(one["cpu"], 1) for one in found],
        "load": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
