"""All table diagnostics with 10 declared slices on 10,000,000 scored rows; and the figures of scikit-learn, torchmetrics and Evidently, from the same files.

    python bench/tables.py [--rows 10000000] [--reference 1000000] [--peer-rows 1000000] [--rounds 3]

Last line: one JSON object. The table is a world's log (200,000 users, 50,000 items) with 3 categorical and 2 numeric fields beside user and item, written to
Parquet in a temporary folder; the reference are 1,000,000 earlier rows.

- `seconds_10m`, `cpu_seconds_10m`, `peak_gib`: `examine_table` with every diagnostic, the reference and the 10 slices, baselines fitted and scored on all rows, in
  a process of its own held to two cores; from opening the file to the report. Named so whatever `--rows` says; `rows` tells.
- The peers would take minutes on so many rows, so they get the first `--peer-rows` of both tables. Each way starts from the files, in alternation; processor
  seconds, medians.
- scikit-learn: roc_auc_score, log_loss, brier_score_loss and calibration_curve (10 bins of equal weight) over all rows and each slice; ours adds up one
  `Bucketed(ScoreLabel)` each as `examine_table` does (in batches of rows), from which come the same four and the interval of the AUC over users.
- torchmetrics: BinaryAUROC (exact) and BinaryCalibrationError over the same; against the same total of ours.
- Evidently: PSI of the five fields of few values between both tables (with the ids of users and items it took 71 s on 300,000 rows); ours is the diagnostic
  `data.drift` through `examine_table`, with its band of chance. Evidently needs pandas below 3, so it lies in .venvs/evidently and runs in a process of its own,
  timed from opening the files; without it the figure is null.

Stops where AUC, log loss, Brier score or calibration curves differ by more than the bins of ours allow, or a PSI of few categories differs from Evidently's.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from _scored_tables import SCHEMA, SLICES
from _timing import seconds
from recspect.diagnosis.diagnostics.data.drift import Drift
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.examining.examination import TABLE_ROWS, examine_table
from recspect.schema import Schema

HERE = Path(__file__).resolve().parent
EVIDENTLY = HERE.parent / ".venvs" / "evidently"
COMPARED = tuple(field for field in SCHEMA.fields if field.name not in ("user", "item"))
FIELDS, NUMERIC = tuple(field.name for field in COMPARED), ("age", "price")
CUTS = (ALL, *SLICES)
COLUMNS = ["surface", "device", "country", "age", "price", "user", "score", "click"]


def examined(folder):
    """In the process of its own: the report, and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    report = examine_table(folder / "scored.parquet", SCHEMA, reference=folder / "reference.parquet", slices=SLICES)
    verdicts = [finding.verdict.name for finding in report.findings]
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu,
                      "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "questions": len(report.provenance["questions"]),
                      "verdicts": {name: verdicts.count(name) for name in sorted(set(verdicts))}}))


def alone(*arguments, cores=2, **settings):
    """The last line of a process of its own, as JSON; on at most so many cores."""
    def hold():
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    done = subprocess.run([sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True, preexec_fn=hold,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **settings})
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(path):
    """Figures by slice: AUC with its interval, log loss, Brier score, calibration."""
    stat = Bucketed(stat=ScoreLabel(score="score", label="click"), by="user")
    total = tally(read(path), [(cut, stat) for cut in CUTS], rows=TABLE_ROWS, pushdown=False)
    found = {}
    for cut in CUTS:
        parts = total[cut, stat]
        auc = parts.estimate(lambda one: one.auc, unit="AUC", n=lambda one: one.count)
        found[str(cut)] = {"auc": auc.value, "low": auc.low, "log_loss": parts.total.log_loss, "brier": parts.total.brier,
                           "curve": [(p, y) for _, p, y in parts.total.reliability(10)]}
    return found


def frames(path):
    """Every slice's scores and labels, as pandas gives them."""
    import pandas as pd

    rows = pd.read_parquet(path, columns=COLUMNS)
    held = {"all rows": slice(None)}
    for cut in SLICES:
        mask = np.ones(len(rows), dtype=bool)
        for term in cut.terms:
            column = rows[term.column]
            mask &= {"=": lambda c, v: c == v, "<": lambda c, v: c < float(v), ">=": lambda c, v: c >= float(v)}[term.operator](column, term.value).to_numpy()
        held[str(cut)] = mask
    return {name: (rows["score"].to_numpy()[mask].astype(np.float64), rows["click"].to_numpy()[mask]) for name, mask in held.items()}


def sklearn(path):
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    found = {}
    for name, (p, y) in frames(path).items():
        observed, predicted = calibration_curve(y, p, n_bins=10, strategy="quantile")
        found[name] = {"auc": roc_auc_score(y, p), "log_loss": log_loss(y, p), "brier": brier_score_loss(y, p), "curve": list(zip(predicted, observed, strict=True))}
    return found


def torchmetrics(path):
    import torch
    from torchmetrics.classification import BinaryAUROC, BinaryCalibrationError

    torch.set_num_threads(1)
    found = {}
    for name, (p, y) in frames(path).items():
        scores, labels = torch.from_numpy(p), torch.from_numpy(y.astype(np.int64))
        figures = {"auc": BinaryAUROC(thresholds=None), "calibration_error": BinaryCalibrationError(n_bins=10)}
        for metric in figures.values():
            metric.update(scores, labels)
        found[name] = {key: float(metric.compute()) for key, metric in figures.items()}
    return found


