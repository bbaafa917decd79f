"""One law example per stat that recspect ships; a test holds that none is missing."""

from __future__ import annotations

import numpy as np

from recspect.diagnosis.batch import Batch, Categorical, Ragged
from recspect.diagnosis.stats.binned import BinnedLabel
from recspect.diagnosis.stats.calibration_histogram import CalibrationHistogram
from recspect.diagnosis.stats.categories import CategoryCounts
from recspect.diagnosis.stats.crosstab import Crosstab
from recspect.diagnosis.stats.distinct import Distinct
from recspect.diagnosis.stats.errors import PredictionError
from recspect.diagnosis.stats.exposure import Exposure
from recspect.diagnosis.stats.field_flow import FieldFlow
from recspect.diagnosis.stats.gram import Gram
from recspect.diagnosis.stats.inverse_propensity import InversePropensity
from recspect.diagnosis.stats.items_along import ItemsAlong
from recspect.diagnosis.stats.keyed_rows import KeyedRows
from recspect.diagnosis.stats.later import Later
from recspect.diagnosis.stats.measures import (
    NDCG,
    AreaUnderCurve,
    AveragePrecision,
    HitRate,
    Precision,
    Recall,
    ReciprocalRank,
)
from recspect.diagnosis.stats.missing import Missing
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.stats.outcomes import Outcomes
from recspect.diagnosis.stats.policy_value import PolicyValue
from recspect.diagnosis.stats.quantiles import Quantiles
from recspect.diagnosis.stats.ranges import GroupRanges
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.stats.row_sample import RowSample
from recspect.diagnosis.stats.sample import BottomK
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.stats.series import Series
from recspect.diagnosis.stats.shared_rows import SharedRows
from recspect.diagnosis.stats.slice_sums import SliceSums
from recspect.diagnosis.stats.time_blocks import TimeBlocks
from recspect.diagnosis.stats.units import UnitActivity
from recspect.testing.laws import LawExample


def _numbers(rng: np.random.Generator, rows: int) -> Batch:
    return Batch({"x": rng.normal(1, 1, rows)})


def _scores(rng: np.random.Generator, rows: int) -> Batch:
    return Batch({"@score": rng.beta(0.4, 4, rows), "@label": rng.integers(0, 2, rows)})


def _ratings(rng: np.random.Generator, rows: int) -> Batch:
    return Batch({"@score": rng.normal(3, 1, rows), "@label": rng.integers(1, 6, rows)})


def _lists(rng: np.random.Generator, rows: int) -> Batch:
    """Short lists, few score levels (many ties), graded labels."""
    return Batch({"user": rng.integers(0, max(rows // 5, 1), rows), "@score": rng.integers(0, 8, rows) / 8,
                  "@label": rng.integers(0, 4, rows) * rng.integers(0, 2, rows)})


def _kinds_in_lists(rng: np.random.Generator, rows: int) -> Batch:
    """The same lists of items of several kinds; a user's rows are dependent."""
    lists = _lists(rng, rows)
    return lists.with_columns({"kind": rng.integers(0, 9, rows), "@cluster": lists["user"]})


def _categories(rng: np.random.Generator, rows: int) -> Batch:
    names = np.array([f"city {i}" for i in range(200)], dtype=object)
    return Batch({"c": Categorical(rng.integers(-1, 200, rows), names), "y": rng.integers(0, 2, rows),
                  "id": rng.integers(0, 50, rows)})


def _tags(rng: np.random.Generator, rows: int) -> Batch:
    lengths = rng.integers(0, 4, rows)
    names = np.array([f"tag {i}" for i in range(30)], dtype=object)
    values = Categorical(rng.integers(0, 30, int(lengths.sum())), names)
    return Batch({"tags": Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))})


