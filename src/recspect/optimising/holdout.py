"""How often the rows of the proof were used, so that what is decided on them stays honest.

Every remedy that is judged on the same rows could be accepted by chance; so the k-th use gets the share alpha / (k (k + 1)) of the chance of error, which adds up to at
most alpha however often the rows are used (alpha spending; Foster and Stine 2008 spend more cleverly). The count outlives the process: it lies in the folder of the run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recspect.errors import RunError
from recspect.files import write_bytes

FILE = "holdout.json"
FORMAT, VERSION = "recspect-holdout", 1
ALPHA = 0.05


@dataclass(frozen=True)
class Use:
    """One decision on the rows.

    Args:
        number: From 1.
        level: Coverage of the intervals that decide.
    """

    number: int
    level: float


class Ledger:
    """The uses of one block of rows.

    Args:
        folder: Holds the file; made where it is missing.
        rows: Fingerprint of the block.
        alpha: Chance of error over all uses.
    """

    def __init__(self, folder: Path, rows: str, *, alpha: float = ALPHA) -> None:
        self.path, self.rows, self.alpha = folder / FILE, rows, alpha

    def use(self, key: str, what: str) -> Use:
        """Write a use down before its result is looked at; a use with the same key (a resumed one) is the same use.

        Raises:
            RunError: The file is damaged.
        """
        content = self._read()
        mine = [entry for entry in content["uses"] if entry["rows"] == self.rows]
        number = next((int(entry["number"]) for entry in mine if entry["key"] == key), 0)
        if not number:
            number = len(mine) + 1
            content["uses"].append({"rows": self.rows, "key": key, "what": what, "number": number, "at": datetime.now(UTC).isoformat(timespec="seconds")})
            write_bytes(self.path, (json.dumps(content, indent=1) + "\n").encode())
        return Use(number, level_of(number, self.alpha))

    @property
    def uses(self) -> int:
        """Decisions on these rows so far."""
        return sum(entry["rows"] == self.rows for entry in self._read()["uses"])

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {"format": FORMAT, "version": VERSION, "uses": []}
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            sound = content["format"] == FORMAT and content["version"] == VERSION and all({"rows", "key", "number"} <= set(entry) for entry in content["uses"])
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise RunError(f"{self.path} is damaged or of another version", hint="restore it; without it nobody knows how often these rows were used")
        return content


def level_of(number: int, alpha: float = ALPHA) -> float:
    """Coverage of the intervals of the k-th use: 1 - alpha / (k (k + 1))."""
    return 1 - alpha / (number * (number + 1))


__all__ = ["ALPHA", "FILE", "Ledger", "Use", "level_of"]
