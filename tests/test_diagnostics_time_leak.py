"""data.time_leak: splits that let a model see the future, and values that were known too late."""

import dataclasses

import numpy as np
import pytest

from judging import diagnose, is_quiet, verdicts
from recspect.diagnosis.diagnostics.data.time_leak import TimeLeak
from recspect.diagnosis.finding import Verdict
from recspect.schema import Field
from recspect.worlds import World, split_by_time


def sides(seed=0, **settings):
    world = World(rows=6000, users=200, seed=seed, **settings)
    train, held_out = split_by_time(world.exposures())
    return world.schema, dict(held_out), dict(train)


def dealt(target, reference, mask_of):
    """The rows of both sides dealt anew: held out where the mask says so."""
    rows = {name: np.concatenate([np.asarray(side[name]) for side in (reference, target)]) for name in ("user", "item", "time", "click")}
    held = mask_of(rows)
    return {n: c[held] for n, c in rows.items()}, {n: c[~held] for n, c in rows.items()}


@pytest.mark.parametrize("seed", range(4))
def test_a_split_by_time_is_quiet(seed):
    schema, target, reference = sides(seed)
    assert is_quiet(diagnose(TimeLeak(), schema, target, reference))


@pytest.mark.parametrize("seed", range(4))
def test_a_random_split_is_found(seed):
    schema, target, reference = sides(seed)
    target, reference = dealt(target, reference, lambda rows: np.random.default_rng(seed).random(len(rows["time"])) < 0.3)
    (finding,) = diagnose(TimeLeak(), schema, target, reference)
    assert finding.verdict is Verdict.FAIL
    assert finding.estimate.of == "users"
    assert finding.severity > 0.9


def test_leave_one_out_keeps_each_user_in_order_and_is_a_warning():
    schema, target, reference = sides(1)

    def last_of_each(rows):
        held = np.zeros(len(rows["time"]), dtype=bool)
        for user in np.unique(rows["user"]):
            mine = np.flatnonzero(rows["user"] == user)
            held[mine[rows["time"][mine].argmax()]] = True
        return held

    (finding,) = diagnose(TimeLeak(), schema, *dealt(target, reference, last_of_each))
    assert finding.verdict is Verdict.WARN
    assert "later than the first held-out row" in finding.claim


def test_one_moment_on_both_sides_is_no_leak():
    schema, target, reference = sides(2)
    days = [{**side, "time": np.floor(np.asarray(side["time"]) / 86_400) * 86_400} for side in (target, reference)]
    assert is_quiet(diagnose(TimeLeak(), schema, *days))


def test_numbers_that_only_give_an_order_warn_at_most():
    schema, target, reference = sides(3)
    schema = dataclasses.replace(schema, time_unit="row")
    anew = [{**side, "time": np.arange(len(side["user"]))} for side in (target, reference)]
    assert verdicts(diagnose(TimeLeak(), schema, *anew)) == {"": Verdict.WARN}


@pytest.mark.parametrize(("share", "verdict"), [(0.0, Verdict.PASS), (0.01, Verdict.FAIL)])
def test_values_known_after_their_event_are_named(share, verdict):
    schema, target, _ = sides(0)
    schema = dataclasses.replace(schema, fields=(Field(name="age", kind="numeric", side="user", time="age_known"),))
    late = np.random.default_rng(0).random(len(target["time"])) < share
    target["age_known"] = target["time"] + np.where(late, 7200.0, -60.0)
    (finding,) = diagnose(TimeLeak(), schema, target)
    assert (finding.place.name, finding.verdict) == ("age", verdict)
    assert "2.0 hours" in finding.claim if share else "before the event" in finding.claim


def test_times_and_seconds_are_compared_in_one_unit():
    schema, target, reference = sides(0)
    schema = dataclasses.replace(schema, fields=(Field(name="age", kind="numeric", side="user", time="age_known"),))
    known = [{**side, "age_known": (np.asarray(side["time"]) * 1e6 + shift * 1e6).astype("datetime64[us]")} for side, shift in ((target, -1), (reference, 1))]
    found = {f.place.name: f for f in diagnose(TimeLeak(), schema, *known)}
    assert found["age"].verdict is Verdict.FAIL
    assert found["age"].estimate.value == pytest.approx(0.7)  # the training rows
    assert found[""].verdict is Verdict.PASS


def test_what_is_missing_is_said():
    schema, target, reference = sides(0)
    without = dataclasses.replace(schema, time=None)
    for args, words in (((schema, target), "training rows"), ((without, target, reference), "role 'time'"),
                        ((schema, *({n: c[:40] for n, c in side.items()} for side in (target, reference))), "40 rows")):
        (finding,) = diagnose(TimeLeak(), *args)
        assert finding.verdict is Verdict.UNKNOWN
        assert words in finding.claim
