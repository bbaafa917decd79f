"""Advice on the batch size from gradients whose noise scale is known."""

import numpy as np
import pytest
import torch
from torch import nn

from judging import ask
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.training.batch_size import BatchSize, noise_scale
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.observing import Observer
from recspect.examining.watched_steps import as_columns


class Linear(nn.Module):
    """score = w . x, so that the gradient of a row's score by w is the row."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(400))

    def forward(self, x):
        return x @ self.weight


def observed(scale, batch, *, seed=0, steps=80):
    """Steps of a training whose rows' gradients are normal about G = (1, 0, ...), each with tr(Sigma) = scale |G|^2."""
    draw = torch.Generator().manual_seed(seed)
    model = Linear()
    observer = Observer(model, every=1, thorough_every=1, on_finding=lambda _: None)
    for _ in range(steps):
        x = (scale / 400) ** 0.5 * torch.randn(batch, 400, generator=draw)
        x[:, 0] += 1
        with observer.step() as look:
            losses = model(x)
            look.before_backward(losses)
            look.before_update(losses.mean())
    return Batch.from_arrow(as_columns(observer.table()))


@pytest.mark.parametrize(("scale", "batch", "words"), [(50.0, 64, "within ten times"), (2000.0, 64, "Larger batches"), (1.0, 64, "Smaller batches"), (300.0, 1024, "within ten times")])
@pytest.mark.parametrize("seed", range(3))
def test_the_noise_scale_is_the_known_one_and_the_advice_follows(seed, scale, batch, words):
    (finding,) = ask(BatchSize(), observed(scale, batch, seed=seed))
    assert finding.verdict is Verdict.PASS  # advice is no alarm
    assert words in finding.claim
    assert f"a batch has {batch:,} rows" in finding.claim
    low, high = (finding.estimate.low, finding.estimate.high) if finding.estimate.has_interval else (finding.estimate.value, np.inf)
    assert low < scale * 1.3
    assert high > scale / 1.3
    if scale < 1000:
        assert finding.estimate.value == pytest.approx(scale, rel=0.35)
    assert len(finding.remedies) == (words != "within ten times")


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Noise scale 100, batches of 64 rows, 20 measurements: 500 intervals at 95%; 0.92 is three standard errors below."""
    rng = np.random.default_rng(0)
    mean = np.eye(1, 60)[0]
    inside = 0
    for _ in range(500):
        one, other = mean + np.sqrt(100 / 60 / 32) * rng.normal(size=(2, 20, 60))
        low, value, high = noise_scale((one * other).sum(1), 32 * ((one - other) ** 2).sum(1) / 2)
        assert low < value < high
        inside += low < 100 < high
    assert 0.92 < inside / 500 < 0.98


def test_where_noise_hides_the_gradient_there_is_only_a_lower_end():
    (finding,) = ask(BatchSize(), observed(100_000.0, 16, steps=40))
    assert "at least" in finding.claim
    assert not finding.estimate.has_interval
    assert finding.estimate.value < 100_000


def test_nothing_is_advised_without_measurements():
    few = observed(50.0, 64, steps=15)
    unmeasured = few.take(np.flatnonzero(few.categories("@series").decode() == "loss/train"))
    for table, words in ((few, "15 measurements of gradient noise are too few"), (unmeasured, "was not measured"), (Batch({"x": np.zeros(3)}), "No training steps")):
        (finding,) = ask(BatchSize(), table)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim
