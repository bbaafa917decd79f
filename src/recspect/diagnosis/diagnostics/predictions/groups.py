"""Groups of users: the categories of fields that the schema declares to describe the user, each against all other users."""

from __future__ import annotations

from collections.abc import Mapping

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.diagnostics.policy import examined_fields
from recspect.diagnosis.jackknife import BucketedSummary
from recspect.diagnosis.stat import Grouped
from recspect.diagnosis.stats.score_label import ScoreLabel
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
