"""A probe looks inside the model and adds columns; what it adds is then added up like any other column."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from recspect.diagnosis.batch import Batch, Column


class Probe(ABC):
    """Adds columns to a batch. Leaves no hook, no gradient and no mode change behind, also after an exception.

    The names of added columns begin with '@', so that they never meet a column of the user's. `backing` names, for an added id column that repeats
    a column of the source (`@cluster` is the user), that column: rows are kept together by it. `light` says that it costs no more than reading the
    rows does, so that they may be read once more for it; one that runs a model is not. `reads` names the columns that it reads, where it knows.
    """

    backing: Mapping[str, str] = MappingProxyType({})
    light: ClassVar[bool] = False
    reads: tuple[str, ...] | None = None

    @abstractmethod
    def observe(self, batch: Batch) -> Mapping[str, Column]:
        """The new columns, each with as many rows as the batch."""

    @property
    @abstractmethod
    def adds(self) -> tuple[str, ...]:
        """Names of the columns it adds."""
