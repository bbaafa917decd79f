"""Charts: valid against Altair's schema, drawable, bounded, honest about what is left out; also on degenerate evidence."""

import json
import math
from dataclasses import replace
from xml.etree import ElementTree as ET

import altair as alt
import numpy as np
import pytest
import vl_convert
from hypothesis import given, settings
from hypothesis import strategies as st

from recspect.diagnosis.evidence import (
    EVIDENCE_KINDS,
    Bars,
    Curve,
    DistributionPair,
    HeatMap,
    Line,
    RankedTable,
    Reasons,
    Scatter,
    StageGraph,
)
from recspect.report import bounds, charts
from recspect.report.bounds import bounded
from recspect.report.chapters import stage_of
from recspect.report.palette import DARK, LIGHT, as_variables, hues
from recspect.report.stills import still
from recspect.report.tables import table
from report_samples import evidence_of_every_kind, kuairand_like_report

ORDINARY = {name: e for name, e in evidence_of_every_kind().items() if not name.startswith("_")}
NAN, INF = math.nan, math.inf
STRANGE = "\x00\x1b[31m<b>'\"\\{{datum.x}} 日本語 \u202e \ud800" + "w" * 300


def _curve(*lines, **settings_):
    return Curve(title="c", x_title="x", y_title="y", lines=lines, **settings_)


