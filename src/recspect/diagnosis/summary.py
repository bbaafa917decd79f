"""The value that adds. What every stat gives, and what makes a sum of many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable


def register(registry: dict[str, Any], cls: type) -> None:
    """Under its name, which a stored tally knows it by.

    Raises:
        TypeError: Another module has a class of this name already, so that stored tallies would be misread.
    """
    known = registry.get(cls.__name__)
    if known is not None and known.__module__ != cls.__module__:
        raise TypeError(f"{cls.__module__} defines {cls.__name__}, a name that {known.__module__} has registered; "
                        "stored tallies know classes by name, so choose another")
    registry[cls.__name__] = cls


class Summary(ABC):
    """The value that adds: a frozen dataclass of numbers, strings, arrays, bytes and other summaries.

    Subclasses are registered by name, so that a stored tally can be read back without pickle.
    """

    registry: ClassVar[dict[str, type[Summary]]] = {}

    def __init_subclass__(cls) -> None:
        register(Summary.registry, cls)

    @abstractmethod
    def __add__(self: S, other: S) -> S:
        """Both together."""


S = TypeVar("S", bound=Summary)


@runtime_checkable
class Summable(Protocol):
    """A summary of which many are added faster together than one by one; the sum is the same."""

    @classmethod
    def sum_of(cls, parts: Sequence[Self]) -> Self:
        """All of them; at least one is given."""


@runtime_checkable
class AddedTogether(Summable, Protocol):
    """A summary that is also left out of a sum of many faster than by adding the others."""

    @classmethod
    def sums_without_each(cls, parts: Sequence[Self]) -> list[Self]:
        """For every part, all of the others; at least two are given."""


class Joined(Summary, Sequence[Any]):
    """One summary per bucket, held together because they are so added, and put into one, faster than bucket by bucket."""

    @classmethod
    @abstractmethod
    def sum_of(cls, parts: Sequence[Self]) -> Self:
        """All of them, bucket by bucket; at least one is given."""

    @property
    @abstractmethod
    def total(self) -> Any:
        """All buckets together."""


def is_zero(summary: Any) -> bool:
    """Whether nothing was added up: its `count` is 0."""
    count = getattr(summary, "count", None)
    return count is not None and float(count) == 0.0


def add_up(parts: Sequence[Any]) -> Any:
    """All of them, at least one: together where the summary knows how, else balanced, so that rounding grows with the logarithm of the count."""
    if len(parts) > 1 and isinstance(parts[0], Summable):
        return parts[0].sum_of(parts)
    while len(parts) > 1:
        parts = [parts[i] + parts[i + 1] if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    return parts[0]
