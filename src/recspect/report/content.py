"""What a page shows of a report, whichever page it is: cards of findings, causes, chapters and figures, with every text cleaned.

The report in one file (`html`) and the dashboard put this into their templates. A figure that stands on a page already becomes a
reference to it, so `Drawings` belongs to one page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from recspect.diagnosis.evidence import Evidence, HeatMap, RankedTable, Reasons
from recspect.diagnosis.finding import Finding, Report, Verdict
from recspect.report import charts, wording
from recspect.report.bounds import bounded
from recspect.report.chapters import INTRODUCTIONS, stage_of
from recspect.report.palette import as_variables
from recspect.report.stills import still
from recspect.report.tables import Table, table
from recspect.report.wording import amount, by_code, by_stage, certainty, clean, counted, split_claim, stage_order

SIGNS = {Verdict.FAIL: "✕", Verdict.WARN: "!", Verdict.UNKNOWN: "?", Verdict.PASS: "✓"}
_CODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_PROVENANCE_LIMIT = 20_000
_WIDE_COLUMNS = 6
_COMMANDS = 3
"""Commands shown of one remedy; the JSON has those of every place."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A piece of evidence as the template shows it.

    `kind` is "chart", "table", "reasons", or "elsewhere" for what is drawn in another place of the page, at `anchor`. `chart` is
    its number in the JSON block and `still` its picture, None and empty where it is text.
    """

    kind: str
    title: str
    caption: str
    anchor: str
    chart: int | None
    still: Markup
    table: Table
    reasons: tuple[str, ...]
    wide: bool


@dataclass(frozen=True, kw_only=True)
class Told:
    """One finding, in words. `place` is empty for the whole run, `threshold` where the card tells it for all."""

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
    threshold: str
    meanings: tuple[str, ...]
    causes: tuple[str, ...]
    remedies: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Unanswered:
    """Questions that lack the same thing: the reason, (anchor, code, place) of each, and what they have to say besides."""

    reason: str
    questions: tuple[tuple[str, str, str], ...]
    hints: tuple[str, ...]
    meanings: tuple[str, ...]
    remedies: tuple[tuple[str, tuple[str, ...]], ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A likely cause; findings as (code, place, anchor)."""

    claim: str
    remedy: str
    verify: str
    possible: bool
    signs: tuple[tuple[str, str, str], ...]
    explains: tuple[tuple[str, str, str], ...]


class Drawings:
    """What is drawn on a page, each piece of evidence once: where it is, and the specifications of the charts in order.

    Args:
        stills: Whether each chart also stands there as a still picture, which takes 0.05 s; a page that always has its script needs none.
        name: Begins the anchors; parts of one page that are made apart need different ones.
    """

    def __init__(self, *, stills: bool = True, name: str = "figure") -> None:
        self.stills, self.name = stills, name
        self.specs: list[dict[str, Any]] = []
        self._places: dict[str, str] = {}

    def figures(self, pieces: Iterable[Evidence]) -> tuple[Figure, ...]:
        """Figures of pieces of evidence; one that stands on the page already becomes a reference to it."""
        return tuple(_figure(piece, self) for piece in pieces)

    def place(self, evidence: Evidence) -> tuple[str, bool]:
        """Anchor of a piece of evidence, and whether it is drawn there already. In which chapter it stands does not matter."""
        key = repr(replace(evidence, stage=""))
        known = key in self._places
        return self._places.setdefault(key, f"{self.name}-{len(self._places) + 1}"), known

    def block(self) -> Markup:
        """The specifications as JSON that can stand in a script element of data: what is common to all, then one after another."""
        drawing = {"config": self.specs[0]["config"] if self.specs else {}, "specs": [{k: v for k, v in s.items() if k != "config"} for s in self.specs]}
        return Markup(_json_block(drawing))  # noqa: S704 - escaped by _json_block


