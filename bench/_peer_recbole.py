"""RecBole and ours in one process of RecBole's environment: the same DeepFM on small tables and on tables of two million ids, and SASRec. Prints one JSON object.

Both train as their users train: RecBole by its own data loader and trainer, ours by the training loop with its observation on. Processor seconds of one thread,
alternating, medians over rounds. Adam with dense gradients is what RecBole has for every table; ours takes row-wise Adagrad on the rows of a step.
"""

import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
torch.set_num_threads(1)

WIDTH, HIDDEN, ROWS_PER_STEP, ROUNDS = 16, [128, 128], 4096, 3
CONTEXT_FIELDS = {f"context{k}": size for k, size in enumerate((24, 7, 500, 2000, 12))}


def seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def rows(users, items, count, seed=0):
    """A log with some skew; every id occurs, so that the tables have the size that is asked for."""
    draw = np.random.default_rng(seed)
    user = np.concatenate([draw.permutation(users), draw.integers(users, size=max(0, count - users))])[:count]
    item = np.concatenate([draw.permutation(items), draw.integers(items, size=max(0, count - items))])[:count]
    columns = {"user_id": user, "item_id": item, **{name: draw.integers(size, size=count) for name, size in CONTEXT_FIELDS.items()}}
    columns["label"] = (draw.random(count) < 0.25).astype(np.int64)
    return columns


def recbole(name, folder, columns, settings):
    """RecBole's model, its loader of training rows, and its trainer."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    place = folder / "log"
    place.mkdir()
    kinds = {"label": "float", "timestamp": "float"}
    header = "\t".join(f"{column}:{kinds.get(column, 'token')}" for column in columns)
    table = np.stack(list(columns.values()), axis=1)
    np.savetxt(place / "log.inter", table, fmt="%d", delimiter="\t", header=header, comments="")
    with contextlib.chdir(folder):
        config = Config(model=name, dataset="log", config_dict={
            "data_path": str(folder), "checkpoint_dir": str(folder), "show_progress": False, "state": "ERROR", "use_gpu": False, "seed": 2020,
            "load_col": {"inter": list(columns)}, "train_batch_size": ROWS_PER_STEP, "learning_rate": 1e-3, **settings})
        init_seed(2020, reproducibility=False)
        data = create_dataset(config)
        train, _, _ = data_preparation(config, data)
        model = get_model(name)(config, train._dataset)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    return model, train, trainer


class Few:
    """The first so many batches of a loader; everything else is the loader's."""

    def __init__(self, loader, count):
        self.loader, self.count = loader, count

    def __iter__(self):
        return itertools.islice(iter(self.loader), self.count)

    def __len__(self):
        return self.count

    def __getattr__(self, name):
        return getattr(self.loader, name)


