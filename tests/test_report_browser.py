"""The page in a real browser: charts appear, nothing is blocked by the page's own policy, nothing overflows."""

import json
import re
import subprocess
from dataclasses import replace
from html import unescape

import pytest

from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict
from recspect.report import html
from report_samples import evidence_of_every_kind, kuairand_like_report

pytestmark = pytest.mark.browser
PROBE = """setTimeout(() => {
  const inside = (e) => e.closest("svg, .scroll, pre, .contents ul");
  const shown = (e) => e.checkVisibility && e.checkVisibility() && e.getClientRects().length;
  const right = (e) => e.getBoundingClientRect().right;
  const all = [...document.querySelectorAll("body *")].filter(shown);
  const main = document.querySelector("main").getBoundingClientRect().right;
  parent.postMessage("facts " + JSON.stringify({
    inner: innerWidth, scroll: document.documentElement.scrollWidth, charts: document.querySelectorAll("[data-chart]").length,
    wide: all.filter((e) => !inside(e) && right(e) > innerWidth + 1).map((e) => e.tagName + "." + e.className),
    cut: all.filter((e) => e.closest("svg") && e.tagName !== "g" && right(e) > main + 1).map((e) => e.tagName + " " + e.textContent.slice(0, 40)),
    unseen: [...document.querySelectorAll("[data-chart]")].filter((e) => !e.closest("details:not([open])") && e.getBoundingClientRect().height < 30).length,
    unfolded: [...document.querySelectorAll("details:not([open]) [data-chart]")].filter((e) => shown(e) && e.getBoundingClientRect().height > 30).length,
    broken: [...document.querySelectorAll("a")].filter((e) => !e.hash || !document.getElementById(decodeURIComponent(e.hash.slice(1)))).map((e) => e.outerHTML),
    clipped: all.filter((e) => e.matches("h1, h2, h3, .claim, .lead, figcaption, td, dd") && !inside(e) && e.scrollWidth > e.clientWidth + 1).map((e) => e.className),
    unfocused: all.filter((e) => e.matches("a, summary, pre, .scroll") && e.tabIndex < 0).map((e) => e.outerHTML.slice(0, 80)),
  }) + " end", "*");}, 6000);"""
"""Measures the laid-out page from inside and tells the frame around it."""


@pytest.fixture
def browse(chromium, tmp_path):
    """The document after the scripts ran, and what the console said."""
    def run(page, *options):
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
             "--virtual-time-budget=20000", "--disable-background-networking", *options, "--dump-dom", page.as_uri()],
            capture_output=True, text=True, timeout=120, check=False)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert "<html" in done.stdout, done.stderr[-2000:]
        return done.stdout, console

    return run


@pytest.fixture
def measure(browse, tmp_path):
    """`measure(page text, width)`: facts of the layout in a frame of that width (a window of headless Chromium is at least 500 pixels wide)."""
    def run(text, width):
        before, _, after = text.rpartition("</body>")
        allowed = before.replace("script-src &#39;none&#39;", "script-src ", 1).replace("script-src ", f"script-src '{html._hash(PROBE)}' ", 1)
        (tmp_path / "inner.html").write_text(f"{allowed}<script>{PROBE}</script></body>{after}", encoding="utf-8")
        outer = tmp_path / "outer.html"
        outer.write_text(f'<body style="margin:0"><iframe src="inner.html" style="width:{width}px;height:9000px;border:0"></iframe>'
                         "<script>addEventListener('message', (e) => document.title = e.data)</script>", encoding="utf-8")
        dom, console = browse(outer, f"--window-size={max(width, 600)},9000")
        assert console == []
        return json.loads(unescape(re.search(r"<title>facts (.*) end</title>", dom, re.DOTALL)[1]))

    return run


def _hold(facts, width):
    assert facts["inner"] == width
    assert facts["scroll"] <= width
    assert {key: facts[key] for key in ("wide", "cut", "unseen", "broken", "clipped", "unfocused")} == {
        "wide": [], "cut": [], "unseen": 0, "broken": [], "clipped": [], "unfocused": []}


def test_every_chart_of_a_report_is_drawn_without_a_word_from_the_console(browse, tmp_path):
    page = html.write(kuairand_like_report(), tmp_path / "report.html")
    dom, console = browse(page, "--window-size=1280,9000")
    assert console == []
    charts = dom.count('data-chart="')
    assert charts == 14
    assert dom.count('data-drawn="yes"') == charts
    assert len(re.findall(r'<svg[^>]*class="marks"', dom)) == charts
    assert dom.count("mark-line") >= 5
    assert len(re.findall(r'<path[^>]* d="M', dom)) > 500


def test_degenerate_and_hostile_evidence_draws_without_a_word_from_the_console(browse, tmp_path):
    from test_report_charts import DEGENERATE, STRANGE_TEXT

    overview = tuple(replace(e, title=f"{e.title} </script><img src=x onerror=console.error('fired')>") for e in (*DEGENERATE.values(), *STRANGE_TEXT.values()))
    page = html.write(Report(overview=overview), tmp_path / "report.html")
    dom, console = browse(page, "--window-size=1280,20000")
    assert console == []
    assert dom.count('data-drawn="yes"') == dom.count('data-chart="') > 20
    assert "<img" not in dom[:dom.index("<script")]


