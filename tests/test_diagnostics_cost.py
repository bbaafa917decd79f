"""What a model takes, counted, and table rows that take memory for nothing."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from judging import ask, verdicts
from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.diagnostics.cost.budget import Budget
from recspect.diagnosis.diagnostics.cost.model import CostOfModel, unseen
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probes.internals import RowProbe
from recspect.diagnosis.subject import ScoreSubject, TorchSubject
from recspect.errors import UsageError
from recspect.examining.costs import TIMED_RUNS, counted, timed, timed_parts
from recspect.examining.embedding_tables import table_uses, uses_by_table
from recspect.examining.examination import examine
from recspect.schema import Field, Label, Schema
from recspect.worlds import World, split_by_time


class Network(nn.Module):
    """Embeddings of 8 numbers under two layers; a first-order weight per item beside them."""

    def __init__(self, users=40, items=30, *, inside=None):
        super().__init__()
        self.user, self.item, self.first = nn.Embedding(users, 8), nn.Embedding(items, 8), nn.Embedding(items, 1)
        self.inside = inside
        self.head = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 1))

    def forward(self, x):
        vectors = torch.cat([self.user(x["user"]), self.item(x["item"])], -1)
        if self.inside is not None:
            vectors = self.inside(vectors.unsqueeze(1))[0].squeeze(1)
        return torch.sigmoid(self.head(vectors).squeeze(1) + self.first(x["item"]).squeeze(1))


def rows(count=50, users=40, items=30, seed=0):
    rng = np.random.default_rng(seed)
    return Batch({"user": rng.integers(0, users, count), "item": rng.integers(0, items, count)})


def parts_of(batch):
    """Part to its row."""
    return {name: {column.removeprefix("@part:"): float(batch[column][i]) for column in batch if column != "@part"} for i, name in enumerate(batch["@part"])}


def subject_of(model, fields=("user", "item")):
    return TorchSubject(model, fields=fields)


# ------------------------------------------------------------------ counting


def test_operations_are_those_of_the_matrix_products_part_by_part():
    parts, row = counted(subject_of(Network()), rows())
    found = parts_of(parts)
    assert {name: part["operations"] for name, part in found.items() if part["operations"]} == {"head.0": 2 * 16 * 12, "head.2": 2 * 12}
    assert row["@cost:operations_both_ways"][0] == 3 * (2 * 16 * 12 + 2 * 12)  # backward to the weights and to what comes in


def test_operations_of_a_training_step_agree_with_the_counter_of_torch():
    """On a network with a recurrent layer, attention and a frozen layer."""
    torch.manual_seed(0)
    model = Network(inside=nn.GRU(16, 16, batch_first=True))
    model.head[0].weight.requires_grad_(requires_grad=False)
    batch = rows(64)
    inputs = {name: torch.as_tensor(batch[name]) for name in batch}
    with FlopCounterMode(display=False) as counter:
        model(inputs).sum().backward()
    model.zero_grad()
    _, row = counted(subject_of(model), batch)
    assert row["@cost:operations_both_ways"][0] * 64 == counter.get_total_flops()


def test_bytes_are_those_of_the_state_and_of_the_rows_that_are_looked_up():
    model = Network().double()
    model.register_buffer("scale", torch.ones(3))
    found = parts_of(counted(subject_of(model), rows())[0])
    assert sum(part["bytes"] for part in found.values()) == sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert found["the model itself"]["bytes"] == 12
    assert {name: part["read"] for name, part in found.items() if part["read"]} == {"user": 64, "item": 64, "first": 8}
    assert {name for name, part in found.items() if part["table"]} == {"user", "item", "first"}
    assert sum(part["learned"] for part in found.values()) == sum(tensor.numel() for tensor in model.parameters())


def test_a_padded_history_is_looked_up_as_long_as_the_longest():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = nn.Embedding(20, 4, padding_idx=0)

        def forward(self, x):
            return self.seen(x["seen"]).mean(1).sum(1)

    lengths = np.array([1, 3, 0, 2])
    batch = Batch({"seen": Ragged(np.arange(1, 7), np.concatenate([[0], lengths.cumsum()]))})
    assert parts_of(counted(subject_of(Pooled(), ("seen",)), batch)[0])["seen"]["read"] == 3 * 4 * 4


def test_the_model_is_left_as_it_was():
    model = Network()
    model.user.weight.requires_grad_(requires_grad=False)
    model.train()
    counted(subject_of(model), rows())
    assert model.training
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == {"user.weight"}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.head[0]._forward_hooks


def test_a_score_that_cannot_be_differentiated_has_no_way_back():
    class Hard(Network):
        def forward(self, x):
            with torch.no_grad():
                return super().forward(x)

    parts, row = counted(subject_of(Hard()), rows())
    assert np.isnan(row["@cost:operations_both_ways"][0])
    assert parts_of(parts)["head.0"]["operations"] == 2 * 16 * 12


def test_time_is_taken_several_times():
    seen = []
    found = timed(ScoreSubject(lambda batch: seen.append(batch.rows) or np.zeros(batch.rows), fields=["user"]), rows(7))
    assert seen == [1000] * (TIMED_RUNS + 1)
    assert found.rows == TIMED_RUNS
    assert (found["@cost:seconds"] >= 0).all()


def test_bytes_computed_are_those_of_results_that_are_no_views():
    """Two lookups of 8 numbers and one of 1, their concatenation, 12 numbers twice, and the rest one number each."""
    found = parts_of(counted(subject_of(Network()), rows())[0])
    assert {name: part["made"] for name, part in found.items()} == {"user": 32, "item": 32, "first": 4, "head.0": 48, "head.1": 48, "head.2": 4, "the model itself": 64 + 4 + 4}


def test_time_by_part_is_that_of_the_module_without_what_is_inside(monkeypatch):
    """By a clock that goes on where the modules say so."""
    now = [0.0]
    monkeypatch.setattr("recspect.examining.costs.perf_counter", lambda: now[0])

    class Slow(nn.Module):
        def __init__(self, seconds, inside=None):
            super().__init__()
            self.seconds, self.inside = seconds, inside

        def forward(self, x):
            now[0] += self.seconds
            return x if self.inside is None else self.inside(x)

    model = nn.Sequential(nn.Embedding(40, 1), Slow(2.0, Slow(5.0)))
    subject = TorchSubject(model, fields=["user"], forward=lambda m, x: m(x["user"]).reshape(-1))
    found = timed_parts(subject, rows(30))
    assert {name: seconds * 1000 for name, seconds in found.items()} == pytest.approx({"the model itself": 0.0, "0": 0.0, "1": 2.0, "1.inside": 5.0})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# ------------------------------------------------------------------ rows that training never reads


def test_tables_are_judged_where_every_read_of_them_is_known():
    """A table that two fields share is known; one that a field reads twice, or beside a wider one, is not."""

    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.hashed, self.first = nn.Embedding(50, 8), nn.Embedding(64, 8), nn.Embedding(30, 1)

        def forward(self, x):
            both = self.shared(x["a"]) + self.shared(x["b"])
            return (both + self.hashed(x["c"] % 64) + self.hashed(x["c"] * 7 % 64)).sum(1) + self.first(x["a"]).squeeze(1)

    rng = np.random.default_rng(0)
    batch = Batch({"a": rng.integers(0, 10, 400), "b": rng.integers(5, 15, 400), "c": rng.integers(0, 30, 400)})
    subject = TorchSubject(Reading(), fields=["a", "b", "c"], sites={"hashed.weight": "c", "hashed.weight#1": "c"})
    subject.sites(batch)
    probe = RowProbe(subject)
    known = uses_by_table(probe, table_uses(subject, probe, batch))
    assert set(known) == {"shared.weight"}
    assert known["shared.weight"].tolist() == (np.bincount(batch["a"], minlength=50) + np.bincount(batch["b"], minlength=50)).tolist()


@pytest.mark.parametrize(("classes", "looks"), [(300, 400), (1000, 800), (2000, 6000)])
def test_unseen_classes_are_estimated(classes, looks):
    """Of equally frequent classes, whose number is the bound itself: right in the mean, and inside the interval as often as it says."""
    rng = np.random.default_rng(classes)
    off, inside = [], 0
    for _ in range(200):
        counts = np.bincount(rng.integers(0, classes, looks), minlength=classes)
        value, low, high = unseen((counts == 1).sum(), (counts == 2).sum())
        missing = (counts == 0).sum()
        off.append(value - missing)
        inside += low <= missing <= high
    assert abs(np.mean(off)) < 4 * np.std(off) / np.sqrt(200) + 0.02 * missing
    assert 0.90 <= inside / 200 <= 1.0


def test_nothing_is_unseen_where_nothing_is_rare():
    assert unseen(0, 5) == unseen(1, 0) == (0.0, 0.0, 0.0)
    assert unseen(4, 1)[0] == 4 * 3 / (2 * 2)


def judged(uses, *, width=16, learned=True, network=None):
    """The findings about a model with one table whose rows training read so often."""
    model = nn.Sequential(nn.Embedding(len(uses), width), network or nn.Linear(width, 1)) if learned else nn.Sequential(nn.Embedding.from_pretrained(torch.zeros(len(uses), width)), nn.Linear(width, 1))
    batch = Batch({"item": np.arange(20) % len(uses)})
    subject = TorchSubject(model, fields=["item"], forward=lambda m, x: m(x["item"]).reshape(-1))
    parts, row = counted(subject, batch, {"0.weight": np.asarray(uses)})
    return ask(CostOfModel(), {**parts, **{name: np.resize(row[name], parts.rows) for name in row}, "@cost:run": np.resize(np.arange(TIMED_RUNS), parts.rows), "@cost:seconds": np.full(parts.rows, 0.002)})


def reads(seed, *, rows, ids, lookups):
    """How often each row of a table is read where ids, long-tailed, take the first rows."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, ids + 1)
    return np.bincount(rng.choice(ids, lookups, p=share / share.sum()), minlength=rows)


