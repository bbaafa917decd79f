"""A model named on the command line: `file.py:function`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from recspect.diagnosis.subject import Subject, TorchSubject
from recspect.diagnosis.users_code import users_code
from recspect.errors import UsageError, listing
from recspect.schema import Schema


def load_subject(spec: str, schema: Schema | None = None) -> Subject:
    """Run the file, call the function, and wrap what it returns.

    Args:
        spec: `file.py:function`; the function takes no argument and returns a torch module or a `Subject`.
        schema: Names the inputs of a module.

    Raises:
        UsageError: No such file or function.
        SubjectError: The file or the function raises (told with its file and line), or returns something else.
    """
    path, _, function = spec.rpartition(":")
    if not path or not function:
        raise UsageError(f"--subject is {spec[:200]!r}, expected file.py:function", hint="--subject model.py:load")
    if not _is_file(path):
        raise UsageError(f"--subject {spec[:200]!r}: no file at {path[:200]}", hint="expected file.py:function of an existing file")
    if Path(path).suffix != ".py":
        raise UsageError(f"--subject {spec!r}: {path} is no Python file", hint="expected file.py:function, such as --subject model.py:load")
    module = _run(path)
    made_by = getattr(module, function, None)
    if not callable(made_by):
        names = [name for name in vars(module) if callable(getattr(module, name)) and not name.startswith("_")]
        raise UsageError(f"{path} has no function {function!r}; it has {listing(names)}",
                         hint="expected a function without arguments that returns a torch module or a Subject")
    with users_code(f"{function}() of {path}", hint="correct it, then try `recspect doctor` with the same --subject"):
        built: Any = made_by()
    if isinstance(built, Subject):
        return built
    return TorchSubject(built, fields=schema.field_names if schema else ())


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _run(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("recspect_subject", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).resolve().parent))
    with users_code(f"running {path}", hint="correct the file; `python FILE` shows the same error in full"):
        spec.loader.exec_module(module)
    return module


__all__ = ["load_subject"]
