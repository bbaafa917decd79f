"""FuxiCTR: models built on its BaseModel and layers (its wheel carries no finished models), a dict of scores out."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("fuxictr", reason="FuxiCTR is not in this environment: make test-frameworks builds one that has it")

from contract import (  # noqa: F401 - pytest runs them
    test_importance_is_complete_and_user_and_item_lead,
    test_the_report,
)
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from movielens import FIELDS, auc, tables

from recspect.diagnosis.subject import TorchSubject

pytestmark = pytest.mark.filterwarnings("default")  # FuxiCTR's own dependencies warn on today's Python


class DeepFM(BaseModel):
    """DeepFM of FuxiCTR's layers."""

    def __init__(self, feature_map, **settings):
        super().__init__(feature_map, **settings)
        self.embedding_layer = FeatureEmbedding(feature_map, 10)
        self.fm = FactorizationMachine(feature_map)
        self.mlp = MLP_Block(input_dim=feature_map.sum_emb_out_dim(), output_dim=1, hidden_units=[64, 64])
        self.compile("adam", "binary_crossentropy", lr=5e-3)
        self.reset_parameters()

    def forward(self, inputs):
        x = self.get_inputs(inputs)
        vectors = self.embedding_layer(x)
        return {"y_pred": self.output_activation(self.fm(x, vectors) + self.mlp(vectors.flatten(start_dim=1)))}


class Batches:
    """What FuxiCTR's loaders yield: dicts of tensors, a length."""

    def __init__(self, part, shuffle):
        self.columns = {name: torch.from_numpy(np.asarray(part[name])) for name in (*FIELDS, "label")}
        self.rows, self.shuffle = part.rows, shuffle

    def __len__(self):
        return (self.rows + 1023) // 1024

    def __iter__(self):
        order = torch.randperm(self.rows) if self.shuffle else torch.arange(self.rows)
        for rows in order.split(1024):
            yield {name: column[rows] for name, column in self.columns.items()}


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuxictr")
    (folder / "ml").mkdir()
    train, validation, _, sizes = tables()
    features = [{name: {"source": "", "type": "categorical", "vocab_size": sizes[name], "padding_idx": 0}} for name in FIELDS]
    (folder / "feature_map.json").write_text(json.dumps({"dataset_id": "ml", "labels": ["label"], "features": features}))
    feature_map = FeatureMap("ml", str(folder))
    feature_map.load(str(folder / "feature_map.json"), {"embedding_dim": 10})
    torch.manual_seed(2020)
    model = DeepFM(feature_map, model_id="DeepFM", gpu=-1, metrics=["AUC", "logloss"], verbose=0, model_root=str(folder))
    model.fit(Batches(train, True), epochs=3, validation_data=Batches(validation, False))
    return TorchSubject(model, fields=FIELDS, forward=lambda model, x: model(x)["y_pred"])  # the whole adapter


def test_it_learns_and_its_fields_are_found(subject):
    assert auc(subject) > 0.74
    sites = subject.sites(tables()[2])
    assert set(sites.fields) == set(FIELDS)
    assert len(sites.lookups) == 2 * len(FIELDS)  # the first-order weight of the FM part, and the vector
    assert sites.has_logit
