"""The audience keeps its own laws, the rule of retraining fires when it says, and the circle learns."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra train is not installed")

from recspect.diagnosis.finding import Finding, Verdict
from recspect.errors import RunError, UsageError
from recspect.events.store import open_store
from recspect.looping import rounds as looping
from recspect.looping.commands import line
from recspect.looping.retraining import RetrainingRule
from recspect.looping.rounds import LoopSettings, go_round
from recspect.models import ModelConfig
from recspect.worlds.audience import SimulatedAudience

SMALL = SimulatedAudience(users=60, items=40, seed=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_clicks_happen_as_often_as_the_truth_says():
    users = SMALL.visits(40_000, seed=0)
    lists = np.argsort(np.random.default_rng(0).random((len(users), 40)), axis=1)[:, :5]
    clicks = SMALL.clicks(users, lists, seed=0)
    expected = SMALL.attraction[users[:, None], lists] * SMALL.looks(5)
    error = 4 * np.sqrt((expected * (1 - expected)).sum(axis=0)) / len(users)
    assert (np.abs(clicks.mean(axis=0) - expected.mean(axis=0)) < error).all()
    assert SMALL.rewards(users, lists).mean() == pytest.approx(clicks.sum(axis=1).mean(), rel=0.03)
    assert SMALL.attraction.mean() == pytest.approx(SMALL.base_rate, rel=1e-6)


def test_nobody_does_better_than_the_best_lists():
    users = np.arange(60)
    best = SMALL.rewards(users, SMALL.best(users, 4))
    generator = np.random.default_rng(0)
    for _ in range(50):
        assert (SMALL.rewards(users, np.argsort(generator.random((60, 40)), axis=1)[:, :4]) <= best + 1e-12).all()
    assert SMALL.rewards(users, np.full((60, 4), -1)).tolist() == [0.0] * 60


def test_a_matter_of_taste_or_of_common_appeal():
    common = SimulatedAudience(users=50, items=30, personal=0.0)
    assert np.ptp(common.attraction, axis=0).max() == 0  # all like the same
    personal = SimulatedAudience(users=50, items=30, personal=1.0)
    assert np.ptp(personal.attraction, axis=0).min() > 0


def finding(code, verdict):
    return Finding(code=code, verdict=verdict, claim="")


@pytest.mark.parametrize(("rule", "hours", "rows", "found", "reason"), [
    (RetrainingRule(every_hours=24), 23.9, 10**9, (), ""),
    (RetrainingRule(every_hours=24), 24, 0, (), "24 hours ago"),
    (RetrainingRule(every_hours=None, new_rows=1000), 1, 999, (), ""),
    (RetrainingRule(every_hours=None, new_rows=1000), 1, 1000, (), "1,000 rows are new"),
    (RetrainingRule(every_hours=None), 1, 0, (("data.drift", Verdict.WARN), ("embeddings.collapse", Verdict.FAIL)), ""),
    (RetrainingRule(every_hours=None), 1, 0, (("data.drift", Verdict.FAIL),), "data.drift"),
    (RetrainingRule(every_hours=None, least_hours=2), 1, 0, (("data.drift", Verdict.FAIL),), ""),
])
def test_a_training_is_due_when_the_rule_says(rule, hours, rows, found, reason):
    findings = [finding(*each) for each in found]
    given = rule.due(NOON, last=NOON - timedelta(hours=hours), new_rows=rows, findings=findings)
    assert bool(given) == bool(reason)
    assert reason in given
    assert rule.due(NOON, last=None) == "nothing was trained yet"


def test_rules_that_never_fire_are_refused():
    with pytest.raises(UsageError, match="never due"):
        RetrainingRule(every_hours=None, findings=())
    with pytest.raises(UsageError):
        RetrainingRule(every_hours=0)


QUICK = {"audience": SMALL, "visits": 150, "k": 4, "epochs": 2, "model": ModelConfig(embedding_width=4, hidden=(8,))}


def test_a_loop_that_was_stopped_goes_on_with_the_same_result(tmp_path, monkeypatch):
    whole = go_round(tmp_path / "whole", LoopSettings(rounds=3, **QUICK))
    monkeypatch.setattr(looping, "_write", _stopping(looping._write))
    with pytest.raises(KeyboardInterrupt):
        go_round(tmp_path / "stopped", LoopSettings(rounds=3, **QUICK))
    monkeypatch.undo()
    resumed = go_round(tmp_path / "stopped", LoopSettings(rounds=3, **QUICK))
    assert [(each.reward, each.popular, each.clicked) for each in resumed] == [(each.reward, each.popular, each.clicked) for each in whole]
    store = open_store(tmp_path / "stopped" / "events.duckdb")
    assert store.count("exposure") == 3 * 150 * 4  # the round that was done twice is there once
    assert store.count("click") == sum(each.clicked for each in whole)
    store.close()
    with pytest.raises(RunError, match="other settings"):
        go_round(tmp_path / "whole", LoopSettings(rounds=3, seed=1, **QUICK))


def _stopping(write):
    """Killed at the worst moment: a round is done and in the store, and not yet noted."""
    def stop(folder: Path, settings, rounds, last):
        if len(rounds) == 2:
            raise KeyboardInterrupt
        write(folder, settings, rounds, last)

    return stop


def test_everything_that_judges_need_is_in_the_log(tmp_path):
    go_round(tmp_path, LoopSettings(rounds=2, epsilon=0.3, **QUICK))
    store = open_store(tmp_path / "events.duckdb")
    rows = [row for row in store.since(0)[0].to_pylist() if row["kind"] == "exposure" and row["model_version"] != "random"]
    store.close()
    assert {row["position"] for row in rows} == {1, 2, 3, 4}
    assert {round(row["propensity"], 6) for row in rows if row["propensity"] > 0.5} == {0.7}
    assert any(row["propensity"] < 0.1 for row in rows)
    note = json.loads((tmp_path / "loop.json").read_text())
    assert note["rounds"][1]["model"] == rows[0]["model_version"]


def test_without_a_click_the_circle_goes_on_with_popular_items_and_says_so(tmp_path):
    nobody = LoopSettings(rounds=3, **QUICK | {"audience": SimulatedAudience(users=60, items=40, seed=1, base_rate=1e-6)})
    found = go_round(tmp_path / "nobody", nobody)
    assert [each.clicked for each in found] == [0, 0, 0]
    assert {each.model for each in found} == {"random"}  # all items are equally popular
    assert "0 clicks" in found[0].unlearnt
    assert "nothing can be learned" in line(found[0])
    assert [bool(each.unlearnt) for each in found] == [True, True, False]  # behind the last round nothing is trained
    assert not list((tmp_path / "nobody" / "runs").glob("*"))
    few = LoopSettings(rounds=4, seed=1, **QUICK | {"audience": SimulatedAudience(users=60, items=40, seed=1, base_rate=0.05), "visits": 5})
    found = go_round(tmp_path / "few", few)
    assert found[0].clicked == 1
    assert (found[0].trained, found[1].model) == ("", "popular")
    store = open_store(tmp_path / "few" / "events.duckdb")
    clicked = next(row["item"] for row in store.since(0)[0].to_pylist() if row["kind"] == "click")
    shown = [row for row in store.since(0)[0].to_pylist() if row["kind"] == "exposure" and row["model_version"] == "popular" and row["request"].startswith("r2-")]
    store.close()
    assert {(row["item"], row["propensity"]) for row in shown if row["position"] == 1} == {(clicked, 1.0)}
    assert {row["propensity"] for row in shown if row["position"] > 1} == {1 / 39}  # any of the others, equally likely


@pytest.mark.slow
def test_the_circle_learns_and_beats_popularity(tmp_path):
    found = go_round(tmp_path, LoopSettings(rounds=5))
    rewards = [each.reward for each in found]
    assert rewards == sorted(rewards)
    assert found[-1].gain[1] > 0.5
    assert found[-1].reward > 0.7 * found[-1].best
