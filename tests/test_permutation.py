"""Permutation importance: equal to permuting by hand, exact zeros, free of batch splits, screened, for models of any kind."""

import functools
import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostics.features.permuted import METRICS
from recspect.diagnosis.probes.exchange import RecordedRows
from recspect.diagnosis.probes.permutation import PermutationProbe, PermutedRows, column, permutation, with_positions
from recspect.diagnosis.subject import ScoreSubject, TorchSubject
from recspect.errors import DataError, SubjectError, UsageError
from recspect.examining.permutation import permutation_importance
from recspect.schema import Field, Label, Schema
from recspect.worlds import FieldWorld

BENCH = runpy.run_path(str(Path(__file__).parents[1] / "bench" / "importance_truth.py"), run_name="bench")
SIZES = {"user": 60, "item": 40, "hour": 6}
SCHEMA = Schema(user="user", labels=[Label(name="click")], fields=[*(Field(name=name) for name in SIZES), Field(name="price", kind="numeric")])


class Tower(torch.nn.Module):
    """FM, first-order weights and an MLP over three ids and a number; ReLU in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.tables = torch.nn.ModuleDict({name: torch.nn.Embedding(size, 6) for name, size in SIZES.items()})
        self.first = torch.nn.ModuleDict({name: torch.nn.Embedding(size, 1) for name, size in SIZES.items()})
        self.mlp = torch.nn.Sequential(torch.nn.Linear(19, 16), torch.nn.ReLU(inplace=True), torch.nn.Linear(16, 1))

    def forward(self, x):
        v = torch.stack([table(x[name]) for name, table in self.tables.items()], 1)
        deep = self.mlp(torch.cat([v.flatten(1), x["price"][:, None]], 1)).squeeze(1)
        first = sum(table(x[name]).squeeze(1) for name, table in self.first.items())
        return torch.sigmoid(deep + first + (v.sum(1).square() - v.square().sum(1)).sum(1) / 8)


class Fused(torch.nn.Module):
    """One table for all fields, read at once."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.table = torch.nn.Embedding(sum(SIZES.values()), 5)
        self.linear = torch.nn.Linear(15, 1)

    def forward(self, x):
        ids = torch.stack([x["user"], x["item"] + 60, x["hour"] + 100], 1)
        return torch.sigmoid(self.linear(self.table(ids).flatten(1)).squeeze(1) * 4)


