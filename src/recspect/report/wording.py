"""Words that every rendering of a report shares: the verdict line, numbers, and text made safe to show.

All text of a report may have come from data (an item title inside a claim, a field name). `clean` takes out what could
act on a terminal or reorder a line; the renderers then escape for their own medium.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from recspect.diagnosis.estimate import Estimate, significant_digits
from recspect.diagnosis.finding import Finding, Report, Verdict

STAGES = ("data", "features", "training", "embeddings", "predictions", "explanations", "recommendations", "effects", "cost")
"""Stages of the loop, in the order of the data flow; a stage not listed comes after these, by name."""

CLAIM_LIMIT = 1200
"""Characters of one piece of text that are shown; a claim is one or two sentences."""

_HEADING = 150
"""Characters of a heading."""
_WORD = re.compile(r"[a-z][a-z-]*[\s,]")

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"\s+")
_SENTENCE = re.compile(r"(?<=[^\s.:;])(?:[:;]\s|\.(?:\s|$))")


def clean(value: object, *, limit: int = CLAIM_LIMIT, lines: bool = False) -> str:
    """Text of data as it may be shown.

    Control characters, escape sequences' lead bytes and direction overrides go (right-to-left letters stay), lone
    surrogates become U+FFFD, white space becomes single spaces, and what is longer than `limit` is cut and says so.

    Args:
        value: Anything; None gives "".
        limit: Characters kept.
        lines: Keep line breaks.
    """
    text = "" if value is None else str(value)
    cut = len(text) - limit
    if cut > 0:
        text = text[:limit]
    text = text.replace("\r\n", "\n").replace("\x1b", "")
    if lines:
        text = _CONTROL.sub("", text)
    else:
        text = _CONTROL.sub("", _SPACE.sub(" ", text)).strip()
    text = _LONE_SURROGATE.sub("\ufffd", text)
    return f"{text}… ({cut:,} more characters)" if cut > 0 else text


def short(value: object, limit: int) -> str:
    """A name cut to so many characters, for an axis or a table cell."""
    text = clean(value, limit=4 * limit)
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def figure(value: object) -> str:
    """A number for a table: three significant digits, thousands separated; `–` where nothing was measured."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    number = finite(value)
    if number is None:
        return clean(value, limit=160) if isinstance(value, str) else "–"
    if isinstance(value, str):
        return clean(value, limit=160)
    size = abs(number)
    if size and (size < 1e-5 or size >= 1e12):
        text = f"{number:.2e}"
    elif number == int(number) and size >= 1:
        text = f"{int(number):,}"
    else:
        text = f"{number:,.{significant_digits(number)}f}"
    return text.replace("-", "−")


def figures(values: Sequence[object]) -> list[str]:
    """Numbers that are read together, such as one column: all with the decimals that the largest needs."""
    sizes = [abs(number) for value in values if not isinstance(value, str) and (number := finite(value)) is not None]
    largest = max(sizes, default=0.0)
    if not sizes or largest < 1e-4 or largest >= 1e9 or all(size == int(size) for size in sizes):
        return [figure(value) for value in values]
    digits = max(1 if largest >= 100 else 2, min(5, significant_digits(largest)))
    return [figure(value) if isinstance(value, (str, bool)) or finite(value) is None else rounded(finite(value) or 0.0, digits)
            for value in values]


def finite(value: object) -> float | None:
    """The value as a finite float, or None for NaN, infinities, None and what is no number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def amount(estimate: Estimate) -> str:
    """The value alone, rounded to what the interval supports, such as `0.736`."""
    return rounded(estimate.value, significant_digits(estimate.value, estimate.error))


def certainty(estimate: Estimate) -> str:
    """How sure: `95% interval 0.731 to 0.741, n = 45,666 rows of 5,990 users`; without an interval only n."""
    n = f"n = {clean(estimate.basis, limit=120)}"
    if not estimate.has_interval:
        return n
    digits = significant_digits(estimate.value, estimate.error)
    low, high = rounded(estimate.low or 0.0, digits), rounded(estimate.high or 0.0, digits)
    return f"{estimate.level * 100:g}% interval {low} to {high}, {n}"


def rounded(value: float, digits: int) -> str:
    """Fixed decimals, thousands separated, a real minus sign, and no minus before zero."""
    text = f"{value:,.{digits}f}"
    if not float(text.replace(",", "")):
        text = text.lstrip("-")
    return text.replace("-", "−")


def lead(claim: str) -> str:
    """The first statement of a claim: up to the first colon, semicolon or full stop."""
    return split_claim(claim)[0]


def split_claim(claim: str) -> tuple[str, str]:
    """The first statement of a claim, short enough for a heading, and what follows it (or the whole, where it was cut)."""
    text = clean(claim)
    found = _SENTENCE.search(text, 4)
    if found and found.start() <= _HEADING:
        rest = text[found.end():].strip()
        return text[: found.start()], rest[:1].upper() + rest[1:] if _WORD.match(rest) else rest
    return (text.rstrip("."), "") if len(text) <= _HEADING else (short(text, _HEADING), text)


def counted(n: int, one: str, many: str = "") -> str:
    """`1 question`, `2 questions`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def tally_line(report: Report) -> str:
    """Counts of the verdicts that occur, worst first: `3 FAIL, 2 WARN, 1 UNKNOWN, 8 PASS`."""
    counts = {verdict: len(report.with_verdict(verdict)) for verdict in Verdict}
    return ", ".join(f"{n} {verdict.value}" for verdict, n in counts.items() if n) or "no findings"


