"""Two models on the same rows: gains with intervals that hold, planted losers found, decisions by declared rules."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from commanding import command
from recspect.cli import app
from recspect.comparing.comparison import CODES, compare_scores
from recspect.comparing.pairs import figures, row_gains, slice_gains, user_gains
from recspect.comparing.release import ABSENT, BROKEN, HOLDS, OPEN, ReleaseRule, decide_release, read_rules
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Report, Verdict
from recspect.diagnosis.source import read
from recspect.errors import DataError, Unavailable, UsageError
from recspect.experimenting.deciding import Action
from recspect.schema import Field, Kind, Label, Schema

SCHEMA = Schema(user="user", item="item", labels=[Label(name="click")], fields=[Field(name="country", kind=Kind.CATEGORICAL), Field(name="device", kind=Kind.CATEGORICAL)])


def world(seed, rows=20_000, users=1000, noise=(0.6, 0.6), bad=0.0):
    """Clicks of known probability, and two models whose logits miss it by some noise of their own per user and item; `bad`: a shift of the candidate's in one country."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, users, rows), rng.integers(0, 200, rows)
    country = np.array(["DE", "FR", "CN", "BR"])[rng.integers(0, 4, users)][user]
    logit = -1.5 + rng.normal(0, 0.8, users)[user] + rng.normal(0, 0.6, 200)[item]
    click = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    scores = [1 / (1 + np.exp(-(logit + rng.normal(0, size, users)[user] + bad * which * (country == "BR")))) for which, size in enumerate(noise)]
    return Batch({"user": user, "item": item, "country": country.astype(object), "device": np.array(["app", "web"], object)[rng.integers(0, 2, rows)], "click": click}), *scores


def table(rows, current, candidate):
    return rows.with_columns({"@label": rows.numbers("click"), "@cluster": rows["user"], "@score": candidate, "@score:other": current})


def test_figures_are_those_of_scikit_learn():
    rows, current, candidate = world(0)
    click = rows.numbers("click")
    found = {figure.name: figure for figure in figures(table(rows, current, candidate), binary=True, users=True)}
    assert set(found) == {"log_loss", "auc", "calibration", "user_auc", "ndcg@10"}
    assert found["log_loss"].candidate == pytest.approx(log_loss(click, candidate), rel=1e-9)
    assert found["log_loss"].gain.value == pytest.approx(log_loss(click, current) - log_loss(click, candidate), rel=1e-6)
    assert found["auc"].gain.value == pytest.approx(roc_auc_score(click, candidate) - roc_auc_score(click, current), abs=2e-4)
    gain, _ = row_gains(table(rows, current, candidate), binary=True)
    assert gain.mean() == pytest.approx(found["log_loss"].gain.value, rel=1e-9)


def test_equally_good_models_are_told_apart_as_rarely_as_promised_though_users_are_few():
    """Errors of both models are per user: by rows the intervals would be far too narrow."""
    wrong = by_rows = 0
    for seed in range(100):
        rows, current, candidate = world(seed, rows=4000, users=200)
        both = table(rows, current, candidate)
        gain, _ = row_gains(both, binary=True)
        figure = figures(both, binary=True, users=False)[0]
        wrong += figure.gain.surely_above(0) or figure.gain.surely_below(0)
        by_rows += abs(gain.mean()) > 1.96 * gain.std() / np.sqrt(len(gain))
    assert wrong / 100 <= 0.11  # 5% with a standard error of 2.2%
    assert by_rows > wrong + 4


def test_the_country_that_loses_is_found_and_healthy_ones_are_not():
    quiet = 0
    for seed in range(20):
        rows, current, candidate = world(seed)
        quiet += not any(one.rate < 0.05 for one in slice_gains(table(rows, current, candidate), ["country", "device"], binary=True))
    assert quiet >= 17
    rows, current, candidate = world(1, noise=(0.6, 0.3), bad=1.5)
    found = slice_gains(table(rows, current, candidate), ["country", "device"], binary=True)
    assert found[0].name == "country=BR"
    assert found[0].rate < 1e-3
    assert found[-1].gain.surely_above(0)
    assert found[0].rows == (np.asarray([*pl.Series(list(rows["country"]))]) == "BR").sum()


