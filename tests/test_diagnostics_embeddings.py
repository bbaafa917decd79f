"""Embedding diagnostics find planted faults in the right table and are silent on healthy tables."""

import numpy as np
import pytest
import torch
from torch import nn

from judging import ask
from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.diagnostics.embeddings.collapse import Collapse
from recspect.diagnosis.diagnostics.embeddings.spectrum import gaussian_effective_rank
from recspect.diagnosis.diagnostics.embeddings.untrained_rows import UntrainedRows
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probes.internals import RowProbe
from recspect.diagnosis.stats.gram import Gram
from recspect.diagnosis.subject import TorchSubject
from recspect.worlds import World, split_by_time

SEEDS = range(5)


def table(seed, *, rows=500, width=16, rank=None, mean=1.0, uses=None):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, rank or width)) @ rng.normal(size=(rank, width)) if rank else rng.normal(size=(rows, width))
    return {"@embedding:item": vectors + mean * rng.normal(size=width), "@uses:item": np.ones(rows) if uses is None else uses}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rank", "verdict"), [(1, "FAIL"), (2, "FAIL"), (None, "PASS")])
def test_collapse_is_found_and_a_common_mean_is_not_mistaken_for_it(seed, rank, verdict):
    (finding,) = ask(Collapse(), Batch(table(seed, rank=rank, mean=10.0)), tables=("item",))
    assert finding.verdict == verdict
    assert finding.place.name == ("" if verdict == "PASS" else "item")
    if rank:
        assert finding.estimate.value <= rank / 16 + 1e-9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scales", [np.geomspace(1, 1e-4, 16), np.repeat([1.0, 0.0], 8)], ids=["steep", "half of it empty"])
def test_partial_collapse_warns(seed, scales):
    content = table(seed)
    content["@embedding:item"] = content["@embedding:item"] * scales
    (finding,) = ask(Collapse(), Batch(content), tables=("item",))
    assert finding.verdict is Verdict.WARN
    curve, ranked = finding.evidence
    assert [line.name for line in curve.lines] == ["item"]
    assert ranked.rows[0][0] == "item"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_spectrum_as_steep_as_tastes_of_few_dimensions_passes(seed):
    content = table(seed)
    content["@embedding:item"] = content["@embedding:item"] * np.repeat([1.0, 0.1], [4, 12])
    (finding,) = ask(Collapse(), Batch(content), tables=("item",))
    assert (finding.verdict, finding.estimate.value) == (Verdict.PASS, pytest.approx(0.45, abs=0.15))


def test_only_rows_that_training_read_count():
    sick, healthy = table(0, rank=1), table(1, uses=np.zeros(500))
    both = Batch({name: np.concatenate([sick[name], healthy[name]]) for name in sick})
    (finding,) = ask(Collapse(), both, tables=("item",))
    assert (finding.verdict, finding.estimate.n) == (Verdict.FAIL, 500)


def test_equal_vectors_use_no_dimension():
    (finding,) = ask(Collapse(), Batch({"@embedding:item": np.ones((500, 16))}), tables=("item",))
    assert (finding.verdict, finding.estimate.value) == (Verdict.FAIL, 0.0)


@pytest.mark.parametrize("shape", [(40, 16), (500, 2)])
def test_tables_too_small_to_judge_are_unknown(shape):
    (finding,) = ask(Collapse(), Batch({"@embedding:item": np.random.default_rng(0).normal(size=shape)}), tables=("item",))
    assert finding.verdict is Verdict.UNKNOWN
    assert "item" in finding.claim


def test_without_tables_collapse_is_unknown():
    (finding,) = ask(Collapse(), Batch({"x": np.zeros(3)}))
    assert finding.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(("rows", "width"), [(8, 8), (16, 4), (64, 16), (1000, 16), (10, 16), (33, 64)])
def test_the_random_table_agrees_with_simulation(rows, width):
    rng = np.random.default_rng(0)
    simulated = np.mean([Gram(column="e").summarize(Batch({"e": rng.normal(size=(rows, width))})).effective_rank() for _ in range(30)])
    assert gaussian_effective_rank(rows, width) == pytest.approx(simulated, rel=0.03)