def headline(report: Report) -> tuple[str, str]:
    """Is it healthy, and if not, what is wrong, in plain words: a short sentence and the rest of the answer.

    The sentence is about the first finding in the order of `Report.ranked`: of the worst verdict, the most severe.
    """
    fails, warns = report.with_verdict(Verdict.FAIL), report.with_verdict(Verdict.WARN)
    unknown, passed = report.with_verdict(Verdict.UNKNOWN), report.with_verdict(Verdict.PASS)
    left = f"{counted(len(unknown), 'question')} could not be answered." if unknown else ""
    if fails:
        others = len(fails) - 1
        rest = f"{counted(others, 'more finding fails', 'more findings fail')}. " if others else ""
        rest += f"{counted(len(warns), 'finding deserves', 'findings deserve')} a look. " if warns else ""
        return f"Not healthy: {_lower(lead(fails[0].claim))}.", (rest + left).strip()
    if warns:
        others = len(warns) - 1
        rest = f"{counted(others, 'more finding deserves', 'more findings deserve')} a look. " if others else ""
        return f"Nothing fails, but look at this: {_lower(lead(warns[0].claim))}.", (rest + left).strip()
    if passed:
        return "Healthy: everything that could be judged passes.", f"{counted(len(passed), 'finding passes', 'findings pass')}. {left}".strip()
    if unknown:
        return "Nothing could be judged.", left
    return "Nothing was examined.", ""


def _lower(text: str) -> str:
    """Lower-case the first letter of an ordinary word; `AUC` and `user_id` stay."""
    word = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if word[1:].islower() or word in ("A", "I") else text


def next_command(report: Report) -> str:
    """What to type next: the first command that a remedy of the worst findings offers, or ""."""
    for finding in report.with_verdict(Verdict.FAIL, Verdict.WARN, Verdict.UNKNOWN):
        for remedy in finding.remedies:
            if remedy.command.strip():
                return clean(remedy.command, limit=400)
    return ""


def by_code(findings: Sequence[Finding]) -> list[tuple[Finding, ...]]:
    """Findings of one diagnostic and verdict side by side (one leak per field, one slice per row), order kept."""
    groups: dict[tuple[str, Verdict], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.code, finding.verdict), []).append(finding)
    return [tuple(group) for group in groups.values()]


def by_reason(findings: Sequence[Finding]) -> list[tuple[str, tuple[Finding, ...]]]:
    """UNKNOWN findings that lack the same thing side by side: the reason, and what it keeps from being answered."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(clean(finding.claim), []).append(finding)
    return [(reason, tuple(group)) for reason, group in groups.items()]


def by_stage(findings: Sequence[Finding]) -> dict[str, tuple[Finding, ...]]:
    """Findings by stage of the loop, stages in the order of the loop."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.stage, []).append(finding)
    return {stage: tuple(groups[stage]) for stage in sorted(groups, key=stage_order)}


def stage_order(stage: str) -> tuple[int, str]:
    """Sort key of a stage."""
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)


def sources(report: Report) -> tuple[str, ...]:
    """The bibliography: every source that a finding names, once, by name."""
    return tuple(sorted({clean(source) for finding in report.findings for source in finding.sources} - {""}))


def plain(value: Any) -> str:
    """Provenance as one line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{clean(key, limit=80)} {plain(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(entry) for entry in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return clean(value)
