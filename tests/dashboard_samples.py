"""Run directories as trainings leave them, made by hand and small."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recspect.diagnosis.observing.rows import HISTOGRAMS, STEPS
from report_samples import kuairand_like_report

HOSTILE = '<img src=x onerror=alert(1)>"\'&\u202egnp.exe' + "x" * 10_000


def record(name, *, status="finished", epochs=2, days=0, **changes):
    figures = [{"epoch": k + 1, "step": 40 * (k + 1), "train_loss": 0.6 - k / 10, "validation_auc": 0.70 + k / 100} for k in range(epochs)]
    return {"format": "recspect-run", "version": 1, "id": name, "status": status, "created": (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days)).isoformat(),
            "model": {"name": "deepfm"}, "inputs": [], "training": {}, "label": "click", "data": {"kind": "dataset", "name": "kuairand-pure"}, "data_fingerprint": "x",
            "metrics": {"epochs": figures}, "epochs_done": epochs, "best_epoch": epochs or None} | changes


def steps(until=80, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(1, until + 1):
        epoch = 1 + (step - 1) // 40
        rows.append((step, epoch, "loss/train", "", 0.7 * 0.99**step + 0.01 * rng.normal()))
        rows += [(step, epoch, "gradient_norm", f"mlp.{k}.weight", float(np.exp(rng.normal() - k))) for k in range(3)]
        rows += [(step, epoch, "activation_deviation", f"mlp.{k}", 0.1 * k + step / 100) for k in range(3)]
        if step % 40 == 0:
            rows += [(step, epoch, "loss/validation", "", 0.65 - epoch / 50), (step, epoch, "auc/validation", "", 0.69 + epoch / 100)]
    return pa.Table.from_arrays([pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), STEPS.types, strict=True)], schema=STEPS)


def histograms():
    rows = [(step, 1, "activation", place, list(np.linspace(-1.0, 1.0 + step / 100, 9)), [1, 2, 3, 4, 4, 3, 2, 1]) for step in (1, 40, 80) for place in ("mlp.0", "mlp.1")]
    return pa.Table.from_arrays([pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), HISTOGRAMS.types, strict=True)], schema=HISTOGRAMS)


def make_run(folder, report=None, **changes):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record(folder.name, **changes)))
    pq.write_table(steps(), folder / "steps.parquet")
    pq.write_table(histograms(), folder / "histograms.parquet")
    if report is not None:
        (folder / "findings.json").write_text(report.to_json())
    return folder


def healthy_report():
    report = kuairand_like_report()
    return replace(report, findings=tuple(f for f in report.findings if f.verdict.value in ("PASS", "UNKNOWN")))
