"""Who gets which model: a share of users the second one, or lists of both; all others the first; or nobody the second, while it is only watched."""

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
        interleave: Whether these users get one list of both models (team draft) instead of the second one's.
        salt: Which users: another salt chooses others. Raising `percent` keeps those who had it.

    Raises:
        UsageError: A share that is none, or settings that exclude each other.
    """

    percent: float = 0.0
    shadow: bool = False
    interleave: bool = False
    salt: str = "recspect"

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise UsageError(f"a share of {self.percent}% of users, expected 0 to 100")
        if self.interleave and (self.shadow or not self.percent):
            raise UsageError("lists of both models are for a share of users, and show both" if self.shadow else "lists of both models are for a share of users, which is 0%",
                             hint="--interleave --percent 10, without --shadow")

    def second(self, user: str) -> bool:
        """Whether this user gets the second model, or lists of both: the same answer for the same user, salt and share, on every machine."""
        return point(f"{self.salt}/{user}") * 100 < self.percent


def point(text: str) -> float:
    """A number in [0, 1) that is evenly spread over texts."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest(), "big") / 2**56
