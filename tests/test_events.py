"""What a well-formed event is, and what is said about one that is not."""

import json
import sys
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_stores import NOW, event
from recspect.errors import UsageError
from recspect.events.event import ATTRIBUTES_CHARACTERS, GIVEN, Event, EventError, EventKind, parse_event
from recspect.events.pseudonyms import Pseudonyms, find_pseudonyms
from recspect.events.reject import RAW_CHARACTERS, Reject, take, take_text


def refused(**changes):
    with pytest.raises(EventError) as caught:
        parse_event(event(1, **changes), received=NOW)
    assert caught.value.message
    return caught.value


@pytest.mark.parametrize("kind", [kind.value for kind in EventKind])
def test_every_kind_is_taken(kind):
    assert parse_event(event(1, kind=kind, value=3), received=NOW).kind == kind


def test_an_event_cannot_be_changed():
    with pytest.raises((FrozenInstanceError, AttributeError)):
        parse_event(event(1), received=NOW).user = "bob"


def test_whole_numbers_are_names_and_absent_is_null():
    found = parse_event(event(1, user=7, item=-1) | {"request": None, "value": None}, received=NOW)
    assert (found.user, found.item, found.request, found.value) == ("7", "-1", None, None)


@pytest.mark.parametrize(("changes", "code", "said"), [
    ({"kind": "view"}, "unknown_kind", "exposure, click, like"),
    ({"kind": 3}, "unknown_kind", "whole number"),
    ({"event_id": None}, "missing_field", "no event_id"),
    ({"user": None}, "missing_field", "no user"),
    ({"time": None}, "missing_field", "no time"),
    ({"kind": "dwell"}, "missing_field", "no value"),
    ({"user": ""}, "empty_name", "user is empty"),
    ({"user": "  "}, "empty_name", "user is empty"),
    ({"item": "x" * 10_000}, "name_too_long", "10,000 characters"),
    ({"event_id": "x" * 129}, "name_too_long", "at most 128"),
    ({"item": 2**64}, "name_too_long", "64 bits"),
    ({"item": 1.5}, "not_a_text", "a number"),
    ({"item": True}, "not_a_text", "true or false"),
    ({"item": ["a"]}, "not_a_text", "a list"),
    ({"item": "a\0b"}, "control_character", "control character"),
    ({"item": "a\nb"}, "control_character", "control character"),
    ({"item": "a\x85b"}, "control_character", "control character"),
    ({"item": "\ud83d"}, "control_character", "surrogate"),
    ({"position": 0}, "position_out_of_range", "1 or more"),
    ({"position": -3}, "position_out_of_range", "1 or more"),
    ({"position": 1.5}, "position_out_of_range", "whole number"),
    ({"position": 10**30}, "position_out_of_range", "1 or more"),
    ({"position": 10**400}, "not_finite", "finite"),
    ({"position": "1"}, "not_a_number", "expected a number"),
    ({"position": True}, "not_a_number", "expected a number"),
    ({"propensity": 0}, "propensity_out_of_range", "above 0"),
    ({"propensity": 1.01}, "propensity_out_of_range", "at most 1"),
    ({"propensity": float("nan")}, "not_finite", "finite"),
    ({"value": float("inf")}, "not_finite", "finite"),
    ({"value": 1e18}, "value_out_of_range", "at most"),
    ({"kind": "dwell", "value": -1}, "value_out_of_range", "0 or more"),
    ({"time": "2026-05-01T12:00:00"}, "time_without_zone", "no zone"),
    ({"time": "2026-05-01"}, "time_without_zone", "no zone"),
    ({"time": 1_780_000_000}, "not_a_time", "whole number"),
    ({"time": "yesterday"}, "not_a_time", "ISO 8601"),
    ({"time": "2026-13-01T12:00:00Z"}, "not_a_time", "ISO 8601"),
    ({"time": "2026-05-01T12:00:00Z" * 100}, "not_a_time", "ISO 8601"),
    ({"time": "2126-05-01T12:00:00Z"}, "time_in_future", "ahead of the clock"),
    ({"time": "1970-01-21T12:00:00Z"}, "time_out_of_range", "before 1990"),
    ({"time": "0001-01-01T00:00:00+14:00"}, "time_out_of_range", "no calendar"),
    ({"time": datetime(2026, 5, 1)}, "time_without_zone", "no zone"),  # noqa: DTZ001
    ({"attributes": [1]}, "attributes_malformed", "expected an object"),
    ({"attributes": {"a": {"b": 1}}}, "attributes_malformed", "an object"),
    ({"attributes": {"a": [[1]]}}, "attributes_malformed", "a list"),
    ({"attributes": {"a": float("nan")}}, "not_finite", "finite"),
    ({"attributes": {"a": "\0"}}, "control_character", "NUL"),
    ({"attributes": {"a": ["x\ud800"]}}, "control_character", "surrogate"),
    ({"attributes": {"": 1}}, "empty_name", "empty"),
    ({"attributes": {str(n): n for n in range(65)}}, "attributes_too_large", "65"),
    ({"attributes": {"a": "x" * 20_000}}, "attributes_too_large", "at most"),
    ({"attributes": {"a": 10**5000}}, "attributes_too_large", "at most"),
    ({"users": "ann"}, "unknown_field", "no field 'users'"),
    ({"received": "2026-05-01T12:00:00Z"}, "unknown_field", "no field 'received'"),
])
def test_what_is_wrong_is_said(changes, code, said):
    error = refused(**changes)
    assert error.code == code
    assert said in error.message


