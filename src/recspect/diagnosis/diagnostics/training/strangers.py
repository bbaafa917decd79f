"""Held-out rows of people whom training never saw: a model that reads the user is worse on them however well it was trained."""

from __future__ import annotations

from recspect.diagnosis.diagnostic import Scope
from recspect.diagnosis.stats.categories import CategoryCounts, unseen_share
from recspect.diagnosis.tally import Tally

STRANGERS = 0.50
"""Where more of the held-out rows (beyond chance) are of users that training never saw, what a model that reads the user does better on training rows is at
most a WARN: not knowing people costs as much as learning rows by heart."""

THRESHOLD = f"at most WARN where more than {STRANGERS:.0%} of the held-out rows are of users that training never saw and the model reads the user"


def user_counts(scope: Scope) -> list[CategoryCounts]:
    """Rows per user, where the model reads the user and both sides name it; else nothing."""
    user = scope.schema.user
    return [CategoryCounts(column=user)] if user and user in scope.schema.field_names and user in scope.target & scope.reference else []


def share_of_strangers(target: Tally, reference: Tally, scope: Scope) -> float:
    """Share of held-out rows of users that training never saw, beyond what chance gives; 0 where it is not known or does not matter."""
    for stat in user_counts(scope):
        share, expected = unseen_share(target.get_summary(stat), reference.get_summary(stat))
        return max(0.0, share - expected)
    return 0.0
