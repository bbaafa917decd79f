"""The built-in models equal their written formulas."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from recspect.errors import RunError, UsageError
from recspect.features import InputSize
from recspect.models import MODELS, ModelConfig, build
from recspect.models.building import require_buildable
from recspect.models.settings import (
    AttentionSettings,
    CrossSettings,
    DotSettings,
    ExtractionSettings,
    MixtureSettings,
    Task,
)
from recspect.models.vectors import FieldVectors

SIZES = (
    InputSize(name="user", form="id", rows=7),
    InputSize(name="age", form="numbers"),
    InputSize(name="genres", form="ids", rows=6, width=4),
    InputSize(name="item", form="id", rows=5),
    InputSize(name="income", form="numbers", width=2),
    InputSize(name="history", form="ids", rows=5, width=3),
    InputSize(name="image", form="numbers", width=3),
)
SHARED = tuple(replace(size, shares="item") if size.name == "history" else size for size in SIZES)
"""The same with a history of items."""
ORDER = ("user", "item", "genres", "history", "age", "income", "image")  # single ids, lists, numbers


def inputs(rows: int = 9, dtype=torch.float64) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    found = {}
    for size in SIZES:
        if size.form == "numbers":
            shape = (rows,) if size.width == 1 else (rows, size.width)
            found[size.name] = torch.randn(shape, generator=draw, dtype=dtype)
        elif size.form == "id":
            found[size.name] = torch.randint(0, size.rows, (rows,), generator=draw)
        else:
            lists = torch.randint(1, size.rows, (rows, size.width), generator=draw)
            kept = torch.randint(0, size.width + 1, (rows, 1), generator=draw)
            found[size.name] = lists * (torch.arange(size.width) < kept)
    return found


def model_of(name: str, **settings) -> torch.nn.Module:
    torch.manual_seed(1)
    config = ModelConfig(name=name, embedding_width=4, hidden=(6, 5), embedding_deviation=0.7, **settings)
    model = build(config, SHARED if name == "din" else SIZES).double()
    with torch.no_grad():
        model.bias.fill_(0.3)
    return model


def field_vectors(state: dict[str, np.ndarray], prefix: str, row: dict[str, np.ndarray], fields=ORDER) -> np.ndarray:
    """Vectors of one row, field by field, straight from the definition: (F, D)."""
    table, scales = state[f"{prefix}.table.weight"], state.get(f"{prefix}.scales")
    sizes = {size.name: size for size in SIZES}
    start, scale_start, found = 0, 0, []
    for name in fields:
        size, value = sizes[name], row[name]
        if size.form == "id":
            found.append(table[start + value])
        elif size.form == "ids":
            present = [table[start + entry] for entry in value if entry != 0]
            found.append(np.mean(present, axis=0) if present else np.zeros(table.shape[1]))
        else:
            found.append(sum(number * scales[scale_start + i] for i, number in enumerate(np.atleast_1d(value))))
            scale_start += size.width
        start += size.rows
    return np.stack(found)


def hidden(state: dict[str, np.ndarray], flat: np.ndarray, prefix: str = "mlp") -> np.ndarray:
    """Linear layers with a ReLU between two of them, straight from the definition."""
    layers = sorted(int(key.split(".")[-2]) for key in state if key.startswith(f"{prefix}.") and key.endswith(".weight"))
    for layer in layers:
        flat = state[f"{prefix}.{layer}.weight"] @ flat + state[f"{prefix}.{layer}.bias"]
        flat = flat if layer == layers[-1] else np.maximum(0, flat)
    return flat


def products(vectors: np.ndarray) -> np.ndarray:
    return np.array([vectors[f] @ vectors[g] for f in range(len(vectors)) for g in range(f + 1, len(vectors))])


def crossed(state: dict[str, np.ndarray], start: np.ndarray) -> np.ndarray:
    x = start
    for layer in range(3):
        matrix = state.get(f"crosses.{layer}.weight")
        if matrix is None:
            matrix = state[f"crosses.{layer}.1.weight"] @ state[f"crosses.{layer}.0.weight"]
        shift = state.get(f"crosses.{layer}.bias", state.get(f"crosses.{layer}.1.bias"))
        x = start * (matrix @ x + shift) + x
    return x


def attended(state: dict[str, np.ndarray], own, row: dict[str, np.ndarray]) -> np.ndarray:
    """DIN's vector of the history: items begin at row 7 of the table, behind the users."""
    table = state["vectors.table.weight"]
    target, entries = table[7 + row["item"]], [table[7 + entry] for entry in row["history"] if entry != 0]
    weights = np.array([hidden(state, np.concatenate([h, target, h - target, h * target]), "attentions.0").item() for h in entries])
    if own.normalised:
        weights = np.exp(weights) / np.exp(weights).sum()
    return sum((weight * h for weight, h in zip(weights, entries, strict=True)), np.zeros(4))