@pytest.mark.parametrize("seed", range(5))
def test_a_table_for_many_more_ids_than_there_are_is_named(seed):
    uses = reads(seed, rows=100_000, ids=5_000, lookups=50_000)
    (finding,) = judged(uses)
    assert finding.verdict is Verdict.WARN
    assert str(finding.place) == "table 0"
    assert abs(finding.estimate.value - 0.95) < 0.5 * ((uses == 0).mean() - 0.95)  # nearer to the truth than the count is; a bound, since rare ids are not as likely as others
    assert finding.severity > 0.2


@pytest.mark.parametrize("seed", range(5))
def test_a_table_of_the_ids_that_there_are_is_not(seed):
    assert verdicts(judged(reads(seed, rows=5_000, ids=5_000, lookups=200_000))) == {"": Verdict.PASS}
    assert verdicts(judged(reads(seed, rows=100_000, ids=100_000, lookups=300_000))) == {"": Verdict.PASS}  # a third is unread, and more rows would read it


def test_few_rows_of_a_table_that_is_all_in_use_do_not_make_it_idle():
    """20,000 lookups of 100,000 equally frequent ids read 18 % of the rows; more training rows would read the rest."""
    (finding,) = judged(np.bincount(np.random.default_rng(0).integers(0, 100_000, 20_000), minlength=100_000))
    assert finding.verdict is Verdict.PASS
    assert finding.estimate.low < 0.05


