"""Groups of users: the categories of fields that the schema declares to describe the user, each against all other users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.policy import examined_fields, names, require_classes
from recspect.diagnosis.jackknife import BucketedSummary
from recspect.diagnosis.stat import Grouped
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Kind

GROUPS = 12
"""Fields of more categories are left out."""
ROWS, OF_A_CLASS, BUCKETS = 200, 50, 10
"""What a group needs: rows, rows of each class, and buckets of users."""


def user_fields(scope: Scope) -> list[str]:
    """Categorical fields that describe the user and are no id."""
    apart = (scope.schema.user, scope.schema.item, scope.schema.request)
    return [field.name for field in examined_fields(scope, Kind.CATEGORICAL) if field.side == "user" and field.name not in apart]


def group_stat(field: str, scope: Scope) -> Grouped:
    """Scores against the label per category and bucket of users; eight bins to a doubling."""
    return Grouped(stat=scope.bucketed(ScoreLabel(detail=3)), by=field, capacity=GROUPS)


def required_group_stats(scope: Scope) -> list[Grouped]:
    """What is counted of each field that describes the user.

    Raises:
        Unavailable: Scores or 0/1 labels are missing, or no field describes the user.
    """
    scope.require_binary()
    scope.require_target("@score", "@label", "@cluster")
    fields = user_fields(scope)
    if not fields:
        raise Unavailable("no categorical field of the schema describes the user", hint="declare one: side = 'user' in the field of the schema")
    return [group_stat(name, scope) for name in fields]


def is_enough(part: BucketedSummary) -> bool:
    """Whether these rows can be ranked and say something about other users."""
    total = part.total
    return bool(total.count >= ROWS and min(total.positive, total.count - total.positive) >= OF_A_CLASS and part.count >= BUCKETS)


def others_of(group: str, parts: Mapping[str, BucketedSummary]) -> BucketedSummary:
    """All groups but one, added up; there are at least two."""
    first, *rest = [other for name, other in parts.items() if name != group]
    for other in rest:
        first = first + other
    return first


def fields_of_groups(target: Tally, scope: Scope, left_out: list[str]) -> Iterator[tuple[str, Mapping[str, BucketedSummary], BucketedSummary]]:
    """Each field that describes the user: its name, its groups, and the rows of all of them.

    Args:
        target: Totals of the rows judged.
        scope: What is judged.
        left_out: Takes the fields of too many groups, in words.

    Raises:
        Unavailable: The rows are too few, or of one class.
    """
    for field in user_fields(scope):
        grouped = target.get_summary(group_stat(field, scope))
        whole: BucketedSummary = grouped.other
        for part in grouped.parts.values():
            whole = whole + part
        require_classes(whole.total.positive, whole.total.count, "the held-out rows")
        if grouped.truncated:
            left_out.append(f"{field} (more than {GROUPS} groups)")
        elif len(grouped.parts) > 1:
            yield field, grouped.parts, whole


def none_is_large_enough(left_out: list[str]) -> Unavailable:
    """What is said where no two groups of a field could be judged."""
    return Unavailable("no field that describes the user has two groups that are large enough" + (f"; not looked at: {names(left_out)}" if left_out else ""),
                       hint=f"a group needs {ROWS} rows and {OF_A_CLASS} of each class")
