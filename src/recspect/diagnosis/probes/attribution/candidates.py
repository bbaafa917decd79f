"""Why each of many candidates scores as it does for a user, for the price of one: integrated gradients through a linear read-out.

Shapes: B users, C candidates, d entries of the user vector, P columns (one per lookup of a user's field, per entry of a history, per dense field), n nodes.

Where score(user, candidate) = u(user) . v(candidate) + a(candidate) + b(user), the candidate keeps its own value along the path and only the user moves, so contributions
are linear in v: the Jacobian of (u, b) is integrated once, and a matrix product gives every candidate's contributions. The question that this answers is what in the
user's profile and history speaks for a candidate; the candidate's own fields contribute nothing, as in integrated gradients from `unknown_baseline` of user fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.lookups import undisturbed
from recspect.diagnosis.probes.attribution.baselines import Baseline, zero_baseline
from recspect.diagnosis.probes.attribution.integration import AVERAGED_FACTOR
from recspect.diagnosis.probes.attribution.jacobian import integrated_jacobian, user_vectors
from recspect.diagnosis.probes.attribution.points import Layout, Recording
from recspect.diagnosis.probes.attribution.quadrature import path_rule
from recspect.diagnosis.probes.attribution.readout import ReadOut, UserVector, find_product, read_out_vectors
from recspect.diagnosis.probes.attribution.readout import tolerance as equal_up_to
from recspect.diagnosis.probes.attribution.result import Attribution
from recspect.diagnosis.sites import Sites, input_tensors
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import SubjectError, UsageError

CHECKED_USERS, CHECKED_CANDIDATES = 4, 8
CANDIDATE_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class CandidateAttributions:
    """Contributions of users' fields and histories to the scores of the same candidates.

    Args:
        fields: Fields of the user.
        integrated: Contributions to each entry of the read-out, float64, shape [B, K, P].
        vectors: What each candidate multiplies them with, float64, shape [C, K].
        columns: Field to its columns among P.
        histories: List field to its columns, one tensor per lookup of it, each of as many as the list has entries.
        score: The logit (or value), shape [B, C].
        baseline: That of the same candidate with the user at the baseline, shape [B, C].
        bound: Estimate from above of the error of a row's contributions, summed over lookups and over the entries of histories, shape [B, C]; infinite for
            a fixed number of steps.
        points: Points of the path evaluated for each user, shape [B].
        converged: Whether the bound is within the tolerance for all candidates of the user, shape [B].
        forward_rows, backward_rows: Rows that went through the user's side of the model, forward and backward; neither depends on C beyond d.
        candidate_rows: Rows that went through the candidates' side, forward and backward, to get `vectors`.
    """

    fields: tuple[str, ...]
    integrated: Tensor
    vectors: Tensor
    columns: Mapping[str, Tensor]
    histories: Mapping[str, Sequence[Tensor]]
    score: Tensor
    baseline: Tensor
    bound: Tensor
    points: Tensor
    converged: Tensor
    forward_rows: int
    backward_rows: int
    candidate_rows: int

    @property
    def contributions(self) -> dict[str, Tensor]:
        """Field to contributions, shape [B, C]."""
        return {name: self._of(self.integrated[:, :, places].sum(2)) for name, places in self.columns.items()}

    @property
    def entries(self) -> dict[str, Tensor]:
        """List field to contributions per entry, shape [B, C, L]; padding that the model masks gets exactly 0."""
        return {name: self._of(sum((self.integrated[:, :, places] for places in lookups), torch.zeros((), dtype=torch.float64)))
                for name, lookups in self.histories.items()}

    @property
    def error(self) -> Tensor:
        """Completeness error |sum over fields - (score - baseline)|, shape [B, C]: a lower bound of the error of the contributions."""
        total = torch.einsum("bkp,ck->bc", self.integrated, self.vectors)
        return (total - (self.score - self.baseline).double()).abs().to(self.score.dtype)

    def candidate(self, j: int) -> Attribution:
        """One candidate, for all users."""
        return self.combined({j: 1.0})

    def contrast(self, i: int, j: int) -> Attribution:
        """Why candidate i scores above candidate j: contributions to the difference of their scores."""
        return self.combined({i: 1.0, j: -1.0} if i != j else {})

    def list_sum(self, items: Sequence[int] | None = None) -> Attribution:
        """A whole list: contributions to the sum of scores of some candidates, or of all; one that occurs twice counts twice."""
        chosen = range(len(self.vectors)) if items is None else items
        weights: dict[int, float] = {}
        for j in chosen:
            weights[j] = weights.get(j, 0.0) + 1.0
        return self.combined(weights)

    def combined(self, weights: Mapping[int, float]) -> Attribution:
        """Contributions to a weighted sum of the candidates' scores, such as one with position discounts.

        Raises:
            UsageError: A position that is none of the candidates'.
        """
        count = len(self.vectors)
        wrong = [j for j in weights if not 0 <= j < count]
        if wrong:
            raise UsageError(f"there is no candidate {wrong[0]}; candidates are numbered 0 to {count - 1}")
        places = torch.tensor(list(weights), dtype=torch.int64)
        w = torch.tensor(list(weights.values()), dtype=torch.float64)
        one = replace(self, vectors=(w @ self.vectors[places]).unsqueeze(0))
        kind = self.score.dtype

        def total(values: Tensor) -> Tensor:
            return (values[:, places].double() @ w).to(kind)

        score, begin = total(self.score), total(self.baseline)
        reliance = {name: value[:, 0] for name, value in one.contributions.items()}
        entries = {name: value[:, 0] for name, value in one.entries.items()}
        summed = torch.einsum("bkp,ck->b", one.integrated, one.vectors)
        difference = (self.score.double() - self.baseline.double())[:, places] @ w
        bound = (self.bound[:, places].double() @ w.abs()).to(kind)
        return Attribution(reliance, {}, entries, score, begin, (summed - difference).abs().to(kind), bound, self.points, self.converged)

    def _of(self, integrated: Tensor) -> Tensor:
        """[B, K, ...] of each entry of the read-out to [B, C, ...] of each candidate."""
        return torch.einsum("bk...,ck->bc...", integrated, self.vectors).to(self.score.dtype)


def candidate_attributions(subject: TorchSubject, users: Batch, candidates: Batch, *, baseline: Baseline | None = None,
                           user_vector: UserVector | None = None, item_vectors: UserVector | None = None, tolerance: float = 0.01,
                           maximum_points: int = 64, steps: int | None = None, budget_mib: float = 256.0) -> CandidateAttributions:
    """Contributions of every user field and history entry to the scores of all candidates, for the price of one.

    The dot product is found in the model's calls, or named. Either way the scores that it gives are compared with the model's own on some users and candidates, at the
    row and at the baseline, and where they differ the model is refused.

    Args:
        subject: The model; its fields are the columns of `users` and `candidates` together.
        users: One row per user: the fields that are the same for all candidates. Columns that `candidates` has as well are not read.
        candidates: One row per candidate, the same for all users.
        baseline: Where the path of the user's fields begins, made for `subject`; default zero.
        user_vector: (model, inputs) to user vectors, shape (rows, d), where the product cannot be found.
        item_vectors: (model, inputs) to candidate vectors, shape (rows, d); together with `user_vector`.
        tolerance: Error of the contributions to a candidate, summed over lookups and over the entries of histories, as a share of their summed sizes. Entries count
            one by one, since a sequence model has one field, whose sum is the known difference of two scores, near 0 for some candidates.
        maximum_points: Gauss-Legendre rules of 2, 4, 8, ... points are tried up to so many, until the bound is within the tolerance.
        steps: A fixed number of points instead. Kinks are averaged in either case (see `kinks`).
        budget_mib: Memory that derivatives of the user vectors may take at a time.

    Raises:
        SubjectError: The score is no dot product of a user vector and a candidate vector, or has a part that depends on both beside it.
        UsageError: No users or candidates, only one of the two functions, or settings out of range.
    """
    _check(users, candidates, user_vector, item_vectors, tolerance, maximum_points, steps, budget_mib)
    pair = partial(_paired, users, candidates)
    few_users, few = _spread(users.rows, CHECKED_USERS), _spread(candidates.rows, CHECKED_CANDIDATES)
    checked = pair(np.repeat(few_users, len(few)), np.tile(few, len(few_users)))
    seen = max(users.rows, min(candidates.rows, subject.sample_rows))
    subject.sites(pair(np.arange(seen) % users.rows, np.arange(seen) % candidates.rows))
    with undisturbed(subject.model, naming=False) as stack:
        inputs = subject.encode(checked)
        items = _item_inputs(inputs, candidates, len(few))
        if user_vector is None or item_vectors is None:
            place = find_product(subject, stack, inputs, len(few_users))
            read_out = ReadOut.at(subject, *place)
            vectors, offset, ran = _vectors(subject, stack, pair, candidates.rows, items, place)
        else:
            read_out = ReadOut.named(subject, user_vector)
            vectors, ran = _named_vectors(subject, pair, candidates.rows, item_vectors), candidates.rows
            offset = vectors.new_zeros(len(vectors))
        own = pair(np.arange(users.rows), np.zeros(users.rows, dtype=np.int64))
        sites = _of_users(read_out.subject.sites(own), items)
        start = zero_baseline(sites) if baseline is None else _for_pairs(baseline, subject, sites, own, items)
        layout = Layout.of(read_out.subject, sites, stack, own)
        recording = Recording(read_out.subject, sites, stack, layout, own, start, max(2048, users.rows))
        rest = (vectors[0], offset[0]) if read_out.found else None
        found = _integrated(recording, read_out, vectors, offset, rest, tolerance, maximum_points, steps, budget_mib)
        found = replace(found, candidate_rows=ran)
        full = _of_users(subject.sites(), items)
        begin = zero_baseline(full) if baseline is None else _for_pairs(baseline, subject, full, checked, items, few_users.repeat(len(few)))
        _verify(Recording(subject, full, stack, Layout.of(subject, full, stack, checked), checked, begin, 2048), found, few_users, few)
    return found


# ---------------------------------------------------------------------- rows


def _paired(users: Batch, candidates: Batch, user: NDArray[np.int64], candidate: NDArray[np.int64]) -> Batch:
    """Users with candidates, row by row."""
    left = users.take(user)
    return Batch({**{name: left[name] for name in left}, **dict(candidates.take(candidate).items())}, rows=len(user))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _item_inputs(inputs: Any, candidates: Batch, per_user: int) -> frozenset[str]:
    """Names of the encoded inputs that belong to the candidate: its columns, and what differs between candidates of one user."""
    tensors = input_tensors(inputs)
    first = {name: tensor[:per_user] for name, tensor in tensors.items() if tensor.dim()}
    return frozenset(name for name, tensor in first.items() if name in candidates or bool((tensor != tensor[:1]).any()))


def _of_users(sites: Sites, items: frozenset[str]) -> Sites:
    """Only users' fields move."""
    lookups = tuple(replace(site, parts=tuple(part for part in site.parts if part.field not in items)) for site in sites.lookups)
    return replace(sites, lookups=lookups, dense=tuple(name for name in sites.dense if name not in items))


