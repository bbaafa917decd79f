"""Whether predictions get worse with time since training: planted ageing, worlds that move without it, and the line itself."""

import numpy as np
import pytest

from judging import ask
from recspect.diagnosis.diagnostics.predictions.decay import Decay
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.stats.time_blocks import LOSS, ROWS, TimeBlocks
from recspect.schema import Label, Schema

SCHEMA = Schema(user="user", time="time", time_unit="s", labels=(Label(name="click"),))
DAY, DAYS = 86_400, 14


def log(seed, *, rows=20_000, users=500, ageing=0.0, days_differ=0.0, rising=0.0):
    """(held-out, training) rows of 14 days each; scores are the true probabilities, and worse with age by noise of `ageing` x sqrt(days) logits."""
    rng = np.random.default_rng(seed)
    user, time = rng.integers(0, users, rows), np.sort(rng.uniform(0, 2 * DAYS * DAY, rows))
    day = (time // DAY).astype(int)
    logit = -1.5 + rng.normal(0, 0.6, users)[user] + rng.normal(size=rows) + rng.normal(0, days_differ, 2 * DAYS)[day] + rising * day / DAYS
    y = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    score = 1 / (1 + np.exp(-logit - ageing * np.sqrt(np.maximum(0, day - DAYS)) * rng.normal(size=rows)))
    table = {"user": user, "time": time, "@label": y, "@cluster": user, "@score": score}
    held_out = time >= DAYS * DAY
    return {name: column[held_out] for name, column in table.items()}, {name: column[~held_out] for name, column in table.items()}


def judged(seed, **settings):
    (finding,) = ask(Decay(), *log(seed, **settings), schema=SCHEMA)
    return finding


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_ages_is_found(seed):
    finding = judged(seed, ageing=0.4)
    assert finding.verdict is Verdict.WARN
    assert finding.estimate.low > 0.1
    assert finding.remedies[0].code == "train_more_often"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("world", [{}, {"days_differ": 0.3}, {"rising": 0.5}, {"rows": 60_000}], ids=["still", "days differ", "rising", "many rows"])
def test_a_model_that_does_not_age_is_quiet(seed, world):
    finding = judged(seed, **world)
    assert finding.verdict is Verdict.PASS
    assert finding.estimate.has_interval


def test_the_line_is_that_of_least_squares_over_days_since_training():
    held_out, train = log(0, ageing=0.4)
    finding = judged(0, ageing=0.4)
    day = (held_out["time"] // DAY).astype(int)
    p, y = held_out["@score"], held_out["@label"]
    loss, rate, rows = (np.array([values[day == d].mean() for d in range(DAYS, 2 * DAYS)]) for values in (-np.log(np.where(y == 1, p, 1 - p)), y, np.ones(len(y))))
    rows = np.bincount(day)[DAYS:]
    entropy = loss / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    slope = np.polyfit(np.arange(DAYS), entropy, 1, w=np.sqrt(rows))[0]
    assert finding.estimate.value == pytest.approx(slope * (DAYS - 1), rel=1e-9)
    measured, line = finding.evidence[0].lines
    np.testing.assert_allclose(measured.x, np.arange(DAYS) + 0.5)
    np.testing.assert_allclose(measured.y, entropy)
    np.testing.assert_allclose(np.diff(line.y), slope)
    alone = ask(Decay(), held_out, schema=SCHEMA)[0]
    assert alone.estimate == finding.estimate
    assert "since the first held-out row" in alone.evidence[0].x_title
    assert train["time"].max() < DAYS * DAY


def test_the_loss_of_blocks_is_that_of_their_rows():
    held_out, _ = log(0)
    from recspect.diagnosis.batch import Batch

    summary = TimeBlocks(time="time", time_unit="s", score="@score").summarize(Batch(held_out))
    p, y = held_out["@score"], held_out["@label"]
    assert summary.sums[..., LOSS].sum() == pytest.approx(-np.log(np.where(y == 1, p, 1 - p)).sum())
    assert summary.sums[..., ROWS].sum() == len(y)


def test_too_little_time_or_no_time_is_unknown():
    held_out, train = log(0)
    early = held_out["time"] < (DAYS + 1) * DAY
    short = {name: column[early][:900] for name, column in held_out.items()}
    assert ask(Decay(), short, train, schema=SCHEMA)[0].verdict is Verdict.UNKNOWN
    assert ask(Decay(), held_out, train, schema=Schema(user="user", labels=SCHEMA.labels))[0].verdict is Verdict.UNKNOWN
