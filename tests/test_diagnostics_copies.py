"""Rows of a table that hold the same vector: planted shares, tables of every shape that hold none, and the arithmetic of 8 bits."""

import numpy as np
import pytest
import torch

from judging import ask
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.embeddings.copies import Copies
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probes.vector_keys import VectorKeysProbe, vector_keys


def judged(vectors, uses=None):
    table = Batch({"@embedding:item": vectors, "@uses:item": np.ones(len(vectors), dtype=np.int64) if uses is None else uses})
    return ask(Copies(), table, probes=[VectorKeysProbe("item")], tables=("item",))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("share", "verdict"), [(0.0, Verdict.PASS), (0.005, Verdict.PASS), (0.05, Verdict.WARN), (0.8, Verdict.FAIL)])
def test_planted_copies_are_counted(seed, share, verdict):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(2000, 8)).astype(np.float32)
    copied = rng.choice(2000, round(2000 * share), replace=False)
    vectors[copied] = vectors[copied[0]] if len(copied) else 0
    (finding,) = judged(vectors)
    assert finding.verdict is verdict
    assert finding.estimate.value == share
    assert finding.place.name == ("" if verdict is Verdict.PASS else "item")
    if len(copied):
        assert finding.evidence[0].rows[0][4] == len(copied)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", [(50_000, 8), (60, 8), (5000, 64)])
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_tables_without_copies_have_hardly_any_by_chance(seed, shape, mean):
    """Also where a mean takes bits from the entries: those of spread 1 about 10 have 4 to 5 bits each."""
    (finding,) = judged(mean + np.random.default_rng(seed).normal(size=shape))
    assert finding.verdict is Verdict.PASS
    assert finding.estimate.value < 1e-3


def test_keys_are_those_of_bfloat16():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(20_000, 1)) * np.exp(4 * rng.normal(size=(20_000, 1)))).astype(np.float32)
    vectors = np.vstack([vectors, vectors * np.float32(1.001), [[0.0]], [[-0.0]]]).astype(np.float32)
    rounded = torch.as_tensor(vectors).bfloat16().float().numpy()[:, 0]
    assert len(np.unique(vector_keys(vectors))) == len(np.unique(rounded))
    order = np.argsort(rounded, kind="stable")
    same = np.diff(rounded[order]) == 0
    np.testing.assert_array_equal(np.diff(vector_keys(vectors)[order]) == 0, same)


def test_the_length_grows_with_reads_as_planted():
    rng = np.random.default_rng(0)
    uses = np.round(np.exp(rng.uniform(0, 7, 4000))).astype(np.int64)
    vectors = rng.normal(size=(4000, 32)) * np.sqrt(uses)[:, None]
    (finding,) = judged(vectors, uses)
    expected = np.corrcoef(np.floor(np.log2(uses)), np.log(np.linalg.norm(vectors, axis=1)))[0, 1]
    assert finding.evidence[0].rows[0][5] == pytest.approx(expected, abs=1e-3)
    assert f"correlation {expected:.2f}" in finding.claim
    (line,) = finding.evidence[1].lines
    assert np.polyfit(np.log(line.x), np.log(line.y), 1)[0] == pytest.approx(0.5, abs=0.03)


def test_more_vectors_than_are_kept_are_a_sample_with_an_interval():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200_000, 8)).astype(np.float32)
    vectors[:20_000] = vectors[20_000:40_000]  # 20,000 pairs of equal rows: a fifth of all
    (finding,) = judged(vectors)
    assert finding.estimate.low < 0.2 < finding.estimate.high
    assert finding.estimate.high - finding.estimate.low < 0.01


def test_small_narrow_and_absent_tables_are_unknown():
    rng = np.random.default_rng(0)
    for vectors in (rng.normal(size=(40, 8)), rng.normal(size=(1000, 4))):
        (finding,) = judged(vectors)
        assert finding.verdict is Verdict.UNKNOWN
    (finding,) = ask(Copies(), {"x": np.zeros(3)})
    assert finding.verdict is Verdict.UNKNOWN