def test_who_gains_and_who_loses():
    rows, current, candidate = world(2, noise=(1.5, 0.1))
    found = user_gains(table(rows, current, candidate), binary=True)
    assert found.better.value > 0.6 > 0.5 > found.worse.value
    assert found.better.value + found.worse.value <= 1
    assert found.better.low < found.better.value < found.better.high
    with pytest.raises(Unavailable, match="users have 5 rows"):
        user_gains(table(*world(3, rows=300, users=290)), binary=True)


def test_a_better_model_ships_a_worse_one_does_not_and_a_twin_waits():
    for noise, action in (((1.2, 0.1), Action.SHIP), ((0.1, 1.2), Action.HOLD), ((0.4, 0.4), Action.NEEDS_DATA)):
        rows, current, candidate = world(4, rows=40_000, users=4000, noise=noise)
        found = compare_scores(rows, SCHEMA, current, candidate)
        assert found.decision.action is action, found.decision.reasons
        assert {finding.code for finding in found.report.findings} == set(CODES)
        assert Report.from_mapping(json.loads(found.report.to_json())).to_json() == found.report.to_json()


def test_a_gain_that_is_paid_for_by_one_country_is_held():
    rows, current, candidate = world(5, rows=40_000, users=4000, noise=(1.0, 0.1), bad=-2.0)
    found = compare_scores(rows, SCHEMA, current, candidate)
    assert found.report.find("effects.model_slices")[0].verdict is Verdict.WARN
    assert "country=BR" in found.report.find("effects.model_slices")[0].claim
    assert found.decision.action is Action.HOLD
    assert any("worst_slice" in reason and BROKEN in reason for reason in found.decision.reasons)


def test_grades_are_compared_by_squared_error():
    rng = np.random.default_rng(6)
    rating = rng.integers(1, 6, 5000).astype(float)
    schema = Schema(user="user", labels=[Label(name="rating", kind="graded")])
    rows = Batch({"user": rng.integers(0, 400, 5000), "rating": rating})
    found = compare_scores(rows, schema, rating + rng.normal(0, 1.2, 5000), rating + rng.normal(0, 0.8, 5000))
    assert [figure.name for figure in found.figures] == ["squared_error"]
    assert found.decision.action is Action.SHIP


def test_scores_that_are_none_are_refused():
    rows, current, candidate = world(7, rows=1000)
    with pytest.raises(DataError, match="no probability"):
        compare_scores(rows, SCHEMA, current, candidate * 7)
    with pytest.raises(DataError, match="1 of 1,000 rows"):
        compare_scores(rows, SCHEMA, np.where(np.arange(1000) == 5, np.nan, current), candidate)


# ---------------------------------------------------------------------- rules


@pytest.mark.parametrize(("kind", "by", "low", "high", "state"), [
    ("better", 0.0, 0.1, 0.3, HOLDS), ("better", 0.2, 0.1, 0.3, OPEN), ("better", 0.4, 0.1, 0.3, BROKEN), ("better", 0.0, -0.1, 0.3, OPEN),
    ("not_worse", 0.2, -0.1, 0.3, HOLDS), ("not_worse", 0.05, -0.1, 0.3, OPEN), ("not_worse", 0.05, -0.3, -0.1, BROKEN)])
def test_rules_are_judged_by_whole_intervals(kind, by, low, high, state):
    gain = Estimate(value=(low + high) / 2, low=low, high=high, unit="AUC", n=1000)
    rule = ReleaseRule(figure="auc", kind=kind, by=by)
    assert rule.state(gain) == state
    assert rule.state(None) == ABSENT
    assert decide_release([rule], {"auc": gain}).action is {HOLDS: Action.SHIP, OPEN: Action.NEEDS_DATA, BROKEN: Action.HOLD}[state]


def test_what_cannot_be_had_is_open_unless_it_may_be_absent():
    good = Estimate(value=0.1, low=0.05, high=0.15, unit="AUC", n=1000)
    rules = [ReleaseRule(figure="auc", kind="better"), ReleaseRule(figure="churn", kind="at_most", by=0.3)]
    assert decide_release(rules, {"auc": good}).action is Action.NEEDS_DATA
    assert decide_release([rules[0], ReleaseRule(figure="churn", kind="at_most", by=0.3, optional=True)], {"auc": good}).action is Action.SHIP
    assert decide_release(rules, {"auc": good, "churn": Estimate(value=0.5, low=0.4, high=0.6, unit="", n=1)}).action is Action.HOLD


@pytest.mark.parametrize("text", ["", "rule = 3", '[[rule]]\nfigure = "auc"', '[[rule]]\nfigure = "luck"\nkind = "better"', '[[rule]]\nfigure = "auc"\nkind = "at_most"',
                                  '[[rule]]\nfigure = "auc"\nkind = "better"\nby = "much"', '[[rule]]\nfigure = "auc"\nkind = "better"\nby = -1', '[[rule]]\nfigure = "auc"\nkind = "better"\ncolour = 1'])
def test_rules_that_cannot_be(tmp_path, text):
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(UsageError):
        read_rules(tmp_path / "rules.toml")


# ---------------------------------------------------------------------- the command


def test_columns_of_scores_are_compared(tmp_path):
    rows, current, candidate = world(8, rows=40_000, users=4000, noise=(1.2, 0.1))
    pl.DataFrame({"user": rows["user"], "item": rows["item"], "country": list(rows["country"]), "click": rows["click"], "old": current, "new": candidate}).write_parquet(tmp_path / "scored.parquet")
    (tmp_path / "schema.toml").write_text('[roles]\nuser = "user"\nitem = "item"\n[[labels]]\nname = "click"\n[[fields]]\nname = "country"\nkind = "categorical"\n')
    words = ("--eval", tmp_path / "scored.parquet", "--schema", tmp_path / "schema.toml")
    assert command(app, "compare", "old", "new", *words).exit_code == 0
    done = command(app, "compare", "new", "old", *words, "--format", "json")
    assert done.exit_code == 1
    assert Report.from_mapping(json.loads(done.output)).find("effects.release")[0].verdict is Verdict.FAIL
    (tmp_path / "rules.toml").write_text('[[rule]]\nfigure = "auc"\nkind = "better"\nby = 0.5\n')
    assert command(app, "compare", "old", "new", *words, "--rules", tmp_path / "rules.toml").exit_code == 1
    with pytest.raises(DataError, match="lacks the column"):
        command(app, "compare", "old", "newest", *words)
    with pytest.raises(UsageError, match="not two run directories"):
        command(app, "compare", "old", "new")


def test_two_runs_are_compared_with_the_roles_of_their_fields(tmp_path):
    pytest.importorskip("torch")
    from recspect.comparing.runs import compare_runs
    from recspect.models import ModelConfig
    from recspect.training.config import TrainingConfig
    from recspect.training.loop import train

    rows, _, _ = world(9, rows=5000, users=300)
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"user": rows["user"], "item": rows["item"], "country": list(rows["country"]), "device": list(rows["device"]), "click": rows["click"]}).write_parquet(path)
    fields = [Field(name=name, kind=Kind.CATEGORICAL) for name in ("user", "item", "country", "device")]
    whole, blind = (Schema(user="user", item="item", labels=[Label(name="click")], fields=kept) for kept in (fields, fields[2:]))
    reference = {"kind": "file", "path": str(path)}
    for name, schema in (("whole", whole), ("blind", blind)):
        train(read(path), schema, TrainingConfig(model=ModelConfig(name="mlp"), maximum_epochs=1), tmp_path / name, reference=reference)
    again = TrainingConfig(model=ModelConfig(name="linear"), maximum_epochs=1)
    train(read(path), whole, again, tmp_path / "again", reference=reference)
    train(read(path), whole, TrainingConfig(model=ModelConfig(name="mlp"), maximum_epochs=1, seed=1), tmp_path / "other rows", reference=reference)
    found = compare_runs(tmp_path / "whole", tmp_path / "again")  # the same data and split: their own held-out rows
    assert found.figures[0].gain.n == found.report.provenance["rows"]["test"] < 5000
    with pytest.raises(UsageError, match="other data"):
        compare_runs(tmp_path / "whole", tmp_path / "other rows")  # drawn by another seed: some were trained on
    found = compare_runs(tmp_path / "whole", tmp_path / "again", data=str(path))
    assert {role.field for role in found.roles} == {"user", "item", "country", "device"}
    assert sum(role.candidate.value for role in found.roles) == pytest.approx(1)
    lost = compare_runs(tmp_path / "whole", tmp_path / "blind", data=str(path))
    changed = {role.field for role in lost.roles if role.changed}
    assert {"user", "item"} <= changed
    assert lost.report.find("effects.model_fields")[0].verdict is Verdict.WARN