DEGENERATE = {
    "curve without lines": _curve(),
    "curve without points": _curve(Line(name="a", x=(), y=())),
    "curve of one point": _curve(Line(name="a", x=(1.0,), y=(2.0,))),
    "curve of one point with a band": _curve(Line(name="a", x=(1.0,), y=(0.0,), low=(0.0,), high=(0.0,))),
    "curve of NaN": _curve(Line(name="a", x=(1.0, 2.0), y=(NAN, NAN))),
    "curve with gaps and infinities": _curve(Line(name="a", x=(1.0, 2.0, NAN, 4.0, INF), y=(1.0, NAN, 3.0, INF, 2.0), low=(NAN,), high=(INF,))),
    "curve of unequal lengths": _curve(Line(name="a", x=(1.0, 2.0, 3.0), y=(1.0,)), Line(name="b", x=(), y=(1.0,))),
    "curve on log axes with zero": _curve(Line(name="a", x=(0.0, -1.0, 10.0, 100.0), y=(1.0, 2.0, 0.0, 5.0)), log_x=True, log_y=True),
    "curve on log axes, all negative": _curve(Line(name="a", x=(-1.0,), y=(-1.0,)), log_x=True, log_y=True),
    "curve of huge numbers": _curve(Line(name="a", x=(0.0, 1e99), y=(-1e99, 1e99))),
    "curve of numbers beyond any axis": _curve(Line(name="a", x=(0.0, 1.0), y=(-1e300, 1e300))),
    "curve with strange marks": _curve(Line(name="a", x=(0.0, 1.0), y=(0.0, 1.0), role="nonsense"), marks=((NAN, "never"), (0.5, STRANGE), (99.0, "outside"))),
    "bars without bars": Bars(title="b", unit="u", names=(), values=()),
    "bars of NaN": Bars(title="b", unit="u", names=("a",), values=(NAN,)),
    "one bar of zero": Bars(title="b", unit="u", names=("a",), values=(0.0,)),
    "negative bars": Bars(title="b", unit="u", names=("a", "b"), values=(-1.0, -3.0), low=(-2.0, -INF), high=(0.5, NAN)),
    "bars of one name": Bars(title="b", unit="u", names=("a",) * 3, values=(1.0, NAN, INF), reference=1.0),
    "bars with groups and a reference": Bars(title="b", unit="u", names=("a", "a", "b"), values=(1.0, 2.0, 3.0), group=("p", "q", "p"), reference=NAN),
    "dots with groups": Bars(title="b", unit="u", names=("a", "a", "b"), values=(1.0, 2.0, 3.0), group=("p", "q", "p"), reference=1.0),
    "bars of eight groups": Bars(title="b", unit="u", names=("a",) * 8, values=(1.0,) * 8, group=tuple("pqrstuvw")),
    "bars of unequal lengths": Bars(title="b", unit="u", names=("a", "b"), values=(1.0,), low=(0.5,), high=(1.5, 2.0), group=("p",)),
    "heat map without cells": HeatMap(title="h", unit="u", rows=(), columns=(), values=()),
    "heat map of NaN": HeatMap(title="h", unit="u", rows=("a",), columns=("b",), values=((NAN,),)),
    "heat map of one value": HeatMap(title="h", unit="", rows=("a",), columns=("b",), values=((3.0,),)),
    "heat map of zeros, diverging": HeatMap(title="h", unit="u", rows=("a", "a"), columns=("b", "b"), values=((0.0, 0.0), (0.0, INF)), diverging=True),
    "ragged heat map": HeatMap(title="h", unit="u", rows=("a", "b", "c"), columns=("d", "e"), values=((1.0,), (1.0, 2.0, 3.0))),
    "distributions without bins": DistributionPair(title="d", x_title="x", bins=(), target=(), reference=()),
    "distributions of one bin": DistributionPair(title="d", x_title="", bins=("a",), target=(1.0,), reference=(NAN,), target_name="same", reference_name="same"),
    "distributions of unequal lengths": DistributionPair(title="d", x_title="x", bins=("a", "a", "b"), target=(1.0,), reference=(0.5, INF, 0.5, 9.0)),
    "scatter without points": Scatter(title="s", x_title="x", y_title="y", x=(), y=()),
    "scatter of one point": Scatter(title="s", x_title="x", y_title="y", x=(1.0,), y=(1.0,), names=("a",)),
    "scatter with infinities": Scatter(title="s", x_title="x", y_title="y", x=(1.0, NAN, INF), y=(1.0, 2.0, 3.0), names=("a",)),
    "scatter on log axes": Scatter(title="s", x_title="x", y_title="y", x=(0.0, 1.0, 10.0), y=(1.0, -1.0, 10.0), log_x=True, log_y=True),
    "table without rows": RankedTable(title="t", columns=("a",), rows=()),
    "table without columns": RankedTable(title="t", columns=(), rows=((),)),
    "ragged table": RankedTable(title="t", columns=("a", "b"), rows=((1,), (1, 2, 3), (None, NAN), ("x", INF), (True, 10**30))),
    "no reasons": Reasons(title="r", items=()),
    "an empty reason": Reasons(title="r", items=("",)),
    "graph without nodes": StageGraph(title="g", nodes=()),
    "graph without edges": StageGraph(title="g", nodes=(("a", 0.0), ("b", NAN))),
    "graph with a circle": StageGraph(title="g", nodes=(("a", 3.0), ("b", 3.0)), edges=(("a", "b", 3.0), ("b", "a", 1.0), ("a", "a", 1.0), ("a", "gone", 2.0))),
    "graph with a name twice": StageGraph(title="g", nodes=(("a", 3.0), ("a", 5.0), ("b", -1.0)), edges=(("a", "b", INF),)),
}
STRANGE_TEXT = {
    "curve": _curve(Line(name=STRANGE, x=(1.0, 2.0), y=(1.0, 2.0))), "bars": Bars(title=STRANGE, unit=STRANGE, names=(STRANGE, STRANGE), values=(1.0, 2.0), highlighted=(STRANGE,)),
    "heat map": HeatMap(title=STRANGE, unit=STRANGE, rows=(STRANGE,), columns=(STRANGE,), values=((1.0,),), row_title=STRANGE, column_title=STRANGE),
    "pair": DistributionPair(title=STRANGE, x_title=STRANGE, bins=(STRANGE, "b"), target=(0.5, 0.5), reference=(0.5, 0.5), target_name=STRANGE, reference_name=STRANGE),
    "scatter": Scatter(title=STRANGE, x_title=STRANGE, y_title=STRANGE, x=(1.0, 2.0), y=(1.0, 3.0), names=(STRANGE, STRANGE)),
    "table": RankedTable(title=STRANGE, columns=(STRANGE,), rows=((STRANGE,),)), "reasons": Reasons(title=STRANGE, items=(STRANGE,)),
    "graph": StageGraph(title=STRANGE, nodes=((STRANGE, 1.0), ("b", 1.0)), edges=((STRANGE, "b", 1.0),)),
}
EVERYTHING = ORDINARY | DEGENERATE | {f"strange {name}": e for name, e in STRANGE_TEXT.items()}


