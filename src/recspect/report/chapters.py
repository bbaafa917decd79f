"""Which stage of the loop a piece of overview evidence belongs to: the one that it names, else what its words speak of.

Findings files written before evidence had a stage carry only a title that is a question; there the words of the title, axes
and columns decide.
"""

from __future__ import annotations

import re

from recspect.diagnosis.evidence import Curve, Evidence, HeatMap, RankedTable, Scatter
from recspect.report.wording import clean

_WORDS = {
    "data": "row rows missing null drift drifted psi duplicate duplicates lost event events collected split label labels leak older newer "
            "logged impressions age dataset sessions",
    "features": "field fields feature features importance attribution attributed reliance usefulness ablation permutation skew served "
                "vocabulary unknown rare unused numeric categorical",
    "training": "training epoch epochs loss gradient gradients step steps pass learning activation activations unit units dead layer layers "
                "weight weights update converge overfitting memorise rises rise train",
    "embeddings": "embedding embeddings vector vectors singular spectrum spectra rank effective direction directions collapse dimension "
                  "dimensions table tables abundance",
    "predictions": "predicted prediction predictions probability probabilities calibration calibrated calibrate observed auc baseline baselines "
                   "slice slices entropy accuracy precision ndcg recall score scores metric metrics better worst error errors",
    "explanations": "explanation explanations explained explain faithful infidelity completeness deletion insertion scorecard",
    "recommendations": "recommendation recommendations recommended recommend recommends list lists popular popularity exposure exposures "
                       "coverage diversity novelty tail catalogue gini items shown",
    "effects": "effect effects lift experiment arm arms policy propensity",
    "cost": "latency seconds milliseconds memory bytes throughput cost",
}
WORDS = {stage: frozenset(words.split()) for stage, words in _WORDS.items()}
OTHER = "run"
"""Chapter of evidence that no word places."""

INTRODUCTIONS = {
    "data": "What went in: rows, labels, time, and whether held-out data look like training data.",
    "features": "What the model is given, what it uses of it, and what of that helps.",
    "training": "How the model learned, and where it stopped learning anything that holds elsewhere.",
    "embeddings": "What the tables of ids hold.",
    "predictions": "How well scores rank and how far they can be taken at their word, against simple baselines and slice by slice.",
    "explanations": "Whether what is said about the model's reasons is so.",
    "recommendations": "What people would get to see.",
    "effects": "Whether it did any good.",
    "cost": "What it takes to run.",
    OTHER: "Further figures of this run.",
}


def stage_of(evidence: Evidence) -> str:
    """The stage that the evidence names, else the one that most of its words speak of, the title counting double; `run` where none does.

    Between two stages the later one in the loop wins: "loss by slice" is about predictions.
    """
    if evidence.stage:
        return evidence.stage
    title = _words(evidence.title)
    match evidence:
        case Curve() | Scatter():
            more = _words(f"{evidence.x_title} {evidence.y_title}")
        case HeatMap():
            more = _words(f"{evidence.unit} {evidence.row_title} {evidence.column_title}")
        case RankedTable():
            more = _words(" ".join(evidence.columns))
        case _:
            more = _words(getattr(evidence, "unit", "") or getattr(evidence, "x_title", ""))
    points = {stage: 2 * len(words & title) + len(words & more) for stage, words in WORDS.items()}
    best = max(points.values())
    return [stage for stage, count in points.items() if count == best][-1] if best else OTHER


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", clean(text, limit=600).lower()))
