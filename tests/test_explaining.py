"""Why this recommendation: what is told adds up, was tried, and is safe to show."""

import json
import re
import string
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from recspect.diagnosis.batch import Categorical, Ragged
from recspect.diagnosis.source_values import to_arrow
from recspect.errors import Unavailable, UsageError
from recspect.schema import Field, Kind
from recspect.worlds import World, split_by_time

pytest.importorskip("torch")

from typer.testing import CliRunner

from recspect.cli import app
from recspect.explaining.counterfactual import Removable, counterfactual
from recspect.explaining.explainer import RecommendationExplainer
from recspect.explaining.templates import TEMPLATES
from recspect.models import ModelConfig
from recspect.recommending.histories import Histories
from recspect.recommending.pipeline import RecommenderSettings, build_recommender
from recspect.recommending.pipeline.settings import STEPS, parse
from recspect.recommending.pipeline.sources_plain import FreshSource, ItemKNNSource, PopularSource
from recspect.training.config import TrainingConfig
from recspect.training.loop import train

WORLD = World(users=120, items=80, rows=6000, signal=3.0, popularity=0.3)
SOURCES = (ItemKNNSource(), PopularSource(), FreshSource())


def quick(name="deepfm", epochs=3):
    return TrainingConfig(model=ModelConfig(name=name, hidden=(16,)), maximum_epochs=epochs, observe_every=0, histograms_every=0)


@pytest.fixture(scope="module")
def rows():
    return split_by_time(WORLD.exposures())[0]


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    return train(rows, WORLD.schema, quick(), tmp_path_factory.mktemp("runs") / "world")


@pytest.fixture(scope="module")
def ranked(rows, run):
    return RecommendationExplainer(build_recommender(rows, run=run, settings=RecommenderSettings(sources=SOURCES)), against="mean")


@pytest.fixture(scope="module")
def unranked(rows):
    """Candidates in the order of item-kNN: what a user wanted is all that it knows."""
    return RecommendationExplainer(build_recommender(rows, WORLD.schema, settings=RecommenderSettings(sources=(ItemKNNSource(),))))


@pytest.fixture(scope="module")
def sequential(rows, tmp_path_factory):
    """DIN over the last five items that the user wanted."""
    user, item, click = (np.asarray(rows[name]) for name in ("user", "item", "click"))
    past, lists = {}, []
    for who, what, wanted in zip(user, item, click, strict=True):
        lists.append(past.get(who, [])[-5:])
        if wanted:
            past.setdefault(who, []).append(what)
    column = Ragged(np.array([one for own in lists for one in own], dtype=np.int64), np.concatenate([[0], np.cumsum([len(own) for own in lists])]))
    table = rows.with_columns({"past": column})
    schema = replace(WORLD.schema, fields=(*WORLD.schema.fields, Field(name="past", kind=Kind.SEQUENCE, side="user", shares="item")))
    made = train(table, schema, quick("din"), tmp_path_factory.mktemp("runs") / "din")
    return RecommendationExplainer(build_recommender(table, run=made, settings=RecommenderSettings(sources=SOURCES)))


# ------------------------------------------------------------------ what carried the score


def test_contributions_add_up_to_the_difference_within_the_bound(ranked):
    for user in range(10):
        reasons = ranked.explain(user, with_counterfactual=False).reasons
        told = sum(part.contribution for part in reasons.parts)
        assert abs(told - (reasons.score - reasons.baseline)) <= reasons.bound
        assert reasons.bound < 0.05 * sum(abs(part.contribution) for part in reasons.parts)
        assert [part.contribution for part in reasons.parts] == sorted((part.contribution for part in reasons.parts), reverse=True)


def test_the_score_is_that_of_the_list(ranked):
    found = ranked.explain(3)
    logit = found.reasons.score
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(found.way["ranking_score"], abs=1e-6)
    assert found.rank == 1
    assert found.item == ranked.recommender.recommend([3], 10).ids(0)[0]


