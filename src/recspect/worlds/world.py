"""A small world of users and items whose true click probabilities are known, so that a diagnostic can itself be judged.

logit(truth) = b + preference(user) . quality(item) + bias(user) + bias(item) + effect(surface); clicks are drawn from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Array, Batch, Categorical
from recspect.errors import UsageError
from recspect.schema import Field, Kind, Label, Schema

TRUTH = "truth"
"""Column of the true click probabilities."""

SURFACES = ("home", "search", "related")


@dataclass(frozen=True, kw_only=True)
class World:
    """Settings that make a log of exposures, the same for the same settings.

    Args:
        users, items, rows: How many there are. Items are exposed by Zipf's law, users evenly.
        width: Latent dimensions of taste.
        signal: Standard deviation of what users, items and taste add to the logit; 0 leaves nothing to learn.
        base_rate: Share of clicks aimed at, above 0 and below 1.
        popularity: Exponent of Zipf's law of exposure; 0 shows all items equally often.
        days: Length of the log; rows are in order of time.
        seed: Of everything drawn.
    """

    users: int = 500
    items: int = 200
    rows: int = 20_000
    width: int = 4
    signal: float = 1.0
    base_rate: float = 0.2
    popularity: float = 1.0
    days: float = 14.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.users, self.items, self.rows, self.width) < 1:
            raise UsageError(f"a world of {self.users} users, {self.items} items, {self.rows} rows and width {self.width}",
                             hint="each must be 1 or more")
        if not 0 < self.base_rate < 1:
            raise UsageError(f"base_rate is {self.base_rate}, expected above 0 and below 1")

    @property
    def schema(self) -> Schema:
        """What the columns of `exposures` mean."""
        return Schema(
            fields=(Field(name="user", side="user"), Field(name="item", side="item"), Field(name="surface"),
                    Field(name="age", kind=Kind.NUMERIC, side="user")),
            labels=(Label(name="click"),), user="user", item="item", time="time", time_unit="s", ignored=(TRUTH,), name="world")

    def exposures(self) -> Batch:
        """The log: columns user, item, surface, age, time (seconds), click (0 or 1) and truth."""
        rng = np.random.default_rng(self.seed)
        taste, quality, user_bias, item_bias = self._latent(rng)
        age = np.round(rng.uniform(15, 75, self.users))
        user = rng.integers(0, self.users, self.rows)
        shares = 1 / np.arange(1, self.items + 1) ** self.popularity
        item = rng.choice(self.items, self.rows, p=shares / shares.sum())
        surface = rng.integers(0, len(SURFACES), self.rows)
        affinity = (taste[user] * quality[item]).sum(1) / np.sqrt(self.width)
        logit = self.signal * (affinity + user_bias[user] + item_bias[item]) / np.sqrt(3) + 0.3 * (surface - 1)
        truth = sigmoid(logit + _intercept(logit, self.base_rate))
        return Batch({
            "user": user, "item": item, "surface": Categorical(surface, np.array(SURFACES, dtype=object)), "age": age[user],
            "time": np.sort(rng.uniform(0, self.days * 86_400, self.rows)), "click": (rng.random(self.rows) < truth).astype(np.int64),
            TRUTH: truth})

    @property
    def latent(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Taste of users, shape (users, width), quality of items, shape (items, width), bias of users and of items: the truth, before they are scaled to the signal."""
        return self._latent(np.random.default_rng(self.seed))

    def _latent(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        taste = rng.normal(size=(self.users, self.width))
        quality = rng.normal(size=(self.items, self.width))
        return taste, quality, rng.normal(size=self.users), rng.normal(size=self.items)


def split_by_time(batch: Batch, *, share: float = 0.7, time: str = "time") -> tuple[Batch, Batch]:
    """(training rows, held-out rows): the earlier share, and the rest."""
    order = np.argsort(batch.numbers(time), kind="stable")
    cut = round(share * batch.rows)
    return batch.take(order[:cut]), batch.take(order[cut:])


def sigmoid(logit: Array) -> NDArray[np.float64]:
    """1 / (1 + exp(-logit))."""
    return np.asarray(1 / (1 + np.exp(-np.asarray(logit, dtype=np.float64))))


def logit_of(p: Array) -> NDArray[np.float64]:
    """ln(p / (1 - p)); the inverse of `sigmoid`."""
    return np.asarray(np.log(p) - np.log1p(-np.asarray(p, dtype=np.float64)))


def _intercept(logit: NDArray[np.float64], base_rate: float) -> float:
    """What to add so that the mean probability is the base rate, by bisection."""
    low, high = -40.0 - logit.max(), 40.0 - logit.min()
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(logit + middle).mean() < base_rate else (low, middle)
    return float((low + high) / 2)
