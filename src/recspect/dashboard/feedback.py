"""What people said of findings: confirmed, rejected or acted upon. Lines of JSON beside the findings, only ever appended to."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from recspect.errors import RunError, UsageError

FEEDBACK_FILE = "feedback.jsonl"
Verb = Literal["confirmed", "rejected", "acted"]
LONGEST_NOTE = 2000


@dataclass(frozen=True, kw_only=True)
class Said:
    """One word on one finding.

    Args:
        code, place: Which finding; place is empty for the whole run.
        said: `confirmed`, `rejected` or `acted`.
        note: In somebody's words.
        at: ISO 8601, UTC.
    """

    code: str
    place: str
    said: str
    note: str = ""
    at: str = ""


def add_feedback(folder: Path, said: Said) -> Said:
    """Write it down, with the time.

    Raises:
        UsageError: Not one of the three words, or too long a note.
        RunError: The file cannot be written.
    """
    if said.said not in get_args(Verb):
        raise UsageError(f"{said.said[:40]!r} was said, expected one of {', '.join(get_args(Verb))}")
    if len(said.note) > LONGEST_NOTE:
        raise UsageError(f"a note of {len(said.note):,} characters, expected at most {LONGEST_NOTE:,}")
    kept = Said(**asdict(said) | {"at": datetime.now(UTC).isoformat(timespec="seconds")})
    line = (json.dumps(asdict(kept), ensure_ascii=False) + "\n").encode()
    try:
        file = os.open(folder / FEEDBACK_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line)  # one call, so that lines of two people do not mix
        finally:
            os.close(file)
    except OSError as error:
        raise RunError(f"{folder / FEEDBACK_FILE} cannot be written: {error}") from None
    return kept


def read_feedback(folder: Path) -> tuple[Said, ...]:
    """All that was said, oldest first; damaged lines are left out, since they were somebody else's editing."""
    try:
        text = (folder / FEEDBACK_FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{folder / FEEDBACK_FILE} cannot be read: {error}") from None
    found = []
    for line in text.splitlines():
        try:
            found.append(Said(**{key: str(value) for key, value in json.loads(line).items()}))
        except (ValueError, TypeError, AttributeError):
            continue
    return tuple(found)


__all__ = ["FEEDBACK_FILE", "Said", "add_feedback", "read_feedback"]
