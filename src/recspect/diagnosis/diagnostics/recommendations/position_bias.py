"""Do clicks depend on the place in the list, and does the model know?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.features.unused import measured_importance
from recspect.diagnosis.diagnostics.policy import between, number, percent, plural, verdict_below
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import estimate_from
from recspect.diagnosis.slice import Slice, Term
from recspect.diagnosis.stats.items_along import ItemsAlong
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

Floats = NDArray[np.float64]
FAIL, WARN, RELIANCE = 0.5, 0.8, 0.01
FIRST_PLACES, ENOUGH_CLICKS, ENOUGH_ROWS, ITEMS = 20, 30, 100, 1024


class PositionBias(Diagnostic):
    """Clicks at lower places over clicks at the first, of the same items.

    P(click) = theta_k gamma_i for item i at place k, fitted by greatest Poisson likelihood: only items that were shown at several places say anything.
    """

    code = "recommendations.position_bias"
    question = "Do clicks depend on the place in the list, and does the model know?"
    sources = ("Agarwal et al. 2019, Estimating Position Bias without Intrusive Interventions (intervention harvesting)",
               "Craswell et al. 2008, An Experimental Comparison of Click Position-Bias Models", "Guo et al. 2019, PAL: a Position-bias Aware Learning Framework")

    def needs(self, scope: Scope) -> Needs:
        """Clicks by item and place, of the training rows where they hold what is needed; how far the place moves the score, where it was measured."""
        scope.require_binary()
        position, item = scope.require_role("position"), scope.require_role("item")
        wanted = {"@label", "@cluster", position, item}
        log = (Slice((Term(position, "<=", str(FIRST_PLACES)),)), _clicks(scope))
        from_training = wanted <= scope.reference
        if not from_training:
            scope.require_target(*sorted(wanted))
        relied = [scope.bucketed(Moments(column=f"@{kind}:{field}")) for field in _fields(scope) for kind in ("reliance", "usefulness")
                  if f"@{kind}:{field}" in scope.target] if f"@reliance:{position}" in scope.target else []
        varies = [Moments(column=position)] if position in scope.target else []
        return Needs(target=(*Needs.of(target=[*relied, *varies]).target, *(() if from_training else (log,))), reference=(log,) if from_training else ())

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding about the log, and one about the model where the place is among its fields."""
        position = scope.require_role("position")
        log = Slice((Term(position, "<=", str(FIRST_PLACES)),))
        side = reference if reference.has(_clicks(scope), log) else target
        places, cells = side.get_summary(_clicks(scope), log).grid(scope.buckets)
        findings = [self._log(places, cells, scope, position, "training" if side is reference else "held-out")]
        if position in _fields(scope):
            findings.append(self._model(target, scope, position))
        return findings

    def _log(self, places: NDArray[np.int64], cells: Floats, scope: Scope, position: str, side: str) -> Finding:
        places, cells = _comparable(places, cells)
        whole = cells.sum(0)
        theta = _examination(whole)
        later = whole[:, 1:, 0].sum(0) / whole[:, 1:, 0].sum()
        held = cells.sum((1, 2, 3)) > 0
        replicas = np.array([_examination(whole - part, start=theta) for part in cells[held]])
        n = int(whole[..., 0].sum())
        ratio = estimate_from(float(later @ theta[1:]), replicas[:, 1:] @ later, unit="clicks at later places / at the first", n=n)
        ends = [estimate_from(float(theta[k]), replicas[:, k], unit="theta", n=n) for k in range(len(theta))]
        naive = whole[..., 1].sum(0) / whole[..., 0].sum(0)
        knows = position in _fields(scope)
        verdict = Verdict.PASS if knows else verdict_below(ratio, fail=FAIL, warn=WARN)
        if not knows and verdict is Verdict.WARN and not ratio.surely_below(WARN):
            verdict = Verdict.PASS
        steep = ratio.surely_below(WARN)
        numbers = (f"the same items get {between(ratio, 2)} times as many clicks at places {places[1]} to {places[-1]} as at place {places[0]} "
                   f"({n:,} {side} rows of {plural(len(whole), 'item')} shown at several places{', weighed by 1 / propensity' if scope.schema.propensity else ''}; without matching "
                   f"items it would seem to be {number(float(later @ naive[1:] / naive[0]) if naive[0] else float('nan'), 2)})")
        claim = (f"Clicks fall with the place, and the model knows the place: {numbers}." if steep and knows else
                 f"Clicks fall with the place, and the place is no field of the model: {numbers}." if verdict is not Verdict.PASS else
                 f"Clicks hardly depend on the place: {numbers}.")
        curve = Curve(title="How do clicks on the same item fall with its place?", x_title="place", y_title=f"clicks / at place {places[0]}",
                      lines=(Line(name="same items", x=tuple(map(float, places)), y=tuple(map(float, theta)), low=tuple(_end(e, e.low) for e in ends), high=tuple(_end(e, e.high) for e in ends)),
                             Line(name="all rows", x=tuple(map(float, places)), y=tuple((naive / naive[0]).tolist() if naive[0] else [float("nan")] * len(naive)), role="reference")),
                      caption=f"{n:,} {side} rows, intervals by {scope.cluster_name}")
        return Finding(
            code=self.code, verdict=verdict, claim=claim, estimate=ratio, neutral=1.0, limit=FAIL if verdict is Verdict.FAIL else WARN, sources=self.sources, evidence=(curve,),
            threshold=f"FAIL surely below {FAIL}, WARN surely below {WARN}, where the place is no field of the model",
            meaning="A label 0 at a low place often means not seen. A model trained on it learns where items were shown and takes it for what users want.",
            causes=("users look at the first places most", "the ranker puts an item first for those users who want it: matching items does not take that away"),
            remedies=(Remedy(code="model_position", text="Give the model the place in training, and one fixed place at serving (or a tower of its own, PAL)."),
                      Remedy(code="weigh_propensity", text="Weigh clicks by 1 / theta of their place."),
                      Remedy(code="swap_places", text="Swap places at random for a small share of requests, and compare with this curve.")))

    def _model(self, target: Tally, scope: Scope, position: str) -> Finding:
        """Whether the held-out scores use a place that is not known before items are ranked."""
        place = Place(kind="field", name=position)
        if f"@reliance:{position}" not in scope.target:
            return Finding(code=self.code, verdict=Verdict.UNKNOWN, place=place, sources=self.sources, meaning=f"Not answered: {self.question}",
                           claim=f"How far the place ({position}) moves the score was not measured.", threshold="give the model, not only its scores")
        if not target.has(Moments(column=position)):
            raise Unavailable(f"the held-out rows have no {position!r}")
        varies = float(np.nan_to_num(target.get_summary(Moments(column=position)).deviation)) > 0
        share = next(field.share for field in measured_importance(target, scope) if field.field == position)
        verdict = Verdict.WARN if varies and share.surely_above(RELIANCE) else Verdict.PASS
        numbers = f"{position} makes up {percent(share.value)} of what moves the score ({share.n:,} rows)"
        claim = (f"Held-out scores use the place that was logged, which no one knows before ranking: {numbers}." if verdict is Verdict.WARN else
                 f"Held-out scores do not rest on the logged place: {numbers}{'' if varies else ', and it is the same in all held-out rows'}.")
        return Finding(
            code=self.code, verdict=verdict, claim=claim, place=place, estimate=share, limit=RELIANCE, sources=self.sources,
            threshold=f"WARN when the place varies in the held-out rows and is surely more than {percent(RELIANCE, 0)} of what moves the score",
            meaning="Scored at the places of the old ranker, the model looks better than it will be, and ranks by where items used to stand.",
            causes=("held-out rows are scored with their logged place", "serving reads the place of an earlier ranking"),
            remedies=(Remedy(code="fix_position", text="Set the place to one value (1) in the rows that are scored, here and at serving."),))


