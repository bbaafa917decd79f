"""Pairs of a request and an item as rows of the ranking model, and the model as a subject that can be looked into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Categorical, Column, Ragged
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import Unavailable

if TYPE_CHECKING:
    from recspect.recommending.pipeline.audience import Requests
    from recspect.recommending.pipeline.recommender import Recommender

POOL = 2048
"""Pairs of users and items that were likely shown, whose mean is the baseline."""


def subject_of_ranker(recommender: Recommender) -> TorchSubject:
    """The ranking model of a recommender.

    Raises:
        Unavailable: No model ranks.
    """
    import torch

    from recspect.models.vectors import declared_sites

    ranker = recommender.ranker
    if ranker is None:
        raise Unavailable("no model ranks the candidates: they are ordered by their places in the sources", hint="recspect recommender build RUN --ranking model")

    def forward(module: torch.nn.Module, inputs: Any) -> torch.Tensor:
        out: torch.Tensor = module(inputs)
        return torch.sigmoid(out) if ranker.probabilities else out

    return TorchSubject(ranker.model, fields=tuple(ranker.transform.encoders), encode=lambda batch: ranker.transform.transform(batch).inputs, forward=forward,
                        sites=declared_sites(ranker.model), name=f"the ranking model of {recommender.version}")


def pair_rows(recommender: Recommender, requests: Requests, request: NDArray[np.int64], item: NDArray[np.int64]) -> Batch:
    """One row per pair with all that the model reads: shapes (pairs,)."""
    users = recommender.audience.field_rows(requests)
    names = tuple(recommender.ranker.transform.encoders)
    items = recommender.items.rows
    own = {name: items[name][item] for name in names if name in items and name not in users}
    return Batch({**{name: users[name][request] for name in names if name in users}, **own}, rows=len(request))


def pool_rows(recommender: Recommender, *, seed: int = 0) -> Batch:
    """Pairs of known users with items drawn as often as training showed them."""
    rng = np.random.default_rng(seed)
    known = recommender.audience.ids.values
    count = min(POOL, max(1, len(known)) * max(1, len(recommender.items)))
    users = rng.integers(0, max(1, len(known)), count)
    shown = np.maximum(recommender.items.exposures, 0).astype(np.float64)
    chance = shown / shown.sum() if shown.sum() else None
    requests = recommender.audience.requests([known[user] for user in users.tolist()])
    return pair_rows(recommender, requests, np.arange(count), rng.choice(len(recommender.items), count, p=chance))


def value_at(column: Column, row: int) -> Any:
    """What a row holds: a value, a list, or None."""
    if isinstance(column, Ragged):
        return entries_at(column, row)
    if isinstance(column, Categorical):
        code = int(column.codes[row])
        return None if code < 0 else plain_value(column.values[code])
    if column.ndim == 2:
        return f"{column.shape[1]} numbers"
    found = plain_value(column[row])
    return None if isinstance(found, float) and np.isnan(found) else found


def entries_at(column: Ragged, row: int) -> list[Any]:
    """The list of a row."""
    one = column[np.array([row])]
    values = one.values.decode() if isinstance(one.values, Categorical) else one.values
    return [plain_value(value) for value in values]


def plain_value(value: Any) -> Any:
    """Python's own number, text or None."""
    return value.item() if hasattr(value, "item") else value


def shown_values(values: Sequence[Any], codes: NDArray[np.int64]) -> list[Any]:
    """Ids of codes."""
    return [plain_value(values[code]) for code in codes.tolist()]
