"""The plain content of a schema file: TOML, YAML or JSON. Nothing in a file is ever executed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from recspect.errors import SchemaError

LARGEST_BYTES = 16 * 2**20
"""No schema is larger; what is, is some other file."""

FORMATS = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}
"""Ending to format; every other ending is read as TOML."""


def read_content(path: Path) -> dict[str, Any]:
    """The settings in a schema file, as plain data.

    Raises:
        SchemaError: The file is missing, unreadable, too large, not of its format, or names a setting twice.
    """
    form = FORMATS.get(path.suffix.lower(), "TOML")
    try:
        content = _parsed(_text(path, form), form)
    except SchemaError:
        raise
    except RecursionError:
        raise SchemaError(f"{path} is nested too deeply for a schema", hint="see docs/schema.md for an example") from None
    except Exception as error:  # yaml's errors share no base with ValueError
        reason = " ".join(str(error).split())[:300]
        raise SchemaError(f"{path} is not valid {form}: {reason}",
                          hint=f"correct that place; an ending of .toml, .yaml or .json says how the file is read ({form} here)") from None
    if not isinstance(content, dict):
        raise SchemaError(f"{path} holds {type(content).__name__}, not a table of settings",
                          hint="see docs/schema.md for an example")
    return content


def _text(path: Path, form: str) -> str:
    try:
        if not path.is_file():
            what = "a folder is not a schema file" if path.is_dir() else "no schema file at"
            raise SchemaError(f"{what}{':' if path.is_dir() else ''} {path}", hint="recspect schema init DATA --out schema.toml writes a draft")
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise SchemaError(f"{path} has {size:,} bytes, a schema has at most {LARGEST_BYTES:,}", hint="is it the right file?")
        return path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}",
                          hint=f"save it as {form} in UTF-8; is it a schema file, and not the table?") from None
    except OSError as error:
        raise SchemaError(f"cannot read {str(path)[:300]}: {error.strerror}", hint="check the path and the right to read it") from None


def _parsed(text: str, form: str) -> Any:
    if form == "YAML":
        return _yaml(text)
    return json.loads(text, object_pairs_hook=_once) if form == "JSON" else tomllib.loads(text)


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """A table of settings, after refusing a name that stands in it twice (TOML's reader does so by itself)."""
    table: dict[Any, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"{name!r} is given twice")
        table[name] = value
    return table


def _yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Builds plain data only: no tag of a file names something to call."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
        loader.flatten_mapping(node)
        return _once([(loader.construct_object(key, deep=True), loader.construct_object(value, deep=True)) for key, value in node.value])

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return yaml.load(text, Loader=Loader)  # noqa: S506 - a subclass of SafeLoader


__all__ = ["LARGEST_BYTES", "read_content"]
