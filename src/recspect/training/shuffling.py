"""Training rows from row groups in a random order: a shuffle buffer of bounded bytes is filled from shuffled groups, shuffled, and drained.

An epoch's order depends on its seed alone, so that a resumed training reads what it would have read. A buffer that holds every row gives
them in the order of a training in memory, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.errors import UsageError
from recspect.features.encoded import Encoded, InputSize
from recspect.training.ranks import ALONE, Ranks
from recspect.training.rows import Step
from recspect.training.streaming import PIECE_ROWS


@dataclass(frozen=True)
class Piece:
    """Some training rows of a group, encoded.

    Args:
        encoded: Inputs.
        target: float32, (rows,) or (rows, labels).
        time: float64, (rows,), by which a training in memory would order them; None where that is the order of the table.
    """

    encoded: Encoded
    target: Tensor
    time: NDArray[np.float64] | None

    def slice(self, start: int, stop: int) -> Piece:
        """Rows start to stop - 1."""
        return Piece(self.encoded.slice(start, stop), self.target[start:stop], None if self.time is None else self.time[start:stop])


@dataclass
class StreamedPart:
    """The training rows of a table that is not in memory.

    Args:
        group_rows: Training rows of each row group, in the order of the table; only groups that have any.
        read: The training rows of the group at a place, in pieces of at most so many rows of the group.
        capacity: Rows that a reader's buffer holds.
        readers: Streams into which the groups are dealt.

    Attributes:
        groups_read, rows_read: Of all epochs so far.
        most_rows: Held in the buffers at once.
    """

    group_rows: Sequence[int]
    read: Callable[[int, int], Iterator[Piece]]
    capacity: int
    readers: int = 1
    groups_read: int = field(default=0, init=False)
    rows_read: int = field(default=0, init=False)
    most_rows: int = field(default=0, init=False)

    @property
    def rows(self) -> int:
        """Number of training rows."""
        return sum(self.group_rows)

    def steps(self, batch_rows: int, *, seed: int) -> int:
        """Steps of the epoch with that seed."""
        rows = [sum(self.group_rows[group] for group in groups) for groups in self.dealt(seed)]
        return max(-(-count // share) for count, share in zip(rows, self.shares(batch_rows), strict=True))

    def shares(self, batch_rows: int) -> list[int]:
        """Rows that each reader gives to a step.

        Raises:
            UsageError: Fewer rows than readers.
        """
        if batch_rows < self.readers:
            raise UsageError(f"{self.readers} readers cannot share a step of {batch_rows} rows", hint="more rows per step, or fewer readers")
        return [batch_rows // self.readers + (reader < batch_rows % self.readers) for reader in range(self.readers)]

    def dealt(self, seed: int) -> list[list[int]]:
        """The groups that each reader reads, in its order: shuffled, each to the reader with the fewest rows so far."""
        if self.readers == 1 and self.capacity >= self.rows:
            return [list(range(len(self.group_rows)))]  # all are shuffled together: read them as they lie
        hands: list[list[int]] = [[] for _ in range(self.readers)]
        held = [0] * self.readers
        for group in np.random.default_rng(seed).permutation(len(self.group_rows)).tolist():
            reader = held.index(min(held))
            hands[reader].append(group)
            held[reader] += self.group_rows[group]
        return hands

    def batches(self, batch_rows: int, *, seed: int, ranks: Ranks = ALONE) -> Iterator[Step]:
        """Every row once; of several processes each reads its own groups and gives its share of every step.

        Args:
            batch_rows: Rows per step, of all processes together.
            seed: Of the epoch. With one reader the order within a buffer is drawn from torch's generator, which was just seeded by it.
            ranks: The processes.

        Raises:
            UsageError: Processes and readers that do not go together.
        """
        if self.readers % ranks.world:
            raise UsageError(f"{self.readers} readers cannot be shared by {ranks.world} processes", hint="start as many processes as divide the readers")
        shares, dealt = self.shares(batch_rows), self.dealt(seed)
        left = [sum(self.group_rows[group] for group in groups) for groups in dealt]
        drawn = [None] if self.readers == 1 else [
            torch.Generator().manual_seed(int(np.random.SeedSequence([seed, reader]).generate_state(1)[0])) for reader in range(self.readers)]
        mine = {reader: _Reader(self, dealt[reader], drawn[reader], left[reader]) for reader in range(ranks.rank, self.readers, ranks.world)}
        while any(left):
            taken = [min(share, rows) for share, rows in zip(shares, left, strict=True)]
            parts = [part for reader, stream in mine.items() for part in stream.take(taken[reader])]
            self.most_rows = max(self.most_rows, sum(stream.filled for stream in mine.values()))
            left = [rows - count for rows, count in zip(left, taken, strict=True)]
            yield Step(*_joined(parts), sum(taken))


class _Reader:
    """One stream of rows: the groups that it was dealt, through a buffer."""

    def __init__(self, part: StreamedPart, groups: Sequence[int], generator: torch.Generator | None, rows: int) -> None:
        self._part, self._generator = part, generator
        self._pieces = self._read(groups)
        self._rest: Piece | None = None
        self._room = max(1, min(part.capacity, rows))
        self._buffer = Encoded({}, {}, 0)
        self._target = torch.empty(0)
        self._order = torch.empty(0, dtype=torch.int64)
        self._next = self.filled = 0

    def take(self, rows: int) -> list[tuple[Encoded, Tensor]]:
        """So many of the next rows, from one buffer or from two after each other; of none, an empty share."""
        parts = []
        while rows or not parts:
            if self._next >= self.filled and rows:
                self._fill()
            index = self._order[self._next:self._next + rows]
            parts.append((self._buffer.take(index), self._target.index_select(0, index)))
            self._next += len(index)
            rows -= len(index)
        return parts

    def _fill(self) -> None:
        self.filled = self._next = 0
        times: list[NDArray[np.float64]] = []
        while self.filled < self._room:
            piece = self._rest or next(self._pieces, None)
            self._rest = None
            if piece is None:
                break
            room = self._room - self.filled
            if piece.encoded.rows > room:
                piece, self._rest = piece.slice(0, room), piece.slice(room, piece.encoded.rows)
            self._put(piece)
            if piece.time is not None:
                times.append(piece.time)
        whole = self.filled >= self._part.rows  # then in the order in which a training in memory has them
        placed = torch.from_numpy(np.argsort(np.concatenate(times), kind="stable")) if whole and times else None
        drawn = torch.randperm(self.filled, generator=self._generator)
        self._order = drawn if placed is None else placed[drawn]

    def _put(self, piece: Piece) -> None:
        if not self._buffer.rows:
            ids, numbers = ({name: tensor.new_empty((self._room, *tensor.shape[1:])) for name, tensor in tensors.items()} for tensors in (piece.encoded.ids, piece.encoded.numbers))
            self._buffer = Encoded(ids, numbers, self._room)
            self._target = piece.target.new_empty((self._room, *piece.target.shape[1:]))
        stop = self.filled + piece.encoded.rows
        room = self._buffer.slice(self.filled, stop).inputs
        for name, tensor in piece.encoded.inputs.items():
            room[name][:] = tensor
        self._target[self.filled:stop] = piece.target
        self.filled = stop

    def _read(self, groups: Sequence[int]) -> Iterator[Piece]:
        for group in groups:
            self._part.groups_read += 1
            for piece in self._part.read(group, min(PIECE_ROWS, self._room)):
                self._part.rows_read += piece.encoded.rows
                yield piece


def bytes_per_row(sizes: Sequence[InputSize], labels: int, *, timed: bool) -> int:
    """Bytes of an encoded row in a buffer: inputs, targets, its place in the order, and its time where that is kept."""
    inputs = sum((4 if size.form == "numbers" else 8) * size.width for size in sizes)
    return inputs + 4 * labels + (16 if timed else 8)


def _joined(parts: Sequence[tuple[Encoded, Tensor]]) -> tuple[Encoded, Tensor]:
    if len(parts) == 1:
        return parts[0]
    return Encoded.joined([encoded for encoded, _ in parts]), torch.cat([target for _, target in parts])
