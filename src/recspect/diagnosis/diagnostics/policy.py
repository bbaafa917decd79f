"""What all diagnostics share: when a number is a FAIL, a WARN or a PASS, how numbers are written, how many rows are enough.

FAIL only when the whole interval is beyond the fail threshold, so that chance alone does not stop a release. WARN when the value
is beyond it, or the interval is beyond a milder threshold. Too few rows is UNKNOWN, never a verdict. Comparisons of many things at
once are corrected for their number over the whole run: `recspect.diagnosis.multiplicity`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.estimate import Estimate, significant_digits
from recspect.diagnosis.finding import Verdict
from recspect.errors import Unavailable
from recspect.schema import Field, Kind

ENOUGH_ROWS = 100
"""Fewer rows than this say nothing about a share or a rate."""

ENOUGH_OF_A_CLASS = 30
"""Fewer positives (or negatives) than this say nothing about how they are ranked or calibrated."""

SINGLE_VALUED = (Kind.CATEGORICAL, Kind.NUMERIC)
"""Kinds of field whose rows hold one value that can be counted or compared."""


# ---------------------------------------------------------------------- verdicts


def verdict_above(estimate: Estimate, *, fail: float | None, warn: float | None = None) -> Verdict:
    """A high value is bad.

    Args:
        estimate: The number; without an interval it counts as exact.
        fail: FAIL when the whole interval is above, WARN when only the value is. None: never.
        warn: WARN when the whole interval is above. None: only near-failures warn.
    """
    if fail is not None and estimate.surely_above(fail):
        return Verdict.FAIL
    if (fail is not None and estimate.value > fail) or (warn is not None and estimate.surely_above(warn)):
        return Verdict.WARN
    return Verdict.PASS


def verdict_below(estimate: Estimate, *, fail: float | None, warn: float | None = None) -> Verdict:
    """A low value is bad; the mirror image of `verdict_above`."""
    if fail is not None and estimate.surely_below(fail):
        return Verdict.FAIL
    if (fail is not None and estimate.value < fail) or (warn is not None and estimate.surely_below(warn)):
        return Verdict.WARN
    return Verdict.PASS


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe of them; PASS for none."""
    return max(verdicts, key=lambda verdict: verdict.severity, default=Verdict.PASS)


def with_normal_interval(value: float, error: float, *, unit: str, n: int, of: str = "rows", level: float = 0.95) -> Estimate:
    """A value with a normal interval of this standard error.

    Raises:
        Unavailable: The value is not finite.
    """
    if not math.isfinite(value):
        raise Unavailable(f"{unit} is undefined on these rows")
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return Estimate(value=value, low=value - reach, high=value + reach, unit=unit, n=n, of=of, level=level)


def two_sided_p(z: float, freedom: int | None = None) -> float:
    """Probability of a standard normal number at least this far from 0, or of a Student t one of so many degrees of freedom.

    Student's t by Wallace 1959, within 5% of the probability from 9 degrees of freedom on.
    """
    size = abs(z)
    if freedom is not None:
        if freedom < 1:
            return 1.0
        size = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(z * z / freedom))
    return math.erfc(size / math.sqrt(2))


# ---------------------------------------------------------------------- enough to say something


def require_rows(count: float, side: str, *, least: int = ENOUGH_ROWS) -> None:
    """There are enough rows.

    Raises:
        Unavailable: There are none, or too few.
    """
    if count < least:
        found = "no rows" if not count else f"only {count:,.0f} row{'' if count == 1 else 's'}"
        raise Unavailable(f"{side} have {found} to judge; {least} are needed", hint="give more rows")


def require_classes(positives: float, count: float, side: str, *, least: int = ENOUGH_OF_A_CLASS) -> None:
    """There are enough rows of both classes.

    Raises:
        Unavailable: One class is missing or too rare.
    """
    require_rows(count, side)
    fewer = min(positives, count - positives)
    name = "positive" if positives <= count - positives else "negative"
    if fewer < least:
        found = f"no {name} rows" if not fewer else f"only {fewer:,.0f} {name} row{'' if fewer == 1 else 's'}"
        raise Unavailable(f"{side} have {found}; {least} are needed", hint="give rows of both classes")


def examined_fields(scope: Scope, *kinds: Kind, reference: bool = False) -> tuple[Field, ...]:
    """Fields of these kinds (of any, without) whose columns are there, on both sides with `reference`."""
    return tuple(field for field in scope.schema.fields
                 if (not kinds or field.kind in kinds) and field.name in scope.target
                 and (not reference or field.name in scope.reference))


def is_identity(name: str, scope: Scope) -> bool:
    """Whether the column is the user, the item or the request: a name of something, not a property of it."""
    schema = scope.schema
    return name in (schema.user, schema.item, schema.request)


# ---------------------------------------------------------------------- words


def number(value: float, digits: int | None = None) -> str:
    """With thousands separators; three significant digits where no decimals are asked for."""
    if not math.isfinite(value):
        return "not measured"
    places = significant_digits(value) if digits is None else digits
    text = f"{value:,.{places}f}"
    return text if text.strip("-0.,") else text.lstrip("-")


def percent(share: float, digits: int | None = None) -> str:
    """A share as per cent: 0.123 is "12.3%"; more decimals below 1%."""
    if not math.isfinite(share):
        return "not measured"
    if digits is None:
        size = abs(share)
        digits = 0 if share in (0, 1) else 1 if size >= 0.01 else 2 if size >= 0.001 else 4
    return f"{number(100 * share, digits)}%"


def between(estimate: Estimate, digits: int | None = None) -> str:
    """The number and its interval: "0.736 (0.731 to 0.741)"."""
    places = significant_digits(estimate.value, estimate.error) if digits is None else digits
    text = number(estimate.value, places)
    return f"{text} ({number(estimate.low or 0.0, places)} to {number(estimate.high or 0.0, places)})" if estimate.has_interval else text


def names(items: Sequence[str], *, limit: int = 5) -> str:
    """Names in a sentence: "a, b and 3 more"."""
    if len(items) > limit:
        return f"{', '.join(items[:limit])} and {len(items) - limit:,} more"
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def plural(count: float, singular: str, several: str = "") -> str:
    """A count with its noun: "1 field", "1,204 fields"."""
    return f"{count:,.0f} {singular if count == 1 else several or f'{singular}s'}"
