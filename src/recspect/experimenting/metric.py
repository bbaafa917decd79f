"""What is measured in an experiment: a mean per user, or a ratio of two of them, with the direction that is good and what a change must not cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from recspect.errors import UsageError, listing

GRAMMAR = "NAME, NAME=COLUMN, NAME=COLUMN/COLUMN, each with ~COLUMN or ~COLUMN/COLUMN for what was measured before"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A mean per user, or a ratio of means.

    Args:
        name: What it is called.
        numerator: Column whose mean per user is taken.
        denominator: Column whose mean it is divided by; empty for none.
        covariate: The same numerator measured before the experiment (CUPED); empty for none.
        covariate_denominator: The same denominator measured before.
        lower_is_better: Whether a fall is good, as of complaints or latency.
        margin: For a guardrail, the relative loss that is still tolerated, such as 0.02. None: a success metric, of which a gain is hoped for.
    """

    name: str
    numerator: str
    denominator: str = ""
    covariate: str = ""
    covariate_denominator: str = ""
    lower_is_better: bool = False
    margin: float | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.numerator:
            raise UsageError(f"a metric needs a name and a column, this has {self.name!r} and {self.numerator!r}", hint=GRAMMAR)
        if self.margin is not None and not 0 < self.margin < 1:
            raise UsageError(f"the margin of guardrail {self.name!r} is {self.margin:g}", hint="a relative loss above 0 and below 1, such as hides:2%")
        if self.covariate_denominator and not self.denominator:
            raise UsageError(f"metric {self.name!r} has a ratio as covariate, but is none itself", hint=GRAMMAR)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads, covariates among them."""
        return tuple(filter(None, (self.numerator, self.denominator, self.covariate, self.covariate_denominator)))

    @property
    def guardrail(self) -> bool:
        """Whether it must merely not suffer."""
        return self.margin is not None

    @property
    def sign(self) -> float:
        """1 where more is better, else -1."""
        return -1.0 if self.lower_is_better else 1.0

    @classmethod
    def parse(cls, text: str, *, lower_is_better: bool = False) -> Metric:
        """Read `ctr=clicks/views~clicks_before/views_before`.

        Raises:
            UsageError: It cannot be read.

        Example:
            >>> Metric.parse("ctr=clicks/views~before").covariate
            'before'
        """
        found = re.fullmatch(r"(?:([^=~/]+)=)?([^=~/]+)(?:/([^=~/]+))?(?:~([^=~/]+)(?:/([^=~/]+))?)?", text.strip())
        if not found:
            raise UsageError(f"cannot read the metric {text!r}", hint=GRAMMAR)
        name, numerator, denominator, covariate, covariate_denominator = ((part or "").strip() for part in found.groups())
        plain = f"{numerator}/{denominator}" if denominator else numerator
        return cls(name=name or plain, numerator=numerator, denominator=denominator, covariate=covariate, covariate_denominator=covariate_denominator,
                   lower_is_better=lower_is_better)

    @classmethod
    def parse_guardrail(cls, text: str, *, lower_is_better: bool = False) -> Metric:
        """Read `latency:2%`: a metric, and the relative loss that is tolerated.

        Raises:
            UsageError: It cannot be read.
        """
        head, colon, tail = text.rpartition(":")
        margin = proportion(tail.strip())
        if not colon or not margin > 0:
            raise UsageError(f"cannot read the guardrail {text!r}", hint="METRIC:MARGIN with a relative margin, such as hides:2%")
        return replace(cls.parse(head, lower_is_better=lower_is_better), margin=margin)


def proportion(text: str) -> float:
    """What 2% or 0.02 says; NaN where it is neither.

    Example:
        >>> proportion("2%")
        0.02
    """
    try:
        return float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        return math.nan


def read_metrics(successes: Sequence[str], guardrails: Sequence[str], lower: Iterable[str]) -> tuple[Metric, ...]:
    """Metrics from the words of the command line.

    Args:
        successes: Metrics of which a gain is hoped for, `Metric.parse`.
        guardrails: With margin, `Metric.parse_guardrail`.
        lower: Names of those of which less is better.

    Raises:
        UsageError: None, one that cannot be read, two of one name, or a name in `lower` that there is not.
    """
    found = [*(Metric.parse(text) for text in successes), *(Metric.parse_guardrail(text) for text in guardrails)]
    names = [metric.name for metric in found]
    if not names:
        raise UsageError("no metric was named", hint=f"--metric {GRAMMAR}")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"two metrics are called {listing(sorted(twice))}", hint="NAME=COLUMN gives another name")
    wrong = [name for name in lower if name not in names]
    if wrong:
        raise UsageError(f"less is said to be better of {listing(wrong)}; metrics: {listing(names)}")
    return tuple(replace(metric, lower_is_better=metric.name in set(lower)) for metric in found)


__all__ = ["GRAMMAR", "Metric", "proportion", "read_metrics"]
