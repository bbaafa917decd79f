"""Two rankings in one list: team draft, and the test over sessions.

Each turn both teams pick, in an order drawn anew, the best item of their own ranking that is not in the list yet; a click counts for the team that picked the item. Whoever clicks at
random credits both teams alike. People compare both rankings within one list, so that a preference is seen with far fewer sessions than by an experiment between users; it says
which ranking is preferred, and not what it is worth. Source: Radlinski, Kurup and Joachims 2008, How Does Clickthrough Data Reflect Retrieval Quality?
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import concatenate
from recspect.diagnosis.diagnostics.policy import percent, require_rows, two_sided_p
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Report, Verdict
from recspect.diagnosis.hashing import bucket
from recspect.diagnosis.jackknife import estimate_of_mean, t_quantile
from recspect.diagnosis.source import read, require_columns
from recspect.errors import DataError, Unavailable, UsageError, listing
from recspect.experimenting.policies import texts
from recspect.experimenting.sequential import PLANNED_USERS, half_width, mixture_variance

CODES: Mapping[str, str] = {"effects.interleaving": "Which of two rankings do people prefer?"}
BUCKETS = 50
SOURCES = ("Radlinski, Kurup and Joachims 2008 (team draft)", "Chapelle et al. 2012, Large-scale Validation and Analysis of Interleaved Search Evaluation", "Kott 2001 (interval)")


def team_draft(one: Sequence[Hashable], other: Sequence[Hashable], k: int, generator: np.random.Generator) -> tuple[list[Hashable], list[int]]:
    """One list of both rankings.

    Args:
        one, other: Items, best first, each at most once.
        k: Length of the list; shorter where the rankings have no more items.
        generator: Draws who picks first in each turn; seed it by the request, so that the list can be had again.

    Returns:
        The items, and for each the team that picked it: 0 or 1.

    Raises:
        UsageError: k below 1.
    """
    if k < 1:
        raise UsageError(f"a list of {k} items", hint="1 or more")
    shown: list[Hashable] = []
    teams: list[int] = []
    taken: set[Hashable] = set()
    queues = [iter(one), iter(other)]
    while len(shown) < k:
        first = int(generator.integers(0, 2))
        picked = False
        for team in (first, 1 - first):
            item = next((candidate for candidate in queues[team] if candidate not in taken), None)
            if item is None or len(shown) == k:
                continue
            shown.append(item)
            teams.append(team)
            taken.add(item)
            picked = True
        if not picked:
            break
    return shown, teams


@dataclass(frozen=True, kw_only=True)
class Preference:
    """What sessions say.

    Args:
        names: Of the teams: the first, and the second, whose preference is told.
        wins, losses, ties: Sessions that show items of both, in which the second team got more credit, less, or as much (sessions without credit are no ties).
        share: (wins + ties / 2) over sessions with credit, less 1/2: above 0 where the second team is preferred.
        p: Two-sided, of no preference.
    """

    names: tuple[str, str]
    wins: int
    losses: int
    ties: int
    share: Estimate
    p: float


def preference(session: NDArray[Any], team: NDArray[np.int64], credit: NDArray[np.float64], *, user: NDArray[Any] | None = None, names: tuple[str, str] = ("A", "B"), sequential: bool = False,
               planned_sessions: int = PLANNED_USERS, level: float = 0.95) -> Preference:
    """Which team people prefer.

    Args:
        session: Of every shown item, shape (rows,).
        team: 0 or 1, -1 where an item is of neither team.
        credit: Clicks (or what else is good) on it, 0 or more.
        user: Of every row; sessions of one user are dependent. None: every session is its own.
        names: Of the teams.
        sequential: Whether the interval holds however often one looks.
        planned_sessions: Where such an interval is tightest.
        level: Coverage.

    Raises:
        Unavailable: Fewer than 100 sessions with credit that show items of both.
    """
    codes = np.unique(session, return_inverse=True)[1]
    got = [np.bincount(codes, weights=credit * (team == side)) for side in (0, 1)]
    both = np.all([np.bincount(codes, weights=team == side) > 0 for side in (0, 1)], axis=0)  # a list of one ranking alone, such as that of a user who gets no lists of two, prefers nothing
    with_credit = (got[0] + got[1] > 0) & both
    require_rows(float(with_credit.sum()), "the sessions with a click on either team")
    sign = np.sign(got[1] - got[0])[with_credit] / 2
    first = np.full(len(with_credit), -1, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # the first row of each session
    owner = (session if user is None else user)[first][with_credit]
    which = bucket(np.asarray(owner), BUCKETS)
    n, freedom = len(sign), len(np.unique(which)) - 1
    estimate = estimate_of_mean(sign, which, unit="share of sessions preferring the second team, less 1/2", of="sessions", level=level)
    if not estimate.has_interval:
        raise Unavailable("the sessions are of too few users for an interval", hint="give sessions of more users")
    spread = (estimate.error or 0.0) / t_quantile(level, freedom)
    p = two_sided_p(estimate.value / spread, freedom) if spread else float(estimate.value == 0)
    if sequential and spread:
        mixture = mixture_variance(spread**2 * n / planned_sessions, 1 - level)
        reach = float(half_width(spread**2, mixture, 1 - level))
        estimate = Estimate(value=estimate.value, low=estimate.value - reach, high=estimate.value + reach, unit=estimate.unit, n=n, of="sessions", level=level)
    return Preference(names=names, wins=int((sign > 0).sum()), losses=int((sign < 0).sum()), ties=int((sign == 0).sum()), share=estimate, p=p)


def read_preference(data: Any, *, session: str, team: str, credit: str, user: str = "", candidate: str = "", sequential: bool = False, planned_sessions: int = PLANNED_USERS) -> Preference:
    """The preference from a log with a row per shown item.

    Args:
        data: Anything that `read` takes.
        session, team, credit: Columns; the team is empty for items of neither.
        user: Column of the user; empty where every session is its own.
        candidate: The team that is told about; the second in order of the alphabet where empty.
        sequential, planned_sessions: See `preference`.

    Raises:
        DataError: Columns that are missing, or another number of teams than two.
        UsageError: The candidate is no team.
    """
    source = read(data)
    columns = (session, team, credit, *([user] if user else []))
    require_columns(source, columns)
    batches = list(source.batches(columns))
    if not batches:
        raise DataError(f"{source.name} has no rows", hint="a row per shown item")
    rows = concatenate(batches)
    found = np.array(texts(rows, team), dtype=object)
    known = sorted({name for name in found if name})
    if len(known) != 2:
        raise DataError(f"column {team!r} names the teams {listing(known)}, expected two", hint="the team that picked the item, empty for items of neither")
    if candidate and candidate not in known:
        raise UsageError(f"there is no team {candidate!r}; teams: {known[0]!r}, {known[1]!r}")
    names = (known[1], known[0]) if candidate == known[0] else (known[0], known[1])
    number = np.select([found == name for name in names], [0, 1], -1)
    amount = np.nan_to_num(rows.numbers(credit))
    if amount.min(initial=0.0) < 0:
        raise DataError(f"column {credit!r} holds credit below 0", hint="clicks, or what else is good")
    return preference(np.array(texts(rows, session), dtype=object).astype(str), number, amount, user=np.array(texts(rows, user), dtype=object).astype(str) if user else None, names=names,
                      sequential=sequential, planned_sessions=planned_sessions)


def report(found: Preference, *, title: str = "", provenance: Mapping[str, Any] | None = None) -> Report:
    """The preference as a report with one finding."""
    one, other = found.names
    better, worse = found.share.surely_above(0.0), found.share.surely_below(0.0)
    total = found.wins + found.losses + found.ties
    preferred = other if better else one if worse else "neither surely"
    return Report(title=title or f"{other} against {one}, interleaved", provenance=dict(provenance or {}), findings=(Finding(
        code="effects.interleaving", verdict=Verdict.PASS if better else Verdict.FAIL if worse else Verdict.UNKNOWN, place=Place(kind="arm", name=other), estimate=found.share, limit=0.0,
        claim=f"People prefer {preferred}: {other} got more clicks in {found.wins:,} sessions, {one} in {found.losses:,}, both as many in {found.ties:,}; {other} is preferred in {percent(0.5 + found.share.value)} "
              f"({percent(0.5 + (found.share.low or 0.0))} to {percent(0.5 + (found.share.high or 0.0))}) of {total:,} sessions with a click, half being no preference (p {found.p:.2g}).",
        threshold=f"PASS when {other} is surely preferred, FAIL when {one} is" if better or worse else "more sessions would tell",
        meaning="It says which ranking is preferred within a list, and not what it earns: an experiment says that." if better else "", sources=SOURCES,
        evidence=(Bars(title="Who got more clicks?", unit="sessions", names=(other, "both alike", one), values=(float(found.wins), float(found.ties), float(found.losses)), caption=f"{total:,} sessions with a click"),)),))


__all__ = ["CODES", "Preference", "preference", "read_preference", "report", "team_draft"]
