"""Explanations of what a recommender recommends: of one pair in full, of thousands of pairs as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution import Attribution, Baseline, mean_baseline
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import Unavailable, UsageError, listing
from recspect.explaining.counterfactual import counterfactual
from recspect.explaining.evidence import TrainingEvidence
from recspect.explaining.explanation import Counterfactual, Explanation, Reasons
from recspect.explaining.pairs import pair_rows, plain_value, pool_rows, subject_of_ranker
from recspect.explaining.reasons import attributed, attributed_alike, contrast_of, reasons_of, whole_of
from recspect.recommending.pipeline.settings import DRAWS
from recspect.schema import Kind

if TYPE_CHECKING:
    from recspect.recommending.pipeline.audience import Requests
    from recspect.recommending.pipeline.recommender import Lists, Recommender

AGAINST = ("alike", "mean")
LEAST_LIST = 2
"""Items below which a list is no more than its item."""
PAIRS_AT_ONCE = 16_384
"""Pairs that are explained together; bounds the memory of `contributions`."""


class RecommendationExplainer:
    """Explains the lists of a recommender.

    Steps that draw (epsilon-greedy and the like) are left out: what is drawn has no reason.

    Args:
        recommender: Built by `build_recommender`, or read by `Recommender.load`.
        tolerance: Error of the contributions to a score, summed over fields, as a share of their summed sizes.
        baseline_rows: Rows whose mean is the baseline; default pairs of known users with items as often as training showed them.
        item_names: Column of the catalogue with names for people, such as a title, or item to its name; default none.
        against: What a pair is compared with: `alike`, the mean of other values of like frequency, so that popularity is no reason, or `mean`, the mean pair. Contrasts of two items, and what a whole list rests on, are from the mean pair always.
        seed: Of the baseline's pairs and of lists.

    Raises:
        UsageError: No such column, or nothing of that name to compare with.
    """

    def __init__(self, recommender: Recommender, *, tolerance: float = 0.01, baseline_rows: Batch | None = None, item_names: str | Mapping[Any, str] | None = None, against: str = "alike",
                 seed: int = 0) -> None:
        steps = tuple(step for step in recommender.settings.steps if not isinstance(step, DRAWS))
        self.recommender = recommender.with_steps(*steps)
        self.tolerance, self.seed = tolerance, seed
        if against not in AGAINST:
            raise UsageError(f"there is nothing called {against!r} to compare with", hint=f"choices: {listing(AGAINST)}")
        self.against, self._baseline_rows = against, baseline_rows
        if isinstance(item_names, str) and item_names not in recommender.items.rows:
            raise UsageError(f"items have no column {item_names!r}", hint=f"columns: {listing(recommender.items.rows)}")
        called = recommender.items.rows.categories(item_names).decode() if isinstance(item_names, str) else []
        self._names = dict(item_names) if isinstance(item_names, Mapping) else {
            plain_value(item): str(name) for item, name in zip(recommender.items.ids.values, called, strict=False) if name is not None}

    @cached_property
    def subject(self) -> TorchSubject:
        """The ranking model.

        Raises:
            Unavailable: No model ranks.
        """
        return subject_of_ranker(self.recommender)

    @cached_property
    def pool(self) -> Batch:
        """Pairs that others are compared with."""
        rows = pool_rows(self.recommender, seed=self.seed) if self._baseline_rows is None else self._baseline_rows
        self.subject.sites(rows)
        return rows

    @cached_property
    def baseline(self) -> Baseline:
        """Where contributions begin: the mean pair."""
        return mean_baseline(self.subject, self.pool)

    def _attributed(self, rows: Batch) -> Attribution:
        if self.against == "alike":
            return attributed_alike(self.subject, rows, self.pool, tolerance=self.tolerance)
        return attributed(self.subject, rows, self.baseline, tolerance=self.tolerance)

    @cached_property
    def evidence(self) -> TrainingEvidence:
        """Who wanted what in training."""
        return TrainingEvidence(self.recommender)

    # ------------------------------------------------------------------ one pair

    def explain(self, user: Any, item: Any = None, *, over: Any = None, k: int = 10, context: Mapping[str, Any] | None = None, below: float | None = None,
                with_counterfactual: bool = True, recent: Sequence[tuple[Any, int]] = (), time: int | None = None) -> Explanation:
        """Why an item is where it is on the list of a user.

        Args:
            user: Id; one that is not known gets what is not personal.
            item: Id; default the first of the list.
            over: Another item, to say why the first is above it.
            k: Length of the list.
            context: Fields of the request.
            below: Ask what would take the ranking score below this, instead of what would change the list.
            with_counterfactual: Whether to search for it, which runs the recommender some hundred times.
            recent: (item id, time) of what the user had since the recommender was built.
            time: When the list is made; by default the last time that is known.

        Raises:
            UsageError: An item that nobody knows, or no list to explain.
        """
        known = self.recommender
        since = [(int(known.items.ids.codes([had])[0]), when) for had, when in recent]
        requests = known.audience.requests([user], context=context, recent={0: since}, time=time)
        lists = known.answer(requests, k, seed=self.seed, trace=True)
        if item is None and not len(lists.slates[0]):
            raise UsageError(f"the list of user {str(user)[:100]!r} is empty", hint="give --item, or look at the trace: recspect recommend RECOMMENDER --user ID --trace")
        code = int(lists.slates[0].items[0]) if item is None else self._code(item)
        other = None if over is None else self._code(over)
        if other == code:
            raise UsageError("an item is not above itself", hint="give another one to compare with")
        shown = lists.ids(0)
        ids = known.items.ids.values
        item_id, over_id = plain_value(ids[code]), None if other is None else plain_value(ids[other])
        way = next((row for row in lists.trace_rows()[0]["candidates"] if row["item"] == item_id), None)
        reasons, contrast = self._reasons(requests, code, other)
        whole = None if reasons is None else self._whole(requests, lists)
        return Explanation(user=user, item=item_id, over=over_id, rank=shown.index(item_id) + 1 if item_id in shown else None, listed=len(shown), way=way, reasons=reasons, contrast=contrast, whole=whole,
                           counterfactual=self._counterfactual(requests, lists, code, other, k=k, below=below) if with_counterfactual else None,
                           evidence=self.evidence.of(int(requests.users[0]), code), names=self._names, recommender=known.version, notes=lists.notes[0])

    def _code(self, item: Any) -> int:
        code = int(self.recommender.items.ids.codes([item])[0])
        if code < 0:
            some = ", ".join(repr(value)[:60] for value in self.recommender.items.ids.values[:3].tolist())
            raise UsageError(f"no item {str(item)[:200]!r} among the {len(self.recommender.items):,} that the recommender knows, such as {some}")
        return code

    def _reasons(self, requests: Requests, item: int, other: int | None) -> tuple[Reasons | None, Reasons | None]:
        try:
            subject = self.subject
        except Unavailable:  # the explanation says that no model ranks
            return None, None
        items = np.array([item] if other is None else [item, other], dtype=np.int64)
        rows = pair_rows(self.recommender, requests, np.zeros(len(items), dtype=np.int64), items)
        is_logit, found = self.is_logit, self._attributed(rows)
        reasons = reasons_of(found, 0, rows, is_logit=is_logit, last_entries=self._sequences, against=self.against)
        if other is None:
            return reasons, None
        from_mean = found if self.against == "mean" else attributed(subject, rows, self.baseline, tolerance=self.tolerance)
        return reasons, contrast_of(from_mean, 0, 1, rows, is_logit=is_logit)

    def _whole(self, requests: Requests, lists: Lists) -> Reasons | None:
        items = lists.slates[0].items
        if len(items) < LEAST_LIST:
            return None
        rows = pair_rows(self.recommender, requests, np.zeros(len(items), dtype=np.int64), items)
        return whole_of(attributed(self.subject, rows, self.baseline, tolerance=self.tolerance), rows, is_logit=self.is_logit, against="mean")

    @property
    def is_logit(self) -> bool:
        """Whether contributions are logarithms of odds."""
        return bool(self.recommender.ranker is not None and self.recommender.ranker.probabilities)

    @property
    def _sequences(self) -> frozenset[str]:
        return frozenset(field.name for field in self.recommender.audience.schema.fields if field.kind is Kind.SEQUENCE)

    def _counterfactual(self, requests: Requests, lists: Lists, item: int, other: int | None, *, k: int, below: float | None) -> Counterfactual | None:
        shown = lists.slates[0].items.tolist()
        if below is not None:
            goal = "below"
        elif other is not None:
            if item not in shown or (other in shown and shown.index(other) < shown.index(item)):
                return None  # it is not above the other one, so there is nothing to change
            goal = "over"
        elif item in shown:
            goal = "first" if shown[0] == item else "list"
        else:
            return None
        return counterfactual(self.recommender, requests, item, goal=goal, k=k, over=other, below=below, seed=self.seed)

    # ------------------------------------------------------------------ thousands of pairs

    def contributions(self, users: Sequence[Any], items: Sequence[Sequence[Any]] | None = None, *, k: int = 10, context: Mapping[str, Any] | None = None,
                      progress: Callable[[int], None] = lambda _: None) -> Batch:
        """What carried the scores of many pairs, one row per pair.

        Args:
            users: Ids.
            items: For each user the ids of items; default those of the user's list.
            k: Length of the lists.
            context: Fields of the requests.
            progress: Told how many pairs are done.

        Returns:
            Columns `user`, `item`, `score` (logit or value), `baseline`, `bound` (error of all contributions together) and `contribution:<field>` for every field.

        Raises:
            Unavailable: No model ranks.
            UsageError: Another number of lists of items than users, or an unknown item.
        """
        known = self.recommender
        subject_of_ranker(known)
        requests = known.audience.requests(users, context=context)
        if items is None:
            chosen = [slate.items for slate in known.answer(requests, k, seed=self.seed).slates]
        else:
            if len(items) != len(users):
                raise UsageError(f"{len(items):,} lists of items for {len(users):,} users", hint="give one list per user")
            chosen = [np.array([self._code(item) for item in own], dtype=np.int64) for own in items]
        request = np.repeat(np.arange(len(users)), [len(own) for own in chosen])
        item = np.concatenate([np.zeros(0, dtype=np.int64), *chosen])
        parts = []
        for start in range(0, len(item), PAIRS_AT_ONCE):
            some = slice(start, start + PAIRS_AT_ONCE)
            parts.append(self._table(requests, request[some], item[some]))
            progress(min(len(item), start + PAIRS_AT_ONCE))
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
        from recspect.recommending.pipeline.recommender import user_column

        return Batch({"user": user_column(users, [len(own) for own in chosen]), "item": known.items.ids.column(item), **columns}, rows=len(item))

    def _table(self, requests: Requests, request: NDArray[np.int64], item: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        found = self._attributed(pair_rows(self.recommender, requests, request, item))

        def column(values: Any) -> NDArray[np.float64]:
            out: NDArray[np.float64] = values.detach().double().cpu().numpy()
            return out

        return {"score": column(found.score), "baseline": column(found.baseline), "bound": column(found.bound), **{f"contribution:{name}": column(of) for name, of in found.reliance.items()}}

    def explain_many(self, pairs: Sequence[tuple[Any, Any]], *, k: int = 10, with_counterfactual: bool = False, progress: Callable[[int], None] = lambda _: None) -> list[Explanation]:
        """`explain` for many pairs of user and item (None: the first of the list), by default without counterfactuals."""
        found = []
        for done, (user, item) in enumerate(pairs, 1):
            found.append(self.explain(user, item, k=k, with_counterfactual=with_counterfactual))
            progress(done)
        return found