def test_why_one_is_above_another_is_the_difference_of_both(ranked):
    first, second = ranked.recommender.recommend([5], 10).ids(0)[:2]
    found = ranked.explain(5, first, over=second, with_counterfactual=False)
    each = [{part.field: part.contribution for part in ranked.explain(5, item, with_counterfactual=False).reasons.parts} for item in (first, second)]
    assert {part.field: part.contribution for part in found.contrast.parts} == pytest.approx({name: each[0][name] - each[1][name] for name in each[0]}, abs=1e-5)
    assert found.contrast.score == pytest.approx(sum(part.contribution for part in found.contrast.parts), abs=found.contrast.bound + 1e-6)
    assert found.contrast.score > 0


def test_the_whole_list_rests_on_the_mean_of_its_items(ranked):
    found = ranked.explain(6, with_counterfactual=False)
    table = ranked.contributions([6], k=10)
    assert {part.field: part.contribution for part in found.whole.parts} == pytest.approx({part.field: float(np.mean(table[f"contribution:{part.field}"])) for part in found.whole.parts}, abs=1e-4)
    assert {part.field: part.value for part in found.whole.parts}["item"] == "..."
    assert {part.field: part.value for part in found.whole.parts}["user"] == 6
    assert "All 10 items of the list score" in found.text()
    assert ranked.explain(6, k=1, with_counterfactual=False).whole is None


def test_thousands_of_pairs_say_what_single_ones_say(ranked):
    users = list(range(40))
    table = ranked.contributions(users, k=5)
    assert table.rows == 200
    fields = [name for name in table if name.startswith("contribution:")]
    assert np.abs(np.sum([table[name] for name in fields], axis=0) - (table["score"] - table["baseline"])).max() <= table["bound"].max()
    one = ranked.explain(users[7], table["item"][36].item(), with_counterfactual=False)  # the second of the eighth user
    assert {f"contribution:{part.field}": part.contribution for part in one.reasons.parts} == pytest.approx({name: float(table[name][36]) for name in fields}, abs=1e-4)
    chosen = ranked.contributions([1, 2], [[3, 4], [5]])
    assert chosen["item"].tolist() == [3, 4, 5]
    assert ranked.contributions([], []).rows == 0


def test_compared_with_values_as_frequent_popularity_is_no_reason(ranked):
    """The same pairs from two baselines: each adds up to its own difference, and the text says what was compared with."""
    alike = RecommendationExplainer(ranked.recommender, against="alike")
    for user in range(3):
        reasons = alike.explain(user, with_counterfactual=False).reasons
        assert sum(part.contribution for part in reasons.parts) == pytest.approx(reasons.score - reasons.baseline, abs=reasons.bound + 1e-5)
    text = alike.explain(4, with_counterfactual=False)
    assert "pairs with other values that are as frequent has" in text.text()
    assert "取值同样常见的其他组合平均为" in text.text("zh")
    mean = np.mean(ranked.contributions(list(range(40)), k=1)["contribution:item"])
    assert np.mean(alike.contributions(list(range(40)), k=1)["contribution:item"]) < mean  # first items are popular ones
    with pytest.raises(UsageError, match="nothing called 'zero'"):
        RecommendationExplainer(ranked.recommender, against="zero")


def test_entries_of_a_history_are_told_with_their_items_and_add_up(sequential):
    rows = sequential.recommender.audience.rows
    user = int(np.argmax(rows["past"].lengths))
    held = rows["past"][np.array([user])].values.tolist()
    reasons = sequential.explain(sequential.recommender.audience.ids.values[user], with_counterfactual=False).reasons
    assert [part.value for part in sorted(reasons.entries, key=lambda part: part.entry)] == held
    whole = next(part.contribution for part in reasons.parts if part.field == "past")
    assert sum(part.contribution for part in reasons.entries) == pytest.approx(whole, abs=1e-4)


# ------------------------------------------------------------------ counterfactuals, tried by other means


