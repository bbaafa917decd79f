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
from recspect.diagnosis.lookups import undisturbed
from recspect.diagnosis.probes.attribution.baselines import Baseline, sampled_rows, zero_baseline
from recspect.diagnosis.probes.attribution.memory import footprint
from recspect.diagnosis.probes.attribution.points import Layout, Recording
from recspect.diagnosis.probes.attribution.quadrature import RuleName, edges, path_rule
from recspect.diagnosis.probes.attribution.result import Attribution, joined
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import UsageError

AVERAGED_FACTOR = 2.0
"""The bound where kinks are averaged and a coarser rule is known: so many times the difference of the two finest rules. On trained ReLU networks it holds for
96 to 99% of rows, 1.5 for 94 to 99%. For smooth networks the difference alone bounds the finer rule's error many times over."""

ROUGHNESS_FACTOR, ROUGHNESS_FACTORS, RESIDUAL_FACTOR = 0.055, {4: 0.15, 5: 0.065}, 2.0
"""The bound where kinks are averaged and only one rule is known: this times the root of the squared null rules, plus this times the completeness error. Set on trained
DeepFM, DCNv2 and DLRM networks, where 97.5% of rows need .024 to .051 for 6 to 16 points (4 and 5 have fewer null rules, and factors of their own); on other networks .006 to .031 (docs/decisions/0007-averaged-kinks.md)."""

SMOOTH_FACTOR = float(5 / 18 * np.sqrt(6))
"""What the null rule of degree 2 on three nodes must be multiplied with to be the difference of the rules of three nodes and of one."""