def _svg(spec):
    return vl_convert.vegalite_to_svg(spec)


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_chart_is_valid_and_can_be_drawn(name):
    spec = charts.spec(EVERYTHING[name])
    alt.Chart.from_dict(spec)  # validates
    json.dumps(spec, allow_nan=False)
    svg = _svg(spec)
    assert svg.startswith("<svg")
    assert "NaN" not in svg
    assert "undefined" not in svg


def test_ordinary_evidence_draws_its_marks():
    marks = {"curve": "mark-line", "bars": "mark-rect", "heat_map": "mark-rect", "distribution_pair": "mark-rect", "scatter": "mark-symbol",
             "ranked_table": "mark-text", "reasons": "mark-text", "stage_graph": "mark-area"}
    assert set(marks) == set(EVIDENCE_KINDS) == set(ORDINARY)
    for kind, mark in marks.items():
        assert mark in _svg(charts.spec(ORDINARY[kind])), kind


@pytest.mark.parametrize("name", [name for name, e in DEGENERATE.items() if charts.is_empty(e)])
def test_a_chart_of_nothing_says_so(name):
    assert "Nothing was measured here." in _svg(charts.spec(DEGENERATE[name]))


def test_what_counts_as_nothing():
    empty = {name for name, e in DEGENERATE.items() if charts.is_empty(e)}
    assert empty == {
        "curve without lines", "curve without points", "curve of NaN", "curve of numbers beyond any axis", "curve on log axes, all negative", "bars without bars", "bars of NaN",
        "heat map without cells", "heat map of NaN", "distributions without bins", "scatter without points", "table without rows",
        "table without columns", "no reasons", "graph without nodes"}


def test_altair_users_get_an_altair_chart():
    chart = charts.altair_chart(ORDINARY["curve"])
    assert isinstance(chart, alt.LayerChart)


def test_something_else_than_evidence_is_refused():
    with pytest.raises(TypeError, match="no kind of evidence"):
        charts.spec(object())


# ---------------------------------------------------------------------- what the eye is told


def _points(spec, key):
    found = []
    for part in [spec, *spec.get("layer", [])]:
        found += [row[key] for row in part.get("data", {}).get("values", []) if key in row]
    return found


def test_hues_are_the_same_for_the_same_thing_everywhere():
    assert (LIGHT.target, LIGHT.reference, LIGHT.fault) == ("#0072B2", "#999999", "#D55E00")
    lines = tuple(Line(name=role, x=(0.0, 1.0), y=(0.0, 1.0), role=role) for role in ("target", "reference", "fault"))
    spec = charts.spec(_curve(*lines))
    line = next(part for part in spec["layer"] if part["mark"]["type"] == "line")
    assert line["encoding"]["color"]["scale"]["range"] == [LIGHT.target, LIGHT.reference, LIGHT.fault]
    pair = charts.spec(ORDINARY["distribution_pair"])
    assert pair["layer"][0]["encoding"]["color"]["scale"]["range"] == [LIGHT.target, LIGHT.reference]


def test_lines_of_one_role_differ_by_more_than_colour():
    lines = tuple(Line(name=str(k), x=(0.0, 1.0), y=(0.0, float(k))) for k in range(12))
    spec = charts.spec(_curve(*lines))
    line = next(part for part in spec["layer"] if part["mark"]["type"] == "line")
    looks = list(zip(line["encoding"]["color"]["scale"]["range"], map(tuple, line["encoding"]["strokeDash"]["scale"]["range"]), strict=True))
    assert len(set(looks)) == 12


def test_labels_of_lines_never_lie_on_each_other():
    lines = tuple(Line(name=str(k), x=(0.0, 1.0), y=(0.0, 1.0 + k * 1e-6)) for k in range(12))
    spec = charts.spec(_curve(*lines))
    low, high = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    named = next(part for part in spec["layer"] if part["mark"]["type"] == "text")["data"]["values"]
    pixels = sorted(spec["height"] * (high - row["at"]) / (high - low) for row in named)
    assert min(np.diff(pixels)) > 13
    assert pixels[0] >= -1
    assert pixels[-1] <= spec["height"] + 1


def test_bars_start_at_zero_and_dots_need_not():
    bar = charts.spec(Bars(title="b", unit="u", names=("a", "b"), values=(10.0, 11.0)))
    assert bar["layer"][0]["encoding"]["x"]["scale"]["domain"][0] == 0.0
    dot = charts.spec(Bars(title="b", unit="u", names=("a", "b"), values=(10.0, 11.0), reference=10.5))
    domain = next(part for part in dot["layer"] if part["mark"]["type"] == "point")["encoding"]["x"]["scale"]["domain"]
    assert 9 < domain[0] < 10
    assert 11 < domain[1] < 12