def _choices(rng: np.random.Generator, rows: int) -> Batch:
    """Clicks under known probabilities, some of which cannot be."""
    logged = np.where(rng.random(rows) < 0.05, 0.0, rng.uniform(0.05, 1, rows))
    return Batch({"r": rng.integers(0, 2, rows), "p": logged, "e": rng.random(rows), "q": rng.random(rows), "m": rng.random(rows)})


def _vectors(rng: np.random.Generator, rows: int) -> Batch:
    return Batch({"e": rng.normal(0.5, 1, (rows, 4)) * np.array([1, 2, 0.5, 1])})


def _flows(rng: np.random.Generator, rows: int) -> Batch:
    """Two fields through layers of three and of two neurons, and what goes around them."""
    flows = {f"@conductance:{field}:{layer}": rng.normal(0.2, 1, (rows, width)) for field in "ab" for layer, width in (("mlp.1", 3), ("mlp.3", 2))}
    return Batch({**flows, **{f"@{kind}:{field}": rng.normal(0.2, 1, rows) for kind in ("attribution", "usefulness") for field in "ab"}})


def _activations(rng: np.random.Generator, rows: int) -> Batch:
    return Batch({"h": np.maximum(rng.normal(0, 3, (rows, 5)), 0) * np.array([1, 1, 0, 0.01, 2])})


def _internals(rng: np.random.Generator, rows: int) -> Batch:
    series, places = (np.array(names, dtype=object) for names in (["loss/train", "gradient_norm"], ["", "mlp.0", "mlp.1", "fm"]))
    step = rng.integers(0, 500, rows)
    return Batch({"@step": step, "@epoch": step // 100, "@series": Categorical(rng.integers(0, 2, rows), series),
                  "@place": Categorical(rng.integers(0, 4, rows), places), "@value": rng.normal(1, 1, rows)})


def _labelled_numbers(rng: np.random.Generator, rows: int) -> Batch:
    return Batch({"x": rng.normal(0, 30, rows).round(1), "y": rng.integers(0, 2, rows)})


def _sliced(rng: np.random.Generator, rows: int) -> Batch:
    names = np.array([f"city {i}" for i in range(60)], dtype=object)
    return Batch({"c": Categorical(rng.integers(-1, 60, rows), names), "d": rng.integers(0, 4, rows), "@cluster": rng.integers(0, 30, rows),
                  "@score": rng.beta(0.4, 4, rows), "@label": rng.integers(0, 2, rows)})


def _priced_items(rng: np.random.Generator, rows: int) -> Batch:
    names = np.array([f"item {i}" for i in range(60)], dtype=object)
    return Batch({"item": Categorical(rng.integers(-1, 60, rows), names), "price": rng.normal(5, 1, rows), "age": rng.integers(0, 9, rows)})


def _timed(rng: np.random.Generator, rows: int) -> Batch:
    return Batch({"time": rng.uniform(0, 2000, rows), "known": rng.uniform(0, 2000, rows), "@cluster": rng.integers(0, 30, rows),
                  "@score": rng.beta(0.4, 4, rows), "@label": rng.integers(0, 2, rows), "p": rng.uniform(0.01, 1, rows)})


_MEASURES = (AreaUnderCurve(), NDCG(k=3), NDCG(k=None, gain="exponential"), Recall(k=3), Precision(k=3), HitRate(k=3),
             ReciprocalRank(k=3), AveragePrecision(k=3, over="achievable"))

_CROSSINGS = (((), ((),)), (("c",), (("city 3",), ("",), ("city 59",))), (("c", "d"), (("city 3", "1"), ("city 4", "0"))))

