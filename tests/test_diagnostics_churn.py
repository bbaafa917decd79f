"""Two models about the same rows."""

import numpy as np
import pytest

from judging import ask
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.predictions.churn import OTHER, Churn
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.subject import ScoreSubject
from recspect.examining.examination import examine, examine_table
from recspect.schema import Schema
from recspect.worlds import World, logit_of, sigmoid

SCHEMA = World().schema


def rows(seed, count=6000):
    batch = World(rows=count, seed=seed).exposures()
    return batch.with_columns({"@label": batch["click"], "@cluster": batch["user"]})


def noisy(batch, noise, seed):
    return sigmoid(logit_of(batch.numbers("truth")) + noise * np.random.default_rng(seed).normal(size=batch.rows))


def test_both_figures_are_those_of_the_rows():
    batch = rows(0, 3000)
    one, other = noisy(batch, 0.5, 1), noisy(batch, 0.5, 2)
    (finding,) = ask(Churn(), batch.with_columns({"@score": one, OTHER: other}), schema=SCHEMA)
    top = [set(np.argsort(-scores)[:300]) for scores in (one, other)]
    table = dict(row[:2] for row in finding.evidence[0].rows)
    assert table["difference over the mean score"] == pytest.approx(np.abs(one - other).mean() / ((one + other) / 2).mean())
    assert table["common rows of the highest tenths"] == pytest.approx(len(top[0] & top[1]) / 300)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("noise", "verdict"), [(0.0, "PASS"), (0.1, "PASS"), (0.3, "PASS"), (1.2, "WARN"), (2.0, "WARN")])
def test_models_far_apart_are_found(seed, noise, verdict):
    batch = rows(seed)
    (finding,) = ask(Churn(), batch.with_columns({"@score": noisy(batch, noise, 1), OTHER: noisy(batch, noise, 2)}), schema=SCHEMA)
    assert finding.verdict == verdict
    assert "their AUCs are 0." in finding.claim


def test_scores_in_another_order_at_the_top_alone_are_found_by_the_overlap():
    rng = np.random.default_rng(0)
    one = rng.uniform(0.4, 0.5, 5000)
    batch = Batch({"@score": one, OTHER: 0.9 - one, "@cluster": rng.integers(0, 300, 5000)})
    (finding,) = ask(Churn(), batch, schema=SCHEMA)
    assert finding.verdict is Verdict.WARN
    assert finding.estimate.unit.startswith("share of the highest 10%")
    assert finding.estimate.value == 0


def test_rows_that_tie_at_the_edge_share_what_is_left():
    batch = Batch({"@score": np.full(2000, 0.2), OTHER: np.full(2000, 0.2), "@cluster": np.arange(2000)})
    (finding,) = ask(Churn(), batch, schema=SCHEMA)
    assert finding.evidence[0].rows[1][1] == pytest.approx(0.1)  # a constant says nothing about who is on top


def test_nothing_is_said_without_another_score_or_rows():
    batch = rows(0, 2000)
    scored = batch.with_columns({"@score": batch["truth"]})
    for table, words in ((scored, "no scores of another model"), (scored.with_columns({OTHER: batch["truth"]}).take(slice(0, 500)), "only 500 rows")):
        (finding,) = ask(Churn(), table, schema=SCHEMA)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim


def test_the_other_score_is_named_when_a_table_is_examined():
    batch = rows(0, 3000).select(["user", "item", "surface", "age", "time", "click", "truth"])
    table = batch.with_columns({"mine": noisy(batch, 2.0, 1), "theirs": noisy(batch, 2.0, 2)})
    schema = Schema(**{**{name: getattr(SCHEMA, name) for name in ("fields", "labels", "user", "item", "time", "time_unit")}, "score": "mine", "ignored": ("truth", "theirs")})
    report = examine_table(table, schema, other_score="theirs", diagnostics=[Churn()])
    assert [finding.verdict for finding in report.findings] == [Verdict.WARN]
    report = examine_table(table, schema, diagnostics=[Churn()])
    assert [finding.verdict for finding in report.findings] == [Verdict.UNKNOWN]


def test_another_model_is_asked_about_the_same_rows():
    batch = rows(0, 3000)
    models = [ScoreSubject(score=lambda b, seed=seed: noisy(b, 0.1, seed), fields=["user"]) for seed in (1, 2)]
    report = examine(models[0], batch.select(["user", "item", "surface", "age", "time", "click", "truth"]), SCHEMA, other_model=models[1], diagnostics=[Churn()])
    assert [finding.verdict for finding in report.findings] == [Verdict.PASS]
