"""One cell of the exam: train a case, examine it, write down what was said."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recspect.diagnosis.finding import Report, Verdict
from recspect.errors import DataError, RecspectError
from recspect.exam.case import Case
from recspect.exam.faults import BENIGN, FAULTS, SEVERITIES
from recspect.exam.programs import PROGRAMS

SAMPLE_ROWS = 4000
"""Held-out and training rows on which the model is looked into."""

HEALTHY = "healthy"
"""What the twin without a fault is called."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What is to be done: a case by its names.

    Args:
        program: Name of the world and architecture.
        seed: Of the world, the training and the fault.
        fault: Name of a fault, of a benign variation, or `healthy`.
        severity: `barely`, `typical` or `gross`; "" without a fault.
    """

    program: str
    seed: int
    fault: str = HEALTHY
    severity: str = ""

    def case(self) -> Case:
        """The case, with the fault or the variation in it."""
        case = PROGRAMS[self.program].case(self.seed)
        if self.fault in FAULTS:
            return FAULTS[self.fault].change(case, SEVERITIES.index(self.severity))
        return BENIGN[self.fault].change(case) if self.fault in BENIGN else case


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the judges said about a case.

    Args:
        sheet: Which case.
        findings: (code, place, verdict) of every FAIL and WARN.
        causes: (code, place, verdict, whether only possible), most certain first.
        refused: The error, where training or examining ended in one: a case that cannot be trained is a finding too.
        seconds: Wall clock.
    """

    sheet: Sheet
    findings: tuple[tuple[str, str, str], ...] = ()
    causes: tuple[tuple[str, str, str, bool], ...] = ()
    refused: str = ""
    seconds: float = 0.0

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Outcome:
        """The inverse of `to_line`.

        Raises:
            DataError: The line is damaged.
        """
        try:
            content = json.loads(line)
            content["sheet"] = Sheet(**content["sheet"])
            return cls(**content | {name: tuple(tuple(entry) for entry in content[name]) for name in ("findings", "causes")})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"a line of the exam's outcomes is damaged: {error}", hint="remove the file, and sit the exam again") from None


def cells(programs: Sequence[str], seeds: Sequence[int], severities: Sequence[str] = SEVERITIES, faults: Sequence[str] | None = None) -> Iterator[Sheet]:
    """Every case of an exam: for each program and seed the healthy twin, the benign variations and the faults."""
    chosen = list(FAULTS) if faults is None else list(faults)
    for seed in seeds:
        for program in programs:
            yield Sheet(program=program, seed=seed)
            for name in BENIGN:
                yield Sheet(program=program, seed=seed, fault=name)
            for name in chosen:
                for severity in severities:
                    yield Sheet(program=program, seed=seed, fault=name, severity=severity)


def sit(sheet: Sheet) -> Outcome:
    """Train, examine and write down. Nothing but the outcome is kept."""
    started = time.perf_counter()
    try:
        report = _examined(sheet.case())
    except RecspectError as error:
        return Outcome(sheet=sheet, refused=error.message[:300], seconds=time.perf_counter() - started)
    alarms = report.with_verdict(Verdict.FAIL, Verdict.WARN)
    return Outcome(sheet=sheet, findings=tuple((f.code, f.place.name, f.verdict.value) for f in alarms),
                   causes=tuple((c.code, c.place.name, c.verdict.value, c.possible) for c in report.causes), seconds=time.perf_counter() - started)


def _examined(case: Case) -> Report:
    from recspect.examining.runs import report_of_run
    from recspect.training.loop import train
    from recspect.training.rows import Tables

    parts = (case.train, case.validation, case.test)
    tables = Tables.cut(parts, case.schema, case.config)
    with tempfile.TemporaryDirectory(prefix="recspect-exam-") as folder:
        run = train(parts, case.schema, case.config, Path(folder) / "run", on_finding=lambda _: None)
        epoch: Any = run.epochs[-1]["epoch"] if case.keep_last else "best"
        return report_of_run(run, tables, epoch=epoch, spoil=case.spoil, sample_rows=SAMPLE_ROWS)


def sit_all(sheets: Iterable[Sheet], outcomes: Path, *, workers: int = 1) -> Iterator[Outcome]:
    """Sit what is not in the file of outcomes yet, and add each outcome to it as it comes: an exam that was stopped goes on.

    Raises:
        DataError: The file is damaged.
    """
    import multiprocessing

    done = read_outcomes(outcomes)
    yield from done
    sat = {outcome.sheet for outcome in done}
    left = [sheet for sheet in sheets if sheet not in sat]
    outcomes.parent.mkdir(parents=True, exist_ok=True)
    with outcomes.open("a", encoding="utf-8") as file, multiprocessing.get_context("spawn").Pool(max(1, workers)) as pool:
        for outcome in pool.imap_unordered(sit, left):
            file.write(outcome.to_line() + "\n")
            file.flush()
            yield outcome


def read_outcomes(path: Path) -> list[Outcome]:
    """Outcomes of an exam, in the order in which they came; none where there is no file. A last line that was cut off is left out.

    Raises:
        DataError: Another line is damaged.
    """
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    if lines[-1]:  # a process was killed while it wrote: without it the next outcome would be glued to it
        path.write_text(text[: len(text) - len(lines[-1])], encoding="utf-8")
    return [Outcome.from_line(line) for line in lines[:-1] if line]
