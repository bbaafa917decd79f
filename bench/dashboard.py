"""How long the dashboard's server takes for a page: the overview of 200 runs, and every page of a run of ten million scored rows.

    python bench/dashboard.py [--rows 10000000] [--runs 200] [--rounds 10]

Last line: one JSON object. The server is a process of its own; requests come one after another over one connection.

- `p95_ms_overview`: 95th percentile of `GET /`, when every run is known to the server; `first_ms_overview` is the first request, which reads them all.
- `p95_ms_pages`: 95th percentile over all pages of the examined table (summary, each stage, findings, provenance, what is known of a field and a slice), the training page of one of
  the runs, and the page of effects;
  `first_ms_pages` the slowest first request of a page.
- `rows`, `findings_bytes`: of the examined table.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from _scored_tables import SCHEMA, SLICES, write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from dashboard_samples import make_run


def examine(folder, rows):
    """Findings of a table of so many scored rows."""
    from recspect.examining.examination import examine_table

    write(folder, rows, min(rows, 1_000_000))
    report = examine_table(folder / "scored.parquet", SCHEMA, reference=folder / "reference.parquet", slices=SLICES)
    return report.to_json()


def places_of(findings):
    """A field and a slice that the report speaks of: pages of one thing gather from all of it."""
    found = {finding["place"]["kind"]: finding["place"]["name"] for finding in json.loads(findings)["findings"] if finding["place"]["name"]}
    return [(kind, found[kind]) for kind in ("field", "slice") if kind in found]


def timed(url, rounds):
    """Milliseconds of the first request, and of the others."""
    took = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": "text/html"}), timeout=60) as answer:
            answer.read()
        took.append(1000 * (time.perf_counter() - started))
    return took[0], took[1:]


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=10_000_000)
    options.add_argument("--runs", type=int, default=200)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--port", type=int, default=8097)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="recspect-bench-") as name:
        folder = Path(name)
        (folder / "table").mkdir()
        findings = examine(folder / "table", asked.rows)
        shutil.rmtree(folder / "table")
        runs = folder / "runs"
        for k in range(asked.runs - 1):
            (make_run(runs / f"run-{k:03d}", days=k) / "findings.json").write_text(findings)
        (runs / "large").mkdir()
        (runs / "large" / "findings.json").write_text(findings)
        server = subprocess.Popen([sys.executable, "-c", "from recspect.cli import main; main()", "dashboard", str(runs), "--port", str(asked.port)], env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            at = f"http://127.0.0.1:{asked.port}"
            for _ in range(600):
                try:
                    timed(f"{at}/assets/vega.js", 0)  # also that the server has warmed up
                    break
                except OSError:
                    time.sleep(0.1)
            first_overview, overview = timed(f"{at}/", 10 * asked.rounds)
            stages = sorted({finding["code"].split(".")[0] for finding in json.loads(findings)["findings"]})
            pages = [f"{at}/runs/large", *(f"{at}/runs/large/{page}" for page in (*stages, "findings", "provenance")), f"{at}/runs/run-000/training", f"{at}/runs/run-000/training/now",
                     f"{at}/effects", *(f"{at}/runs/large/about?{urlencode({'kind': kind, 'name': name})}" for kind, name in places_of(findings))]
            first, later = [], []
            for page in pages:
                once, again = timed(page, asked.rounds)
                first.append(once)
                later += again
                print(f"{page[len(at):]:40} first {once:7.1f} ms, then {np.median(again):6.1f} ms", flush=True)
        finally:
            server.terminate()
            server.wait(timeout=20)
    print(json.dumps({"p95_ms_overview": round(float(np.percentile(overview, 95)), 1), "first_ms_overview": round(first_overview, 1),
                      "p95_ms_pages": round(float(np.percentile(later, 95)), 1), "first_ms_pages": round(max(first), 1),
                      "runs": asked.runs, "rows": asked.rows, "pages": len(pages), "findings_bytes": len(findings.encode())}))


if __name__ == "__main__":
    main()