def from_definition(state: dict[str, np.ndarray], name: str, own, row: dict[str, np.ndarray]) -> float:
    if name == "dlrm":
        bottom = hidden(state, np.concatenate([np.atleast_1d(row[size.name]) for size in SIZES if size.form == "numbers"]), "bottom")
        looked_up = field_vectors(state, "vectors", row, [field for field in ORDER if field not in ("age", "income", "image")])
        dots = products(np.concatenate([bottom[None], looked_up]))
        return state["bias"] + hidden(state, np.concatenate([bottom, dots])).item()
    z = state["bias"]
    if name in ("linear", "fm", "deepfm"):
        z = z + field_vectors(state, "weights", row).sum()
    if name == "linear":
        return z
    v = field_vectors(state, "vectors", row) if name != "din" else np.stack([
        *field_vectors(state, "vectors", row, ORDER[:3]), attended(state, own, row), *field_vectors(state, "vectors", row, ORDER[4:])])
    if name in ("fm", "deepfm"):
        z = z + products(v).sum()
    if name in ("mlp", "deepfm", "din"):
        z = z + hidden(state, v.reshape(-1)).item()
    if name == "dcnv2":
        x = crossed(state, v.reshape(-1))
        z = z + (hidden(state, x).item() if own.structure == "stacked" else (state["readout.weight"] @ x).item() + hidden(state, v.reshape(-1)).item())
    return z


def mixture(gate: np.ndarray, experts: list[np.ndarray]) -> np.ndarray:
    shares = np.exp(gate) / np.exp(gate).sum()
    return sum(share * np.maximum(0, expert) for share, expert in zip(shares, experts, strict=True))


@pytest.mark.parametrize("name", ["mmoe", "ple"])
def test_labels_are_their_formulas(name):
    """A click, a purchase after it, and a graded dwell time."""
    tasks = (Task(label="buy", after="click"), Task(label="click"), Task(label="dwell", output="value", mean=30.0, scale=5.0))
    own = MixtureSettings(experts=3, tower=(4,)) if name == "mmoe" else ExtractionSettings(layers=2, shared_experts=2, label_experts=1, tower=(4,))
    model = model_of(name, own=own, tasks=tasks)
    given = inputs()
    state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    found = model(given, every=True).detach().numpy()
    for row in range(9):
        x = field_vectors(state, "vectors", {key: tensor[row].numpy() for key, tensor in given.items()}).reshape(-1)
        if name == "mmoe":
            experts = [hidden(state, x, f"experts.{e}") for e in range(3)]
            read = [mixture(state[f"gates.{t}.weight"] @ x, experts) for t in range(3)]
        else:
            states = [x] * 4
            for layer in (0, 1):
                shared = [hidden(state, states[3], f"layers.{layer}.shared.{e}") for e in range(2)]
                mine = [hidden(state, states[t], f"layers.{layer}.own.{t}.0") for t in range(3)]
                following = [mixture(state[f"layers.{layer}.gates.{t}.weight"] @ states[t], [mine[t], *shared]) for t in range(3)]
                if layer == 0:
                    following.append(mixture(state["layers.0.shared_gate.weight"] @ states[3], [*mine, *shared]))
                states = following
            read = states
        z = [hidden(state, read[t], f"towers.each.{t}").item() + 0.3 for t in range(3)]
        chance = [1 / (1 + np.exp(-z[0])) / (1 + np.exp(-z[1])), 1 / (1 + np.exp(-z[1]))]
        np.testing.assert_allclose(1 / (1 + np.exp(-found[row, :2])), chance, rtol=1e-12)
        assert found[row, 2] == pytest.approx(30 + 5 * z[2], rel=1e-12)
    assert torch.equal(model(given), model(given, every=True)[:, 0])


