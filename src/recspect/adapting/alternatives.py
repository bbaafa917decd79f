"""Other ways to a metric, to be shown beside ours or used where ours cannot be: learnt log-p, largest z, a front to choose from, a surrogate index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recspect.adapting.weights import quality
from recspect.errors import DataError, UsageError
from recspect.experimenting.experiment import Corpus, Floats

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def largest_z(corpus: Corpus, signs: Sequence[int] | Floats) -> Floats:
    """The weights with the largest mean z over past experiments whose sign is known: the mean noise's inverse times the mean signed effect.

    Args:
        corpus: Experiments; all metrics measured.
        signs: 1 where the treatment was known to be better, -1 where worse, 0 where nobody knows (left out), shape (experiments,).

    Raises:
        UsageError: No sign is known.

    Source: Jeunen and Ustimenko, "Learning metrics that maximise power for accelerated A/B-tests", KDD 2024 (for noise that is alike in all experiments).
    """
    known = np.asarray(signs, np.float64)
    if not known.any():
        raise UsageError("no past experiment has a known sign", hint="signs are 1, -1, or 0 where nobody knows")
    used = known != 0
    found: Floats = np.linalg.solve(corpus.noise[used].mean(0), (known[used, None] * corpus.effects[used]).mean(0))
    return found


def learnt_log_p(corpus: Corpus, signs: Sequence[int] | Floats, *, steps: int = 300, quiet: float = 0.1) -> Floats:
    """Weights that minimise the mean log p-value of past experiments with a known sign, and keep those in which nothing happened quiet.

    The objective is mean over known experiments of log p(s z(w)) less `quiet` times the mean over inconclusive ones of log p(|z(w)|), z(w) = w'x / sqrt(w'Xw) and p one-sided. It does not depend
    on the length of w, which is kept at 1 per standard error. Gradient steps with backtracking from the largest mean z.

    Args:
        corpus: Experiments; all metrics measured.
        signs: 1, -1; 0 where the experiment was inconclusive or an A/A test.
        steps: At most so many gradient steps.
        quiet: Weight of the inconclusive ones.

    Source: Jeunen and Ustimenko, KDD 2024; the term of inconclusive experiments is in their spirit, its form is ours.
    """
    known = np.asarray(signs, np.float64)
    root = np.linalg.cholesky(corpus.noise.mean(0))
    x = np.linalg.solve(root, corpus.effects.T).T  # where the mean noise is the unit matrix
    noise = np.linalg.solve(root, np.linalg.solve(root, corpus.noise).transpose(0, 2, 1))
    w = root.T @ largest_z(corpus, known)
    w /= np.linalg.norm(w)

    def objective(weights: Floats) -> tuple[float, Floats]:
        turned = np.einsum("ejk,k->ej", noise, weights)
        error = np.sqrt(turned @ weights)
        z = x @ weights / error
        slope = x / error[:, None] - z[:, None] * turned / error[:, None] ** 2
        signed = np.where(known != 0, known * z, np.abs(z))
        log_p, hazard = _log_upper(-signed)
        sign_of_z = np.where(known != 0, known, np.sign(z))
        counted = np.where(known != 0, 1 / max((known != 0).sum(), 1), -quiet / max((known == 0).sum(), 1))
        return float(counted @ log_p), ((counted * -hazard * sign_of_z)[:, None] * slope).sum(0)

    value, gradient = objective(w)
    pace = 1.0
    for _ in range(steps):
        tangent = gradient - (gradient @ w) * w
        if np.linalg.norm(tangent) < 1e-6:
            break
        while pace > 1e-8:
            tried = w - pace * tangent
            tried /= np.linalg.norm(tried)
            new, new_gradient = objective(tried)
            if new < value - 1e-4 * pace * float(tangent @ tangent):
                break
            pace /= 2
        else:
            break
        w, value, gradient, pace = tried, new, new_gradient, min(pace * 2, 10.0)
    found: Floats = np.linalg.solve(root.T, w)
    return found


def _log_upper(x: Floats) -> tuple[Floats, Floats]:
    """Log F(x) of the normal distribution, and f(x) / F(x); by the continued fraction far out, where F is 0 in floating point."""
    far = x < -35
    inside = np.where(far, 0.0, x)
    near = _erfc(-inside / math.sqrt(2)) / 2
    density = np.exp(-inside**2 / 2) / math.sqrt(2 * math.pi)
    ratio = np.where(far, -x - 1 / np.where(far, x, -1.0), density / near)
    log = np.where(far, -x**2 / 2 - 0.5 * math.log(2 * math.pi) - np.log(np.where(far, ratio, 1.0)), np.log(near))
    return log, ratio


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One metric of the front.

    Args:
        weights: Shape (metrics,).
        sensitivity: Typical true effect in standard errors of the usual experiment.
        alignment: Correlation of the true effects on it with those on the north star.
    """

    weights: Floats
    sensitivity: float
    alignment: float


