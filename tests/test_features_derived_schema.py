"""Derived columns in a schema file: every form reads back equal, and what makes no sense is refused with the reason."""

import json

import pytest
import yaml

from recspect.errors import SchemaError
from recspect.schema import Field, Label, Schema
from recspect.schema_derived import Derived, DerivedKind

ROLES = {"user": "user", "item": "item", "time": "time", "time_unit": "s"}
DERIVED = (
    Derived(name="hour", kind="hour", time_zone="Europe/Berlin"),
    Derived(name="weekday", kind="weekday", of="time"),
    Derived(name="a-b", kind="cross", of=("tab", "hour")),
    Derived(name="clicked", kind="last", by="user", of="item", where="click", length=7),
    Derived(name="clicked_age", kind="last_age", by="user", of="item", where="click", length=7),
    Derived(name="shown", kind="count", by="item", window_hours=24, delay_hours=.5),
    Derived(name="rate", kind="rate", by=("user", "a-b"), of="click", prior=.05, prior_rows=20),
    Derived(name="dwell", kind="mean", by="item", of="seconds"),
    Derived(name="away", kind="since_last", by="user"),
    Derived(name="size", kind="frequency", by="item"),
)
SCHEMA = Schema(fields=[Field(name="clicked", kind="sequence", side="user"), Field(name="hour")], labels=[Label(name="click")], derived=DERIVED, **ROLES)


def test_every_kind_is_here():
    assert {column.kind for column in DERIVED} == set(DerivedKind)


@pytest.mark.parametrize(("ending", "text"), [
    (".toml", SCHEMA.to_toml()), (".json", json.dumps(SCHEMA.to_mapping())), (".yaml", yaml.safe_dump(SCHEMA.to_mapping(), sort_keys=False)),
])
def test_a_file_reads_back_equal(tmp_path, ending, text):
    (tmp_path / f"schema{ending}").write_text(text)
    assert Schema.read(tmp_path / f"schema{ending}") == SCHEMA


@pytest.mark.parametrize(("settings", "said"), [
    ({"kind": "counts", "by": "user"}, "kinds: 'cross'"),
    ({"by": "user"}, "a table of settings with a kind"),
    ({"kind": "count"}, "needs 'by'"),
    ({"kind": "count", "by": "user", "length": 3}, "does not read 'length'"),
    ({"kind": "count", "by": "user", "wher": "click"}, "unknown setting 'wher'"),
    ({"kind": "count", "by": ["user", "user"]}, "list of different columns"),
    ({"kind": "count", "by": "user", "window_hours": 0}, "a number above 0"),
    ({"kind": "count", "by": "user", "window_hours": 2, "delay_hours": 2}, "ends before the delay"),
    ({"kind": "last", "by": "user", "of": ["item", "tab"]}, "needs one column in 'of'"),
    ({"kind": "last", "by": "user", "of": "item", "length": 0}, "1 or more"),
    ({"kind": "rate", "by": "user", "of": "click", "prior": .1}, "go together"),
    ({"kind": "rate", "by": "user", "of": "click", "prior_rows": 3}, "go together"),
    ({"kind": "cross", "of": "tab"}, "two columns or more"),
    ({"kind": "cross", "of": ["tab", "click"]}, "the label 'click' of the same row"),
    ({"kind": "cross", "of": ["tab", "own"]}, "computed later"),
])
def test_what_makes_no_sense_is_refused(settings, said):
    with pytest.raises(SchemaError, match=said):
        Schema.from_mapping({**SCHEMA.to_mapping(), "derived": {"own": settings}})


def test_names_and_order_are_verified():
    count = Derived(name="n", kind="count", by="user")
    with pytest.raises(SchemaError, match="more than once"):
        Schema(derived=[count, count], **ROLES)
    with pytest.raises(SchemaError, match="also a label"):
        Schema(derived=[Derived(name="click", kind="count", by="user")], labels=[Label(name="click")], **ROLES)
    with pytest.raises(SchemaError, match="also a role"):
        Schema(derived=[Derived(name="user", kind="count", by="item")], **ROLES)
    with pytest.raises(SchemaError, match="computed later or from earlier rows"):
        Schema(derived=[count, Derived(name="x", kind="cross", of=("n", "tab"))], **ROLES)
    with pytest.raises(SchemaError, match="no column with role 'time'"):
        Schema(derived=[count], user="user")
    with pytest.raises(SchemaError, match="only gives an order"):
        Schema(derived=[Derived(name="away", kind="since_last", by="user")], **{**ROLES, "time_unit": "row"})
