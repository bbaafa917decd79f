"""Whether the spectra of embedding tables and weight matrices have the heavy tails of matrices that were trained for too long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.embeddings.spectrum import PowerLaw, power_law, table_key
from recspect.diagnosis.diagnostics.policy import between, names
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.stats.gram import Gram
from recspect.diagnosis.tally import Key, Tally
from recspect.errors import Unavailable

WARN = 2.0
"""Exponents below it are those of over-trained matrices."""
WEIGHTS = "@weights:"
FEWEST = 50
"""Eigenvalues that a fit takes; with fewer, chance alone moves the exponent across the limit."""
DRAWN = 6


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """The tail of one matrix.

    Args:
        place: The table or layer.
        rows, width: Its size.
        eigenvalues: Above 0, shape (number,).
        law: Fitted to them.
    """

    place: Place
    rows: int
    width: int
    eigenvalues: NDArray[np.float64]
    law: PowerLaw

    @property
    def exponent(self) -> Estimate:
        reach = 1.96 * self.law.error
        return Estimate(value=self.law.exponent, low=self.law.exponent - reach, high=self.law.exponent + reach, unit="exponent of the spectrum's tail", n=self.law.tail, of="eigenvalues")

    @property
    def verdict(self) -> Verdict:
        return Verdict.WARN if self.exponent.surely_below(WARN) else Verdict.PASS


class HeavyTail(Diagnostic):
    """Do the spectra of embedding tables and weight matrices have heavy tails?

    A power law p(x) ~ x^-alpha fitted to the largest eigenvalues x of W^T W; of a table, W has the rows that training read. Means are left in, as in WeightWatcher. Weak evidence:
    never FAIL.
    """

    code = "embeddings.heavy_tail"
    question = "Do the spectra of tables and layers have the heavy tails of over-trained matrices?"
    sources = ("Martin, Peng and Mahoney 2021, Predicting Trends in the Quality of State-of-the-Art Neural Networks without Access to Training or Testing Data (WeightWatcher)",
               "Clauset, Shalizi and Newman 2009, Power-Law Distributions in Empirical Data (fit)")

    def needs(self, scope: Scope) -> Needs:
        keys = _keys(scope)
        if not keys:
            raise Unavailable("no embedding tables or weight matrices were seen", hint="examine a PyTorch model together with its training rows")
        return Needs(target=tuple(keys.values()))

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - the interface's
        fitted: list[_Fitted] = []
        left_out: list[str] = []
        for place, (slice_, stat) in _keys(scope).items():
            if not target.has(stat, slice_):
                continue
            summary = target.get_summary(stat, slice_)
            values = summary.singular_values(centred=False) ** 2
            values = values[values > 0]
            law = power_law(values) if len(values) >= FEWEST and summary.count >= FEWEST else None
            if law is None:
                left_out.append(str(place))
            else:
                fitted.append(_Fitted(place=place, rows=int(summary.count), width=summary.width, eigenvalues=values, law=law))
        if not fitted:
            raise Unavailable(f"no matrix has {FEWEST} eigenvalues above 0 ({names(left_out)})", hint="the tail of fewer eigenvalues cannot be told from chance; see embeddings.collapse")
        fitted.sort(key=lambda one: one.law.exponent)
        evidence = (_tails(fitted), _table(fitted, left_out))
        heavy = [one for one in fitted if one.verdict is Verdict.WARN]
        for one in heavy:
            yield self._finding(one, evidence, f"The spectrum of {one.place} has a heavy tail, as matrices have that were trained for too long or at too high a rate: {_said(one)}.")
        light = [one for one in fitted if one.verdict is Verdict.PASS]
        if light:
            yield self._finding(light[0], evidence, f"The spectrum of {light[0].place} has no tail heavier than healthy matrices have: {_said(light[0])}." if len(light) == 1 else
                                f"The spectra of {len(light)} matrices have no tails heavier than healthy ones have; the heaviest is that of {light[0].place}: {_said(light[0])}.")

    def _finding(self, one: _Fitted, evidence: tuple[Curve, RankedTable], claim: str) -> Finding:
        return Finding(
            code=self.code, verdict=one.verdict, claim=claim, place=Place() if one.verdict is Verdict.PASS else one.place, estimate=one.exponent, limit=WARN,
            threshold=f"weak evidence, never FAIL; WARN when the exponent is surely below {WARN:g}",
            meaning="A few directions carry nearly all of the matrix. It goes with training for too long, and with other things: believe it only together with training.one_epoch, "
                    "training.overfitting or training.memorisation.",
            causes=("more epochs than the rows bear", "a learning rate that is too high", "a few directions that matter far more than the others, which is no fault"),
            remedies=(Remedy(code="stop_after_one_epoch", text="Compare with the model after its first epoch on held-out rows."),
                      Remedy(code="lower_learning_rate", text="Lower the learning rate.")),
            evidence=evidence, sources=self.sources)


def _keys(scope: Scope) -> dict[Place, Key]:
    """What to add up of each table and of each weight matrix."""
    keys: dict[Place, Key] = {Place(kind="table", name=field): table_key(field, scope) for field in scope.tables if f"@embedding:{field}" in scope.target}
    layers = sorted(column for column in scope.target if column.startswith(WEIGHTS))
    return keys | {Place(kind="layer", name=column.removeprefix(WEIGHTS)): (ALL, Gram(column=column)) for column in layers}


def _said(one: _Fitted) -> str:
    return f"exponent {between(one.exponent, 2)} ({one.law.tail:,} of {len(one.eigenvalues):,} eigenvalues; {one.rows:,} x {one.width})"


def _tails(fitted: list[_Fitted]) -> Curve:
    """Share of eigenvalues at least so large, and the law of the heaviest tail."""
    lines = []
    for one in fitted[:DRAWN]:
        x = np.sort(one.eigenvalues)[::-1] / one.eigenvalues.max()
        lines.append(Line(name=str(one.place), x=tuple(x.tolist()), y=tuple((np.arange(1, len(x) + 1) / len(x)).tolist())))
    first = fitted[0]
    ends = np.array([first.law.start, first.eigenvalues.max()])
    share = first.law.tail / len(first.eigenvalues) * (ends / ends[0]) ** (1 - first.law.exponent)
    law = Line(name=f"power law of {first.place}", x=tuple((ends / ends[1]).tolist()), y=tuple(share.tolist()), role="reference")
    return Curve(title="How heavy are the tails of the spectra?", x_title="eigenvalue / largest", y_title="share of eigenvalues at least so large", lines=(*lines, law), log_x=True, log_y=True,
                 caption="the flatter on the right, the heavier the tail")


def _table(fitted: list[_Fitted], left_out: list[str]) -> RankedTable:
    rows = tuple((str(one.place), one.rows, one.width, round(one.law.exponent, 2), round(1.96 * one.law.error, 2), one.law.tail, round(one.law.distance, 3)) for one in fitted)
    return RankedTable(title="Which matrices have the heaviest tails?", columns=("matrix", "rows", "width", "exponent", "half interval", "eigenvalues in the tail", "distance from a power law"), rows=rows,
                       caption=f"not judged, fewer than {FEWEST} eigenvalues: {names(left_out)}" if left_out else "")
