"""The report as one HTML file that needs nothing else: no network, no server, no second file.

Every text of the report passes Jinja's automatic escaping; charts are data in a JSON block, drawn by a script that the
page's content security policy names by its hash. Nothing else may run, load or be sent.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recspect.diagnosis.evidence import Evidence, HeatMap, RankedTable, Reasons
from recspect.diagnosis.finding import Finding, Report, Verdict
from recspect.files import write_bytes
from recspect.report import charts, wording
from recspect.report.bounds import bounded
from recspect.report.chapters import INTRODUCTIONS, stage_of
from recspect.report.palette import DARK, LIGHT, as_variables, declarations
from recspect.report.tables import Table, table
from recspect.report.wording import amount, by_code, by_stage, certainty, clean, counted, split_claim, stage_order

NOTEBOOK_HEIGHT = 800
SIGNS = {Verdict.FAIL: "✕", Verdict.WARN: "!", Verdict.UNKNOWN: "?", Verdict.PASS: "✓"}
_CODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_PROVENANCE_LIMIT = 20_000
_WIDE_COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A piece of evidence as the template shows it. `chart` is its number in the JSON block, None where it is text."""

    kind: str
    title: str
    caption: str
    chart: int | None
    table: Table
    reasons: tuple[str, ...]
    wide: bool