def test_idle_rows_that_take_little_are_no_matter():
    few = np.zeros(2_000, dtype=np.int64)
    few[:20] = 100
    assert verdicts(judged(few)) == {"": Verdict.PASS}
    some = np.zeros(50_000, dtype=np.int64)
    some[:20] = 100
    assert verdicts(judged(some)) == {"0": Verdict.WARN}
    assert verdicts(judged(some, network=nn.Sequential(nn.Linear(16, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1)))) == {"": Verdict.PASS}  # 3 of 68 MiB


def test_a_table_that_is_not_learned_says_something_in_every_row():
    (finding,) = judged(reads(0, rows=100_000, ids=5_000, lookups=50_000), learned=False)
    assert finding.verdict is Verdict.UNKNOWN
    assert "3.2" not in finding.claim
    assert "not known" in finding.claim


def test_the_figures_are_in_the_table_and_what_is_not_counted_is_said():
    model = Network(inside=nn.LSTM(16, 16, batch_first=True))
    parts, row = counted(subject_of(model), rows())
    (finding,) = ask(CostOfModel(), {**parts, **{name: np.resize(row[name], parts.rows) for name in row}, "@cost:run": np.arange(parts.rows), "@cost:seconds": np.linspace(0.001, 0.003, parts.rows)})
    _, computing, figures, by_part = finding.evidence
    assert [row[0] for row in by_part.rows][:2] == ["inside", "user"]  # most bytes first
    assert "Not counted, or not run: inside" in computing.caption
    value = {name: number for name, number, _ in figures.rows}
    learned = sum(parameter.numel() for parameter in model.parameters())
    assert value["numbers held"] == value["of them learned"] == learned
    assert value["further state of an optimiser that keeps two numbers for each that is learned, such as Adam"] == pytest.approx(8 * learned / 2**20, rel=1e-3)
    assert value["1,000 rows scored, median"] == 2.0


