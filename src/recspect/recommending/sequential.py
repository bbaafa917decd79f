"""The protocol of sequence models: everybody's last item is foretold from what came before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.estimate import Estimate
from recspect.errors import DataError
from recspect.recommending.histories import Histories
from recspect.recommending.protocols import MetricCard, means
from recspect.recommending.ranking import BLOCK_BYTES, recommend_in_blocks

SEQUENTIAL = MetricCard(
    metrics="at k: hit = recall = 1 if the last item is among the first k; MRR = 1 / its rank, 0 if not there; NDCG = 1 / log2(rank + 1), 0 if not there",
    positives="the last event of each user, whatever its value",
    split="leave one out by time: last event test, last but one validation, the rest train; equal times keep the order of the file",
    candidates="all items of the data set",
    seen="what the user had before is left out, unless `exclude_seen=False`: on MovieLens-100K this alone changes the hit rate 1.7 times; "
         "RecBole leaves it in for sequence models",
    ideal="the item at rank 1",
    discount="1 / log2(rank + 1), rank from 1",
    ties="the smaller item code",
    without_positives="users with fewer than three events are left out",
    averaging="mean over users; 95 % interval from the spread over users",
    source="leave-one-out with full ranking, as S3-Rec (Zhou et al., CIKM 2020), RecBole 1.2 (LS valid_and_test, mode full), generative-recommenders",
)
"""Next-item ranking with the last event of everybody left out."""

FitSequences = Callable[[Histories], Callable[[Histories], Callable[[NDArray[Any]], NDArray[np.float64]]]]
"""From histories without the test item to what gives, for any histories, a function from users (n,) to scores of all items (n, items)."""


def sequential(fit: FitSequences, histories: Histories, *, k: int = 10, exclude_seen: bool = True, block_bytes: int = BLOCK_BYTES) -> dict[str, Estimate]:
    """Figures of a recommender in the sequential protocol; the card `SEQUENTIAL` says what they mean.

    Args:
        fit: Is given the histories without everybody's last event, and gives what scores.
        histories: All events.
        k: Length of the lists.
        exclude_seen: Whether what the user had before is left out of the lists.
        block_bytes: Bound on one block of scores.

    Returns:
        hit, mrr, ndcg over users with three events or more.

    Raises:
        DataError: Nobody has three events.
    """
    before, answers = histories.without_last(), histories.last()
    users = np.flatnonzero(histories.lengths >= 3)
    if not len(users):
        raise DataError("nobody has three events, which leaving one out needs")
    scores = fit(before)(before)
    lists, _ = recommend_in_blocks(scores, users, k, seen=before.interactions, exclude_seen=exclude_seen, block_bytes=block_bytes)
    return means(next_item_metrics(lists, answers[users]), k=k)


def next_item_metrics(lists: NDArray[np.int64], answers: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """hit, mrr and ndcg of lists (users, k) with one right answer each (users,), per user."""
    hits = lists == answers[:, None]
    ranks = np.arange(1, lists.shape[1] + 1)
    return {"hit": hits.any(axis=1).astype(np.float64), "mrr": (hits / ranks).sum(axis=1), "ndcg": (hits / np.log2(ranks + 1)).sum(axis=1)}
