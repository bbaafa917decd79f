"""The metric file: which metrics there are, how events make them, what the business believes of them, and what mistakes cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recspect.errors import UsageError, listing
from recspect.schema_files import read_content

MEASURES = ("count", "value", "any")
"""What of a kind of event is taken: how often, the sum of its values, whether at all."""
PER_USER, PER_DAY = "user", "day"
"""What a metric is per, beside a kind of event: a user of the experiment, a day on which a user was there."""
DIRECTIONS = {"up": 1, "down": -1, "any": 0}
"""Which way is good, and the sign that a weight may have."""
EFFECTS = ("absolute", "relative")


@dataclass(frozen=True, kw_only=True)
class DeclaredMetric:
    """One metric: what events make it, and what is known and asked of it.

    Args:
        name: What it is called in tables and reports.
        event: Kind of event that is measured, such as `click`; empty where the metric comes ready in a table of experiments.
        measure: One of `MEASURES`.
        per: `user`, `day`, or a kind of event: the metric is the ratio of the two totals.
        window_hours: An event counts where it came within so many hours after the user's latest exposure, and on that exposure's day; None counts all on their own day.
        winsorise: Quantile of the values per user at which larger ones are cut, in (0.5, 1]; 1 cuts none.
        direction: `up`, `down` or `any`: the sign that the weight may have.
        belief: Believed correlation of true effects on it with those on the north star, in (-1, 1).
        price: What it must add in proxy quality to be worth its upkeep.
        typical_effect: Believed size (standard deviation) of true effects; None where the data say.
        margin: A guardrail: nothing ships that may worsen the metric by this much or more; None for no guardrail.
    """

    name: str
    event: str = ""
    measure: str = "count"
    per: str = PER_USER
    window_hours: float | None = None
    winsorise: float = 0.999
    direction: str = "any"
    belief: float = 0.0
    price: float = 0.0
    typical_effect: float | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        where = f"metric {self.name!r}"
        if not self.name or not self.name.isprintable():
            raise UsageError(f"a metric is called {self.name!r}", hint="names are printable and not empty")
        if self.measure not in MEASURES:
            raise UsageError(f"{where}: measure is {self.measure!r}", hint=f"measures: {', '.join(MEASURES)}")
        if self.direction not in DIRECTIONS:
            raise UsageError(f"{where}: direction is {self.direction!r}", hint=f"directions: {', '.join(DIRECTIONS)}")
        if self.measure == "any" and self.per not in (PER_USER, PER_DAY):
            raise UsageError(f"{where}: whether there was any {self.event} per {self.per} is no ratio of totals", hint='per = "user" or "day", or measure = "count"')
        if not -1 < self.belief < 1:
            raise UsageError(f"{where}: belief is {self.belief}, a correlation between -1 and 1", hint="0.5 where it usually moves with the north star, 0 where nobody knows")
        if self.belief * DIRECTIONS[self.direction] < 0:
            raise UsageError(f"{where}: direction {self.direction!r} and belief {self.belief} contradict each other",
                             hint="the belief is the correlation with the north star: negative for what should go down")
        if self.price < 0 or not 0.5 < self.winsorise <= 1:
            raise UsageError(f"{where}: price is {self.price}, winsorise {self.winsorise}", hint="a price of 0 or more; a quantile above 0.5 and at most 1")
        for name, value in (("window_hours", self.window_hours), ("typical_effect", self.typical_effect), ("margin", self.margin)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{where}: {name} is {value}, expected more than 0", hint="leave it out where it does not apply")

    @property
    def sign(self) -> int:
        """1, -1 or 0: which weights are allowed."""
        return DIRECTIONS[self.direction]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What decides.

    Args:
        cost_false_ship, cost_missed: What it costs to ship what is not worth it, and not to ship what is; only the ratio matters.
        smallest_effect: Effect on the north star from which on a change is worth running.
        most_metrics: Most short-term metrics with a weight.
        prior_experiments: How many experiments of usual size the beliefs are worth; None lets held-out families choose.
        least_experiments, dwell_days, step: The gate; see `recspect.adapting.adoption.Gate`.
        scene_experiments: How many experiments of a scene what was learnt in all scenes counts for.
        joint: Whether the north star's own early reading is weighed in.
        by_size: Whether an experiment is judged by the best weights for its own size instead of those of the usual size; these do not follow the step from release to release.
        apart: Share of experiments that are decided by the north star alone and never fitted on, so that there is something to check the metric with.
    """

    cost_false_ship: float = 1.0
    cost_missed: float = 1.0
    smallest_effect: float = 0.0
    most_metrics: int = 5
    prior_experiments: float | None = 40.0
    least_experiments: int = 50
    dwell_days: float = 28.0
    step: float = 0.25
    scene_experiments: float = 40.0
    joint: bool = True
    by_size: bool = False
    apart: float = 0.05


