"""Findings read together: which causes are named, in which order, and what each explains."""

import itertools
from pathlib import Path

import pytest

from recspect.diagnosis.cause_rules import RULES
from recspect.diagnosis.causes import Cause, Rule, Sign, causes_of
from recspect.diagnosis.diagnostic import Diagnostic, all_diagnostics
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict
from recspect.report.html import render as render_page
from recspect.report.text import render

FAIL, WARN, PASS, UNKNOWN = Verdict.FAIL, Verdict.WARN, Verdict.PASS, Verdict.UNKNOWN
DOCS = Path(__file__).parents[1] / "docs"


def found(code, verdict=WARN, place="", kind="field", value=None, unit="share", low=None, high=None, concerns=1.0, neutral=0.0):
    estimate = None if value is None else Estimate(value=value, unit=unit, n=1000, low=low, high=high)
    return Finding(code=code, verdict=verdict, claim="Words that no rule reads.", place=Place(kind=kind, name=place) if place else Place(), estimate=estimate,
                   concerns=concerns, neutral=neutral)


def repeats(share):
    return found("data.split_overlap", place="training rows", kind="slice", value=share)


def named(findings):
    return [cause.code for cause in causes_of(findings) if not cause.possible]


def test_healthy_findings_have_no_cause():
    assert causes_of([]) == ()
    codes = sorted(code for rule in RULES for sign in rule.signs for code in sign.codes)
    assert causes_of([found(code, verdict, "x") for code in codes for verdict in (PASS, UNKNOWN)]) == ()


