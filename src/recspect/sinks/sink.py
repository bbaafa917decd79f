"""What a sink is: somewhere that shows scalars, histograms, tables, pictures, files and findings of a run."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Report
from recspect.diagnosis.mirror import HistogramRow, StepRow

WHOLE_MODEL = "whole_model"
"""Last part of the tag of a series that belongs to no single layer or parameter."""


@dataclass(frozen=True, kw_only=True)
class RunCard:
    """What a sink is told of a run before anything else.

    Args:
        id: Name of the run.
        command: What to type to make the run again.
        created: ISO 8601, UTC.
        settings: Of the training, the model and the data, flat: {"training.batch_rows": 1024, ...}; values are text,
            numbers, truth values or None.
        measures: Tags of the scalars by which runs are compared, such as "auc/validation".
        values: The latest value of each measure that has one.
    """

    id: str
    command: str = ""
    created: str = ""
    settings: Mapping[str, Any]
    measures: tuple[str, ...] = ()
    values: Mapping[str, float]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> RunCard:
        """From the content of `run.json`; only `id` has to be there."""
        settings: dict[str, Any] = {}
        for part in ("training", "model", "data", "split"):
            settings |= _flat(part, record.get(part) or {})
        settings |= {key: record[key] for key in ("seed", "label", "data_fingerprint", "recspect", "python") if key in record}
        epochs = (record.get("metrics") or {}).get("epochs") or []
        binary = (record.get("model") or {}).get("output", "logit") == "logit"
        measures = tuple(f"{metric}/{part}" for metric in ("auc" if binary else "rmse", "loss") for part in ("validation", "test"))
        latest = {measure: _figure(epochs[-1], measure) for measure in measures} if epochs else {}
        return cls(id=str(record.get("id") or "run"), command=str(record.get("command") or ""), created=str(record.get("created") or ""),
                   settings=settings, measures=measures, values={key: value for key, value in latest.items() if value is not None})


class Sink(ABC):
    """Shows one run. Calls come in this order: `open`, anything else in any number, `close`.

    Everything that a sink is given it puts where its users look for such things. Opening the same run again shows it
    anew instead of twice, as far as the sink can forget. Methods may raise whatever the sink's library raises.
    """

    name: str
    """Such as "tensorboard"."""

    @abstractmethod
    def open(self, run: RunCard) -> None:
        """Begin to show a run."""

    @abstractmethod
    def scalars(self, rows: Sequence[StepRow]) -> None:
        """Points of lines, steps ascending from call to call. Values may be NaN or infinite."""

    @abstractmethod
    def histograms(self, rows: Sequence[HistogramRow]) -> None:
        """Distributions, with the very bins they were counted in."""

    @abstractmethod
    def table(self, name: str, table: RankedTable) -> None:
        """A table, such as the importance of fields."""

    @abstractmethod
    def picture(self, name: str, png: bytes, caption: str) -> None:
        """A chart."""

    @abstractmethod
    def findings(self, report: Report) -> None:
        """Verdict and findings: text to read, tags to search by, alerts for what failed."""

    @abstractmethod
    def artefact(self, path: Path) -> None:
        """A file to keep with the run: report.html, findings.json."""

    @abstractmethod
    def flush(self) -> None:
        """Make what was given so far visible."""

    @abstractmethod
    def close(self, status: str) -> None:
        """The run is complete: "finished" or "interrupted"."""

    @property
    @abstractmethod
    def where(self) -> str:
        """How to look at what was sent, as a command or an address."""


# ---------------------------------------------------------------------- words that all sinks share


def tag(series: str, place: str = "") -> str:
    """Name of a line, such as "gradient_norm/mlp.0.weight", "loss/train", "gradient_norm/whole_model"."""
    if place:
        return f"{series}/{place}"
    return series if "/" in series else f"{series}/{WHOLE_MODEL}"


def slug(text: str) -> str:
    """A title as a name: lower-case words joined by underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:80] or "untitled"


def finding_markdown(finding: Finding) -> str:
    """One finding as Markdown."""
    place = f" ({_cell(finding.place)})" if finding.place.name else ""
    lines = [f"### {finding.verdict.value}: {finding.code}{place}", "", _cell(finding.claim), ""]
    facts = [("Number", str(finding.estimate) if finding.estimate else ""), ("Threshold", finding.threshold), ("Why it matters", finding.meaning)]
    lines += [f"- **{label}**: {_cell(text)}" for label, text in facts if text]
    if finding.causes:
        lines.append(f"- **Usual causes**: {_cell('; '.join(finding.causes))}")
    lines += [f"- **Try**: {remedy.text}" + (f" `{remedy.command}`" if remedy.command else "") for remedy in finding.remedies]
    return "\n".join(lines)


def findings_markdown(report: Report) -> str:
    """All findings as Markdown: verdict, a table of all, then what is not PASS in full."""
    counts = ", ".join(f"{sum(f.verdict is verdict for f in report.findings)} {verdict.value}" for verdict in type(report.verdict))
    rows = [f"| {f.verdict.value} | {f.code} | {_cell(str(f.place) if f.place.name else '')} | {_cell(f.claim)} |" for f in report.ranked]
    full = [finding_markdown(f) for f in report.ranked if f.verdict.value in ("FAIL", "WARN")]
    return "\n\n".join([f"## {report.verdict.value}: {_cell(report.title) or 'findings'}", counts,
                        "\n".join(["| verdict | finding | place | what was seen |", "| --- | --- | --- | --- |", *rows]), *full])


def table_markdown(table: RankedTable) -> str:
    """A table as Markdown, numbers rounded."""
    rows = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join([f"### {_cell(table.title)}", "", "| " + " | ".join(map(_cell, table.columns)) + " |",
                      "|" + " --- |" * len(table.columns), *rows, "", _cell(table.caption)])


def worst_by_code(report: Report) -> dict[str, Finding]:
    """The worst finding of each code."""
    worst: dict[str, Finding] = {}
    for finding in report.ranked:
        worst.setdefault(finding.code, finding)
    return worst


def finite_edges(row: HistogramRow) -> bool:
    """Whether a histogram can be shown: ascending edges and at least one count."""
    return len(row.edges) == len(row.counts) + 1 and len(row.counts) > 0 and sum(row.counts) > 0


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:,.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())  # names of columns and values are data, never markup


def _flat(prefix: str, content: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            flat |= _flat(name, value)
        elif isinstance(value, (list, tuple)):
            flat[name] = " ".join(map(str, value))
        else:
            flat[name] = value
    return flat


def _figure(epoch: Mapping[str, Any], measure: str) -> float | None:
    metric, part = measure.split("/")
    value = epoch.get(f"{part}_{metric}")
    return None if value is None else float(value)
