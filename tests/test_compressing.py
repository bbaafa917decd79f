"""Smaller models: what packing promises, what leaving out changes and what not, equality proven on held-out rows, runs that load as any other."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from commanding import command
from recspect.cli import app
from recspect.compressing.compress import compress
from recspect.compressing.fields import droppable, without_fields
from recspect.compressing.fitted import Fitted, mean_vectors, row_counts, tables
from recspect.compressing.measuring import Judged, cost_of, scores_of
from recspect.compressing.rows import most_useful, prunable, usefulness, without_rows
from recspect.compressing.variants import Recipe, Workbench, together
from recspect.compressing.writing import write, write_run
from recspect.diagnosis.batch import Batch, factorize
from recspect.diagnosis.finding import Report
from recspect.diagnosis.source import read
from recspect.errors import RunError, UsageError
from recspect.examining.costs import counted
from recspect.examining.importance import importance
from recspect.examining.runs import subject_of
from recspect.features import FeatureTransform
from recspect.features.encoded import FIRST_KNOWN
from recspect.models import MODELS, ModelConfig, build
from recspect.models.packing import PackedTable, directions, lost_by_rank, packed, quantised
from recspect.models.storage import Storage
from recspect.recommending.pipeline.ranker import Ranker
from recspect.schema import Field, Kind, Label, Schema
from recspect.training.config import TrainingConfig
from recspect.training.files import read_json, write_json
from recspect.training.loop import train
from recspect.training.run import Run
from recspect.worlds import World

SCHEMA = Schema(user="user", item="item", labels=[Label(name="click")],
                fields=[Field(name="user", side="user"), Field(name="item", side="item"), Field(name="past", kind=Kind.SEQUENCE, side="user", shares="item", max_length=4),
                        Field(name="tags", kind=Kind.MULTI_VALUED, separator="|"), Field(name="age", kind=Kind.NUMERIC), Field(name="place")])


def rows(count=3000, users=300, items=120, seed=0):
    draw = np.random.default_rng(seed)
    text = np.array(["a|b", "b", "c|a|d", "d"], object)
    return Batch({"user": draw.zipf(1.4, count) % users, "item": draw.zipf(1.5, count) % items, "past": draw.integers(0, items, (count, 3)), "tags": factorize(text[draw.integers(0, 4, count)]),
                  "age": draw.normal(40, 9, count), "place": draw.integers(0, 3, count), "click": (draw.random(count) < 0.3).astype(int)})


def fitted(name, *, schema=SCHEMA, seed=0, table=None, **settings_):
    """A model with weights large enough that every field matters; not trained, since the laws hold for any weights."""
    transform = FeatureTransform.fit(schema, rows() if table is None else table)
    torch.manual_seed(seed)
    model = build(ModelConfig(name=name, embedding_width=8, hidden=(16, 8), embedding_deviation=0.5, **settings_), transform.sizes)
    return Fitted(model.eval(), transform)


@pytest.fixture(scope="module")
def world():
    return World(users=300, items=150, rows=16_000, signal=1.5, seed=3)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    config = TrainingConfig(model=ModelConfig(embedding_width=8, hidden=(32, 16)), maximum_epochs=2, batch_rows=512, observe_every=0, histograms_every=0)
    return train(world.exposures(), world.schema, config, tmp_path_factory.mktemp("compressing") / "run")


# ------------------------------------------------------------------ packing


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5), min_size=1, max_size=6), st.sampled_from([1.0, 1e-3, 1e-9]))
def test_a_quantised_number_is_within_half_a_scale(values, size):
    weight = torch.tensor(values) * size
    codes, scales = quantised(weight)
    error = (codes.double() * scales.double().unsqueeze(1) - weight.double()).abs()
    assert codes.dtype is torch.int8
    assert scales.dtype is torch.bfloat16
    assert bool((error <= scales.double().unsqueeze(1) / 2 * (1 + 1e-5)).all())
    assert bool((scales.double() * 127 >= weight.abs().amax(1).double() * (1 - 1e-6)).all())


def test_rows_of_zeros_stay_zeros():
    codes, scales = quantised(torch.zeros(3, 4))
    assert not codes.any()
    assert not scales.any()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_reads_packed_weights_and_scores_almost_alike(name):
    before = fitted(name)
    scores = scores_of(before, rows(500, seed=1))
    for storage, near in ((Storage(tables="bf16", dense="bf16"), 0.03), (Storage(tables="int8", dense="int8"), 0.03), (Storage(rank=8), 1e-12)):
        model = build(before.config, before.transform.sizes)
        model.load_state_dict(before.model.state_dict())
        small = Fitted(packed(model, storage), before.transform, storage)
        assert np.abs(scores_of(small, rows(500, seed=1)) - scores).max() <= near * max(1.0, np.abs(scores).max())
        if storage.rank is None:
            assert small.held_bytes < 0.7 * before.held_bytes


def test_a_rank_keeps_the_directions_that_are_there():
    """Rows that lie in a plane are given back whole by two numbers each, and by one number no worse than by any other line."""
    draw = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(8, 2, generator=draw))[0].T
    table = torch.randn(60, 2, generator=draw) * torch.tensor([3.0, 1.0]) @ plane
    mix = directions(table, 2)
    assert torch.allclose(table @ mix.T @ mix, table, atol=1e-5)
    lost = lost_by_rank(table)
    assert lost[1:].abs().max() < 1e-6
    _, singular, _ = torch.linalg.svd(table.double())
    assert lost[0].item() == pytest.approx(float(singular[1:].square().sum() / singular.square().sum()), rel=1e-6)


def test_rows_that_are_read_often_are_narrowed_with_the_least_error():
    draw = torch.Generator().manual_seed(1)
    table = torch.randn(200, 6, generator=draw)
    counts = torch.zeros(200, dtype=torch.int64)
    counts[:3] = 100
    mix = directions(table, 3, counts)
    assert torch.allclose((table @ mix.T @ mix)[:3], table[:3], atol=1e-4)


def test_small_tables_lie_in_memory_as_they_are_and_lookups_are_seen():
    before = fitted("deepfm")
    storage = Storage(tables="int8", dense="int8")
    model = build(before.config, before.transform.sizes)
    model.load_state_dict(before.model.state_dict())
    small = Fitted(packed(model, storage), before.transform, storage)
    assert isinstance(small.model.vectors.table, PackedTable)
    assert small.model.vectors.table.weight.dtype is torch.int8
    assert small.model.weights.table.weight.dtype is torch.bfloat16  # one number per row: a scale would cost more than it saves
    parts, _ = counted(small.subject(), rows(64))
    found = dict(zip(parts["@part"], parts.numbers("@part:read"), strict=True))
    looked_up = 3 + small.transform.encoders["past"].width + small.transform.encoders["tags"].width
    assert found["vectors.table"] == looked_up * 8
    assert small.subject().sites(rows(64)).fields == before.subject().sites(rows(64)).fields
    whole, packed_ = (importance(one.subject(), rows(300), SCHEMA, layers=()).scores for one in (before, small))
    reliance = {score.field: score.reliance.value for score in whole}
    assert all(score.reliance.value == pytest.approx(reliance[score.field], abs=0.01) for score in packed_)


# ------------------------------------------------------------------ fields


@pytest.mark.parametrize("name", ["linear", "fm", "mlp", "deepfm"])
def test_a_model_without_a_field_scores_as_the_old_one_with_the_field_at_its_mean(name):
    before, table = fitted(name), rows()
    encoded = before.transform.transform(table)
    means = mean_vectors(before, encoded)
    dropped = ["tags", "age", "user"]
    after = without_fields(before, dropped, means)
    assert tuple(after.transform.encoders) == ("item", "past", "place")
    assert after.transform.schema.field_names == ("item", "past", "place")

    def held(module, vectors):
        out = vectors.clone()
        for place, field in enumerate(module.fields):
            if field in dropped:
                out[:, place] = means[next(key for key, each in tables(before.model).items() if each is module)][field]
        return out

    hooks = [module.register_forward_hook(lambda module, _inputs, out: held(module, out)) for module in tables(before.model).values()]
    expected = scores_of(before, table)
    for hook in hooks:
        hook.remove()
    np.testing.assert_allclose(scores_of(after, table), expected, atol=2e-5)


def test_fields_that_cannot_be_left_out_are_named():
    before = fitted("deepfm")
    assert "item" not in droppable(before)  # `past` reads its ids
    means = mean_vectors(before, before.transform.transform(rows()))
    with pytest.raises(UsageError, match="item"):
        without_fields(before, ["item"], means)
    assert droppable(fitted("dcnv2")) == ()
    everything = fitted("mlp", schema=Schema(labels=[Label(name="click")], fields=[Field(name="user")]))
    with pytest.raises(UsageError, match="at least one"):
        without_fields(everything, ["user"], mean_vectors(everything, everything.transform.transform(rows())))


# ------------------------------------------------------------------ rows


@pytest.mark.parametrize("name", ["deepfm", "din", "dcnv2", "mmoe"])
def test_taking_away_rows_that_are_not_read_changes_no_score(name):
    before, table = fitted(name), rows()
    some = table.take(np.arange(200))
    ids = before.transform.transform(some).ids
    kept = {}
    for field, codes in prunable(before).items():
        read = {"item": ("item", "past"), "user": ("user",)}[field]
        seen = np.unique(np.concatenate([ids[each].numpy().ravel() for each in read]))
        kept[field] = np.isin(np.arange(codes.known) + FIRST_KNOWN, seen)
    assert sum((~keep).sum() for keep in kept.values()) > 50
    after = without_rows(before, kept)
    assert after.held_bytes < before.held_bytes
    np.testing.assert_array_equal(scores_of(after, some), scores_of(before, some))


def test_ids_without_a_row_read_the_mean_of_theirs_by_count():
    before = fitted("fm")
    codes = prunable(before)["user"]
    keep = np.arange(codes.known) < 40
    after = without_rows(before, {"user": keep})
    gone = torch.from_numpy(codes.counts[40:codes.known]).float()
    own = before.model.vectors.table.weight[FIRST_KNOWN + 40:codes.rows]
    assert torch.allclose(after.model.vectors.table.weight[2], (gone.unsqueeze(1) * own).sum(0) / gone.sum(), atol=1e-5)
    table = Batch({**{name: rows()[name] for name in rows()}, "user": np.full(3000, codes.values[60])})
    assert set(after.transform.transform(table).ids["user"].tolist()) == {2}
    with pytest.raises(UsageError, match="place"):
        without_rows(before, {"place": np.ones(3, dtype=bool)})


def test_use_of_rows_is_the_squared_change_of_a_linear_model_and_nothing_for_rows_not_read():
    """Where the logit is linear in what is looked up, the first-order change is the change."""
    before, table = fitted("linear"), rows(400)
    found = usefulness(before, table)
    ids = before.transform.transform(table).ids["user"].numpy()
    weight = before.model.weights.table.weight.detach()[:, 0].double().numpy()
    codes = prunable(before)["user"]
    mean = np.average(weight[:codes.rows], weights=codes.row_counts())
    expected = np.bincount(ids, weights=(weight[ids] - mean) ** 2, minlength=codes.rows)[FIRST_KNOWN:]
    np.testing.assert_allclose(found["user"], expected, rtol=1e-4, atol=1e-8)
    assert (found["user"][np.bincount(ids, minlength=codes.rows)[FIRST_KNOWN:] == 0] == 0).all()
    kept = most_useful(found, 0.5)
    assert sum(keep.sum() for keep in kept.values()) == round(0.5 * sum(map(len, found.values())))
    assert min(found["user"][kept["user"]]) >= max(found["user"][~kept["user"]])


# ------------------------------------------------------------------ judging


def test_differences_are_those_of_scikit_learn_with_the_same_users_left_out():
    before, table = fitted("deepfm"), rows(4000, seed=4)
    other = scores_of(before, table) + np.random.default_rng(0).normal(0, 0.5, 4000)
    judged = Judged(table, before.transform.schema, scores_of(before, table))
    found = judged.difference(other)
    click, own = table.numbers("click"), scores_of(before, table)
    assert found.value == pytest.approx(roc_auc_score(click, other) - roc_auc_score(click, own), abs=1e-12)
    without = [roc_auc_score(click[judged.bucket != g], other[judged.bucket != g]) - roc_auc_score(click[judged.bucket != g], own[judged.bucket != g]) for g in np.unique(judged.bucket)]
    spread = np.sqrt((len(without) - 1) / len(without) * ((np.array(without) - np.mean(without)) ** 2).sum())
    assert found.error == pytest.approx(2.0096 * spread, rel=1e-3)  # Student t of 49 degrees of freedom
    assert judged.difference(own).value == judged.difference(own).low == 0.0
    assert judged.difference(other, level=0.999).error > found.error


def test_recipes_are_put_together_and_named():
    recipe = together([Recipe(storage=Storage(tables="int8", dense="int8")), Recipe(storage=Storage(rank=4)), Recipe(fields_dropped=3), Recipe(rows_kept=0.5)])
    assert recipe == Recipe(fields_dropped=3, rows_kept=0.5, storage=Storage(tables="int8", dense="int8", rank=4))
    assert recipe.name == "3 fields less, 50% of rows, rank 4, int8"
    assert Recipe().name == "as it is"


def test_a_compressed_run_is_a_run(trained, world, tmp_path):
    table = world.exposures()
    found = compress(trained.folder, data=table, limit=0.01)
    assert found.chosen is not None
    assert found.chosen.cost.bytes < 0.3 * found.before.bytes
    assert found.chosen.difference.low > -0.01
    assert all(variant.cost.bytes >= found.chosen.cost.bytes for variant in found.variants if variant.equal)
    assert found.chosen.difference.level == pytest.approx(1 - 0.05 / len(found.variants))
    report = write(found, tmp_path / "small")
    small = Run.open(tmp_path / "small")
    assert small.status == "finished"
    assert small.record["compressed"]["bytes"] == found.chosen.cost.bytes
    test = table.take(np.arange(1000))
    np.testing.assert_array_equal(Fitted.of_run(small).subject().score(test), found.fitted.subject().score(test))
    np.testing.assert_allclose(subject_of(small).score(test), found.fitted.subject().score(test), rtol=1e-6)
    assert Fitted.of_run(small).held_bytes == found.chosen.cost.bytes
    assert small.epochs[0]["test_auc"] == pytest.approx(found.auc + found.chosen.difference.value, abs=1e-9)
    twin = Report.read(tmp_path / "small" / "compression.json")
    assert twin.provenance["chosen"]["bytes"] == found.chosen.cost.bytes
    assert twin == Report.from_mapping(json.loads(report.to_json()))
    assert found.chosen.recipe.name in (tmp_path / "small" / "compression.html").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="compressed already"):
        compress(tmp_path / "small", data=table)
    with pytest.raises(RunError, match="already holds a run"):
        write(found, tmp_path / "small")


def test_a_ranker_of_a_compressed_run_survives_its_files(trained, world, tmp_path):
    table = world.exposures()
    before = Fitted.of_run(trained)
    storage = Storage(tables="int8", dense="bf16", rank=4)
    bench = Workbench.of(before, table.take(np.arange(2000)), table.take(np.arange(2000, 4000)))
    write_run(bench.make(Recipe(storage=storage)), trained, table, tmp_path / "small")
    items = Batch({"item": np.arange(150)})
    ranker = Ranker.of_run(Run.open(tmp_path / "small"), items)
    ranker.save(tmp_path / "ranker")
    again = Ranker.load(tmp_path / "ranker", items)
    assert again.model.vectors.table.weight.dtype is torch.int8
    requests = again.encode_requests(Batch({"user": np.array([1, 2]), "surface": factorize(np.array(["home", "search"], object)), "age": np.array([30.0, 40.0])}))
    pairs = np.array([0, 1, 1]), np.array([5, 6, 7])
    np.testing.assert_array_equal(again.scores(requests, *pairs), ranker.scores(requests, *pairs))
    damaged = {**read_json(tmp_path / "ranker" / "ranker.json"), "storage": {"tables": "int3"}}
    write_json(tmp_path / "ranker" / "ranker.json", damaged)
    with pytest.raises(RunError, match="int3"):
        Ranker.load(tmp_path / "ranker", items)


def test_a_wrong_model_is_not_called_equal(trained, world):
    """One row of ten kept, and one number per row: AUC falls by more than the limit, and no such model is chosen."""
    found = compress(trained.folder, data=world.exposures(), recipes=[Recipe(rows_kept=0.02, storage=Storage(rank=1))])
    assert found.variants[0].difference.value < -0.01
    assert found.chosen is None
    assert found.fitted is None


def test_costs_are_those_of_the_parts(trained, world):
    before = Fitted.of_run(trained)
    cost = cost_of(before, world.exposures().take(np.arange(500)))
    assert cost.bytes == before.held_bytes
    assert sum(cost.by_part.values()) == cost.bytes
    assert cost.operations == 2 * (4 * 8 * 32 + 32 * 16 + 16) + 2 * (8 + 1)  # layers, and the number's vector and weight
    assert row_counts(before.model.vectors, before.transform).sum() > 0


def test_the_command_prints_every_model_and_what_came_of_it(world, tmp_path):
    import polars as pl

    table = world.exposures()
    pl.DataFrame({name: column if isinstance(column, np.ndarray) else column.values[column.codes] for name, column in table.items()}).write_parquet(tmp_path / "log.parquet")
    config = TrainingConfig(model=ModelConfig(name="fm", embedding_width=8), maximum_epochs=1, observe_every=0, histograms_every=0)
    run = train(read(tmp_path / "log.parquet"), world.schema, config, tmp_path / "run", reference={"kind": "file", "path": str(tmp_path / "log.parquet")})
    done = command(app, "compress", run.folder, "--out", tmp_path / "small", "--limit", "0.05")
    assert done.exit_code == 0
    chosen = Report.read(tmp_path / "small" / "compression.json").provenance["chosen"]
    line = next(line for line in done.stdout.splitlines() if line.startswith(f"{chosen['name']} "))
    assert f"{chosen['bytes_ratio']:.1%} of the bytes" in line
    assert line.endswith("equal")
    assert f"The smallest that is equal ({chosen['name']})" in done.stdout
    twin = command(app, "compress", run.folder, "--out", tmp_path / "twin", "--limit", "0.05", "--format", "json")
    assert json.loads(twin.stdout)["provenance"]["chosen"]["bytes"] == chosen["bytes"]


def test_the_command_says_what_is_wrong(trained, tmp_path):
    with pytest.raises(RunError, match="no run directory"):
        command(app, "compress", tmp_path / "none", "--out", tmp_path / "out")
    with pytest.raises(RunError, match="already holds a run"):
        command(app, "compress", trained.folder, "--out", trained.folder)
    with pytest.raises(RunError, match="in memory"):
        command(app, "compress", trained.folder, "--out", tmp_path / "out")
    with pytest.raises(UsageError, match="limit"):
        command(app, "compress", trained.folder, "--out", tmp_path / "out", "--limit", "2")
