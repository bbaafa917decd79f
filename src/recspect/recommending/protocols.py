"""Evaluation protocols of others, so that our figures can be laid beside theirs.

The same list scores 0.50, 0.63 or 0.11 for NDCG@10 depending on whose definition is used, so each protocol comes with
a card that says which definition it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recspect.diagnosis.batch import bucket
from recspect.diagnosis.estimate import Estimate
from recspect.errors import DataError, MissingExtraError, UsageError
from recspect.recommending.interactions import Interactions, codes
from recspect.recommending.ranking import BLOCK_BYTES, recommend_in_blocks

Array = NDArray[Any]

RATIOS = (0.8, 0.1, 0.1)
"""Train, validation, test."""


@dataclass(frozen=True, kw_only=True)
class MetricCard:
    """What a reported number means, in the respects in which libraries differ.

    Args:
        metrics: The numbers this card is about, with their formulas.
        positives: Which rows count as wanted.
        split: How rows come to be train, validation and test.
        candidates: What is ranked.
        seen: What is left out of the ranking.
        ideal: What an NDCG of 1 is.
        discount: Weight of rank r.
        ties: Who comes first among equal scores.
        without_positives: What becomes of users without a positive.
        averaging: How one number is made of many, and what its interval covers.
        source: Whose protocol it is.
    """

    metrics: str
    positives: str
    split: str
    candidates: str
    seen: str
    ideal: str
    discount: str
    ties: str
    without_positives: str
    averaging: str
    source: str

    def __str__(self) -> str:
        """One line per respect."""
        return "\n".join(f"{field.name.replace('_', ' ')}: {getattr(self, field.name)}" for field in fields(self))


GENERAL = MetricCard(
    metrics="at k = 10: recall = hits / positives of the user; precision = hits / k; hit = 1 if any hit; "
            "MRR = 1 / rank of the first hit, 0 if none; NDCG = DCG / ideal DCG",
    positives="every rating, whatever its value",
    split="random 8:1:1 within each user, validation and test rounded down (at least one each where the user has "
          "enough rows)",
    candidates="all items of the data set",
    seen="the user's train and validation items are left out",
    ideal="the first min(k, positives of the user) ranks are hits",
    discount="1 / log2(rank + 1), rank from 1",
    ties="the smaller item code, that is the item that comes first in the order of its id",
    without_positives="users without a test row are left out",
    averaging="mean over users; 95 % interval from the spread over users",
    source="RecBole 1.2 defaults for general recommenders: RS [0.8, 0.1, 0.1], group_by user, order RO, mode full",
)
"""Top-k ranking as RecBole evaluates general recommenders."""

CONTEXT = MetricCard(
    metrics="AUC = share of (positive, negative) pairs in the right order; log loss = mean of -log of the probability "
            "given to what happened, in nats, probabilities cut at 1e-15",
    positives="ratings of at least 4",
    split="random 8:1:1 over all rows, not within users, validation and test rounded down",
    candidates="the test rows",
    seen="nothing is left out",
    ideal="AUC 1 when every positive is scored above every negative",
    discount="none",
    ties="count one half",
    without_positives="no role: all rows are pooled, so differences between users count",
    averaging="one number over all test rows; 95 % interval by jackknife over 50 buckets of users",
    source="RecBole 1.2 context-aware benchmark: threshold rating 4, RS [0.8, 0.1, 0.1], group_by none, order RO, "
           "mode labeled",
)
"""Prediction of clicks as RecBole evaluates context-aware recommenders."""


# ----------------------------------------------------------------------- splits


@dataclass(frozen=True)
class Split:
    """Row positions, each ascending; together every row once."""

    train: Array
    validation: Array
    test: Array


def random_order(rows: int, *, seed: int) -> Array:
    """A random order of the rows, shape (rows,)."""
    return np.random.default_rng(seed).permutation(rows)


def recbole_order(rows: int, *, seed: int = 2020) -> Array:
    """The order into which RecBole shuffles so many rows with this seed, shape (rows,).

    On the same file in the same order, a split by it has RecBole's very train, validation and test rows, so figures can
    be compared without the noise of the split (on MovieLens-100K two splits differ by some 0.01 in recall).

    Raises:
        MissingExtraError: torch, whose generator makes this order, is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", extra="train", purpose="RecBole's own split") from None
    shuffled: Array = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).numpy()
    return shuffled


def split_rows(order: ArrayLike, *, ratios: Sequence[float] = RATIOS) -> Split:
    """A split of all rows together; validation and test are rounded down.

    Args:
        order: Shape (rows,), from `random_order` or `recbole_order`: the first part becomes train.
        ratios: Train, validation, test.

    Raises:
        UsageError: Ratios are not three numbers, none negative, with a positive sum; order is not one of all rows.
    """
    return _split(np.zeros(len(np.asarray(order)), dtype=np.int64), order, ratios)