LONG = "a_field_of_a_warehouse_with_a_name_that_nobody_would_read_out_loud_" * 2
AWKWARD = Report(
    title="كتاب المستخدم <b>" + LONG, overview=tuple(replace(e, stage="data") for e in evidence_of_every_kind().values()),
    provenance={"run": LONG, "command": f"recspect train {LONG} --schema {LONG}"},
    findings=(
        *(Finding(code=f"data.{LONG[:40]}", verdict=Verdict.FAIL, claim=f"שלום {LONG}: {LONG} rises.", place=Place(kind="field", name=f"{i}{LONG}"), meaning=LONG,
                  threshold=LONG, causes=(LONG,), remedies=(Remedy(code="x", text=LONG, command=LONG),),
                  estimate=Estimate(value=1.5e12, low=-3e15, high=3e15, unit=LONG, n=10**15, clusters=10**12),
                  evidence=(Bars(title=LONG, unit=LONG, names=(LONG, "b"), values=(1e15, -1e-9), caption=LONG),)) for i in range(2)),
        Finding(code="a.b", verdict=Verdict.UNKNOWN, claim=LONG, threshold=LONG, place=Place(kind="field", name=LONG)),
        Finding(code="a.c", verdict=Verdict.PASS, claim=LONG, evidence=(evidence_of_every_kind()["curve"],))))


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_nothing_is_wider_than_the_window_nothing_is_cut_and_every_link_leads_somewhere(measure, width):
    _hold(measure(html.render(kuairand_like_report()), width), width)


@pytest.mark.parametrize("width", [390, 1280])
def test_long_names_huge_numbers_and_right_to_left_text_stay_within_the_window(measure, width):
    _hold(measure(html.render(AWKWARD), width), width)


def test_without_scripts_every_chart_is_there_and_fits(measure):
    facts = measure(html.render(kuairand_like_report(), scripts=False), 390)
    _hold(facts, 390)
    assert facts["charts"] == 14
    assert facts["unfolded"] == 0


def test_the_measurement_sees_what_is_too_wide_or_leads_nowhere(measure):
    """Judging the judge: a chart that sticks out, a link to nothing, a picture that is missing."""
    text = html.render(Report(overview=(evidence_of_every_kind()["curve"], evidence_of_every_kind()["bars"])), scripts=False)
    bad = text.replace('class="still"', 'class="grown" width="1500"', 1).replace('href="#provenance"', 'href="#nowhere"', 1)
    bad = re.sub(r'<svg class="still".*?</svg>', "", bad, flags=re.DOTALL)
    bad = bad.replace(".chart svg{display:block;max-width:100%;", ".chart svg{display:block;min-width:1500px;")
    style = re.search(r"<style>(.*?)</style>", bad, re.DOTALL)[1]
    facts = measure(bad.replace(re.search(r"style-src &#39;([^&]+)&#39;", bad)[1], html._hash(style)), 390)
    assert facts["cut"]
    assert facts["broken"]
    assert facts["unseen"] == 1
    assert facts["scroll"] > 390


def test_on_paper_no_chart_is_wider_than_the_page_and_what_is_folded_is_open(measure):
    """The rules for print, laid out at the width of A4 between its margins, with the page's own marks for dark screens off."""
    text = html.render(kuairand_like_report(), scripts=False)
    paper = text.replace("@media print{", "@media screen{").replace("@media screen and (prefers-color-scheme:dark)", "@media not all")
    policy = re.search(r"style-src &#39;([^&]+)&#39;", paper)[1]
    style = re.search(r"<style>(.*?)</style>", paper, re.DOTALL)[1]
    facts = measure(paper.replace(policy, html._hash(style)), 688)
    _hold(facts | {"unfocused": []}, 688)
    assert facts["unfolded"] > 0


def test_a_report_can_be_printed(chromium, tmp_path):
    """Every chart's words reach the paper: the file has fonts, several pages, and no page is empty."""
    page, paper = html.write(kuairand_like_report(), tmp_path / "report.html"), tmp_path / "report.pdf"
    subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000",
                    "--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri()], capture_output=True, timeout=120, check=True)
    content = paper.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 5 <= pages <= 40
    assert b"/Font" in content


def test_a_notebook_frame_shows_its_charts(browse, tmp_path):
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><body>{kuairand_like_report()._repr_html_()}", encoding="utf-8")
    _, console = browse(notebook, "--window-size=1000,1200")
    assert console == []


def test_a_page_with_dark_preference_has_dark_ground_and_the_same_charts(browse, tmp_path):
    page = html.write(Report(overview=(evidence_of_every_kind()["curve"],)), tmp_path / "report.html")
    dom, console = browse(page, "--window-size=800,1500", "--blink-settings=preferredColorScheme=0")
    assert console == []
    assert 'stroke="var(--chart-target)"' in dom
