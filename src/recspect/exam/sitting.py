"""One cell of the exam: train a case, examine it, write down what was said."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.finding import Finding, Verdict
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import DataError, RecspectError
from recspect.exam.case import Case
from recspect.exam.faults import BENIGN, FAULTS, SEVERITIES
from recspect.exam.programs import program_of
from recspect.exam.seen import Seen

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
        """The case, with the fault or the variation in it.

        Raises:
            DataError: The real table of the program is not on this machine.
        """
        case = program_of(self.program).case(self.seed)
        if self.fault in FAULTS:
            return FAULTS[self.fault].change(case, SEVERITIES.index(self.severity))
        return BENIGN[self.fault].change(case) if self.fault in BENIGN else case


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the judges said about a case.

    Args:
        sheet: Which case.
        findings: Every FAIL, WARN and PASS, worst first.
        refused: The error, where training or examining ended in one: a case that cannot be trained is a finding too.
        seconds: Wall clock.
    """

    sheet: Sheet
    findings: tuple[Seen, ...] = ()
    refused: str = ""
    seconds: float = 0.0

    @property
    def alarms(self) -> tuple[Seen, ...]:
        """The FAILs and WARNs."""
        return tuple(seen for seen in self.findings if seen.alarm)

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Outcome:
        """The inverse of `to_line`.

        Raises:
            DataError: The line is damaged, or of another version.
        """
        try:
            content = json.loads(line)
            return cls(**content | {"sheet": Sheet(**content["sheet"]), "findings": tuple(Seen(**seen) for seen in content["findings"])})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"a line of the exam's outcomes is damaged or of another version: {error}",
                            hint="remove the file, and sit the exam again") from None


def cells(programs: Sequence[str], seeds: Sequence[int], severities: Sequence[str] = SEVERITIES, faults: Sequence[str] | None = None) -> Iterator[Sheet]:
    """Every case of an exam: for each program and seed the healthy twin, the benign variations and the faults that its table has a place for."""
    chosen = list(FAULTS) if faults is None else list(faults)
    for seed in seeds:
        for program in programs:
            columns = program_of(program).columns
            yield Sheet(program=program, seed=seed)
            for name, benign in BENIGN.items():
                if not columns.lacks(benign.needs):
                    yield Sheet(program=program, seed=seed, fault=name)
            for name in chosen:
                if not columns.lacks(FAULTS[name].needs):
                    for severity in severities:
                        yield Sheet(program=program, seed=seed, fault=name, severity=severity)


def sit(sheet: Sheet) -> Outcome:
    """Train, examine and write down. Nothing but the outcome is kept."""
    started = time.perf_counter()
    try:
        findings = _examined(sheet.case())
    except RecspectError as error:
        return Outcome(sheet=sheet, refused=error.message[:300], seconds=time.perf_counter() - started)
    known = sorted((f for f in findings if f.verdict is not Verdict.UNKNOWN), key=lambda f: (-f.verdict.severity, -f.severity, f.code, f.place.name))
    return Outcome(sheet=sheet, findings=tuple(map(Seen.of, known)), seconds=time.perf_counter() - started)


def _examined(case: Case) -> tuple[Finding, ...]:
    from recspect.examining.runs import report_of_run, subject_of
    from recspect.training.loop import train
    from recspect.training.rows import Tables

    parts = (case.train, case.validation, case.test)
    tables = Tables.cut(parts, case.schema, case.config)
    with tempfile.TemporaryDirectory(prefix="recspect-exam-") as folder:
        run = train(parts, case.schema, case.config, Path(folder) / "run", on_finding=lambda _: None)
        epoch: Any = run.epochs[-1]["epoch"] if case.keep_last else "best"
        report = report_of_run(run, tables, epoch=epoch, spoil=case.spoil, sample_rows=SAMPLE_ROWS)
        replayed = () if case.served is None else _replayed(subject_of(run, epoch), case, case.served)
    return (*report.findings, *replayed)


def _replayed(subject: TorchSubject, case: Case, served: Batch) -> tuple[Finding, ...]:
    """What was logged at serving held against the same events computed again, as a team does that keeps both."""
    from recspect.diagnosis.diagnostics.data.replay import Replay
    from recspect.examining.examination import examine_table

    logged, again = (rows.with_columns({"logged_score": subject.score(rows)}) for rows in (served, case.test))
    schema = case.schema.with_roles(score="logged_score")
    return examine_table(logged, schema, reference=again, diagnostics=[Replay()]).findings


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