def our_drift(target, reference):
    """PSI of every field; without a label no baselines are fitted, which nobody asks for here."""
    report = examine_table(target, Schema(fields=COMPARED, user="user", ignored=("item", "time", "score", "click")), reference=reference, diagnostics=[Drift()])
    (table,) = {evidence for finding in report.findings for evidence in finding.evidence if evidence.title == "Which fields changed most?"}
    return {row[0]: row[1] for row in table.rows}


def evidently(target, reference):
    """In the process of its own: PSI of every field, and the processor seconds since the files were opened."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    warnings.simplefilter("ignore")
    definition = DataDefinition(numerical_columns=list(NUMERIC), categorical_columns=[name for name in FIELDS if name not in NUMERIC])

    def drift():
        now, before = (Dataset.from_pandas(pd.read_parquet(path, columns=list(FIELDS)), data_definition=definition) for path in (target, reference))
        found = Report([ValueDrift(column=name, method="psi") for name in FIELDS]).run(now, before).dict()
        return dict(zip(FIELDS, (float(metric["value"]) for metric in found["metrics"]), strict=True))

    spent, psi = seconds(drift)
    print(json.dumps({"seconds": spent, "psi": psi}))


def check(found):
    """The same answers: within what bins of scores, and other borders of groups, may do."""
    difference = {"auc": 0.0, "log_loss": 0.0, "brier": 0.0, "curve": 0.0}
    for name, mine in found["ours"].items():
        theirs = found["sklearn"][name]
        for key in ("auc", "log_loss", "brier"):
            difference[key] = max(difference[key], abs(mine[key] - theirs[key]))
        difference["auc"] = max(difference["auc"], abs(mine["auc"] - found["torchmetrics"][name]["auc"]))
        difference["curve"] = max(difference["curve"], float(np.abs(np.array(mine["curve"]) - np.array(theirs["curve"])).max()))
    assert difference["auc"] < 1e-4, difference
    assert max(difference["log_loss"], difference["brier"]) < 1e-9, difference
    assert difference["curve"] < .01, difference
    if "evidently" in found:  # of more than 20 categories, or of numbers, the bins are others
        worst = max(abs(found["our_drift"][name] - found["evidently"][name]) for name in ("surface", "device"))
        assert worst < 1e-3, (found["our_drift"], found["evidently"])
    return difference


def first_rows(path, rows, to):
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(path).slice(0, rows), to)
    return to


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--reference", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # those of the libraries measured against
    with tempfile.TemporaryDirectory(prefix="recspect-bench-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, str(HERE / "_scored_tables.py"), name, str(options.rows), str(options.reference)], check=True)
        load = os.getloadavg()[0]
        whole = alone(__file__, "examined", folder)
        print(f"{options.rows:,} rows: {whole}; load of the machine before {load:.1f}")
        target = first_rows(folder / "scored.parquet", options.peer_rows, folder / "target.parquet")
        reference = first_rows(folder / "reference.parquet", options.peer_rows, folder / "before.parquet")
        ways = {"ours": lambda: ours(target), "sklearn": lambda: sklearn(target), "torchmetrics": lambda: torchmetrics(target),
                "our_drift": lambda: our_drift(target, reference)}
        times, found = {way: [] for way in (*ways, "evidently")}, {}
        for round_ in range(options.rounds + 1):  # alternating, so that a slow moment hits all alike
            for way, call in ways.items():
                spent, found[way] = seconds(call)
                if round_:  # the first round warms up
                    times[way].append(spent)
            if round_ and EVIDENTLY.is_dir():
                one = alone(__file__, "evidently", target, reference, PYTHONPATH=f"{EVIDENTLY}{os.pathsep}{HERE}")
                times["evidently"].append(one["seconds"])
                found["evidently"] = one["psi"]
    median = {way: statistics.median(spent) for way, spent in times.items() if spent}
    print({way: round(spent, 3) for way, spent in median.items()}, "processor seconds")
    difference = check(found)
    print(json.dumps({
        "seconds_10m": round(whole["wall"], 1), "cpu_seconds_10m": round(whole["cpu"], 1), "peak_gib": round(whole["peak_gib"], 2),
        "speedup_vs_sklearn": round(median["sklearn"] / median["ours"], 2), "speedup_vs_torchmetrics": round(median["torchmetrics"] / median["ours"], 2),
        "speedup_vs_evidently": round(median["evidently"] / median["our_drift"], 2) if "evidently" in median else None,
        "rows": options.rows, "reference_rows": options.reference, "slices": len(SLICES), "questions": whole["questions"], "verdicts": whole["verdicts"],
        "load": round(load, 1), "peer_rows": options.peer_rows, "rounds": options.rounds, "cpu_seconds": {way: round(spent, 3) for way, spent in median.items()},
        "largest_difference": {key: float(f"{value:.2g}") for key, value in difference.items()}}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["examined"]:
        examined(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["evidently"]:
        evidently(*map(Path, sys.argv[2:]))
    else:
        main()
