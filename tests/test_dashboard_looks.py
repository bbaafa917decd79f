"""Closer looks of the dashboard: inside embedding tables, neurons by field, slices of two fields, saved weights, and everything of one thing. Held against the model itself."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra dashboard is not installed")

from fastapi.testclient import TestClient

from dashboard_samples import HOSTILE, make_run
from recspect.dashboard.app import create_app
from recspect.dashboard.embedding_pictures import near, projection
from recspect.dashboard.embedding_rows import RESERVED, neighbours, open_tables, some_rows, tables_of
from recspect.dashboard.looking import of_pieces
from recspect.dashboard.shelf import Shelf
from recspect.dashboard.state_pictures import read_weights
from recspect.dashboard.views import Views
from recspect.diagnosis.closer import FILE, Closer, read_closer, write_closer
from recspect.diagnosis.evidence import Bars, HeatMap, RankedTable
from recspect.diagnosis.finding import Report, plain
from recspect.errors import RunError, UsageError
from recspect.examining.importance import importance
from recspect.examining.looking_closer import NEURON_ROWS, of_slices, score_distributions
from recspect.examining.runs import subject_of
from recspect.features import FeatureTransform
from recspect.models import ModelConfig, build
from recspect.training.rows import Tables
from report_samples import kuairand_like_report
from sink_samples import small_table


@pytest.fixture(scope="module")
def run(diagnosed_run):
    return diagnosed_run


@pytest.fixture(scope="module")
def rows(run):
    return Tables.cut(small_table()[0], run.schema, run.config)


@pytest.fixture
def web(run):
    return browser(run.folder)


def browser(folder, smallest=20):
    return TestClient(create_app(Views(Shelf(folder), smallest=smallest)), base_url="http://127.0.0.1", headers={"accept": "text/html"}, raise_server_exceptions=False)


def look(web, run, page, slug, **asked):
    answer = web.get(f"/runs/{run.id}/{page}/look/{slug}.json", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---------------------------------------------------------------------- inside the tables


def test_the_rows_of_every_field_are_those_that_the_model_reads_and_their_counts_those_of_the_training_rows(run, rows):
    tables, model = open_tables(run.folder), run.load_model("best")
    encoded = run.transform.transform(rows.train)
    weights = dict(model.named_parameters())
    assert set(tables.tables) == {"user", "item", "surface"}
    for table in tables.tables.values():
        at, vectors = some_rows(table, tables.states[tables.best])
        assert len(at) == table.rows
        assert np.array_equal(vectors, weights[table.parameter].detach().numpy()[table.start:table.start + table.rows])
        assert np.array_equal(table.counts, np.bincount(encoded.ids[table.field].numpy(), minlength=table.rows))
    # The first known row is the most frequent value, and is named so.
    users, n = np.unique(rows.train.categories("user").decode().astype(str), return_counts=True)
    named = tables.table("user").name(len(RESERVED), 0)
    assert n[users == named] == n.max()
    assert tables.table("user").row_of(named) == len(RESERVED)


def test_every_built_in_model_with_vectors_of_fields_has_its_tables_found(rows, run):
    import torch

    transform = FeatureTransform.load(run.folder)
    for name in ("linear", "fm", "mlp", "deepfm", "dcnv2", "dlrm"):
        with torch.device("meta"):
            model = build(ModelConfig(name=name), transform.sizes)
        found = tables_of(model, transform)
        assert set(found) == {"user", "item", "surface"}, name
        shapes = {key: tuple(value.shape) for key, value in model.named_parameters()}
        for table in found.values():
            assert shapes[table.parameter][1] == table.width
            assert table.start + table.rows <= shapes[table.parameter][0]


def test_what_lies_nearest_is_what_a_search_over_all_pairs_finds(run):
    from sklearn.metrics.pairwise import cosine_similarity

    tables = open_tables(run.folder)
    table, state = tables.table("item"), tables.states[-1]
    _, vectors = some_rows(table, state)
    alike = cosine_similarity(vectors)
    for row in (3, 4, 57):
        found, looked = neighbours(table, state, row)
        wanted = [k for k in np.argsort(-alike[row], kind="stable") if k != row and table.counts[k] > 0][:12]
        assert [at for at, _ in found] == wanted
        assert [cosine for _, cosine in found] == pytest.approx(alike[row, wanted], abs=1e-5)
        assert looked == (table.counts > 0).sum() - 1


def test_a_large_table_is_read_in_stretches(run, monkeypatch):
    import recspect.dashboard.embedding_rows as rooms

    tables = open_tables(run.folder)
    table, state = tables.table("user"), tables.states[-1]
    _, whole = some_rows(table, state)
    nearest = neighbours(table, state, 7)
    monkeypatch.setattr(rooms, "MOST_ROWS", 128)
    monkeypatch.setattr(rooms, "AT_ONCE", 100)
    at, part = some_rows(table, state)
    assert len(at) == 128
    assert at[-1] == table.rows - 1
    assert np.array_equal(part, whole[at])
    again = neighbours(table, state, 7)
    assert [k for k, _ in again[0]] == [k for k, _ in nearest[0]]
    assert [c for _, c in again[0]] == pytest.approx([c for _, c in nearest[0]])
    assert again[1] == nearest[1]


def test_a_projection_keeps_as_much_of_the_variance_as_any_plane_can(run):
    from sklearn.decomposition import PCA

    tables = open_tables(run.folder)
    table, state = replace(tables.table("item"), counts=None), tables.states[-1]
    at, vectors = some_rows(table, state)
    scatter = projection(table, at, vectors, None, state, smallest=0, by="pca")
    known = vectors[3:].astype(np.float64)
    kept = PCA(n_components=2).fit(known).explained_variance_.sum() * (len(known) - 1)
    assert len(scatter.x) == len(known)
    assert np.square(scatter.x).sum() + np.square(scatter.y).sum() == pytest.approx(kept, rel=1e-6)


def test_people_and_rare_values_are_not_named_and_items_are(run):
    tables = open_tables(run.folder)
    user, item, surface, state = tables.table("user"), tables.table("item"), tables.table("surface"), tables.states[-1]
    named = lambda table, smallest: [row[0] for row in near(table, state, 3, smallest=smallest).rows]  # noqa: E731 - short
    assert all(re.fullmatch(r"#\d+", name) for name in named(user, 20))
    assert not any(name.startswith("#") for name in named(user, 0))
    assert not any(name.startswith("#") for name in named(item, 20))
    most = int(surface.counts.max())
    assert surface.name(3, most) == str(surface.values[0])
    assert surface.name(3, most + 1) == "#3"
    shown = look(browser(run.folder), run, "embeddings", "table", field="user", near="#3")["evidence"]
    dots = next(piece for piece in shown if piece["kind"] == "scatter")
    assert all(re.fullmatch(r"#\d+", name) for name in (*dots["names"], *(row[0] for row in shown[0]["rows"])))
    assert "user=%23" not in browser(run.folder).get(f"/runs/{run.id}/embeddings/look/table?field=user&near=%233").text


def test_the_slider_shows_the_table_as_it_was_saved(web, run):
    first, last = (look(web, run, "embeddings", "table", field="item", state=k) for k in ("0", "1"))
    norms = [next(piece for piece in one["evidence"] if piece["title"].startswith("Do frequent")) for one in (first, last)]
    assert [one["caption"].split(";")[0].split(" at ")[1] for one in norms] == ["epoch 1", "epoch 2"]
    assert norms[0]["lines"][0]["y"] != norms[1]["lines"][0]["y"]
    assert look(web, run, "embeddings", "table", field="item", state="99")["asked"]["state"] == "1"


@pytest.mark.parametrize(("asked", "said"), [({"near": "nobody"}, "has no row for 'nobody'"), ({"near": "#99999"}, "has no row"), ({"field": "age"}, "has no table of ids"),
                                             ({"near": "<img src=x onerror=alert(1)>"}, "has no row")])
def test_what_is_not_there_is_said_and_the_page_stays(web, run, asked, said):
    answer = web.get(f"/runs/{run.id}/embeddings/look/table", params=asked)
    assert answer.status_code == 200
    assert said in answer.text.replace("&#39;", "'")
    assert "<img" not in answer.text


@pytest.mark.slow  # where it is installed it compiles itself
def test_umap_is_asked_for_by_name_and_named_where_it_is_not_installed(web, run):
    import importlib.util

    shown = look(web, run, "embeddings", "table", field="item", by="umap")
    if importlib.util.find_spec("umap") is None:
        assert "recspect[projection]" in shown["problem"]
        assert any(piece["kind"] == "scatter" for piece in shown["evidence"])  # by principal components instead
    else:
        assert next(piece for piece in shown["evidence"] if piece["kind"] == "scatter")["x_title"] == "UMAP 1"


def test_damaged_weights_are_named(run, tmp_path):
    import shutil

    folder = tmp_path / "bad"
    shutil.copytree(run.folder, folder)
    (folder / "checkpoints" / "epoch-002.safetensors").write_bytes(b"nothing")
    tables = open_tables(folder)
    with pytest.raises(RunError, match="epoch-002"):
        some_rows(tables.table("item"), tables.states[-1])
    with pytest.raises(UsageError):
        tables.table("nobody")
    text = browser(tmp_path).get("/runs/bad/training/look/states").text
    assert "is damaged" in text


def test_who_lacks_the_library_of_weights_is_told_which_extra_has_it(web, run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert "recspect[train]" in look(web, run, "training", "states")["problem"]


# ---------------------------------------------------------------------- neurons, pairs, slices


def test_neurons_by_field_are_those_that_importance_measures(run, rows):
    measured = importance(subject_of(run), rows.test, run.schema, baseline_rows=rows.train, rows=NEURON_ROWS, seed=run.config.seed)
    kept = {(one.row, one.column): one for one in read_closer(run.folder) if one.stage == "features" and one.kinds == ("field", "layer")}
    layers = measured.per_neuron.layers
    assert {column for _, column in kept} == {"", *layers}
    (mean, deviation) = kept["", ""].evidence
    for layer in layers:
        table = measured.neurons(layer)
        for field in mean.rows:
            own = table.filter(table["field"] == field).sort("size", descending=True)
            (bars,) = kept[field, layer].evidence
            wanted = own.head(len(bars.names))
            assert [int(name.removeprefix("neuron ")) for name in bars.names] == wanted["neuron"].to_list()
            assert bars.values == pytest.approx(wanted["mean"].to_list(), rel=1e-3)
            assert np.subtract(bars.high, bars.values) == pytest.approx(wanted["deviation"].to_numpy(), rel=5e-2, abs=1e-7)
            cell = mean.values[mean.rows.index(field)][mean.columns.index(layer)]
            assert cell == pytest.approx(own["size"].mean(), rel=1e-3)
            assert deviation.values[mean.rows.index(field)][mean.columns.index(layer)] == pytest.approx(own["size"].std(ddof=0), rel=1e-3)


def test_the_calibration_of_every_slice_is_that_of_its_rows(run, rows):
    model = subject_of(run)
    scores, labels = np.asarray(model.score(rows.test)), rows.test.numbers(run.schema.label.name)
    surface = rows.test.categories("surface").decode().astype(str)
    pieces = [one for one in read_closer(run.folder) if one.stage == "predictions"]
    table = next(piece for one in pieces if one.row == "surface" for piece in one.evidence if isinstance(piece, RankedTable))
    assert len(table.rows) == len(set(surface))
    for name, n, observed, ratio, low, high, *_ in table.rows:
        inside = surface == name.removeprefix("surface=")
        assert n == inside.sum()
        assert observed == pytest.approx(labels[inside].mean(), rel=1e-3)
        assert ratio == pytest.approx(scores[inside].sum() / labels[inside].sum(), rel=1e-3)
        assert low < ratio < high


def test_scores_of_positives_and_negatives_are_binned_as_they_are():
    (pair,) = score_distributions(np.array([0.0, 0.04, 0.5, 1.0, 0.93]), np.array([0, 0, 1, 1, 1]))
    assert pair.reference == (1.0, *[0.0] * 19)
    assert [k for k, share in enumerate(pair.target) if share] == [10, 18, 19]
    assert sum(pair.target) == pytest.approx(1, abs=1e-3)
    assert score_distributions(np.array([0.5]), np.array([1])) == ()


def test_a_place_is_found_whichever_way_round_and_what_was_not_kept_is_said(web, run):
    one = Closer(stage="predictions", row="a", column="b", kinds=("field", "field"), evidence=(HeatMap(title="t", unit="u", rows=("r",), columns=("c",), values=((1.0,),)),))
    assert of_pieces([one], {"row": "b", "column": "a"}).pictures == one.evidence
    assert of_pieces([one], {"row": "b", "column": "x"}).problem
    assert [control.name for control in of_pieces([one], {}).controls] == ["row", "column"]
    shown = look(web, run, "features", "closer", row="item", column="mlp.1")
    assert [piece["title"] for piece in shown["evidence"]] == ["Which neurons of mlp.1 carry item?"]


def test_what_is_kept_is_read_back_and_a_damaged_file_is_named_on_the_page(tmp_path):
    pieces = (Closer(stage="features", row=HOSTILE, column="l", kinds=("field", "layer"), least=3, evidence=(Bars(title=HOSTILE, unit="u", names=("a",), values=(float("nan"),)),)),)
    folder = make_run(tmp_path / "runs" / "one", kuairand_like_report())
    write_closer(folder, pieces)
    back = read_closer(folder)
    assert (back[0].row, back[0].least, back[0].kinds) == (HOSTILE, 3, ("field", "layer"))
    assert plain(back[0].evidence[0]) == plain(pieces[0].evidence[0])
    text = browser(tmp_path / "runs").get("/runs/one/features/look/closer", params={"row": "x"}).text
    assert "<img" not in text
    assert read_closer(tmp_path) == ()
    for content in ("{", "[]", '{"format": "recspect-inside", "version": 9, "pieces": []}', '{"format": "recspect-inside", "version": 1, "pieces": [{}]}'):
        (folder / FILE).write_text(content)
        with pytest.raises(RunError):
            read_closer(folder)
        web = browser(tmp_path / "runs")
        assert web.get("/runs/one/features").status_code == 200
        assert "recspect diagnose" in web.get("/runs/one/features/look/closer").text


def test_small_groups_are_not_shown_there_either(tmp_path):
    table = RankedTable(title="t", columns=("slice", "rows"), rows=(("large", 500), ("tiny", 3)))
    heat = HeatMap(title="h", unit="u", rows=("large", "tiny"), columns=("c",), values=((1.0,), (2.0,)))
    folder = make_run(tmp_path / "runs" / "one", kuairand_like_report())
    write_closer(folder, [Closer(stage="predictions", kinds=("field", "field"), least=3, evidence=(heat, table))])
    shown = browser(tmp_path / "runs").get("/runs/one/predictions/look/closer.json").json()["evidence"]
    assert [piece["kind"] for piece in shown] == ["ranked_table"]
    assert shown[0]["rows"] == [["large", 500]]
    every = browser(tmp_path / "runs", smallest=0).get("/runs/one/predictions/look/closer.json").json()["evidence"]
    assert [piece["kind"] for piece in every] == ["heat_map", "ranked_table"]


# ---------------------------------------------------------------------- saved weights


def test_weights_have_moved_as_far_as_their_files_say(web, run):
    shown = look(web, run, "training", "states", at="1")
    first, last = (dict(run.load_model(epoch).named_parameters()) for epoch in (1, 2))
    table = shown["evidence"][0]
    assert {row[0] for row in table["rows"]} == set(first)
    for name, size, _, moved, since_before, zeros in table["rows"]:
        a, b = first[name].detach().double().numpy().ravel(), last[name].detach().double().numpy().ravel()
        assert size == a.size
        assert moved == pytest.approx(np.linalg.norm(b - a) / (np.linalg.norm(a) or 1.0), rel=1e-3)
        assert since_before == moved
        assert zeros == pytest.approx((b == 0).mean(), abs=1e-4)
    assert look(web, run, "training", "states", at="0")["evidence"][0]["rows"][0][3] == 0


def test_of_a_large_weight_only_stretches_are_read(run, monkeypatch):
    import recspect.dashboard.state_pictures as rooms
    from recspect.dashboard.embedding_rows import saved_states

    monkeypatch.setattr(rooms, "MOST_NUMBERS", 512)
    state = saved_states(run.folder)[0]
    assert max(one.size for one in read_weights(state).values()) <= 512


# ---------------------------------------------------------------------- everything of one thing


def test_every_field_slice_and_layer_has_an_address_where_its_numbers_stand(web, run):
    report = Report.read(run.folder / "findings.json")
    score = next(piece for piece in report.overview if isinstance(piece, RankedTable) and piece.title == "What are the scores of each field?")
    for row in score.rows:
        page = web.get(f"/runs/{run.id}/about", params={"kind": "field", "name": row[0]})
        assert page.status_code == 200
        twin = web.get(f"/runs/{run.id}/about.json", params={"kind": "field", "name": row[0]}).json()
        lines = [line for line in twin["overview"][0]["rows"] if line[0] == score.title]
        assert [(line[1], line[2]) for line in lines] == [(column, cell) for column, cell in zip(score.columns[1:], row[1:], strict=True) if cell is not None]
    assert "Which neurons of mlp.1 carry item?" in web.get(f"/runs/{run.id}/about?kind=layer&name=mlp.1").text
    assert web.get(f"/runs/{run.id}/about?kind=slice&name=surface%3Dhome").status_code in (200, 404)
    text = web.get(f"/runs/{run.id}/features").text
    links = {link.replace("&amp;", "&") for link in re.findall(rf'href="(/runs/{run.id}/about[^"]*)"', text)}
    assert len(links) >= 4
    for link in links:
        assert web.get(link).status_code == 200, link


def test_questions_that_cannot_be_answered_are_refused(web, run):
    base = f"/runs/{run.id}"
    assert web.get(f"{base}/about?kind=field&name=nobody").status_code == 404
    assert web.get(f"{base}/about?kind=field").status_code == 422
    assert web.get(f"{base}/about", params={"kind": "field", "name": "x" * 300}).status_code == 422
    assert web.get(f"{base}/embeddings/look/table", params={"near": "x" * 300}).status_code == 422
    assert web.get(f"{base}/embeddings/look/nothing").status_code == 404
    assert web.get(f"{base}/nothing/look/table").status_code == 404
    assert web.get("/runs/nobody/embeddings/look/table").status_code == 404


def test_what_somebody_chose_has_an_address_that_can_be_shared(web, run):
    answer = web.get(f"/runs/{run.id}/embeddings/look/table?field=item&state=0", headers={"hx-trigger": "ask-table"})
    shared = answer.headers["HX-Replace-Url"]
    assert shared.startswith(f"/runs/{run.id}/embeddings?field=item&state=0")
    assert shared.endswith("#look-table")
    page = web.get(shared).text
    assert f"/runs/{run.id}/embeddings/look/table?field=item&amp;state=0" in page
    assert "HX-Replace-Url" not in web.get(f"/runs/{run.id}/embeddings/look/table").headers
    assert json.loads(re.search(r'class="drawing">(.*?)</script>', answer.text, re.DOTALL)[1])["specs"]


def test_a_slice_of_one_user_is_left_out_as_nothing_says_how_others_would_fare(run, rows):
    held_out = rows.test
    users = held_out.categories("user").decode().astype(str)
    (own,) = np.nonzero(users == users[0])
    many = held_out.take(np.concatenate([np.arange(held_out.rows), np.repeat(own, 600 // len(own) + 1)]))
    surfaces = many.categories("surface").decode().astype(object)
    surfaces[held_out.rows:] = "of one user alone"
    labels = many.numbers(run.schema.label.name).copy()
    labels[held_out.rows::2], labels[held_out.rows + 1::2] = 0, 1
    found = of_slices(subject_of(run), many.with_columns({"surface": surfaces, run.schema.label.name: labels}), run.schema)
    text = json.dumps([plain(piece) for closer in found for piece in closer.evidence])
    assert "surface=" in text
    assert "of one user alone" not in text