def split_within_users(users: ArrayLike, order: ArrayLike, *, ratios: Sequence[float] = RATIOS) -> Split:
    """A split within each user; validation and test are rounded down, but one each if that leaves one to train.

    Args:
        users: Shape (rows,), user codes.
        order: Shape (rows,), from `random_order` or `recbole_order`: the first part of each user becomes train.
        ratios: Train, validation, test.

    Raises:
        UsageError: Ratios are not three numbers, none negative, with a positive sum; order is not one of all rows.
    """
    found = np.asarray(users)
    return _split(codes(found, int(found.max()) + 1 if found.size else 1, "users"), order, ratios)


def _split(groups: Array, given: ArrayLike, ratios: Sequence[float]) -> Split:
    shares = np.asarray(ratios, dtype=np.float64)
    if shares.shape != (3,) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise UsageError(f"ratios are {list(ratios)}, expected three numbers for train, validation and test",
                         hint="such as (0.8, 0.1, 0.1)")
    _, validation_share, test_share = shares / shares.sum()
    order = np.asarray(given)
    if order.shape != groups.shape or not np.array_equal(np.sort(order), np.arange(len(groups))):
        raise UsageError(f"order must hold each of the {len(groups)} row positions once",
                         hint="use random_order(rows, seed=...)")
    order = order.astype(np.int64)
    order = order[np.argsort(groups[order], kind="stable")]
    sizes = np.bincount(groups)
    sizes = sizes[sizes > 0]
    validation = _part(sizes, validation_share)
    train = sizes - _part(sizes, test_share) - validation
    # RecBole's rule: a part that was rounded down to nothing takes one row from train, the last part first.
    one_to_test = (train > 1) & (test_share * sizes > 0) & (test_share * sizes < 1)
    train = train - one_to_test
    one_to_validation = (train > 1) & (validation_share * sizes > 0) & (validation_share * sizes < 1)
    train, validation = train - one_to_validation, validation + one_to_validation
    rank = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    train_end, validation_end = np.repeat(train, sizes), np.repeat(train + validation, sizes)
    return Split(np.sort(order[rank < train_end]), np.sort(order[(rank >= train_end) & (rank < validation_end)]),
                 np.sort(order[rank >= validation_end]))


def _part(sizes: Array, share: float) -> Array:
    return np.floor(sizes * share + 1e-9).astype(np.int64)  # 0.1 * 30 must be 3, whatever its last bit


# ---------------------------------------------------------------------- ranking


def ranking_metrics(recommended: Array, users: Array, positives: Interactions) -> dict[str, NDArray[np.float64]]:
    """Metrics of each user's list, as the card `GENERAL` defines them.

    Args:
        recommended: Shape (users, k), item codes, best first; -1 is no item.
        users: Shape (users,), user codes.
        positives: Held-out positives.

    Returns:
        recall, precision, hit, mrr, ndcg, each of shape (users,); NaN for users without a positive.
    """
    rows, k = recommended.shape
    hits = positives.contains(np.repeat(users, k), recommended.reshape(-1)).reshape(rows, k)
    wanted = positives.lengths[users].astype(np.float64)
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(wanted, k).astype(np.int64)]
    found = hits.sum(axis=1)
    first = np.where(found > 0, 1 / (hits.argmax(axis=1) + 1), 0.0)
    with np.errstate(invalid="ignore"):
        values = {"recall": found / wanted, "precision": found / k, "hit": (found > 0).astype(np.float64), "mrr": first,
                  "ndcg": (hits @ discounts) / ideal}
    return {name: np.where(wanted > 0, value, np.nan) for name, value in values.items()}


Fit = Callable[[Array, Array], Callable[[Array], NDArray[np.float64]]]
"""From train users and items (codes) to a function from user codes (n,) to scores of all items (n, items)."""


def general(
    fit: Fit, users: ArrayLike, items: ArrayLike, *, order: ArrayLike, k: int = 10, block_bytes: int = BLOCK_BYTES,
) -> dict[str, Estimate]:
    """Figures of a recommender in the general protocol; the card `GENERAL` says what they mean.

    Args:
        fit: Fits on the train pairs and gives back what scores all items 0..max(items) for some users.
        users: Shape (rows,), user codes of all interactions.
        items: Shape (rows,), their item codes.
        order: Shape (rows,), from `random_order` or `recbole_order`.
        k: Length of the lists.
        block_bytes: Bound on one block of scores.

    Returns:
        recall, precision, hit, mrr, ndcg over the users with a test row.

    Raises:
        DataError: There is no user with a test row.

    Example:
        >>> from recspect.recommending.popular import Popular
        >>> rng = np.random.default_rng(0)
        >>> users, items = np.repeat(np.arange(40), 20), np.concatenate([rng.permutation(50)[:20] for _ in range(40)])
        >>> fit = lambda u, i: Popular().fit(u, i, n_users=40, n_items=50).scores
        >>> sorted(general(fit, users, items, order=random_order(800, seed=1)))
        ['hit', 'mrr', 'ndcg', 'precision', 'recall']
    """
    user_codes, item_codes = np.asarray(users), np.asarray(items)
    if not user_codes.size:
        raise DataError("no interactions to split")
    n_users, n_items = int(user_codes.max()) + 1, int(item_codes.max()) + 1
    split = split_within_users(user_codes, order)
    known = np.concatenate([split.train, split.validation])
    seen = Interactions.from_pairs(user_codes[known], item_codes[known], n_users=n_users, n_items=n_items)
    positives = Interactions.from_pairs(user_codes[split.test], item_codes[split.test], n_users=n_users, n_items=n_items)
    judged = np.flatnonzero(positives.lengths)
    scores = fit(user_codes[split.train], item_codes[split.train])
    recommended, _ = recommend_in_blocks(scores, judged, k, seen=seen, exclude_seen=True, block_bytes=block_bytes)
    return means(ranking_metrics(recommended, judged, positives), k=k)


