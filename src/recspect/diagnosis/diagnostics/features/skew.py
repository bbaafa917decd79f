"""Does the model see the same values when serving as in training? By replay of logged requests."""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import percent, plural, require_rows, verdict_above
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

FAIL = 0.001
_PREFIX = "@mismatch:"


class Skew(Diagnostic):
    """Share of rows whose value logged at serving differs from the value computed again for the same event."""

    code = "features.skew"
    question = "Does the model see the same values when serving as in training?"
    sources = ("Breck et al. 2017, The ML Test Score (train/serve skew)", "Zinkevich, Rules of Machine Learning, rule 37")

    def needs(self, scope: Scope) -> Needs:
        """Mean of the mismatch column of every field that was logged at serving."""
        fields = _fields(scope)
        if not fields:
            raise Unavailable("no field was logged as it was served, so serving and training values cannot be compared",
                              hint="log each field as the model read it while serving, in a column named served:<field> beside <field>")
        return Needs.of(target=[scope.bucketed(Moments(column=_PREFIX + field)) for field in fields])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        """One finding per field that differs, and one for the others."""
        rates: list[tuple[str, Estimate]] = []
        for field in _fields(scope):
            summary = target.get_summary(scope.bucketed(Moments(column=_PREFIX + field)))
            require_rows(summary.total.count, "the rows logged while serving")
            rates.append((field, summary.estimate(lambda t: t.mean if t.count else float("nan"), unit="share of rows that differ",
                                                  n=lambda t: t.count)))
        rates.sort(key=lambda pair: (-pair[1].value, pair[0]))
        top = rates[:15]
        bars = Bars(title="Which fields differ between serving and training?", unit="share of rows that differ", names=tuple(f for f, _ in top),
                    values=tuple(e.value for _, e in top), low=tuple(max(0.0, e.low or 0.0) for _, e in top),
                    high=tuple(e.value if e.high is None else e.high for _, e in top), reference=FAIL,
                    highlighted=tuple(f for f, e in top if e.value > FAIL), caption=f"{rates[0][1].n:,} rows replayed")
        threshold = f"FAIL when surely more than {percent(FAIL)} of rows differ, WARN when the value is above"
        same = [(field, rate) for field, rate in rates if verdict_above(rate, fail=FAIL) is Verdict.PASS]
        for field, rate in rates:
            verdict = verdict_above(rate, fail=FAIL)
            if verdict is not Verdict.PASS:
                yield Finding(
                    code=self.code, verdict=verdict, place=Place(kind="field", name=field), estimate=rate, threshold=threshold, limit=FAIL,
                    claim=f"{field} had another value when it was served than when it is computed again, in {percent(rate.value)} of "
                          f"{rate.n:,} rows.", evidence=(bars,), sources=self.sources,
                    meaning="The model is judged on values that it does not get in production, so offline quality is not what users see.",
                    causes=("training and serving compute the field in two code paths", "the online store is late or holds a default",
                            "the field was overwritten in the warehouse after the event"),
                    remedies=(Remedy(code="log_served_features", text=f"Train on {field} as it was served: read served:{field}."),
                              Remedy(code="one_code_path", text=f"Compute {field} in one place for training and serving.")))
        if same:
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=same[0][1], threshold=threshold, evidence=(bars,), sources=self.sources,
                          claim=f"{plural(len(same), 'field')} had the same value when served and when computed again, except in at most "
                                f"{percent(same[0][1].value)} of {same[0][1].n:,} rows.")


def _fields(scope: Scope) -> tuple[str, ...]:
    return tuple(sorted(column.removeprefix(_PREFIX) for column in scope.target if column.startswith(_PREFIX)))
