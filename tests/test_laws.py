"""Every registered stat keeps the laws; a stat that breaks one is found out."""

import pkgutil
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import pytest

from recspect.diagnosis import stats
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Pushable, Stat, Summary
from recspect.testing.examples import LAW_EXAMPLES
from recspect.testing.laws import (
    LawExample,
    assert_bounded,
    assert_laws,
    assert_pushdown,
    find_difference,
    run_law_suite,
    with_law_columns,
)

EXAMPLES = [pytest.param(example, id=f"{i}-{type(example.stat).__name__}") for i, example in enumerate(LAW_EXAMPLES)]


def test_every_stat_has_a_law_example():
    for module in pkgutil.iter_modules(stats.__path__):
        import_module(f"{stats.__name__}.{module.name}")
    shipped = {cls for cls in Stat.registry.values() if cls.__module__.startswith("recspect.diagnosis.stats.")}
    assert shipped == {type(example.stat) for example in LAW_EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES)
def test_laws(example: LawExample):
    assert_laws(example.stat, example.make(np.random.default_rng(3), 80))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_laws_on_random_and_spoiled_rows(example: LawExample):
    run_law_suite(example)


@pytest.mark.parametrize("example", EXAMPLES)
def test_size_is_bounded(example: LawExample):
    assert_bounded(example)


@pytest.mark.parametrize("example", [p for p in EXAMPLES if isinstance(p.values[0].stat, Pushable)])
def test_engines_are_really_compared(example: LawExample):
    rng = np.random.default_rng(5)
    batch = with_law_columns(example.stat, example.make(rng, 300), rng)
    lists = "tags" in example.stat.columns
    assert assert_pushdown(example.stat, batch) == (0 if lists else 6)
    assert assert_pushdown(example.stat, batch.take(np.arange(0))) == (0 if lists else 6)


# ---------------------------------------------------------------------- the laws themselves find what they are for


@dataclass(frozen=True)
class BrokenSummary(Summary):
    total: float
    rows: float = 0.0

    def __add__(self, other):
        return BrokenSummary((self.total + other.total) / 2, self.rows + other.rows)


@dataclass(frozen=True, kw_only=True)
class MeanOfMeans(Stat[BrokenSummary]):
    column: str = "x"

    @property
    def columns(self):
        return (self.column,)

    def zero(self):
        return BrokenSummary(0.0)

    def summarize(self, batch, weight=None):
        return BrokenSummary(float(batch.numbers(self.column).mean()) if batch.rows else 0.0)


@dataclass(frozen=True)
class CountSummary(Summary):
    rows: float
    names: tuple = ()

    def __add__(self, other):
        return CountSummary(self.rows + other.rows, (*self.names, *other.names))


@dataclass(frozen=True, kw_only=True)
class Unweighted(Stat[CountSummary]):
    keep: bool = False

    @property
    def columns(self):
        return ("x",)

    def zero(self):
        return CountSummary(0.0)

    def summarize(self, batch, weight=None):
        return CountSummary(float(batch.rows), tuple(batch.numbers("x").tolist()) if self.keep else ())


def _rows(rng, rows):
    return Batch({"x": rng.normal(size=rows)})


def test_a_mean_of_means_is_found_out():
    with pytest.raises(AssertionError, match="zero \\+ s is s"):
        assert_laws(MeanOfMeans(), _rows(np.random.default_rng(0), 20))


def test_ignored_weights_are_found_out():
    with pytest.raises(AssertionError, match="weight 2 is the row twice"):
        assert_laws(Unweighted(), _rows(np.random.default_rng(0), 20))


def test_unbounded_growth_is_found_out():
    with pytest.raises(AssertionError, match="its bound is 10,000"):
        assert_bounded(LawExample(stat=Unweighted(keep=True), make=_rows, max_bytes=10_000))


def test_differences_are_named():
    a, b = CountSummary(1.0, (1.0, 2.0)), CountSummary(1.0, (1.0, 2.5))
    assert find_difference(a, a) == ""
    assert find_difference(a, b) == "summary.names[1] is np.float64(2.0), expected np.float64(2.5)"
    assert "keys" in find_difference({"a": 1}, {"b": 1})
