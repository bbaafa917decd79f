"""torch-rechub: its DeepFM reads every table twice (deep part and FM part), which Captum gets wrong without a word."""

import pytest
import torch

pytest.importorskip("torch_rechub", reason="torch-rechub is not in this environment: make test-frameworks builds one that has it")

from contract import (  # noqa: F401 - pytest runs them
    test_importance_is_complete_and_user_and_item_lead,
    test_the_report,
)
from movielens import FIELDS, auc, tables

from recspect.diagnosis.subject import TorchSubject


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models.ranking import DeepFM
    from torch_rechub.trainers import CTRTrainer
    from torch_rechub.utils.data import DataGenerator

    torch.manual_seed(2020)
    train, validation, test, sizes = tables()
    sets = [({name: part[name] for name in FIELDS}, part["label"]) for part in (train, validation, test)]
    generator = DataGenerator(*sets[0])
    loaders = generator.generate_dataloader(x_val=sets[1][0], y_val=sets[1][1], x_test=sets[2][0], y_test=sets[2][1], batch_size=1024)
    features = [SparseFeature(name, sizes[name], embed_dim=10) for name in FIELDS]
    model = DeepFM(features, features, {"dims": [64, 64], "dropout": 0.0, "activation": "relu"})
    CTRTrainer(model, n_epoch=3, optimizer_params={"lr": 3e-3}, model_path=str(tmp_path_factory.mktemp("rechub"))).fit(*loaders[:2])
    return TorchSubject(model, fields=FIELDS)  # the whole adapter


def test_it_learns_and_its_fields_are_found(subject):
    assert auc(subject) > 0.74
    sites = subject.sites(tables()[2])
    assert sites.fields == FIELDS
    assert len(sites.lookups) == 2 * len(FIELDS)  # once for the deep part, once for the FM part
    assert sites.has_logit