LAW_EXAMPLES: tuple[LawExample, ...] = (
    LawExample(stat=Moments(column="x"), make=_numbers),
    LawExample(stat=ScoreLabel(detail=2), make=_scores),
    LawExample(stat=BinnedLabel(column="x", label="y"), make=_labelled_numbers),
    LawExample(stat=CalibrationHistogram(bins=20, low=0.1, high=0.6), make=_scores),
    LawExample(stat=PredictionError(), make=_ratings),
    LawExample(stat=Missing(column="tags"), make=_tags),
    LawExample(stat=Missing(column="id", codes=("0", "7")), make=_categories),
    LawExample(stat=GroupRanges(by="item", over=("price", "age"), capacity=20), make=_priced_items),
    LawExample(stat=PerUnit(unit="user", measures=_MEASURES), make=_lists),
    LawExample(stat=PerUnit(unit="user", measures=_MEASURES[:2], weighting="rows", undefined="zero"), make=_lists),
    LawExample(stat=Exposure(unit="user", by="kind", buckets=5, capacity=6), make=_kinds_in_lists),
    LawExample(stat=CategoryCounts(column="c", capacity=20), make=_categories),
    LawExample(stat=CategoryCounts(column="tags", capacity=20), make=_tags),
    LawExample(stat=CategoryCounts(column="id"), make=_categories),
    LawExample(stat=Crosstab(row="c", column="y", row_capacity=20, column_capacity=4), make=_categories),
    LawExample(stat=Crosstab(row="id", column="c", row_capacity=9, column_capacity=5), make=_categories),
    LawExample(stat=Outcomes(over=("c",), buckets=7, capacity=20), make=_sliced),
    LawExample(stat=Outcomes(over=("d", "c"), buckets=7, capacity=20), make=_sliced),
    LawExample(stat=SliceSums(crossings=_CROSSINGS, buckets=7), make=_sliced),
    LawExample(stat=SliceSums(crossings=_CROSSINGS, buckets=7, unit="@cluster"), make=_sliced),
    LawExample(stat=SliceSums(crossings=_CROSSINGS, buckets=7, share=0.5), make=_sliced),
    LawExample(stat=Quantiles(column="x", k=64), make=_numbers),
    LawExample(stat=Distinct(column="x", k=32), make=_numbers),
    LawExample(stat=Distinct(column="tags", k=32), make=_tags),
    LawExample(stat=BottomK(over=("c", "id"), k=32), make=_categories),
    LawExample(stat=RowSample(categories=("c", "id"), buckets=7, cluster="id", k=32), make=_categories),
    LawExample(stat=RowSample(categories=("c",), numbers=("@score", "@label"), k=32), make=_sliced),
    LawExample(stat=SharedRows(column="c", buckets=20, label="y", capacity=60), make=_categories),
    LawExample(stat=SharedRows(column="c", row="id", label="y", capacity=60), make=_categories),
    LawExample(stat=TimeBlocks(time="time", time_unit="s", width=1.5, capacity=40, buckets=5, score="@score"), make=_timed),
    LawExample(stat=ItemsAlong(item="@cluster", along="time", width=20.0, places=8, capacity=10, buckets=5, label="@label"), make=_timed),
    LawExample(stat=ItemsAlong(item="@cluster", along="time", time_unit="ms", places=4, buckets=5, propensity="p"), make=_timed),
    LawExample(stat=KeyedRows(key=("c",), categories=("d",), numbers=("@score", "@label"), k=32), make=_sliced),
    LawExample(stat=Later(column="known", than="time", time_unit="s"), make=_timed),
    LawExample(stat=InversePropensity(column="p"), make=_timed),
    LawExample(stat=PolicyValue(reward="r", logged="p", target="e"), make=_choices),
    LawExample(stat=PolicyValue(reward="r", logged="p", target="e", predicted="q", expected="m", limits=(0.5, 1.5, 5.0)), make=_choices),
    LawExample(stat=Gram(column="e"), make=_vectors),
    LawExample(stat=FieldFlow(fields=("a", "b"), layers=("mlp.1", "mlp.3"), loss=True, neurons=True), make=_flows),
    LawExample(stat=FieldFlow(fields=("b",)), make=_flows),
    LawExample(stat=UnitActivity(column="h"), make=_activations),
    LawExample(stat=Series(name="loss/train", capacity=16, places=3), make=_internals),
)
"""Every stat in `recspect.diagnosis.stats`, some in several settings."""
