"""What lies below a folder: run directories, trainings that an observer watched, and reports of examinations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from recspect.dashboard.kept import Kept
from recspect.diagnosis.finding import Report
from recspect.errors import RecspectError, RunError

HEAD = 4096
"""Characters at the beginning of a findings file in which verdict and counts stand."""

KEPT_REPORTS = 16
"""Reports that are held in memory; each takes a few megabytes."""

Kind = Literal["run", "observed", "metrics", "findings"]
Stamp = tuple[int, int]
"""Time and size of a file."""

_VERDICT = re.compile(r'"verdict": "(FAIL|WARN|UNKNOWN|PASS)",\s*"counts": (\{[^{}]*\})')
_MARKS: tuple[tuple[str, Kind], ...] = (("run.json", "run"), ("observed.json", "observed"), ("metrics.json", "metrics"), ("findings.json", "findings"))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the overview.

    Args:
        name: Its address: the name of its folder or file.
        path: Folder, or the findings file itself.
        kind: A training of ours, one that an observer watched, the folder of an adaptive metric, or findings alone.
        created: ISO 8601, empty where unknown.
        status: `running`, `finished`, `interrupted`, or empty.
        model, data, label: In words, empty where unknown.
        epochs: Finished ones.
        measure, best: The figure by which epochs were compared, and its best value; None before the first epoch ends.
        verdict: Worst verdict of its findings; empty where it was not examined.
        counts: Findings by verdict.
        effects: Whether it says anything of effects: experiments, off-policy estimates, comparisons.
        damaged: Why it cannot be read; empty while it can.
    """

    name: str
    path: Path
    kind: Kind
    created: str = ""
    status: str = ""
    model: str = ""
    data: str = ""
    label: str = ""
    epochs: int = 0
    measure: str = ""
    best: float | None = None
    verdict: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    effects: bool = False
    damaged: str = ""

    @property
    def folder(self) -> Path | None:
        """Where its training lies; None for findings alone in a file."""
        return self.path if self.path.is_dir() else None

    @property
    def findings_path(self) -> Path:
        """Where its findings lie, or what they are made of, whether that is there or not."""
        if not self.path.is_dir():
            return self.path
        return self.path / ("metrics.json" if self.kind == "metrics" else "findings.json")

    def to_mapping(self) -> dict[str, Any]:
        """Plain data."""
        return {key: getattr(self, key) for key in ("name", "kind", "created", "status", "model", "data", "label", "epochs", "measure", "best", "verdict", "damaged")} | {
            "counts": dict(self.counts)}


class Shelf:
    """The entries below a folder, read again when their files change.

    Only what was found by listing the folder has an address, so no request can name a file elsewhere.

    Args:
        root: Folder of runs, or one run directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: dict[str, tuple[tuple[Stamp, ...], Entry]] = {}
        self._reports: Kept[Report] = Kept(KEPT_REPORTS)
        self._lock = Lock()

    def entries(self) -> list[Entry]:
        """Newest first.

        Raises:
            RunError: The folder cannot be listed.
        """
        try:
            found = dict(self._found())
        except OSError as error:
            raise RunError(f"{self.root} cannot be listed: {error}", hint="recspect dashboard FOLDER_OF_RUNS") from None
        with self._lock:
            known = self._entries
        fresh: dict[str, tuple[tuple[Stamp, ...], Entry]] = {}
        for name, (path, kind) in found.items():
            stamps = tuple(map(stamp, _files(path, kind)))
            held = known.get(name)
            fresh[name] = held if held is not None and held[0] == stamps and held[1].path == path else (stamps, _read(name, path, kind))
        with self._lock:
            self._entries = fresh
        return sorted((entry for _, entry in fresh.values()), key=lambda entry: (entry.created, entry.name), reverse=True)

    def entry(self, name: str) -> Entry | None:
        """The entry of that address; None where there is none. One that is known and whose files are as they were is found without listing the folder."""
        with self._lock:
            stamps, known = self._entries.get(name, ((), None))
        if known is not None and stamps == tuple(map(stamp, _files(known.path, known.kind))):
            return known
        return next((entry for entry in self.entries() if entry.name == name), None)

    def report(self, entry: Entry) -> Report | None:
        """The findings of an entry; None where it was not examined yet.

        Raises:
            RunError: The file is damaged.
        """
        path = entry.findings_path
        if not path.is_file():
            return None
        return self._reports.get(entry.name, stamp(path), lambda: _of_metrics(entry.path) if entry.kind == "metrics" else Report.read(path))

    def _found(self) -> Iterator[tuple[str, tuple[Path, Kind]]]:
        own = kind_of(self.root)
        if own is not None:
            yield self.root.resolve().name, (self.root, own)
        for path in sorted(self.root.iterdir()):
            kind = kind_of(path) if path.is_dir() else "findings" if path.suffix == ".json" and own is None and _is_findings(path) else None
            if kind is not None:
                yield path.name, (path, kind)


def kind_of(folder: Path) -> Kind | None:
    """What a folder is; None for another folder."""
    return next((kind for name, kind in _MARKS if (folder / name).is_file()), None)


def stamp(path: Path) -> Stamp:
    """When a file was written and how large it is; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size


