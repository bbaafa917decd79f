"""How many users the rows come from, said beside every n that counts all rows of a side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from recspect.diagnosis.finding import Finding
from recspect.diagnosis.stats.distinct import Distinct, DistinctSummary
from recspect.diagnosis.tally import Tally

USERS = Distinct(column="@cluster", k=65_536)
"""Exact up to 65,536 users; beyond that within 0.8% (two standard errors)."""


def with_users(findings: Iterable[Finding], *sides: Tally) -> list[Finding]:
    """The findings, with the number of users where an estimate rests on all rows of one side.

    Which side, an estimate does not say; its n does, unless both sides have as many rows. Numbers of slices and samples stay
    without: how many users those hold was not counted.
    """
    users: dict[int, int | None] = {}
    for side in sides:
        if side.has(USERS):
            summary = side.get_summary(USERS)
            rows = round(summary.count + summary.missing)
            users[rows] = None if rows in users else _rounded(summary)
    return [_with(finding, users) for finding in findings]


def _with(finding: Finding, users: dict[int, int | None]) -> Finding:
    estimate = finding.estimate
    if estimate is None or estimate.of != "rows" or not estimate.has_interval or estimate.clusters is not None:
        return finding
    return replace(finding, estimate=replace(estimate, clusters=users.get(estimate.n)))


def _rounded(summary: DistinctSummary) -> int:
    if summary.exact:
        return round(summary.distinct)
    return int(float(f"{summary.distinct:.1e}"))


__all__ = ["USERS", "with_users"]
