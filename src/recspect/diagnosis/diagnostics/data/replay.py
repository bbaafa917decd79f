"""Are the fields and scores logged at serving what is computed again from the same events?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import names, number, percent, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stats.hashes import share_below, wilson
from recspect.diagnosis.stats.keyed_rows import KeyedRows, KeyedRowsSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Kind

Floats = NDArray[np.float64]
MISMATCH, LOGIT, FOUND = 0.001, 1e-3, 0.5
RELATIVE = {0: 0.0, 16: 1e-3, 32: 1.3e-6, 64: 1e-7}
"""Relative difference allowed by bits of the coarser type, as torch.testing does; whole numbers must be equal."""


class Replay(Diagnostic):
    """Share of logged rows of which any field differs from the recomputed row of the same event, and the largest difference of the logit.

    The target holds what was logged, the reference what is computed again. They are joined in `judge`, by the hash of the event's key, on the events of smallest hash.

    Args:
        key: The columns that name an event. Default: the request (and the item), else user, item and time.
    """

    code = "data.replay"
    question = "Are the fields and scores logged at serving what is computed again from the same events?"
    sources = ("Polyzotis et al. 2019, Data Validation for Machine Learning (train/serve skew)", "Sculley et al. 2015, Hidden Technical Debt in Machine Learning Systems")

    def __init__(self, key: Sequence[str] | None = None) -> None:
        self.key = None if key is None else tuple(key)

    def needs(self, scope: Scope) -> Needs:
        """A sample of whole events of each side."""
        scope.require_reference()
        return Needs.of(both=[self._stat(scope)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """One finding about fields, and one about scores where both sides have them."""
        stat = self._stat(scope)
        logged, again = target.get_summary(stat), reference.get_summary(stat)
        require_rows(logged.count, "the logged rows")
        a, b, joined = _joined(logged, again)
        by_key = f"joined by {names(stat.key)}"
        if joined < FOUND:
            raise Unavailable(f"only {percent(joined)} of the held-out events, {by_key}, are among the reference rows, so these are no recomputation of them",
                              hint="give the rows logged at serving as held-out rows, and the same events computed again as reference")
        usable = ~logged.repeated[a] & ~again.repeated[b]
        require_rows(float(usable.sum()), f"the events with one row on each side ({by_key})")
        a, b = a[usable], b[usable]
        cut = min(logged.cut, again.cut)
        score = _score(scope)
        fields = [*stat.categories, *(name for name in stat.numbers if name != score)]
        differs = np.stack([_differs(logged, again, a, b, stat, name) for name in fields], axis=1) if fields else np.zeros((len(a), 0), dtype=bool)
        if fields:
            yield self._fields(differs, fields, joined, float((~usable).sum()), cut, by_key)
        if score is not None:
            yield self._scores(logged, again, a, b, stat, score, scope)

    def _fields(self, differs: NDArray[np.bool_], fields: list[str], joined: float, repeated: float, cut: np.uint64 | float, by_key: str) -> Finding:
        n, value, every = len(differs), float(differs.any(1).mean()), cut == np.inf
        low, high = (None, None) if every else wilson(value, n / max(1 - share_below(cut), 1e-9), 0.95)
        share = Estimate(value=value, low=low, high=high, unit="share of rows with a field that differs", n=n, of="events")
        shares = dict(sorted(zip(fields, differs.mean(0).tolist(), strict=True), key=lambda pair: -pair[1]))
        worst = [field for field, part in shares.items() if part > 0]
        verdict = Verdict.FAIL if share.surely_above(MISMATCH) else Verdict.PASS
        left = f"{percent(joined)} of the logged events were found again" + (f", {number(repeated, 0)} with several different rows are left out" if repeated else "")
        told = f": {names([f'{field} ({percent(shares[field])})' for field in worst])}" if worst else ""
        claim = f"{percent(value)} of {n:,} logged rows differ from what is computed again{told} ({by_key}; {left})."
        return Finding(
            code=self.code, verdict=verdict, claim=claim, estimate=share, limit=MISMATCH, concerns=value, sources=self.sources,
            place=Place(kind="field", name=worst[0]) if verdict is Verdict.FAIL else Place(),
            threshold=f"FAIL when more than {percent(MISMATCH)} of the rows have a field that differs; numbers may differ by rounding of the coarser type of both sides",
            meaning="The model is trained and judged on values that serving does not give it.",
            causes=("serving reads a stale or another version of a table", "the same field is computed by two programs", "a default stands in for what came too late",
                    "the event was computed again with what became known later"),
            remedies=(Remedy(code="log_features", text="Train on the values logged at serving."), Remedy(code="one_program", text="Compute the field by one program on both sides, and version its tables.")),
            evidence=(Bars(title="Which fields differ from what is computed again?", unit="share of rows", names=tuple(shares)[:25], values=tuple(shares.values())[:25],
                           highlighted=tuple(worst[:25]), caption=f"{n:,} events on both sides"),) if worst else ())

    def _scores(self, logged: KeyedRowsSummary, again: KeyedRowsSummary, a: NDArray[np.int64], b: NDArray[np.int64], stat: KeyedRows, score: str, scope: Scope) -> Finding:
        column = stat.numbers.index(score)
        p, q = logged.numbers[a, column], again.numbers[b, column]
        missing = np.isnan(p) | np.isnan(q)
        apart = _apart(p, q, _bits(logged, again, column), binary=scope.binary)
        largest = float(apart[~missing].max(initial=0.0))
        many = float((apart[~missing] > LOGIT).mean()) if (~missing).any() else 0.0
        unpaired = float((np.isnan(p) != np.isnan(q)).mean())
        verdict = Verdict.FAIL if largest > LOGIT or unpaired > MISMATCH else Verdict.PASS
        unit = "logit" if scope.binary else "score"
        claim = (f"Scores computed again are those that were logged: the {unit} differs by at most {number(largest)} beyond rounding ({len(p):,} rows)." if verdict is Verdict.PASS else
                 f"Scores computed again are not those that were logged: the {unit} differs by up to {number(largest)}, by more than {LOGIT} in {percent(many)} of {len(p):,} rows"
                 f"{f', and {percent(unpaired)} have a score on one side only' if unpaired else ''}.")
        return Finding(code=self.code, verdict=verdict, claim=claim, place=Place(kind="field", name=score), concerns=max(many, unpaired), sources=self.sources, limit=LOGIT,
                       estimate=Estimate(value=largest, unit=f"largest difference of the {unit}", n=len(p), of="events"),
                       threshold=f"FAIL when the {unit} of any row differs by more than {LOGIT} beyond the rounding of its type",
                       meaning="What is examined here is not the model, or not the input, that users met.",
                       causes=("another version of the model was serving", "fields differ (see the finding about fields)", "serving works in lower precision"),
                       remedies=(Remedy(code="log_version", text="Log the version of the model with each score."),))

    def _stat(self, scope: Scope) -> KeyedRows:
        schema, there = scope.schema, scope.target & scope.reference
        key = self.key or tuple(c for c in ((schema.request, schema.item) if schema.request else (schema.user, schema.item, schema.time)) if c)
        if not key or (self.key is None and schema.request is None and schema.time is None):
            raise Unavailable("no columns name an event", hint="declare the role 'request', or user, item and time")
        scope.require_target(*key)
        scope.require_reference(*key)
        fields = [field for field in schema.fields if field.name in there and field.name not in key]
        score = _score(scope)
        if not fields and score is None:
            raise Unavailable("no field and no score is on both sides")
        return KeyedRows(key=key, categories=tuple(f.name for f in fields if f.kind is not Kind.NUMERIC),
                         numbers=(*(f.name for f in fields if f.kind is Kind.NUMERIC), *((score,) if score else ())))


def _score(scope: Scope) -> str | None:
    """The logged column rather than `@score`, which has lost the type it was logged in."""
    there = scope.target & scope.reference
    return next((column for column in (scope.schema.score, "@score") if column in there), None)


def _joined(logged: KeyedRowsSummary, again: KeyedRowsSummary) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    """Positions of the events that both sides have, on the range of hashes that both kept whole, and their share of the logged ones."""
    cut = min(logged.cut, again.cut)
    inside = np.flatnonzero(logged.keys < cut)
    place = np.searchsorted(again.keys, logged.keys[inside])
    found = (place < len(again.keys)) & (np.append(again.keys, [np.uint64(0)])[np.minimum(place, len(again.keys))] == logged.keys[inside])
    return inside[found], place[found].astype(np.int64), float(found.mean()) if len(found) else 0.0


def _bits(logged: KeyedRowsSummary, again: KeyedRowsSummary, column: int) -> int:
    bits = [int(side.precision[column]) for side in (logged, again) if side.precision[column]]
    return min(bits, default=0)


def _differs(logged: KeyedRowsSummary, again: KeyedRowsSummary, a: NDArray[np.int64], b: NDArray[np.int64], stat: KeyedRows, name: str) -> NDArray[np.bool_]:
    if name in stat.categories:
        c = stat.categories.index(name)
        return np.asarray(logged.values[a, c] != again.values[b, c])
    c = stat.numbers.index(name)
    x, y = logged.numbers[a, c], again.numbers[b, c]
    known = np.abs(x[np.isfinite(x)])
    usual = float(np.median(known)) if len(known) else 0.0
    with np.errstate(invalid="ignore"):
        near = (x == y) | (np.abs(x - y) <= RELATIVE[_bits(logged, again, c)] * np.maximum(np.maximum(np.abs(x), np.abs(y)), usual)) & np.isfinite(x) & np.isfinite(y)
    return np.asarray(~(near | (np.isnan(x) & np.isnan(y))))


def _apart(p: Floats, q: Floats, bits: int, *, binary: bool) -> Floats:
    """Difference of the logits (of the scores, for a grade) beyond what rounding gives."""
    rounding = {16: 2.0**-11, 32: 2.0**-24, 64: 2.0**-53, 0: 0.0}[bits]
    with np.errstate(invalid="ignore", divide="ignore"):
        if not binary:
            return np.asarray(np.abs(p - q) - 2 * rounding * np.abs(p))
        left, right = (np.log(x) - np.log1p(-x) for x in (np.clip(p, 1e-12, 1 - 1e-12), np.clip(q, 1e-12, 1 - 1e-12)))
        slack = 4 * rounding / np.clip(p * (1 - p), 1e-12, None)
    return np.asarray(np.maximum(np.abs(left - right) - slack, 0.0))
