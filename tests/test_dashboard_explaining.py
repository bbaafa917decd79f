"""The page that says why: what it shows is what the explainer says, and a list without some of what the user did is the recommender's own."""

import html
import re
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra dashboard is not installed")
pytest.importorskip("torch", reason="the extra train is not installed")

from fastapi.testclient import TestClient

from recspect.dashboard.app import create_app
from recspect.dashboard.explaining import Explainers, explained
from recspect.dashboard.shelf import Shelf
from recspect.dashboard.views import Views
from recspect.errors import RunError, UsageError
from recspect.explaining.counterfactual import Removable
from recspect.explaining.explainer import RecommendationExplainer
from recspect.models import ModelConfig
from recspect.recommending.pipeline import RecommenderSettings, build_recommender
from recspect.recommending.pipeline.sources_plain import ItemKNNSource, PopularSource
from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from recspect.worlds import World, split_by_time

WORLD = World(users=120, items=80, rows=5000, signal=3.0, popularity=0.3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = TrainingConfig(model=ModelConfig(name="deepfm", hidden=(8,)), maximum_epochs=2, observe_every=0, histograms_every=0)
    return train(split_by_time(WORLD.exposures())[0], WORLD.schema, config, tmp_path_factory.mktemp("runs") / "world")


@pytest.fixture(scope="module")
def explainer(run):
    rows = split_by_time(WORLD.exposures())[0]
    return RecommendationExplainer(build_recommender(rows, run=run, settings=RecommenderSettings(sources=(ItemKNNSource(), PopularSource()))))


@pytest.fixture(scope="module")
def user(explainer):
    return str(explainer.recommender.audience.ids.values[3])


def browser(run, open_run):
    web = TestClient(create_app(Views(Shelf(run.folder.parent), explainers=Explainers(open_run))), base_url="http://127.0.0.1", headers={"accept": "text/html"})
    web.at = f"/runs/{run.id}/explain"
    return web


def until_read(web):
    for _ in range(200):
        if "HX-Refresh" in web.get(f"{web.at}/state").headers:
            return web
        time.sleep(0.05)
    pytest.fail("it was never read")


@pytest.fixture
def web(run, explainer):
    return until_read(browser(run, lambda folder, say: explainer))


def test_the_page_tells_what_is_being_read_and_then_whom_one_could_ask_about(run, explainer):
    import threading

    go_on = threading.Event()

    def slowly(folder, say):
        assert folder == run.folder
        say("source <two_tower>")
        go_on.wait(timeout=30)
        return explainer

    web = browser(run, slowly)
    assert "Reading the run" in web.get(web.at).text
    while "two_tower" not in (said := web.get(f"{web.at}/state")).text:
        time.sleep(0.02)
    assert "&lt;two_tower&gt;" in said.text
    assert "HX-Refresh" not in said.headers
    assert web.get(f"{web.at}.json?user=1").status_code == 202
    go_on.set()
    page = until_read(web).get(web.at).text
    asked = re.findall(r'href="[^"]*\?user=([^"]+)"', page)
    assert set(asked) <= {str(value) for value in explainer.recommender.audience.ids.values}
    assert len(asked) == 8


def test_what_cannot_be_read_is_told_with_what_to_do(run):
    def fails(folder, say):
        raise RunError("the data <are> gone", hint="bring them back")

    web = until_read(browser(run, fails))
    assert "the data &lt;are&gt; gone bring them back" in web.get(web.at).text
    assert web.get(f"{web.at}.json?user=1").status_code == 503


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_sentences_and_the_json_are_the_explainers(web, explainer, user, language):
    said = explainer.explain(explainer.recommender.audience.ids.values[3])
    page = html.unescape(web.get(web.at, params={"user": user, "lang": language}).text)
    for sentence in said.sentences(language):
        assert sentence in page
    assert web.get(f"{web.at}.json", params={"user": user, "lang": language}).json() == said.to_mapping(language)


def test_bars_hold_the_largest_contributions_with_their_signs(explainer, user):
    shown = explained(explainer, user)
    bars = shown["pictures"][0]
    reasons = shown["explanation"].reasons
    assert sorted(bars.values, key=abs, reverse=True) == list(bars.values)
    assert set(bars.values) <= {part.contribution for part in reasons.parts}
    assert sum(part.contribution for part in reasons.parts) == pytest.approx(reasons.score - reasons.baseline, abs=reasons.bound + 1e-6)


def test_the_list_without_some_actions_is_the_recommenders_own_and_moves_are_counted(web, explainer, user):
    known = explainer.recommender
    requests = known.audience.requests([known.audience.ids.values[3]])
    units = Removable.of(known, requests)
    gone = [k for k, unit in enumerate(units.units) if unit.kind == "action"][:5]
    assert gone
    mask = np.zeros((1, len(units.units)), dtype=bool)
    mask[0, gone] = True
    expected = known.answer(units.without(mask), 10, seed=explainer.seed)
    before = known.answer(requests, 10, seed=explainer.seed).ids(0)
    shown = explained(explainer, user, gone=gone)
    assert [place.item for place in shown["after"]] == [str(item) for item in expected.ids(0)]
    assert [place.item for place in shown["places"]] == [str(item) for item in before]
    for place in shown["after"]:
        was = [str(item) for item in before].index(place.item) + 1 if place.item in map(str, before) else None
        assert place.moved == (None if was is None else was - place.rank)
    assert any(place.moved != 0 for place in shown["after"])
    page = web.get(web.at, params={"user": user, "gone": gone}).text
    assert page.count("checked") == len(gone)
    assert "Without what was taken away" in page


def test_one_above_another_is_compared_and_linked(web, explainer, user):
    places = explained(explainer, user)["places"]
    page = web.get(web.at, params={"user": user, "item": places[0].item, "over": places[1].item}).text
    assert "What puts the one above the other?" in page
    assert f"over={places[2].item}" in page


@pytest.mark.parametrize(("asked", "said"), [
    ({"user": "nobody<b>"}, "nobody&lt;b&gt;"), ({"user": None, "item": "nothing<i>"}, "nothing&lt;i&gt;"), ({"user": None, "gone": ["9999"]}, "9999")])
def test_whom_and_what_nobody_knows_is_said_on_the_page(web, user, asked, said):
    answer = web.get(web.at, params={key: user if value is None else value for key, value in asked.items()})
    assert answer.status_code == 200
    assert said in re.search(r'role="alert"[^>]*>(.*?)</p>', answer.text, re.DOTALL)[1]
    assert "<b>" not in answer.text


def test_a_number_that_is_none_of_the_users_is_refused(explainer, user):
    with pytest.raises(UsageError, match="nothing number -1"):
        explained(explainer, user, gone=[-1])


def test_only_trainings_of_ours_with_a_finished_epoch_are_asked(tmp_path):
    from dashboard_samples import make_run

    make_run(tmp_path / "runs" / "begun", epochs=0)
    web = TestClient(create_app(Views(Shelf(tmp_path / "runs"))), base_url="http://127.0.0.1")
    assert web.get("/runs/begun/explain").status_code == 404


def test_two_runs_are_held_and_the_third_takes_the_place_of_the_oldest(tmp_path):
    read = []
    explainers = Explainers(lambda folder, say: read.append(folder.name))
    for name in ("a", "b", "a", "c", "b", "a"):
        explainers.state(tmp_path / name)
        while explainers.state(tmp_path / name).doing:
            time.sleep(0.01)
    assert read == ["a", "b", "c", "b", "a"]


HOSTILE_TITLE = "<img src=x onerror=alert(1)>\"'&\u202egnp.exe" + "\u05e9\u05dc\u05d5\u05dd" + "x" * 10_000


def test_titles_stand_for_items_and_for_nothing_else_of_the_same_number(run, explainer, user):
    """A field of users may hold the same numbers; what a hostile title says is text."""
    items = explainer.recommender.items.ids.values.tolist()
    titled = RecommendationExplainer(explainer.recommender, item_names={item: f"Film {item} {HOSTILE_TITLE}" for item in items})
    shown = explained(titled, user)
    assert all(place.name.startswith(f"Film {place.item} <img") for place in shown["places"])
    assert all(value.startswith("Film ") for _, kind, _, value in shown["units"] if kind == "action")
    assert not any("Film" in value for _, kind, _, value in shown["units"] if kind != "action")
    bars = shown["pictures"][0]
    assert [name.startswith("item = Film ") for name in bars.names] == [name.startswith("item = ") for name in bars.names]
    web = until_read(browser(run, lambda folder, say: titled))
    text = web.get(web.at, params={"user": user}).text
    assert "Film " in text
    assert "<img" not in text
    assert "\u202e" not in text
    assert len(text) < 300_000


def test_titles_are_read_from_the_table_that_the_run_was_trained_on(run, explainer, tmp_path):
    import json
    import shutil

    import polars as pl

    from recspect.dashboard.item_titles import titles_of

    assert titles_of(explainer.recommender, run.folder) == {}  # trained on data in memory
    items = explainer.recommender.items.ids.values.tolist()
    table = pl.DataFrame({"item": [*items, items[0]], "title": [*(f"Film {item}" for item in items), "another"]})
    table.write_parquet(tmp_path / "table.parquet")
    shutil.copytree(run.folder, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"data": {"kind": "file", "path": str(tmp_path / "table.parquet")}}))
    assert titles_of(explainer.recommender, tmp_path / "run") == {item: f"Film {item}" for item in items}
