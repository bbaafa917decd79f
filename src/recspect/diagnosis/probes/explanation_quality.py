"""Measures of how good explanations are, row by row, for several explainers at once: columns for the diagnostics `explanations.*`.

Shapes: B rows, F fields, K depths, C sets of fields, L entries of a list.

A measure that a random or a constant explanation passes says nothing, so that these, and one that is measured by scores alone, go through every measure beside ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.explanation_columns import (
    ALIKE,
    CONSTANT,
    EXPLAINERS,
    GRADIENT,
    MEASURED,
    MOVED_SHARE,
    OURS,
    RANDOM,
    TOP,
    name_of,
)
from recspect.diagnosis.lookups import undisturbed
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.probes.attribution import (
    Attribution,
    Baseline,
    expected_gradients,
    integrated_gradients,
    mean_baseline,
    zero_baseline,
)
from recspect.diagnosis.probes.attribution.quadrature import path_rule
from recspect.diagnosis.probes.explainers import (
    alike_explainer,
    cosine,
    effective_fields,
    fields_needed,
    gradient_explainer,
    path_explainer,
    random_contributions,
)
from recspect.diagnosis.probes.faithfulness import Explain, matrix, measured_alone, moved_fields, randomised
from recspect.diagnosis.probes.field_points import FieldPoints
from recspect.diagnosis.probes.list_entries import entry_falls
from recspect.diagnosis.probes.swaps import Swaps
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError

Floats = NDArray[np.float64]

DEPTHS = 6
"""About so many more depths at which the curves of deletion and insertion are taken."""
CLAIMS = 3
"""Fields of a row whose direction is put to the test."""
MOVES = 2
"""How often rows are moved a little, to see how much their explanation moves."""
DRAWN_BASELINES, DRAWN_WEIGHTS = 4, 2
"""Other rows that each row is compared with, and how often weights are drawn anew."""
LARGEST_COPY = 50_000_000
"""Weights of a model that is not copied to draw its weights anew."""


class ExplanationQualityProbe(Probe):
    """Adds `@explanation:<measure>:<explainer>`; a measure that cannot be had of a model is NaN in all rows. Give all rows in one batch: the constant explanation is fitted to it.

    Measures, per explainer: `gap` (contributions less what they should add up to, logits), `infidelity` (squared logits), `deletion`, `insertion` (area, logits), `comprehensiveness@k`,
    `sufficiency@k` (logits), `claims` (share of the first three fields whose exchange moves the score the way that they say), `moved` and `length` (how far the explanation moves with the row,
    and its length, logits), `randomised` and `baselines` (cosine with the explanation of a model with random weights, and with that from other rows as baselines), `entries` (mean fall while entries of lists are dropped, logits), `measured` (cosine with
    what is measured), `needed`, `effective` (fields). Without explainer: `explained` (size of score - baseline), `score` (logits), `left_alone`, `left_pairs` (the score less what
    fields say one by one, and by two).

    Args:
        subject: The model.
        pool: Rows whose mean is the baseline, and from which values are exchanged: training rows.
        explain: The explanation to be judged; default integrated gradients from the mean of the pool.
        explain_entries: The explanation whose entries of lists are judged; default the same integrated gradients.
        others: More explainers by name, such as the true one of a world.
        steps: Points of the path of the default explanation.
        draws: Sets of fields for infidelity.
        donors: Values drawn in the place of each that is exchanged.
        seed: Of all draws.
    """

    def __init__(self, subject: TorchSubject, *, pool: Batch, explain: Explain | None = None, explain_entries: Callable[[Batch], Attribution] | None = None, others: Mapping[str, Explain] | None = None, steps: int = 8, draws: int = 32,
                 donors: int = 1, seed: int = 0) -> None:
        self.subject, self.pool, self.steps, self.draws, self.donors, self.seed = subject, pool, steps, draws, donors, seed
        self.explain: Explain = explain or path_explainer(pool, steps=steps)
        self.explain_entries = explain_entries
        self.others = dict(others or {})
        self.names = (*EXPLAINERS, *self.others)

    @property
    def adds(self) -> tuple[str, ...]:
        depth = [f"{kind}@{k}" for kind in ("comprehensiveness", "sufficiency") for k in TOP]
        every = ("gap", "infidelity", "deletion", "insertion", *depth, "claims", "measured", "needed", "effective")
        some = [("moved", OURS), ("moved", RANDOM), ("length", OURS), ("length", RANDOM), ("randomised", OURS), ("randomised", CONSTANT), ("baselines", OURS), ("baselines", RANDOM),
                *(("entries", name) for name in (OURS, MEASURED, RANDOM, CONSTANT))]
        alone = ("explained", "score", "left_alone", "left_pairs")
        return (*(name_of(measure, name) for measure in every for name in self.names), *(name_of(measure, name) for measure, name in some), *map(name_of, alone))

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        columns: dict[str, Floats] = {name: np.full(batch.rows, np.nan) for name in self.adds}
        baseline = mean_baseline(self.subject, self.pool)
        explained, found = self._explained(batch, baseline)
        columns |= found
        ours, score = explained[OURS], columns[name_of("score")]
        parts: Sequence[Callable[[], dict[str, Floats]]] = (
            lambda: self._swapped(batch, explained, score), lambda: self._moved(batch, ours, baseline), lambda: self._redrawn(batch, ours, explained[CONSTANT]),
            lambda: self._elsewhere(batch, ours, explained[RANDOM]), lambda: self._entries(batch, baseline))
        for part in parts:
            try:
                columns |= part()
            except SubjectError:  # the model does not allow this measure: its columns stay NaN, and the finding says that it was not measured
                continue
        return columns

    def require_explained(self, rows: Batch) -> None:
        """See on a few rows whether the model can be explained, without the measures that it may do without.

        Raises:
            SubjectError: It cannot.
        """
        self._explained(rows, mean_baseline(self.subject, self.pool))

    # ------------------------------------------------------------------ what every model must allow

    def _explained(self, batch: Batch, baseline: Baseline) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """Contributions by explainer, and the columns that need no more than these."""
        moved = moved_fields(self.subject, batch, baseline=baseline, draws=self.draws, seed=self.seed)
        cost, gain = measured_alone(self.subject, batch, baseline=baseline)
        score, begin = self._ends(batch, baseline)
        ours = self.explain(self.subject, batch)
        explained = {OURS: ours, ALIKE: alike_explainer(self.pool, steps=self.steps)(self.subject, batch), MEASURED: (cost + gain) / 2, GRADIENT: gradient_explainer()(self.subject, batch), RANDOM: random_contributions(ours, self.seed + 1),
                     CONSTANT: np.broadcast_to(moved.best_constant(), ours.shape), **{name: explain(self.subject, batch) for name, explain in self.others.items()}}
        columns = {name_of("explained"): np.abs(score - begin), name_of("score"): score, name_of("left_alone"): score - begin - gain.sum(1),
                    name_of("left_pairs"): score - begin - explained[MEASURED].sum(1)}
        for name, found in explained.items():
            if np.isnan(found).any():
                continue
            columns[name_of("gap", name)] = np.abs(found.sum(1) - (score - begin))
            columns[name_of("infidelity", name)] = moved.infidelity(found)
            columns[name_of("needed", name)], columns[name_of("effective", name)] = fields_needed(found), effective_fields(found)
            columns[name_of("measured", name)] = cosine(found, explained[MEASURED])
        return explained, columns

    def _ends(self, batch: Batch, baseline: Baseline) -> tuple[Floats, Floats]:
        found = integrated_gradients(self.subject, batch, baseline=baseline, steps=1)
        return found.score.double().cpu().numpy(), found.baseline.double().cpu().numpy()

    # ------------------------------------------------------------------ one measure each

    def _swapped(self, batch: Batch, explained: Mapping[str, Floats], score: Floats) -> dict[str, Floats]:
        """Deletion, insertion and claims: fields exchanged for values of like frequency."""
        fields = self.subject.sites(batch).fields
        if len(fields) < 2:
            raise SubjectError("a model of one field has no order of fields")
        swaps = Swaps(self.subject, batch, self.pool, fields, donors=self.donors, seed=self.seed)
        single = np.stack([score - swaps.scores(np.tile(one, (batch.rows, 1))) for one in np.eye(len(fields), dtype=bool)], 1)
        empty = swaps.scores(np.ones((batch.rows, len(fields)), dtype=bool))
        out: dict[str, Floats] = {}
        for name, found in explained.items():
            if np.isnan(found).any():
                continue
            out |= {name_of(measure, name): values for measure, values in curves(swaps.scores, found, score, empty).items()}
            out[name_of("claims", name)] = claims_held(found, single)
        return out

    def _moved(self, batch: Batch, ours: Floats, baseline: Baseline) -> dict[str, Floats]:
        """How far integrated gradients move when the row moves a little towards its baseline: the largest of some moves."""
        rng = np.random.default_rng(self.seed + 2)
        nodes, weights = path_rule("gauss_legendre", self.steps)
        fields = len(self.subject.sites(batch).fields)
        ends = np.vstack([np.ones((1, fields)), 1 - MOVED_SHARE * rng.random((MOVES, fields))])
        points = torch.from_numpy((ends[:, None, :] * nodes[:, None]).reshape(-1, fields))
        parts = []
        with undisturbed(self.subject.model, naming=False) as stack:
            for _, chunk in FieldPoints.chunks(self.subject, stack, batch, baseline, rows=1024):
                slopes = chunk.slopes(points).detach().double().cpu().numpy().reshape(len(ends), len(nodes), chunk.rows, fields)
                parts.append(np.einsum("n,mnbf,mf->mbf", weights, slopes, ends))
        found = np.concatenate(parts, 1)
        redrawn = np.stack([random_contributions(ours, self.seed + 3 + move) for move in range(MOVES + 1)])
        return {name_of(measure, name): values for name, tried in ((OURS, found), (RANDOM, redrawn))
                for measure, values in (("moved", np.linalg.norm(tried[1:] - tried[0], axis=2).max(0)), ("length", np.linalg.norm(tried[0], axis=1)))}

    def _redrawn(self, batch: Batch, ours: Floats, constant: Floats) -> dict[str, Floats]:
        """Likeness with the explanation of the same model with random weights."""
        if sum(weight.numel() for weight in self.subject.model.parameters()) > LARGEST_COPY:
            raise SubjectError("the model is too large to be copied")
        others = [self.subject.with_model(randomised(copy.deepcopy(self.subject.model), seed=self.seed + draw)) for draw in range(DRAWN_WEIGHTS)]
        return {name_of("randomised", OURS): np.mean([cosine(ours, self.explain(other, batch)) for other in others], axis=0), name_of("randomised", CONSTANT): cosine(constant, constant)}

    def _elsewhere(self, batch: Batch, ours: Floats, drawn: Floats) -> dict[str, Floats]:
        """Likeness with integrated gradients from other rows as baselines; from zeros where lists of different lengths forbid that."""
        fields = self.subject.sites(batch).fields
        try:
            found = expected_gradients(self.subject, batch, self.pool, draws=DRAWN_BASELINES, seed=self.seed, tolerance=0.05)
        except SubjectError:
            found = integrated_gradients(self.subject, batch, baseline=zero_baseline(self.subject.sites(batch)), tolerance=0.05)
        other = matrix(found, fields)
        return {name_of("baselines", OURS): cosine(ours, other), name_of("baselines", RANDOM): cosine(drawn, other)}

    def _entries(self, batch: Batch, baseline: Baseline) -> dict[str, Floats]:
        """Entries of lists dropped."""
        explain = self.explain_entries or (lambda rows: integrated_gradients(self.subject, rows, baseline=baseline, steps=self.steps))
        found = entry_falls(self.subject, batch, explain, seed=self.seed)
        return {name_of("entries", name): values for name, values in found.items()}


# ---------------------------------------------------------------------- curves


def depths(fields: int) -> NDArray[np.int64]:
    """Numbers of fields at which curves are taken, ascending, below all of them."""
    found = {*TOP, *np.round(np.linspace(1, fields - 1, DEPTHS)).astype(int).tolist()}
    return np.array(sorted(k for k in found if 1 <= k < fields), dtype=np.int64)


def curves(scores: Callable[[NDArray[np.bool_]], Floats], contributions: Floats, score: Floats, empty: Floats | None = None) -> dict[str, Floats]:
    """How the score falls when the fields that speak for it most are exchanged first, and how it stands when they alone are kept.

    Args:
        scores: Logits of the rows with a set of fields exchanged, shape [B, F] to [B].
        contributions: Shape [B, F]; the largest first.
        score: Logits of the rows, shape [B].
        empty: Those with all fields exchanged, shape [B], where they are known; the same for all explanations.

    Returns:
        `deletion`: mean over depths of the fall, by the trapezoid rule over shares of fields; `insertion`: mean over depths of what is kept less what is left when all are exchanged; logits,
        high is good for both. `comprehensiveness@k`: the fall without the first k. `sufficiency@k`: the fall when only the first k are kept (low is good).

    Source: DeYoung et al. 2020, ERASER (comprehensiveness, sufficiency); Petsiuk et al. 2018, RISE (deletion, insertion).
    """
    rows, fields = contributions.shape
    place = np.argsort(np.argsort(-contributions, axis=1, kind="stable"), axis=1)
    taken = depths(fields)
    empty = scores(np.ones((rows, fields), dtype=bool)) if empty is None else empty
    deleted = np.stack([score, *(scores(place < k) for k in taken), empty])
    kept = np.stack([empty, *(scores(place >= k) for k in taken), score])
    share = np.concatenate([[0.0], taken / fields, [1.0]])
    out = {"deletion": np.trapezoid(score - deleted, share, axis=0), "insertion": np.trapezoid(kept - empty, share, axis=0)}
    for k in TOP:
        if k in taken:
            at = 1 + int(np.searchsorted(taken, k))
            out |= {f"comprehensiveness@{k}": score - deleted[at], f"sufficiency@{k}": score - kept[at]}
    return out


def claims_held(contributions: Floats, falls: Floats) -> Floats:
    """Share of a row's largest contributions whose sign is that of the fall when the field is exchanged, shape [B]; a field that changes nothing counts half, as chance does."""
    first = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :CLAIMS]
    said, seen = np.take_along_axis(np.sign(contributions), first, 1), np.take_along_axis(np.sign(falls), first, 1)
    return np.asarray(np.where((seen == 0) | (said == 0), 0.5, said == seen).mean(1))


__all__ = ["ExplanationQualityProbe", "claims_held", "curves", "depths"]
