"""The small record beside the rows of a training that is not recspect's own: `observed.json`."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recspect.errors import RunError
from recspect.files import write_bytes

if TYPE_CHECKING:
    from recspect.diagnosis.observing.observer import Observer

RECORD_FILE = "observed.json"
RECORD_FORMAT = 1
"""Version of the record."""


def write_record(observer: Observer, status: str) -> None:
    """Write the record, whole or not at all; nothing beside a `run.json`, which says more."""
    folder = observer.folder
    if folder is None or (folder / "run.json").is_file():
        return
    parameters = observer.insides.parameters().values()
    earlier = _created(folder / RECORD_FILE)
    record = {
        "format": "recspect-observation", "version": RECORD_FORMAT, "id": folder.resolve().name, "status": status,
        "created": earlier or datetime.now(UTC).isoformat(timespec="seconds"),
        "recspect": metadata.version("recspect"), "python": platform.python_version(), "torch": str(torch.__version__),
        "model": type(observer.model).__name__, "parameters": sum(parameter.numel() for parameter in parameters),
        "every": observer.every, "histograms_every": observer.histograms_every, "steps_done": observer.steps_done,
        "epoch": observer.epoch, "left_out": list(observer.left_out), "failure": observer.failure,
        "told": [{"code": finding.code, "verdict": finding.verdict.value, "place": str(finding.place), "claim": finding.claim}
                 for finding in observer.findings],
    }
    write_bytes(folder / RECORD_FILE, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def read_record(folder: Path) -> Mapping[str, Any]:
    """The record of an observed training.

    Raises:
        RunError: It is damaged, or of a newer version.
    """
    path = folder / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}", hint="observe the training anew") from None
    if not isinstance(record, dict) or record.get("format") != "recspect-observation":
        raise RunError(f"{path} is not the record of an observed training", hint="give the folder that an Observer wrote")
    if record.get("version") != RECORD_FORMAT:
        raise RunError(f"{path} is of version {record.get('version')!r}, this recspect reads {RECORD_FORMAT}", hint="upgrade recspect")
    return record


def _created(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["created"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
