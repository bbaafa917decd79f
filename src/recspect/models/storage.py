"""How a model's weights are kept: plain settings that stand in `run.json`. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from recspect.errors import RunError, UsageError

Form = Literal["float32", "bf16", "int8"]
FORMS = ("float32", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How weights lie on disk and in memory; they are read as float32.

    Args:
        tables: Of embedding tables: `float32`, `bf16`, or `int8` with a scale per row. A table narrower than 4 numbers, whose scales would
            take what `int8` saves, is kept as `bf16` instead.
        dense: Of the matrices of layers: the same, with a scale per neuron.
        rank: Numbers per row of a table, below its width; a matrix per field makes the full vector of them. None for the full width.
    """

    tables: Form = "float32"
    dense: Form = "float32"
    rank: int | None = None

    def __post_init__(self) -> None:
        for name in ("tables", "dense"):
            if getattr(self, name) not in FORMS:
                raise UsageError(f"storage: {name} is {getattr(self, name)!r}, choices: {FORMS}")
        if self.rank is not None and (not isinstance(self.rank, int) or self.rank < 1):
            raise UsageError(f"storage: rank is {self.rank!r}, expected 1 or more, or None")

    @property
    def plain(self) -> bool:
        """Whether all is as training left it."""
        return self == PLAIN

    def to_mapping(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, content: Any, *, where: str) -> Storage:
        """The inverse of `to_mapping`; None, of a run that was not compressed, is plain.

        Raises:
            RunError: It is no storage.
        """
        if content is None:
            return cls()
        if not isinstance(content, Mapping) or not set(content) <= {"tables", "dense", "rank"}:
            raise RunError(f"{where} is damaged: storage is {content!r:.200}", hint="compress anew, or restore the file")
        try:
            return cls(**content)
        except UsageError as error:
            raise RunError(f"{where} is damaged: {error.message}", hint="compress anew, or restore the file") from None


PLAIN = Storage()
"""As training leaves weights."""