def _for_pairs(baseline: Baseline, subject: TorchSubject, sites: Sites, rows: Batch, items: frozenset[str],
               users: NDArray[np.int64] | None = None) -> Baseline:
    """The baseline for these lookups and rows: candidates keep their own values."""
    if baseline.ids:
        return replace(baseline, ids={name: value for name, value in baseline.ids.items() if name not in items})
    if baseline.rows is not None:
        other = baseline.rows if users is None else baseline.rows.take(users)
        if other.rows != rows.rows:
            raise UsageError(f"the baseline has {other.rows} rows, the users are {rows.rows}", hint="one baseline row per user")
        kept = {name: other[name] for name in other if name in rows and name not in items}
        return replace(baseline, rows=rows.with_columns(kept))
    full = list(zip(subject.sites().lookups, baseline.lookups, strict=True))
    values: list[Tensor | None] = []
    for site in sites.lookups:  # those of a named function are some of the model's, in their order
        place = next((k for k, (other, _) in enumerate(full) if other.table == site.table
                      and (not site.parts or {part.field for part in site.parts} <= {part.field for part in other.parts})), None)
        values.append(None if place is None else full.pop(place)[1])
    return replace(baseline, lookups=tuple(values))


# ---------------------------------------------------------------------- candidates


def _vectors(subject: TorchSubject, stack: list[str], pair: Callable[..., Batch], count: int, items: frozenset[str],
             place: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
    """Vectors [C, d] and offsets [C] of all candidates, with the first user; rows that ran.

    The first user's row goes through the model once, since broadcasting gives it to all candidates; models that do not broadcast run all pairs. `_verify` tells
    whether that gave the right values.
    """
    vectors, offsets = [], []
    for start in range(0, count, CANDIDATE_ROWS):
        chosen = np.arange(start, min(count, start + CANDIDATE_ROWS))
        inputs = subject.encode(pair(np.zeros(len(chosen), dtype=np.int64), chosen))
        once = {name: value if name in items else value[:1] for name, value in inputs.items()} if isinstance(inputs, dict) else None
        try:
            found = None if once is None else read_out_vectors(subject, stack, once, len(chosen), place)
        except (SubjectError, RuntimeError):
            found = None
        vector, score, user = found or read_out_vectors(subject, stack, inputs, len(chosen), place)
        vectors.append(vector)
        offsets.append(score - torch.linalg.vecdot(vector, user))
    return torch.cat(vectors), torch.cat(offsets), count


def _named_vectors(subject: TorchSubject, pair: Callable[..., Batch], count: int, item_vectors: UserVector) -> Tensor:
    parts = []
    for start in range(0, count, CANDIDATE_ROWS):
        chosen = np.arange(start, min(count, start + CANDIDATE_ROWS))
        with torch.no_grad():
            parts.append(item_vectors(subject.model, subject.encode(pair(np.zeros(len(chosen), dtype=np.int64), chosen))))
        if parts[-1].dim() != 2 or len(parts[-1]) != len(chosen):
            raise SubjectError(f"item_vectors returned shape {tuple(parts[-1].shape)}, expected ({len(chosen)}, d)")
    return torch.cat(parts)


# ---------------------------------------------------------------------- integration


def _integrated(recording: Recording, read_out: ReadOut, vectors: Tensor, offset: Tensor, rest: tuple[Tensor, Tensor] | None, tolerance: float,
                maximum_points: int, steps: int | None, budget_mib: float) -> CandidateAttributions:
    if rest is not None:  # the part of the user alone is one more entry, which all candidates multiply with 1
        vectors = torch.cat([vectors, vectors.new_ones(len(vectors), 1)], 1)
    compute = partial(integrated_jacobian, recording, read_out, rest=rest, budget_bytes=budget_mib * 2**20)
    few = len(vectors) < vectors.shape[1]  # fewer candidates than entries: differentiate their scores instead
    directions = vectors if few else torch.eye(vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    double = torch.eye(len(vectors), dtype=torch.float64) if few else vectors.double().cpu()
    b, kinked = recording.rows, recording.layout.kinked
    whole = np.arange(b)
    ends, start = (user_vectors(recording, read_out, at, rest=rest) for at in (1.0, 0.0))
    width = vectors.shape[1]
    if ends.shape[1] != width:
        raise SubjectError(f"user vectors have {ends.shape[1]} entries, candidates' vectors {width}")
    score, begin = (value.double() @ vectors.double().T + offset.double() for value in (ends, start))
    integrated = torch.zeros(b, len(directions), recording.width, dtype=torch.float64)
    points, converged = torch.zeros(b, dtype=torch.int64), torch.zeros(b, dtype=torch.bool)
    bound = torch.full((b, len(vectors)), float("inf"), dtype=torch.float64)
    active, last = whole, None
    n = steps or 2
    noise = 16 * torch.finfo(recording.score.dtype).eps
    while n <= (steps or maximum_points):
        now = compute(directions, active, rule=path_rule("gauss_legendre", n), kinked=kinked)
        integrated[active] = now
        points[active] += n
        if steps is not None:
            break
        if last is not None:
            residual = (now.sum(2) @ double.T - (score - begin)[active]).abs()
            total, change = _sizes(now, double, budget_mib), _sizes(now - last, double, budget_mib)
            floor = noise * (total + score[active].abs() + begin[active].abs())
            error = change * (AVERAGED_FACTOR if kinked else 1.0) + residual
            bound[active] = error + floor
            done = (error <= tolerance * total + floor).all(1)
            converged[active] = done
            active, now = active[~done.numpy()], now[~done]
        last, n = now, 2 * n
        if not len(active):
            break
    kind = recording.score.dtype
    rows = int(points.sum())
    return CandidateAttributions(
        fields=tuple(recording.by_field), integrated=integrated, vectors=double, columns=recording.by_field, histories=recording.by_entry,
        score=score.to(kind), baseline=begin.to(kind), bound=bound.to(kind), points=points, converged=converged,
        forward_rows=rows + 2 * b, backward_rows=rows * len(directions), candidate_rows=0)


def _sizes(integrated: Tensor, vectors: Tensor, budget_mib: float) -> Tensor:
    """Sizes of contributions summed over columns, shape [B, C]; entries of a history count one by one, since they may cancel in the field's sum."""
    together = max(1, int(budget_mib * 2**20 // (8 * len(vectors) * max(1, integrated.shape[2]))))
    return torch.cat([torch.einsum("bkp,ck->bcp", part, vectors).abs_().sum(2) for part in integrated.split(together)])


def _verify(recording: Recording, found: CandidateAttributions, users: NDArray[np.int64], candidates: NDArray[np.int64]) -> None:
    """The read-out gives the model's own scores, at the rows and at the baseline.

    Raises:
        SubjectError: It does not.
    """
    for what, own, ours in (("", recording.score, found.score), (" at the baseline", recording.start_score(), found.baseline)):
        expected = own.double().reshape(len(users), -1)
        got = ours.double()[users][:, candidates]
        scale = float(found.score.abs().max()) + float(expected.abs().max())
        off = float((got - expected).abs().max())
        if not off <= 10 * equal_up_to(own) * scale:
            raise SubjectError(
                f"user vector . candidate vector differs from the model's score{what} by up to {off:.3g}, where scores reach {float(expected.abs().max()):.3g}",
                hint="explain candidates one by one with integrated_gradients; for named functions: append a candidate's bias to its vector and 1 to the user's")


def _check(users: Batch, candidates: Batch, user_vector: Any, item_vectors: Any, tolerance: float, maximum_points: int, steps: int | None,
           budget_mib: float) -> None:
    if not users.rows or not candidates.rows:
        raise UsageError(f"there are {users.rows} users and {candidates.rows} candidates, expected at least 1 of each")
    if (user_vector is None) != (item_vectors is None):
        raise UsageError("user_vector and item_vectors go together", hint="name both, or none to find the product in the model's calls")
    if steps is None and (not tolerance > 0 or maximum_points < 4):
        raise UsageError(f"tolerance {tolerance} and maximum_points {maximum_points}: expected more than 0, and 4 or more")
    if steps is not None and steps < 1:
        raise UsageError(f"integrated gradients need at least 1 step, got {steps}")
    if budget_mib <= 0:
        raise UsageError(f"the budget is {budget_mib} MiB, expected more than 0")