def content(report: Report, drawings: Drawings) -> dict[str, Any]:
    """What the templates need of a report.

    Args:
        report: What to show; a part of one where a page shows a part.
        drawings: Of the page; it has the charts afterwards.

    Returns:
        Names of the templates. `link` (code and anchor of a finding to an address) and `_` (a text of the page in another language) may be
        replaced, as may `about` (heading of a column, or "" for a place, and the text of a cell to an address, "" where it has none),
        `say` (a sentence of a finding to the same in another language) and `question` (code of a finding to its question, "" for none).
    """
    groups = by_code(report.ranked)
    cards = {number: _card(number, group, drawings) for number, group in enumerate(groups) if group[0].verdict in (Verdict.FAIL, Verdict.WARN)}
    unanswered = _unanswered(report.with_verdict(Verdict.UNKNOWN), drawings)
    figures = _by_chapter(report, drawings)
    # Pictures of what passed stand in the chapters; the folded findings, which come before them on the page, refer to them.
    cards |= {number: _card(number, group, drawings) for number, group in enumerate(groups) if group[0].verdict is Verdict.PASS}
    every = [cards[number] for number in sorted(cards)]
    sentence, rest = wording.headline(report)
    return {
        "title": clean(report.title, limit=300), "verdict": report.verdict.value, "sentence": sentence, "rest": rest,
        "counts": [(v.value, len(report.with_verdict(v))) for v in Verdict], "signs": {v.value: sign for v, sign in SIGNS.items()},
        "causes": _causes(report, every), "told": [card for card in every if card.verdict in ("FAIL", "WARN")], "unanswered": unanswered,
        "passed": _passed(report, every), "chapters": _chapters(report, every, unanswered, figures), "next_command": wording.next_command(report),
        "provenance": _provenance(report.provenance), "command": clean(report.provenance.get("command", ""), limit=2000, lines=True),
        "sources": wording.sources(report), "link": lambda _code, anchor: f"#{anchor}", "_": lambda text: text,
        "about": lambda _column, _text: "", "say": lambda text: text, "question": lambda _code: "",
    }


def _card(number: int, group: Sequence[Finding], drawings: Drawings) -> Card:
    first = group[0]
    thresholds = {clean(finding.threshold) for finding in group}
    shared = thresholds.pop() if len(thresholds) == 1 else ""
    told = []
    pieces: dict[str, Evidence] = {}
    for finding in group:
        # Places of one diagnostic often share a picture (all slices in one table): it is drawn once.
        new = {key: piece for piece in finding.evidence if (key := repr(piece)) not in pieces}
        pieces |= new
        told.append(_told(finding, drawings.figures(new.values()), threshold="" if shared else clean(finding.threshold)))
    question = clean(first.code.split(".", 1)[-1], limit=60).replace("_", " ")
    # A link to a finding survives a new run: it is made of verdict and code.
    anchor = f"{first.verdict.value.lower()}-{first.code}" if _CODE.fullmatch(first.code) else f"finding-{number}"
    return Card(
        anchor=anchor, code=clean(first.code, limit=80), verdict=first.verdict.value, told=tuple(told), threshold=shared,
        heading=told[0].heading if len(group) == 1 else f"{question[:1].upper()}{question[1:]} in {_places(group)}",
        meanings=_distinct(finding.meaning for finding in group),
        causes=_distinct(cause for finding in group for cause in finding.causes), remedies=_remedies(group),
    )


