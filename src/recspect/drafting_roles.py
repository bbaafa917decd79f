"""Which column has which role: by common names, then by whether the values can be that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from recspect.drafting_columns import Look
from recspect.schema import Label, Role, TimeUnit

ITEM_WORDS = ("item|video|movie|film|product|article|news|song|track|artist|book|ad|advert|creative|course|business|poi|doc"
              "|document|content|listing|hotel|app|post|photo|recipe|game|show|playlist|place|job|restaurant|merchant")
USER_WORDS = ("user|visitor|customer|client|member|account|student|household|person|reader|viewer|listener|buyer"
              "|subscriber|player|consumer|reviewer")

NAMES: dict[Role, tuple[str, ...]] = {
    Role.USER: (r"user_?id", r"user", r"uid", rf"({USER_WORDS})_?(id|key|no|num)", rf"id_({USER_WORDS})",
                rf"({USER_WORDS})", r"(device|cookie)_?id"),
    Role.ITEM: (r"item_?id", r"item", r"iid", rf"({ITEM_WORDS})_?id", rf"id_({ITEM_WORDS})", r"sku|asin|isbn|gtin",
                r"(movie|product|article|video|course|song|book|hotel)"),
    Role.REQUEST: (r"(request|impression|query|search|srch|slate|auction)_?id", r"session_?id", r"(request|session)"),
    Role.TIME: (r"timestamp", r"time_(s|ms|us|ns)", r"event_(time|timestamp|ts)", r"time", r"ts", r"date_?time",
                r".*_timestamp", r".*_time", r"created_at|occurred_at|.*_at", r"date|day|.*_date"),
    Role.SCORE: (r"score|model_score|y_score", r"pred|prediction|predicted|y_pred|y_hat", r"prob|probability|y_prob",
                 r"p_?ctr|p_?click|p_?cvr", r"logits?", r"pred_.*|predicted_.*|.*_pred"),
    Role.POSITION: (r"position|pos|rank|slot", r"(display|item|list|result)_(position|rank)|position_id"),
    Role.PROPENSITY: (r"propensity(_score)?|pscore|propensities", r"(action|logging|selection)_prob(ability)?"),
    Role.WEIGHT: (r"(sample|importance|instance|row)_weight", r"weight"),
    Role.ARM: (r"arm|variant|treatment|variant_?id|treatment_?id", r"(experiment|test|ab|ab_test)_(group|arm|variant)",
               r"policy|bucket_?test"),
}
"""Patterns of names, the most telling first."""

NOT_WHEN = re.compile(r"(upload|publish|release|birth|register|signup|join|last|first|duration|play|watch|stay|dwell|update)")
"""A time with such a word in its name is not when the row happened."""

ACTIONS = tuple((  # noqa: SIM905 - a list of sixty quoted words is harder to read
    "click clicked label target y outcome response converted conversion purchase purchased buy bought booked ordered "
    "order passed subscribed churn churned install installed like liked follow followed share shared comment "
    "commented forward hate dislike view viewed play played watch watched finish finished complete completed "
    "favorite favourite collect cart enter open opened read").split())
"""Words of things that happen or do not, the most usual label first."""


@dataclass(frozen=True, kw_only=True)
class RoleGuess:
    """A role given to a column, and why.

    Args:
        column: Name as in the table.
        why: What spoke for it, for the comment in the draft.
        sure: `sure`, `likely` or `a guess`.
        unit: Unit of a numeric time.
        label: For labels: how it is read.
    """

    column: str
    why: str
    sure: str = "likely"
    unit: TimeUnit | None = None
    label: Label | None = None


def role_of_names(looks: Mapping[str, Look], role: Role, taken: set[str]) -> RoleGuess | None:
    """The column that has the role, by name and values; None where none fits."""
    for place, pattern in enumerate(NAMES[role]):
        for look in looks.values():
            if look.name in taken or not re.fullmatch(pattern, look.plain) or not FITS[role](look):
                continue
            return RoleGuess(column=look.name, why="its name", sure="sure" if place == 0 else "likely")
    return None


def time_of(looks: Mapping[str, Look], taken: set[str], fixed: set[str]) -> RoleGuess | None:
    """The column that says when the row happened.

    Args:
        looks: The columns.
        taken: Columns that have another role.
        fixed: Columns that follow the user or the item: these are not times of the row.
    """
    for pattern in NAMES[Role.TIME]:
        for look in looks.values():
            if (look.name in taken or look.name in fixed or not re.fullmatch(pattern, look.plain)
                    or NOT_WHEN.search(look.plain) or look.distinct < 2):
                continue
            if look.form == "times":
                return RoleGuess(column=look.name, why="its name and type", sure="sure")
            unit = unit_of(look)
            if unit is not None:
                return RoleGuess(column=look.name, why=f"its name and size: {unit} since 1970", unit=unit)
            if look.form == "texts" and _is_time(look.texts(20)):
                return RoleGuess(column=look.name, why="its name; it holds texts: convert it to a timestamp",
                                 sure="a guess")
    return None


def unit_of(look: Look) -> TimeUnit | None:
    """Unit of a numeric time since 1970, told from its size; None where it is no date between 1990 and 2100."""
    if look.form not in ("integers", "fractions"):
        return None
    sizes: tuple[tuple[TimeUnit, float], ...] = (("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))
    for unit, per_second in sizes:
        if 631_152_000 * per_second <= look.low and look.high <= 4_102_444_800 * per_second:
            return unit
    if re.search("day|date", look.plain) and look.low >= 7_305 and look.high <= 47_482:
        return "days"
    return None


def labels_of(looks: Mapping[str, Look], taken: set[str], fixed: set[str]) -> list[RoleGuess]:
    """The columns that say what happened, clicks first."""
    found: list[tuple[int, RoleGuess]] = []
    for look in looks.values():
        if look.name in taken or look.name in fixed:
            continue
        words = look.plain.split("_")
        rank = min((ACTIONS.index(word) for word in words if word in ACTIONS), default=None)
        if rank is not None and look.is_binary and (len(words) <= 2 or words[0] in ("is", "has", "did")):
            sure = "sure" if rank < 3 else "likely"
            found.append((min(rank, 16),
                          RoleGuess(column=look.name, why="its name and its values 0 and 1", sure=sure,
                                    label=Label(name=look.name))))
        elif rank is not None and look.form == "texts" and look.distinct == 2 and (yes := _yes(look)) is not None:
            found.append((min(rank, 16),
                          RoleGuess(column=look.name, why=f"its name and its two values; {yes!r} counts as 1",
                                    label=Label(name=look.name, positive=yes))))
        elif re.fullmatch(r"ratings?|stars|review_score|grade|(user|item)_rating", look.plain) and look.is_number and \
                3 <= look.distinct <= 101:
            least = float(np.ceil(2 * 0.8 * look.high) / 2)
            found.append((3, RoleGuess(column=look.name, why=f"its name; {least:g} of {look.high:g} and more count as 1; for "
                                                             'grades as such, kind = "graded" instead of at_least',
                                       label=Label(name=look.name, at_least=least))))
    return [guess for _, guess in sorted(found, key=lambda entry: entry[0])]


def _yes(look: Look) -> str | None:
    answers = {str(value).lower(): str(value) for value in look.values}
    for yes, no in (("yes", "no"), ("y", "n"), ("true", "false"), ("t", "f")):
        if set(answers) == {yes, no}:
            return answers[yes]
    return None


def _is_time(texts: list[str]) -> bool:
    for text in texts:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            return False
    return bool(texts)


def _is_score(look: Look) -> bool:
    inside = look.low >= 0 and look.high <= 1
    return look.form == "fractions" and (inside or look.low < 0 or look.plain not in ("score", "rank"))


FITS: dict[Role, Callable[[Look], bool]] = {
    Role.USER: lambda look: look.form in ("integers", "texts") and look.distinct > 1,
    Role.ITEM: lambda look: look.form in ("integers", "texts") and look.distinct > 1,
    Role.REQUEST: lambda look: look.form in ("integers", "texts") and look.distinct > 1,
    Role.SCORE: _is_score,
    Role.POSITION: lambda look: look.form == "integers" and look.low >= 0 and 1 < look.distinct <= 1_000,
    Role.PROPENSITY: lambda look: look.is_number and look.low > 0 and look.high <= 1,
    Role.WEIGHT: lambda look: look.form in ("integers", "fractions") and look.low >= 0,
    Role.ARM: lambda look: look.codes is not None and 2 <= look.distinct <= 20,
}
"""Whether a column's values can have the role."""
