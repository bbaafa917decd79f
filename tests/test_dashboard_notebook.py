"""The dashboard's pictures in a notebook, and the widget that asks why."""

import html
import re

import pytest

pytest.importorskip("torch", reason="the extra train is not installed")

from dashboard_samples import HOSTILE
from recspect.dashboard.notebook import explain_widget, look, told
from recspect.diagnosis.evidence import Bars
from recspect.errors import UsageError
from recspect.examining.importance import importance
from recspect.examining.interactions import interactions
from recspect.examining.runs import subject_of
from recspect.report.notebook import Pictures
from recspect.training.rows import Tables
from sink_samples import small_table
from test_dashboard_explaining import explainer, run, user  # noqa: F401 - fixtures


def page_in(fragment):
    return html.unescape(re.search(r'srcdoc="([^"]*)"', fragment)[1])


def test_what_a_notebook_shows_is_drawn_without_scripts_and_escapes_what_comes_from_data():
    shown = Pictures(title=HOSTILE, pieces=(Bars(title=HOSTILE, unit=HOSTILE, names=(HOSTILE,), values=(1.0,)),), lines=(HOSTILE,))._repr_html_()
    assert shown.startswith("<iframe")
    assert 'sandbox=""' in shown
    page = page_in(shown)
    assert "<svg" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "\u202e" not in page


def test_a_look_is_the_one_of_the_dashboard(diagnosed_run):
    shown = look(diagnosed_run.folder, "embeddings", "table", field="item", near="#3")
    assert [piece.title for piece in shown.pieces][:2] == ["What does the model take for most like item " + shown.pieces[0].title.removeprefix("What does the model take for most like item "),
                                                          "How much of each table has training read?"]
    assert page_in(shown._repr_html_()).count("<svg") >= 3
    assert look(diagnosed_run.folder, "features", row="item", column="mlp.1").pieces[0].title == "Which neurons of mlp.1 carry item?"
    with pytest.raises(UsageError, match="no look"):
        look(diagnosed_run.folder, "embeddings", "nothing")
    with pytest.raises(UsageError, match="no run directory"):
        look(diagnosed_run.folder / "checkpoints", "embeddings")


def test_measures_show_their_own_pictures(diagnosed_run):
    rows = Tables.cut(small_table()[0], diagnosed_run.schema, diagnosed_run.config)
    subject = subject_of(diagnosed_run)
    for measured in (importance(subject, rows.test, diagnosed_run.schema, rows=200), interactions(subject, rows.test, diagnosed_run.schema, rows=50)):
        page = page_in(measured._repr_html_())
        assert "<svg" in page
        assert "surface" in page


def test_an_explanation_shows_its_sentences_and_bars(explainer, user):  # noqa: F811 - fixtures
    found = explainer.explain(explainer.recommender.audience.ids.values[3])
    page = page_in(found._repr_html_())
    for sentence in found.sentences():
        assert html.escape(sentence, quote=False).replace('"', "&#34;").replace("'", "&#39;") in page.replace("&quot;", "&#34;")
    assert "<svg" in page


def test_the_widget_tells_the_list_of_whom_is_asked_about_and_the_list_without_what_is_ticked(explainer, user):  # noqa: F811 - fixtures
    pytest.importorskip("anywidget", reason="the extra notebook is not installed")
    widget = explain_widget(explainer, user)
    known = explainer.recommender
    asked = known.audience.requests([known.audience.ids.values[3]])
    ids = known.answer(asked, 10, seed=explainer.seed).ids(0)
    assert re.findall(r"<li>([^<]*)</li>", widget.html.split("<iframe")[0]) == [str(item) for item in ids]
    assert widget.units
    widget.gone = [widget.units[0][0]]
    assert "Without what was taken away" in widget.html
    widget.gone = []
    widget.item = str(ids[1])
    assert f"Why {ids[1]} for user {user}?" in html.unescape(widget.html)
    widget.user = "<img src=x>"
    assert "role='alert'" in widget.html
    assert "<img" not in widget.html
    assert widget.units == []


def test_what_cannot_be_answered_is_said(explainer):  # noqa: F811 - fixture
    shown, units = told(explainer, "nobody", "", "", [], "en")
    assert "alert" in shown
    assert units == []
