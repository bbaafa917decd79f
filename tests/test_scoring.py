"""Scores of several models over the same rows: every row is encoded once, and every distinct model runs once over it."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.internals import ScoreProbe
from recspect.diagnosis.subject import SCORE_ROWS, ScoreSubject, TorchSubject

ROWS = 2 * SCORE_ROWS + 100


@pytest.fixture
def counted():
    """A subject, the same with other weights, and how often rows were encoded and each model was run."""
    torch.manual_seed(0)
    passes = Counter()

    def encode(batch):
        passes["encoded"] += 1
        return torch.from_numpy(batch.numbers("x").astype(np.float32))[:, None]

    def model(name):
        made = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1), nn.Sigmoid())
        made.register_forward_hook(lambda *_: passes.update([name]))
        return made

    best = TorchSubject(model("best"), fields=["x"], encode=encode)
    return best, best.with_model(model("other")), passes


def test_models_of_one_run_share_encoded_rows_and_the_best_runs_once(counted):
    best, other, passes = counted
    batch = Batch({"x": np.random.default_rng(0).normal(size=ROWS)})
    probe = ScoreProbe(best, others={"@score:epoch-1": other, "@score:epoch-2": best})
    assert probe.adds == ("@score", "@score:epoch-1", "@score:epoch-2")
    found = probe.observe(batch)
    assert passes == {"encoded": 3, "best": 3, "other": 3}
    np.testing.assert_array_equal(found["@score"], found["@score:epoch-2"])
    np.testing.assert_array_equal(found["@score"], best.score(batch))
    np.testing.assert_array_equal(found["@score:epoch-1"], other.score(batch))
    assert np.abs(found["@score"] - found["@score:epoch-1"]).max() > 1e-3


def test_other_weights_keep_what_was_said_of_the_first(counted):
    best, other, _ = counted
    assert (other.fields, other.encoding, other.forward, other.declared_sites) == (best.fields, best.encoding, best.forward, {})
    assert other.model is not best.model


def test_scores_do_not_depend_on_the_size_of_pieces(counted):
    best, _, passes = counted
    batch = Batch({"x": np.random.default_rng(1).normal(size=ROWS)})
    whole = best.score(batch)
    assert passes == {"encoded": 3, "best": 3}
    np.testing.assert_allclose(ScoreProbe(best, rows=1000).observe(batch)["@score"], whole, atol=1e-6)


def test_models_that_are_no_torch_are_asked_piece_by_piece():
    sizes = []

    def score(batch):
        sizes.append(batch.rows)
        return batch.numbers("x")

    subject = ScoreSubject(score, fields=["x"])
    batch = Batch({"x": np.arange(10.0)})
    found = ScoreProbe(subject, rows=4, others={"@score:epoch-1": subject}).observe(batch)
    assert sizes == [4, 4, 2]
    np.testing.assert_array_equal(found["@score:epoch-1"], np.arange(10.0))
    assert ScoreProbe(subject).observe(batch.take(np.arange(0)))["@score"].shape == (0,)
