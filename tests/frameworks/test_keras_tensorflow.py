"""Keras and keras-rs on TensorFlow: one model, examined by the same means through a bridge of gradients."""

import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
pytest.importorskip("keras_rs", reason="Keras is not in this environment: make test-frameworks builds one that has it")

import keras
from contract import (  # noqa: F401 - pytest runs them
    test_importance_is_complete_and_user_and_item_lead,
    test_it_learns_and_its_fields_are_found,
    test_the_report,
)
from keras_ranker import trained
from movielens import FIELDS, tables

from recspect.diagnosis.probes.attribution import gradient_times_input
from recspect.diagnosis.subject import TorchSubject

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras runs on another backend here")


@pytest.fixture(scope="module")
def pair():
    model, vectors = trained()
    return TorchSubject(model, fields=FIELDS), keras.Model(vectors, model.output)  # the whole adapter; what comes after the lookups, for the test below


@pytest.fixture(scope="module")
def subject(pair):
    return pair[0]


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
