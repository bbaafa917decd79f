"""The learnt metric beside other ways to one: largest mean z, learnt log-p, the front of sensitivity against alignment; scenes pooled and each on its own; a surrogate index without experiments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recspect.adapting.alternatives import SurrogateIndex, front, largest_z, learnt_log_p, surrogate_index
from recspect.adapting.fitting import fit_metric, prior_of, rules_of
from recspect.adapting.latent import usual_noise
from recspect.adapting.metric_file import MetricFile
from recspect.adapting.scenes import Heterogeneity, fit_scenes, heterogeneity, left_out_quality
from recspect.adapting.weights import choose, normalised, quality
from recspect.errors import DataError
from recspect.experimenting.experiment import Corpus, Floats

SIGNIFICANT = 1.96
"""z of the north star from which its sign counts as known."""
LEAST_KNOWN = 5
"""Experiments of known sign below which largest z and log-p follow a few of them."""
FRONT_POINTS = 6
LEFT = 0.01
"""Share of the north star's unexplained variance that a treatment may explain, in the bound of a surrogate index."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One metric.

    Args:
        name: Which way it was had.
        weights: Per metric, per standard error of the usual experiment, of length 1 together.
        sensitivity: Typical true effect on it in standard errors of the usual experiment.
        alignment: Correlation of true effects on it with those on the north star.
        quality: Correlation of the effects that are seen on it with the true ones on the north star: sensitivity and alignment together.
    """

    name: str
    weights: Mapping[str, float]
    sensitivity: float
    alignment: float
    quality: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The metric of one scene.

    Args:
        experiments: Of the scene.
        weights: Learnt from the scene's experiments, pulled towards all.
        quality: There, by the scene's own covariance.
        of_others: Quality there of weights learnt in the other scenes; NaN where there is none.
    """

    experiments: int
    weights: Mapping[str, float]
    quality: float
    of_others: float


