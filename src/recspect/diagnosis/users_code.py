"""Errors in code of the user's (a model, a function that loads it) told as theirs: what was raised, in which line of which file."""

from __future__ import annotations

import linecache
import site
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from recspect.errors import RecspectError, SubjectError

_PACKAGE = str(Path(__file__).resolve().parents[1])
_THROUGH = tuple(f"{_PACKAGE}/{name}" for name in (
    "diagnosis/users_code.py", "diagnosis/subject.py", "diagnosis/lookups.py", "examining/subject_file.py"))
"""Files of ours that a call of the user's code passes through: a frame there says nothing about whose error it is."""


@contextmanager
def users_code(what: str, *, hint: str) -> Iterator[None]:
    """Whatever the code inside raises becomes a `SubjectError` with the last line of the user's that was running.

    Errors of recspect pass as they are, and so does an exception that code of recspect raised: that is no error of the
    user's.

    Args:
        what: What was running, such as "the model's forward".
        hint: What to do about it.
    """
    try:
        yield
    except RecspectError:
        raise
    except (Exception, SystemExit) as error:
        frame = _blamed(error.__traceback__)
        if frame is not None and frame.filename.startswith(_PACKAGE):
            raise
        raise SubjectError(f"{what} raised {_said(error)}{_place(error, frame)}", hint=hint) from error


def _blamed(trace: TracebackType | None) -> traceback.FrameSummary | None:
    """The innermost frame that is neither a library's nor one that only passes the call on; else the innermost of all."""
    frames = [frame for frame in traceback.extract_tb(trace) if frame.filename not in _THROUGH]
    own = [frame for frame in frames if not _is_library(frame.filename)]
    return own[-1] if own else frames[-1] if frames else None


def _is_library(filename: str) -> bool:
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    return not filename.startswith(_PACKAGE) and (filename.startswith(("<", *folders)))


def _said(error: BaseException) -> str:
    name = type(error).__name__
    text = " ".join(str(error).split())
    return f"{name}: {text[:500]}" if text else name


def _place(error: BaseException, frame: traceback.FrameSummary | None) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        code = (error.text or "").strip()
        return f"\n  {error.filename}, line {error.lineno}{f': {code}' if code else ''}"
    if frame is None:
        return ""
    code = frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"\n  {frame.filename}, line {frame.lineno}, in {frame.name}{f': {code}' if code else ''}"


__all__ = ["users_code"]
