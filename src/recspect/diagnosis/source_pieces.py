"""Pieces of a table that can be read in any order, each without the others: what workers share among them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa

PIECE_ROWS = 2**22
"""Rows of a piece at most, where the table can be cut there. A piece's totals take up to some tens of MB, so that fewer rows would be more totals than rows."""


@dataclass(frozen=True)
class Piece:
    """Rows that lie together: row groups of a file, a file, a stretch of a table in memory.

    Args:
        name: What people call it: the file, and which row groups of it.
        fingerprint: 32 hexadecimal digits that stay the same while the content does.
        rows: How many it holds; None where only reading could tell.
        file: Which of the source's files, from 0.
        first, last: Its row groups, or rows, from `first` to before `last`; all of the file where both are 0.
    """

    name: str
    fingerprint: str
    rows: int | None
    file: int = 0
    first: int = 0
    last: int = 0


@runtime_checkable
class Divisible(Protocol):
    """A source that can be read piece by piece. It is sent to workers, so it must be picklable; what it reads must be there for them too."""

    @property
    def name(self) -> str:
        """What to call it."""

    def pieces(self, rows: int = PIECE_ROWS) -> tuple[Piece, ...]:
        """The pieces, in the order of the rows, each of at most about so many rows.

        Raises:
            DamagedError: A file's description of itself cannot be read.
        """

    def tables(self, piece: Piece, columns: Sequence[str], *, rows: int) -> Iterator[pa.Table]:
        """The rows of a piece, some at a time.

        Raises:
            DamagedError: They cannot be read.
        """


def whole(source: Divisible, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """All pieces, one after the other."""
    for piece in source.pieces():
        yield from source.tables(piece, columns, rows=rows)


def cut(counts: Sequence[int], rows: int) -> list[tuple[int, int, int]]:
    """Runs of row groups of at most so many rows together, or of one group that has more: first, before last, rows."""
    found: list[tuple[int, int, int]] = []
    for number, count in enumerate(counts):
        if found and found[-1][2] + count <= rows:
            found[-1] = (found[-1][0], number + 1, found[-1][2] + count)
        else:
            found.append((number, number + 1, count))
    return [one for one in found if one[2]]


def digest(*parts: object) -> str:
    """32 hexadecimal digits of plain values."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


__all__ = ["PIECE_ROWS", "Divisible", "Piece", "cut", "digest", "whole"]
