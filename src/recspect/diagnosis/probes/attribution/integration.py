"""Integrated gradients: which points of the path are evaluated for which rows, until their contributions are known well enough.

Sources: Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks"; usefulness is the same integral of the loss
(Lundberg and Lee's loss attribution, as in SAGE, Covert et al. 2020). Why this rule: docs/decisions/0007-averaged-kinks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.lookups import loss_slope, undisturbed
from recspect.diagnosis.probes.attribution.baselines import Baseline, sampled_rows, zero_baseline
from recspect.diagnosis.probes.attribution.points import Layout, Recording
from recspect.diagnosis.probes.attribution.quadrature import RuleName, clenshaw_curtis, edges, levels, path_rule
from recspect.diagnosis.probes.attribution.result import Attribution, joined
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import UsageError

AVERAGED_FACTOR = 2.0
"""The bound where kinks are averaged: so many times the difference of the two finest rules. On trained ReLU networks (bench `ig`) it holds for
96 to 99% of rows, 1.5 for 94 to 99%. For smooth networks the difference alone bounds the finer rule's error many times over."""


def integrated_gradients(subject: TorchSubject, batch: Batch, *, baseline: Baseline | None = None, tolerance: float = 0.01,
                         maximum_points: int = 65, steps: int | None = None, rule: RuleName = "auto",
                         label: NDArray[np.float64] | None = None, chunk_rows: int = 2048, budget_mib: float = 256.0) -> Attribution:
    """Integrated gradients of the logit, and with labels of the loss, for all fields at once.

    Without `steps`, finer and finer rules are evaluated until, row by row, the error bound is below the tolerance; only rows that are not there yet go on.
    Smooth networks take nested Clenshaw-Curtis rules of 2, 3, 5, 9, ... points, which use all points again; networks with kinks Gauss-Legendre rules of
    2, 4, 8, ... points with averaged kinks, which converge much faster there but evaluate their points anew.

    Args:
        subject: The model.
        batch: Rows to explain.
        baseline: Where the path begins; default zero.
        tolerance: Error of a row's contributions, summed over fields, as a share of their summed sizes.
        maximum_points: Rules with more points are not tried; each point costs a forward and a backward pass through what follows the lookups.
        steps: A fixed number of points instead, by `rule`.
        rule: For fixed steps: `auto` is Gauss-Legendre with averaged kinks (see `kinks`), the others are plain rules; see `path_rule`.
        label: 0/1 for a model with a logit, else the target value; shape [B].
        chunk_rows: Rows times points in one pass; about 2,000 are the fastest on a CPU.
        budget_mib: Memory that recordings and passes may hold at a time, in MiB; fewer rows are taken at once where they need more. The
            result and the model do not count.

    Raises:
        SubjectError: Lookups cannot be told, or the score does not depend on them.
        UsageError: Settings out of range.
    """
    if steps is None and not tolerance > 0:
        raise UsageError(f"the tolerance is {tolerance}, expected more than 0", hint="a share, such as 0.01")
    if steps is None and maximum_points < 4:
        raise UsageError(f"maximum_points is {maximum_points}, expected 4 or more: an error bound needs two rules")
    if steps is None and rule != "auto":
        path_rule(rule, 1)
        raise UsageError(f"rule {rule!r} needs a number of steps", hint="steps=8; without steps, nested Clenshaw-Curtis rules are taken")
    if budget_mib <= 0:
        raise UsageError(f"the budget is {budget_mib} MiB, expected more than 0")
    sites = subject.sites(batch)
    baseline = baseline or zero_baseline(sites)
    fixed = None if steps is None else path_rule("gauss_legendre" if rule == "auto" else rule, steps)
    most = maximum_points if fixed is None else len(fixed[0])
    parts = []
    with undisturbed(subject.model, naming=False) as stack:
        layout = Layout.of(subject, sites, stack, batch) if batch.rows else None
        start = 0
        while layout is not None and start < batch.rows:
            rows, points = _sizes(layout, most, chunk_rows, budget_mib)
            chosen = slice(start, start + rows)
            recording = Recording(subject, sites, stack, layout, batch.take(chosen), baseline.take(chosen), points)
            y = None if label is None else torch.as_tensor(np.array(label[chosen]), dtype=recording.score.dtype, device=recording.score.device)
            parts.append(_adaptive(recording, y, tolerance, maximum_points) if fixed is None else
                         _fixed(recording, y, *fixed, averaged=rule == "auto"))
            start += rows
    return joined(parts)