@pytest.mark.parametrize(("findings", "cause"), [
    ([found("data.target_leak", FAIL, "leak"), found("training.overfitting", FAIL)], "target_leak"),
    ([found("data.split_overlap", FAIL, value=0.05), found("training.overfitting", FAIL)], "split_leak"),
    ([found("data.time_leak", FAIL)], "split_leak"),
    ([repeats(0.12), found("training.one_epoch")], "duplicated_rows"),
    ([found("data.joint_drift", FAIL, "item"), found("predictions.calibration", FAIL)], "broken_join"),
    ([found("data.drift", FAIL, "item"), found("data.joint_drift", FAIL, "item")], "default_value"),
    ([found("data.missing_values", FAIL, "age", value=0.3), found("data.drift", FAIL, "age")], "missing_at_serving"),
    ([found("embeddings.untrained_rows", FAIL, "item", kind="table"), found("data.drift", WARN, "item")], "new_ids"),
    ([found("training.learning_rate"), found("predictions.normalised_entropy", FAIL), found("features.spurious", FAIL, "user")], "learning_rate"),
    ([found("training.update_ratio", WARN, "table"), found("training.dead_units", FAIL, "mlp.1", kind="layer")], "learning_rate"),
    ([found("training.dead_units", FAIL, "mlp.1", kind="layer"), found("training.gradient_flow", FAIL)], "dead_layer"),
    ([found("embeddings.collapse", FAIL, "item", kind="table")], "embedding_collapse"),
    ([found("features.spurious", FAIL, "noise"), found("training.one_epoch", FAIL, "2", kind="epoch")], "spurious_field"),
    ([found("features.spurious", FAIL, "user"), found("training.memorisation", FAIL, "user"), found("training.one_epoch", FAIL, "2", kind="epoch")], "memorisation"),
    ([found("data.negative_volume", FAIL), found("predictions.calibration", FAIL), found("predictions.negative_sampling", FAIL)], "sampled_negatives"),
    ([found("predictions.calibration", FAIL), found("predictions.negative_sampling", FAIL)], "prior_shift"),
    ([found("data.change_point", FAIL), found("predictions.calibration", FAIL)], "concept_drift"),
    ([found("data.label_maturity", WARN, "newest held-out rows", kind="slice", value=0.6), found("data.change_point", FAIL, concerns=0.2),
      found("predictions.calibration", FAIL)], "late_labels"),
    ([found("data.label_maturity", FAIL, "newest held-out rows", kind="slice", value=0.9), found("data.change_point", FAIL, concerns=0.5)], "late_labels"),
    ([found("data.label_maturity", FAIL, "newest held-out rows", kind="slice", value=0.33), found("data.change_point", FAIL, concerns=0.5)], "concept_drift"),
    ([found("training.loss_anomaly", FAIL, "120", kind="step", value=25.0, unit="robust deviations"), found("training.gradient_flow", WARN, "120", kind="step"),
      found("predictions.calibration", FAIL)], "broken_batch"),
    ([found("training.loss_anomaly", FAIL, "120", kind="step", value=25.0, unit="robust deviations"), found("training.learning_rate")], "learning_rate"),
    ([found("training.gradient_flow", FAIL, "mlp.1", kind="layer"), found("predictions.normalised_entropy"), found("predictions.ranking_quality")],
     "vanishing_gradient"),
    ([found("predictions.normalised_entropy"), found("predictions.ranking_quality"), found("training.overfitting", FAIL),
      found("predictions.calibration_slope", FAIL, value=0.45, low=0.4, high=0.5)], "memorisation"),
    ([found("predictions.normalised_entropy"), found("predictions.ranking_quality"), found("training.overfitting", FAIL),
      found("predictions.calibration_slope", FAIL, value=0.1, low=-0.2, high=0.4)], "nothing_learned"),
    ([found("predictions.calibration_slope", FAIL, value=0.5, low=0.4, high=0.6, neutral=1.0), found("training.overfitting")], "memorisation"),
    ([found("features.spurious", FAIL, "user"), found("training.memorisation", PASS, "user"), found("training.overfitting", FAIL)], "memorisation"),
    ([found("features.spurious", WARN, "user"), found("training.overfitting", FAIL), found("training.one_epoch")], "memorisation"),
    ([found("features.spurious", WARN, "noise")], "spurious_field"),
    ([found("recommendations.policy_support", FAIL)], "broken_propensities"),
    ([found("embeddings.collapse", FAIL, "item", kind="table"), found("predictions.calibration", FAIL)], "embedding_collapse"),
    ([found("predictions.group_gap", FAIL, "segment=trial", kind="slice"), found("training.overfitting", FAIL), found("features.spurious", WARN, "user")], "bad_slice"),
    ([found("recommendations.homogenisation"), found("data.drift", WARN, "item")], "feedback_loop"),
    ([found("predictions.normalised_entropy", FAIL), found("predictions.ranking_quality", WARN)], "nothing_learned"),
    ([found("predictions.group_gap", FAIL, "segment=trial", kind="slice")], "bad_slice"),
    ([found("training.plateau"), found("training.dead_units", FAIL, "mlp.1", kind="layer")], "dead_layer"),
    ([found("training.plateau"), found("predictions.normalised_entropy", FAIL), found("predictions.ranking_quality")], "nothing_learned"),
    ([found("training.plateau")], "nothing_learned"),
    ([found("predictions.decay")], "ageing_model"),
    ([found("predictions.decay"), found("data.change_point", FAIL)], "concept_drift"),
    ([found("predictions.decay"), found("data.drift", FAIL, "item")], "default_value"),
    ([found("predictions.roc_gap", WARN, "plan=c", kind="slice")], "bad_slice"),
    ([found("recommendations.exposure_parity", WARN, "kind=c", kind="slice")], "unequal_exposure"),
    ([found("recommendations.exposure_parity", WARN, "kind=c", kind="slice"), found("predictions.worst_slices", WARN, "kind=c", kind="slice")], "bad_slice"),
    ([found("recommendations.sampled_candidates")], "sampled_protocol"),
    ([found("training.id_shuffle", WARN, "user"), found("training.one_epoch", FAIL, "2", kind="epoch")], "memorisation"),
    ([found("training.id_shuffle", WARN, "user")], "memorisation"),
    ([found("embeddings.copies", WARN, "item", kind="table"), found("predictions.worst_slices")], "copied_rows"),
    ([found("embeddings.copies", FAIL, "item", kind="table"), found("embeddings.collapse", FAIL, "item", kind="table")], "embedding_collapse"),
    ([found("data.replay", FAIL, "price"), found("data.drift", FAIL, "price")], "serving_skew"),
    ([found("features.hash_collisions", FAIL, "user"), found("predictions.cold_start", WARN, "user")], "small_table"),
    ([found("recommendations.position_bias", FAIL), found("recommendations.popularity_bias", WARN)], "position_in_labels"),
    ([found("recommendations.homogenisation", WARN), found("recommendations.popularity_bias", WARN)], "feedback_loop"),
    ([found("data.sample_ratio", FAIL), found("training.overfitting", WARN)], "sample_ratio_mismatch"),
])
def test_a_pattern_has_its_cause_whatever_the_order(findings, cause):
    for order in itertools.permutations(findings):
        assert named(order)[0] == cause


