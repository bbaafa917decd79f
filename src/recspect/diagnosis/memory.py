"""How much memory a process may hold. Going beyond it is an error that says so, before the machine swaps.

Totals are of bounded size and batches too, so what is held does not grow with the rows; a budget holds that this is so, and that batches, slices
and capacities are not too many for the machine. It is asked after every batch: between two questions no more is taken than a batch and its
totals need.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recspect.errors import MemoryBudgetError, UsageError

LEAST = 256 * 2**20
"""Bytes: Python with the libraries that read tables holds nearly as much before the first row."""

SORTED_SHARE = 8
"""Rows that are brought together in memory take at most this part of the budget; taking and joining them makes copies."""

_limit: int | None = None


@contextmanager
def budget(limit: int | None) -> Iterator[None]:
    """Within this, the process may hold so many bytes; None for no limit.

    Raises:
        UsageError: Less than `LEAST`.
    """
    global _limit  # noqa: PLW0603 - memory is the process's, and so is its limit
    if limit is not None and limit < LEAST:
        raise UsageError(f"a budget of {limit / 2**20:,.0f} MiB of memory, expected at least {LEAST // 2**20}", hint="--memory-gib 1")
    before, _limit = _limit, limit if limit is not None else _limit
    try:
        yield
    finally:
        _limit = before


def is_limited() -> bool:
    """Whether there is a limit."""
    return _limit is not None


def sorted_bytes(otherwise: int) -> int:
    """Bytes of rows that may be brought together in memory at once: `otherwise`, or less where the budget is small."""
    return otherwise if _limit is None else max(min(otherwise, _limit // SORTED_SHARE), 2**20)


def held() -> int:
    """Bytes that this process holds in memory; where the system does not tell, the most it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def require_within_budget() -> None:
    """Make sure that the process holds no more than it may.

    Raises:
        MemoryBudgetError: It does.
    """
    if _limit is not None and (now := held()) > _limit:
        raise MemoryBudgetError(f"the process holds {now / 2**30:.2f} GiB of memory, and may hold {_limit / 2**30:.2f}",
                                hint="a larger budget, fewer slices, or fewer questions at a time; what was kept is not read again")


__all__ = ["budget", "held", "is_limited", "require_within_budget", "sorted_bytes"]