def ranker(users, items, count, steps):
    """Rows per processor second of RecBole's DeepFM and of ours, over `steps` steps."""
    from recspect.diagnosis.batch import Batch
    from recspect.diagnosis.observing import Observer
    from recspect.features import FeatureTransform
    from recspect.models import ModelConfig
    from recspect.schema import Field, Label, Schema
    from recspect.training.config import TrainingConfig
    from recspect.training.epoch import Machine, make_optimisers, one_epoch
    from recspect.training.rows import Tables

    columns = rows(users, items, count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs, loader, trainer = recbole("DeepFM", folder, columns, {
            "embedding_size": WIDTH, "mlp_hidden_size": HIDDEN, "dropout_prob": 0.0, "LABEL_FIELD": "label",
            "eval_args": {"split": {"RS": [0.98, 0.01, 0.01]}, "order": "RO", "group_by": "none", "mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC"})
        schema = Schema(user="user_id", item="item_id", labels=(Label(name="label"),),
                        fields=tuple(Field(name=column) for column in columns if column != "label"))
        config = TrainingConfig(model=ModelConfig(embedding_width=WIDTH, hidden=tuple(HIDDEN)), batch_rows=ROWS_PER_STEP, split="random",
                                test_share=0.01, validation_share=0.01)
        cut = Tables.cut(Batch(columns), schema, config)
        transform = FeatureTransform.fit(schema, cut.train)
        part = cut.encode(schema, transform)[0].take(np.arange(min(steps * ROWS_PER_STEP, cut.train.rows)))
        from lightning_fabric import Fabric

        from recspect.models import build

        fabric = Fabric(accelerator="cpu", devices=1)
        torch.manual_seed(0)
        ours = build(config.model, transform.sizes)
        optimisers = make_optimisers(ours, config)
        wrapped, *steppers = fabric.setup(ours, *optimisers.values())
        observer = Observer(ours, every=config.observe_every, histograms_every=config.histograms_every, folder=folder)
        observer.epoch = 1
        machine = Machine(fabric, ours, wrapped, optimisers, tuple(steppers), observer, transform.vocabulary_fields)
        tables = {"theirs": sum(p.numel() for p in theirs.parameters()), "ours": sum(p.numel() for p in ours.parameters())}

        def their_epoch():
            trainer._train_epoch(Few(loader, steps), 0, show_progress=False)

        def our_epoch():
            one_epoch(machine, part, config, seed=1, tell=lambda *_: None)

        their_epoch()
        our_epoch()
        found = [(seconds(their_epoch), seconds(our_epoch)) for _ in range(ROUNDS)]
    asked = part.encoded.rows
    return {"recbole": asked / statistics.median(t for t, _ in found), "ours": asked / statistics.median(o for _, o in found), "weights": tables}


def sequences(batches):
    """Processor seconds per epoch of RecBole's SASRec (so many batches, multiplied) and of ours, on MovieLens-100K with the last two events held out."""
    import recbole as package

    from recspect.models.next_item import NextItemConfig
    from recspect.recommending.histories import Histories
    from recspect.training import next_item

    file = Path(package.__file__).parent / "dataset_example/ml-100k/ml-100k.inter"
    table = np.loadtxt(file, skiprows=1, dtype=np.int64)
    columns = {"user_id": table[:, 0], "item_id": table[:, 1], "timestamp": table[:, 3]}
    with tempfile.TemporaryDirectory() as name:
        theirs, loader, trainer = recbole("SASRec", Path(name), columns, {
            "hidden_size": 64, "inner_size": 64, "n_layers": 2, "n_heads": 2, "hidden_dropout_prob": 0.3, "attn_dropout_prob": 0.3, "loss_type": "CE",
            "train_neg_sample_args": None, "MAX_ITEM_LIST_LENGTH": 50, "train_batch_size": 2048, "metrics": ["Hit"], "valid_metric": "Hit@10", "topk": [10],
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"}})
    users, items = (np.unique(table[:, column], return_inverse=True)[1] for column in (0, 1))
    histories = Histories.from_events(users, items, table[:, 3], n_users=users.max() + 1, n_items=items.max() + 1).without_last(2)
    config = next_item.NextItemTraining(model=NextItemConfig(width=64, layers=2, heads=2, dropout=0.3, max_length=50))
    torch.manual_seed(0)
    ours = next_item.build(config.model, histories.n_items)
    optimiser = next_item._optimiser(ours, config)
    few = min(batches, len(loader))

    def their_part():
        trainer._train_epoch(Few(loader, few), 0, show_progress=False)

    def our_epoch():
        next_item._epoch(ours, optimiser, histories, config, None, seed=1)

    their_part()
    our_epoch()
    found = [(seconds(their_part) * len(loader) / few, seconds(our_epoch)) for _ in range(ROUNDS)]
    return {"recbole_seconds": statistics.median(t for t, _ in found), "our_seconds": statistics.median(o for _, o in found), "recbole_batches": len(loader),
            "measured_batches": few, "weights": {"theirs": sum(p.numel() for p in theirs.parameters()), "ours": sum(p.numel() for p in ours.parameters())}}


if __name__ == "__main__":
    which = sys.argv[1]
    print(json.dumps({"small": lambda: ranker(5_000, 3_000, 200_000, 40), "large": lambda: ranker(1_000_000, 1_000_000, 1_050_000, 12),
                      "sequence": lambda: sequences(3)}[which]()))