def means(values: Mapping[str, NDArray[np.float64]], *, k: int) -> dict[str, Estimate]:
    """Mean over users with a 95 % interval from their spread; users with NaN are left out.

    Raises:
        DataError: No user has a value.
    """
    estimates = {}
    for name, value in values.items():
        known = value[~np.isnan(value)]
        if not len(known):
            raise DataError(f"{name}: no user has a held-out positive", hint="hold out more rows")
        mean = float(known.mean())
        error = 1.96 * float(known.std(ddof=1)) / len(known) ** 0.5 if len(known) > 1 else None
        estimates[name] = Estimate(value=mean, low=None if error is None else mean - error,
                                   high=None if error is None else mean + error,
                                   unit=f"{name}@{k}", n=len(known), of="users")
    return estimates


# ------------------------------------------------------------------- prediction


def context(labels: ArrayLike, probabilities: ArrayLike, users: ArrayLike) -> dict[str, Estimate]:
    """AUC and log loss of the test rows; the card `CONTEXT` says what they mean.

    Args:
        labels: Shape (rows,), 0 or 1.
        probabilities: Shape (rows,), of label 1.
        users: Shape (rows,), ids: rows of one user are not independent, so the interval leaves out users, not rows.

    Raises:
        DataError: Labels other than 0 and 1 or only one of them, probabilities outside 0 to 1, lengths that differ.
    """
    outcome, probability = _outcomes(labels, probabilities)
    part = bucket(np.asarray(users), 50)
    if len(part) != len(outcome):
        raise DataError(f"expected one user per label, found {len(part)} users and {len(outcome)} labels")
    figures = {}
    for name, unit, measure in (("auc", "AUC", area_under_curve), ("log_loss", "nats", log_loss)):
        value = measure(outcome, probability)
        left_out = []
        for one in np.unique(part):
            kept = part != one
            if len(np.unique(outcome[kept])) == 2:
                left_out.append(measure(outcome[kept], probability[kept]))
        error = None
        if len(left_out) > 1:
            spread = np.asarray(left_out)
            error = 1.96 * float(np.sqrt((len(spread) - 1) / len(spread) * ((spread - spread.mean())**2).sum()))
        figures[name] = Estimate(value=value, low=None if error is None else value - error,
                                 high=None if error is None else value + error, unit=unit, n=len(outcome))
    return figures


def area_under_curve(labels: ArrayLike, scores: ArrayLike) -> float:
    """AUC over all pairs, ties one half (Mann and Whitney).

    Raises:
        DataError: Labels other than 0 and 1, only one of them, or scores that are not finite.
    """
    outcome, score = _outcomes(labels, scores)
    positive = outcome == 1
    _, level = np.unique(score, return_inverse=True)
    level = level.reshape(-1)
    per_level = np.bincount(level)
    ranks = np.cumsum(per_level) - (per_level - 1) / 2
    count = int(positive.sum())
    if count in (0, len(outcome)):
        raise DataError("AUC needs positives and negatives, found only one of them")
    return float((ranks[level[positive]].sum() - count * (count + 1) / 2) / (count * (len(outcome) - count)))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of -log of the probability of what happened, in nats.

    Raises:
        DataError: Labels other than 0 and 1, or probabilities outside 0 to 1.
    """
    outcome, probability = _outcomes(labels, probabilities)
    if len(probability) == 0 or probability.min() < 0 or probability.max() > 1:
        raise DataError("log loss needs probabilities from 0 to 1", hint="turn logits into probabilities first")
    happened = np.where(outcome == 1, probability, 1 - probability)
    return float(-np.log(np.clip(happened, 1e-15, 1)).mean())


def _outcomes(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, NDArray[np.float64]]:
    outcome, score = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if outcome.ndim != 1 or outcome.shape != score.shape:
        raise DataError(f"expected one score per label, found shapes {outcome.shape} and {score.shape}")
    if not np.isin(outcome, (0, 1)).all():
        raise DataError("labels must be 0 or 1")
    if not np.isfinite(score).all():
        raise DataError(f"{int((~np.isfinite(score)).sum()):,} of {len(score):,} scores are not finite")
    return outcome, score
