"""Keras and keras-rs on TensorFlow: one model, examined by the same means through a bridge of gradients."""

import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
pytest.importorskip("keras_rs", reason="Keras is not in this environment: make test-frameworks builds one that has it")

import keras
import keras_rs
from movielens import FIELDS, auc, examined, importance, tables

from recspect.diagnosis.probes.attribution import gradient_times_input
from recspect.diagnosis.subject import TorchSubject

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras runs on another backend here")


@pytest.fixture(scope="module")
def pair():
    keras.utils.set_random_seed(2020)
    train, _, _, sizes = tables()
    inputs = {name: keras.Input((), dtype="int64", name=name) for name in FIELDS}
    vectors = [keras.layers.Embedding(sizes[name], 10)(inputs[name]) for name in FIELDS]
    joined = keras.layers.Concatenate()(vectors)
    cross = keras_rs.layers.FeatureCross()(joined)
    dot = keras_rs.layers.DotInteraction()(vectors)
    deep = keras.layers.Dense(64, "relu")(keras.layers.Concatenate()([cross, dot]))
    model = keras.Model(inputs, keras.layers.Dense(1, "sigmoid")(deep))
    model.compile(keras.optimizers.Adam(3e-3), "binary_crossentropy")
    model.fit({name: train[name] for name in FIELDS}, train["label"], batch_size=1024, epochs=3, verbose=0)
    return TorchSubject(model, fields=FIELDS), keras.Model(vectors, model.output)  # the whole adapter; what comes after the lookups, for the test below


@pytest.fixture(scope="module")
def subject(pair):
    return pair[0]


def test_it_learns_and_its_fields_are_found(subject):
    assert auc(subject) > 0.74
    sites = subject.sites(tables()[2])
    assert sites.fields == FIELDS
    assert sites.has_logit


def test_importance_is_complete_and_user_and_item_lead(subject):
    found, error = importance(subject)
    assert error < 0.01
    assert set(sorted(found, key=found.get)[-2:]) == {"user_id", "item_id"}


def test_the_report(subject):
    report = examined(subject)
    assert report.find("training.dead_units")
    assert np.isfinite([finding.estimate.value for finding in report.find("predictions.ranking_quality") if finding.estimate]).all()


def test_gradients_are_those_of_a_gradient_tape(pair):
    import tensorflow as tf

    subject, rest = pair
    test = tables()[2].take(slice(0, 200))
    found = gradient_times_input(subject, test)
    vectors = [tf.convert_to_tensor(layer(np.asarray(test[name]))) for name, layer in zip(FIELDS, subject.model.embeddings.values(), strict=True)]
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        score = tf.squeeze(rest(vectors), 1)
        logit = tf.math.log(score / (1 - score))
    for name, vector, gradient in zip(FIELDS, vectors, tape.gradient(logit, vectors), strict=True):
        assert np.abs(found.reliance[name].numpy() - tf.reduce_sum(gradient * vector, 1).numpy()).max() < 2e-5


def test_the_model_is_left_as_it_was_also_after_an_exception(pair):
    subject, _ = pair
    model = subject.model.model
    before = [np.array(weight) for weight in model.get_weights()]
    call, activations = keras.layers.Embedding.call, [getattr(layer, "activation", None) for layer in model.layers]
    with pytest.raises(ValueError, match="Missing data for input"):
        subject.model({"user_id": subject.encode(tables()[2].take(slice(0, 4)))["user_id"]})
    assert keras.layers.Embedding.call is call
    assert [getattr(layer, "activation", None) for layer in model.layers] == activations
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