def _clicks(scope: Scope) -> ItemsAlong:
    return ItemsAlong(item=scope.require_role("item"), along=scope.require_role("position"), places=2 * FIRST_PLACES, capacity=ITEMS, buckets=scope.buckets, label="@label",
                      propensity=scope.schema.propensity if scope.schema.propensity in (scope.reference or scope.target) else None)


def _fields(scope: Scope) -> tuple[str, ...]:
    return scope.fields or scope.schema.field_names


def _comparable(places: NDArray[np.int64], cells: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The places that have rows enough and are tied to the first by items shown at both, and the items shown at several of them.

    Raises:
        Unavailable: There are no two such places, or too few clicks.
    """
    shown = cells[..., 0].sum(0)
    kept = np.flatnonzero(shown.sum(0) >= ENOUGH_ROWS)
    if len(kept) < 2:
        raise Unavailable(f"fewer than two places have {ENOUGH_ROWS} rows each", hint="give the log with the place at which each item was shown")
    tied = np.array([k for k in kept if (np.minimum(shown[:, kept[0]], shown[:, k])).sum() >= ENOUGH_ROWS])
    several = (shown[:, tied] > 0).sum(1) >= 2 if len(tied) else np.zeros(len(shown), dtype=bool)
    if len(tied) < 2 or not several.any():
        raise Unavailable("no items were shown both at the first place and at later ones often enough to compare", hint="swap places at random for a small share of requests")
    cells = cells[:, several][:, :, tied]
    if cells[:, :, 0, 1].sum() < ENOUGH_CLICKS or cells[..., 1].sum() < 2 * ENOUGH_CLICKS:
        raise Unavailable(f"the items shown at several places have only {cells[:, :, 0, 1].sum():,.0f} clicks at the first; {ENOUGH_CLICKS} are needed", hint="give more rows")
    return places[tied], cells


def _examination(sums: Floats, *, start: Floats | None = None, most: int = 500) -> Floats:
    """Theta of each place over that of the first, from rows and clicks by item and place, shape (items, places, 2); by iterative proportional fitting."""
    rows, clicks = sums[..., 0], sums[..., 1]
    theta: Floats = np.ones(rows.shape[1]) if start is None else start
    by_item, by_place = clicks.sum(1), clicks.sum(0)
    for _ in range(most):
        appeal = by_item / np.maximum(rows @ theta, 1e-12)
        new = by_place / np.maximum(appeal @ rows, 1e-12)
        new = new / max(new[0], 1e-12)
        if np.abs(new - theta).max() < 1e-7:
            return np.asarray(new)
        theta = new
    return theta


def _end(estimate: Estimate, end: float | None) -> float:
    return max(0.0, estimate.value if end is None else end)