FORMULAS = {
    "linear": {}, "fm": {}, "mlp": {}, "deepfm": {}, "dcnv2": {}, "dcnv2 stacked": {"own": CrossSettings(structure="stacked")},
    "dcnv2 of rank 2": {"own": CrossSettings(rank=2)}, "dlrm": {"own": DotSettings(bottom=(5,))},
    "din": {}, "din normalised": {"own": AttentionSettings(normalised=True)},
}


@pytest.mark.parametrize("case", FORMULAS)
def test_forward_is_the_formula(case):
    name = case.split()[0]
    model = model_of(name, **FORMULAS[case])
    given = inputs()
    state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    expected = [from_definition(state, name, model.config.own, {key: tensor[i].numpy() for key, tensor in given.items()}) for i in range(9)]
    np.testing.assert_allclose(model(given).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_a_value_is_in_the_unit_of_the_label():
    given = inputs()
    raw = model_of("deepfm")(given)
    value = model_of("deepfm", output="value", output_mean=3.5, output_scale=2.0)(given)
    torch.testing.assert_close(value, 3.5 + 2.0 * raw)


def test_fields_are_named_in_the_order_of_the_vectors():
    assert tuple(model_of("deepfm").vectors.fields) == ORDER


def test_padding_contributes_exactly_nothing():
    model = model_of("deepfm")
    given = inputs()
    wider = {name: torch.nn.functional.pad(given[name], (0, 5)) for name in ("genres", "history")}
    assert torch.equal(model({**given, **wider}), model(given))
    starts = dict(zip(ORDER[:4], model.vectors.table.starts, strict=True))
    before = model(given).detach()
    with torch.no_grad():
        for name in ("genres", "history"):
            model.vectors.table.weight[starts[name]] = 1e6
            model.weights.table.weight[starts[name]] = 1e6
    assert torch.equal(model(given), before)
    model(given).sum().backward()
    touched = model.vectors.table.weight.grad.coalesce().indices()[0].tolist()
    assert not {starts["genres"], starts["history"]} & set(touched)


@pytest.mark.parametrize("normalised", [False, True])
def test_padding_of_a_history_contributes_exactly_nothing(normalised):
    model = model_of("din", own=AttentionSettings(normalised=normalised))
    given = inputs()
    given["item"] = given["item"].clamp(min=1)  # else the row that pads a history is read as an item
    assert torch.equal(model({**given, "history": torch.nn.functional.pad(given["history"], (0, 5))}), model(given))
    before = model(given).detach()
    with torch.no_grad():
        model.vectors.table.weight[7] = 1e6
    assert torch.equal(model(given), before)
    empty = {**given, "history": torch.zeros(9, 3, dtype=torch.int64)}
    out = model(empty)
    assert out.isfinite().all()
    out.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.attentions.parameters())


