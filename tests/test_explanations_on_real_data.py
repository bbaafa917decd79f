"""On public data: exchanging the fields that an explanation names takes more off the score than random order and than gradient x input, with intervals apart from 0."""

import numpy as np
import pytest

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.moments import Moments

pytest.importorskip("torch")

from recspect.diagnosis.probes.explainers import alike_explainer, gradient_explainer, random_contributions
from recspect.diagnosis.probes.explanation_quality import curves
from recspect.diagnosis.probes.swaps import Swaps, additive_scores
from recspect.diagnosis.runners.local import tally
from recspect.examining.runs import subject_of
from recspect.examining.sampling import all_rows
from recspect.examining.tables import sample_of
from recspect.models import ModelConfig
from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from recspect.training.rows import Tables

ROWS, LAST = 256, 60_000


def surely_above_nothing(values, users):
    """Mean of a difference per row with its interval over users."""
    stat = Bucketed(stat=Moments(column="difference"), by="user")
    found = tally(read(Batch({"difference": values, "user": users})), [(ALL, stat)]).get_summary(stat)
    estimate = found.estimate(lambda total: float(total.mean), unit="logits", n=lambda total: total.count)
    return estimate.surely_above(0.0), str(estimate)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", ["movielens-latest-small", "kuairand-pure"])
def test_deletion_insertion_and_comprehensiveness_beat_random_order_and_gradient_times_input(name, real_data, tmp_path):
    data = real_data(name)
    everything = all_rows(data.source)
    table = everything.take(slice(max(0, everything.rows - LAST), everything.rows))
    run = train(table, data.schema, TrainingConfig(model=ModelConfig(name="deepfm"), maximum_epochs=1, observe_every=0, histograms_every=0), tmp_path / "run")
    tables = Tables.cut(read(table), run.schema, run.config)
    subject, rows, pool = subject_of(run), sample_of(tables.test, ROWS), sample_of(tables.train, 4096)
    fields = subject.sites(rows).fields
    ours = alike_explainer(pool)(subject, rows)
    swaps, score = Swaps(subject, rows, pool, fields, donors=2, seed=0), additive_scores(subject, rows)
    found = {key: curves(swaps.scores, explained, score) for key, explained in
             (("ours", ours), ("random", random_contributions(ours, 2)), ("gradient", gradient_explainer()(subject, rows)))}
    users = np.asarray(rows.categories(run.schema.user).codes)
    deepest = max(key for key in found["ours"] if key.startswith("comprehensiveness"))
    for other in ("random", "gradient"):
        for measure in ("deletion", "insertion", deepest):
            better, told = surely_above_nothing(found["ours"][measure] - found[other][measure], users)
            assert better, (measure, other, told)