class Dot(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(300, 16), nn.Embedding(200, 16)
        self.bias = nn.Parameter(torch.tensor(-1.5))

    def forward(self, x):
        return (self.user(x["user"]) * self.item(x["item"])).sum(-1) / 4 + self.bias


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("spread", "verdict"), [(0.0, "FAIL"), (1.0, "PASS")])
def test_a_trained_table_that_started_collapsed_stays_so(seed, spread, verdict):
    """With all items starting on one line, and training alike in both cases."""
    torch.manual_seed(seed)
    batch = World(users=300, rows=6000, seed=seed).exposures()
    model = Dot()
    with torch.no_grad():
        line = torch.randn(200, 1) @ torch.randn(1, 16)
        model.item.weight.copy_((1 - spread) * line + spread * model.item.weight)
    x = {name: torch.as_tensor(batch[name]) for name in ("user", "item")}
    y = torch.as_tensor(batch["click"], dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for rows in torch.randperm(len(y)).split(500):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model({k: v[rows] for k, v in x.items()}), y[rows]).backward()
        optimiser.step()
    content = Batch({"@embedding:item": model.item.weight.detach().numpy().copy(), "@uses:item": np.bincount(batch["item"], minlength=200)})
    (finding,) = ask(Collapse(), content, tables=("item",))
    assert finding.verdict == verdict


# ---------------------------------------------------------------------- untrained rows


def lookups(seed, new, rows=6000):
    """Held-out and training lookups; a share of the held-out ones read rows from 1000 on, which training never does."""
    rng = np.random.default_rng(seed)
    train = Batch({"@row:item": rng.integers(0, 300, rows), "@cluster": rng.integers(0, 400, rows)})
    held_out = np.where(rng.random(rows) < new, rng.integers(1000, 1200, rows), rng.integers(0, 300, rows))
    return Batch({"@row:item": held_out, "@cluster": rng.integers(0, 400, rows)}), train


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("new", "verdict"), [(0.0, "PASS"), (0.002, "PASS"), (0.05, "WARN"), (0.4, "FAIL")])
def test_lookups_of_untouched_rows(seed, new, verdict):
    target, reference = lookups(seed, new)
    (finding,) = ask(UntrainedRows(), target, reference, tables=("item",))
    assert finding.verdict == verdict
    true = (target["@row:item"] >= 1000).mean()
    assert finding.estimate.value == pytest.approx(true, abs=1e-12)
    if new >= 0.05:
        assert finding.estimate.low < true < finding.estimate.high
        assert finding.place.name == "item"
        assert "of held-out lookups read vectors of item that none of 6,000 training lookups touched" in finding.claim


def test_more_rows_than_fit_are_judged_on_the_kept_ones():
    rng = np.random.default_rng(0)
    train = Batch({"@row:item": rng.permutation(100_000), "@cluster": rng.integers(0, 400, 100_000)})
    held_out = Batch({"@row:item": rng.integers(50_000, 150_000, 30_000), "@cluster": rng.integers(0, 400, 30_000)})
    (finding,) = ask(UntrainedRows(), held_out, train, tables=("item",))
    assert finding.estimate.value == pytest.approx(0.5, abs=0.02)


def test_entries_of_lists_count_and_empty_lists_do_not():
    rows = Ragged(np.tile([1, 2, 9], 100), np.repeat(np.arange(0, 303, 3), 2)[:200])
    target = Batch({"@row:tags": rows, "@cluster": np.arange(199)})
    reference = Batch({"@row:tags": np.tile([1, 2], 100), "@cluster": np.arange(200)})
    (finding,) = ask(UntrainedRows(), target, reference, tables=("tags",))
    assert finding.estimate.value == pytest.approx(1 / 3, abs=1e-9)


def test_untrained_rows_are_unknown_without_lookups_or_rows():
    (finding,) = ask(UntrainedRows(), Batch({"x": np.zeros(3)}))
    assert finding.verdict is Verdict.UNKNOWN
    target, reference = lookups(0, 0.1, rows=40)
    (finding,) = ask(UntrainedRows(), target, reference, tables=("item",))
    assert finding.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(("fresh", "verdict"), [(0, "PASS"), (60, "FAIL")])
def test_new_items_in_a_real_model(fresh, verdict):
    train, held_out = split_by_time(World(users=300, items=100, rows=8000, popularity=0.0).exposures())
    model, moved = Dot(), np.where(held_out["item"] < fresh, held_out["item"] + 100, held_out["item"])
    train, held_out = (batch.with_columns({"@cluster": batch["user"]}) for batch in (train, held_out.with_columns({"item": moved})))
    subject = TorchSubject(model, fields=["user", "item"], forward=lambda m, x: torch.sigmoid(m(x)))
    subject.sites(train)
    findings = ask(UntrainedRows(), held_out, train, probes=[RowProbe(subject)], tables=("user", "item"))
    assert {finding.place.name: finding.verdict for finding in findings}.get("item" if fresh else "") == verdict
