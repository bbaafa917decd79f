"""The history of a metric as evidence: weights with intervals, how they moved, thresholds, proposals. Drawn by the report."""

from __future__ import annotations

import numpy as np

from recspect.adapting.alternatives import front
from recspect.adapting.history import OPEN, History, Release
from recspect.adapting.latent import to_correlation
from recspect.adapting.weights import quality
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, Curve, Evidence, Line, RankedTable, Reasons, Scatter
from recspect.diagnosis.finding import Finding, Remedy, Report, Verdict
from recspect.experimenting.experiment import Floats

CODE = "metrics.in_use"
STEADY = 0.8


def told(history: History, *, scene: str = "") -> list[str]:
    """The same in lines for a terminal: what is in use, its weights, and what is proposed."""
    current = history.require_current(scene)
    relevance = {row[0]: row for row in _relevance(current).rows}
    lines = list(_facts(current).items)
    for place in sorted(range(len(current.metrics)), key=lambda place: -abs(current.shown[place])):
        name, shown = current.metrics[place], current.shown[place]
        if shown or name in relevance:
            about = "its own early reading" if place == 0 else f"correlation of true effects {relevance[name][3]:+.2f}, typical true effect {relevance[name][4]} standard errors"
            lines.append(f"  {name}: {shown:+.2f} ({min(current.low[place], shown):+.2f} to {max(current.high[place], shown):+.2f}), {about}" if shown else f"  {name}: no weight, {about}")
    for proposal in (one for one in history.proposals if one.release.scene == current.scene):
        lines.append(f"proposal {proposal.number} of {proposal.made.date().isoformat()}, {proposal.status}{f' ({proposal.note})' if proposal.note else ''}: the gate {'passes it' if proposal.passed else 'does not pass it'}")
        if proposal.status == OPEN:
            lines += [f"  {line}" for line in (*proposal.reasons, *proposal.explanation)]
    return lines


def picture(history: History, *, scene: str = "") -> Report:
    """A report of the releases and proposals of one scene.

    Args:
        history: With a release in use.
        scene: Which scene; empty for all together.
    """
    current = history.require_current(scene)
    releases = [release for release in history.releases if release.scene == current.scene]
    overview: list[Evidence] = [_weights(current), _facts(current), _relevance(current), _front(current)]
    if len(releases) > 1:
        overview += [_course(releases), _bars(releases)]
    proposals = [proposal for proposal in history.proposals if proposal.release.scene == current.scene]
    if proposals:
        last = proposals[-1]
        overview.append(Reasons(title=f"What did proposal {last.number} change, and why?", items=last.explanation, stage="metrics", caption=f"{last.status}{f': {last.note}' if last.note else ''}"))
        overview.append(Reasons(title="What did the gate say?", items=last.reasons, stage="metrics", caption="passed" if last.passed else "not passed"))
        overview.append(RankedTable(title="Which changes were proposed?", columns=("proposal", "made", "gate", "status", "note"), stage="metrics",
                                    rows=tuple((one.number, one.made.date().isoformat(), "passed" if one.passed else "not passed", one.status, one.note) for one in reversed(proposals))))
    return Report(findings=(_finding(current),), overview=tuple(overview), title=f"adaptive metric{f' of {current.scene}' if current.scene else ''}, release {current.number}",
                  provenance={"scene": current.scene, "release": current.number, "adopted": None if current.adopted is None else current.adopted.isoformat(), "by": current.by, "why": current.why,
                              "experiments": len(current.experiments)})


def _finding(release: Release) -> Finding:
    """Whether the metric in use stands on its experiments: weights that draws of them agree on, and more than the best single metric says."""
    n = len(release.experiments)
    if release.by == "first":
        return Finding(code=CODE, verdict=Verdict.UNKNOWN, claim=f"The metric in use rests on beliefs: past experiments ({n}) said how large effects are, and nothing else.",
                       remedies=(Remedy(code="fit_metric", text="Fit it on past experiments; with fewer than 50 the beliefs stay.", command="recspect metrics fit METRICS.toml --experiments TABLE"),))
    steady, better = release.cosine >= STEADY, release.quality > release.alone
    claim = (f"Release {release.number} tells the true effect on {release.metrics[0]} with a correlation of {release.quality:.2f} in the usual experiment, the best single metric {release.alone:.2f}; "
             f"weights of draws of {n} experiments point the same way with a mean cosine of {release.cosine:.2f}.")
    return Finding(code=CODE, verdict=Verdict.PASS if steady and better else Verdict.WARN, claim=claim, limit=STEADY, neutral=1.0,
                   estimate=Estimate(value=release.cosine, unit="mean cosine of weights over draws of experiments", n=n, of="experiments"),
                   threshold=f"WARN where the mean cosine is below {STEADY}, or where the best single metric says as much")


