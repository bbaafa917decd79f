"""Weights & Biases: one run, offline unless WANDB_MODE says otherwise; `wandb sync` uploads it.

Charts: every series, grouped by its first word, over our own step. Histograms: our bins. Config: settings. Summary: verdict, a
verdict per finding. Tables: importance, findings. Media: charts and the report. Alerts: findings that fail. Artifacts: the report.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Report, Verdict
from recspect.diagnosis.mirror import HistogramRow, StepRow
from recspect.errors import MissingExtraError
from recspect.sinks.sink import RunCard, Sink, finite_edges, tag, worst_by_code

SUMMARIES = {"loss/*": "min", "auc/*": "max", "rmse/*": "min"}
"""What the overview of runs shows of a line besides its last value."""


class WeightsAndBiases(Sink):
    """One run in a project.

    Args:
        folder: Where the offline run is written: `folder/wandb/offline-run-...`.
        project: Default: WANDB_PROJECT, else "recspect".
    """

    name = "wandb"

    def __init__(self, folder: str | Path, *, project: str = "") -> None:
        try:
            import wandb  # noqa: F401
        except ImportError:
            raise MissingExtraError("wandb", extra="wandb", purpose="Sending to Weights & Biases") from None
        self.folder = Path(folder)
        self.project = project or os.environ.get("WANDB_PROJECT") or "recspect"
        self._run: Any = None
        self._place = ""

    def open(self, run: RunCard) -> None:
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self.project, name=run.id, id=re.sub(r"[^A-Za-z0-9_-]+", "-", run.id)[:64], dir=str(self.folder),
            mode=os.environ.get("WANDB_MODE") or "offline", job_type="training", tags=["recspect"], notes=run.command,
            config={**run.settings, "created": run.created}, reinit="create_new", allow_val_change=True,
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True))
        self._place = str(Path(self._run.dir).parent)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        for pattern, summary in SUMMARIES.items():
            self._run.define_metric(pattern, step_metric="step", summary=f"{summary},last")

    def scalars(self, rows: Sequence[StepRow]) -> None:
        for step, group in groupby(rows, key=lambda row: row.step):
            self._run.log({"step": step, **{tag(row.series, row.place): row.value for row in group}})

    def histograms(self, rows: Sequence[HistogramRow]) -> None:
        import wandb

        for step, group in groupby(filter(finite_edges, rows), key=lambda row: row.step):
            shown = {f"{tag(row.series, row.place)}": wandb.Histogram(np_histogram=(np.asarray(row.counts), np.asarray(row.edges)))
                     for row in group}
            self._run.log({"step": step, **{f"histograms/{name}": value for name, value in shown.items()}})

    def table(self, name: str, table: RankedTable) -> None:
        self._run.log({f"tables/{name}": self._table(table.columns, table.rows)})

    def picture(self, name: str, png: bytes, caption: str) -> None:
        import wandb
        from PIL import Image

        self._run.log({f"pictures/{name}": wandb.Image(Image.open(io.BytesIO(png)), caption=caption)})

    def findings(self, report: Report) -> None:
        import wandb

        rows = [(f.verdict.value, f.code, str(f.place), f.claim, str(f.estimate or ""), "; ".join(r.text for r in f.remedies)) for f in report.ranked]
        self._run.log({"findings": self._table(("verdict", "finding", "place", "what was seen", "number", "what to try"), rows)})
        self._run.summary["recspect/verdict"] = report.verdict.value
        for code, finding in worst_by_code(report).items():
            self._run.summary[f"recspect/finding/{code}"] = finding.verdict.value
        for finding in report.with_verdict(Verdict.FAIL):
            place = f" {finding.place.name}" if finding.place.name else ""
            self._run.alert(title=f"FAIL {finding.code}{place}"[:63], text=finding.claim, level=wandb.AlertLevel.ERROR)

    def artefact(self, path: Path) -> None:
        import wandb

        kind = "report" if path.suffix == ".html" else "run-record"
        artifact = wandb.Artifact(f"{path.stem}-{self._run.id}", type=kind)
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)
        if path.suffix == ".html":
            self._run.log({"report": wandb.Html(path.read_text(encoding="utf-8"), inject=False)})

    def flush(self) -> None:
        """W&B writes by itself."""

    def close(self, status: str) -> None:
        self._run.summary["recspect/status"] = status
        self._run.finish(exit_code=0 if status == "finished" else 1)

    @property
    def where(self) -> str:
        return f"wandb sync {self._place or self.folder}"

    @staticmethod
    def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
        import wandb

        return wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
