"""What each page shows, as names for its template: parts of a report, pictures of a training, comparisons. No HTTP here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any
from urllib.parse import quote

from recspect.dashboard.about import known_of
from recspect.dashboard.effects import Effects
from recspect.dashboard.explaining import Explainers
from recspect.dashboard.feedback import Said, read_feedback
from recspect.dashboard.hiding import SMALLEST, without_small_groups
from recspect.dashboard.kept import Kept
from recspect.dashboard.looking import Looks
from recspect.dashboard.shelf import KEPT_REPORTS, Entry, Shelf, stamp
from recspect.dashboard.training_pictures import compared, distributions, pictures
from recspect.diagnosis.evidence import Evidence
from recspect.diagnosis.finding import Finding, Report, Verdict
from recspect.errors import RunError
from recspect.report.chapters import stage_of
from recspect.report.content import SIGNS, Drawings, content
from recspect.report.wording import amount, certainty, clean, split_claim, stage_order

TITLES = {"data": "Data", "features": "Fields", "training": "Training", "embeddings": "Embeddings", "predictions": "Predictions",
          "recommendations": "Lists", "explanations": "Explanations", "effects": "Effects", "metrics": "Metrics", "cost": "Cost", "run": "The run"}
"""Stage of the loop to the title of its page; another stage goes by its own name."""

LIVE_STEPS = ("training.batch_size", "training.gradient_flow", "training.learning_rate", "training.loss_anomaly", "training.update_ratio")
"""Questions that the rows of a training answer while it goes on."""


MOST_DECISIONS = 5
"""Decisions on the overview, newest first; the page of effects has all."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is new about a run beside an earlier one, as (code, place)."""

    since: str
    worse: tuple[tuple[str, str], ...]
    better: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One finding in the table of all."""

    code: str
    verdict: str
    place: str
    claim: str
    amount: str
    certainty: str
    address: str
    said: tuple[Said, ...]


class Views:
    """Makes the pages of a shelf.

    Args:
        shelf: What there is.
        smallest: Groups of fewer rows or people are not shown.
        explainers: Read the models and data of runs.
    """

    def __init__(self, shelf: Shelf, *, smallest: int = SMALLEST, explainers: Explainers | None = None) -> None:
        self.shelf, self.smallest, self.explainers = shelf, smallest, explainers or Explainers()
        self.looks = Looks(smallest=smallest)
        self.effects = Effects(shelf, self.report)
        self._deciding = Lock()
        self._live: Kept[tuple[Finding, ...]] = Kept(KEPT_REPORTS)

    def report(self, entry: Entry) -> Report | None:
        """The findings of an entry without small groups.

        Raises:
            RunError: The file is damaged.
        """
        report = self.shelf.report(entry)
        return None if report is None else without_small_groups(report, self.smallest)

    # ------------------------------------------------------------------ pages

    def overview(self) -> dict[str, Any]:
        """All entries, newest first, and what changed in the newest examined one."""
        entries = self.shelf.entries()
        examined = [entry for entry in entries if entry.verdict]
        newest = next((entry for entry in examined if entry.kind in ("run", "observed")), examined[0] if examined else None)
        return {"entries": entries, "newest": newest, "decisions": self.effects.decisions(entries)[:MOST_DECISIONS], "change": None if newest is None else self.change(newest, entries), "running": any(e.status == "running" for e in entries)}

    def summary(self, entry: Entry) -> dict[str, Any]:
        """Verdict, causes and what is wrong, each a link to the page where it is shown."""
        report = self.report(entry)
        if report is None:
            return {"report": None, "change": None, "decisions": []}
        shown = content(replace(report, overview=(), findings=tuple(replace(f, evidence=()) for f in report.findings)), Drawings(stills=False))
        entries = self.shelf.entries()
        return shown | {"report": report, "change": self.change(entry, entries), "link": addresses(entry.name),
                        "decisions": [one for one in self.effects.decisions(entries) if entry.name in (one.name, *one.runs)][:MOST_DECISIONS]}

    def stage(self, entry: Entry, stage: str, drawings: Drawings) -> dict[str, Any] | None:
        """Findings and pictures of one stage; None where the report has nothing of it."""
        report = self.report(entry)
        if report is None or stage not in stages(report):
            return None
        return content(part(report, stage), drawings) | {"report": report, "stage": stage, "proposals": self.proposals(entry)}

    def schema_names(self, entry: Entry) -> tuple[frozenset[str], dict[str, str]]:
        """Names of the fields of the schema that an entry was examined with, and which columns hold users and items."""
        report = self.shelf.report(entry)
        schema = report.provenance.get("schema") if report is not None else None
        fields, roles = (schema.get(part) if isinstance(schema, dict) else None for part in ("fields", "roles"))
        return (frozenset(map(str, fields)) if isinstance(fields, dict) else frozenset(),
                {str(roles[role]): role for role in ("user", "item") if roles.get(role)} if isinstance(roles, dict) else {})

    def about(self, entry: Entry, kind: str, name: str, drawings: Drawings) -> dict[str, Any] | None:
        """Everything that is known of one thing; None where nothing is.

        Args:
            entry: Of which run.
            kind: Such as `field` or `slice`.
            name: Its name.
            drawings: Of the page.
        """
        try:
            pieces = self.looks.pieces(entry)
        except RunError:
            pieces = ()  # the page of its stage says what is the matter
        known = known_of(name, self.report(entry), pieces, kind=kind)
        if not known.anything:
            return None
        shown = content(Report(findings=known.findings, overview=tuple(replace(piece, stage="run") for piece in (known.lines, *known.pictures)), title=name), drawings)
        return shown | {"known": known, "kind": kind, "name": name}

    def proposals(self, entry: Entry) -> list[Any]:
        """Changes of an adaptive metric that wait for somebody to adopt or reject them; none of another entry."""
        if entry.kind != "metrics":
            return []
        from recspect.adapting.history import OPEN, History

        return [proposal for proposal in History.read(entry.path).proposals if proposal.status == OPEN]

    def decide(self, entry: Entry, number: int, *, adopt: bool, why: str) -> None:
        """Adopt or reject a proposal, as a person.

        Raises:
            UsageError: There is none of that number, or it was decided already.
        """
        from recspect.adapting.history import History, now_utc

        with self._deciding:  # reading and writing again: two visitors shall not undo each other
            History.read(entry.path).decided(number, adopt=adopt, by="person", why=why, now=now_utc()).write(entry.path)

    def findings(self, entry: Entry, *, verdict: str = "", stage: str = "", words: str = "") -> dict[str, Any]:
        """All findings in a table, worst first.

        Args:
            entry: Whose.
            verdict, stage: Only these; empty for all.
            words: Only findings whose code, place or claim contain this.
        """
        report = self.report(entry)
        link = addresses(entry.name)
        said = read_feedback(entry.folder) if entry.folder is not None else ()
        lines = []
        for finding in report.ranked if report is not None else ():
            place = str(finding.place) if finding.place.name else ""
            text = f"{finding.code} {place} {finding.claim}".lower()
            if verdict in ("", finding.verdict.value) and stage in ("", finding.stage) and words.lower() in text:
                lines.append(Line(code=clean(finding.code, limit=80), verdict=finding.verdict.value, place=clean(place, limit=120), claim=split_claim(finding.claim)[0],
                                  amount=amount(finding.estimate) if finding.estimate else "", certainty=certainty(finding.estimate) if finding.estimate else "",
                                  address=link(finding.code, anchor_of(finding)),
                                  said=tuple(one for one in said if (one.code, one.place) == (finding.code, place))))
        return {"report": report, "lines": lines, "asked": {"verdict": verdict, "stage": stage, "words": words}, "verdicts": [v.value for v in Verdict]}

    def training(self, entry: Entry, drawings: Drawings) -> dict[str, Any]:
        """Pictures of a training as it stands, and what its rows say is wrong.

        Raises:
            RunError: Its files are damaged.
        """
        from recspect.diagnosis.observing.live_rows import read_live

        assert entry.folder is not None
        steps = read_live(entry.folder)
        if not steps.num_rows:
            return {"steps": 0, "chapters": [], "told": []}
        found = self._alarms(entry, steps)
        told = tuple(replace(f, evidence=()) for f in found)  # what they would draw is among the pictures
        shown = content(Report(findings=told, overview=tuple(pictures(steps, found)), title=entry.name), drawings)
        return shown | {"steps": steps["step"][-1].as_py(), "epoch": steps["epoch"][-1].as_py(), "measured": steps.num_rows}

    def distributions(self, entry: Entry, at: int | None, drawings: Drawings) -> dict[str, Any]:
        """Distributions of activations, gradients and weights at a set of histograms, counted from 0; None for the last.

        Raises:
            RunError: The file is damaged.
        """
        from recspect.diagnosis.observing.rows import HISTOGRAMS, HISTOGRAMS_FILE, read_rows

        assert entry.folder is not None
        shown, steps, step = distributions(read_rows(entry.folder / HISTOGRAMS_FILE, HISTOGRAMS), at)
        return figures_of(shown, drawings) | {"steps": steps, "step": step}

    def compare(self, entries: Sequence[Entry], drawings: Drawings) -> dict[str, Any]:
        """Two entries beside each other."""
        curves, change = self.compared(entries)
        return figures_of(curves, drawings) | {"pair": list(entries), "change": change}

    def compared(self, entries: Sequence[Entry]) -> tuple[list[Evidence], Change | None]:
        """The curves of two entries over each other, and what each finds and the other does not; None where one was not examined.

        Raises:
            RunError: A file is damaged.
        """
        from recspect.diagnosis.observing.live_rows import read_live

        curves = [(entry.name, read_live(entry.folder)) for entry in entries if entry.folder is not None and entry.kind in ("run", "observed")]
        reports = [self.report(entry) for entry in entries]
        change = None if None in reports else difference(reports[0], reports[1], since=entries[0].name)  # type: ignore[arg-type]
        return compared([(name, rows) for name, rows in curves if rows.num_rows]), change

    # ------------------------------------------------------------------ parts

    def change(self, entry: Entry, entries: Sequence[Entry]) -> Change | None:
        """What is new beside the last earlier entry of the same data that had no FAIL; None where there is none."""
        if not entry.verdict:
            return None
        earlier = next((e for e in entries if e.name != entry.name and e.kind == entry.kind and e.verdict in ("PASS", "WARN") and e.created <= entry.created and e.data == entry.data), None)
        if earlier is None:
            return None
        try:
            before, now = self.shelf.report(earlier), self.shelf.report(entry)
        except RunError:
            return None
        return None if before is None or now is None else difference(before, now, since=earlier.name)

    def _alarms(self, entry: Entry, steps: Any) -> tuple[Finding, ...]:
        from recspect.examining.watched_steps import as_columns, findings_on

        assert entry.folder is not None
        return self._live.get(entry.name, (steps.num_rows, stamp(entry.folder / "steps.parquet")),
                              lambda: findings_on(as_columns(steps), name=entry.name, source="the training's steps", questions=LIVE_STEPS))


def difference(before: Report, now: Report, *, since: str) -> Change:
    """Findings that became FAIL or WARN, and those that no longer are."""
    bad = (Verdict.FAIL, Verdict.WARN)
    old, new = ({(f.code, str(f.place) if f.place.name else "") for f in report.findings if f.verdict in bad} for report in (before, now))
    return Change(since=since, worse=tuple(sorted(new - old)), better=tuple(sorted(old - new)))


def figures_of(evidence: Sequence[Evidence], drawings: Drawings) -> dict[str, Any]:
    """Names for a template that shows pictures and nothing else."""
    return content(Report(overview=tuple(replace(piece, stage="run") for piece in evidence)), drawings)


def stages(report: Report) -> list[str]:
    """Stages that the report says something of, in the order of the loop."""
    return sorted({f.stage for f in report.findings} | {stage_of(piece) for piece in report.overview}, key=stage_order)


def part(report: Report, stage: str) -> Report:
    """Findings and pictures of one stage."""
    return Report(findings=tuple(f for f in report.findings if f.stage == stage), overview=tuple(piece for piece in report.overview if stage_of(piece) == stage),
                  title=report.title)


def anchor_of(finding: Finding) -> str:
    """Where the finding stands on the page of its stage."""
    return f"{finding.verdict.value.lower()}-{finding.code}"


def addresses(name: str) -> Callable[[str, str], str]:
    """(code, anchor) of a finding to its address."""
    return lambda code, anchor: f"/runs/{quote(name, safe='')}/{quote(code.split('.', 1)[0], safe='')}#{quote(anchor, safe='.-_')}"


def worst(report: Report, stage: str) -> str:
    """Worst verdict of a stage's findings, empty where it has none that is known."""
    known = [f.verdict for f in report.findings if f.stage == stage and f.verdict is not Verdict.UNKNOWN]
    return max(known, key=lambda verdict: verdict.severity).value if known else ""


SIGN_OF = {verdict.value: sign for verdict, sign in SIGNS.items()}
__all__ = ["SIGN_OF", "TITLES", "Views", "addresses", "figures_of", "part", "stages", "worst"]