def integrated_gradients(subject: TorchSubject, batch: Batch, *, baseline: Baseline | None = None, tolerance: float = 0.01,
                         maximum_points: int = 65, steps: int | None = None, rule: RuleName = "auto",
                         label: NDArray[np.float64] | None = None, chunk_rows: int = 2048, budget_mib: float = 256.0) -> Attribution:
    """Integrated gradients of the logit, and with labels of the loss, for all fields at once.

    Without `steps`, finer and finer rules are evaluated until, row by row, the error bound is below the tolerance; only rows that are not there yet go on.
    The rules are Gauss-Legendre, of 3, 6, 12, ... points for smooth networks; with kinks, which are averaged, of 8, 16, ... at 1% (4 to 16 points first, by tolerance). The
    bound of the first rule comes from its own points, so that most rows need no second one.

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
        budget_mib: Memory that recordings and passes may hold at a time, in MiB, counted on a few rows beforehand (see `memory`); fewer rows and nodes are taken at once
            where they need more, down to one row at three nodes. The result, the model, and the pass that once tells the fields do not count.

    Raises:
        SubjectError: Lookups cannot be told, or the score does not depend on them.
        UsageError: Settings out of range.
    """
    if steps is None and not tolerance > 0:
        raise UsageError(f"the tolerance is {tolerance}, expected more than 0", hint="a share, such as 0.01")
    if steps is None and maximum_points < 4:
        raise UsageError(f"maximum_points is {maximum_points}, expected 4 or more: an error bound compares two rules over the same points")
    if steps is None and rule != "auto":
        path_rule(rule, 1)
        raise UsageError(f"rule {rule!r} needs a number of steps", hint="steps=8; without steps, Gauss-Legendre rules are taken")
    if budget_mib <= 0:
        raise UsageError(f"the budget is {budget_mib} MiB, expected more than 0")
    sites = subject.sites(batch)
    baseline = baseline or zero_baseline(sites)
    fixed = None if steps is None else path_rule("gauss_legendre" if rule == "auto" else rule, steps)
    most = maximum_points if fixed is None else len(fixed[0])
    parts = []
    with undisturbed(subject.model, naming=False) as stack:
        layout = Layout.of(subject, sites, stack, batch) if batch.rows else None
        if layout is not None:
            averaged = layout.kinked and rule == "auto"
            first = _first_rules(fixed, tolerance, maximum_points, kinked=layout.kinked)
            rows, points = footprint(subject, sites, stack, layout, batch, baseline, weights=first, averaged=averaged,
                                     label=label is not None).sizes(budget_mib * 2**20, chunk_rows)
            if not layout.repeatable:  # inputs that are encoded again run with all their rows
                rows = max(1, min(rows, points // most))
        start = 0
        while layout is not None and start < batch.rows:
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
    return averaged_gradients(subject, batch, [sampled_rows(batch, sample, seed=seed + draw) for draw in range(draws)], tolerance=tolerance, label=label)


def averaged_gradients(subject: TorchSubject, batch: Batch, baselines: Sequence[Baseline], *, tolerance: float = 0.01, label: NDArray[np.float64] | None = None) -> Attribution:
    """Integrated gradients averaged over baselines; `bound` is the mean error of the paths, not of which baselines were taken.

    Args:
        subject, batch, tolerance, label: See `integrated_gradients`.
        baselines: At least one.

    Raises:
        UsageError: There is none.
    """
    if not baselines:
        raise UsageError("there is no baseline to average over")
    found = [integrated_gradients(subject, batch, baseline=baseline, tolerance=tolerance, label=label) for baseline in baselines]

    def mean(of: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(of)).mean(0)

    def means(which: str) -> dict[str, Tensor]:
        return {name: mean([getattr(one, which)[name] for one in found]) for name in getattr(found[0], which)}

    return Attribution(means("reliance"), means("usefulness"), means("entries"), found[0].score, mean([one.baseline for one in found]),
                       mean([one.error for one in found]), mean([one.bound for one in found]), torch.stack([one.points for one in found]).sum(0),
                       torch.stack([one.converged for one in found]).all(0))


# ---------------------------------------------------------------------- one recording


def _fixed(recording: Recording, label: Tensor | None, nodes: NDArray[np.float64], weights: NDArray[np.float64], *, averaged: bool) -> Attribution:
    found = recording.integrate(nodes, weights[None], edges=edges(weights) if averaged and len(nodes) > 1 else None, label=label)
    begin = recording.start_score()
    unknown = torch.full_like(begin, float("inf"))
    return _result(recording, found.columns[0], found.loss, begin, unknown,
                   torch.full_like(begin, len(nodes), dtype=torch.int64), torch.zeros_like(begin).bool())


def _adaptive(recording: Recording, label: Tensor | None, tolerance: float, maximum_points: int) -> Attribution:
    """Finer and finer rules for the rows that need them."""
    score, device = recording.score, recording.score.device
    b, kinked = recording.rows, recording.layout.kinked
    columns = torch.zeros(b, recording.width, dtype=torch.float64, device=device)
    loss = None if label is None else torch.zeros_like(columns)
    begin, bound = recording.start_score(), torch.full_like(score, float("inf"))
    points, converged = torch.zeros(b, dtype=torch.int64, device=device), torch.zeros(b, dtype=torch.bool, device=device)
    fields = _field_matrix(recording).to(device)
    noise = 16 * torch.finfo(score.dtype).eps
    active, last = torch.arange(b, device=device), None
    for n in _numbers_of_points(tolerance, maximum_points, kinked=kinked):
        nodes, weights = path_rule("gauss_legendre", n)
        found = recording.integrate(nodes, _with_roughness(nodes, weights, kinked=kinked), edges=edges(weights) if kinked else None,
                                    rows=None if len(active) == b else active.cpu().numpy(), label=None if label is None else label[active])
        columns[active] = found.columns[0]
        if loss is not None:
            assert found.loss is not None
            loss[active] = found.loss
        points[active] += n
        by_field = found.columns[0] @ fields
        total = by_field.abs().sum(1)
        residual = (by_field.sum(1) - (score - begin)[active]).abs()
        error = _error(found.columns[1:] @ fields, n, kinked=kinked) + RESIDUAL_FACTOR * residual
        if last is not None:
            error = torch.minimum(error, (by_field - last).abs().sum(1) * (AVERAGED_FACTOR if kinked else 1.0) + residual)
        floor = noise * (total + score[active].abs() + begin[active].abs())
        bound[active] = (error + floor).to(bound)
        done = error <= tolerance * total + floor
        converged[active] = done
        active, last = active[~done], by_field[~done]
        if not len(active):
            break
    return _result(recording, columns, loss, begin, bound, points, converged)


def _numbers_of_points(tolerance: float, maximum_points: int, *, kinked: bool) -> Iterator[int]:
    """Of the rules, one after the other: the first about as many as most rows need, then doubled."""
    points = 3 if not kinked else min(maximum_points, int(np.clip(np.ceil(0.8 / np.sqrt(tolerance)), 4, 16)))
    while points <= maximum_points:
        yield points
        points *= 2


def _first_rules(fixed: tuple[NDArray[np.float64], NDArray[np.float64]] | None, tolerance: float, maximum_points: int, *,
                 kinked: bool) -> NDArray[np.float64]:
    """Weights of the rules that are evaluated first, shape (R, n)."""
    if fixed is not None:
        return fixed[1][None]
    nodes, weights = path_rule("gauss_legendre", next(_numbers_of_points(tolerance, maximum_points, kinked=kinked)))
    return _with_roughness(nodes, weights, kinked=kinked)


def _with_roughness(nodes: NDArray[np.float64], weights: NDArray[np.float64], *, kinked: bool) -> NDArray[np.float64]:
    """The rule, and orthonormal null rules: weights that give 0 for polynomials of low degree, so that they see what the rule cannot integrate.

    Of the highest degrees that so many nodes can tell apart: up to four where kinks are averaged, else two, of which the higher one comes last. A row's
    contributions are compared with what the same points say otherwise: no point is evaluated for the bound alone.

    Source: Berntsen and Espelid 1991, "Error estimation in automatic quadrature routines"; Laurie 1985.
    """
    n = len(nodes)
    degrees = min(4, n - 2) if kinked else 2
    orthonormal, _ = np.linalg.qr(np.polynomial.legendre.legvander(2 * nodes - 1, n - 1))
    return np.vstack([weights, orthonormal.T[n - degrees:]])


def _error(rough: Tensor, points: int, *, kinked: bool) -> Tensor:
    """The error of contributions, summed over fields, estimated from above by null rules, shape [R, B, F] to [B]."""
    if kinked:
        return rough.square().sum(0).sqrt().sum(1) * ROUGHNESS_FACTORS.get(points, ROUGHNESS_FACTOR)
    # three points are exact to degree 5, the null rule's degree is 2; how fast degrees fall off tells a smooth path from a bent one
    lower, higher = rough.abs().sum(2)
    falls = (4 * higher / lower.clamp_min(torch.finfo(lower.dtype).tiny)).square().clamp(max=1)
    return SMOOTH_FACTOR * higher * falls


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
