"""JSON and tensors in files that are whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recspect.errors import RunError
from recspect.files import write_bytes


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Plain data as JSON; NaN and infinities are refused, since other readers cannot read them."""
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RunError: The file is missing or is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"no {path.name} in {path.parent}", hint="is it a run directory, written by `recspect train`?") from None
    except (ValueError, OSError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}", hint="train anew, or restore the file") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it holds no JSON object", hint="train anew, or restore the file")
    return content


def read_note(path: Path, form: str, version: int = 1) -> dict[str, Any]:
    """A JSON object of a format and version that this recspect reads.

    Raises:
        RunError: The file is missing, damaged, or of another format or version.
    """
    note = read_json(path)
    if note.get("format") != form or note.get("version") != version:
        raise RunError(f"{path} has format {note.get('format')!r} version {note.get('version')!r}, this recspect reads version {version}", hint="upgrade recspect")
    return note


def write_tensors(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any] | None = None) -> None:
    """Tensors as safetensors, with plain data beside them in the same file."""
    metadata = {"note": json.dumps(note, allow_nan=False)} if note is not None else None
    write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = (file.metadata() or {}).get("note", "{}")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(note)  # noqa: SIM118 - a file, no mapping
    except FileNotFoundError:
        raise RunError(f"no checkpoint {path.name} in {path.parent}", hint="did the run finish an epoch?") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise RunError(f"checkpoint {path} is damaged: {error}", hint="train anew, or load another epoch") from None


__all__ = ["read_json", "read_note", "read_tensors", "write_bytes", "write_json", "write_tensors"]
