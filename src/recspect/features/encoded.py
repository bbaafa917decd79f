"""Encoded rows: one tensor per input field, what a model reads.

Shapes: B rows, L entries of a padded list, W numbers per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

MISSING = 0
"""Id of "nothing there": a missing value, or the padding after the entries of a list."""
UNKNOWN = 1
"""Id of a value that training never saw, where no value was rare; else it has the id of the rare ones."""
RARE = 2
"""Id shared by the values that training saw fewer than `Field.minimum_count` times."""
FIRST_KNOWN = 3
"""Id of the most frequent value; the others follow by falling frequency."""


@dataclass(frozen=True, kw_only=True)
class InputSize:
    """What a model must know about a field to hold weights for it.

    Args:
        name: The field.
        form: `id` (one id per row), `ids` (a padded list of ids per row) or `numbers` (one or several numbers per row).
        rows: Ids lie in 0 ... rows - 1; 0 for numbers.
        width: Numbers per row, or entries of the padded list; 1 for an id.
        shares: The field whose table its ids are rows of; empty where it has one of its own.
    """

    name: str
    form: Literal["id", "ids", "numbers"]
    rows: int = 0
    width: int = 1
    shares: str = ""


@dataclass(frozen=True)
class Encoded:
    """Rows of a table as tensors, by field.

    Args:
        ids: int64, shape (B,) for categorical and bucketed fields, (B, L) for lists (padding 0 after the entries).
        numbers: float32, shape (B,) for a numeric field, (B, 2) where its training values had gaps (the value, 0 where
            missing; 1 where missing, else 0), (B, W) for a vector.
        rows: B.
        unknown_share: Per field, the share of present values that training never saw; 0 to 1.
        missing_share: Per field, the share of rows (of lists: empty ones) without a value; 0 to 1.
    """

    ids: Mapping[str, Tensor]
    numbers: Mapping[str, Tensor]
    rows: int
    unknown_share: Mapping[str, float] = field(default_factory=dict)
    missing_share: Mapping[str, float] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Field to tensor: what a model's `forward` takes."""
        return {**self.ids, **self.numbers}

    def slice(self, start: int, stop: int) -> Encoded:
        """Rows start to stop - 1, as views."""
        return self._each(lambda tensor: tensor[start:stop], max(0, min(stop, self.rows) - start))

    def take(self, index: Tensor) -> Encoded:
        """The rows at these positions (int64, shape (n,)), copied."""
        return self._each(lambda tensor: tensor.index_select(0, index), len(index))

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """The rows of several after each other, copied; shares of unknown and missing values are not carried over."""
        first = parts[0]
        return cls({name: torch.cat([part.ids[name] for part in parts]) for name in first.ids},
                   {name: torch.cat([part.numbers[name] for part in parts]) for name in first.numbers}, sum(part.rows for part in parts))

    def to(self, device: torch.device | str) -> Encoded:
        """The same rows on a device."""
        return self._each(lambda tensor: tensor.to(device), self.rows)

    def _each(self, change: Any, rows: int) -> Encoded:
        return Encoded({name: change(tensor) for name, tensor in self.ids.items()},
                       {name: change(tensor) for name, tensor in self.numbers.items()}, rows,
                       self.unknown_share, self.missing_share)
