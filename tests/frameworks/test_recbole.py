"""RecBole: one fused table with offsets for all fields, its own Interaction, logits from forward and probabilities from predict."""

import contextlib
import os

import numpy as np
import pytest
import torch

pytest.importorskip("recbole", reason="RecBole is not in this environment: make test-frameworks builds one that has it")

from movielens import FIELDS

from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.probes.attribution import integrated_gradients, mean_baseline
from recspect.diagnosis.subject import TorchSubject
from recspect.examining.examination import examine
from recspect.schema import Field, Label, Schema

pytestmark = pytest.mark.filterwarnings("default")  # RecBole warns at every step on today's NumPy, pandas and torch


def trained(name, folder, settings):
    """RecBole's own model, data and trainer, on the MovieLens-100K that its wheel carries."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    with contextlib.chdir(folder):  # RecBole logs into the current folder
        config = Config(model=name, dataset="ml-100k", config_dict={
            "checkpoint_dir": str(folder), "show_progress": False, "state": "ERROR", "use_gpu": False, "seed": 2020, **settings})
        init_seed(2020, reproducibility=True)
        data = create_dataset(config)
        train, validation, test = data_preparation(config, data)
        model = get_model(name)(config, train._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        trainer.fit(train, validation, saved=False, show_progress=False)
        return model, train, test, trainer


CONTEXT = {"load_col": {"inter": ["user_id", "item_id", "rating"], "user": ["user_id", "age", "gender", "occupation"],
                        "item": ["item_id", "release_year", "class"]},
           "threshold": {"rating": 4}, "normalize_all": False, "metrics": ["AUC", "LogLoss"], "valid_metric": "AUC", "epochs": 3,
           "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "none", "mode": "labeled"},
           "train_batch_size": 2048, "eval_batch_size": 4096, "learning_rate": 3e-3}
SEQUENCE = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "epochs": 1, "train_batch_size": 1024, "loss_type": "BPR",
            "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}, "MAX_ITEM_LIST_LENGTH": 20, "hidden_size": 32,
            "inner_size": 32, "n_layers": 1, "n_heads": 1, "user_inter_num_interval": "[5,60]"}


def rows_of(loader):
    """The rows behind a RecBole loader, with the user's and the item's columns; padded lists become lists."""
    part = loader.dataset if hasattr(loader, "dataset") else loader._dataset
    columns = {name: tensor.numpy() for name, tensor in part.join(part.inter_feat).interaction.items()}
    return Batch({name: lists(column) if column.ndim == 2 else column for name, column in columns.items()})


def lists(padded):
    inside = padded > 0
    return Ragged(padded[inside], np.concatenate([[0], np.cumsum(inside.sum(1))]))


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    model, train, test, trainer = trained("DeepFM", tmp_path_factory.mktemp("recbole"), CONTEXT)
    from recbole.data.interaction import Interaction

    subject = TorchSubject(model, fields=FIELDS, forward=lambda model, x: model.predict(Interaction(x)))  # the whole adapter
    return subject, rows_of(train), rows_of(test), trainer.evaluate(test, load_best_model=False, show_progress=False)


def test_scores_are_recboles_own(context):
    from sklearn.metrics import roc_auc_score

    subject, _, test, theirs = context
    ours = roc_auc_score(test["label"], subject.score(test))
    assert ours > 0.74
    assert abs(ours - theirs["auc"]) < 5e-4  # RecBole rounds to four decimals


def test_the_fused_table_is_taken_apart(context):
    subject, _, test, _ = context
    sites = subject.sites(test)
    assert set(sites.fields) == set(FIELDS)
    assert sites.has_logit
    fused = [site for site in sites.lookups if len(site.parts) == 6]
    assert {site.table for site in fused} == {"token_embedding_table.embedding.weight", "first_order_linear.token_embedding_table.embedding.weight"}


def test_importance_is_complete_and_user_and_item_lead(context):
    subject, _, test, _ = context
    found = integrated_gradients(subject, test.take(slice(0, 2_000)), baseline=mean_baseline(subject, test), steps=32)
    assert float(found.error.mean()) < 0.02 * float((found.score - found.baseline).abs().mean())
    size = {name: float(found.reliance[name].abs().mean()) for name in FIELDS}
    assert set(sorted(size, key=size.get)[-3:]) >= {"user_id", "item_id"}
    padding = np.arange(found.entries["class"].shape[1]) >= test["class"].lengths[:2_000, None]
    assert padding.any()
    assert not found.entries["class"].numpy()[padding].any()


def test_the_report(context):
    subject, train, test, _ = context
    schema = Schema(user="user_id", item="item_id", labels=[Label(name="label")],
                    fields=[Field(name=name, kind="multi_valued" if name == "class" else "categorical") for name in FIELDS])
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    report = examine(subject, test, schema, reference=train.take(slice(0, 8_000)), sample_rows=2_000)
    assert all(torch.equal(before[name], value) for name, value in subject.model.state_dict().items())
    assert report.find("training.dead_units")
    assert [finding for finding in report.find("predictions.ranking_quality") if finding.estimate]


def test_a_sequence_model_per_history_item(tmp_path):
    """SASRec scores the next item by a dot product with the item table, which is read directly: the history is attributed through its lookups."""
    model, train, test, _ = trained("SASRec", tmp_path, SEQUENCE)
    from recbole.data.interaction import Interaction

    part = test.dataset.inter_feat.interaction
    batch = Batch({name: part[name].numpy()[:256] for name in ("item_id_list", "item_length", "item_id")})
    subject = TorchSubject(model, fields=("item_id_list", "item_length", "item_id"), forward=lambda model, x: model.predict(Interaction(x)))
    sites = subject.sites(batch)
    assert "item_id_list" in sites.fields
    found = integrated_gradients(subject, batch, steps=32)
    length = np.asarray(batch["item_length"])
    after = np.arange(found.entries["item_id_list"].shape[1])[None, :] >= length[:, None]
    assert after.any()
    assert found.entries["item_id_list"].numpy()[after].max() == 0  # padding gets exactly nothing
    explained = float((found.score - found.baseline).abs().mean())
    assert float(found.error.mean()) < 0.02 * explained
    del train
