"""Are predicted grades closer to the truth than the average grade?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, percent, require_rows, verdict_below
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.errors import PredictionError
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable


class RatingError(Diagnostic):
    """Root mean squared error, mean absolute error and explained variance of a graded label."""

    code = "predictions.rating_error"
    question = "Are predicted grades closer to the truth than the average grade?"
    sources = ("Herlocker et al. 2004, Evaluating Collaborative Filtering Recommender Systems",)

    def needs(self, scope: Scope) -> Needs:
        """Predicted against actual grades."""
        if not scope.schema.labels:
            raise Unavailable("no column has the role 'label'", hint="name one in the schema")
        if scope.binary:
            raise Unavailable(f"the label '{scope.schema.label.name}' is 0/1, this question is about grades",
                              hint="declare kind = 'graded' in the schema's label if it is a grade")
        scope.require_target("@score", "@label", "@cluster")
        return Needs.of(target=[_stat(scope)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        """One finding."""
        summary = target.get_summary(_stat(scope))
        total = summary.total
        require_rows(total.count, "the held-out rows")
        if not total.target.m2 > 0:
            raise Unavailable("all held-out rows have the same grade")
        found = summary.estimate(lambda t: t.r_squared, unit="share of variance explained", n=lambda t: t.count)
        rmse = summary.estimate(lambda t: t.root_mean_squared_error, unit="grades", n=lambda t: t.count)
        verdict = verdict_below(found, fail=0.0)
        if verdict is Verdict.PASS and not found.surely_above(0.0):
            verdict = Verdict.WARN
        constant = float(np.sqrt(total.target.m2 / total.count))
        yield Finding(
            code=self.code, verdict=verdict, estimate=found, sources=self.sources,
            claim=f"Predictions are off by {between(rmse, 3)} (root mean square; {number(total.mean_absolute_error, 3)} on average) where always saying the "
                  f"average is off by {number(constant, 3)}: they explain {percent(found.value)} of the variance, {found.n:,} held-out rows; they are "
                  f"{number(abs(total.bias), 3)} too {'high' if total.bias > 0 else 'low'} on average.",
            threshold="FAIL when the explained variance is surely at or below 0, WARN when the interval includes 0",
            meaning="A model that is no closer than the average grade cannot tell what a person will like.",
            causes=("the model has not converged, or diverged", "score and label are on different scales", "too many epochs: users were memorised"),
            remedies=(Remedy(code="check_scale", text="Compare the ranges of score and label."),
                      Remedy(code="tune_learning_rate", text="Lower the learning rate, train fewer epochs.")),
            evidence=(Bars(title="Is the model closer to the grades than their average?", unit="root mean squared error, grades",
                           names=("model", "always the average"), values=(rmse.value, constant), low=(rmse.value if rmse.low is None else rmse.low, constant),
                           high=(rmse.value if rmse.high is None else rmse.high, constant), highlighted=("model",), caption=f"{found.n:,} held-out rows"),))


def _stat(scope: Scope) -> Bucketed:
    return scope.bucketed(PredictionError())