def test_a_model_of_which_only_scores_can_be_had_is_unknown():
    (finding,) = ask(CostOfModel(), {"@score": np.zeros(5)})
    assert finding.verdict is Verdict.UNKNOWN


# ------------------------------------------------------------------ in an examination


def examined(*, users, train=True):
    batch = World(rows=4_000, users=200, items=100, seed=3).exposures()
    schema = Schema(fields=(Field(name="user", side="user"), Field(name="item", side="item")), labels=(Label(name="click"),), user="user", item="item", time="time", time_unit="s",
                    ignored=tuple(name for name in batch if name not in ("user", "item", "click", "time")))
    first, last = split_by_time(batch)
    torch.manual_seed(0)
    report = examine(subject_of(Network(users, 101)), last, schema, reference=first if train else None, diagnostics=[CostOfModel()])
    return report.find("cost.model")


@pytest.mark.parametrize(("users", "expected"), [(201, {"": Verdict.PASS}), (200_000, {"user": Verdict.WARN})])
def test_an_examination_names_the_oversized_table(users, expected):
    assert verdicts(examined(users=users)) == expected


def test_without_training_rows_it_is_not_known():
    (finding,) = examined(users=200_000, train=False)
    assert finding.verdict is Verdict.UNKNOWN
    assert "--train" in finding.threshold
    assert len(finding.evidence) == 4


# ------------------------------------------------------------------ a budget


def beyond(budget, **settings):
    parts, row = counted(subject_of(Network(**settings)), rows())
    table = {**dict(parts), **{name: np.resize(np.asarray(column), parts.rows) for name, column in row.items()}, "@cost:run": np.arange(parts.rows) % 5, "@cost:seconds": 0.002 + 0.001 * (np.arange(parts.rows) % 5)}
    return [finding for finding in ask(CostOfModel(budget), table) if finding.place.kind == "metric"]


def test_a_model_within_its_budget_is_quiet_and_one_beyond_it_fails_by_name():
    operations, held = 2 * 16 * 12 + 2 * 12, sum(parameter.numel() * 4 for parameter in Network().parameters())
    roomy = Budget(mebibytes=held / 2**20, operations_per_row=operations, lookup_bytes_per_row=10_000, milliseconds_per_1000_rows=2.0)
    assert beyond(None) == beyond(Budget()) == beyond(roomy) == []
    tight = Budget(mebibytes=0.9 * held / 2**20, operations_per_row=operations / 2, lookup_bytes_per_row=10, milliseconds_per_1000_rows=1.5)
    found = {finding.place.name: finding for finding in beyond(tight)}
    assert list(found) == ["mebibytes", "operations_per_row", "lookup_bytes_per_row", "milliseconds_per_1000_rows"]
    assert all(finding.verdict is Verdict.FAIL for finding in found.values())
    assert found["operations_per_row"].estimate.value == operations
    assert "2.00 times the budget" in found["operations_per_row"].claim
    assert (found["milliseconds_per_1000_rows"].estimate.low, found["milliseconds_per_1000_rows"].estimate.high) == pytest.approx((2.0, 6.0))


def test_a_slow_run_on_a_busy_machine_is_not_held_against_the_model():
    assert beyond(Budget(milliseconds_per_1000_rows=3.0)) == []


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_told(limit):
    with pytest.raises(UsageError, match="mebibytes"):
        Budget(mebibytes=limit)
