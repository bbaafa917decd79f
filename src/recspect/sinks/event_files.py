"""TensorBoard event files, read without TensorFlow, without TensorBoard and without protobuf.

A file is a sequence of records: length (8 bytes), checksum of the length, an `Event` message, checksum of it (TFRecord;
CRC-32C, masked). Of an event, scalars and histograms are read, in the old form (`simple_value`, `histo`) and in the new one (tensors
of the scalars and histograms plugins). A file that ends within a record (a training that was killed) gives all that came
before; a damaged record is passed over; both are counted.

Sources: TensorFlow's event.proto, summary.proto, tensor.proto, histogram.proto; the TFRecord and protobuf encoding documents.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray


class ScalarPoint(NamedTuple):
    """One point of a line."""

    tag: str
    step: int
    wall_time: float
    value: float


class HistogramPoint(NamedTuple):
    """One distribution, as sums over the values that it was made of. `exact` is False where they were taken from its bins."""

    tag: str
    step: int
    wall_time: float
    count: float
    total: float
    squares: float
    exact: bool


Point = ScalarPoint | HistogramPoint


@dataclass
class Condition:
    """What could not be read of a file.

    Args:
        damaged: Records whose checksum or content is wrong.
        cut_at: Byte after which nothing could be read; None where the file is whole.
        records: Records read.
    """

    damaged: int = 0
    cut_at: int | None = None
    records: int = 0


LONGEST_RECORD = 2**31
"""A length beyond it is damage."""

SUMMED_BYTES = 65_536
"""Records up to this size are checked whatever they hold."""


def points_of(path: Path, condition: Condition) -> Iterator[Point]:
    """Scalars and histograms of one event file, in the order of the file. `condition` is filled in."""
    with path.open("rb") as file:
        while True:
            start = file.tell()
            head = file.read(12)
            if not head:
                return
            length, length_sum = struct.unpack("<QI", head) if len(head) == 12 else (0, 0)
            if len(head) < 12 or length > LONGEST_RECORD or checksum(head[:8]) != length_sum:
                condition.cut_at = start
                return
            content = _exactly(file, length + 4)
            if content is None:
                condition.cut_at = start
                return
            event, event_sum = content[:-4], struct.unpack("<I", content[-4:])[0]
            condition.records += 1
            try:
                points = list(_points(event))
                # A large record without points is a picture; the sum of a megabyte takes 0.1 s here.
                sound = (not points and length > SUMMED_BYTES) or checksum(event) == event_sum
            except (ValueError, IndexError, struct.error):
                points, sound = [], False
            if not sound:
                condition.damaged += 1
                continue
            yield from points


def checksum(content: bytes) -> int:
    """CRC-32C, masked as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = (n >> 1) ^ 0x82F63B78 if n & 1 else n >> 1  # noqa: PLW2901 - the textbook's loop
        table.append(n)
    return table


_TABLE = _table()


def _exactly(file: BinaryIO, size: int) -> bytes | None:
    content = file.read(size)
    return content if len(content) == size else None


# ---------------------------------------------------------------------- messages


def _points(event: bytes) -> Iterator[Point]:
    """Event: 1 wall_time, 2 step, 5 summary. Summary: 1 value (repeated)."""
    step, wall_time, summary = 0, 0.0, b""
    for number, value in _fields(event):
        if number == 1 and isinstance(value, bytes):
            wall_time = struct.unpack("<d", value)[0]
        elif number == 2 and isinstance(value, int):
            step = value - 2**64 if value >= 2**63 else value
        elif number == 5 and isinstance(value, bytes):
            summary = value
    for number, value in _fields(summary):
        if number == 1 and isinstance(value, bytes) and (point := _point(value, step, wall_time)) is not None:
            yield point


