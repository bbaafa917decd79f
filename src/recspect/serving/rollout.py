"""Who gets which model: a share of users the second one, all others the first; or nobody, while the second one is only watched."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from recspect.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """How a second model is let in.

    Args:
        percent: Share of users that get its lists, 0 to 100.
        shadow: Whether it answers every request that the first one answers, unseen, so that both are logged.
        salt: Which users: another salt chooses others. Raising `percent` keeps those who had it.

    Raises:
        UsageError: A share that is none.
    """

    percent: float = 0.0
    shadow: bool = False
    salt: str = "recspect"

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise UsageError(f"a share of {self.percent}% of users, expected 0 to 100")

    def second(self, user: str) -> bool:
        """Whether this user gets the second model: the same answer for the same user, salt and share, on every machine."""
        return point(f"{self.salt}/{user}") * 100 < self.percent


def point(text: str) -> float:
    """A number in [0, 1) that is evenly spread over texts."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest(), "big") / 2**56