def front(latent: Floats, noise: Floats, *, points: int = 21) -> tuple[FrontPoint, ...]:
    """Metrics of which none is better both in sensitivity and in alignment, from the most aligned to the most sensitive.

    Weights are (L + t X)^-1 L_N for t from 0 (alignment alone) to large (what the usual experiment sees best), short-term metrics only; what another one beats on both counts is left out.
    The choice along the front is the business's: how much bias it takes for how much speed (Richardson, Zito, Greaves and Soriano, "Pareto optimal proxy metrics", 2023).
    """
    part = np.arange(1, len(latent))
    found = []
    for share in np.linspace(0.0, 1.0, points):
        t = math.tan(min(share, 0.995) * math.pi / 2) + 1e-6
        weights = np.zeros(len(latent))
        weights[part] = np.linalg.solve(latent[np.ix_(part, part)] + t * noise[np.ix_(part, part)], latent[part, 0])
        error = float(weights @ noise @ weights)
        if error > 0:
            found.append(FrontPoint(weights=weights, sensitivity=math.sqrt(max(float(weights @ latent @ weights), 0.0) / error),
                                    alignment=quality(weights, latent, np.zeros_like(latent))))
    kept = [one for one in found if not any(other.sensitivity >= one.sensitivity and other.alignment >= one.alignment and
                                            (other.sensitivity > one.sensitivity or other.alignment > one.alignment) for other in found)]
    return tuple(sorted(kept, key=lambda one: -one.alignment))


@dataclass(frozen=True, kw_only=True)
class SurrogateIndex:
    """E[north star | short-term metrics] of users, learnt from what was observed without any experiment.

    Args:
        weights: Per unit of each short-term metric, shape (metrics - 1,).
        r_squared: Share of the north star's variance over users that it explains.
        spread: Standard deviation of the north star over users.
        users: How many users it was learnt on.
    """

    weights: Floats
    r_squared: float
    spread: float
    users: int

    def bias_bound(self, left: float = 0.01) -> float:
        """How far an effect on the index may be from that on the north star in an even split.

        The treatment may act on what the index does not explain. Where it explains a share `left` of that remaining variance, the bound is 2 sd(N) sqrt((1 - R^2) left).

        Args:
            left: Share of the unexplained variance that the treatment may explain, in [0, 1].
        """
        return 2 * self.spread * math.sqrt(max(1 - self.r_squared, 0.0) * left)


def surrogate_index(users: Floats, north_star: Floats, *, ridge: float = 1e-6) -> SurrogateIndex:
    """A linear surrogate index, for a scene in which there were no experiments yet.

    It is right only where the short-term metrics carry all of a treatment's effect on the north star, and users of the past behave as those of the experiment (Athey, Chetty, Imbens and Kang,
    NBER 26463, 2019). Nothing in the data can show the first; `bias_bound` says what is at stake.

    Args:
        users: Short-term metrics per user, shape (users, metrics).
        north_star: The north star per user, shape (users,).
        ridge: Penalty relative to the mean variance.

    Raises:
        DataError: Fewer than ten users per metric, or a north star that does not vary.
    """
    if len(users) < 10 * users.shape[1]:
        raise DataError(f"{len(users)} users are too few for {users.shape[1]} metrics", hint="at least ten users per metric")
    x, y = users - users.mean(0), north_star - north_star.mean()
    spread = float(y.std())
    if spread == 0:
        raise DataError("the north star is the same for every user", hint="is its window over?")
    gram = x.T @ x / len(x)
    weights = np.linalg.solve(gram + ridge * max(float(np.trace(gram)) / len(gram), 1e-300) * np.eye(len(gram)), x.T @ y / len(x))
    return SurrogateIndex(weights=weights, r_squared=float(1 - ((y - x @ weights) ** 2).mean() / spread**2), spread=spread, users=len(x))


__all__ = ["FrontPoint", "SurrogateIndex", "front", "largest_z", "learnt_log_p", "surrogate_index"]
