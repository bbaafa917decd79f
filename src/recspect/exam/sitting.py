"""One cell of the exam: train a case, examine it, write down what was said."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.finding import Finding, Verdict
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import DataError, RecspectError
from recspect.exam.case import Case
from recspect.exam.faults import BENIGN, FAULTS, SEVERITIES
from recspect.exam.programs import program_of
from recspect.exam.seen import Seen

if TYPE_CHECKING:
    from recspect.training.run import Run

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

    def twin(self) -> Case:
        """The healthy case of the same program and seed.

        Raises:
            DataError: The real table of the program is not on this machine.
        """
        return program_of(self.program).case(self.seed)

    def case(self, twin: Case | None = None) -> Case:
        """The case, with the fault or the variation in it.

        Args:
            twin: The healthy one, where it is there already.

        Raises:
            DataError: As for `twin`.
        """
        case = self.twin() if twin is None else twin
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


def sit(sheet: Sheet, bench: Bench | None = None) -> Outcome:
    """Train, examine and write down. Nothing but the outcome is kept, and on a bench the training of the healthy twin."""
    started = time.perf_counter()
    try:
        findings = _on_its_own(sheet.case()) if bench is None else bench.findings(sheet)
    except RecspectError as error:
        return Outcome(sheet=sheet, refused=error.message[:300], seconds=time.perf_counter() - started)
    known = sorted((f for f in findings if f.verdict is not Verdict.UNKNOWN), key=lambda f: (-f.verdict.severity, -f.severity, f.code, f.place.name))
    return Outcome(sheet=sheet, findings=tuple(map(Seen.of, known)), seconds=time.perf_counter() - started)


class Bench:
    """Where cells are sat one after another: those whose fault comes after training are examined on the training of their healthy twin.

    Args:
        folder: Holds the run of the twin; whoever made it removes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._of: tuple[str, int] | None = None
        self._twin: Case | None = None
        self._run: Run | None = None

    def findings(self, sheet: Sheet) -> tuple[Finding, ...]:
        """What is said of a case.

        Raises:
            RecspectError: It cannot be trained or examined.
        """
        if (sheet.program, sheet.seed) != self._of or self._twin is None:
            self._of, self._twin, self._run = (sheet.program, sheet.seed), sheet.twin(), None
        twin, case = self._twin, sheet.case(self._twin)
        as_trained = all(getattr(case, name) is getattr(twin, name) for name in ("train", "validation", "schema", "config"))  # faults share what they leave alone
        if not as_trained:
            return _on_its_own(case)
        if self._run is None:
            shutil.rmtree(self.folder / "run", ignore_errors=True)
            self._run = _trained(twin, self.folder / "run")
        return _examined(self._run, case)


def _on_its_own(case: Case) -> tuple[Finding, ...]:
    with tempfile.TemporaryDirectory(prefix="recspect-exam-") as folder:
        return _examined(_trained(case, Path(folder) / "run"), case)


def _trained(case: Case, folder: Path) -> Run:
    from recspect.training.loop import train

    return train((case.train, case.validation, case.test), case.schema, case.config, folder, on_finding=lambda _: None)


def _examined(run: Run, case: Case) -> tuple[Finding, ...]:
    from recspect.examining.runs import report_of_run, subject_of
    from recspect.training.rows import Tables

    tables = Tables.cut((case.train, case.validation, case.test), case.schema, case.config)
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
    spawned = multiprocessing.get_context("spawn")
    with (tempfile.TemporaryDirectory(prefix="recspect-exam-") as folder, outcomes.open("a", encoding="utf-8") as file,
          spawned.Pool(max(1, workers), _set_up, (folder,)) as pool):
        for outcome in pool.imap_unordered(_sit_here, left):
            file.write(outcome.to_line() + "\n")
            file.flush()
            yield outcome


_HERE: list[Bench] = []
"""The bench of this worker process."""


def _set_up(folder: str) -> None:
    _HERE[:] = [Bench(Path(tempfile.mkdtemp(dir=folder)))]


def _sit_here(sheet: Sheet) -> Outcome:
    return sit(sheet, _HERE[0])


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