class Masked(torch.nn.Module):
    """A history whose padding is told from the ids themselves, so that exchanging its lookups alone would leave the row's own mask."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.user, self.history = torch.nn.Embedding(60, 4), torch.nn.Embedding(40, 4)

    def forward(self, x):
        inside = (x["history"] != 0).float()[:, :, None]
        pooled = (self.history(x["history"]) * inside).sum(1) / inside.sum(1).clamp(min=1)
        return torch.sigmoid((self.user(x["user"]) * pooled).sum(1) + inside.sum((1, 2)) / 4)


def rows(count=600, seed=0):
    r = np.random.default_rng(seed)
    table = {name: r.integers(0, size, count) for name, size in SIZES.items()}
    return {**table, "price": r.normal(size=count), "click": r.integers(0, 2, count)}


def by_hand(subject, table, metric, name, repeats=3, seed=0):
    """Mean loss of a metric over permutations of one column."""
    batch = Batch(table)
    before = metric(batch, subject.score(batch))
    changed = []
    for repeat in range(repeats):
        donors = permutation(name, repeat, batch.rows, seed)
        other = batch.with_columns({name: batch[name][donors]})
        changed.append(metric(batch, subject.score(other)) - before)
    return float(np.mean(changed))


def auc(batch, score):
    return -roc_auc_score(batch.numbers("click"), score)


def auc_per_user(batch, score):
    frame = pl.DataFrame({"user": batch["user"], "click": batch["click"], "score": score})
    return -np.mean([roc_auc_score(group["click"], group["score"]) for _, group in frame.group_by("user") if group["click"].n_unique() == 2])


def ndcg(batch, score):
    frame = pl.DataFrame({"user": batch["user"], "click": batch["click"], "score": score})
    return -np.mean([ndcg_score([group["click"]], [group["score"]], k=10) for _, group in frame.group_by("user") if group["click"].sum() > 0])


def nats(batch, score):
    return log_loss(batch.numbers("click"), score)


@pytest.mark.parametrize("model", [Tower, Fused])
@pytest.mark.parametrize(("metric", "reference"), [("auc", auc), ("log_loss", nats), ("auc_per_user", auc_per_user), ("ndcg", ndcg)])
def test_importance_is_that_of_permuting_columns_by_hand(model, metric, reference):
    fields = [*SIZES, "price"] if model is Tower else list(SIZES)
    subject, table = TorchSubject(model(), fields=fields), rows()
    found = permutation_importance(subject, table, SCHEMA, metric=metric, repeats=3)
    assert {one.field for one in found.permuted} == set(fields)
    # AUC is that of bins; of `Fused`, which reads ids only, some rows are tied, and a tie that a matrix product's rounding breaks is half a pair of one user
    tolerance = 2e-3 if metric == "auc" else 5e-4 if model is Fused and metric != "log_loss" else 1e-5
    for one in found.permuted:
        assert one.importance.value == pytest.approx(by_hand(subject, table, reference, one.field), abs=tolerance), one.field
        assert one.importance.low < one.importance.value < one.importance.high
        assert one.deviation > 0


def test_regression_is_judged_by_its_error():
    r = np.random.default_rng(1)
    table = {"user": r.integers(0, 60, 500), "x": r.normal(size=500), "z": r.normal(size=500)}
    table["rating"] = 2 * table["x"] + r.normal(size=500)
    schema = Schema(user="user", labels=[Label(name="rating", kind="graded")], fields=[Field(name="x", kind="numeric"), Field(name="z", kind="numeric")])
    subject = ScoreSubject(lambda batch: 2 * batch.numbers("x"), fields=["x", "z"])
    found = {one.field: one.importance.value for one in permutation_importance(subject, table, schema).permuted}
    before, after = np.mean((table["rating"] - 2 * table["x"]) ** 2), np.mean([
        np.mean((table["rating"] - 2 * table["x"][permutation("x", k, 500, 0)]) ** 2) ** 0.5 for k in range(5)])
    assert found["x"] == pytest.approx(after - before**0.5, rel=1e-6)
    assert found["z"] == 0
    squared = permutation_importance(subject, table, schema, metric="squared_error", fields=["x"]).permuted[0].importance
    assert squared.value == pytest.approx(8, rel=0.25)  # twice the variance of 2 x


# ------------------------------------------------------------------ exactly nothing (A20)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_constant_field_and_an_unread_column_cost_exactly_nothing(wrap):
    table = {**rows(), "hour": np.full(600, 3)}
    subject = TorchSubject(Tower(), fields=[*SIZES, "price"])
    found = permutation_importance(ScoreSubject(subject.score, fields=subject.fields) if wrap else subject, table, SCHEMA)
    (hour,) = (one for one in found.permuted if one.field == "hour")
    assert (hour.importance.value, hour.importance.low, hour.importance.high, hour.deviation) == (0, 0, 0, 0)


def test_one_row_costs_nothing_and_does_not_crash():
    subject, table = TorchSubject(Tower(), fields=[*SIZES, "price"]), {name: column_[:1] for name, column_ in rows().items()}
    found = permutation_importance(subject, table, SCHEMA, metric="log_loss")
    assert [one.importance.value for one in found.permuted] == [0, 0, 0, 0]
    scored = permutation_importance(ScoreSubject(subject.score, fields=subject.fields), table, SCHEMA, metric="log_loss")
    assert [one.importance.value for one in scored.permuted] == [0, 0, 0, 0]


# ------------------------------------------------------------------ the same however it is run


def observed(subject, sample, sizes, repeats=2):
    probe = PermutationProbe(PermutedRows(subject, sample, repeats=repeats))
    order = np.random.default_rng(9).permutation(sample.rows)
    shuffled, out, start = sample.take(order), [], 0
    for size in sizes:
        out.append(probe.observe(shuffled.take(slice(start, start + size))))
        start += size
    assert start == sample.rows
    back = np.argsort(order)
    return {name: np.concatenate([one[name] for one in out])[back] for name in probe.adds}


@pytest.mark.parametrize("model", [Tower, Fused])
def test_permutations_do_not_depend_on_batches_order_or_the_way_of_scoring(model):
    fields = [*SIZES, "price"] if model is Tower else list(SIZES)
    subject, sample = TorchSubject(model(), fields=fields), with_positions(Batch(rows()))
    whole = observed(subject, sample, [600])
    for other in (observed(subject, sample, [1, 7, 192, 400]), observed(ScoreSubject(subject.score, fields=fields), sample, [600])):
        assert set(whole) == set(other)
        for name, scores in whole.items():
            assert scores == pytest.approx(other[name], abs=1e-6), name
    alone = PermutationProbe(PermutedRows(subject, sample, fields=["item"], repeats=1)).observe(sample)
    assert alone[column("item", 0)] == pytest.approx(whole[column("item", 0)], abs=1e-6)


def test_a_mask_made_from_ids_is_permuted_with_them():
    r = np.random.default_rng(2)
    history = r.integers(1, 40, (500, 6)) * (np.arange(6) < r.integers(1, 7, 500)[:, None])
    table = {"user": r.integers(0, 60, 500), "history": history, "click": r.integers(0, 2, 500)}
    subject = TorchSubject(Masked(), fields=["user", "history"])
    schema = Schema(user="user", labels=[Label(name="click")], fields=[Field(name="history", kind="categorical")])
    found = permutation_importance(subject, table, schema, metric="log_loss", repeats=3)
    for one in found.permuted:
        assert one.importance.value == pytest.approx(by_hand(subject, table, nats, one.field), abs=1e-5)


def test_tables_are_read_once_and_rows_that_keep_their_value_are_not_run_again():
    model, sample = Tower(), with_positions(Batch({**rows(), "hour": np.where(np.arange(600) < 580, 3, 1)}))
    subject = TorchSubject(model, fields=[*SIZES, "price"])
    permuted = PermutedRows(subject, sample, repeats=3)
    probe = PermutationProbe(permuted)
    lengths = []
    mlp_hook = model.mlp[2].register_forward_pre_hook(lambda _, args: lengths.append(len(args[0])))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        probe.observe(sample)
    mlp_hook.remove()
    reads = [event for event in profile.events() if event.name == "aten::embedding"]
    assert not reads  # all were recorded before
    assert len(lengths) == 1 + 4 * 3  # one pass as it is, one per field and repeat
    assert max(sorted(lengths)[:3]) <= 2 * 20  # of `hour`, only the rows that changed
    assert all(permuted.exchangeable.values())
    assert permuted.recorded.copies[0].other == (18,)  # the price is no lookup, all else of the first layer's input is


def test_first_layers_are_kept_only_where_they_read_copies():
    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = torch.nn.Embedding(9, 4), torch.nn.Embedding(9, 4)
            self.norm, self.linear = torch.nn.LayerNorm(8), torch.nn.Linear(8, 1)

        def forward(self, x):
            return torch.sigmoid(self.linear(self.norm(torch.cat([self.a(x["a"]), self.b(x["b"])], 1))).squeeze(1))

    r = np.random.default_rng(0)
    batch = Batch({"a": r.integers(0, 9, 200), "b": r.integers(0, 9, 200)})
    subject = TorchSubject(Normed(), fields=["a", "b"])
    recorded = RecordedRows(subject, batch)
    assert recorded.copies == {}
    donors = r.permutation(200)
    found = recorded.piece(np.arange(200)).exchanged(["a"], donors).numpy()
    assert found == pytest.approx(subject.score(batch.with_columns({"a": batch["a"][donors]})), abs=1e-6)


def test_fields_can_be_permuted_together():
    subject, table = TorchSubject(Fused(), fields=list(SIZES)), rows()
    found = permutation_importance(subject, table, SCHEMA, metric="log_loss", groups={"who and when": ["user", "hour"]}, repeats=2)
    assert {one.field for one in found.permuted} == {"who and when", "item"}
    batch = Batch(table)
    expected = np.mean([nats(batch, subject.score(batch.with_columns({name: batch[name][permutation("who and when", k, 600, 0)] for name in ("user", "hour")})))
                        for k in range(2)]) - nats(batch, subject.score(batch))
    assert next(one for one in found.permuted if one.field != "item").importance.value == pytest.approx(expected, abs=1e-5)


# ------------------------------------------------------------------ screening


@functools.cache
def trained(seed):
    world = FieldWorld(rows=8000, noise=12, seed=seed)
    return (world, *BENCH["trained"](world, epochs=3, seed=seed))


@pytest.mark.parametrize("seed", range(3))
def test_screening_permutes_the_fields_that_permuting_all_finds_first(seed):
    world, subject, _, held_out = trained(seed)
    full = permutation_importance(subject, held_out, world.schema, metric="log_loss")
    screened = permutation_importance(subject, held_out, world.schema, metric="log_loss", screen=6)
    order = [one.field for one in full.permuted]
    assert {one.field for one in screened.permuted} >= set(order[:4])
    value = {one.field: one.importance.value for one in full.permuted}
    assert {one.field: one.importance.value for one in screened.permuted} == pytest.approx({one.field: value[one.field] for one in screened.permuted}, abs=1e-9)
    assert len(screened.screened_out) == 6
    assert screened.bounds["constant"] == 0
    deviation = {one.field: one.deviation for one in full.permuted}
    for name in order:  # a bound, here to first order; a ReLU network is nearly linear in one field of normal size
        assert screened.bounds[name] >= value[name] - 2 * deviation[name] - 1e-4, name
    table = screened.table()
    assert table["permuted"].to_list() == [True] * 6 + [False] * 6
    assert table.filter(~pl.col("permuted"))["importance"].null_count() == 6
    assert table["bound"].null_count() == 0


def test_the_bound_holds_exactly_where_the_logit_is_linear_in_every_field():
    class Machine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.tables = torch.nn.ModuleDict({name: torch.nn.Embedding(size, 4) for name, size in SIZES.items()})

        def forward(self, x):
            v = torch.stack([table(x[name]) for name, table in self.tables.items()], 1)
            return torch.sigmoid((v.sum(1).square() - v.square().sum(1)).sum(1) / 2)

    for seed in range(5):
        found = permutation_importance(TorchSubject(Machine(), fields=list(SIZES)), rows(seed=seed), SCHEMA, metric="log_loss", screen=3)
        for one in found.permuted:
            assert found.bounds[one.field] > one.importance.value


# ------------------------------------------------------------------ mistakes, and what is written down


def test_mistakes_are_told():
    subject, table = TorchSubject(Tower(), fields=[*SIZES, "price"]), rows()
    with pytest.raises(UsageError, match="metrics: auc"):
        permutation_importance(subject, table, SCHEMA, metric="accuracy")
    with pytest.raises(UsageError, match="does not read 'city'"):
        permutation_importance(subject, table, SCHEMA, fields=["city"])
    with pytest.raises(UsageError, match="at least 1"):
        permutation_importance(subject, table, SCHEMA, repeats=0)
    with pytest.raises(UsageError, match="per user or per request"):
        permutation_importance(subject, table, Schema(labels=[Label(name="click")]), metric="ndcg")
    with pytest.raises(SubjectError, match="screening needs"):
        permutation_importance(ScoreSubject(subject.score, fields=subject.fields), table, SCHEMA, screen=1)
    with pytest.raises(DataError, match="@position"):
        PermutationProbe(PermutedRows(subject, with_positions(Batch(table)))).observe(Batch(table))


def test_the_seed_is_kept_and_decides():
    subject, table = TorchSubject(Tower(), fields=[*SIZES, "price"]), rows()
    first, again, other = (permutation_importance(subject, table, SCHEMA, metric="log_loss", seed=seed) for seed in (5, 5, 6))
    assert first.seed == 5
    assert first.table().equals(again.table())
    assert not first.table().equals(other.table())
    bars = first.evidence()
    assert "seed 5" in bars.caption
    assert bars.names == tuple(first.table()["field"].to_list())


def test_metrics_per_user_take_whole_users():
    table = rows(4000)
    found = permutation_importance(TorchSubject(Tower(), fields=[*SIZES, "price"]), table, SCHEMA, metric="auc_per_user", rows=1000, repeats=1, fields=["item"])
    assert 800 < found.rows <= 1000
    counts = np.bincount(table["user"])
    assert any(found.rows == counts[np.random.default_rng(0).permutation(60)[:k]].sum() for k in range(60))
    assert set(METRICS) == {"auc", "log_loss", "rmse", "squared_error", "auc_per_user", "ndcg"}
