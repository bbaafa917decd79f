"""What the model of every framework must show. A test module imports these tests and gives the fixture `subject`."""

import numpy as np
from movielens import FIELDS, auc, examined, importance, tables


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
