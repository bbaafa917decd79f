"""MLflow: a run in a tracking store (SQLite or a server).

Metrics: every series, with steps. Parameters: settings. Tags: `recspect.verdict`, `recspect.finding.<code>`, to search runs by.
Description: the findings. Artifacts: report, findings, pictures, and tables as MLflow's own tables (histograms among them,
as MLflow has no place of its own for those).
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Report
from recspect.diagnosis.mirror import HistogramRow, StepRow
from recspect.errors import MissingExtraError
from recspect.sinks.sink import RunCard, Sink, findings_markdown, finite_edges, tag, worst_by_code

EXPERIMENT = "recspect"
METRICS_AT_ONCE, PARAMETERS_AT_ONCE = 1000, 100
"""MLflow's limits of one batch; one metric at a time costs 100 times as much."""
LONGEST_TAG, LONGEST_PARAMETER = 8000, 6000


class MLflow(Sink):
    """One run of an experiment.

    The same run sent again goes on with its MLflow run: points that are there are not written twice.

    Args:
        uri: Tracking store: "sqlite:///runs.db" or "http://127.0.0.1:5000".
        experiment: Made where it is missing; with a SQLite store, its artefacts lie in `mlartifacts` beside the file.
    """

    name = "mlflow"

    def __init__(self, uri: str, *, experiment: str = EXPERIMENT) -> None:
        try:
            from mlflow import MlflowClient  # noqa: F401
        except ImportError:
            raise MissingExtraError("mlflow", extra="mlflow", purpose="Sending to MLflow") from None
        self.uri, self.experiment = uri, experiment
        self._client: Any = None
        self._run = ""
        self._old: set[tuple[str, int]] = set()
        self._tables: set[str] = set()
        self._histograms: list[HistogramRow] = []

    def open(self, run: RunCard) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=self.uri)
        experiment = self._experiment()
        key = f"{run.id} {run.created}".strip()
        found = self._client.search_runs([experiment], filter_string=f"tags.`recspect.run` = '{key.replace(chr(39), '')}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._old = {(point.key, point.step) for name in found[0].data.metrics for point in self._client.get_metric_history(self._run, name)}
            self._tables = {entry.path for entry in self._client.list_artifacts(self._run, "tables")}
            self._client.update_run(self._run, status="RUNNING")
        else:
            tags = {"recspect.run": key.replace("'", ""), "mlflow.source.name": run.command or "recspect"}
            self._run = self._client.create_run(experiment, tags=tags, run_name=run.id).info.run_id
        there = set(found[0].data.params) if found else set()
        settings = [Param(_key(name), str(value)[:LONGEST_PARAMETER]) for name, value in run.settings.items() if _key(name) not in there]
        for some in _pieces(settings, PARAMETERS_AT_ONCE):
            self._client.log_batch(self._run, params=some)

    def scalars(self, rows: Sequence[StepRow]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_key(tag(row.series, row.place)), row.value, now, row.step) for row in rows]
        for some in _pieces([metric for metric in metrics if (metric.key, metric.step) not in self._old], METRICS_AT_ONCE):
            self._client.log_batch(self._run, metrics=some)

    def histograms(self, rows: Sequence[HistogramRow]) -> None:
        self._histograms += filter(finite_edges, rows)

    def table(self, name: str, table: RankedTable) -> None:
        self._table(f"tables/{name}.json", table.columns, table.rows)

    def picture(self, name: str, png: bytes, caption: str) -> None:
        from PIL import Image

        image = Image.open(io.BytesIO(png))
        image.info["caption"] = caption
        self._client.log_image(self._run, image, artifact_file=f"pictures/{_key(name)}.png")

    def findings(self, report: Report) -> None:
        rows = [(f.verdict.value, f.code, str(f.place), f.claim, str(f.estimate or "")) for f in report.ranked]
        self._table("tables/findings.json", ("verdict", "finding", "place", "what was seen", "number"), rows)
        self._client.set_tag(self._run, "recspect.verdict", report.verdict.value)
        for code, finding in worst_by_code(report).items():
            self._client.set_tag(self._run, f"recspect.finding.{code}", finding.verdict.value)
        self._client.set_tag(self._run, "mlflow.note.content", findings_markdown(report)[:LONGEST_TAG])

    def artefact(self, path: Path) -> None:
        self._client.log_artifact(self._run, str(path))

    def flush(self) -> None:
        """Every call is written at once, histograms at the end."""

    def close(self, status: str) -> None:
        if self._histograms:
            rows = [(row.step, row.series, row.place, list(row.edges), list(row.counts)) for row in self._histograms]
            self._table("tables/histograms.json", ("step", "series", "place", "edges", "counts"), rows)
        self._client.set_terminated(self._run, "FINISHED" if status == "finished" else "KILLED")

    @property
    def where(self) -> str:
        return self.uri if self.uri.startswith("http") else f"mlflow server --backend-store-uri {self.uri}"

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        beside = None
        if self.uri.startswith("sqlite:///"):
            beside = (Path(self.uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
        return str(self._client.create_experiment(self.experiment, artifact_location=beside))

    def _table(self, path: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if path in self._tables:  # log_table would append to what an earlier sending wrote
            text = json.dumps({"columns": list(columns), "data": [list(row) for row in rows]}, default=str)
            self._client.log_text(self._run, text, path)
            return
        self._client.log_table(self._run, {column: [row[k] for row in rows] for k, column in enumerate(columns)}, path)
        self._tables.add(path)


def _key(name: str) -> str:
    """A name that MLflow takes: letters, digits, and _ - . / and space."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)[:250]


def _pieces(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start:start + size]
