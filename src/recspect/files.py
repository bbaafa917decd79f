"""Files that are whole or not there, and errors that say what stood in the way."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from recspect.errors import UsageError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside `path` and move it into place, so that neither a reader nor a kill meets half a file.

    Folders are made where they are missing. What is no regular file (a device such as `/dev/stdout`, a pipe) is written
    to as it is and never replaced; through a symbolic link, the file that it names is written.

    Raises:
        UsageError: The file cannot be written; nothing of it is left, and an older one is as it was.
    """
    temporary: Path | None = None
    try:
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as file:
                file.write(content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - same call as Path.replace, says that it is atomic
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise cannot_write(path, error) from None
        raise


def require_writable(path: Path, *, folder: bool = False) -> None:
    """Make sure, before the work is done, that its result can be put there; writes nothing.

    Args:
        path: A file, or a folder that files will be written into; need not exist.
        folder: Which of the two.

    Raises:
        UsageError: It is a folder where a file is meant, or the other way round, or the nearest folder that exists may
            not be written to.
    """
    try:
        if path.exists():
            if path.is_dir() != folder:
                kind = "a folder" if path.is_dir() else "a file"
                raise UsageError(f"cannot write {path}: it is {kind}, expected {'a folder' if folder else 'a file'}",
                                 hint="choose another name")
            nearest = path if folder or not path.is_file() else path.parent
        else:
            nearest = next(parent for parent in path.absolute().parents if parent.exists())
        if nearest.is_file():
            raise UsageError(f"cannot write {path}: {nearest} is a file, expected a folder", hint="choose another folder")
        if not os.access(nearest, os.W_OK):
            raise UsageError(f"cannot write {path}: no right to write in {nearest}", hint="choose another folder")
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path | str, error: OSError) -> UsageError:
    """The error for a file that the system would not let us write."""
    return UsageError(f"cannot write {str(path)[:300]}: {error.strerror or error}",
                      hint="choose a place that exists, may be written to and has room")


__all__ = ["cannot_write", "require_writable", "write_bytes"]
