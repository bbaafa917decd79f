"""A compressed model as a run directory, which whatever reads runs can load, and the page about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recspect.compressing.compress import Compression, Variant
from recspect.compressing.fitted import Fitted
from recspect.compressing.report import report_of
from recspect.diagnosis.finding import Report
from recspect.files import require_writable, write_bytes
from recspect.training.figures import TRAIN_ROWS_JUDGED, epoch_figures
from recspect.training.files import write_tensors
from recspect.training.rows import Tables
from recspect.training.run import Run, checkpoint

PAGE, TWIN = "compression.html", "compression.json"


def write(found: Compression, out: str | Path, *, command: str = "") -> Report:
    """Write the page, its JSON twin and, where a smaller model was proven equal, that model as a run directory.

    Raises:
        RunError: The folder already holds a run.
        UsageError: It cannot be written.
    """
    from recspect.report import html

    out = Path(out)
    require_writable(out, folder=True)
    report = report_of(found, command=command)
    if found.chosen is not None and found.fitted is not None:
        write_run(found.fitted, found.run, found.data, out, command=command, note=_note(found, found.chosen))
    write_bytes(out / TWIN, report.to_json().encode())
    html.write(report, out / PAGE)
    return report


def write_run(fitted: Fitted, run: Run, data: Any, out: Path, *, command: str = "", note: Mapping[str, Any] | None = None) -> Run:
    """The smaller model of a run as a finished run of its own, of one epoch.

    Args:
        fitted: The smaller model.
        run: The run that it was made of.
        data: The table of that run.
        out: Folder to write.
        command: What to type to do this again.
        note: How it was made and judged, for `run.json` under `compressed`.

    Raises:
        RunError: The folder already holds a run.
    """
    schema = fitted.transform.schema
    tables = Tables.cut(data, schema, run.config)  # anew: without a field the rows have another fingerprint
    train, validation, test = tables.encode(schema, fitted.transform, run.config.labels)
    figures = epoch_figures(fitted.model, (train.evenly(TRAIN_ROWS_JUDGED), validation, test))
    made = Run.create(out, schema=schema, transform=fitted.transform, config=run.config, data=run.record["data"], data_fingerprint=tables.fingerprint, split=tables.split, command=command)
    write_tensors(checkpoint(out, 1), fitted.model.state_dict())
    trained = next(entry for entry in run.epochs if entry["epoch"] == run.best_epoch)
    epoch = {"epoch": 1, "step": trained.get("step", 0), "train_loss": trained.get("train_loss"), **figures, "seconds": trained.get("seconds", 0.0)}
    return made.updated(status="finished", reason=f"compressed from run {run.id}", storage=fitted.storage.to_mapping(),
                        compressed={"from": run.id, "epoch": run.best_epoch, **(note or {})}, epochs_done=1, best_epoch=1, metrics={"epochs": [epoch]})


def _note(found: Compression, chosen: Variant) -> dict[str, Any]:
    return {"recipe": chosen.recipe.to_mapping(), "bytes": chosen.cost.bytes, "bytes_before": found.before.bytes, "limit": chosen.limit,
            "auc_difference": {"value": chosen.difference.value, "low": chosen.difference.low, "high": chosen.difference.high, "level": chosen.difference.level, "rows": chosen.difference.n},
            "variants_judged": len(found.variants)}


__all__ = ["PAGE", "TWIN", "write", "write_run"]