def gradient_times_input(subject: TorchSubject, batch: Batch, *, chunk_rows: int = 4096) -> Attribution:
    """Gradient x input: one pass, no baseline, does not add up where fields are multiplied (an FM gets twice its value)."""
    sites = subject.sites(batch)
    parts = []
    with undisturbed(subject.model, naming=False) as stack:
        layout = Layout.of(subject, sites, stack, batch) if batch.rows else None
        for start in range(0, batch.rows, chunk_rows):
            assert layout is not None
            recording = Recording(subject, sites, stack, layout, batch.take(slice(start, start + chunk_rows)), zero_baseline(sites), chunk_rows)
            parts.append(_fixed(recording, None, np.array([1.0]), np.array([1.0]), averaged=False))
    return joined(parts)


def expected_gradients(subject: TorchSubject, batch: Batch, sample: Batch, *, draws: int = 8, seed: int = 0, tolerance: float = 0.01,
                       label: NDArray[np.float64] | None = None) -> Attribution:
    """Integrated gradients averaged over baselines that are rows drawn from a sample: what a row has that rows in general do not.

    Args:
        subject, batch, tolerance, label: See `integrated_gradients`.
        sample: Rows to draw baselines from.
        draws: Baselines per row; the error from drawing falls like 1 / sqrt(draws) and is not part of `bound`.
        seed: Of the draws.
    """
    if draws < 1:
        raise UsageError(f"expected gradients need at least 1 draw, got {draws}")
    found = [integrated_gradients(subject, batch, baseline=sampled_rows(batch, sample, seed=seed + draw), tolerance=tolerance, label=label)
             for draw in range(draws)]

    def mean(of: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(of)).mean(0)

    def means(which: str) -> dict[str, Tensor]:
        return {name: mean([getattr(one, which)[name] for one in found]) for name in getattr(found[0], which)}

    return Attribution(means("reliance"), means("usefulness"), means("entries"), found[0].score, mean([one.baseline for one in found]),
                       mean([one.error for one in found]), mean([one.bound for one in found]), torch.stack([one.points for one in found]).sum(0),
                       torch.stack([one.converged for one in found]).all(0))


# ---------------------------------------------------------------------- one recording


