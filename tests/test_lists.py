"""Lists: the right top k from pairs, the tables they are made of, and what popularity diagnostics add to them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.diagnosis.batch import Batch, Categorical, Ragged
from recspect.errors import DataError, SchemaError, SubjectError, UsageError
from recspect.recommending.ids import distinct, positions
from recspect.recommending.lists import LIST_SCHEMA, audience, catalogue, list_table, make_lists
from recspect.schema import Field, Label, Schema

SCHEMA = Schema(
    user="user", item="item", time="time", labels=[Label(name="click")],
    fields=[Field(name="user"), Field(name="item"), Field(name="age", kind="numeric", side="user"),
            Field(name="hour", kind="numeric"), Field(name="genre", side="item"),
            Field(name="tags", kind="multi_valued", side="item")],
)


def strings(*values):
    distinct_values = sorted({v for v in values if v is not None})
    return Categorical(np.array([-1 if v is None else distinct_values.index(v) for v in values]),
                       np.array(distinct_values, dtype=object))


def tables(n_users=7, n_items=11, seed=0):
    rng = np.random.default_rng(seed)
    users = Batch({"user": 100 + rng.permutation(n_users), "age": rng.random(n_users), "hour": rng.random(n_users)})
    lengths = rng.integers(0, 4, n_items)
    items = Batch({
        "item": Categorical(rng.permutation(n_items), np.array([f"i{i:02d}" for i in range(n_items)], dtype=object)),
        "genre": Categorical(rng.integers(-1, 3, n_items), np.array(["a", "b", "c"], dtype=object)),
        "tags": Ragged(rng.integers(0, 9, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])),
    })
    return users, items


def score(batch):
    """Depends on every field, so that a wrongly paired row would show."""
    tags = batch["tags"]
    total = np.concatenate([[0], np.cumsum(tags.values)])
    of_tags = total[tags.offsets[1:]] - total[tags.offsets[:-1]]
    number = np.char.lstrip(batch["item"].decode().astype(str), "i").astype(float)
    return np.sin(3 * batch.numbers("user") + 5 * number) + batch.numbers("age") * of_tags \
        + batch.numbers("hour") * batch["genre"].codes


def brute_force(users, items, k, exclude=()):
    listed = []
    for u in range(users.rows):
        user = users["user"][u]
        scored = []
        for i in range(items.rows):
            one = users.take([u]).with_columns(items.take([i]))
            name = items["item"].decode()[i]
            if (user, name) not in exclude:
                scored.append((-score(one)[0], i, name))
        for rank, (negative, _, name) in enumerate(sorted(scored)[:k], start=1):
            listed.append((user, name, rank, -negative))
    return listed


def as_rows(lists):
    return list(zip(lists["user"], lists["item"].decode(), lists["rank"], lists["score"], strict=True))


@given(block_bytes=st.integers(1, 20_000), k=st.integers(1, 13), seed=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_lists_are_the_best_pairs_whatever_the_block(block_bytes, k, seed):
    users, items = tables(seed=seed)
    rng = np.random.default_rng(seed)
    seen = Batch({"user": rng.choice(users["user"], 20), "item": items["item"][rng.integers(0, 11, 20)]})
    exclude = set(zip(seen["user"], seen["item"].decode(), strict=True))
    found = as_rows(make_lists(score, users, items, SCHEMA, k=k, exclude=seen, block_bytes=block_bytes))
    expected = brute_force(users, items, k, exclude)
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    np.testing.assert_allclose([row[3] for row in found], [row[3] for row in expected])


def test_every_field_of_the_schema_reaches_the_model_and_the_budget_holds():
    users, items = tables(n_users=40, n_items=50)
    sizes = []

    def watched(batch):
        assert set(SCHEMA.field_names) <= set(batch)
        sizes.append(batch.rows)
        return np.zeros(batch.rows)

    lists = make_lists(watched, users, items, SCHEMA, k=3, block_bytes=8000)
    assert sum(sizes) == 40 * 50
    assert max(sizes) * 6 * 8 <= 8000  # six columns of eight bytes
    # equal scores: the order of the items' table
    assert lists["item"].decode()[:3].tolist() == items["item"].decode()[:3].tolist()
    assert (lists["rank"].reshape(40, 3) == [1, 2, 3]).all()
    assert set(lists) == {"user", "item", "rank", "score"}
    assert set(LIST_SCHEMA.columns) == set(lists)


def test_exclude_matches_ids_stored_otherwise():
    users, items = tables()
    numbers = items.with_columns({"item": np.arange(items.rows)})
    everything = lambda batch: -batch.numbers("item").astype(float)  # noqa: E731 - shown where it is used
    seen = Batch({"user": strings("100", "100", "101", None), "item": strings("0", "1", "0", "2")})
    lists = make_lists(everything, users, numbers, SCHEMA, k=1, exclude=seen)
    best = dict(zip(lists["user"].tolist(), lists["item"].tolist(), strict=True))
    assert best == {100: 2, 101: 1, 102: 0, 103: 0, 104: 0, 105: 0, 106: 0}


def test_users_who_saw_all_have_no_list():
    users, items = tables(n_users=2, n_items=3)
    seen = Batch({"user": np.repeat(users["user"][:1], 3), "item": items["item"]})
    lists = make_lists(score, users, items, SCHEMA, k=2, exclude=seen)
    assert set(lists["user"]) == {users["user"][1]}
    empty = make_lists(score, users.take([]), items, SCHEMA, k=2)
    assert empty.rows == 0
    assert make_lists(score, users, items.take(np.zeros(3, dtype=bool)), SCHEMA, k=2).rows == 0


def test_mistakes_teach():
    users, items = tables()
    with pytest.raises(DataError, match="'age' is in neither table"):
        make_lists(score, users.select(["user", "hour"]), items, SCHEMA)
    with pytest.raises(DataError, match="one row per 'user'"):
        make_lists(score, users.take([0, 0]), items, SCHEMA)
    with pytest.raises(DataError, match="1 rows of the table have no 'item'"):
        make_lists(score, users, items.with_columns({"item": np.append(np.arange(10.0), np.nan)}), SCHEMA)
    with pytest.raises(SchemaError, match="'item'"):
        make_lists(score, users, items, SCHEMA.with_roles(item=None))
    with pytest.raises(UsageError, match="k is 0"):
        make_lists(score, users, items, SCHEMA, k=0)
    with pytest.raises(SubjectError, match="found shape"):
        make_lists(lambda batch: score(batch)[:, None], users, items, SCHEMA)
    with pytest.raises(SubjectError, match="7 of 77 scores are NaN"):
        make_lists(lambda batch: np.where(batch["item"].codes == 0, np.nan, 1.0), users, items, SCHEMA)


# ------------------------------------------------------------------ catalogue and audience


LOG = Batch({
    "user": strings("u2", "u1", "u2", "u1", None, "u3"),
    "item": np.array([7.0, 3, 7, 3, 7, np.nan]),
    "time": np.array([30, 10, 20, 40, 99, 50]),
    "age": np.array([20.0, 30, 21, np.nan, 9, 50]),
    "hour": np.array([1.0, 2, 3, 4, 5, 6]),
    "genre": strings("new", "x", "old", None, "newest", "z"),
    "tags": Ragged(np.array([1, 2, 3, 4, 5]), np.array([0, 1, 3, 4, 4, 4, 5])),
    "click": np.array([1, 0, 1, 0, 1, 1]),
})


def test_catalogue_holds_the_last_known_values():
    found = catalogue(LOG, SCHEMA)
    assert set(found) == {"item", "genre", "tags"}
    assert found["item"].tolist() == [3, 7]
    assert found["genre"].decode().tolist() == ["x", "newest"]
    tags = found["tags"]
    assert [tags.values[a:b].tolist() for a, b in zip(tags.offsets[:-1], tags.offsets[1:], strict=True)] == [[2, 3], [1]]
    by_row = catalogue(LOG.take([0, 2]), SCHEMA.with_roles(time=None))
    assert by_row["genre"].decode().tolist() == ["old"]


def test_audience_holds_the_last_known_values():
    found = audience(LOG, SCHEMA)
    assert set(found) == {"user", "age", "hour"}
    assert found["user"].decode().tolist() == ["u1", "u2", "u3"]
    assert found["age"].tolist() == [30, 20, 50]
    assert found["hour"].tolist() == [4, 1, 6]


def test_audience_is_a_sample_that_does_not_depend_on_row_order():
    rng = np.random.default_rng(0)
    log = Batch({"user": np.repeat(np.arange(500), 3), "item": np.zeros(1500, dtype=int), "time": np.arange(1500),
                 "age": rng.random(1500), "hour": rng.random(1500)})
    small, large = audience(log, SCHEMA, users=50, seed=3), audience(log, SCHEMA, users=120, seed=3)
    assert small.rows == 50
    assert set(small["user"]) <= set(large["user"])
    order = rng.permutation(1500)
    again = audience(log.take(order), SCHEMA, users=50, seed=3)
    for name in small:
        np.testing.assert_array_equal(small[name], again[name])
    assert set(audience(log, SCHEMA, users=50, seed=4)["user"]) != set(small["user"])
    # each user is as likely as any other
    drawn = np.bincount(np.concatenate([audience(log, SCHEMA, users=50, seed=s)["user"] for s in range(200)]),
                        minlength=500)
    assert drawn.sum() == 200 * 50
    assert abs(((drawn - 20) ** 2).mean() / 18 - 1) < 0.3  # the variance of a binomial of 200 draws at 0.1 is 18


def test_tables_refuse_what_they_cannot_make():
    with pytest.raises(UsageError, match="0 users"):
        audience(LOG, SCHEMA, users=0)
    with pytest.raises(SchemaError, match="'user'"):
        audience(LOG, SCHEMA.with_roles(user=None))
    with pytest.raises(DataError, match="'genre'"):
        catalogue(LOG.select(["item", "time"]), SCHEMA)
    assert catalogue(LOG.take(np.zeros(6, dtype=bool)), SCHEMA).rows == 0


def test_catalogue_and_audience_feed_make_lists():
    lists = make_lists(lambda b: b.numbers("age"), audience(LOG, SCHEMA), catalogue(LOG, SCHEMA), SCHEMA, k=2, exclude=LOG)
    assert as_pairs(lists) == [("u1", 7), ("u2", 3), ("u3", 3), ("u3", 7)]


def as_pairs(lists):
    return list(zip(lists["user"].decode().tolist(), lists["item"].tolist(), strict=True))


# ------------------------------------------------------------------ popularity


def test_list_table_adds_popularity_of_item_and_profile():
    # item i (0..9) has 10, 8, 6, 4, 3, 3, 2, 2, 1, 1 interactions: 40 together
    counts = [10, 8, 6, 4, 3, 3, 2, 2, 1, 1]
    items = np.repeat(np.arange(10), counts)
    users = np.arange(40) % 5
    train = Batch({"user": np.append(users, [9, 9]), "item": np.append(items, [9, 9]), "click": np.append(np.ones(40), [0, 0])})
    lists = Batch({"user": np.array([0] * 11 + [9, 77]), "item": np.array([*range(10), 55, 0, 0]),
                   "rank": np.array([*range(1, 12), 1, 1]), "score": np.zeros(13)})
    table = list_table(lists, train, SCHEMA)
    assert table["popularity"].tolist() == [*counts, 0, 10, 10]
    assert table["popularity_decile"].tolist() == [1, 2, 3, 4, 5, 5, 7, 7, 9, 9, 10, 1, 1]
    # the mass of more popular items: 0, 10, 18, 24, 28, 28, 34, 34, 38, 38 of 40
    assert table["popularity_group"].decode().tolist() == \
        ["head", "mid", "mid", "mid", "mid", "mid", "tail", "tail", "tail", "tail", "tail", "head", "head"]
    expected = np.mean([counts[i] for i, u in zip(items, users, strict=True) if u == 0])
    np.testing.assert_allclose(table["profile_popularity"][:11], expected)
    assert np.isnan(table["profile_popularity"][11:]).all()  # nine wanted nothing, 77 is unknown
    every_row = list_table(lists, train, Schema(user="user", item="item"))
    assert every_row["popularity"][9] == 3


def test_list_table_without_interactions():
    train = Batch({"user": np.array([1]), "item": np.array([1]), "click": np.array([0])})
    lists = Batch({"user": np.array([1]), "item": np.array([1]), "rank": np.array([1]), "score": np.array([0.0])})
    table = list_table(lists, train, SCHEMA)
    assert table["popularity"].tolist() == [0]
    assert table["popularity_group"].decode().tolist() == ["tail"]
    assert np.isnan(table["profile_popularity"]).all()


# ------------------------------------------------------------------ ids


def test_ids_agree_between_forms():
    log = Batch({"id": Categorical(np.array([2, 0, -1, 2]), np.array(["b", "unused", "a"], dtype=object))})
    codes, values = distinct(log, "id")
    assert (codes.tolist(), values.tolist()) == ([0, 1, -1, 0], ["a", "b"])
    numbers = np.array([5, 7, -2])
    for column in (np.array([7, 5, 9]), np.array([7.0, 5, 9]), strings("7", "5", "9")):
        assert positions(Batch({"id": column}), "id", numbers).tolist() == [1, 0, -1]
    assert positions(Batch({"id": np.array([7, 5])}), "id", np.array(["5", "7"], dtype=object)).tolist() == [1, 0]
    assert positions(Batch({"id": np.array([7, 5])}), "id", np.empty(0, dtype=np.int64)).tolist() == [-1, -1]
    assert positions(Batch({"id": np.array([np.nan, 5])}), "id", numbers).tolist() == [-1, 0]
