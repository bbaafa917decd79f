"""From a fit to a proposal: one step towards it, what the gate says, and in words what changes and why."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np

from recspect.adapting.adoption import may_adopt, step_towards
from recspect.adapting.fitting import Fitted, fit_metric, fitter, gate_of, north_star_alone
from recspect.adapting.held_out import Comparison, compare
from recspect.adapting.history import History, Proposal, Release
from recspect.adapting.latent import to_correlation
from recspect.adapting.metric_file import MetricFile
from recspect.adapting.posterior import NORMAL, slope_and_variance
from recspect.adapting.scenes import heterogeneity
from recspect.adapting.weights import normalised
from recspect.errors import UsageError
from recspect.experimenting.experiment import Corpus, Floats

LEAST_TOLD = 0.005
"""Changes of a normalised weight below this are not told."""


def release_of(fitted: Fitted, file: MetricFile, *, scene: str = "", shown: Floats | None = None) -> Release:
    """A release of the fitted metric, or of other weights (`shown`, per standard error of the usual experiment) under the fitted covariance."""
    shown = normalised(fitted.policy.weights, fitted.noise) if shown is None else shown
    chosen, latent, costs = shown / np.sqrt(np.diag(fitted.noise)), fitted.policy.latent, fitted.policy.costs
    _, variance = slope_and_variance(chosen, latent, fitted.noise)
    steady = fitted.stability
    return Release(
        number=0, scene=scene, metrics=file.names, weights=chosen, shown=shown, low=shown if steady is None else steady.low, high=shown if steady is None else steady.high,
        chosen=(shown != 0).astype(np.float64) if steady is None else steady.chosen, latent=latent, noise=fitted.noise, costs=costs,
        bar=costs.smallest_effect + NORMAL.inv_cdf(costs.certainty) * variance**0.5, quality=fitted.quality, alone=fitted.alone, cosine=1.0 if steady is None else steady.cosine,
        experiments=fitted.experiments, evidence=fitted.latent.experiments + min(fitted.prior_experiments, 1e6))


def first_release(corpus: Corpus, file: MetricFile, history: History, *, scene: str, now: datetime) -> History:
    """With the metric that the beliefs give in use, where nothing was: the data say how large effects are, and nothing else."""
    if any(release.scene == scene for release in history.releases):
        return history
    fitted = fit_metric(corpus, file, scene=scene, belief_only=True)
    named = "the other scenes" if scene and len(corpus.scenes) > 1 else "the beliefs of the metric file"
    return history.with_release(release_of(fitted, file, scene=scene), by="first", why=f"nothing was in use: the weights of {named}, with effects as large as in {len(fitted.experiments)} experiments", now=now)


def propose(corpus: Corpus, file: MetricFile, history: History, *, scene: str = "", draws: int = 200, recent: float | None = None, now: datetime) -> tuple[Proposal, Comparison | None]:
    """A proposal for the metric that is in use in this scene.

    Args:
        corpus: Experiments to fit on.
        file: Metrics, beliefs, costs.
        history: Something must be in use.
        scene: Which scene; empty for all.
        draws: Of experiments, for intervals.
        recent: How many experiments count in the long run, the latest most; all alike where None.
        now: The time of the proposal.

    Returns:
        The proposal, and the comparison behind it; None where there are too few families to leave any out.
    """
    current = aligned(history.require_current(scene), file)
    fitted = fit_metric(corpus, file, scene=scene, draws=draws, recent=recent)
    gate, part = gate_of(file), corpus if not scene else corpus.of_scene(scene)
    comparison: Comparison | None = None
    reasons: tuple[str, ...] = ()
    # Costs are the business's to set: both policies decide by the new ones, and what is compared is the metric.
    policy = replace(current.policy, costs=fitted.policy.costs)
    try:
        others = corpus.outside_scene(scene).experiments if scene else ()
        found = compare(part, fitter(file, scene=scene, others=others, recent=recent), policy)
    except UsageError as error:
        passed, reasons = False, (f"no: {error.message}",)
    else:
        changed = current.adopted if current.by != "first" else None
        comparison, verdict = found, may_adopt(found, gate, changed=changed, now=now)
        passed, reasons = verdict.passed, verdict.reasons
    shown, share = step_towards(current.shown, normalised(fitted.policy.weights, fitted.noise), gate.step)
    release = release_of(fitted, file, scene=scene, shown=shown)
    explanation = (*explain(current, release, fitted, file, share), *([] if scene else _scenes_differ(corpus, release)))
    return Proposal(number=0, made=now, release=release, share=share, passed=passed, reasons=reasons, explanation=explanation), comparison


def _scenes_differ(corpus: Corpus, release: Release) -> list[str]:
    found = heterogeneity(corpus, release.weights)
    if found.scenes < 2:
        return []
    slopes = ", ".join(f"{scene or 'no scene'} {slope:.2g} (standard error {error:.2g})" for scene, (slope, error) in found.slopes.items())
    return [f"of what the metric promises in different scenes, {found.i_squared:.0%} of the variation is real (I squared); effect on the north star per unit of the metric: {slopes}"]


def aligned(release: Release, file: MetricFile) -> Release:
    """A release with the metrics of a file that may have gained or lost some: a new metric has no weight yet, one that is gone loses it."""
    if release.metrics == file.names:
        return release
    if release.metrics[0] != file.north_star.name:
        raise UsageError(f"the metric in use is about the north star {release.metrics[0]!r}, the file about {file.north_star.name!r}", hint="another north star is another metric: use another folder")
    places = {name: place for place, name in enumerate(release.metrics)}
    there = np.array([places.get(name, -1) for name in file.names])

    def row(values: Floats) -> Floats:
        return np.where(there >= 0, values[there], 0.0)

    def square(values: Floats) -> Floats:
        found = np.where((there[:, None] >= 0) & (there[None, :] >= 0), values[np.ix_(there, there)], 0.0)
        found[there < 0, there < 0] = 1.0
        return found

    return replace(release, metrics=file.names, weights=row(release.weights), shown=row(release.shown), low=row(release.low), high=row(release.high), chosen=row(release.chosen),
                   latent=square(release.latent), noise=square(release.noise))


def explain(current: Release, new: Release, fitted: Fitted, file: MetricFile, share: float) -> list[str]:
    """What changes and why, a sentence per metric, largest change first, each with its numbers."""
    correlation = to_correlation(new.latent)[0]
    believed = np.array([1.0, *(metric.belief for metric in file.metrics)])
    lines = []
    for place in np.argsort(-np.abs(new.shown - current.shown), kind="stable"):
        before, after = current.shown[place], new.shown[place]
        if abs(after - before) < LEAST_TOLD:
            continue
        name = file.names[place]
        change = f"{name} gets weight {after:+.2f}" if before == 0 else f"{name} loses its weight of {before:+.2f}" if after == 0 else f"{name} goes from {before:+.2f} to {after:+.2f}"
        spread = "" if fitted.stability is None else f" ({new.low[place]:+.2f} to {new.high[place]:+.2f} and chosen in {new.chosen[place]:.0%} of {fitted.stability.draws} draws of experiments)"
        why = "its own early reading" if place == 0 else f"its true effects correlate {correlation[place]:+.2f} with the north star's, {believed[place]:+.2f} was believed"
        lines.append(f"{change}{spread}: {why}")
    if share < 1:
        lines.append(f"this is {share:.0%} of the way to the fitted weights: a release moves them by at most {file.decision.step:g}")
    if new.costs != current.costs or abs(new.bar - current.bar) > 1e-12:
        lines.append(f"the bar for the posterior mean goes from {current.bar:.4g} to {new.bar:.4g}: {new.costs.certainty:.0%} certainty is asked for ({current.costs.certainty:.0%} before)")
    steady = fitted.stability
    quality = f"the proxy quality of the fitted weights is {fitted.quality:.2f}" + ("" if steady is None else f" ({steady.quality_low:.2f} to {steady.quality_high:.2f})")
    lines.append(f"{quality}, that of the best single metric {fitted.alone:.2f}, on {len(fitted.experiments)} experiments" + ("" if fitted.exact else "; not every combination of metrics was tried"))
    return lines


def retirement(unseen: Corpus, release: Release) -> Comparison:
    """The release in use against the north star alone, on experiments that it was not fitted on."""
    return compare(unseen, lambda _: release.policy, north_star_alone(release.policy))


__all__ = ["aligned", "explain", "first_release", "propose", "release_of", "retirement"]