def asked_without(explainer, user, gone):
    """The list of a user of a recommender whose audience never had these actions; other ways than the search's own."""
    known = explainer.recommender
    audience, code = known.audience, int(known.audience.ids.codes([user])[0])
    wanted = audience.wanted
    kept = ~((wanted.users == code) & np.isin(wanted.items, known.items.ids.codes([unit.value for unit in gone])))
    histories = Histories.from_events(wanted.users[kept], wanted.items[kept], wanted.times[kept], n_users=wanted.n_users, n_items=wanted.n_items)
    items = replace(known, audience=replace(audience, wanted=histories)).recommend([user], 500).ids(0)
    had = set(known.items.ids.values[wanted.of(code)].tolist())
    return [item for item in items if item not in had]


def test_every_set_of_actions_changes_the_answer_when_the_recommender_is_run_without_it(unranked):
    """Necessity in all cases, sufficiency as told, and no smaller set where that is said."""
    told = 0
    for user in range(60):
        found = unranked.explain(user)
        change, (units, item) = found.counterfactual, (Removable.of(unranked.recommender, unranked.recommender.audience.requests([user])).units, found.item)
        if change is None or not change.removed:
            continue
        told += 1
        assert change.necessary
        after = asked_without(unranked, user, change.removed)
        assert (after[0] if after else None) != item
        assert (after[0] if after else None) == change.instead
        others = [unit for unit in units if unit not in change.removed]
        assert (asked_without(unranked, user, others)[:1] == [item]) == change.sufficient
        if change.smallest and len(change.removed) > 1:
            assert all(asked_without(unranked, user, [unit])[0] == item for unit in units)
        for unit in change.removed if len(change.removed) > 1 else ():  # none can stay
            assert asked_without(unranked, user, [one for one in change.removed if one is not unit])[0] == item
    assert told >= 40


def test_every_set_of_fields_changes_the_answer_of_the_model(ranked):
    """Without a field the row has what a user of whom nothing is known has; scored here row by row."""
    known, told = ranked.recommender, 0
    for user in range(60):
        found = ranked.explain(user)
        change = found.counterfactual
        if change is None or not change.removed or any(unit.kind != "field" for unit in change.removed):
            continue
        told += 1
        people = known.audience.field_rows(known.audience.requests([user]))
        missing = {"user": np.array([10**6]), "age": np.array([np.nan]), "surface": known.audience.usual["surface"]}
        people = people.with_columns({unit.field: missing[unit.field] for unit in change.removed})
        candidates = known.items.ids.codes(known.recommend([user], 500).ids(0))
        pairs = people.take(np.zeros(len(candidates), dtype=np.int64)).with_columns(known.items.rows.take(candidates))
        order = np.lexsort((candidates, -ranked.subject.score(pairs)))
        assert known.items.ids.values[candidates[order[0]]] == change.instead != found.item
    assert told >= 5


def test_an_action_goes_from_the_list_that_the_model_reads_too(sequential):
    known = sequential.recommender
    user = int(np.argmax(known.audience.rows["past"].lengths))
    requests = known.audience.requests([known.audience.ids.values[user]])
    removable = Removable.of(known, requests)
    held = known.audience.field_rows(requests)["past"].values.tolist()
    place = next(at for at, unit in enumerate(removable.units) if unit.kind == "action" and unit.value in held)
    gone = np.zeros((1, len(removable.units)), dtype=bool)
    gone[0, place] = True
    left = removable.without(gone)
    assert known.audience.field_rows(left)["past"].values.tolist() == [item for item in held if item != removable.units[place].value]
    assert removable.units[place].value not in known.items.ids.values[left.histories.of(0)].tolist()
    none = known.audience.field_rows(removable.without(np.zeros((2, len(removable.units)), dtype=bool)))
    assert none["past"][np.array([1])].values.tolist() == held


