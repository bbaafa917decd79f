"""What can be looked at closer than a report does: pictures of one field in one layer, of the slices of two fields, kept beside the findings.

A report shows each question once; a drill-down is one more picture per field, layer or pair. They stand in `inside.json` (docs/run-directory.md), in the
same kinds of evidence, so a page shows those of any room without knowing what they are about.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recspect.diagnosis.evidence import Evidence
from recspect.diagnosis.finding import FINDINGS_FORMAT, Report, plain
from recspect.errors import RunError
from recspect.files import write_bytes

FILE = "inside.json"
FORMAT = 1
"""Version of the file."""


@dataclass(frozen=True, kw_only=True)
class Closer:
    """Pictures of one place.

    Args:
        stage: Chapter that it belongs to, such as `features`.
        row, column: The place: such as a field and a layer, or two fields. Both empty for the whole stage, one of them for all that it crosses.
        kinds: What row and column are, such as `field` and `layer`.
        least: Rows of the smallest group of rows that is shown; 0 where no group is.
        evidence: What to draw.
    """

    stage: str
    row: str = ""
    column: str = ""
    kinds: tuple[str, str] = ("", "")
    least: int = 0
    evidence: tuple[Evidence, ...] = ()


def write_closer(folder: str | Path, pieces: Iterable[Closer]) -> Path:
    """Write them beside the findings; whole or not at all.

    Returns:
        The file.
    """
    content = [{"stage": one.stage, "row": one.row, "column": one.column, "kinds": list(one.kinds), "least": one.least, "evidence": [plain(piece) for piece in one.evidence]} for one in pieces]
    path = Path(folder) / FILE
    write_bytes(path, json.dumps({"format": "recspect-inside", "version": FORMAT, "pieces": content}, ensure_ascii=False, allow_nan=False).encode())
    return path


def read_closer(folder: str | Path) -> tuple[Closer, ...]:
    """What `write_closer` wrote; nothing where there is no file.

    Raises:
        RunError: The file is damaged or of another version.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}", hint="run `recspect diagnose` again") from None
    if not isinstance(content, dict) or content.get("format") != "recspect-inside" or content.get("version") != FORMAT:
        raise RunError(f"{path} is no recspect-inside file of version {FORMAT}", hint="run `recspect diagnose` again with this version")
    try:
        return tuple(Closer(stage=str(one["stage"]), row=str(one["row"]), column=str(one["column"]), kinds=(str(one["kinds"][0]), str(one["kinds"][1])), least=int(one["least"]),
                            evidence=_evidence(one["evidence"])) for one in content["pieces"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(f"{path} is damaged: {type(error).__name__}: {error}", hint="run `recspect diagnose` again") from None


def _evidence(pieces: object) -> tuple[Evidence, ...]:
    return Report.from_mapping({"format": "recspect-findings", "version": FINDINGS_FORMAT, "findings": [], "overview": pieces}).overview


__all__ = ["FILE", "Closer", "read_closer", "write_closer"]
