"""The scorecard orders explanations whose worth is known, on every world."""

import numpy as np
import pytest

from recspect.examining.scorecard import ASPECTS, scorecard
from recspect.worlds import split_by_time
from true_worlds import WORLDS, subject_of, true_explainer

FAITHFUL = ("completeness", "infidelity", "deletion", "insertion", "likeness with what", "claims")


@pytest.mark.parametrize("name", WORLDS)
def test_true_and_ours_come_before_random_and_constant_on_every_world(name):
    world = WORLDS[name]
    train, held_out = split_by_time(world.exposures())
    subject = subject_of(world)
    found = scorecard(subject, held_out, world.schema, pool=train, others={"true": true_explainer(world, train)})
    assert {proxy.aspect for proxy in found.proxies} == set(ASPECTS)
    for proxy in found.proxies:
        if not proxy.name.startswith(FAITHFUL):
            continue
        assert proxy.tells, proxy
        sign = 1 if proxy.better == "more" else -1
        true, ours, rest = sign * proxy.others["true"].value, sign * proxy.value.value, [proxy.others[other] for other in ("random", "constant")]
        assert true >= ours - 2e-3, proxy.name
        assert all(ours > sign * other.value for other in rest), proxy.name  # surely, on the same rows: that is what `tells` says


def test_a_random_explainer_in_our_place_is_marked_as_telling_nothing():
    world = WORLDS["fields"]
    train, held_out = split_by_time(world.exposures())

    def noise(subject, rows):
        return np.random.default_rng(3).normal(size=(rows.rows, len(subject.sites(rows).fields)))

    found = scorecard(subject_of(world), held_out, world.schema, pool=train, explain=noise)
    faithful = found.of("explainability")
    assert not any(proxy.tells for proxy in faithful)
    assert all("not surely better than" in proxy.reason for proxy in faithful)


def test_shares_that_fields_and_pairs_explain_are_those_of_the_world():
    """Without pairs the truth is a sum of fields; with one, pairs say all of it."""
    for name, alone in (("fields without pairs", 1.0), ("fields", None)):
        world = WORLDS[name]
        train, held_out = split_by_time(world.exposures())
        single, pairs, effective = scorecard(subject_of(world), held_out, world.schema, pool=train).of("transparency")
        assert pairs.value.value == pytest.approx(1, abs=1e-6)
        assert single.value.value == pytest.approx(1, abs=1e-6) if alone else single.value.value < 0.95
        assert 1 <= effective.value.value <= len(world.fields)


def test_the_table_names_every_aspect_and_what_was_not_measured():
    world = WORLDS["taste"]
    _, held_out = split_by_time(world.exposures())
    table = scorecard(subject_of(world), held_out, world.schema, rows=50).table()
    assert "simulatability" in table.caption
    assert {row[3] for row in table.rows} == {"not measured"}  # too few rows, and each says so
    assert all("50 rows" in row[-1] for row in table.rows)