def _point(content: bytes, step: int, wall_time: float) -> Point | None:
    """Summary.Value: 1 tag, 2 simple_value, 5 histo, 8 tensor, 9 metadata (1 plugin_data: 1 name)."""
    found = dict(_fields(content))
    tag = _text(found.get(1))
    if isinstance(found.get(2), bytes):
        return ScalarPoint(tag, step, wall_time, struct.unpack("<f", found[2])[0])  # type: ignore[arg-type]
    if isinstance(found.get(5), bytes):
        return _old_histogram(found[5], tag, step, wall_time)  # type: ignore[arg-type]
    if not isinstance(found.get(8), bytes):
        return None
    metadata = dict(_fields(found[9])) if isinstance(found.get(9), bytes) else {}  # type: ignore[arg-type]
    plugin = dict(_fields(metadata[1])) if isinstance(metadata.get(1), bytes) else {}  # type: ignore[arg-type]
    kind = _text(plugin.get(1))
    if kind not in ("scalars", "histograms", ""):
        return None  # a picture, a text, settings
    values, shape = _tensor(found[8])  # type: ignore[arg-type]
    if values is None:
        return None
    if kind != "histograms" and values.size == 1 and len(shape) <= 1:
        return ScalarPoint(tag, step, wall_time, float(values[0]))
    if kind == "histograms" and len(shape) == 2 and shape[1] == 3:
        left, right, count = values.reshape(shape).T
        middle = (left + right) / 2
        return HistogramPoint(tag, step, wall_time, float(count.sum()), float(count @ middle), float(count @ middle**2), exact=False)
    return None


def _old_histogram(content: bytes, tag: str, step: int, wall_time: float) -> HistogramPoint:
    """HistogramProto: 3 num, 4 sum, 5 sum_squares, all doubles: exact, whatever the bins."""
    found = dict(_fields(content))
    count, total, squares = (struct.unpack("<d", value)[0] if isinstance(value := found.get(k), bytes) else 0.0 for k in (3, 4, 5))
    return HistogramPoint(tag, step, wall_time, count, total, squares, exact=True)


KINDS = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}
"""Numbers of TensorProto.dtype that are read."""


def _tensor(content: bytes) -> tuple[NDArray[np.float64] | None, tuple[int, ...]]:
    """TensorProto: 1 dtype, 2 shape, 4 tensor_content, 5 float_val, 6 double_val, 7 int_val, 10 int64_val."""
    kind, shape, raw = 0, (), b""
    listed: list[float] = []
    for number, value in _fields(content):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 2 and isinstance(value, bytes):
            shape = tuple(_dimension(size) for n, size in _fields(value) if n == 2 and isinstance(size, bytes))
        elif number == 4 and isinstance(value, bytes):
            raw = value
        elif number in (5, 6) and isinstance(value, bytes):
            listed += np.frombuffer(value, "<f4" if number == 5 else "<f8").tolist()
        elif number in (7, 10):
            listed += list(_varints(value)) if isinstance(value, bytes) else [value]
    if kind not in KINDS:
        return None, shape
    values = np.frombuffer(raw, KINDS[kind]).astype(np.float64) if raw else np.asarray(listed, dtype=np.float64)
    size = math.prod(shape)
    if len(values) == 1 and size > 1:  # equal values may be given once
        values = np.repeat(values, size)
    return (values, shape) if len(values) == size else (None, shape)


def _dimension(content: bytes) -> int:
    return next((value for number, value in _fields(content) if number == 1 and isinstance(value, int)), 0)


def _text(value: bytes | int | None) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else ""


def _fields(content: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field of a protobuf message: an int for a varint, bytes for everything else."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(content, at)
        else:
            size = {1: 8, 5: 4}.get(kind, -1)
        if size < 0 or at + size > len(content):
            raise ValueError(f"no protobuf field of kind {kind} at byte {at}")
        yield number, content[at:at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a varint of more than ten bytes")


def _varints(content: bytes) -> Iterator[int]:
    at = 0
    while at < len(content):
        value, at = _varint(content, at)
        yield value - 2**64 if value >= 2**63 else value
