"""MovieLens-100K as every framework here takes it: seven integer fields, liked or not, a random split of 8:1:1; and what all must show."""

from functools import cache

import numpy as np
import pytest
import torch

from recspect import datasets
from recspect.diagnosis.batch import Batch, Categorical
from recspect.diagnosis.diagnostic import all_diagnostics
from recspect.errors import RecspectError
from recspect.examining.examination import examine
from recspect.schema import Field, Label, Schema

FIELDS = ("user_id", "item_id", "age", "gender", "occupation", "release_year", "class")
SCHEMA = Schema(user="user_id", item="item_id", labels=[Label(name="label")], fields=[Field(name=name, kind="categorical") for name in FIELDS])


@cache
def tables():
    """(train, validation, test) as batches of int64 columns from 1 (0 is left for padding) and a 0/1 label; sizes of the fields."""
    try:
        loaded = datasets.load("movielens-100k")
    except RecspectError as error:
        pytest.skip(f"MovieLens-100K is not here and cannot be fetched: {error.message}")
    rows = next(iter(loaded.source.batches(rows=1_000_000)))
    columns = {name: codes(rows[name]) for name in FIELDS}
    columns["label"] = (rows.numbers("rating") >= 4).astype(np.int64)
    whole = Batch(columns)
    order = np.random.default_rng(2020).permutation(whole.rows)
    cuts = (int(0.8 * whole.rows), int(0.9 * whole.rows))
    parts = [whole.take(part) for part in np.split(order, cuts)]
    return (*parts, {name: int(columns[name].max()) + 1 for name in FIELDS})


def codes(column):
    """Values numbered from 1; the genres of a film as one category."""
    values = column.values[column.codes] if isinstance(column, Categorical) else column
    return np.unique(np.asarray(values).astype(str), return_inverse=True)[1].astype(np.int64) + 1


def examined(subject, *, rows=4_000):
    """Examine the model with every diagnostic; what must hold for any framework is held here.

    Sums over fields are complete to 1% of what is explained, user and item lead (as in all published trials on this data), every field
    has an importance and an interval, layers are seen, and the model is left as it was, to the bit.
    """
    train, _, test, _ = tables()
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    report = examine(subject, test.take(slice(0, rows)), SCHEMA, reference=train.take(slice(0, rows)), diagnostics=all_diagnostics(),
                     sample_rows=2_000, path_steps=16)
    after = subject.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())
    return report


def importance(subject, *, rows=2_000, steps=32):
    """Field to mean size of its contribution to the logit, and the completeness error as a share of what is explained."""
    from recspect.diagnosis.probes.attribution import integrated_gradients, mean_baseline

    test = tables()[2].take(slice(0, rows))
    found = integrated_gradients(subject, test, baseline=mean_baseline(subject, test), steps=steps)
    share = float(found.error.mean() / (found.score - found.baseline).abs().mean())
    return {name: float(found.reliance[name].abs().mean()) for name in FIELDS}, share


def auc(subject):
    """Of the test rows."""
    from sklearn.metrics import roc_auc_score

    test = tables()[2]
    return roc_auc_score(test["label"], subject.score(test))
