"""How far two models, or two trainings of one, disagree about the same rows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, percent, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import RankedTable
from recspect.diagnosis.finding import Finding, Remedy, Verdict
from recspect.diagnosis.jackknife import estimate_from
from recspect.diagnosis.stat import jackknife
from recspect.diagnosis.stats.errors import PredictionError, PredictionErrorSummary
from recspect.diagnosis.stats.row_sample import RowSample, RowSampleSummary
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

OTHER = "@score:other"
DIFFERENCE, OVERLAP = 0.5, 0.5
TOP = 0.10
FEWEST = 1000

Floats = NDArray[np.float64]


class Churn(Diagnostic):
    """Do two models give the same rows the same scores?

    PD = mean |p1 - p2| / mean (p1 + p2) / 2, and the share of the rows in one's highest tenth that are in the other's too.
    """

    code = "predictions.churn"
    question = "Do two models, or two trainings of one, give the same rows the same scores?"
    sources = ("Shamir and Lin 2022, Real World Large Scale Recommendation Systems Reproducibility and Smooth Activations (relative prediction difference)",
               "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        """Both scores of the held-out rows."""
        scope.require_binary()
        scope.require_target(OTHER, why="there are no scores of another model on these rows")
        scope.require_target("@score", "@cluster")
        labelled = [ScoreLabel(), ScoreLabel(score=OTHER)] if "@label" in scope.target else []
        return Needs.of(target=[scope.bucketed(score_difference()), _sample(scope), *(scope.bucketed(stat) for stat in labelled)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - the interface's
        apart = target.get_summary(scope.bucketed(score_difference()))
        require_rows(apart.total.count, "the rows with both scores", least=FEWEST)
        difference = apart.estimate(relative_difference, unit="mean |p1 - p2| over the mean score", n=lambda total: total.count)
        overlap = _overlap(target.get_summary(_sample(scope)))
        quality = _quality(target, scope)
        far, other_rows = difference.surely_above(DIFFERENCE), overlap.surely_below(OVERLAP)
        numbers = (f"scores of one row differ by {between(difference)} of the mean score ({difference.n:,} rows), and the highest tenths have {percent(overlap.value)} "
                   f"of their rows in common ({percent(TOP)} by chance; {overlap.n:,} rows){quality}")
        start = "The two models disagree about the same rows" if far or other_rows else "The two models agree about as much as two trainings of one model do"
        decided, limit, neutral = (overlap, OVERLAP, 1.0) if other_rows and not far else (difference, DIFFERENCE, 0.0)
        yield Finding(
            code=self.code, verdict=Verdict.WARN if far or other_rows else Verdict.PASS, claim=f"{start}: {numbers}.", estimate=decided, limit=limit, neutral=neutral,
            threshold=f"WARN when the difference is surely above {DIFFERENCE:g} of the mean score, or the highest tenths surely have less than {OVERLAP:.0%} in common",
            meaning="Where equally good models disagree, what a person is shown is decided by chance of the training, and offline and online figures of one of them say little about the other.",
            causes=("large updates: a high learning rate, small batches, few steps to settle", "embeddings of rare ids that start at random and hardly train", "the models saw other rows or fields"),
            remedies=(Remedy(code="lower_learning_rate", text="Lower the learning rate towards the end, or average the last weights."),
                      Remedy(code="average_models", text="Average the scores of several trainings."), Remedy(code="change_activation", text="Use smooth activations (GELU, SiLU) in place of ReLU.")),
            evidence=(RankedTable(title="How far are the two models apart?", columns=("figure", "value", "from", "to"), rows=(
                ("difference over the mean score", difference.value, difference.low, difference.high), ("common rows of the highest tenths", overlap.value, overlap.low, overlap.high))),),
            sources=self.sources)


def score_difference() -> PredictionError:
    """What is added up: the difference of both scores of a row."""
    return PredictionError(prediction="@score", target=OTHER)


def _sample(scope: Scope) -> RowSample:
    return RowSample(numbers=("@score", OTHER), buckets=scope.buckets)


def relative_difference(total: PredictionErrorSummary) -> float:
    """Mean |p1 - p2| over the mean score."""
    mean = total.target.mean + total.error.mean / 2  # (p1 + p2) / 2
    return total.mean_absolute_error / mean if mean > 0 else np.nan


def _overlap(sample: RowSampleSummary) -> Estimate:
    """Share of the highest tenth by one score that is in the highest tenth by the other, on the sampled rows."""
    known = np.isfinite(sample.numbers).all(1)
    scores, weight, bucket = sample.numbers[known], sample.weights[known], sample.buckets[known]
    present = np.unique(bucket)
    if len(weight) < FEWEST:
        raise Unavailable(f"only {len(weight):,} distinct rows have both scores; {FEWEST:,} are needed", hint="give more rows")
    replicas = np.array([_common(scores[bucket != b], weight[bucket != b]) for b in present])
    return estimate_from(_common(scores, weight), replicas, unit=f"share of the highest {TOP:.0%} in common", n=len(weight))


def _common(scores: Floats, weight: Floats) -> float:
    one, other = (_in_top(column, weight) for column in scores.T)
    return float((weight * one * other).sum() / (weight * one).sum())


def _in_top(scores: Floats, weight: Floats) -> Floats:
    """How much of each row is in the highest tenth by weight: 1, 0, or a part for the rows at its edge, which share what is left."""
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(-scores[order], return_index=True)
    sums = np.add.reduceat(weight[order], first)
    left = np.clip(TOP * weight.sum() - (np.cumsum(sums) - sums), 0, sums) / sums
    inside = np.empty(len(scores))
    inside[order] = np.repeat(left, np.diff(np.append(first, len(scores))))
    return inside


def _quality(target: Tally, scope: Scope) -> str:
    """How good both are, in words; empty where labels are not there or of one class."""
    stats = [scope.bucketed(ScoreLabel()), scope.bucketed(ScoreLabel(score=OTHER))]
    if not all(target.has(stat) for stat in stats):
        return ""
    own, other = (target.get_summary(stat) for stat in stats)
    if not np.isfinite(own.total.auc) or not np.isfinite(other.total.auc):
        return ""
    lost = jackknife([own, other], lambda t: t[1].auc - t[0].auc, unit="AUC", n=int(own.total.count))
    return f"; their AUCs are {own.total.auc:.3f} and {other.total.auc:.3f}, a difference of {between(lost, 4)}"
