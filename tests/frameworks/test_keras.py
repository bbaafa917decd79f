"""Keras and keras-rs on the torch backend: layers are no torch modules by name, but their lookups are torch's."""

import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
pytest.importorskip("keras_rs", reason="Keras is not in this environment: make test-frameworks builds one that has it")

import keras
from contract import (  # noqa: F401 - pytest runs them
    test_importance_is_complete_and_user_and_item_lead,
    test_it_learns_and_its_fields_are_found,
    test_the_report,
)
from keras_ranker import trained
from movielens import FIELDS

from recspect.diagnosis.subject import TorchSubject

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="Keras runs on another backend here")


@pytest.fixture(scope="module")
def subject():
    model, _ = trained()
    return TorchSubject(model, fields=FIELDS)  # the whole adapter
