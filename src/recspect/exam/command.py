"""`recspect exam`: which cells, how far it is, and what is printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from recspect.errors import UsageError, listing
from recspect.exam.faults import FAULTS, SEVERITIES
from recspect.exam.marking import mark
from recspect.exam.programs import JUDGED, PROGRAMS
from recspect.exam.sitting import cells, sit_all
from recspect.files import require_writable

FIRST_SEED = 2
"""Seeds 0 and 1 were looked at while the rules of causes and the worlds were made."""


def run(programs: str, seeds: int, severities: str, faults: str, out: Path, workers: int, *, say: Callable[[str], None]) -> None:
    """Sit the exam and print its tables, and one JSON object as the last line.

    Raises:
        UsageError: A name that is not known, or fewer than one seed or worker.
        DataError: The file of outcomes is damaged.
    """
    if min(seeds, workers) < 1:
        raise UsageError(f"{seeds} seeds and {workers} workers, expected 1 or more of each")
    chosen = tuple(PROGRAMS) if programs == "all" else _known(programs, PROGRAMS, "program") or JUDGED
    levels = _known(severities, SEVERITIES, "severity") or SEVERITIES
    planted = () if faults == "none" else _known(faults, FAULTS, "fault") or None
    sheets = list(cells(chosen, range(FIRST_SEED, FIRST_SEED + seeds), levels, planted))
    require_writable(out)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the processes that are started
    outcomes = []
    for outcome in sit_all(sheets, out, workers=workers):
        if outcome.sheet in sheets:
            outcomes.append(outcome)
            if len(outcomes) % 10 == 0:
                say(f"{len(outcomes)} of {len(sheets)} cells")
    result = mark(outcomes)
    print(result.to_text())  # noqa: T201 - the answer
    print(json.dumps(result.to_mapping()))  # noqa: T201 - the answer, for a program


def _known(names: str, choices: Iterable[str], what: str) -> tuple[str, ...]:
    known = list(choices)
    given = tuple(name.strip() for name in names.split(",") if name.strip())
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UsageError(f"no {what} {listing(unknown)}", hint=f"choices: {', '.join(known)}")
    return given
