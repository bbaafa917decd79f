"""`recspect exam`: which cells, how far it is, and what is printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from recspect.errors import DataError, UsageError, listing
from recspect.exam.faults import FAULTS, SEVERITIES
from recspect.exam.fitting import Fitted, leave_one_out
from recspect.exam.marking import mark
from recspect.exam.programs import JUDGED, PROGRAMS, REAL, parts_of
from recspect.exam.sitting import Outcome, cells, sit_all
from recspect.files import require_writable

FIRST_SEED = 7
"""Seeds 0 to 6 were looked at while the rules of causes, the worlds and some thresholds were made."""

GROUPS: Mapping[str, tuple[str, ...]] = {"": JUDGED, "worlds": tuple(PROGRAMS), "real": tuple(REAL), "all": (*PROGRAMS, *REAL)}
"""What several programs are called together."""


def run(programs: str, seeds: int, severities: str, faults: str, out: Path, workers: int, *, say: Callable[[str], None]) -> None:
    """Sit the exam and print its tables by shipped and by left-out thresholds, and one JSON object as the last line.

    Raises:
        UsageError: A name that is not known, or fewer than one seed or worker.
        DataError: The file of outcomes is damaged, or the tables of all programs are absent.
    """
    if min(seeds, workers) < 1:
        raise UsageError(f"{seeds} seeds and {workers} workers, expected 1 or more of each")
    named = GROUPS.get(programs.strip()) or _known(programs, (*PROGRAMS, *REAL), "program", (*filter(None, GROUPS), *PROGRAMS, *REAL))
    chosen = _present(named, say)
    levels = _known(severities, SEVERITIES, "severity") or SEVERITIES
    planted = () if faults == "none" else _known(faults, FAULTS, "fault") or None
    _tell_left_out(chosen, tuple(FAULTS) if planted is None else planted, say)
    sheets = list(cells(chosen, range(FIRST_SEED, FIRST_SEED + seeds), levels, planted))
    require_writable(out)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the processes that are started
    outcomes = []
    for outcome in sit_all(sheets, out, workers=workers):
        if outcome.sheet in sheets:
            outcomes.append(outcome)
            if len(outcomes) % 10 == 0:
                say(f"{len(outcomes)} of {len(sheets)} cells")
    print(report(outcomes))  # noqa: T201 - the answer


def report(outcomes: Sequence[Outcome]) -> str:
    """The tables in Markdown, and one JSON object as the last line: of left-out thresholds where any program can be left out, else of the shipped ones."""
    shipped = mark(outcomes)
    judged, fitted = leave_one_out(outcomes)
    text = ["## Shipped thresholds", "", shipped.to_text(), ""]
    if fitted:
        left_out = mark(judged)
        text += ["## Thresholds fitted on other worlds and architectures", "", left_out.to_text(), "", *_stretches(fitted)]
        if apart := sorted({o.sheet.program for o in outcomes} - set(fitted)):
            text += ["", f"Not among these, because no other program shares neither their world nor their architecture: {', '.join(apart)}."]
    else:
        left_out = shipped
        text.append("No program shares neither world nor architecture with another, so no thresholds can be fitted on others: the last line is of the shipped ones.")
    return "\n".join([*text, "", json.dumps(left_out.to_mapping())])


def _stretches(fitted: Mapping[str, Fitted]) -> list[str]:
    """How far each threshold had to be stretched for the healthy runs of other programs to be silent."""
    rows: dict[tuple[str, str], list[float]] = {}
    for one in fitted.values():
        for key, stretch in one.stretches.items():
            rows.setdefault(key, []).append(stretch)
    runs = [one.runs for one in fitted.values()]
    lines = [f"Each of {len(fitted)} programs was judged by thresholds fitted on {min(runs)} to {max(runs)} healthy runs of others. Stretched for more than half of them:"
             if rows else f"Each of {len(fitted)} programs was judged by thresholds fitted on {min(runs)} to {max(runs)} healthy runs of others; none had to be stretched."]
    often = {key: found for key, found in rows.items() if 2 * len(found) > len(fitted)}
    if often:
        lines += ["", "| code | verdict | factor on its limit, smallest to largest |", "| --- | --- | --- |"]
        lines += [f"| {code} | {verdict} | {min(found):.2f} to {max(found):.2f} |" for (code, verdict), found in sorted(often.items())]
    return lines


def _present(programs: Sequence[str], say: Callable[[str], None]) -> tuple[str, ...]:
    """The programs whose tables are on this machine; tells which are not.

    Raises:
        DataError: None is.
    """
    from recspect.datasets import locate

    absent: dict[str, str] = {}
    for name in programs:
        if name in REAL and parts_of(name)[0] not in absent and locate(REAL[name].table.dataset) is None:
            absent[parts_of(name)[0]] = REAL[name].table.dataset
    for table, dataset in absent.items():
        say(f"skipped: {table}, because the data set {dataset} is not on this machine (see `recspect datasets {dataset}`)")
    left = tuple(name for name in programs if parts_of(name)[0] not in absent)
    if not left:
        raise DataError(f"no program can be sat: {listing(absent.values())} are not on this machine", hint="set RECSPECT_DATA_HOME, or sit synthetic worlds: --programs worlds")
    return left


def _tell_left_out(programs: Sequence[str], faults: Sequence[str], say: Callable[[str], None]) -> None:
    """Which faults have no place in which table, and why."""
    for world in dict.fromkeys(parts_of(name)[0] for name in programs):
        columns = next((PROGRAMS | REAL)[name].columns for name in programs if parts_of(name)[0] == world)
        without = {name: columns.lacks(FAULTS[name].needs) for name in faults if columns.lacks(FAULTS[name].needs)}
        if without:
            say(f"{world} has no {', '.join(dict.fromkeys(need for needs in without.values() for need in needs))}: left out are {', '.join(without)}")


def _known(names: str, choices: Iterable[str], what: str, told: Iterable[str] = ()) -> tuple[str, ...]:
    known = list(choices)
    given = tuple(name.strip() for name in names.split(",") if name.strip())
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UsageError(f"no {what} {listing(unknown)}", hint=f"choices: {', '.join(told or known)}")
    return given