def test_the_value_of_the_user_is_never_quoted():
    for value in ("", "zanzibar\0", "zanzibar" * 100, ["zanzibar"], 1.25):
        assert "zanzibar" not in str(refused(user=value))


def test_clocks_may_be_ahead_a_little_and_zones_differ():
    soon = (NOW + timedelta(minutes=30)).isoformat()
    assert parse_event(event(1, time=soon), received=NOW).time == NOW + timedelta(minutes=30)
    assert parse_event(event(1, time="2026-06-01T14:00:00+05:30"), received=NOW).time == datetime(2026, 6, 1, 8, 30, tzinfo=UTC)


def test_long_titles_and_right_to_left_text_are_attributes_like_others():
    title = "א" * 10_000
    found = parse_event(event(1, attributes={"title": title, "markup": "<b>\n"}), received=NOW)
    assert json.loads(found.attributes) == {"title": title, "markup": "<b>\n"}
    assert len(found.attributes) <= ATTRIBUTES_CHARACTERS


anything = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(st.characters(categories=["Cs", "Cc", "L"])),
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(GIVEN, anything)) | anything)
def test_anything_is_an_event_or_a_reject_with_a_reason(sent):
    found = take(sent, received=NOW, origin="anything")
    if isinstance(found, Reject):
        assert found.code
        assert found.reason
        assert len(found.raw) <= RAW_CHARACTERS
        found.kept(None).raw.encode()
        found.kept(Pseudonyms(b"0123456789abcdef")).raw.encode()
    else:
        assert isinstance(found, Event)
        "".join(str(getattr(found, name)) for name in GIVEN).encode()


@pytest.mark.parametrize(("text", "code"), [
    (b"", "not_json"), (b"{", "not_json"), (b"\xff\xfe{}", "not_json"), (b'{"value": NaN}', "not_json"), (b'{"value": -Infinity}', "not_json"),
    (b"[" * 200_000, "json_too_deep"), (b'{"a":' * 100_000, "json_too_deep"), (b"7", "not_an_object"), (b"[1]", "not_an_object"),
    (b'{"position": ' + b"9" * 5000 + b"}", "not_json"), (b"{}", "missing_field"), (b'{"events": 3}', "unknown_field"),
])
def test_what_is_no_event_becomes_one_reject(text, code):
    sys.setrecursionlimit(1000)
    found, = take_text(text, received=NOW, origin="wire")
    assert isinstance(found, Reject)
    assert found.code == code


def test_a_batch_gives_one_answer_for_each_of_its_events():
    found = take_text(json.dumps({"events": [event(1), 7, event(2, kind="view"), event(3)]}), received=NOW, origin="wire")
    assert [type(each) for each in found] == [Event, Reject, Reject, Event]


# ------------------------------------------------------------------ pseudonyms


def test_a_name_depends_on_user_and_key_and_on_nothing_else():
    one, other = Pseudonyms(b"a" * 16), Pseudonyms(b"b" * 16)
    assert one.name("ann") == Pseudonyms(b"a" * 16).name("ann")
    assert len({one.name("ann"), one.name("bob"), other.name("ann"), one.fingerprint}) == 4
    assert Pseudonyms(b"a" * 100).name("ann") != Pseudonyms(b"a" * 101).name("ann")
    assert "aaaa" not in repr(one)


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("RECSPECT_PSEUDONYM_KEY", raising=False)
    assert find_pseudonyms() is None
    key = tmp_path / "key.txt"
    key.write_text("0123456789abcdef\n")
    monkeypatch.setenv("RECSPECT_PSEUDONYM_KEY", "0123456789abcdef")
    assert find_pseudonyms() == find_pseudonyms(key)
    monkeypatch.setenv("RECSPECT_PSEUDONYM_KEY", f"@{key}")
    assert find_pseudonyms() == find_pseudonyms(key)
    key.write_text("short")
    with pytest.raises(UsageError, match="5 bytes"):
        find_pseudonyms()
    with pytest.raises(UsageError, match="cannot read"):
        find_pseudonyms(tmp_path / "missing")
