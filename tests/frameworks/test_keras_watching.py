"""Watching model.fit of Keras, on whichever of torch and TensorFlow this environment has."""

import os

import numpy as np
import pytest

pytest.importorskip("keras_rs", reason="Keras is not in this environment: make test-frameworks builds one that has it")
if "KERAS_BACKEND" not in os.environ:
    import importlib.util

    os.environ["KERAS_BACKEND"] = "tensorflow" if importlib.util.find_spec("tensorflow") else "torch"

import keras

from recspect.diagnosis.observing.keras_callback import Watch
from recspect.examining.observed_runs import examine_observed

BACKEND = keras.backend.backend()
pytestmark = [pytest.mark.skipif(BACKEND not in ("torch", "tensorflow"), reason="Keras runs on another backend here"),
              pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # Keras on torch reads its own variables in an old way


def fit(callbacks, *, epochs=2):
    keras.utils.set_random_seed(7)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 40, (256, 2))
    label = (rng.random(256) < ids[:, 0] / 40).astype("float32")
    inputs = {name: keras.Input((), dtype="int64", name=name) for name in ("a", "b")}
    vectors = [keras.layers.Embedding(40, 4, name=f"table_{name}")(inputs[name]) for name in inputs]
    hidden = keras.layers.Dropout(0.2)(keras.layers.Dense(16, "relu", name="hidden")(keras.layers.Concatenate()(vectors)))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid", name="score")(hidden))
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    rows = {"a": ids[:, 0], "b": ids[:, 1]}
    model.fit(rows, label, batch_size=32, epochs=epochs, verbose=0, shuffle=False, validation_split=0.25, callbacks=callbacks)
    return model


def test_it_is_watched_and_its_weights_are_the_same(tmp_path):
    plain, watch = fit([]), Watch(tmp_path, every=1)
    watched = fit([watch])
    assert watch.observer.failure == ""
    for one, other in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    table = watch.observer.table().to_pylist()
    losses = [row["value"] for row in table if row["series"] == "loss/train"]
    assert len(losses) == 12  # six batches of 32 of 192 rows, twice
    assert [row["epoch"] for row in table if row["series"] == "loss/validation"] == [1, 2]
    ratios = {row["place"]: row["value"] for row in table if row["series"] == "update_ratio" and row["step"] == 6}
    assert {"hidden/kernel", "score/kernel", "table_a/embeddings"} <= set(ratios)
    assert all(0 < value < 1 for place, value in ratios.items() if place.endswith(("kernel", "embeddings")))
    report = examine_observed(tmp_path)
    assert report.findings


def test_the_losses_of_batches_are_told_from_the_running_mean():
    seen = []

    class Means(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(logs["loss"]))

    watch = Watch(every=1)
    fit([watch, Means()], epochs=1)
    losses = [row["value"] for row in watch.observer.table().to_pylist() if row["series"] == "loss/train"]
    np.testing.assert_allclose(np.cumsum(losses) / np.arange(1, len(losses) + 1), seen, rtol=1e-4)


@pytest.mark.skipif(BACKEND != "torch", reason="TensorFlow runs a step as one graph")
def test_on_torch_activations_and_gradients_are_seen_and_nothing_is_left_behind():
    watch = Watch(every=1)
    model = fit([watch])
    table = watch.observer.table().to_pylist()
    assert {"hidden", "score"} <= {row["place"] for row in table if row["series"] == "activation_zero_share"}
    assert {"hidden/kernel", "table_a/embeddings"} <= {row["place"] for row in table if row["series"] == "gradient_norm"}
    assert all(0 < row["value"] <= 32 for row in table if row["series"] == "touched_rows")
    assert not any("call" in layer.__dict__ for layer in [model, *model.layers])
    assert "apply" not in model.optimizer.__dict__


@pytest.mark.skipif(BACKEND != "tensorflow", reason="on torch more is seen")
def test_on_tensorflow_what_is_not_seen_is_said():
    watch = Watch(every=1)
    fit([watch])
    assert "TensorFlow runs a step as one graph" in watch.observer.left_out[0]
    assert not any(row["series"] == "gradient_norm" for row in watch.observer.table().to_pylist())