def test_a_history_reads_the_rows_of_its_items():
    model = build(ModelConfig(name="din", embedding_width=4), SHARED)
    assert model.vectors.table.weight.shape == (7 + 5 + 6, 4)  # users, items, genres; no rows for the history
    given = inputs(dtype=torch.float32)
    model(given).sum().backward()
    read = set(model.vectors.table.weight.grad.coalesce().indices()[0].tolist())
    assert read == {*given["user"].tolist(), *(7 + given["item"]).tolist(), *(7 + given["history"][given["history"] > 0]).tolist(),
                    *(12 + given["genres"][given["genres"] > 0]).tolist()} | ({7, 12} & read)


# ---------------------------------------------------------------------- two tables for the ids of one field


def two_tables(rows: int, most: int, width: int = 3):
    sizes = [InputSize(name="user", form="id", rows=rows), InputSize(name="item", form="id", rows=6),
             InputSize(name="history", form="ids", rows=rows, width=4, shares="user")]
    torch.manual_seed(0)
    return FieldVectors(sizes, width, deviation=0.5, rows_per_table=most).double()


def test_each_id_has_a_pair_of_rows_of_its_own_and_frequent_ids_a_remainder():
    vectors = two_tables(1003, 43)
    ids = torch.arange(1003)
    remainders, quotients = vectors._divide(ids)
    assert len({*zip(remainders.tolist(), quotients.tolist(), strict=True)}) == 1003
    assert torch.equal(remainders[:43], ids[:43])
    assert (quotients[:3] == 0).all()
    assert (quotients[3:43] == 1).all()
    assert (int(remainders.max()), int(quotients.max())) == (42, 25)
    assert vectors.table.weight.shape[0] == 43 + 6
    assert vectors.quotient_table.weight.shape[0] == 26


def test_a_divided_vector_is_the_product_of_its_two():
    vectors = two_tables(103, 13)
    given = {"user": torch.tensor([0, 2, 3, 55, 102]), "item": torch.tensor([1, 5, 0, 2, 3]),
             "history": torch.tensor([[55, 3, 0, 0], [0, 0, 0, 0], [102, 102, 4, 2], [3, 0, 0, 0], [0, 0, 0, 0]])}
    remainder, quotient = vectors.table.weight, vectors.quotient_table.weight

    def vector(k):  # items hold rows 0 to 5, users the 13 after them
        r, q = (k, 0) if k < 3 else (3 + (k - 3) % 10, 1 + (k - 3) // 10)
        return remainder[6 + r] * quotient[q]

    found = vectors(given)
    assert vectors.fields == ["item", "user", "history"]
    for row in range(5):
        torch.testing.assert_close(found[row, 0], remainder[given["item"][row]])
        torch.testing.assert_close(found[row, 1], vector(int(given["user"][row])))
        entries = [vector(int(k)) for k in given["history"][row] if k]
        torch.testing.assert_close(found[row, 2], torch.stack(entries).mean(0) if entries else torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_reads_two_tables(name):
    """A thousandth of the rows: 2,000,000 users in two tables of 2,000 and 1,003 rows."""
    sizes = [replace(size, rows=2_000_000) if size.name == "user" else size for size in SHARED]
    model = build(ModelConfig(name=name, embedding_width=4, rows_per_table=2_000), sizes)
    assert sum(len(parameter) for key, parameter in model.named_parameters() if key.startswith("vectors.") and "table" in key) < 3_100 or name == "linear"
    model(inputs(dtype=torch.float32)).sum().backward()
    assert all(parameter.grad.is_sparse for key, parameter in model.named_parameters() if key.endswith("table.weight"))


def test_an_empty_list_is_the_zero_vector():
    model = model_of("deepfm")
    given = {**inputs(), "genres": torch.zeros(9, 4, dtype=torch.int64)}
    assert torch.equal(model.vectors(given)[:, 2], torch.zeros(9, 4, dtype=torch.float64))


def test_gradients_are_sparse_and_right():
    model = model_of("deepfm")
    given = inputs()
    model(given).square().sum().backward()
    for table in (model.vectors.table.weight, model.weights.table.weight):
        assert table.grad.is_sparse
        dense = table.grad.to_dense()
        for row, column in [(0, 0), (8, 0), (14, 0), (20, 0)]:
            step = 1e-6
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    table[row, column] += sign * step
                    values.append(model(given).square().sum().item())
                    table[row, column] -= sign * step
            assert dense[row, column].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-7)


def test_layers_have_recognisable_names():
    model = model_of("mlp", dropout=0.1, activation="silu")
    assert [type(layer).__name__ for layer in model.mlp] == ["Linear", "SiLU", "Dropout", "Linear", "SiLU", "Dropout", "Linear"]
    assert set(dict(model.named_parameters())) == {
        "bias", "vectors.scales", "vectors.table.weight", "mlp.0.weight", "mlp.0.bias", "mlp.3.weight", "mlp.3.bias",
        "mlp.6.weight", "mlp.6.bias"}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("forms", [("id",), ("ids",), ("numbers",), ("id", "numbers"), ("ids", "numbers"), ("id", "ids")])
def test_any_mixture_of_forms(forms, name):
    sizes = [size for size in SHARED if size.form in forms]
    if name == "din" and (forms != ("id", "ids")):
        with pytest.raises(UsageError, match="needs a history"):
            build(ModelConfig(name=name), sizes)
        return
    model = build(ModelConfig(name=name), sizes)
    given = {size.name: inputs(dtype=torch.float32)[size.name] for size in sizes}
    out = model(given)
    assert out.shape == (9,)
    out.sum().backward()


@pytest.mark.parametrize(("settings", "message"), [
    ({"embedding_width": 0}, "embedding_width is 0"), ({"hidden": ()}, "hidden is"), ({"dropout": 1.0}, "dropout is 1.0"),
    ({"activation": "step"}, "activation is 'step'"), ({"output": "odds"}, "output is 'odds'"),
    ({"output_scale": 0.0}, "output_scale is 0.0"), ({"rows_per_table": 3}, "rows_per_table is 3"), ({"rows_per_table": 0}, "rows_per_table is 0"), ({"embedding_deviation": 0.0}, "embedding_deviation is 0.0"),
])
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UsageError, match=message):
        ModelConfig(**settings)


