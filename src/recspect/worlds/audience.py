"""A simulated audience: whoever shows it lists sees what it clicks, and how good the lists truly are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recspect.errors import UsageError
from recspect.worlds.world import _intercept, sigmoid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SimulatedAudience:
    """Users with tastes, items with qualities, clicks by the position-based model.

    P(click on item i at place r by user u) = r^-impatience * sigmoid(b + signal * (sqrt(personal) * taste(u) . quality(i) / sqrt(width)
    + sqrt(1 - personal) * appeal(i))); an item is clicked only where it was looked at (Richardson et al., "Predicting clicks", WWW 2007).

    Args:
        users, items: How many there are.
        width: Latent dimensions of taste.
        signal: Standard deviation of the logit over pairs.
        personal: Share of the logit's variance that is a matter of taste; the rest is what all like.
        base_rate: Mean attraction of a random item.
        impatience: 0 looks at every place; 1 at the second half as often as at the first.
        seed: Of everything that is drawn here.
    """

    users: int = 400
    items: int = 200
    width: int = 3
    signal: float = 2.5
    personal: float = 0.7
    base_rate: float = 0.08
    impatience: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.users, self.items, self.width) < 1:
            raise UsageError(f"an audience of {self.users} users, {self.items} items and width {self.width}", hint="each must be 1 or more")
        if not (0 < self.base_rate < 1 and 0 <= self.personal <= 1 and self.impatience >= 0 and self.signal >= 0):
            raise UsageError(f"base_rate is {self.base_rate}, personal {self.personal}, impatience {self.impatience}, signal {self.signal}",
                             hint="expected above 0 and below 1; 0 to 1; 0 or more; 0 or more")

    @cached_property
    def attraction(self) -> Floats:
        """Chance that a user clicks an item that is looked at, shape (users, items)."""
        generator = np.random.default_rng([self.seed, 0])
        taste, quality = generator.normal(size=(self.users, self.width)), generator.normal(size=(self.items, self.width))
        own, common = taste @ quality.T / np.sqrt(self.width), generator.normal(size=self.items)
        logit = self.signal * (np.sqrt(self.personal) * own + np.sqrt(1 - self.personal) * common)
        return sigmoid(logit + _intercept(logit, self.base_rate))

    def looks(self, k: int) -> Floats:
        """Chance that each place is looked at, shape (k,)."""
        return np.arange(1, k + 1, dtype=np.float64) ** -self.impatience

    def visits(self, count: int, *, seed: int) -> Ints:
        """Users that come, with repetition, shape (count,)."""
        return np.random.default_rng([self.seed, 1, seed]).integers(self.users, size=count)

    def clicks(self, users: Ints, lists: Ints, *, seed: int) -> NDArray[np.bool_]:
        """What is clicked, shape (visits, k).

        Args:
            users: Shape (visits,).
            lists: Item codes, shape (visits, k); -1 is an empty place.
            seed: Another one gives other clicks.
        """
        chance = np.where(lists >= 0, self.attraction[users[:, None], np.maximum(lists, 0)], 0.0) * self.looks(lists.shape[1])
        return np.random.default_rng([self.seed, 2, seed]).random(lists.shape) < chance

    def rewards(self, users: Ints, lists: Ints) -> Floats:
        """Expected clicks of each list, without the noise of clicks, shape (visits,)."""
        chance = np.where(lists >= 0, self.attraction[users[:, None], np.maximum(lists, 0)], 0.0)
        return np.asarray((chance * self.looks(lists.shape[1])).sum(axis=1))

    def best(self, users: Ints, k: int) -> Ints:
        """The lists that nobody can do better than, shape (visits, k)."""
        order: Ints = np.argsort(-self.attraction, axis=1, kind="stable")[:, :k]
        return order[users]
