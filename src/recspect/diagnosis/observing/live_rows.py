"""What happened since the last epoch ended, line by line: for whoever looks while the training goes on.

`steps.parquet` is whole or not there, so it is written once per epoch. Between, every row goes to the end of a text file that the next
writing of `steps.parquet` empties. A reader joins the two; a row that stands in both is the same row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recspect.diagnosis.mirror import StepRow
from recspect.diagnosis.observing.rows import STEPS, STEPS_FILE, read_rows
from recspect.errors import RunError

LIVE_FILE = "live.jsonl"
LARGEST = 64 << 20
"""Bytes at which the file stops growing: an epoch of so many looks is shown when it ends."""


class LiveRows:
    """Writes the file. It never stops a training: where it cannot be written, nothing is shown before the epoch ends.

    Args:
        folder: Of the run; None writes nothing.
        after: Rows of this step and before are left out: a training that goes on has them in `steps.parquet`.
    """

    def __init__(self, folder: Path | None, *, after: int = 0) -> None:
        self._path = None if folder is None else folder / LIVE_FILE
        self._after = after
        self._size = 0
        self.clear()

    def add(self, rows: Sequence[StepRow]) -> None:
        """Append rows, so that a reader sees them at once."""
        if self._path is None or self._size > LARGEST:
            return
        text = "".join(json.dumps([*row[:4], row.value if math.isfinite(row.value) else str(row.value)]) + "\n" for row in rows if row.step > self._after)
        if not text:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            self._path = None
            return
        self._size += len(text)

    def clear(self) -> None:
        """Forget what stands in `steps.parquet` now."""
        self._size = 0
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def read_live(folder: Path) -> pa.Table:
    """All rows of a training as it stands, in the columns of `steps.parquet`; empty where nothing was observed yet.

    Raises:
        RunError: A file is damaged. A last line that is being written is left out.
    """
    fresh = _lines(folder / LIVE_FILE)  # first: what is emptied meanwhile stands in the other file then
    written = read_rows(folder / STEPS_FILE, STEPS)
    if written.num_rows:
        last = pc.max(written["step"]).as_py()
        fresh = fresh.filter(pc.field("step") > last)
    return pa.concat_tables([written, fresh])


def _lines(path: Path) -> pa.Table:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return STEPS.empty_table()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}", hint="remove the file") from None
    rows = []
    for line in text.split("\n")[:-1]:
        try:
            step, epoch, series, place, value = json.loads(line)
            rows.append((int(step), int(epoch), str(series), str(place), float(value)))
        except (ValueError, TypeError):
            raise RunError(f"{path} is damaged: {line[:80]!r} is no row", hint="remove the file") from None
    columns = zip(*rows, strict=True) if rows else ([] for _ in STEPS)
    return pa.Table.from_arrays([pa.array(column, kind) for column, kind in zip(columns, STEPS.types, strict=True)], schema=STEPS)
