"""Diagnostics of explanations: each finds its planted fault, is quiet on right explanations, and says that it cannot tell where its measure cannot."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from judging import ask, is_quiet, verdicts
from recspect.diagnosis.batch import Batch, Ragged
from recspect.diagnosis.diagnostics.explanations.baselines import Baselines
from recspect.diagnosis.diagnostics.explanations.completeness import Completeness
from recspect.diagnosis.diagnostics.explanations.deletion import Deletion
from recspect.diagnosis.diagnostics.explanations.entries import Entries
from recspect.diagnosis.diagnostics.explanations.infidelity import Infidelity
from recspect.diagnosis.diagnostics.explanations.insertion import Insertion
from recspect.diagnosis.diagnostics.explanations.randomisation import Randomisation
from recspect.diagnosis.diagnostics.explanations.sensitivity import Sensitivity
from recspect.diagnosis.finding import Verdict
from recspect.diagnosis.probes.attribution import integrated_gradients, zero_baseline
from recspect.diagnosis.probes.explainers import of_another_model, path_explainer, shuffled_over_fields
from recspect.diagnosis.probes.explanation_quality import ExplanationQualityProbe, claims_held, curves, depths
from recspect.diagnosis.probes.faithfulness import matrix
from recspect.diagnosis.probes.swaps import Swaps, additive_scores, like_frequency, without_entries
from recspect.diagnosis.subject import TorchSubject
from recspect.examining.examination import examine
from recspect.worlds import FieldWorld, split_by_time
from true_worlds import WORLDS, subject_of, true_explainer

ALL = (Completeness, Infidelity, Sensitivity, Deletion, Insertion, Randomisation, Baselines)
WORLD = FieldWorld(rows=4000, strengths=(1.2, 0.8, 0.5, 0.3), noise=0)


@pytest.fixture(scope="module")
def sides():
    return split_by_time(WORLD.exposures())


def asked(diagnostic, subject, sides, *, rows=256, **settings):
    """The findings about explanations of the first held-out rows."""
    train, held_out = sides
    sample = held_out.take(slice(0, rows))
    subject.sites(sample)
    probe = ExplanationQualityProbe(subject, pool=train.take(slice(0, 2000)), **settings)
    return ask(diagnostic(), {**dict(sample), "@cluster": np.arange(sample.rows), "@label": sample.numbers("click")}, probes=[probe])


@pytest.mark.parametrize("diagnostic", ALL)
@pytest.mark.parametrize("world", [WORLD, WORLDS["taste"]], ids=["fields", "taste"])
def test_right_explanations_are_found_right(diagnostic, world):
    assert is_quiet(asked(diagnostic, subject_of(world), split_by_time(world.exposures())))


@pytest.mark.parametrize("diagnostic", [Infidelity, Deletion, Insertion])
@pytest.mark.parametrize("fault", ["dealt to other fields", "of another model"])
def test_explanations_that_do_not_describe_the_model_are_found(diagnostic, fault, sides):
    train, _ = sides
    explain = path_explainer(train.take(slice(0, 2000)))
    other = subject_of(FieldWorld(rows=4000, strengths=(1.2, 0.8, 0.5, 0.3), noise=0, seed=7))
    wrong = shuffled_over_fields(explain) if fault == "dealt to other fields" else of_another_model(explain, other)
    finding = asked(diagnostic, subject_of(WORLD), sides, explain=wrong)[0]
    assert finding.verdict is Verdict.FAIL
    assert finding.causes
    assert finding.remedies


def test_an_explanation_from_a_wrong_baseline_does_not_add_up_and_is_told_from_other_baselines(sides):
    """Tables far from 0, explained from zeros as if from the mean row."""
    subject = subject_of(WORLD)
    with torch.no_grad():
        for k, table in enumerate(subject.model.added.values()):
            table.weight += 3.0 * (-1) ** k

    def from_zeros(asked_, rows):
        return matrix(integrated_gradients(asked_, rows, baseline=zero_baseline(asked_.sites(rows))), asked_.sites(rows).fields)

    assert asked(Completeness, subject, sides, explain=from_zeros)[0].verdict is Verdict.FAIL
    assert asked(Baselines, subject, sides, explain=from_zeros)[0].verdict is Verdict.FAIL
    assert asked(Infidelity, subject, sides, explain=from_zeros)[0].verdict is Verdict.FAIL
    assert is_quiet(asked(Completeness, subject, sides))
    assert is_quiet(asked(Baselines, subject, sides))


def test_an_explanation_that_never_looks_at_the_weights_is_found(sides):
    kept = of_another_model(path_explainer(sides[0].take(slice(0, 2000))), subject_of(WORLD))
    assert asked(Randomisation, subject_of(WORLD), sides, explain=kept)[0].verdict is Verdict.FAIL


class Jagged(nn.Module):
    """What a field adds turns many times between its mean and its value."""

    def __init__(self, turns):
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(12, 4) for name in ("field0", "field1", "field2", "field3")})
        self.turns = turns

    def forward(self, x):
        return sum(torch.sin(self.turns * table(x[name])).sum(1) for name, table in self.tables.items())


@pytest.mark.parametrize(("turns", "verdict"), [(0.3, Verdict.PASS), (40.0, Verdict.FAIL)])
def test_explanations_that_jump_with_the_row_are_found(turns, verdict, sides):
    torch.manual_seed(0)
    subject = TorchSubject(Jagged(turns), fields=["field0", "field1", "field2", "field3"])
    exact = asked(Sensitivity, subject, sides, explain=path_explainer(sides[0].take(slice(0, 2000)), steps=None))
    assert exact[0].verdict is verdict


@pytest.mark.parametrize("diagnostic", ALL)
def test_a_measure_that_cannot_tell_says_so(diagnostic, sides):
    """A model that gives every row one score is explained by anything."""
    subject = subject_of(WORLD)
    with torch.no_grad():
        for table in (*subject.model.added.values(), *subject.model.vectors.values()):
            table.weight.zero_()
    finding = asked(diagnostic, subject, sides)[0]
    assert finding.verdict is Verdict.UNKNOWN
    assert finding.estimate is None


@pytest.mark.parametrize("diagnostic", ALL)
def test_without_explanations_or_with_few_rows_nothing_is_said(diagnostic, sides):
    assert verdicts(ask(diagnostic(), {"@cluster": np.arange(300), "score": np.ones(300)})) == {"": Verdict.UNKNOWN}
    few = asked(diagnostic, subject_of(WORLD), sides, rows=40)[0]
    assert few.verdict is Verdict.UNKNOWN
    assert "40 rows" in few.claim


def test_where_the_measured_order_does_not_beat_chance_a_worse_explanation_is_not_blamed():
    """The rule that disables a measure: neither what looks at the model nor ours is surely above random and constant."""
    from recspect.diagnosis.diagnostics.explanations.scored import require_telling
    from recspect.diagnosis.estimate import Estimate
    from recspect.errors import Unavailable

    def gain(value, error):
        return Estimate(value=value, low=value - error, high=value + error, unit="logits", n=300)

    require_telling([(gain(-1, 0.1), gain(-1, 0.1)), (gain(1, 0.1), gain(0.5, 0.1))], "deletion")  # the measured one tells: ours may be judged
    with pytest.raises(Unavailable, match="cannot tell here"):
        require_telling([(gain(-1, 0.1), gain(-1, 0.1)), (gain(1, 0.1), gain(0.05, 0.1))], "deletion")


def test_true_explanations_of_a_world_are_those_that_integrated_gradients_find(sides):
    for name, world in WORLDS.items():
        train, held_out = split_by_time(world.exposures())
        subject = subject_of(world)
        rows, pool = held_out.take(slice(0, 100)), train.take(slice(0, 2000))
        subject.sites(rows)
        assert path_explainer(pool)(subject, rows) == pytest.approx(true_explainer(world, pool)(subject, rows), abs=2e-5), name


# ------------------------------------------------------------------ swaps and curves, by hand


def test_values_are_exchanged_for_others_that_are_as_frequent():
    rng = np.random.default_rng(0)
    pool = np.concatenate([np.repeat(np.arange(4), 100), np.repeat(np.arange(4, 54), 2)])  # four frequent values, fifty rare ones
    rows = np.array([0, 1, 2, 3, 4, 10, 50])
    column = np.concatenate([rows, rng.permutation(pool)])
    drawn = column[np.stack([like_frequency(column, len(rows), rng) for _ in range(50)])]
    assert (drawn != rows).all()
    assert (drawn[:, :4] < 4).all()
    assert (drawn[:, 4:] >= 4).all()


def test_only_the_named_fields_are_exchanged_and_lists_keep_their_entries():
    seen = []

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.items, self.past = nn.Embedding(20, 2), nn.Embedding(20, 2)

        def forward(self, x):
            seen.append({name: tensor.clone() for name, tensor in x.items()})
            return self.items(x["item"]).sum(1) + self.past(x["past"]).sum((1, 2))

    subject = TorchSubject(Reads(), fields=["item", "past"])
    batch = Batch({"item": np.array([1, 2]), "past": Ragged(np.array([3, 4, 5]), np.array([0, 2, 3]))})
    pool = Batch({"item": np.array([7, 8, 9]), "past": Ragged(np.array([11, 12, 13]), np.array([0, 1, 2, 3]))})
    subject.sites(batch)
    swaps = Swaps(subject, batch, pool, ["item", "past"], donors=1)
    seen.clear()
    swaps.scores(np.array([[True, False], [False, True]]))
    got = seen[0]
    assert got["item"][0] >= 7
    assert got["item"][1] == 2
    assert got["past"][0].tolist() == [3, 4]
    assert got["past"][1, 0] >= 11
    assert swaps.scores(np.zeros((2, 2), dtype=bool)) == pytest.approx(additive_scores(subject, batch))


def test_entries_are_dropped_by_row():
    lists = Ragged(np.array([1, 2, 3, 4, 5]), np.array([0, 2, 2, 5]))
    left = without_entries(lists, [np.array([True, False]), np.zeros(0, dtype=bool), np.array([False, True, True])])
    assert left.values.tolist() == [2, 3]
    assert left.offsets.tolist() == [0, 1, 1, 2]


def test_areas_of_an_additive_model_are_those_of_the_closed_form():
    worth = np.array([[3.0, -1.0, 2.0]])

    def scores(out):
        return (worth * ~out).sum(1)

    found = curves(scores, worth, worth.sum(1))
    assert found["comprehensiveness@1"] == pytest.approx([3])
    assert found["comprehensiveness@2"] == pytest.approx([5])
    assert found["sufficiency@1"] == pytest.approx([1])
    assert found["sufficiency@2"] == pytest.approx([-1])
    assert found["deletion"] == pytest.approx([(0 + 3) / 6 + (3 + 5) / 6 + (5 + 4) / 6])
    assert found["insertion"] == pytest.approx([(0 + 3) / 6 + (3 + 5) / 6 + (5 + 4) / 6])
    assert depths(3).tolist() == [1, 2]
    assert set(depths(40)) >= {1, 2, 5, 39}
    assert claims_held(worth, worth) == pytest.approx([1])
    assert claims_held(-worth, worth) == pytest.approx([0])
    assert claims_held(worth, 0 * worth) == pytest.approx([0.5])


def test_an_examination_asks_about_explanations_and_shows_the_scorecard(sides):
    train, held_out = sides
    report = examine(subject_of(WORLD), held_out.take(slice(0, 600)), WORLD.schema, reference=train.take(slice(0, 1000)), diagnostics=[Completeness(), Infidelity()], sample_rows=600)
    assert [f.verdict for f in report.findings] == [Verdict.PASS] * 2
    table = next(piece for piece in report.to_mapping()["overview"] if piece["stage"] == "explanations")
    assert table["kind"] == "ranked_table"
    assert {row[0] for row in table["rows"]} == {"transparency", "explainability", "verifiability", "user-friendliness"}
    assert not any("explanation" in str(e.title).lower() for e in examine(subject_of(WORLD), held_out.take(slice(0, 600)), WORLD.schema, diagnostics=[], sample_rows=600).overview)


# ------------------------------------------------------------------ entries of lists


class Taste(nn.Module):
    """Each entry of the history adds what it is worth; half of the items speak against."""

    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(60, 4, padding_idx=0)

    def forward(self, x):
        pooled = (self.items(x["past"]) * (x["past"] > 0).unsqueeze(-1)).sum(1)
        return torch.sigmoid(pooled[:, 0] + torch.tanh(pooled[:, 1] * pooled[:, 2]))


@pytest.fixture(scope="module")
def histories():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 400)
    return Batch({"past": Ragged(rng.integers(1, 60, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])), "click": rng.integers(0, 2, 400)})


def about_entries(histories, wrong=None):
    torch.manual_seed(0)
    subject = TorchSubject(Taste(), fields=["past"])
    sample, pool = histories.take(slice(0, 200)), histories.take(slice(200, 400))
    subject.sites(sample)
    probe = ExplanationQualityProbe(subject, pool=pool, explain_entries=None if wrong is None else lambda rows: wrong(subject, rows))
    return ask(Entries(), {**dict(sample), "@cluster": np.arange(sample.rows)}, probes=[probe])


def explained(subject, rows):
    return integrated_gradients(subject, rows, baseline=zero_baseline(subject.sites(rows)))


def test_entries_that_are_named_rightly_are_quiet(histories):
    assert is_quiet(about_entries(histories))
    assert is_quiet(about_entries(histories, explained))


@pytest.mark.parametrize("fault", ["shifted by a place", "turned round"])
def test_contributions_beside_the_wrong_entries_are_found(fault, histories):
    def wrong(subject, rows):
        found = explained(subject, rows)
        past = found.entries["past"]
        lengths = torch.from_numpy(rows["past"].lengths)
        if fault == "turned round":
            place = (lengths[:, None] - 1 - torch.arange(past.shape[1])).clamp(min=0)
            return replace(found, entries={"past": torch.gather(past, 1, place)})
        return replace(found, entries={"past": torch.roll(past, 1, dims=1)})

    finding = about_entries(histories, wrong)[0]
    assert finding.verdict is Verdict.FAIL
    assert finding.place.kind == "run"


def test_a_model_without_lists_has_no_entries_to_drop(sides):
    assert asked(Entries, subject_of(WORLD), sides)[0].verdict is Verdict.UNKNOWN
