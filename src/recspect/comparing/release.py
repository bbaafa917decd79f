"""A release decision from declared rules: what must be better, what must not be worse and by how much, and what may not be exceeded.

Every rule holds, is broken or is open, by the interval and not by the value: it holds when the whole interval is on the good side, and is broken when the whole interval is on the bad
side. Ship when all hold; hold when one is broken; else the data cannot say yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recspect.diagnosis.estimate import Estimate
from recspect.errors import UsageError, listing
from recspect.experimenting.deciding import Action
from recspect.schema_files import read_content

KINDS = ("better", "not_worse", "at_most")
FIGURES = ("log_loss", "auc", "calibration", "user_auc", "ndcg@10", "squared_error", "worst_slice", "users_worse", "churn")
"""What rules may be about: gains of figures, the relative gain of the slice that loses most, the share of users who lose, the prediction difference."""
HOLDS, BROKEN, OPEN, ABSENT = "holds", "is broken", "is open", "cannot be judged"


@dataclass(frozen=True, kw_only=True)
class ReleaseRule:
    """One condition.

    Args:
        figure: One of `FIGURES`.
        kind: `better` (the gain is surely above `by`), `not_worse` (surely above -`by`), `at_most` (the number itself surely at most `by`).
        by: In the unit of the figure.
        optional: Whether a figure that cannot be had is passed over; else it leaves the rule open.
    """

    figure: str
    kind: str
    by: float = 0.0
    optional: bool = False

    def __post_init__(self) -> None:
        if self.figure not in FIGURES:
            raise UsageError(f"no figure is called {self.figure!r}", hint=f"figures: {listing(FIGURES)}")
        if self.kind not in KINDS:
            raise UsageError(f"a rule about {self.figure} is {self.kind!r}", hint=f"kinds: {listing(KINDS)}")
        if (self.kind == "at_most") != (self.figure in ("users_worse", "churn")):
            raise UsageError(f"{self.figure} cannot be {self.kind}", hint="users_worse and churn are bounded with at_most, all others are better or not_worse")
        if self.by < 0:
            raise UsageError(f"the rule about {self.figure} has by = {self.by:g}", hint="a number of 0 or more")

    def state(self, estimate: Estimate | None) -> str:
        """HOLDS, BROKEN, OPEN or ABSENT."""
        if estimate is None:
            return ABSENT
        if self.kind == "at_most":
            return HOLDS if estimate.surely_below(self.by) or (not estimate.has_interval and estimate.value == self.by) else BROKEN if estimate.surely_above(self.by) else OPEN
        bar = self.by if self.kind == "better" else -self.by
        return HOLDS if estimate.surely_above(bar) else BROKEN if estimate.surely_below(bar) else OPEN

    @property
    def text(self) -> str:
        """What is asked for."""
        return {"better": f"{self.figure} must be better" + (f" by {self.by:g}" if self.by else ""), "not_worse": f"{self.figure} must not be worse by {self.by:g} or more",
                "at_most": f"{self.figure} must be at most {self.by:g}"}[self.kind]


DEFAULT = {
    "binary": (ReleaseRule(figure="log_loss", kind="better"), ReleaseRule(figure="auc", kind="not_worse", by=0.001), ReleaseRule(figure="calibration", kind="not_worse", by=0.02),
               ReleaseRule(figure="user_auc", kind="not_worse", by=0.003, optional=True), ReleaseRule(figure="worst_slice", kind="not_worse", by=0.05, optional=True)),
    "graded": (ReleaseRule(figure="squared_error", kind="better"), ReleaseRule(figure="worst_slice", kind="not_worse", by=0.05, optional=True)),
}
"""Rules where no file declares any."""


@dataclass(frozen=True, kw_only=True)
class ReleaseDecision:
    """What to do, and the state of every rule with its number."""

    action: Action
    reasons: tuple[str, ...]
    states: tuple[str, ...]


def read_rules(path: Path) -> tuple[ReleaseRule, ...]:
    """Rules of a file (TOML, YAML or JSON): `[[rule]]` with figure, kind, by and optional.

    Raises:
        UsageError: No rule, or one that cannot be.
        SchemaError: A file that cannot be read.
    """
    content = read_content(path)
    entries = content.get("rule")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries) or set(content) != {"rule"}:
        raise UsageError(f"{path} holds {listing(content)}, expected rules only", hint='[[rule]]  figure = "auc"  kind = "not_worse"  by = 0.001')
    return tuple(_rule(entry, path) for entry in entries)


def _rule(entry: Mapping[str, Any], path: Path) -> ReleaseRule:
    known = {"figure": str, "kind": str, "by": (int, float), "optional": bool}
    for key, value in entry.items():
        if key not in known:
            raise UsageError(f"{path}: a rule has {key!r}", hint=f"a rule has {listing(known)}")
        if not isinstance(value, known[key]) or (key == "by" and isinstance(value, bool)):  # type: ignore[arg-type]
            raise UsageError(f"{path}: {key} is {value!r}", hint='such as figure = "auc", kind = "not_worse", by = 0.001')
    if "figure" not in entry or "kind" not in entry:
        raise UsageError(f"{path}: a rule lacks its figure or its kind", hint='figure = "auc"  kind = "not_worse"  by = 0.001')
    return ReleaseRule(figure=entry["figure"], kind=entry["kind"], by=float(entry.get("by", 0.0)), optional=bool(entry.get("optional", False)))


def decide_release(rules: Sequence[ReleaseRule], numbers: Mapping[str, Estimate]) -> ReleaseDecision:
    """Hold every rule against its number.

    Args:
        rules: At least one.
        numbers: Gains (or, for users_worse and churn, the numbers themselves) by figure; what could not be had is absent.

    Raises:
        UsageError: No rule.
    """
    if not rules:
        raise UsageError("a release needs at least one rule")
    states = [rule.state(numbers.get(rule.figure)) for rule in rules]
    reasons = tuple(f"{rule.text}: {state}" + (f" ({numbers[rule.figure]})" if rule.figure in numbers else ", it could not be measured") + (", which is allowed" if state == ABSENT and rule.optional else "")
                    for rule, state in zip(rules, states, strict=True))
    if BROKEN in states:
        action = Action.HOLD
    elif all(state == HOLDS or (state == ABSENT and rule.optional) for rule, state in zip(rules, states, strict=True)) and HOLDS in states:
        action = Action.SHIP
    else:
        action = Action.NEEDS_DATA
    return ReleaseDecision(action=action, reasons=reasons, states=tuple(states))


__all__ = ["ABSENT", "BROKEN", "DEFAULT", "FIGURES", "HOLDS", "KINDS", "OPEN", "ReleaseDecision", "ReleaseRule", "decide_release", "read_rules"]
