"""Examine a training that an `Observer` watched in somebody's own loop: what its steps say, without the model and its data."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recspect.diagnosis.evidence import Curve, Evidence, Line, Reasons
from recspect.diagnosis.finding import Report
from recspect.errors import RunError
from recspect.examining.watched_steps import as_columns, findings_on
from recspect.files import write_bytes

QUESTIONS = ("training.batch_size", "training.gradient_flow", "training.learning_rate", "training.loss_anomaly", "training.update_ratio")
"""What can be asked of the steps alone; the other questions about training need the model and its data (`--subject`)."""

SHOWN = ("loss/train", "loss/validation", "auc/train", "auc/validation", "noise_scale")
"""Series of the whole model that the report draws."""


def examine_observed(folder: str | Path) -> Report:
    """Judge an observed training, and write `findings.json` and `report.html` into its folder.

    Args:
        folder: What `Observer(folder=...)` wrote: `observed.json` and `steps.parquet`.

    Returns:
        Findings on the loss, gradients, updates and units. What was told while the training went on stands in the overview.

    Raises:
        RunError: A file is missing or damaged.
    """
    from recspect.diagnosis.observing.record import read_record
    from recspect.report.html import write

    folder = Path(folder)
    record = read_record(folder)
    table = as_columns(_steps(folder / "steps.parquet"))
    findings = findings_on(table, name=str(record.get("id", folder.name)), source="the training's steps", questions=QUESTIONS)
    report = Report(findings=findings, overview=(*_curves(table), *_told(record)), title=f"the training {record.get('id', folder.name)}",
                    provenance={"observed": str(folder), **{key: record.get(key) for key in (
                        "created", "status", "model", "parameters", "steps_done", "every", "torch", "recspect", "left_out", "failure")},
                        "questions": list(QUESTIONS)})
    write_bytes(folder / "findings.json", report.to_json().encode())
    write(report, folder / "report.html")
    return report


def _steps(path: Path) -> pa.Table:
    from recspect.diagnosis.observing.rows import STEPS

    try:
        return pq.read_table(path).cast(STEPS)
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path} is missing or damaged: {error}", hint="did the loop end with observer.finish()?") from None


def _curves(table: pa.Table) -> list[Evidence]:
    by_series: dict[str, list[tuple[float, float]]] = {}
    for row in table.to_pylist():
        if row["@series"] in SHOWN and not row["@place"]:
            by_series.setdefault(row["@series"], []).append((float(row["@step"]), row["@value"]))
    groups = {"loss": "How did the loss go?", "auc": "How did the AUC go?", "noise_scale": "From which batch size on do more rows bring little?"}
    found: list[Evidence] = []
    for word, title in groups.items():
        lines = tuple(Line(name=series, x=tuple(x for x, _ in points), y=tuple(y for _, y in points),
                           role="reference" if series.endswith("train") and len(by_series) > 1 else "target")
                      for series, points in by_series.items() if series.split("/")[0] == word and len(points) > 1)
        if lines:
            found.append(Curve(title=title, x_title="step", y_title="rows" if word == "noise_scale" else word, lines=lines, stage="training",
                               log_y=word == "noise_scale"))
    return found


def _told(record: object) -> list[Evidence]:
    content = record if isinstance(record, dict) else {}
    told = [f"{entry.get('verdict')} {entry.get('code')}: {entry.get('claim')}" for entry in content.get("told", []) if isinstance(entry, dict)]
    found: list[Evidence] = []
    if told:
        found.append(Reasons(title="What was told while the training went on?", items=tuple(told[:40]), stage="training"))
    if content.get("left_out"):
        found.append(Reasons(title="What of the model could not be seen?", items=tuple(map(str, content["left_out"])), stage="training"))
    return found