@dataclass(frozen=True, kw_only=True)
class Told:
    """One finding, in words. `place` is empty for the whole run."""

    place: str
    claim: str
    heading: str
    rest: str
    amount: str
    unit: str
    certainty: str
    threshold: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Findings of one diagnostic with the same verdict, with what they share told once."""

    anchor: str
    code: str
    verdict: str
    heading: str
    told: tuple[Told, ...]
    meanings: tuple[str, ...]
    causes: tuple[str, ...]
    remedies: tuple[tuple[str, tuple[str, ...]], ...]


def render(report: Report) -> str:
    """The page as text, about 1 MB (of which 0.9 MB is the drawing library)."""
    specs: list[dict[str, Any]] = []
    cards = [_card(number, group, specs) for number, group in enumerate(by_code(report.ranked))]
    chapters = _chapters(report, cards, specs)
    drawing = {"config": specs[0]["config"] if specs else {}, "specs": [{k: v for k, v in s.items() if k != "config"} for s in specs]}
    style = Markup(_style())  # noqa: S704 - ours, nothing of the report in it
    scripts = (Markup(_bundle()), Markup(_asset("page.js"))) if specs else ()  # noqa: S704 - the library and our script
    sentence, rest = wording.headline(report)
    page: str = _environment().get_template("page.html.j2").render(
        title=clean(report.title, limit=300), verdict=report.verdict.value, sentence=sentence, rest=rest,
        counts=[(v.value, len(report.with_verdict(v))) for v in Verdict], signs={v.value: sign for v, sign in SIGNS.items()},
        told=[card for card in cards if card.verdict in ("FAIL", "WARN")],
        unknown=[card for card in cards if card.verdict == "UNKNOWN"],
        passed=_passed(report, cards), chapters=chapters, next_command=wording.next_command(report),
        provenance=_provenance(report.provenance), command=clean(report.provenance.get("command", ""), limit=2000, lines=True),
        sources=wording.sources(report), style=style, scripts=scripts, policy=_policy(style, scripts),
        drawing=Markup(_json_block(drawing)),  # noqa: S704 - escaped by _json_block
    )
    return page.lstrip() + "\n"


def write(report: Report, path: str | Path) -> Path:
    """Write the page; a reader sees the old file or the whole new one.

    Returns:
        The path.
    """
    path = Path(path)
    write_bytes(path, render(report).encode())
    return path


def notebook_html(report: Report) -> str:
    """A fragment for notebooks: the page in a frame of its own, so that neither can disturb the other."""
    page = html.escape(render(report), quote=True)
    title = html.escape(f"recspect report {clean(report.title, limit=120)}", quote=True)
    return (f'<iframe srcdoc="{page}" title="{title}" sandbox="allow-scripts" width="100%" height="{NOTEBOOK_HEIGHT}" '
            'style="border:1px solid #8884;border-radius:6px" loading="lazy"></iframe>')


# ---------------------------------------------------------------------- what the template shows


def _card(number: int, group: Sequence[Finding], specs: list[dict[str, Any]]) -> Card:
    first = group[0]
    told = tuple(_told(finding, specs) for finding in group)
    question = clean(first.code.split(".", 1)[-1], limit=60).replace("_", " ")
    # A link to a finding survives a new run: it is made of verdict and code.
    anchor = f"{first.verdict.value.lower()}-{first.code}" if _CODE.fullmatch(first.code) else f"finding-{number}"
    commands: dict[str, dict[str, None]] = {}
    for finding in group:
        for remedy in finding.remedies:
            commands.setdefault(clean(remedy.text), {}).update({clean(remedy.command, limit=2000): None} if remedy.command.strip() else {})
    return Card(
        anchor=anchor, code=clean(first.code, limit=80), verdict=first.verdict.value, told=told,
        heading=told[0].heading if len(group) == 1 else f"{question[:1].upper()}{question[1:]} in {_places(group)}",
        meanings=_distinct(finding.meaning for finding in group),
        causes=_distinct(cause for finding in group for cause in finding.causes),
        remedies=tuple((text, tuple(some)[:5]) for text, some in commands.items()),
    )


def _places(group: Sequence[Finding]) -> str:
    kinds = {finding.place.kind for finding in group}
    return counted(len(group), clean(kinds.pop(), limit=30) if len(kinds) == 1 else "place")


def _told(finding: Finding, specs: list[dict[str, Any]]) -> Told:
    heading, rest = split_claim(finding.claim)
    number = finding.estimate
    return Told(
        place=clean(finding.place, limit=120) if finding.place.name else "", claim=clean(finding.claim), heading=heading, rest=rest,
        amount=amount(number) if number else "", unit=clean(number.unit, limit=120) if number else "",
        certainty=certainty(number) if number else "", threshold=clean(finding.threshold, limit=300),
        figures=tuple(_figure(evidence, specs) for evidence in finding.evidence),
    )


def _figure(evidence: Evidence, specs: list[dict[str, Any]]) -> Figure:
    small, note = bounded(evidence)
    as_text = isinstance(small, (RankedTable, Reasons))
    chart = None
    if not as_text and not charts.is_empty(small):
        chart = len(specs)
        specs.append(charts.spec(evidence, palette=as_variables(), width="container", title=False))
    columns = len(small.columns) if isinstance(small, (HeatMap, RankedTable)) else 0
    content = table(small, limit=200 if as_text else 40)
    return Figure(
        kind="reasons" if isinstance(small, Reasons) else "table" if as_text else "chart",
        title=clean(evidence.title, limit=300), chart=chart, table=content,
        caption=" · ".join(filter(None, (clean(evidence.caption, limit=500), note))),
        reasons=tuple(clean(item) for item in small.items) if isinstance(small, Reasons) else (),
        wide=columns > (_WIDE_COLUMNS if isinstance(small, HeatMap) else 4) or (as_text and any(len(c) > 60 for row in content.rows for c in row)),
    )


def _passed(report: Report, cards: Sequence[Card]) -> list[tuple[str, list[Card]]]:
    by_name = {card.code: card for card in cards if card.verdict == "PASS"}
    return [(clean(stage, limit=60), [by_name[code] for code in dict.fromkeys(clean(f.code, limit=80) for f in group)])
            for stage, group in by_stage(report.with_verdict(Verdict.PASS)).items()]


def _chapters(report: Report, cards: Sequence[Card], specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    figures: dict[str, list[Figure]] = {}
    for evidence in report.overview:
        figures.setdefault(stage_of(evidence), []).append(_figure(evidence, specs))
    findings = by_stage(report.ranked)
    anchors = {(card.code, card.verdict): card for card in cards}
    chapters = []
    for stage in sorted(set(figures) | set(findings), key=stage_order):
        own = dict.fromkeys((clean(f.code, limit=80), f.verdict.value) for f in findings.get(stage, ()))
        chapters.append({"name": clean(stage, limit=60), "introduction": INTRODUCTIONS.get(stage, ""),
                         "cards": [anchors[key] for key in own], "figures": figures.get(stage, [])})
    return chapters


def _provenance(provenance: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, one line, or a block of JSON where one line would not do)."""
    rows = []
    for key, value in provenance.items():
        if key == "command":
            continue
        line = wording.plain(value)
        if len(line) > 240:
            block = json.dumps(value, indent=1, ensure_ascii=False, default=str)
            rows.append((clean(key, limit=80), "", clean(block, limit=_PROVENANCE_LIMIT, lines=True)))
        else:
            rows.append((clean(key, limit=80), line, ""))
    return rows


def _distinct(texts: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in (clean(text) for text in texts) if text))


# ---------------------------------------------------------------------- assets


@cache
def _environment() -> Environment:
    environment = Environment(loader=PackageLoader("recspect.report", "assets"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters["stage_title"] = lambda stage: "The run" if stage == "run" else stage[:1].upper() + stage[1:]
    return environment


@cache
def _asset(name: str) -> str:
    return files("recspect.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _style() -> str:
    return (_asset("page.css").replace("/*light*/", declarations(LIGHT)).replace("/*dark*/", declarations(DARK)))


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("\r\n", "\n")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Content security policy: our style and our two scripts by hash, no evaluation of text, nothing from elsewhere.

    Vega would compile its expressions with `new Function`; with `ast: true` the interpreter in the bundle runs them.
    """
    allowed = " ".join(f"'{_hash(script)}'" for script in scripts) or "'none'"
    return (f"default-src 'none'; script-src {allowed}; style-src '{_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json_block(content: Any) -> str:
    """JSON that can stand in a script element: no character in it can end the element or open a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


__all__ = ["NOTEBOOK_HEIGHT", "notebook_html", "render", "write"]