def _sizes(layout: Layout, most: int, chunk_rows: int, budget_mib: float) -> tuple[int, int]:
    """(rows to record, rows times points in one pass): half of the budget for each."""
    half = budget_mib * 2**20 / 2
    points = int(min(chunk_rows, max(3, half // layout.point_bytes)))
    kept = layout.row_bytes + 3 * 4 * most * layout.columns  # contributions at every node, and copies while they are weighted
    rows = int(max(1, min(points, half // kept)))  # recording is a pass of all rows, too
    if not layout.repeatable:  # inputs that are encoded again run with all their rows
        rows = max(1, min(rows, points // most))
    return rows, points


def _fixed(recording: Recording, label: Tensor | None, nodes: NDArray[np.float64], weights: NDArray[np.float64], *, averaged: bool) -> Attribution:
    found = recording.evaluate(nodes, edges(weights) if averaged and len(nodes) > 1 else None)
    begin = recording.start_score()
    columns = _weighted(found.columns, weights)
    loss = None if label is None else _weighted(_loss_columns(recording, found.score, found.columns, label), weights)
    unknown = torch.full_like(begin, float("inf"))
    return _result(recording, columns, loss, begin, unknown, torch.full_like(begin, len(nodes), dtype=torch.int64), torch.zeros_like(begin).bool())


def _adaptive(recording: Recording, label: Tensor | None, tolerance: float, maximum_points: int) -> Attribution:
    """Finer and finer rules for the rows that need them."""
    score, device = recording.score, recording.score.device
    b = recording.rows
    columns = torch.zeros(b, recording.width, dtype=torch.float64, device=device)
    loss = None if label is None else torch.zeros_like(columns)
    begin, bound = torch.zeros_like(score), torch.full_like(score, float("inf"))
    points, converged = torch.zeros(b, dtype=torch.int64, device=device), torch.zeros(b, dtype=torch.bool, device=device)
    active = np.arange(b)
    kept: tuple[Tensor, Tensor] | None = None  # scores and columns at the nodes so far, of the active rows
    sums: Tensor | None = None
    kinked = recording.layout.kinked
    if kinked:
        begin = recording.start_score()
    fields = _field_matrix(recording).to(device)
    noise = 16 * torch.finfo(score.dtype).eps
    for nodes, weights in _finer_rules(maximum_points, kinked=kinked):
        here = torch.from_numpy(active).to(device)
        rows = None if len(active) == b else active
        if kept is None or kinked:
            found = recording.evaluate(nodes, edges(weights) if kinked else None, rows)
            at, parts = found.score, found.columns
        else:
            found = recording.evaluate(nodes[1::2], None, rows)
            at, parts = (_interleaved(coarse, between) for coarse, between in zip(kept, (found.score, found.columns), strict=True))
        points[here] += found.score.shape[0]
        now = _weighted(parts, weights)
        by_field = now @ fields
        total = by_field.abs().sum(1)
        if not kinked:  # these rules begin at the baseline
            begin[here] = at[0]
        residual = (by_field.sum(1) - (score[here] - begin[here])).abs()
        columns[here] = now
        if loss is not None and label is not None:
            loss[here] = _weighted(_loss_columns(recording, at, parts, label[here]), weights)
        floor = noise * (total + score[here].abs() + begin[here].abs())
        if sums is not None:
            change = (by_field - sums).abs().sum(1) * (AVERAGED_FACTOR if kinked else 1.0)
            bound[here] = (change + residual + floor).to(bound)
            done = (change + residual) <= tolerance * total + floor
            converged[here] = done
            going = (~done).cpu().numpy()
            if not going.any():
                break
            active = active[going]
            keep = torch.from_numpy(going).to(device)
            at, parts, by_field = at[:, keep], parts[:, keep], by_field[keep]
        kept, sums = (at, parts), by_field
    return _result(recording, columns, loss, begin, bound, points, converged)


def _finer_rules(maximum_points: int, *, kinked: bool) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Rules of about doubled points. Averaged kinks can use no point again, since cells shrink, so they take Gauss-Legendre, which needs fewer."""
    if not kinked:
        yield from (clenshaw_curtis(intervals) for intervals in levels(maximum_points))
        return
    points = 2
    while points <= maximum_points:
        yield path_rule("gauss_legendre", points)
        points *= 2


def _interleaved(coarse: Tensor, between: Tensor) -> Tensor:
    both = coarse.new_empty(len(coarse) + len(between), *coarse.shape[1:])
    both[0::2], both[1::2] = coarse, between
    return both


def _weighted(columns: Tensor, weights: NDArray[np.float64]) -> Tensor:
    """Sum over nodes in float64, shape [B, C]."""
    total = torch.zeros(columns.shape[1:], dtype=torch.float64, device=columns.device)
    for node, weight in zip(columns, weights.tolist(), strict=True):
        total.add_(node, alpha=weight)
    return total


def _loss_columns(recording: Recording, at: Tensor, columns: Tensor, label: Tensor) -> Tensor:
    """Contributions to the loss at every node: those to the logit, times the loss's slope there."""
    return columns * loss_slope(at, label, has_logit=recording.has_logit).unsqueeze(-1)


def _field_matrix(recording: Recording) -> Tensor:
    """Which columns each field sums, shape [C, F]."""
    matrix = torch.zeros(recording.width, len(recording.by_field), dtype=torch.float64)
    for k, places in enumerate(recording.by_field.values()):
        matrix[places, k] = 1
    return matrix


def _result(recording: Recording, columns: Tensor, loss: Tensor | None, begin: Tensor, bound: Tensor, points: Tensor, converged: Tensor) -> Attribution:
    """Each field summed over all its lookups: its embedding and its first-order weight, each occurrence of a shared table."""
    kind = recording.score.dtype
    reliance = {name: columns[:, places].sum(1) for name, places in recording.by_field.items()}
    usefulness = {} if loss is None else {name: -loss[:, places].sum(1) for name, places in recording.by_field.items()}
    entries: dict[str, Tensor] = {}
    for name, lookups in recording.by_entry.items():
        for places in lookups:
            mine = columns[:, places]
            entries[name] = entries[name] + mine if name in entries and entries[name].shape == mine.shape else mine
    total = sum(reliance.values(), torch.zeros_like(columns[:, 0]))
    error = (total - (recording.score - begin)).abs()

    def cast(found: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(kind) for name, value in found.items()}

    return Attribution(cast(reliance), cast(usefulness), cast(entries), recording.score, begin, error.to(kind), bound, points, converged)