def _files(path: Path, kind: Kind) -> tuple[Path, ...]:
    if not path.is_dir():
        return (path,)
    return (path / next(name for name, k in _MARKS if k == kind), path / "findings.json")


def _read(name: str, path: Path, kind: Kind) -> Entry:
    try:
        if kind == "metrics":
            report = _of_metrics(path)
            counts = dict(report.to_mapping()["counts"])
            return Entry(name=name, path=path, kind=kind, created=_text(report.provenance.get("adopted")), model=report.title, verdict=report.verdict.value, counts=counts)
        known = {"run": _of_run, "observed": _of_observed, "findings": _of_findings}[kind](path)
        verdict, counts = _verdict(path / "findings.json" if path.is_dir() else path)
        return Entry(name=name, path=path, kind=kind, verdict=verdict, counts=counts, **known)
    except RecspectError as error:
        return Entry(name=name, path=path, kind=kind, damaged=error.message[:300])


def _of_run(folder: Path) -> dict[str, Any]:
    record = _json(folder / "run.json")
    if record.get("format") != "recspect-run":
        raise RunError(f"{folder / 'run.json'} is not the record of a run")
    epochs = [row for row in (record.get("metrics") or {}).get("epochs") or [] if isinstance(row, dict)]
    best = next((row for row in epochs if row.get("epoch") == record.get("best_epoch")), {})
    measure = next((key for key in ("validation_auc", "validation_rmse", "validation_loss") if isinstance(best.get(key), float | int)), "")
    data = record.get("data") or {}
    return {"created": _text(record.get("created")), "status": _text(record.get("status")), "label": _text(record.get("label")), "epochs": len(epochs),
            "model": _text((record.get("model") or {}).get("name")), "data": _text(data.get("name") or Path(str(data.get("path", ""))).name or data.get("kind")),
            "measure": measure.replace("validation_", "validation "), "best": float(best[measure]) if measure else None}


def _of_observed(folder: Path) -> dict[str, Any]:
    record = _json(folder / "observed.json")
    return {"created": _text(record.get("created")), "status": _text(record.get("status")), "model": _text(record.get("model"))}


def _of_findings(path: Path) -> dict[str, Any]:
    """When it was written, and whether it is about effects, without reading it as data."""
    file = path / "findings.json" if path.is_dir() else path
    try:
        return {"created": datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds"), "effects": b'"code": "effects.' in file.read_bytes()}
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error}") from None


def _of_metrics(folder: Path) -> Report:
    from recspect.adapting.history import History
    from recspect.adapting.picture import picture

    return picture(History.read(folder))


def _verdict(path: Path) -> tuple[str, dict[str, int]]:
    """From the head of the file, which the format keeps there; from all of it where it was written otherwise."""
    if not path.is_file():
        return "", {}
    found = _VERDICT.search(_head(path))
    if found is not None:
        return found[1], {key: int(n) for key, n in json.loads(found[2]).items()}
    content = _json(path)
    counts = content.get("counts")
    return _text(content.get("verdict")), {key: int(n) for key, n in counts.items()} if isinstance(counts, dict) else {}


def _is_findings(path: Path) -> bool:
    try:
        return '"recspect-findings"' in _head(path)
    except RunError:
        return False


def _head(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(HEAD)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} holds {type(content).__name__}, expected an object")
    return content


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


__all__ = ["Entry", "Shelf", "kind_of", "stamp"]
