"""The built-in models equal their written formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recspect.errors import UsageError
from recspect.features import InputSize
from recspect.models import ModelConfig, build

SIZES = (
    InputSize(name="user", form="id", rows=7),
    InputSize(name="age", form="numbers"),
    InputSize(name="genres", form="ids", rows=6, width=4),
    InputSize(name="item", form="id", rows=5),
    InputSize(name="income", form="numbers", width=2),
    InputSize(name="history", form="ids", rows=5, width=3),
    InputSize(name="image", form="numbers", width=3),
)
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
    model = build(config, SIZES).double()
    with torch.no_grad():
        model.bias.fill_(0.3)
    return model


def field_vectors(state: dict[str, np.ndarray], prefix: str, row: dict[str, np.ndarray]) -> np.ndarray:
    """Vectors of one row, field by field, straight from the definition: (F, D)."""
    table, scales = state[f"{prefix}.table.weight"], state[f"{prefix}.scales"]
    sizes = {size.name: size for size in SIZES}
    start, scale_start, found = 0, 0, []
    for name in ORDER:
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


def hidden(state: dict[str, np.ndarray], flat: np.ndarray) -> float:
    for layer in (0, 2):
        flat = np.maximum(0, state[f"mlp.{layer}.weight"] @ flat + state[f"mlp.{layer}.bias"])
    return (state["mlp.4.weight"] @ flat + state["mlp.4.bias"]).item()


def expected(name: str, model: torch.nn.Module, given: dict[str, torch.Tensor]) -> np.ndarray:
    state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    rows = len(given["user"])
    out = []
    for i in range(rows):
        row = {key: tensor[i].numpy() for key, tensor in given.items()}
        v = field_vectors(state, "vectors", row)
        z = state["bias"] + hidden(state, v.reshape(-1))
        if name == "deepfm":
            z += field_vectors(state, "weights", row).sum()
            z += sum(v[f] @ v[g] for f in range(len(v)) for g in range(f + 1, len(v)))
        out.append(z)
    return np.array(out)


@pytest.mark.parametrize("name", ["deepfm", "mlp"])
def test_forward_is_the_formula(name):
    model = model_of(name)
    given = inputs()
    np.testing.assert_allclose(model(given).detach().numpy(), expected(name, model, given), rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize("forms", [("id",), ("ids",), ("numbers",), ("id", "numbers"), ("ids", "numbers")])
def test_any_mixture_of_forms(forms):
    sizes = [size for size in SIZES if size.form in forms]
    model = build(ModelConfig(), sizes)
    given = {size.name: inputs(dtype=torch.float32)[size.name] for size in sizes}
    out = model(given)
    assert out.shape == (9,)
    out.sum().backward()


@pytest.mark.parametrize(("settings", "message"), [
    ({"embedding_width": 0}, "embedding_width is 0"), ({"hidden": ()}, "hidden is"), ({"dropout": 1.0}, "dropout is 1.0"),
    ({"activation": "step"}, "activation is 'step'"), ({"output": "odds"}, "output is 'odds'"),
    ({"output_scale": 0.0}, "output_scale is 0.0"), ({"embedding_deviation": 0.0}, "embedding_deviation is 0.0"),
])
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UsageError, match=message):
        ModelConfig(**settings)


def test_an_unknown_model():
    with pytest.raises(UsageError, match="no model named 'bert4rec'"):
        build(ModelConfig(name="bert4rec"), SIZES)