def test_highlighted_bars_carry_a_sign_besides_the_colour():
    spec = charts.spec(Bars(title="b", unit="u", names=("a", "b"), values=(1.0, 2.0), highlighted=("b",)))
    assert [row["text"] for row in spec["data"]["values"]] == ["1", "2 ←"]


def test_axes_are_named_with_units():
    spec = charts.spec(ORDINARY["curve"])
    line = next(part for part in spec["layer"] if part["mark"]["type"] == "line")
    assert line["encoding"]["x"]["title"] == "step"
    assert line["encoding"]["y"]["title"] == "log loss (nats)"


def test_title_and_caption_are_text_of_the_chart_or_left_to_the_page():
    spec = charts.spec(ORDINARY["heat_map"])
    assert spec["title"]["text"] == ["In which layers are units dead?"]
    assert "8,192 held-out rows" in " ".join(spec["title"]["subtitle"])
    assert "title" not in charts.spec(ORDINARY["heat_map"], title=False)


@pytest.mark.parametrize("kind", ORDINARY)
def test_dark_uses_only_dark_colours_and_variables_no_fixed_ones(kind):
    dark = json.dumps(charts.spec(ORDINARY[kind], palette=DARK))
    assert LIGHT.ink not in dark
    assert LIGHT.target not in dark
    text = json.dumps(charts.spec(ORDINARY[kind], palette=as_variables()))
    assert "#" not in text


def test_strings_of_data_never_stand_in_expressions():
    for evidence in STRANGE_TEXT.values():
        def visit(node, key=""):
            if isinstance(node, dict):
                for name, value in node.items():
                    visit(value, name)
            elif isinstance(node, list):
                for value in node:
                    visit(value, key)
            elif isinstance(node, str) and key in ("filter", "expr", "field", "calculate", "test", "labelExpr", "href", "url", "signal"):
                assert "w" * 10 not in node
        visit(charts.spec(evidence))


# ---------------------------------------------------------------------- bounds


def test_long_curves_are_thinned_to_500_points_and_keep_their_spikes():
    n = 100_000
    y = np.sin(np.arange(n) / 1000)
    y[54_321], y[77_777] = 50.0, -50.0
    small, note = bounded(_curve(Line(name="a", x=tuple(range(n)), y=tuple(y))))
    line = small.lines[0]
    assert len(line.x) <= 500
    assert max(line.y) == 50.0
    assert min(line.y) == -50.0
    assert (line.x[0], line.x[-1]) == (0, n - 1)
    assert list(line.x) == sorted(line.x)
    assert "100,000 points thinned to 500" in note


@pytest.mark.parametrize(("evidence", "field", "limit", "note"), [
    (RankedTable(title="t", columns=("a",), rows=tuple((i,) for i in range(1000))), "rows", 200, "… 800 more"),
    (Bars(title="b", unit="u", names=tuple(map(str, range(100))), values=(1.0,) * 100), "names", bounds.MAX_BARS, "… 60 more"),
    (Scatter(title="s", x_title="x", y_title="y", x=tuple(range(5000)), y=tuple(range(5000))), "x", bounds.MAX_DOTS, "… 4,000 more"),
    (Reasons(title="r", items=("x",) * 80), "items", bounds.MAX_REASONS, "… 30 more"),
    (StageGraph(title="g", nodes=tuple((str(i), 1.0) for i in range(50))), "nodes", bounds.MAX_NODES, "… 10 more"),
    (HeatMap(title="h", unit="u", rows=tuple(map(str, range(90))), columns=("a",), values=((1.0,),) * 90), "rows", bounds.MAX_CELLS, "… 30 more"),
    (_curve(*(Line(name=str(i), x=(1.0,), y=(1.0,)) for i in range(30))), "lines", bounds.MAX_LINES, "… 18 more"),
])
def test_long_evidence_is_cut_and_the_rest_counted(evidence, field, limit, note):
    small, said = bounded(evidence)
    assert len(getattr(small, field)) == limit
    assert note in said
    assert len(json.dumps(charts.spec(evidence))) < 300_000