def test_every_cause_of_the_rules_is_reached_by_a_pattern_above():
    reached = {cause for _, cause in test_a_pattern_has_its_cause_whatever_the_order.pytestmark[0].args[1]}
    assert reached == {rule.code for rule in RULES}


def test_a_few_repeated_rows_do_not_account_for_what_was_learned_by_heart():
    assert named([repeats(0.02), found("training.one_epoch")]) == ["memorisation", "duplicated_rows"]


def test_a_field_half_empty_on_both_sides_is_no_change():
    assert named([found("data.missing_values", WARN, "income", value=0.01)]) == []


def test_what_one_cause_has_taken_needs_no_second():
    findings = [found("data.target_leak", FAIL, "leak"), found("training.overfitting", FAIL), found("predictions.calibration_slope", WARN),
                found("embeddings.collapse", WARN, "item", kind="table")]
    causes = causes_of(findings)
    assert [(cause.code, cause.possible) for cause in causes] == [("target_leak", False), ("memorisation", True), ("embedding_collapse", True)]
    explained = [entry for cause in causes for entry in cause.explains]
    assert len(explained) == len(set(explained)) == len(findings)


def test_what_accounts_for_a_failure_comes_before_what_accounts_for_warnings():
    rules = [Rule(code=name, claim="{place}", signs=(Sign(codes=(name,)),), remedy=Remedy(code="r", text="t"), verify="v") for name in ("a.one", "b.two")]
    causes = causes_of([found("a.one", WARN), found("b.two", FAIL)], rules)
    assert [(cause.code, cause.verdict) for cause in causes] == [("b.two", FAIL), ("a.one", WARN)]


def test_rules_name_known_codes_and_stand_in_the_document():
    all_diagnostics()
    for rule in RULES:
        codes = [code for sign in (*rule.signs, *rule.support, *rule.excluded_by) for code in sign.codes]
        assert set(codes) | set(rule.explains) <= set(Diagnostic.registry), rule.code
    text = (DOCS / "causes.md").read_text()
    for rule in RULES:
        assert f"| `{rule.code}` |" in text


def test_causes_are_told_in_text_page_and_json():
    report = Report(findings=(found("data.joint_drift", FAIL, "<b>item</b>"), found("predictions.calibration", FAIL), found("features.unused", WARN, "age")))
    cause = report.causes[0]
    assert isinstance(cause, Cause)
    assert report.to_mapping()["causes"][0]["code"] == "broken_join"
    assert Report.from_mapping(report.to_mapping()).causes == report.causes
    text = render(report)
    assert text.index("What likely lies behind it") < text.index("FAIL   data.joint_drift")
    assert "<b>item</b> belongs to other rows" in text
    page = render_page(report)
    assert "&lt;b&gt;item&lt;/b&gt; belongs to other rows" in page
    assert "<b>item</b>" not in page
    assert page.index('id="causes"') < page.index('id="findings"')
    assert 'id="causes"' not in render_page(Report(findings=(found("data.drift", PASS),)))