@dataclass(frozen=True, kw_only=True)
class MetricFile:
    """Everything that a metric file says.

    Args:
        name: What it is about.
        north_star: What the business is after; its `window_days` says when it is final.
        metrics: Short-term metrics.
        decision: What decides.
        window_days: Days after the start of an experiment's last user until the north star is final.
        effect: `absolute` differences, or `relative` ones (log ratios, which compare between scenes).
        noise_correlation: Correlation of the sampling errors of metrics, for tables that give variances only; None where such tables are refused.
        cuped_days: Days before the experiment whose values of the same metrics are used to take out noise; 0 for none.
    """

    name: str
    north_star: DeclaredMetric
    metrics: tuple[DeclaredMetric, ...]
    decision: Decision = field(default_factory=Decision)
    window_days: float = 28.0
    effect: str = "absolute"
    noise_correlation: float | None = None
    cuped_days: float = 0.0

    def __post_init__(self) -> None:
        if not self.metrics:
            raise UsageError(f"{self.name}: no short-term metric", hint="[metrics.click_rate] with event, measure and per")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise UsageError(f"{self.name}: {listing(twice)} twice", hint="each metric, and the north star, has a name of its own")
        if self.effect not in EFFECTS:
            raise UsageError(f"{self.name}: effect is {self.effect!r}", hint=f"effects: {', '.join(EFFECTS)}")
        if self.noise_correlation is not None and not -1 / len(self.names) < self.noise_correlation < 1:
            raise UsageError(f"{self.name}: noise_correlation is {self.noise_correlation}", hint="between 0 and 1, such as 0.3")

    @property
    def names(self) -> tuple[str, ...]:
        """The north star and the metrics, in the order of every array."""
        return (self.north_star.name, *(metric.name for metric in self.metrics))

    @property
    def all(self) -> tuple[DeclaredMetric, ...]:
        """The north star and the metrics."""
        return (self.north_star, *self.metrics)

    @classmethod
    def read(cls, path: Path) -> MetricFile:
        """A metric file in TOML, YAML or JSON.

        Raises:
            UsageError: It is missing, malformed, or says what makes no sense.
        """
        if not path.is_file():
            raise UsageError(f"no metric file at {path}", hint="docs/adaptive-metrics.md has one to begin with")
        return cls.from_mapping(read_content(path), where=str(path))

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], *, where: str = "metric file") -> MetricFile:
        """The same from plain data."""
        top = _Table(content, where, ("name", "north_star", "metrics", "decision", "effect", "noise_correlation", "cuped_days"))
        star = _Table(top.table("north_star", needed=True), f"{where}: north_star", ("name", "window_days", *_MEASURED))
        metrics = top.table("metrics", needed=True)
        decision = _Table(top.table("decision"), f"{where}: decision", tuple(Decision.__dataclass_fields__))
        prior = decision.content.get("prior_experiments", 40.0)
        settings = {name: decision.number(name) for name in Decision.__dataclass_fields__ if name in decision.content and name not in ("prior_experiments", "joint", "by_size")}
        for name in ("most_metrics", "least_experiments"):
            if name in settings:
                settings[name] = decision.whole(name)
        found = Decision(**settings, prior_experiments=None if prior == "auto" else decision.number("prior_experiments", 40.0), joint=decision.yes("joint", True),
                         by_size=decision.yes("by_size", False))
        _require_decision(found, f"{where}: decision")
        return cls(
            name=top.text("name", Path(where).stem), north_star=_metric(star, star.text("name", "north_star")), decision=found,
            metrics=tuple(_metric(_Table(given, f"{where}: metrics.{name}", (*_MEASURED, *_JUDGED)), name) for name, given in metrics.items()),
            window_days=star.number("window_days", 28.0), effect=top.text("effect", "absolute"),
            noise_correlation=top.number("noise_correlation") if "noise_correlation" in top.content else None, cuped_days=top.number("cuped_days", 0.0))


