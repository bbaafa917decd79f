"""Visdom: an environment named after the run.

Lines: a window per group of series (loss, gradient_norm, ...), a trace per layer or parameter. Histograms: bars of the latest
step. Findings, tables: text panes. Charts: image panes. Report: a pane that holds the page.

Speaks the server's HTTP interface itself (POST /events, /update, /save, as the `visdom` package does), because the package's
client would bring a websocket thread and hides failures; so this sink needs nothing but Python.
"""

from __future__ import annotations

import base64
import html
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Report
from recspect.diagnosis.mirror import HistogramRow, StepRow
from recspect.errors import UsageError
from recspect.sinks.sink import RunCard, Sink, finite_edges, slug, tag

TIMEOUT_SECONDS = 20.0
COLOURS = {"FAIL": "#b3261e", "WARN": "#9a6700", "UNKNOWN": "#57606a", "PASS": "#1a7f37"}


class Visdom(Sink):
    """Windows of one run on a Visdom server.

    Args:
        url: Of the server, such as "http://127.0.0.1:8097".
    """

    name = "visdom"

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is no address of a Visdom server", hint="visdom:http://127.0.0.1:8097")
        self.url = url.rstrip("/")
        loopback = parts.hostname in ("127.0.0.1", "localhost", "::1")
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if loopback else []))
        self._environment = "main"
        self._lines: dict[str, dict[str, tuple[list[int], list[float | None]]]] = {}

    def open(self, run: RunCard) -> None:
        self._environment = run.id
        rows = [(key, value) for key, value in run.settings.items() if value is not None]
        self._pane("run", f"run {run.id}", _paragraph(f"Made by {run.command}" if run.command else "") + _html_table(("setting", "value"), rows))

    def scalars(self, rows: Sequence[StepRow]) -> None:
        new: dict[str, dict[str, tuple[list[int], list[float | None]]]] = {}
        for row in rows:
            window, _, trace = tag(row.series, row.place).partition("/")
            xs, ys = new.setdefault(window, {}).setdefault(trace, ([], []))
            xs.append(row.step)
            ys.append(row.value if math.isfinite(row.value) else None)  # a gap; JSON of browsers has no NaN
        for window, traces in new.items():
            self._draw(window, traces)

    def histograms(self, rows: Sequence[HistogramRow]) -> None:
        latest = {tag(row.series, row.place): row for row in rows if finite_edges(row)}
        for name, row in latest.items():
            lefts, rights = row.edges[:-1], row.edges[1:]
            bars = {"type": "bar", "name": name, "x": [(a + b) / 2 for a, b in zip(lefts, rights, strict=True)], "y": list(row.counts),
                    "width": [b - a for a, b in zip(lefts, rights, strict=True)]}
            self._post("events", {"win": f"histogram_{slug(name)}", "data": [bars],
                                  **_shape(f"{name}, step {row.step:,}", "value", "count", legend=False)})

    def table(self, name: str, table: RankedTable) -> None:
        self._pane(f"table_{slug(name)}", table.title, _html_table(table.columns, table.rows) + _paragraph(table.caption))

    def picture(self, name: str, png: bytes, caption: str) -> None:
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        self._post("events", {"win": f"picture_{slug(name)}", "data": [{"type": "image", "content": {"src": source, "caption": caption}}],
                              "opts": {"title": caption}})

    def findings(self, report: Report) -> None:
        head = f"<h3 style='color:{COLOURS[report.verdict.value]}'>{report.verdict.value}: {html.escape(report.title)}</h3>"
        self._pane("findings", "findings", head + "".join(map(_finding_html, report.ranked)))

    def artefact(self, path: Path) -> None:
        if path.name != "report.html":
            return  # Visdom keeps no files
        # In a frame of its own, since scripts in a pane do not run and styles would spill over the whole page.
        page = html.escape(path.read_text(encoding="utf-8"), quote=True)
        self._pane("report", "report", f'<iframe sandbox="allow-scripts" style="width:100%;height:900px;border:0" srcdoc="{page}"></iframe>',
                   width=1100, height=950)

    def flush(self) -> None:
        """Every call is shown at once."""

    def close(self, status: str) -> None:
        self._pane("status", "status", _paragraph(status))
        self._post("save", {"data": [self._environment]})

    @property
    def where(self) -> str:
        return f"{self.url}/env/{urllib.parse.quote(self._environment)}"

    def _draw(self, window: str, traces: Mapping[str, tuple[list[int], list[float | None]]]) -> None:
        known = self._lines.setdefault(window, {})
        fresh = traces.keys() - known.keys()
        for name, (xs, ys) in traces.items():
            all_xs, all_ys = known.setdefault(name, ([], []))
            all_xs += xs
            all_ys += ys
        shape = _shape(window, "step", window, legend=True)
        if fresh:
            self._post("events", {"win": window, "data": [_trace(name, *known[name]) for name in known], **shape})
        else:  # the server wants all traces, in its order; one without points stays as it is
            self._post("update", {"win": window, "append": True, "data": [_trace(name, *traces.get(name, ([], []))) for name in known], **shape})

    def _pane(self, window: str, title: str, content: str, **options: Any) -> None:
        self._post("events", {"win": window, "data": [{"type": "text", "content": content}], "opts": {"title": title, **options}})

    def _post(self, endpoint: str, message: Mapping[str, Any]) -> None:
        body = json.dumps({"eid": self._environment, **message}, allow_nan=False).encode()
        request = urllib.request.Request(f"{self.url}/{endpoint}", data=body, headers={"Content-Type": "application/json"})  # noqa: S310 - http(s), see __init__
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                answer.read()
        except (urllib.error.URLError, OSError) as error:
            raise UsageError(f"no Visdom server took {endpoint} at {self.url}: {error}", hint="start one: python -m visdom.server") from None


def _trace(name: str, xs: list[int], ys: list[float | None]) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "name": name, "x": xs, "y": ys}


def _shape(title: str, x: str, y: str, *, legend: bool) -> dict[str, Any]:
    layout = {"title": title, "showlegend": legend, "xaxis": {"title": x}, "yaxis": {"title": y}, "margin": {"l": 60, "r": 20, "t": 40, "b": 40}}
    return {"layout": layout, "opts": {"title": title}}


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>" if text else ""


def _html_table(columns: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    def row(cells: Sequence[object], kind: str) -> str:
        shown = ("" if cell is None else f"{cell:,.4g}" if isinstance(cell, float) else str(cell) for cell in cells)
        return "<tr>" + "".join(f"<{kind} style='text-align:left;padding:2px 8px'>{html.escape(text)}</{kind}>" for text in shown) + "</tr>"

    return "<table>" + row(columns, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"


def _finding_html(finding: Finding) -> str:
    place = f" ({finding.place})" if finding.place.name else ""
    advice = "; ".join(remedy.text for remedy in finding.remedies)
    return (f"<p><b style='color:{COLOURS[finding.verdict.value]}'>{finding.verdict.value}</b> <b>{html.escape(finding.code + place)}</b><br>"
            f"{html.escape(finding.claim)}" + (f"<br><i>Try: {html.escape(advice)}</i>" if advice and finding.verdict.severity > 1 else "") + "</p>")