def test_many_bins_are_merged_and_their_shares_kept():
    pair = DistributionPair(title="d", x_title="x", bins=tuple(map(str, range(1000))), target=(0.001,) * 1000, reference=(0.001,) * 999 + (NAN,))
    small, note = bounded(pair)
    assert len(small.bins) <= bounds.MAX_BINS
    assert sum(small.target) == pytest.approx(1.0)
    assert sum(small.reference) == pytest.approx(0.999)
    assert "1,000 bins" in note


def test_values_without_a_place_on_a_log_axis_are_counted():
    _, note = bounded(DEGENERATE["curve on log axes with zero"])
    assert "1 values of zero or less" in note


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True, allow_infinity=True)), max_size=40),
       st.booleans(), st.booleans())
def test_any_curve_gives_finite_json(points, log_x, log_y):
    x, y = tuple(p[0] for p in points), tuple(p[1] for p in points)
    spec = charts.spec(_curve(Line(name="a", x=x, y=y, low=y, high=y), log_x=log_x, log_y=log_y))
    json.dumps(spec, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30), st.one_of(st.none(), st.floats(allow_nan=True)))
def test_any_bars_give_finite_json(values, reference):
    names = tuple(str(i % 7) for i in range(len(values)))
    spec = charts.spec(Bars(title="b", unit="u", names=names, values=tuple(values), low=tuple(values), high=tuple(values), reference=reference))
    json.dumps(spec, allow_nan=False)


# ---------------------------------------------------------------------- text alternatives and chapters


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_piece_of_evidence_has_a_table_of_its_numbers(name):
    content = table(EVERYTHING[name])
    assert len(content.numeric) == len(content.columns)
    assert all(len(row) == len(content.columns) for row in content.rows)
    assert len(content.rows) <= 40


def test_the_table_of_a_curve_has_the_ends_and_says_what_is_missing():
    content = table(ORDINARY["curve"], limit=20)
    rows = [row for row in content.rows if row[0] == "batch"]
    assert (rows[0][1], rows[-1][1]) == ("0", "4,198")
    assert "2,100 points thinned" in content.note


def test_overview_evidence_finds_its_chapter():
    stages = [stage_of(e) for e in kuairand_like_report().overview]
    assert stages == ["data", "features", "features", "training", "embeddings", "predictions", "predictions", "predictions", "recommendations"]
    assert stage_of(replace(ORDINARY["reasons"], title="?")) == "run"


# ---------------------------------------------------------------------- stills


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_still_is_a_well_formed_element_of_known_parts(name):
    svg = still(charts.spec(EVERYTHING[name], palette=as_variables(), width="container", title=False), prefix="a-")
    root = ET.fromstring(svg)
    assert root.get("width") == "560"
    assert {element.tag for element in root.iter()} <= {"svg", "g", "path", "text", "tspan", "line", "rect", "circle", "defs", "clipPath"}
    assert not {key for element in root.iter() for key in element.attrib if key.startswith(("on", "style", "href", "aria-label", "{"))}
    assert "NaN" not in svg
    assert len(svg) < 250_000


def test_a_still_shows_what_the_library_draws():
    spec = charts.spec(ORDINARY["bars"], palette=LIGHT, title=False, width=560)
    drawn, kept = (ET.fromstring(svg) for svg in (_svg(spec), still(spec, prefix="a-")))
    words = [["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")] for root in (drawn, kept)]
    assert [word for word in words[0] if word] == words[1]
    hot = [sum(e.get("fill") == LIGHT.target for e in root.iter()) for root in (drawn, kept)]
    assert hot[0] == hot[1] > 0


def test_series_that_others_are_held_against_are_grey():
    assert hues(["train", "held-out"], LIGHT) == [LIGHT.reference, LIGHT.target]
    assert hues(["usefulness", "reliance"], LIGHT) == [LIGHT.target, LIGHT.others[0]]
    assert hues(["train"], LIGHT) == [LIGHT.target]
    assert len(hues([str(i) for i in range(9)], LIGHT)) == 9


def test_numbers_written_out_are_read_as_numbers():
    content = table(RankedTable(title="t", columns=("a", "b", "c", "d"), rows=(("x", "5.7%", "0.1 to 0.2", "1,000"), ("y", "", "-0.3 to 1", None))))
    assert content.numeric == (False, True, True, True)
