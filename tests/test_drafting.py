"""Drafts find roles, kinds and sides, read back as TOML, and a schema that does not fit is told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recspect.diagnosis.source import read
from recspect.drafting import draft, draft_text, validate
from recspect.errors import DataError, RecspectError, SchemaError
from recspect.schema import Field, Kind, Label, Role, Schema

ROLES = {
    "kuairand-pure": ({"user": "user_id", "item": "video_id", "time": "time_ms", "label": "is_click"}, "ms"),
    "movielens-100k": ({"user": "user_id", "item": "item_id", "time": "timestamp", "label": "rating"}, "s"),
    "movielens-latest-small": ({"user": "userId", "item": "movieId", "time": "timestamp", "label": "rating"}, "s"),
    "open-bandit": ({"item": "item_id", "time": "timestamp", "label": "click", "position": "position",
                     "propensity": "propensity_score", "arm": "policy"}, None),
    "criteo": ({"label": "label"}, None),
    "uci-bank": ({"label": "y"}, None),
    "oulad": ({"user": "id_student", "item": "course", "label": "passed"}, None),
}


@pytest.mark.data
@pytest.mark.parametrize("name", ROLES)
def test_drafts_of_real_data_have_the_right_roles(name, real_data, tmp_path):
    data = real_data(name)
    made = draft(data.source)
    roles, unit = ROLES[name]
    assert {role.value: column for role, column in made.roles.items()} == roles
    assert made.time_unit == unit
    validate(made, data.source, need=[Role.LABEL])
    (tmp_path / "schema.toml").write_text(draft_text(data.source), encoding="utf-8")
    assert Schema.read(tmp_path / "schema.toml") == made


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in ROLES if name not in ("criteo", "uci-bank")])
def test_drafts_agree_with_the_cards_on_sides_and_kinds(name, real_data):
    """Where the card, made by a person, differs, it differs for a reason that names and values cannot show."""
    data = real_data(name)
    made = draft(data.source)
    common = [(made.field(field.name), field) for field in data.schema.fields if field.name in made.field_names]
    assert len(common) >= 0.9 * len(data.schema.fields)
    sides = {drafted.name for drafted, ours in common if drafted.side != ours.side}
    kinds = {drafted.name for drafted, ours in common if drafted.kind is not ours.kind}
    # a student's age band can change between courses; the affinity is of the pair; sizes of a video are few
    assert sides <= {"age_band", "affinity"}
    assert kinds <= {"affinity", "server_width", "server_height"}


@pytest.mark.data
def test_a_draft_of_kuairand_leaves_out_what_is_known_afterwards(real_data):
    made = draft(real_data("kuairand-pure").source)
    assert {"play_time_ms", "profile_stay_time", "comment_stay_time", "date", "is_rand"} <= set(made.ignored)
    assert {label.name for label in made.labels} == {"is_click", "is_like", "is_follow", "is_comment", "is_forward",
                                                     "is_hate", "long_view", "is_profile_enter"}
    assert made.field("is_live_streamer").missing == (-124,)
    assert made.field("tag").kind is Kind.MULTI_VALUED
    assert made.field("tag").separator == ","


@pytest.mark.data
def test_a_draft_of_bank_suggests_the_missing_code(real_data):
    made = draft(real_data("uci-bank").source)
    assert made.label == Label(name="y", positive="yes")
    assert made.field("pdays").missing == (-1,)
    assert made.field("balance").missing == ()  # negative balances are balances


@pytest.mark.data
def test_a_draft_of_oulad_does_not_read_the_outcome(real_data):
    assert "final_result" in draft(real_data("oulad").source).ignored


@pytest.fixture(scope="module")
def log():
    """A log whose columns are named unlike each other and mean what a draft should find."""
    random = np.random.default_rng(11)
    rows = 6_000
    user, item = random.integers(0, 300, rows), random.integers(0, 400, rows)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "some", "lazy", "dog", "near", "river", "bank", "at", "night"]
    titles = [" ".join(random.choice(words, 6)) + f" {i}" for i in range(400)]
    genres = ["|".join(sorted(set(random.choice(["Comedy", "Drama", "War", "Crime", "Sport"], random.integers(1, 4)))))
              for _ in range(400)]
    return read({
        "visitorId": [f"v{u}" for u in user],
        "productId": item,
        "sessionId": random.integers(0, 2_000, rows),
        "eventTime": 1_700_000_000 + np.sort(random.integers(0, 10**6, rows)),
        "purchased": (random.random(rows) < 0.1).astype(int),
        "clicked": (random.random(rows) < 0.3).astype(int),
        "slot": random.integers(1, 9, rows),
        "p_click": random.random(rows),
        "sample_weight": random.integers(1, 4, rows),
        "variant": np.array(["A", "B"])[random.integers(0, 2, rows)],
        "age": np.array(random.integers(18, 80, 300))[user],
        "title": [titles[i] for i in item],
        "genres": [genres[i] for i in item],
        "cover": [f"covers/{i}.jpg" for i in item],
        "embedding": random.random((400, 8))[item],
        "clicked_seq": [list(range(n)) for n in random.integers(0, 5, rows)],
        "tags": [["a", "b"][:n] for n in random.integers(0, 3, rows)],
        "price": np.exp(random.normal(3, 3, 400))[item],
        "brand_code": random.integers(1_000, 9_000, 400)[item],
        "hour": random.integers(0, 24, rows),
        "dwell_time": random.random(rows) * 60,
        "always": np.ones(rows),
        "never": np.full(rows, np.nan),
        "trace": [f"{i:032x}" for i in range(rows)],
        "days_since": np.where(random.random(rows) < 0.2, -999, random.integers(0, 400, rows)),
        "plan": np.array(["free", "paid", "?"])[random.integers(0, 3, 300)][user],
    }, name="shop")


def test_roles_are_found_by_name_and_values(log):
    made = draft(log)
    assert {role.value: column for role, column in made.roles.items()} == {
        "user": "visitorId", "item": "productId", "request": "sessionId", "time": "eventTime", "label": "clicked",
        "position": "slot", "score": "p_click", "weight": "sample_weight", "arm": "variant"}
    assert made.time_unit == "s"
    assert [label.name for label in made.labels] == ["clicked", "purchased"]


@pytest.mark.parametrize(("name", "kind", "side"), [
    ("visitorId", "categorical", "user"), ("productId", "categorical", "item"), ("age", "numeric", "user"),
    ("title", "text", "item"), ("genres", "multi_valued", "item"), ("cover", "image", "item"),
    ("embedding", "vector", "context"), ("clicked_seq", "sequence", "context"), ("tags", "multi_valued", "context"),
    ("price", "numeric", "item"), ("brand_code", "categorical", "item"), ("hour", "categorical", "context"),
    ("days_since", "numeric", "context"), ("plan", "categorical", "user"),
])
def test_kinds_and_sides(name, kind, side, log):
    field = draft(log).field(name)
    assert (field.kind.value, field.side) == (kind, side)


def test_settings_of_fields(log):
    made = draft(log)
    assert made.field("genres").separator == "|"
    assert made.field("price").scaling == "log"
    assert made.field("age").scaling == "standardise"
    assert made.field("days_since").missing == (-999,)
    assert made.field("plan").missing == ("?",)


def test_what_is_no_input_is_ignored_with_the_reason(log):
    assert set(draft(log).ignored) == {"dwell_time", "always", "never", "trace"}
    text = draft_text(log)
    assert "# dwell_time: by its name known only after the item was shown" in text
    assert "# never: no value in the sample" in text
    assert "# trace: another value in nearly every row" in text


def test_each_line_says_why_and_how_sure(log):
    text = draft_text(log)
    assert 'user = "visitorId"  # likely: guessed from its name' in text
    assert "# likely: guessed from its name and size: s since 1970" in text
    for line in text.splitlines():
        if " = " in line and not line.startswith(("#", "schema", 'name = "shop"', "time_unit", "ignored")):
            assert "  # " in line
            assert any(word in line for word in ("sure", "likely", "a guess"))
    assert "Please correct" in text


@pytest.mark.parametrize(("label", "values", "expected"), [
    ("is_click", [0, 1], Label(name="is_click")),
    ("label", [0.0, 1.0], Label(name="label")),
    ("converted", [True, False], Label(name="converted")),
    ("y", ["yes", "no"], Label(name="y", positive="yes")),
    ("churn", ["F", "T"], Label(name="churn", positive="T")),
    ("rating", [1, 2, 3, 4, 5], Label(name="rating", at_least=4)),
    ("stars", [0.5, 1.0, 5.0, 10.0], Label(name="stars", at_least=8)),
])
def test_labels(label, values, expected):
    assert draft(read({label: values * 20, "x": list(np.arange(20.0 * len(values)) / 3)})).labels == (expected,)


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_the_unit_of_a_time_is_told_from_its_size(unit, scale):
    made = draft(read({"ts": np.arange(1_600_000_000, 1_600_000_100) * scale, "click": [0, 1] * 50}))
    assert (made.time, made.time_unit) == ("ts", unit)
    days = draft(read({"day": np.arange(19_000, 19_100), "click": [0, 1] * 50}))
    assert (days.time, days.time_unit) == ("day", "days")
    times = draft(read({"created_at": np.arange("2024-01-01", "2024-04-10", dtype="datetime64[D]").astype("datetime64[us]"),
                        "click": [0, 1] * 50}))
    assert (times.time, times.time_unit) == ("created_at", None)


def test_dates_as_numbers_and_times_of_other_things_are_no_time():
    made = draft(read({"date": [20240101, 20240102] * 50, "upload_time": np.arange(1_600_000_000, 1_600_000_100),
                       "time": [3, 4] * 50, "click": [0, 1] * 50}))
    assert made.time is None
    assert "date" in made.ignored


def test_a_column_nearly_always_the_same_has_no_side():
    random = np.random.default_rng(0)
    user = random.integers(0, 50, 5_000)
    rare = (np.arange(5_000) == 7).astype(int)
    made = draft(read({"user_id": user, "flag": rare, "home": (user * 7) % 5}))
    assert made.field("flag").side == "context"
    assert made.field("home").side == "user"


# DEL as a column name: Schema.to_toml does not escape it in keys
ODD = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x7f"), min_size=1, max_size=12)


@given(names=st.lists(ODD, min_size=1, max_size=6, unique=True), data=st.data())
def test_drafts_of_anything_read_back(names, data, tmp_path_factory):
    columns = {}
    for name in names:
        columns[name] = data.draw(st.sampled_from([
            [0, 1, 1, 0], [1.5, np.nan, 2.0, np.inf], ["a", None, "b|c", "\n\"'#"], [[1], [], [2, 3], [1]], [None] * 4,
            [True, False, True, True], [-124, 1, 2, 3],
        ]))
    source = read(columns, name=data.draw(ODD))
    made = draft(source)
    path = tmp_path_factory.mktemp("draft") / "schema.toml"
    path.write_text(draft_text(source), encoding="utf-8", newline="")
    assert Schema.read(path) == made
    assert set(made.columns) | set(made.ignored) == set(names)


# ---------------------------------------------------------------------- validate


def _schema(**changes):
    settings = {"user": "user", "time": "time", "time_unit": "s", "labels": [Label(name="click")],
                "fields": [Field(name="user"), Field(name="age", kind=Kind.NUMERIC)]}
    return Schema(**{**settings, **changes})


def _table(**changes):
    return read({"user": ["ann", "bob", "cid"], "time": [1, 2, 3], "click": [0, 1, 0], "age": [20.0, np.nan, 40.0], **changes},
                name="the table")


def test_a_schema_that_fits_is_silent():
    validate(_schema(), _table(), need=[Role.USER, Role.LABEL])
    validate(_schema(), _table(age=[np.nan] * 3))  # all missing is a finding, not an error
    validate(_schema(fields=[Field(name="age", kind=Kind.NUMERIC)]), _table(age=[2**60, None, 5]))


@pytest.mark.parametrize(("schema", "table", "message", "hint"), [
    ({"item": "movie"}, {}, "names 'movie', which the table lacks; columns: 'user', 'time'", "schema file"),
    ({"time_unit": None}, {}, "'time' holds numbers, and the schema has no time_unit", 'time_unit = "s"'),
    ({}, {"time": ["2024", "2025", "2026"]}, "the time column 'time' holds categories such as '2024'", "CAST"),
    ({}, {"age": ["20", "x", "40"]}, "field 'age' is numeric in the schema, but .* categories such as '20', 'x'", "categorical"),
    ({}, {"age": [[1], [2], [3]]}, "'age' is numeric in the schema, but the column holds lists", "multi_valued"),
    ({}, {"user": [[1], [2], [3]]}, "'user' is categorical in the schema, but the column holds lists", "multi_valued"),
    ({"fields": [Field(name="age", kind=Kind.TEXT)]}, {}, "'age' is text .* holds numbers", "texts"),
    ({"fields": [Field(name="age", kind=Kind.VECTOR)]}, {}, "'age' is vector", "fixed size"),
    ({"fields": [Field(name="user", kind=Kind.SEQUENCE)]}, {}, "'user' is sequence", "separator"),
    ({"fields": [Field(name="age", kind=Kind.MULTI_VALUED)]}, {}, "'age' is multi_valued", "lists"),
    ({}, {"click": [0, 2, 5]}, "label 'click' is binary .* values such as 2, 5 .range 0 to 5", "at_least = 4"),
    ({}, {"click": ["no", "yes", "no"]}, "label 'click' holds categories such as 'no', 'yes'", 'positive = "yes"'),
    ({"labels": [Label(name="click", positive="yes")]}, {"click": ["no", "YES", "no"]},
     "no row has the positive value 'yes'; values: 'no', 'YES'", "positive"),
    ({}, {"click": [np.nan] * 3}, "label 'click' has no value", "joined"),
    ({"labels": [Label(name="click", kind="graded")]}, {"click": [1, np.inf, 2]}, "infinite", "rows"),
    ({"score": "age"}, {"age": ["a", "b", "c"]}, "age", ""),
    ({"propensity": "age"}, {}, "propensity 'age' has values such as 20", "probability"),
    ({"weight": "age"}, {"age": [1, -1, 2]}, "weight 'age' has negative values", "0 or more"),
])
def test_a_schema_that_does_not_fit_is_told(schema, table, message, hint):
    with pytest.raises(RecspectError, match=f"(?s){message}.*{hint}"):
        validate(_schema(**schema), _table(**table))


def test_roles_that_are_needed_are_asked_for():
    with pytest.raises(SchemaError, match="no column with role 'item'"):
        validate(_schema(), _table(), need=[Role.ITEM])
    with pytest.raises(SchemaError, match="no column at all"):
        validate(Schema(), _table())


def test_an_empty_table_is_told():
    with pytest.raises(DataError, match="no rows"):
        validate(_schema(), read([]))


def test_graded_labels_and_other_encodings_fit():
    validate(_schema(labels=[Label(name="click", kind="graded")]), _table(click=[0.5, 7, 3]))
    validate(_schema(labels=[Label(name="click", at_least=4)]), _table(click=[1, 4, 5]))
    validate(_schema(labels=[Label(name="click", positive=1)]), _table(click=[0, 1, 0]))
    validate(_schema(labels=[Label(name="click")]), _table(click=[True, False, True]))