def test_other_goals(ranked):
    lists = ranked.recommender.recommend([4], 10)
    second = lists.ids(0)[1]
    assert ranked.explain(4, second).counterfactual.goal == "list"
    assert ranked.explain(4, lists.ids(0)[0], over=second).counterfactual.goal == "over"
    assert ranked.explain(4, second, over=lists.ids(0)[0]).counterfactual is None  # it is not above
    score = float(lists.slates[0].relevance[0])
    sure = ranked.explain(4, below=score + 1e-6).counterfactual
    assert (sure.goal, len(sure.removed)) == ("below", 1)  # below already: one of them keeps it there
    never = ranked.explain(4, below=-1.0).counterfactual
    assert not never.removed
    assert "Nothing that was tried changes this" in ranked.explain(4, below=-1.0).text()


def test_nothing_to_remove(unranked):
    requests = unranked.recommender.audience.requests(["nobody"])
    found = counterfactual(unranked.recommender, requests, 0, goal="first", k=10)
    assert found.removed == ()
    assert found.units == 0


# ------------------------------------------------------------------ training, the way, words


def test_evidence_is_what_training_rows_say(ranked, rows):
    user, item = 11, ranked.recommender.recommend([11], 10).ids(0)[0]
    found = ranked.evidence.of(11, int(ranked.recommender.items.ids.codes([item])[0]))
    wanted = {}
    for who, what, click in zip(rows["user"].tolist(), rows["item"].tolist(), rows["click"].tolist(), strict=True):
        if click:
            wanted.setdefault(who, set()).add(what)
    others = [who for who, what in wanted.items() if item in what and who != user]
    own = wanted[user] - {item}
    assert found.wanted_by == len(others)
    assert found.alike == sum(bool(wanted[who] & own) for who in others)
    counts = {mine: sum(mine in wanted[who] for who in others) for mine in own}
    assert [users for _, users in found.shared] == sorted(counts.values(), reverse=True)[:3]
    best = max(others, key=lambda who: len(wanted[who] & own) / np.sqrt(len(wanted[who])))
    assert found.nearest[0] / np.sqrt(len(wanted[best])) <= len(wanted[best] & own) / np.sqrt(len(wanted[best])) + 1
    assert found.met == ((rows["user"] == user) & (rows["item"] == item)).sum()


def test_every_sentence_of_both_languages_is_backed_by_a_number(ranked, unranked, sequential):
    shown = ranked.recommender.recommend([4], 10).ids(0)
    absent = next(item for item in ranked.recommender.items.ids.values.tolist() if item not in shown)
    found = [ranked.explain(4), ranked.explain(4, shown[0], over=shown[1]), ranked.explain(4, shown[1], over=shown[0]), ranked.explain(4, absent), ranked.explain("nobody"), unranked.explain(4),
             sequential.explain(4), ranked.explain(4, below=-1.0), *(unranked.explain(user) for user in range(5))]
    for explanation in found:
        for language in TEMPLATES:
            assert explanation.sentences(language)
            for sentence in explanation.sentences(language):
                assert re.search(r"\d", sentence), sentence
                assert "{" not in sentence
        mapping = explanation.to_mapping("zh")
        assert json.loads(json.dumps(mapping, allow_nan=False)) == mapping
    assert "不在用户" in ranked.explain(4, absent).text("zh")


def test_both_languages_have_the_same_templates_with_the_same_blanks():
    def blanks(text):
        return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)

    english, chinese = TEMPLATES["en"], TEMPLATES["zh"]
    assert english.keys() == chinese.keys()
    for key in english:
        assert blanks(english[key]) == blanks(chinese[key]), key


def test_names_from_the_data_do_nothing_on_a_screen_or_a_page(rows):
    names = np.array([f"<script>alert({item})</script>\x1b[31m\u202e{{user}}" for item in range(WORLD.items)], dtype=object)
    table = rows.with_columns({"item": Categorical(np.asarray(rows["item"]), names)})
    explainer = RecommendationExplainer(build_recommender(table, WORLD.schema, settings=RecommenderSettings(sources=(ItemKNNSource(),))))
    found = explainer.explain(4)
    for language in TEMPLATES:
        assert "\x1b" not in found.text(language)
        assert "\u202e" not in found.text(language)
        assert "<script>" in found.text(language)  # text is text; a page gets it escaped
        assert "<script>" not in found.html(language)
        assert "{user}" in found.text(language)


