"""A number that can be trusted: value, interval, unit, n."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured number.

    Args:
        value: The point estimate; finite. A number that could not be measured is no Estimate but an UNKNOWN finding.
        unit: What it counts, in words, such as "AUC", "predicted / observed clicks", "nats".
        n: How many independent things it rests on.
        low, high: The interval, or None where the number is an exact count and has none.
        of: What n counts: "rows", "users", "requests", "units".
        level: Coverage of the interval.
        clusters: How many users (say) the n rows come from, where that is known: rows of one user are not independent, so they
            tell less than n rows of n users. Two significant digits where it was itself estimated.
        cluster_of: What `clusters` counts.
    """

    value: float
    unit: str
    n: int
    low: float | None = None
    high: float | None = None
    of: str = "rows"
    level: float = 0.95
    clusters: int | None = None
    cluster_of: str = "users"

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"an Estimate must be finite, got {self.value}; say UNKNOWN instead")

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are known and finite."""
        return (self.low is not None and self.high is not None
                and math.isfinite(self.low) and math.isfinite(self.high))

    @property
    def error(self) -> float | None:
        """Half the width of the interval."""
        return (self.high - self.low) / 2 if self.has_interval else None  # type: ignore[operator]

    def surely_above(self, threshold: float) -> bool:
        """The whole interval (or, without one, the exact value) lies above the threshold."""
        return (self.low if self.has_interval else self.value) > threshold  # type: ignore[operator]

    def surely_below(self, threshold: float) -> bool:
        """The whole interval (or, without one, the exact value) lies below the threshold."""
        return (self.high if self.has_interval else self.value) < threshold  # type: ignore[operator]

    def __str__(self) -> str:
        """Such as `0.736 (0.731 to 0.741) AUC, 25,156 users`, rounded to what the interval supports."""
        is_count = self.error is None and self.value == int(self.value)
        digits = 0 if is_count else significant_digits(self.value, self.error)
        text = f"{self.value:,.{digits}f}"
        if self.has_interval:
            text += f" ({self.low:,.{digits}f} to {self.high:,.{digits}f})"
        return f"{text} {self.unit}, {self.basis}"

    @property
    def basis(self) -> str:
        """What the number rests on, such as `45,666 rows of 5,990 users`."""
        text = f"{self.n:,} {self.of}"
        return text if self.clusters is None else f"{text} of {self.clusters:,} {self.cluster_of}"


def significant_digits(value: float, error: float | None = None) -> int:
    """Decimals worth showing: two digits of the error, or three significant digits of the value without one."""
    scale = error or abs(value) / 10
    if not scale or not math.isfinite(scale):
        return 0 if value == int(value) else 3
    return max(0, min(8, 1 - math.floor(math.log10(scale))))
