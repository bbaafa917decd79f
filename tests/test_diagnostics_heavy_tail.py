"""The tail of a table's spectrum: heavy ones are told, and never called a failure."""

import contextlib
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from judging import ask, verdicts
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.causes import causes_of
from recspect.diagnosis.diagnostics.embeddings.heavy_tail import HeavyTail
from recspect.diagnosis.diagnostics.embeddings.spectrum import power_law
from recspect.diagnosis.finding import Finding, Place, Verdict
from recspect.diagnosis.stats.gram import Gram
from recspect.diagnosis.subject import TorchSubject
from recspect.examining.examination import examine
from recspect.examining.weight_matrices import weight_matrices
from recspect.worlds import World, split_by_time
from recspect.worlds.world import SURFACES

SEEDS = range(5)
FIELDS = ("user", "item", "surface")


def spectrum(exponent, count):
    """Values whose distribution is the power law: its quantiles at even steps."""
    return ((np.arange(count) + 0.5) / count) ** (-1 / (exponent - 1))


def table(seed, exponent=None, *, rows=800, width=64, name="item"):
    """Vectors of the spectrum of a power law, or random ones."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, width))
    if exponent is not None:
        left, _, right = np.linalg.svd(vectors, full_matrices=False)
        vectors = left * np.sqrt(rng.permutation(spectrum(exponent, width))) @ right
    return {f"@embedding:{name}": vectors, f"@uses:{name}": np.ones(rows)}


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0, 6.0])
def test_the_exponent_is_that_of_the_law(exponent):
    law = power_law(spectrum(exponent, 5000))
    assert law.exponent == pytest.approx(exponent, rel=0.01)
    assert law.error == pytest.approx((law.exponent - 1) / np.sqrt(law.tail))
    assert law.distance < 0.01


def test_the_tail_begins_where_the_law_does():
    law = power_law(np.concatenate([np.linspace(0.5, 1.0, 500), 2 * spectrum(2.5, 500)]))
    assert law.start == pytest.approx(2.0, rel=0.05)
    assert law.exponent == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0, 3.0], [2.0, 2.0, 2.0]])
def test_values_without_a_tail_have_no_law(values):
    assert power_law(np.array(values)) is None


@pytest.mark.parametrize("seed", range(2))
def test_the_exponent_is_that_of_weightwatcher(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ww = pytest.importorskip("weightwatcher")
        rng = np.random.default_rng(seed)
        drawn = [rng.normal(size=shape) for shape in ((500, 50), (1500, 64), (300, 128))]
        matrices = [m.astype(np.float32) for m in (*drawn, *(m * rng.pareto(2.5, m.shape[1]) ** 0.5 for m in drawn), rng.standard_t(3, size=(600, 96)))]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            theirs = ww.WeightWatcher(model=nn.Sequential(*(nn.Embedding.from_pretrained(torch.as_tensor(m)) for m in matrices))).analyze()
    ours = [power_law(Gram(column="e").summarize(Batch({"e": m})).singular_values(centred=False) ** 2) for m in matrices]
    np.testing.assert_allclose([law.exponent for law in ours], theirs["alpha"], rtol=1e-9)
    np.testing.assert_allclose([law.distance for law in ours], theirs["D"], rtol=1e-9)
    assert [law.tail for law in ours] == theirs["num_pl_spikes"].tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("exponent", "verdict"), [(1.5, "WARN"), (3.0, "PASS"), (None, "PASS")])
def test_heavy_tails_warn_and_random_tables_do_not(seed, exponent, verdict):
    (finding,) = ask(HeavyTail(), Batch(table(seed, exponent)), tables=("item",))
    assert finding.verdict == verdict
    assert finding.place.name == ("item" if verdict == "WARN" else "")
    if exponent is not None:
        assert finding.estimate.low < exponent < finding.estimate.high


def test_however_heavy_the_tail_it_is_no_failure_and_each_table_is_judged_apart():
    columns = Batch(table(0, 1.2) | table(1, 1.5, name="user") | table(2, 4.0, name="tag"))
    found = ask(HeavyTail(), columns, tables=("item", "user", "tag"))
    assert verdicts(found) == {"item": Verdict.WARN, "user": Verdict.WARN, "": Verdict.PASS}
    assert [row[0] for row in found[0].evidence[1].rows] == ["table item", "table user", "table tag"]


def test_only_rows_that_training_read_count():
    heavy, light = table(0, 1.5), table(1)
    light["@uses:item"] = np.zeros(800)
    light["@embedding:item"] *= 100
    both = Batch({name: np.concatenate([heavy[name], light[name]]) for name in heavy})
    (finding,) = ask(HeavyTail(), both, tables=("item",))
    assert finding.verdict is Verdict.WARN
    assert "800 x 64" in finding.claim


@pytest.mark.parametrize("shape", [(800, 16), (800, 49), (40, 64)])
def test_tables_of_few_eigenvalues_are_unknown(shape):
    (finding,) = ask(HeavyTail(), Batch(table(0, 1.2, rows=shape[0], width=shape[1]) if shape[0] > shape[1] else table(0, rows=40)), tables=("item",))
    assert finding.verdict is Verdict.UNKNOWN
    assert "No matrix has 50 eigenvalues" in finding.claim


def test_a_table_of_low_rank_is_unknown():
    rng = np.random.default_rng(0)
    (finding,) = ask(HeavyTail(), Batch({"@embedding:item": rng.normal(size=(800, 8)) @ rng.normal(size=(8, 64))}), tables=("item",))
    assert finding.verdict is Verdict.UNKNOWN


def test_without_tables_the_tail_is_unknown():
    (finding,) = ask(HeavyTail(), Batch({"x": np.zeros(3)}))
    assert finding.verdict is Verdict.UNKNOWN


class Network(nn.Module):
    """Embeddings of user, item and surface, their product and two layers."""

    def __init__(self, users, items, width):
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(size + 1, width) for size in (users, items, len(SURFACES))])
        for embedding in self.tables:
            nn.init.normal_(embedding.weight, std=0.03)
        self.head = nn.Sequential(nn.Linear(3 * width, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        vectors = [embedding(x[name]) for name, embedding in zip(FIELDS, self.tables, strict=True)]
        return self.head(torch.cat(vectors, -1)).squeeze(1) + (vectors[0] * vectors[1]).sum(-1)


def trained(seed, epochs):
    """(subject, training, held-out rows) after so many epochs at a rate of which one is enough."""
    torch.manual_seed(seed)
    world = World(users=1500, items=300, rows=20_000, seed=seed, signal=1.5)
    train, held_out = split_by_time(world.exposures())
    model, label = Network(1500, 300, 64), torch.as_tensor(train.numbers("click"), dtype=torch.float32)
    x, optimiser = encode(train), torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(epochs):
        for rows in torch.randperm(len(label)).split(128):
            optimiser.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model({name: ids[rows] for name, ids in x.items()}), label[rows]).backward()
            optimiser.step()
    subject = TorchSubject(model, fields=list(FIELDS), encode=encode, forward=lambda m, x: torch.sigmoid(m(x)))
    return subject, train, held_out, world.schema


def encode(batch):
    """Field to table row; row 0 where there is no value."""
    out = {}
    for name in FIELDS:
        column = batch.categories(name)
        row = np.array([SURFACES.index(value) if name == "surface" else int(value) for value in column.values], dtype=np.int64)
        out[name] = torch.as_tensor(np.append(row + 1, 0)[column.codes])
    return out


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("epochs", "verdict"), [(1, {"": Verdict.PASS}), (8, {"head.0": Verdict.WARN})])
def test_a_layer_of_a_real_model_warns_after_eight_epochs_and_not_after_one(seed, epochs, verdict):
    subject, train, held_out, schema = trained(seed, epochs)
    report = examine(subject, held_out, schema, reference=train, diagnostics=[HeavyTail()], path_steps=1, sample_rows=500)
    found = [finding for finding in report.findings if finding.code == HeavyTail.code]
    assert verdict.items() <= verdicts(found).items()
    matrices = {row[0] for row in found[0].evidence[1].rows}
    assert matrices == {"table user", "table item", "layer head.0"}
    assert "layer head.2" in found[0].evidence[1].caption  # 16 x 64


def test_a_matrix_is_the_same_either_way_round():
    first, second = nn.Linear(60, 90), nn.Linear(90, 60)
    with torch.no_grad():
        second.weight.copy_(first.weight.T)
    model = nn.ModuleDict({"a": first, "b": second, "last": nn.Linear(60, 1)})
    found = weight_matrices(TorchSubject(model, fields=["x"]))
    assert set(found) == {"a", "b"}
    np.testing.assert_array_equal(found["a"]["@weights:a"], found["b"]["@weights:b"])
    assert found["a"]["@weights:a"].shape == (90, 60)


@pytest.mark.parametrize("lasting", ["training.one_epoch", "training.learning_rate"])
def test_a_heavy_tail_is_no_cause_and_is_put_down_to_what_held_out_rows_and_steps_say(lasting):
    heavy, other = (Finding(code=code, verdict=verdict, claim="Seen.", place=place) for code, verdict, place in (
        ("embeddings.heavy_tail", Verdict.WARN, Place(kind="layer", name="head.0")), (lasting, Verdict.FAIL, Place())))
    assert causes_of([heavy]) == ()
    (cause,) = causes_of([heavy, other])
    assert {code for code, _ in cause.explains} == {"embeddings.heavy_tail", lasting}
