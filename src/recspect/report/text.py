"""The report in a terminal: one table of findings, worst first, that fits its width.

Everything is built from `rich.text.Text`, never from markup strings, so that "[red]" in an item title stays text.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recspect.diagnosis.causes import Cause
from recspect.diagnosis.evidence import Evidence
from recspect.diagnosis.finding import Finding, Report, Verdict
from recspect.report import wording
from recspect.report.tables import table as evidence_table
from recspect.report.wording import amount, by_code, by_stage, certainty, clean, counted

STYLES = {Verdict.FAIL: "bold red", Verdict.WARN: "bold yellow", Verdict.UNKNOWN: "bold cyan", Verdict.PASS: "bold green"}
_ASCII = str.maketrans({"─": "-", "–": "-", "−": "-", "…": "...", "←": "<-", "•": "*", "≥": ">="})
_PLACES = 6
"""Places of one diagnostic that are told one by one; the HTML page and the JSON have all."""


def render(report: Report, *, width: int = 100, color: bool = False, evidence: bool = False) -> str:
    """The report as text.

    Args:
        report: What to show.
        width: Columns; no line is longer.
        color: Whether to colour it with terminal codes.
        evidence: Whether to print the numbers behind each FAIL and WARN as small tables.
    """
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="standard" if color else None, no_color=not color,
                      legacy_windows=False, highlight=False, emoji=False, markup=False)
    console.print(_page(report, evidence=evidence))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def print_report(report: Report, console: Console | None = None, *, evidence: bool = False) -> None:
    """Print the report; colours only where the console is a terminal.

    A console that cannot show some letter (an ASCII locale) gets `?` in its place rather than an exception.
    """
    console = console or Console()
    width = min(console.width, 100) if console.is_terminal else max(console.width, 100)
    text = render(report, width=width, color=console.is_terminal and not console.no_color, evidence=evidence)
    encoding = console.encoding or "utf-8"
    if not encoding.lower().startswith("utf"):
        text = text.translate(_ASCII)
    console.file.write(text.encode(encoding, errors="replace").decode(encoding))
    console.file.flush()


def _page(report: Report, *, evidence: bool) -> RenderableType:
    sentence, rest = wording.headline(report)
    sentence = sentence.removeprefix("Not healthy: ")
    # The first line is complete in itself: counts for whoever greps, then the worst in words.
    parts: list[RenderableType] = [Text.assemble((wording.tally_line(report), STYLES[report.verdict]), ": ", (sentence, "bold"))]
    if rest:
        parts.append(Text(rest))
    if report.title:
        parts.append(Text(clean(report.title, limit=200), style="dim"))
    told = by_code(report.with_verdict(Verdict.FAIL, Verdict.WARN))
    if causes := [cause for cause in report.causes if not cause.possible]:
        parts += [Text(), _causes(causes)]
    if told:
        parts += [Text(), _findings(told, evidence=evidence)]
    if unknown := report.with_verdict(Verdict.UNKNOWN):
        parts += [Text(), _unknown(unknown)]
    if passed := report.with_verdict(Verdict.PASS):
        parts += [Text(), _passed(passed)]
    parts += _closing(report)
    return Group(*parts)


def _causes(causes: Sequence[Cause]) -> RenderableType:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(justify="right", no_wrap=True, width=3)
    grid.add_column(ratio=1, overflow="fold")
    for number, cause in enumerate(causes[:_PLACES], start=1):
        follows = [entry for entry in cause.explains if entry not in cause.signs]
        told = [Text(clean(cause.claim), style="bold"), _labelled("try", clean(cause.remedy.text)), _labelled("check", clean(cause.verify)),
                _labelled("signs", _listed(cause.signs))]
        grid.add_row(Text(f"{number}."), Group(*told, *([_labelled("explains", _listed(follows))] if follows else [])))
    return Group(Text("What likely lies behind it", style="bold"), grid)


def _listed(findings: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{clean(code, limit=80)}{f' ({clean(place, limit=60)})' if place else ''}" for code, place in findings[:_PLACES])
    return shown + (f" and {len(findings) - _PLACES} more" if len(findings) > _PLACES else "")


def _findings(groups: Sequence[tuple[Finding, ...]], *, evidence: bool) -> Table:
    table = Table(box=box.HORIZONTALS, show_header=False, expand=True, padding=(0, 1), show_lines=True, pad_edge=False)
    table.add_column("verdict", width=4, no_wrap=True)
    table.add_column("finding", ratio=1, overflow="fold")
    for group in groups:
        verdict = group[0].verdict
        table.add_row(Text(verdict.value, style=STYLES[verdict]), _finding(group, evidence=evidence))
    return table


def _finding(group: tuple[Finding, ...], *, evidence: bool) -> RenderableType:
    first = group[0]
    parts: list[RenderableType] = [Text(clean(first.code, limit=80) + (f"  {len(group)} places" if len(group) > 1 else ""), style="bold")]
    thresholds = list(dict.fromkeys(clean(finding.threshold) for finding in group[:_PLACES]))
    for finding in group[:_PLACES]:
        lines = Text()
        if finding.place.name:
            lines.append(clean(finding.place, limit=80), style="cyan").append("  ")
        lines.append(clean(finding.claim))
        parts.append(lines)
        if number := _number(finding):
            parts.append(Padding(Text(number, style="dim"), (0, 0, 0, 2)))
        if len(thresholds) > 1 and finding.threshold:
            parts.append(Padding(Text(f"held against: {clean(finding.threshold)}", style="dim"), (0, 0, 0, 2)))
    if len(group) > _PLACES:
        parts.append(Text(f"… {len(group) - _PLACES} more places", style="dim"))
    if len(thresholds) == 1 and thresholds[0]:  # what all places were held against is told once
        parts.append(Padding(Text(f"held against: {thresholds[0]}", style="dim"), (0, 0, 0, 2)))
    if meaning := next((finding.meaning for finding in group if finding.meaning), ""):
        parts.append(_labelled("means", clean(meaning)))
    if remedies := next((finding.remedies for finding in group if finding.remedies), ()):
        parts.append(_labelled("try", clean(remedies[0].text)))
    if evidence:
        for piece in first.evidence:
            parts += [Text(), _evidence(piece)]
    return Group(*parts)


def _number(finding: Finding) -> str:
    if finding.estimate is None:
        return ""
    return f"{amount(finding.estimate)} {clean(finding.estimate.unit, limit=80)} ({certainty(finding.estimate)})"


def _labelled(label: str, text: str) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(no_wrap=True, min_width=5)
    row.add_column(ratio=1, overflow="fold")
    row.add_row(Text(label, style="bold"), Text(text))
    return row


def _unknown(findings: Sequence[Finding]) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(max_width=40, overflow="fold")
    grid.add_column(ratio=1, overflow="fold")
    for reason, group in wording.by_reason(findings):
        name = Text()
        for finding in group:
            name.append("\n" if name else "").append(clean(finding.code, limit=80))
            if finding.place.name:
                name.append(f" {clean(finding.place, limit=60)}", style="cyan")
        hint = next((f" To answer it: {clean(finding.threshold)}." for finding in group if finding.threshold), "")
        grid.add_row(name, Text(reason + hint))
    title = Text.assemble(("UNKNOWN", STYLES[Verdict.UNKNOWN]), f"  {counted(len(findings), 'question')} could not be answered")
    return Group(title, Padding(grid, (0, 0, 0, 2)))


def _passed(findings: Sequence[Finding]) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(no_wrap=True, max_width=24, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for stage, group in by_stage(findings).items():
        names = list(dict.fromkeys(clean(finding.code.split(".", 1)[-1], limit=60) for finding in group))
        shown = ", ".join(names[:8]) + (f", … {len(names) - 8} more" if len(names) > 8 else "")
        grid.add_row(Text(clean(stage, limit=40)), Text(str(len(group))), Text(shown, style="dim"))
    title = Text.assemble(("PASS", STYLES[Verdict.PASS]), f"  {counted(len(findings), 'finding')} by stage")
    return Group(title, Padding(grid, (0, 0, 0, 2)))


def _evidence(evidence: Evidence) -> RenderableType:
    content = evidence_table(evidence, limit=12)
    table = Table(title=Text(clean(evidence.title, limit=160)), title_justify="left", title_style="italic", box=box.SIMPLE_HEAD,
                  caption=Text(" ".join(filter(None, (clean(evidence.caption, limit=300), content.note)))), caption_justify="left",
                  caption_style="dim", pad_edge=False)
    for name, numeric in zip(content.columns, content.numeric, strict=True):
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in content.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _closing(report: Report) -> list[RenderableType]:
    parts: list[RenderableType] = []
    known = [f"{key} {wording.plain(report.provenance[key])}" for key in ("run", "data", "created")
             if report.provenance.get(key) and not isinstance(report.provenance[key], (dict, list, tuple))]
    if known:
        parts += [Text(), Text(clean(", ".join(known), limit=300), style="dim")]
    if command := wording.next_command(report):
        # On a line of its own, so that it can be selected whole.
        parts += [Text(), Text("Next:", style="bold"), Text(f"  {command}", no_wrap=False)]
    return parts


__all__ = ["print_report", "render"]
