"""Explanations in words: templates that are filled from evidence, in English and Chinese. Every sentence holds a number; names of data are cleaned of what could act on a screen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from recspect.errors import UsageError, listing
from recspect.explaining.explanation import Counterfactual, Evidence, Explanation, Part, Reasons, Unit
from recspect.explaining.templates import TEMPLATES
from recspect.report.wording import clean

LANGUAGES = tuple(TEMPLATES)
MOST = 3
"""Fields, and entries of lists, that are told on each side."""
LEAST_SHARE = 0.05
"""Of the largest contribution: what is smaller is not told."""
NAME_LENGTH = 80
LARGEST_WHOLE = 1e15
"""Whole numbers beyond this are written with an exponent."""


def sentences_of(explanation: Explanation, language: str) -> tuple[str, ...]:
    """The sentences in order: place, way, what carried the score, above another, counterfactual, training.

    Raises:
        UsageError: No such language.
    """
    if language not in TEMPLATES:
        raise UsageError(f"no language {language!r}", hint=f"choices: {listing(LANGUAGES)}")
    say = _Say(explanation, language)
    return tuple(sentence for part in (_place, _way, _reasons, _contrast, _whole, _counterfactual, _evidence) for sentence in part(explanation, say))


class _Say:
    """Fills templates of one language."""

    def __init__(self, explanation: Explanation, language: str) -> None:
        self.templates, self.names = TEMPLATES[language], explanation.names

    def __call__(self, key: str, **values: object) -> str:
        return self.templates[key].format(**values)

    def name(self, value: Any) -> str:
        """A value of data in quotes, safe to show."""
        if isinstance(value, (list, tuple)):
            return self("list", values=self.join([self.name(one) for one in value[:MOST]]), n=f"{len(value):,}") if len(value) > MOST else self.join([self.name(one) for one in value])
        if value is None:
            return self("nothing")
        if isinstance(value, float):
            return str(int(value)) if value.is_integer() and abs(value) < LARGEST_WHOLE else f"{value:.4g}"
        return self.templates["quoted"].format(clean(value, limit=NAME_LENGTH))

    def item(self, value: Any) -> str:
        """An item by its name where one is known, with its id."""
        return f"{self.name(self.names[value])} ({clean(value, limit=NAME_LENGTH)})" if value in self.names else self.name(value)

    def join(self, parts: Sequence[str]) -> str:
        if len(parts) < 2:
            return "".join(parts)
        return self.templates["comma"].join(parts[:-1]) + self.templates["and"] + parts[-1]

    def part(self, part: Part, *, is_logit: bool) -> str:
        """A contribution with its sign and what it does to the odds."""
        held = part.value if part.entry is None else self.names.get(part.value, part.value)
        values = {"field": self.name(part.field), "value": self.name(held), "points": f"{part.contribution:+.3f}"}
        if isinstance(part.value, tuple):
            values["value"] = self("against_value", mine=self.name(part.value[0]), theirs=self.name(part.value[1]))
        return self("part_odds", odds=f"{math.exp(max(-50.0, min(50.0, part.contribution))):.3g}", **values) if is_logit else self("part", **values)

    def unit(self, unit: Unit) -> str:
        return self(f"unit_{unit.kind}", field=self.name(unit.field), value=self.item(unit.value) if unit.kind == "action" else self.name(unit.value))


def _place(found: Explanation, say: _Say) -> Iterator[str]:
    values = {"item": say.item(found.item), "user": say.name(found.user), "listed": f"{found.listed:,}"}
    if found.rank is not None:
        yield say("place", rank=found.rank, **values)
    elif found.way is None:
        yield say("no_candidate", **values)
    else:
        yield say("dropped", step=say.name(found.way["dropped_by"]), reason=clean(found.way["reason"], limit=200), **values)


def _way(found: Explanation, say: _Say) -> Iterator[str]:
    if found.way is None:
        return
    sources = [say("source", source=say.name(one["source"]), rank=f"{one['rank']:,}") for one in found.way["sources"]]
    if sources:
        yield say("sources", n=len(sources), sources=say.join(sources))
    stages = [say("stage", step=say.name(one["step"]), rank=f"{one['rank']:,}") for one in found.way["stages"]]
    if stages:
        score = found.way["ranking_score"]
        yield say("stages", stages=say.join(stages), score="?" if score is None else f"{score:.4g}")


def _reasons(found: Explanation, say: _Say) -> Iterator[str]:
    reasons = found.reasons
    if reasons is None:
        yield say("no_model", n=0 if found.way is None else len(found.way["sources"]))
        return
    yield say("difference_odds" if reasons.is_logit else "difference", score=f"{reasons.score:.3f}", baseline=f"{reasons.baseline:.3f}", compared=say(f"against_{reasons.against}"), difference=f"{reasons.score - reasons.baseline:+.3f}", bound=f"{reasons.bound:.2g}",
              chance=f"{100 / (1 + math.exp(-max(-50.0, min(50.0, reasons.score)))):.3g}")
    yield from _sides(reasons, say, "for", "against")
    if reasons.entries:
        for key, parts in (("entries_for", _most(reasons.entries)), ("entries_against", _most(reasons.entries, against=True))):
            if parts:
                yield say(key, parts=say.join([say.part(part, is_logit=reasons.is_logit) for part in parts]), n=f"{len(reasons.entries):,}")


def _contrast(found: Explanation, say: _Say) -> Iterator[str]:
    if found.contrast is None:
        return
    values = {"item": say.item(found.item), "over": say.item(found.over), "difference": f"{abs(found.contrast.score):.3f}", "bound": f"{found.contrast.bound:.2g}"}
    yield say("above" if found.contrast.score > 0 else "not_above", **values)
    yield from _sides(found.contrast, say, "contrast_for", "contrast_against")


def _whole(found: Explanation, say: _Say) -> Iterator[str]:
    if found.whole is not None:
        parts = [part for part in sorted(found.whole.parts, key=lambda part: -abs(part.contribution))[:MOST] if part.contribution]
        yield say("whole", listed=f"{found.listed:,}", score=f"{found.whole.score:.3f}", parts=say.join([say.part(part, is_logit=found.whole.is_logit) for part in parts]))


def _sides(reasons: Reasons, say: _Say, for_key: str, against_key: str) -> Iterator[str]:
    for key, parts in ((for_key, _most(reasons.parts)), (against_key, _most(reasons.parts, against=True))):
        if parts:
            yield say(key, parts=say.join([say.part(part, is_logit=reasons.is_logit) for part in parts]))


def _most(parts: Sequence[Part], *, against: bool = False) -> list[Part]:
    """The largest on one side, without those that hardly count."""
    largest = max((abs(part.contribution) for part in parts), default=0.0)
    mine = [part for part in (reversed(parts) if against else parts) if (part.contribution < 0 if against else part.contribution > 0)]
    return [part for part in mine[:MOST] if abs(part.contribution) >= LEAST_SHARE * largest]


def _counterfactual(found: Explanation, say: _Say) -> Iterator[str]:
    change = found.counterfactual
    if change is None:
        return
    if not change.removed:
        yield say("unchanged", units=f"{change.units:,}", tried=f"{change.tried:,}", goal=say(f"goal_{change.goal}", item=say.item(found.item), over=say.item(found.over)))
        return
    yield say("changed", removed=say.join([say.unit(unit) for unit in change.removed]), n=len(change.removed), goal=say(f"goal_{change.goal}", item=say.item(found.item), over=say.item(found.over)),
              scores=_scores(found, change, say), tried=f"{change.tried:,}")
    if len(change.removed) > 1:
        yield say("smallest" if change.smallest else "not_smallest", n=len(change.removed))
    if change.sufficient is not None:
        yield say("sufficient" if change.sufficient else "not_sufficient", n=len(change.removed), units=f"{change.units:,}")


def _scores(found: Explanation, change: Counterfactual, say: _Say) -> str:
    if change.score is None:
        return say("scores_gone", item=say.item(found.item))
    if change.instead is None or change.instead_score is None:
        return say("scores_alone", item=say.item(found.item), score=f"{change.score:.4g}")
    return say("scores", item=say.item(found.item), score=f"{change.score:.4g}", instead=say.item(change.instead), instead_score=f"{change.instead_score:.4g}")


def _evidence(found: Explanation, say: _Say) -> Iterator[str]:
    evidence = found.evidence
    if evidence is None:
        return
    yield say("own", met=f"{evidence.met:,}", wanted=f"{evidence.wanted:,}")
    yield from _others(evidence, say)


def _others(evidence: Evidence, say: _Say) -> Iterator[str]:
    yield say("others", wanted_by=f"{evidence.wanted_by:,}", alike=f"{evidence.alike:,}")
    if evidence.shared:
        yield say("shared", shared=say.join([say("shared_item", item=say.item(item), users=f"{users:,}") for item, users in evidence.shared]), nearest=evidence.nearest[0])


__all__ = ["LANGUAGES", "sentences_of"]