def _remedies(group: Sequence[Finding]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(text, commands) of each remedy by its code, in order: what differs only by place is told for the first and counted."""
    texts: dict[str, dict[str, None]] = {}
    commands: dict[str, dict[str, None]] = {}
    for finding in group:
        for remedy in finding.remedies:
            texts.setdefault(remedy.code, {})[clean(remedy.text)] = None
            commands.setdefault(remedy.code, {}).update({clean(remedy.command, limit=2000): None} if remedy.command.strip() else {})
    result = []
    for code, told in texts.items():
        first, *others = told
        more = f" The same for {counted(len(others), 'other place')}." if others else ""
        result.append((first + more, tuple(commands[code])[:_COMMANDS]))
    return tuple(result)


def _unanswered(findings: Sequence[Finding], drawings: Drawings) -> list[Unanswered]:
    anchors: set[str] = set()
    result = []
    for reason, group in wording.by_reason(findings):
        questions = []
        for finding in group:
            anchor = f"unknown-{finding.code}" if _CODE.fullmatch(finding.code) else ""
            questions.append(("" if anchor in anchors else anchor, clean(finding.code, limit=80), clean(finding.place, limit=120) if finding.place.name else ""))
            anchors.add(anchor)
        result.append(Unanswered(
            reason=reason, questions=tuple(questions), hints=_distinct(finding.threshold for finding in group),
            meanings=_distinct(finding.meaning for finding in group), remedies=_remedies(group),
            figures=drawings.figures(piece for finding in group for piece in finding.evidence)))
    return result


def _places(group: Sequence[Finding]) -> str:
    kinds = {finding.place.kind for finding in group}
    return counted(len(group), clean(kinds.pop(), limit=30) if len(kinds) == 1 else "place")


def _told(finding: Finding, figures: tuple[Figure, ...], *, threshold: str) -> Told:
    heading, rest = split_claim(finding.claim)
    number = finding.estimate
    return Told(
        place=clean(finding.place, limit=120) if finding.place.name else "", claim=clean(finding.claim), heading=heading, rest=rest,
        amount=amount(number) if number else "", unit=clean(number.unit, limit=120) if number else "",
        certainty=certainty(number) if number else "", threshold=threshold, figures=figures,
    )


def _figure(evidence: Evidence, drawings: Drawings) -> Figure:
    anchor, known = drawings.place(evidence)
    small, note = bounded(evidence)
    as_text = isinstance(small, (RankedTable, Reasons))
    kind = "elsewhere" if known else "reasons" if isinstance(small, Reasons) else "table" if as_text else "chart"
    chart, picture = None, Markup()
    if kind == "chart" and not charts.is_empty(small):
        chart = len(drawings.specs)
        specification = charts.spec(evidence, palette=as_variables(), width="container", title=False)
        drawings.specs.append(specification)
        if drawings.stills:
            picture = Markup(still(specification, prefix=f"still-{chart}-"))  # noqa: S704 - known elements, escaped by `still`
    columns = len(small.columns) if isinstance(small, (HeatMap, RankedTable)) else 0
    content = table(small, limit=200 if as_text else 40)
    return Figure(
        kind=kind, title=clean(evidence.title, limit=300), anchor=anchor, chart=chart, still=picture, table=content,
        caption=" · ".join(filter(None, (clean(evidence.caption, limit=500), note))),
        reasons=tuple(clean(item) for item in small.items) if isinstance(small, Reasons) else (),
        wide=columns > (_WIDE_COLUMNS if isinstance(small, HeatMap) else 4) or (as_text and any(len(c) > 60 for row in content.rows for c in row)),
    )


def _causes(report: Report, cards: Sequence[Card]) -> list[Reason]:
    anchors = {card.code: card.anchor for card in reversed(cards) if card.verdict in ("FAIL", "WARN")}

    def named(findings: Iterable[tuple[str, str]]) -> tuple[tuple[str, str, str], ...]:
        shown = [(clean(code, limit=80), clean(place, limit=120)) for code, place in findings]
        return tuple((code, place, anchors.get(code, "")) for code, place in shown)

    return [Reason(claim=clean(cause.claim), remedy=clean(cause.remedy.text), verify=clean(cause.verify), possible=cause.possible, signs=named(cause.signs),
                   explains=named(entry for entry in cause.explains if entry not in cause.signs)) for cause in report.causes]


def _passed(report: Report, cards: Sequence[Card]) -> list[tuple[str, list[Card]]]:
    by_name = {card.code: card for card in cards if card.verdict == "PASS"}
    return [(clean(stage, limit=60), [by_name[code] for code in dict.fromkeys(clean(f.code, limit=80) for f in group)])
            for stage, group in by_stage(report.with_verdict(Verdict.PASS)).items()]


def _by_chapter(report: Report, drawings: Drawings) -> dict[str, list[Figure]]:
    figures: dict[str, list[Figure]] = {}
    for evidence in report.overview:
        figures.setdefault(stage_of(evidence), []).append(_figure(evidence, drawings))
    return figures


def _chapters(report: Report, cards: Sequence[Card], unanswered: Sequence[Unanswered], figures: Mapping[str, list[Figure]]) -> list[dict[str, Any]]:
    anchors = {(card.code, card.verdict): card.anchor for card in cards}
    for group in unanswered:
        anchors |= {(code, "UNKNOWN"): anchor for anchor, code, _ in group.questions if anchor}
    findings = by_stage(report.ranked)
    chapters = []
    for stage in sorted(set(figures) | set(findings), key=stage_order):
        own = dict.fromkeys((clean(f.code, limit=80), f.verdict.value) for f in findings.get(stage, ()))
        chapters.append({"name": clean(stage, limit=60), "introduction": INTRODUCTIONS.get(stage, ""), "figures": figures.get(stage, []),
                         "related": [(code, verdict, anchors.get((code, verdict), "unknown")) for code, verdict in own]})
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


def _json_block(content: Any) -> str:
    """JSON that can stand in a script element: no character in it can end the element or open a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


__all__ = ["SIGNS", "Card", "Drawings", "Figure", "content"]