def test_items_are_told_by_their_names_where_there_are_some(rows):
    items = WORLD.exposures().take(np.unique(np.asarray(rows["item"]), return_index=True)[1]).select(["item"])
    items = items.with_columns({"title": Categorical(np.arange(items.rows), np.array([f"Film {item}" for item in items["item"]], dtype=object))})
    built = build_recommender(rows, WORLD.schema, items=items, settings=RecommenderSettings(sources=(ItemKNNSource(),)))
    found = RecommendationExplainer(built, item_names="title").explain(4)
    assert f"“Film {found.item}” ({found.item}) is at place 1 of 10" in found.text()
    names = found.to_mapping()["names"]
    spoken = {str(found.item), *(str(unit.value) for unit in found.counterfactual.removed), str(found.counterfactual.instead), *(str(item) for item, _ in found.evidence.shared)} - {"None"}
    assert names == {item: f"Film {item}" for item in spoken}  # and not those of the whole catalogue
    with pytest.raises(UsageError, match="no column 'name'"):
        RecommendationExplainer(built, item_names="name")


def test_what_is_drawn_is_left_out(rows):
    settings = RecommenderSettings(sources=(ItemKNNSource(),), steps=parse("already_seen, epsilon_greedy(epsilon=0.9)", STEPS, "step"))
    explainer = RecommendationExplainer(build_recommender(rows, WORLD.schema, settings=settings))
    assert [type(step).__name__ for step in explainer.recommender.settings.steps] == ["AlreadySeen"]


def test_mistakes_are_told(ranked, unranked):
    first = ranked.recommender.recommend([4], 10).ids(0)[0]
    for wrong, message in ((lambda: ranked.explain(4, "no such item"), "no item 'no such item'"), (lambda: ranked.explain(4, first, over=first), "not above itself"),
                           (lambda: ranked.explain(4).text("tlh"), "no language 'tlh'"), (lambda: ranked.contributions([1, 2], [[3]]), "1 lists of items for 2 users")):
        with pytest.raises(UsageError, match=message):
            wrong()
    with pytest.raises(Unavailable, match="no model ranks"):
        unranked.contributions([4])


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    place = tmp_path_factory.mktemp("command")
    pq.write_table(to_arrow(rows), place / "log.parquet")
    train(rows, WORLD.schema, quick(epochs=1), place / "run", reference={"kind": "file", "path": str(place / "log.parquet")})
    return place / "run"


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_explains_in_words_json_and_html(folder):
    text = call("explain", folder, "--user", 4)
    assert text.exit_code == 0, text.exception
    assert "is at place 1 of 10 on the list of user “4”." in text.stdout
    found = json.loads(call("explain", folder, "--user", 4, "--format", "json", "--lang", "zh").stdout)
    assert found["format"] == "recspect-explanation"
    assert found["rank"] == 1
    assert "排第 1 位" in found["sentences"][0]
    items = json.loads(call("recommend", folder, "--user", 4, "--k", 3).stdout)["items"]
    over = call("explain", folder, "--user", 4, "--item", items[0]["item"], "--over", items[1]["item"], "--k", 3, "--context", "surface=home", "--format", "html")
    assert over.exit_code == 0
    assert over.stdout.startswith("<ul><li>")


def test_the_command_tells_mistakes(folder):
    for words, message in ((("--user", "nobody"), "no user 'nobody'"), (("--user", 4, "--item", "x"), "no item 'x'"), (("--user", 4, "--lang", "fr"), "no language 'fr'"),
                           (("--user", 4, "--names", "title"), "no column 'title'")):
        done = call("explain", folder, *words)
        assert isinstance(done.exception, UsageError)
        assert message in str(done.exception)