def test_an_unknown_model():
    with pytest.raises(UsageError, match="no model named 'bert4rec'"):
        build(ModelConfig(name="bert4rec"), SIZES)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: CrossSettings(layers=0), "layers is 0"), (lambda: CrossSettings(rank=0), "rank is 0"),
    (lambda: MixtureSettings(experts=0), "experts is 0"), (lambda: ExtractionSettings(label_experts=0), "label_experts is 0"),
    (lambda: CrossSettings(structure="beside"), "structure is 'beside'"), (lambda: DotSettings(bottom=(4, 0)), r"bottom\[1\] is 0"),
    (lambda: ModelConfig(name="mlp", own=CrossSettings()), "'mlp' has no settings of its own"),
    (lambda: ModelConfig(name="dlrm", own=CrossSettings()), "are DotSettings, found CrossSettings"),
])
def test_own_settings_that_make_no_sense(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("case", FORMULAS)
def test_settings_come_back_from_plain_data(case):
    config = ModelConfig(name=case.split()[0], **FORMULAS[case])
    assert ModelConfig(**json.loads(json.dumps(asdict(config)))) == config


def test_settings_of_a_newer_version_are_refused():
    with pytest.raises(RunError, match=r"hold \['experts'\]"):
        ModelConfig(name="dcnv2", own={"experts": 4})


def test_what_cannot_be_built_is_told_without_weights_or_random_numbers():
    huge = [InputSize(name="user", form="id", rows=10**12), InputSize(name="item", form="id", rows=10**12)]
    before = torch.get_rng_state()
    require_buildable(ModelConfig(name="dlrm"), huge)  # 30 terabytes, were they there
    with pytest.raises(UsageError, match="only one field"):
        require_buildable(ModelConfig(name="dlrm"), huge[:1])
    assert torch.equal(before, torch.get_rng_state())