def _weights(release: Release) -> Bars:
    order = sorted((place for place in range(len(release.metrics)) if release.shown[place] or release.chosen[place] > 0.1), key=lambda place: -abs(release.shown[place]))
    return Bars(title="What does the metric weigh?", unit="weight per standard error of the usual experiment, absolute values summing to at most 1", stage="metrics",
                names=tuple(release.metrics[place] for place in order), values=tuple(float(release.shown[place]) for place in order),
                low=tuple(min(float(release.low[place]), float(release.shown[place])) for place in order), high=tuple(max(float(release.high[place]), float(release.shown[place])) for place in order),
                reference=0.0, caption=f"release {release.number}, {len(release.experiments)} experiments; 90% interval over draws of experiments")


def _relevance(release: Release) -> RankedTable:
    correlation = to_correlation(release.latent)[0]
    order = sorted(range(1, len(release.metrics)), key=lambda place: -abs(correlation[place]))
    rows = tuple((release.metrics[place], round(float(release.shown[place]), 3), round(float(release.chosen[place]), 2), round(float(correlation[place]), 2),
                  round(float((release.latent[place, place] / release.noise[place, place]) ** 0.5), 2) if release.noise[place, place] > 0 else None) for place in order)
    return RankedTable(title="How relevant and how sensitive is each metric?", stage="metrics", rows=rows, caption="the most relevant first",
                       columns=("metric", "weight", "share of draws with weight", "correlation of true effects with the north star", "typical true effect in standard errors"))


def _front(release: Release) -> Scatter:
    def at(weights: Floats) -> tuple[float, float]:
        error = float(weights @ release.noise @ weights)
        return (max(float(weights @ release.latent @ weights), 0.0) / error) ** 0.5 if error > 0 else 0.0, quality(weights, release.latent, np.zeros_like(release.latent))

    unit = np.eye(len(release.metrics))
    points = [(f"choice {place + 1}", one.sensitivity, one.alignment) for place, one in enumerate(front(release.latent, release.noise, points=9))]
    points += [(name, *at(unit[place])) for place, name in enumerate(release.metrics)]
    points.append(("in use", *at(release.weights)))
    return Scatter(title="Which metrics see more, and which mean more?", x_title="typical true effect in standard errors", y_title="correlation of true effects with the north star", stage="metrics",
                   x=tuple(x for _, x, _ in points), y=tuple(y for *_, y in points), names=tuple(name for name, *_ in points),
                   caption="choices 1 and on are metrics that no other of short-term metrics beats on both")


def _facts(release: Release) -> Reasons:
    return Reasons(title="What is in use, and how sure is it?", stage="metrics", items=(
        f"Release {release.number}, adopted {'' if release.adopted is None else release.adopted.date().isoformat()} by {release.by}: {release.why}.",
        f"Proxy quality {release.quality:.2f} (correlation of the true effect on {release.metrics[0]} with the metric in the usual experiment); the best single metric has {release.alone:.2f}.",
        f"Weights of draws of experiments point the same way with a mean cosine of {release.cosine:.2f}.",
        (f"Ship where the posterior mean reaches {release.bar:.4g} in the usual experiment: {release.costs.certainty:.0%} certainty of more than {release.costs.smallest_effect:g}, "
        f"as shipping wrongly costs {release.costs.false_ship:g} and missing {release.costs.missed:g}.")))


def _course(releases: list[Release]) -> Curve:
    names = list(dict.fromkeys(name for release in releases for name, weight in zip(release.metrics, release.shown, strict=True) if weight))
    x = tuple(float(release.number) for release in releases)

    def line(name: str) -> Line:
        at = [release.metrics.index(name) if name in release.metrics else -1 for release in releases]
        values = tuple(float(release.shown[place]) if place >= 0 else 0.0 for release, place in zip(releases, at, strict=True))
        low = tuple(float(release.low[place]) if place >= 0 else 0.0 for release, place in zip(releases, at, strict=True))
        high = tuple(float(release.high[place]) if place >= 0 else 0.0 for release, place in zip(releases, at, strict=True))
        return Line(name=name, x=x, y=values, low=tuple(map(min, low, values)), high=tuple(map(max, high, values)))

    return Curve(title="How did the weights move from release to release?", x_title="release", y_title="weight", lines=tuple(line(name) for name in names), stage="metrics",
                 caption=f"{len(releases)} releases; 90% intervals over draws of experiments")


def _bars(releases: list[Release]) -> Curve:
    return Curve(title="How did the bar for shipping move?", x_title="release", y_title="posterior mean asked for", stage="metrics", caption=f"{len(releases)} releases",
                 lines=(Line(name="bar", x=tuple(float(release.number) for release in releases), y=tuple(release.bar for release in releases)),))


__all__ = ["picture", "told"]
