"""TorchRec: ids come as a KeyedJaggedTensor, one EmbeddingBagCollection serves all fields, a table may serve two of them."""

import numpy as np
import pytest
import torch

pytest.importorskip("torchrec", reason="TorchRec is not in this environment: make test-frameworks builds one that has it")

from contract import (  # noqa: F401 - pytest runs them
    test_importance_is_complete_and_user_and_item_lead,
    test_it_learns_and_its_fields_are_found,
    test_the_report,
)
from movielens import FIELDS, tables
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.models.dlrm import DLRM

from recspect.diagnosis.subject import TorchSubject


def keyed(x):
    """What a TorchRec user's loader yields: one jagged tensor of all fields, here one id per field and row."""
    rows = len(x[FIELDS[0]])
    return KeyedJaggedTensor.from_lengths_sync(list(FIELDS), torch.cat([x[name] for name in FIELDS]), torch.ones(rows * len(FIELDS), dtype=torch.int32))


def forward(model, x):
    return model(torch.zeros(len(x["user_id"]), 1), keyed(x))  # a constant dense input: no field


def trained(kind):
    torch.manual_seed(2020)
    train, _, _, sizes = tables()
    collection = EmbeddingBagCollection(tables=[
        EmbeddingBagConfig(name=f"t_{name}", embedding_dim=10, num_embeddings=sizes[name], feature_names=[name]) for name in FIELDS])
    if kind == "deepfm":
        model = SimpleDeepFMNN(num_dense_features=1, embedding_bag_collection=collection, hidden_layer_size=32, deep_fm_dimension=16)
    else:
        model = DLRM(embedding_bag_collection=collection, dense_in_features=1, dense_arch_layer_sizes=[16, 10], over_arch_layer_sizes=[64, 1])
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    columns = {name: torch.from_numpy(np.asarray(train[name])) for name in FIELDS}
    label = torch.from_numpy(np.asarray(train["label"])).float()
    loss_of = torch.nn.functional.binary_cross_entropy if kind == "deepfm" else torch.nn.functional.binary_cross_entropy_with_logits
    for _ in range(3):
        for rows in torch.randperm(train.rows).split(1024):
            loss = loss_of(forward(model, {name: column[rows] for name, column in columns.items()}).reshape(-1), label[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    if kind == "deepfm":
        return TorchSubject(model, fields=FIELDS, forward=forward)
    return TorchSubject(model, fields=FIELDS, forward=lambda model, x: torch.sigmoid(forward(model, x)))  # DLRM returns the logit


@pytest.fixture(scope="module", params=["deepfm", "dlrm"])
def subject(request):
    return trained(request.param)
