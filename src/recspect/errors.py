"""One tree of errors that teach: what was expected, what was found, what to do.

Everything that a user can cause raises a `RecspectError`; the command line prints it without a traceback and exits
with 2. `Unavailable` is different: it is how a diagnostic says that it cannot know, and becomes an UNKNOWN finding.
"""

from __future__ import annotations

from collections.abc import Iterable


class RecspectError(Exception):
    """A mistake of the user's or of the data's, told so that it can be mended.

    Args:
        message: What was expected and what was found.
        hint: What to do about it, one sentence; empty where nothing can be suggested.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}\nHint: {hint}" if hint else message)


class SchemaError(RecspectError):
    """A schema that contradicts itself, its file or the data."""


class DataError(RecspectError):
    """A table that is empty, truncated, of the wrong type or lacks a column."""


class DamagedError(DataError):
    """Bytes that are not what they should be: of one file, whatever the others hold."""


class MemoryBudgetError(RecspectError):
    """More memory is held than was allowed; said before the machine swaps."""


class SubjectError(RecspectError):
    """A model that cannot be examined as asked, or only with silently wrong results."""


class RunnerError(RecspectError):
    """Workers that cannot be reached, or that die again and again."""


class RunError(RecspectError):
    """A run directory that is missing, unfinished, damaged or of another version."""


class UsageError(RecspectError):
    """An option, setting or argument that makes no sense."""


class MissingExtraError(RecspectError):
    """A library that comes with an extra is not installed."""

    def __init__(self, library: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the library '{library}', which is not installed.",
            hint=f"pip install 'recspect[{extra}]'",
        )


class Unavailable(Exception):  # noqa: N818 - an answer ("cannot know"), not an error
    """A diagnostic cannot know: a role, a column or enough rows are missing. Becomes an UNKNOWN finding.

    Args:
        reason: One sentence in plain words, such as "no column has the role 'position'".
        hint: What would make it available.
    """

    def __init__(self, reason: str, *, hint: str = "") -> None:
        self.reason = reason
        self.hint = hint
        super().__init__(reason)


def listing(names: Iterable[str], *, limit: int = 12) -> str:
    """Names for an error message, quoted and cut at `limit`, so that a table of 500 columns stays readable."""
    shown = [repr(name) for name in names]
    if len(shown) > limit:
        return ", ".join(shown[:limit]) + f", ... ({len(shown) - limit} more)"
    return ", ".join(shown) if shown else "(none)"
