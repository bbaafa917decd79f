"""What is kept of a finding: its numbers without words and pictures, enough to fit thresholds and to name causes again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from recspect.diagnosis.causes import Cause, causes_of
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Finding, Place, Verdict


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One finding, as numbers.

    Args:
        code, kind, place, verdict: Of the finding; the place by kind and name.
        value, low, high, n, unit: Of its estimate; None and "" where it has none.
        limit, neutral, concerns: As on the finding.
    """

    code: str
    verdict: str
    place: str = ""
    kind: str = "run"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = ""
    limit: float | None = None
    neutral: float = 0.0
    concerns: float = 1.0

    @classmethod
    def of(cls, finding: Finding) -> Seen:
        """The numbers of a finding."""
        estimate = finding.estimate
        numbers = {} if estimate is None else {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n, "unit": estimate.unit}
        return cls(code=finding.code, verdict=finding.verdict.value, place=finding.place.name, kind=finding.place.kind,
                   limit=finding.limit, neutral=finding.neutral, concerns=finding.concerns, **numbers)  # type: ignore[arg-type]

    @property
    def alarm(self) -> bool:
        """Whether it is a FAIL or a WARN."""
        return self.verdict in ("FAIL", "WARN")

    @property
    def name(self) -> tuple[str, str, str]:
        """Code, place and verdict: what a healthy twin has too is not of the fault."""
        return self.code, self.place, self.verdict

    @property
    def strength(self) -> float | None:
        """How many times its limit an alarm's number is, at least 1; None where that has no meaning.

        Both are taken from the neutral value. For a limit from below it is how many times the limit is the number. A limit at the neutral value is a
        hard invariant, which no factor moves.
        """
        if not self.alarm or self.value is None or self.limit is None or self.limit == self.neutral:
            return None
        number, limit = abs(self.value - self.neutral), abs(self.limit - self.neutral)
        return max(number / limit, limit / number) if number else float("inf")

    def finding(self) -> Finding:
        """A finding with these numbers, for the rules of causes."""
        estimate = None if self.value is None else Estimate(value=self.value, low=self.low, high=self.high, n=self.n, unit=self.unit)
        return Finding(code=self.code, verdict=Verdict(self.verdict), claim="", place=Place(kind=self.kind, name=self.place), estimate=estimate,
                       limit=self.limit, neutral=self.neutral, concerns=self.concerns)


def causes_seen(findings: Iterable[Seen]) -> tuple[Cause, ...]:
    """The causes of findings, as a report would name them."""
    return causes_of([seen.finding() for seen in findings])


__all__ = ["Seen", "causes_seen"]