_MEASURED = ("event", "measure", "per", "window_hours", "winsorise", "typical_effect")
_JUDGED = ("direction", "belief", "price", "margin")


def _require_decision(found: Decision, where: str) -> None:
    wrong = [name for name, bad in (
        ("cost_false_ship", found.cost_false_ship <= 0), ("cost_missed", found.cost_missed <= 0), ("most_metrics", found.most_metrics < 1), ("least_experiments", found.least_experiments < 2),
        ("prior_experiments", found.prior_experiments is not None and found.prior_experiments < 0), ("dwell_days", found.dwell_days < 0), ("step", not 0 < found.step <= 2),
        ("scene_experiments", found.scene_experiments < 0), ("apart", not 0 <= found.apart < 1)) if bad]
    if wrong:
        raise UsageError(f"{where}: {wrong[0]} is {getattr(found, wrong[0])}", hint="costs above 0, at least one metric and two experiments, a step above 0 and at most 2, nothing negative")


def _metric(table: _Table, name: str) -> DeclaredMetric:
    given: dict[str, Any] = {"name": name}
    for key in table.content:
        if key in ("event", "measure", "per", "direction"):
            given[key] = table.text(key, "")
        elif key not in ("name", "window_days"):
            given[key] = table.number(key)
    return DeclaredMetric(**given)


class _Table:
    """A table of settings, read key by key with errors that say where."""

    def __init__(self, content: Any, where: str, known: tuple[str, ...]) -> None:
        if not isinstance(content, Mapping):
            raise UsageError(f"{where} is {content!r:.60}, expected a table of settings", hint="docs/adaptive-metrics.md has an example")
        unknown = [str(key) for key in content if key not in known]
        if unknown:
            raise UsageError(f"{where} has no setting {listing(unknown, limit=5)}", hint=f"settings: {', '.join(known)}")
        self.content, self.where = content, where

    def table(self, key: str, *, needed: bool = False) -> Mapping[str, Any]:
        if needed and key not in self.content:
            raise UsageError(f"{self.where} has no [{key}]", hint="docs/adaptive-metrics.md has an example")
        found = self.content.get(key, {})
        if not isinstance(found, Mapping):
            raise UsageError(f"{self.where}: {key} is {found!r:.60}, expected a table of settings", hint=f"[{key}]")
        return found

    def text(self, key: str, default: str) -> str:
        found = self.content.get(key, default)
        if not isinstance(found, str):
            raise UsageError(f"{self.where}: {key} is {found!r:.60}, expected a text")
        return found

    def number(self, key: str, default: float = math.nan) -> float:
        found = self.content.get(key, default)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or (key in self.content and not math.isfinite(found)):
            raise UsageError(f"{self.where}: {key} is {found!r:.60}, expected a number")
        return float(found)

    def whole(self, key: str) -> int:
        found = self.number(key)
        if found != int(found):
            raise UsageError(f"{self.where}: {key} is {found:g}, expected a whole number")
        return int(found)

    def yes(self, key: str, default: bool) -> bool:
        found = self.content.get(key, default)
        if not isinstance(found, bool):
            raise UsageError(f"{self.where}: {key} is {found!r:.60}, expected true or false")
        return found


__all__ = ["DIRECTIONS", "MEASURES", "PER_DAY", "PER_USER", "Decision", "DeclaredMetric", "MetricFile"]