@dataclass(frozen=True, kw_only=True)
class Ways:
    """All of them.

    Args:
        ways: The learnt one first.
        left_out: Way to the reason why it could not be had.
        known: Experiments whose north star has a known sign, and of how many.
        scenes: By name; empty where there are fewer than two.
        differ: How much scenes differ; None where there are fewer than two.
        surrogate: From users without experiments; None where they were not given.
    """

    ways: tuple[Way, ...]
    left_out: Mapping[str, str]
    known: tuple[int, int]
    scenes: Mapping[str, Scene] = field(default_factory=dict)
    differ: Heterogeneity | None = None
    surrogate: SurrogateIndex | None = None

    def to_mapping(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Plain data, JSON-safe."""
        index = self.surrogate
        return {"ways": [{"name": way.name, "weights": dict(way.weights), "sensitivity": way.sensitivity, "alignment": way.alignment, "quality": way.quality} for way in self.ways],
                "left_out": dict(self.left_out), "known_signs": self.known[0], "experiments": self.known[1],
                "scenes": {name: {"experiments": scene.experiments, "weights": dict(scene.weights), "quality": scene.quality, "quality_of_others": None if math.isnan(scene.of_others) else scene.of_others}
                           for name, scene in self.scenes.items()},
                "i_squared": None if self.differ is None else self.differ.i_squared, "scenes_compared": 0 if self.differ is None else self.differ.scenes,
                "surrogate": None if index is None else {"weights": dict(zip(names[1:], index.weights.tolist(), strict=True)), "r_squared": index.r_squared, "users": index.users, "bias_bound": index.bias_bound(LEFT)}}


def ways(corpus: Corpus, file: MetricFile, *, users: Path | None = None) -> Ways:
    """Every way that the experiments allow, judged by the same covariance of true effects.

    Args:
        corpus: Experiments, `to_fit_on`.
        file: Metrics, beliefs, costs.
        users: A table with a row per user and a column per metric of the file, the north star among them, for the surrogate index.

    Raises:
        DataError: No experiments to fit on, or users that lack a metric.
    """
    fitted = fit_metric(corpus, file)
    latent, noise = fitted.policy.latent, fitted.noise

    def way(name: str, weights: Floats) -> Way:
        error = float(weights @ noise @ weights)
        return Way(name=name, weights=_named(weights, noise, file), sensitivity=math.sqrt(max(float(weights @ latent @ weights), 0.0) / error) if error > 0 else 0.0,
                   alignment=quality(weights, latent, np.zeros_like(latent)), quality=quality(weights, latent, noise))

    whole = Corpus(tuple(experiment for experiment in corpus if experiment.measured.all()))
    signs = np.where(np.abs(whole.effects[:, 0]) >= SIGNIFICANT * np.sqrt(whole.noise[:, 0, 0]), np.sign(whole.effects[:, 0]), 0.0) if len(whole) else np.zeros(0)
    known = int((signs != 0).sum())
    found, left_out = [way("learnt", fitted.policy.weights), way("north star alone", np.eye(len(noise))[0])], {}
    if known < LEAST_KNOWN:
        why = f"{known} experiments measured on all metrics have a north star of known sign; at least {LEAST_KNOWN} are asked for"
        left_out = {"largest z": why, "learnt log-p": why}
    else:
        found += [way("largest z", largest_z(whole, signs)), way("learnt log-p", learnt_log_p(whole, signs))]
    points = front(latent, noise)
    chosen = sorted({round(place) for place in np.linspace(0, len(points) - 1, min(FRONT_POINTS, len(points)))}) if points else []
    found += [way(f"front {number}", points[place].weights) for number, place in enumerate(chosen, 1)]
    scenes, differ = _scenes(corpus, file, fitted.policy.weights)
    return Ways(ways=tuple(found), left_out=left_out, known=(known, len(whole)), scenes=scenes, differ=differ, surrogate=None if users is None else _surrogate(users, file))


def told(found: Ways) -> list[str]:
    """In words, a line each."""
    lines = [f"{way.name}: sees true effects of {way.sensitivity:.2f} standard errors, agrees with the north star {way.alignment:.2f}, quality {way.quality:.2f}; {_weights(way.weights)}" for way in found.ways]
    lines += [f"{name}: not to be had, {why}" for name, why in found.left_out.items()]
    if "largest z" not in found.left_out:
        lines.append(f"largest z and log-p rest on {found.known[0]} of {found.known[1]} experiments whose north star has a known sign (|z| of {SIGNIFICANT} or more); they share its noise, which favours its early reading")
    for name, scene in found.scenes.items():
        others = "" if math.isnan(scene.of_others) else f", weights of the other scenes {scene.of_others:.2f}"
        lines.append(f"scene {name!r}, {scene.experiments} experiments: quality {scene.quality:.2f}{others}; {_weights(scene.weights)}")
    if found.differ is not None:
        lines.append(f"scenes differ: I^2 {found.differ.i_squared:.2f} over {found.differ.scenes} scenes with ten experiments or more" if found.differ.scenes > 1 else "too few scenes have ten experiments to say how they differ")
    if found.surrogate is not None:
        index = found.surrogate
        lines.append(f"surrogate index of {index.users:,} users: explains {index.r_squared:.0%} of the north star; where a treatment explains {LEFT:.0%} of the rest, its effect is off by up to {index.bias_bound(LEFT):.3g}; "
                     "right only where the short-term metrics carry all of a treatment's effect, which no data can show")
    return lines


def _named(weights: Floats, noise: Floats, file: MetricFile) -> dict[str, float]:
    scaled = normalised(weights, noise)
    return {name: float(value) for name, value in zip(file.names, scaled, strict=True) if value}


def _weights(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:+.2f}" for name, value in sorted(weights.items(), key=lambda pair: -abs(pair[1]))[:6]) or "no weights"


def _scenes(corpus: Corpus, file: MetricFile, weights: Floats) -> tuple[dict[str, Scene], Heterogeneity | None]:
    if len(corpus.scenes) < 2:
        return {}, None
    prior, rules = prior_of(file), rules_of(file)
    _, by_scene = fit_scenes(corpus, prior, worth=file.decision.scene_experiments)
    elsewhere = left_out_quality(corpus, prior, rules, usual_noise(corpus))
    found = {}
    for name, latent in by_scene.items():
        part = corpus.of_scene(name)
        noise = usual_noise(part)
        chosen = choose(latent.covariance, noise, rules)
        found[name] = Scene(experiments=len(part), weights=_named(chosen.values, noise, file), quality=chosen.quality, of_others=elsewhere[name])
    return found, heterogeneity(corpus, weights)


def _surrogate(users: Path, file: MetricFile) -> SurrogateIndex:
    from recspect.diagnosis.batch import concatenate
    from recspect.diagnosis.source import read, require_columns

    source = read(users)
    require_columns(source, file.names)
    batches = list(source.batches(file.names))
    if not batches:
        raise DataError(f"{source.name} has no rows", hint="a row per user")
    rows = concatenate(batches)
    values = np.stack([rows.numbers(name) for name in file.names], 1)
    values = values[np.isfinite(values).all(1)]
    return surrogate_index(values[:, 1:], values[:, 0])


__all__ = ["Scene", "Way", "Ways", "told", "ways"]
