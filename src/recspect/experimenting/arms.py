"""The arms of an experiment as totals: means and covariances of every column per arm, from rows of users or of events, or from a table that somebody else added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import Source, read, require_columns
from recspect.diagnosis.source_query import quoted
from recspect.diagnosis.stat import Grouped, category_name
from recspect.diagnosis.stats.gram import Gram, GramSummary
from recspect.diagnosis.summary import add_up
from recspect.errors import DataError, UsageError, listing
from recspect.experimenting.metric import Metric

MOST_ARMS, MOST_VALUES = 100, 200
"""Arms, and values of a column of slices or looks."""
_ARM, _VALUES = "@arm", "@values"


@dataclass(frozen=True, kw_only=True, eq=False)
class Arms:
    """Totals of an experiment.

    Args:
        columns: What the entries of the means are.
        moments: Arm to means and covariances over its users.
        slices: (column, value) to arm to the same over the users of a slice.
        looks: (value, arm to the same over all users up to it), in order of the value: what was known at each look.
        crossed: Users that were seen in more than one arm; they are left out.
        of: What was counted: "users" or "rows".
        joint: Whether covariances between columns are known.
    """

    columns: tuple[str, ...]
    moments: Mapping[str, GramSummary]
    slices: Mapping[tuple[str, str], Mapping[str, GramSummary]] = field(default_factory=dict)
    looks: Sequence[tuple[float, Mapping[str, GramSummary]]] = ()
    crossed: int = 0
    of: str = "users"
    joint: bool = True

    @property
    def total(self) -> GramSummary:
        """All arms together."""
        found: GramSummary = add_up(list(self.moments.values()))
        return found

    def require_control(self, name: str) -> str:
        """The control arm: the one named, else "control" or "A" or "0" where there is one.

        Raises:
            UsageError: It is not there, or nobody can tell.
            DataError: There are fewer than two arms.
        """
        names = sorted(self.moments)
        if len(names) < 2:
            raise DataError(f"an experiment has at least two arms; found: {listing(names)}", hint="give the rows of all arms, and the column that tells them apart")
        if name:
            if name not in self.moments:
                raise UsageError(f"there is no arm {name!r}; arms: {listing(names)}", hint="--control NAME")
            return name
        usual = [arm for arm in names if arm.lower() == "control"] or [arm for arm in names if arm.lower() in ("a", "0", "false")]
        if len(usual) != 1:
            raise UsageError(f"which of the arms is control? Arms: {listing(names)}", hint="--control NAME")
        return usual[0]


def read_arms(data: Any, *, arm: str, user: str = "", metrics: Sequence[Metric], slices: Sequence[str] = (), look: str = "", winsorise: float = 1.0) -> Arms:
    """Add up rows of users, or of events, per arm.

    Rows of one user are added up first (covariates, which say the same on each row, are averaged), so that users are what is counted. Missing values count as 0: nothing happened. A user's slice is the smallest of the values
    that its rows have, its look the earliest.

    Args:
        data: Anything that `read` takes.
        arm: Column that names the arm.
        user: Column of the user; empty where every row is a user of its own.
        metrics: Which columns are read.
        slices: Columns by whose values effects are looked at apart.
        look: Column of numbers by which users come in, such as the day.
        winsorise: Values of a user above this quantile (of all arms together) are set to it; 1 leaves them.

    Raises:
        DataError: A column is missing or holds no numbers, or there are no rows.
        UsageError: A quantile outside (0.5, 1].
    """
    if not 0.5 < winsorise <= 1:
        raise UsageError(f"winsorising at the quantile {winsorise:g}", hint="such as 0.999; 1 leaves values as they are")
    source = read(data)
    columns = tuple(dict.fromkeys(column for metric in metrics for column in metric.columns))
    require_columns(source, [arm, *([user] if user else []), *columns, *slices, *([look] if look else [])])
    covariates = {column for metric in metrics for column in (metric.covariate, metric.covariate_denominator) if column}
    first = next(source.batches(columns, rows=1))
    for column in columns:
        first.numbers(column)  # an error that names the column, before a query fails with less
    users = read(source, sql=_per_user(arm, user, columns, covariates, slices, look), name=source.name)
    crossed = _count(read(source, sql=_crossed(arm, user))) if user else 0
    caps = _caps(users, columns, winsorise)
    gram = Gram(column=_VALUES)
    whole = Grouped(stat=gram, by=_ARM, capacity=MOST_ARMS)
    stats = {"": whole, **{f"@slice{place}": Grouped(stat=whole, by=f"@slice{place}", capacity=MOST_VALUES) for place in range(len(slices))}}
    if look:
        stats["@look"] = Grouped(stat=whole, by="@look", capacity=10_000)
    found = tally(users, [(ALL, stat) for stat in stats.values()], probes=[_Stacked(len(columns), caps)])
    total = found.get_summary(whole)
    if total.truncated:
        raise DataError(f"column {arm!r} has more than {MOST_ARMS} values", hint="--arm names the column of the variant")
    invalid = sum(part.invalid for part in total.parts.values())
    if invalid:
        raise DataError(f"{invalid:,.0f} users have a value that is NaN, infinite or beyond 1e100", hint="mend the values, leave them empty (which counts as 0), or leave these users out")
    by_slice = {(column, value): dict(part.parts) for place, column in enumerate(slices) for value, part in found.get_summary(stats[f"@slice{place}"]).parts.items()}
    looks = _cumulated(found.get_summary(stats["@look"]).parts, look) if look else []
    return Arms(columns=columns, moments=dict(sorted(total.parts.items())), slices=by_slice, looks=looks, crossed=crossed, of="users" if user else "rows")


def read_aggregated(data: Any, *, arm: str, count: str, metrics: Sequence[Metric], look: str = "") -> Arms:
    """Arms from a table that somebody else added up: a row per arm (or several, which add).

    With a column NAME_variance beside it, column NAME holds the mean per user and NAME_variance the variance between users; without one it holds the number of users (of those in
    `count`) for whom something was true.

    Args:
        data: Anything that `read` takes.
        arm: Column that names the arm.
        count: Column of the number of users behind a row.
        metrics: Means only: ratios and covariates need covariances, which such a table lacks.
        look: Column of numbers; a row then tells all that was known at that value (cumulated already), and the last value is the result.

    Raises:
        DataError: A column is missing, or numbers that cannot be.
        UsageError: A metric with a denominator or covariate.
    """
    wrong = [metric.name for metric in metrics if metric.denominator or metric.covariate]
    if wrong:
        raise UsageError(f"ratios and covariates cannot be had from an aggregated table: {listing(wrong)}", hint="analyse one row per user")
    source = read(data)
    columns = tuple(dict.fromkeys(metric.numerator for metric in metrics))
    spreads = [column for column in columns if f"{column}_variance" in source.columns]
    needed = [arm, count, *columns, *(f"{column}_variance" for column in spreads), *([look] if look else [])]
    require_columns(source, needed)
    steps: dict[float, dict[str, GramSummary]] = {}
    for batch in source.batches(tuple(dict.fromkeys(needed))):
        names, users = batch.categories(arm), batch.numbers(count)
        at = batch.numbers(look) if look else np.zeros(batch.rows)
        values = {column: batch.numbers(column) for column in columns}
        variances = {column: batch.numbers(f"{column}_variance") for column in spreads}
        for row in range(batch.rows):
            if not users[row] > 0 or not np.isfinite([at[row], *(values[column][row] for column in columns), *(variances[column][row] for column in spreads)]).all():
                raise DataError(f"row {row:,} has {users[row]:g} users, or a number that is missing", hint=f"column {count!r} holds how many users are behind a row, above 0")
            mean = np.array([values[column][row] / (1 if column in spreads else users[row]) for column in columns])
            spread = np.array([variances[column][row] * (users[row] - 1) / users[row] if column in spreads else mean[place] * (1 - mean[place])
                               for place, column in enumerate(columns)])
            if (spread < 0).any():
                raise DataError(f"row {row:,}: a negative variance, or more hits than users", hint="with NAME_variance beside it, NAME is a mean; without, a number of users")
            one = GramSummary(float(users[row]), mean, np.diag(spread * users[row]), np.zeros(len(columns)), 0.0, 0.0, 0.0)
            name = "" if names.codes[row] < 0 else category_name(names.values[names.codes[row]])
            arms = steps.setdefault(float(at[row]), {})
            arms[name] = arms[name] + one if name in arms else one
    if not steps:
        raise DataError(f"{source.name} has no rows", hint="a row per arm")
    looks = [(value, steps[value]) for value in sorted(steps)]
    return Arms(columns=columns, moments=dict(sorted(looks[-1][1].items())), looks=looks if look else (), joint=False)


class _Stacked(Probe):
    """Columns @0, @1 and on as one matrix, capped."""

    adds = (_VALUES,)

    def __init__(self, width: int, caps: np.ndarray) -> None:
        self.width, self.caps = width, caps

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        stacked = np.column_stack([batch.numbers(f"@{place}") for place in range(self.width)]).astype(np.float64)
        return {_VALUES: np.minimum(stacked, self.caps)}


def _per_user(arm: str, user: str, columns: Sequence[str], covariates: set[str], slices: Sequence[str], look: str) -> str:
    kept = [*((column, f"@slice{place}", "min") for place, column in enumerate(slices)), *([(look, "@look", "min")] if look else [])]
    values = [f"coalesce({_adding(column, covariates) if user else ''}(CAST({quoted(column)} AS DOUBLE)), 0) AS {quoted(f'@{place}')}" for place, column in enumerate(columns)]
    others = [f"{how if user else ''}({quoted(column)}) AS {quoted(alias)}" for column, alias, how in kept]
    head = f"SELECT {'min' if user else ''}(CAST({quoted(arm)} AS VARCHAR)) AS {quoted(_ARM)}, {', '.join([*values, *others])} FROM data WHERE {quoted(arm)} IS NOT NULL"  # noqa: S608 - names are quoted
    return f"{head} AND {quoted(user)} IS NOT NULL GROUP BY {quoted(user)} HAVING count(DISTINCT {quoted(arm)}) = 1" if user else head


def _adding(column: str, covariates: set[str]) -> str:
    return "avg" if column in covariates else "sum"


def _crossed(arm: str, user: str) -> str:
    return (f"SELECT count(*) AS n FROM (SELECT {quoted(user)} FROM data WHERE {quoted(arm)} IS NOT NULL AND {quoted(user)} IS NOT NULL "  # noqa: S608 - names are quoted
            f"GROUP BY {quoted(user)} HAVING count(DISTINCT {quoted(arm)}) > 1)")


def _count(source: Source) -> int:
    return int(next(source.batches()).numbers("n")[0])


def _caps(users: Source, columns: Sequence[str], quantile: float) -> np.ndarray:
    if quantile == 1:
        return np.full(len(columns), np.inf)
    parts = [f"quantile_cont({quoted(f'@{place}')}, {quantile}) AS {quoted(f'@{place}')}" for place in range(len(columns))]
    row = next(read(users, sql=f"SELECT {', '.join(parts)} FROM data").batches())  # noqa: S608 - names are quoted
    return np.array([float(row.numbers(f"@{place}")[0]) for place in range(len(columns))])


def _cumulated(parts: Mapping[str, Any], look: str) -> list[tuple[float, Mapping[str, GramSummary]]]:
    try:
        steps = sorted((float(value), part.parts) for value, part in parts.items())
    except ValueError:
        raise DataError(f"column {look!r} of looks holds values that are no numbers", hint="days or hours since the start, such as 0, 1, 2") from None
    found: list[tuple[float, Mapping[str, GramSummary]]] = []
    so_far: dict[str, GramSummary] = {}
    for value, arms in steps:
        so_far = {name: so_far[name] + arms[name] if name in so_far and name in arms else so_far.get(name) or arms[name] for name in {*so_far, *arms}}
        found.append((value, so_far))
    return found


__all__ = ["Arms", "read_aggregated", "read_arms"]
