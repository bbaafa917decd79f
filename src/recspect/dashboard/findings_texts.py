"""What findings say, in another language: sentences looked up in a catalogue, with the numbers and names of the finding put into their places.

Findings are written in English by diagnostics. A sentence of the catalogue has `{}` where a diagnostic fills something in, so the same sentence is found
whatever the numbers are. A sentence that the catalogue lacks stays English, and says so to screen readers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.resources import files

from markupsafe import Markup

_ENTRY = re.compile(r'^msgid "((?:[^"\\]|\\.)+)"\nmsgstr "((?:[^"\\]|\\.)+)"', re.MULTILINE)
_PLACES = re.compile(r"\{(\d*)\}")
_REPEATED = re.compile(r"(?P<text>.+) The same for (?P<n>[\d,]+) other places?\.", re.DOTALL)
_REPEATED_TEXT = "The same for {} other places."
KEPT = 4096
"""Sentences of which it is remembered what they are in a language."""


@cache
def catalogue(language: str) -> dict[str, str]:
    """Sentence to its translation; empty for a language without a catalogue."""
    path = files("recspect.dashboard").joinpath("texts", language, "LC_MESSAGES", "findings.po")
    if not path.is_file():
        return {}
    return {_plain(original): _plain(translated) for original, translated in _ENTRY.findall(path.read_text(encoding="utf-8"))}


@lru_cache(maxsize=KEPT)
def translated(text: str, language: str) -> str | None:
    """The sentence in that language; None where the catalogue lacks it."""
    exact = catalogue(language).get(text)
    if exact is not None and "{" not in exact:
        return exact
    for pattern, form in _patterns(language):
        found = pattern.fullmatch(text)
        if found:
            return _filled(form, found.groups())
    more = _REPEATED.fullmatch(text)
    if more is not None:
        first, second = translated(more["text"], language), catalogue(language).get(_REPEATED_TEXT)
        return first + second.replace("{}", more["n"]) if first is not None and second is not None else None
    return None


def teller(language: str) -> Callable[[str], str]:
    """Text of a finding to what a page shows in a language: translated, or marked as English."""
    if not catalogue(language):
        return lambda text: text

    def told(text: str) -> str:
        found = translated(str(text), language)
        return found if found is not None else Markup('<span lang="en" dir="auto">{}</span>').format(text) if text else text

    return told


@cache
def questions() -> dict[str, str]:
    """Code of a diagnostic to its question, in English."""
    from recspect.diagnosis.diagnostic import all_diagnostics

    return {diagnostic.code: diagnostic.question for diagnostic in all_diagnostics()}


def asker(language: str) -> Callable[[str], str]:
    """Code of a finding to its question in a language that is not English; empty where it is not known."""
    if not catalogue(language):
        return lambda code: ""  # noqa: ARG005 - the claim is English already and says more
    return lambda code: translated(questions().get(code, ""), language) or ""


@cache
def _patterns(language: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Sentences with places to fill in, those that say most first: the more words of its own a sentence has, the surer it is the one."""
    forms = [(original, form) for original, form in catalogue(language).items() if "{}" in original]
    forms.sort(key=lambda pair: -len(pair[0].replace("{}", "")))
    return tuple((re.compile("(.*?)".join(map(re.escape, original.split("{}"))), re.DOTALL), form) for original, form in forms)


def _filled(form: str, parts: tuple[str, ...]) -> str:
    """The form with what stood in the places, in order, or by number from 0."""
    rest = iter(range(len(parts)))
    return _PLACES.sub(lambda place: parts[int(place[1]) if place[1] else next(rest)], form)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


__all__ = ["asker", "catalogue", "questions", "teller", "translated"]
