"""The page in a real browser: charts appear, nothing is blocked by the page's own policy, nothing overflows."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from recspect.diagnosis.finding import Report
from recspect.report import html
from report_samples import evidence_of_every_kind, kuairand_like_report

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (found := shutil.which(name))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


def _browse(page, profile, *options):
    """The document after the scripts ran, and what the console said."""
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0",
         "--virtual-time-budget=20000", "--disable-background-networking", *options, "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert "<html" in done.stdout, done.stderr[-2000:]
    return done.stdout, console


def test_every_chart_of_a_report_is_drawn_without_a_word_from_the_console(tmp_path):
    page = html.write(kuairand_like_report(), tmp_path / "report.html")
    dom, console = _browse(page, tmp_path / "profile", "--window-size=1280,9000")
    assert console == []
    charts = dom.count('data-chart="')
    assert charts == 15
    assert dom.count('data-drawn="yes"') == charts
    assert len(re.findall(r'<svg[^>]*class="marks"', dom)) == charts
    assert dom.count("mark-line") >= 5
    assert len(re.findall(r'<path[^>]* d="M', dom)) > 500


def test_degenerate_and_hostile_evidence_draws_without_a_word_from_the_console(tmp_path):
    from test_report_charts import DEGENERATE, STRANGE_TEXT

    overview = tuple(replace(e, title=f"{e.title} </script><img src=x onerror=console.error('fired')>") for e in (*DEGENERATE.values(), *STRANGE_TEXT.values()))
    page = html.write(Report(overview=overview), tmp_path / "report.html")
    dom, console = _browse(page, tmp_path / "profile", "--window-size=1280,20000")
    assert console == []
    assert dom.count('data-drawn="yes"') == dom.count('data-chart="') > 20
    assert "<img" not in dom[:dom.index("<script")]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(tmp_path, width):
    """Measured inside the page by a probe script that the test adds (and the policy is told of)."""
    probe = ("setTimeout(() => {const wide = [...document.querySelectorAll('main *')].filter((e) => !e.closest('svg, .scroll, pre') && "
             "e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.tagName + '.' + e.className);"
             "parent.postMessage('inner ' + innerWidth + ' scroll ' + document.documentElement.scrollWidth + ' wide ' + wide.join(' ') + '.', '*');}, 6000);")
    before, _, after = html.render(kuairand_like_report()).rpartition("</body>")
    inner = tmp_path / "inner.html"
    inner.write_text(before.replace("script-src ", f"script-src '{html._hash(probe)}' ", 1) + f"<script>{probe}</script></body>" + after, encoding="utf-8")
    # A window of headless Chromium is at least 500 pixels wide; a frame can be as narrow as a telephone.
    outer = tmp_path / "outer.html"
    outer.write_text(f'<body style="margin:0"><iframe src="inner.html" style="width:{width}px;height:9000px;border:0"></iframe>'
                     "<script>addEventListener('message', (e) => document.title = e.data)</script>", encoding="utf-8")
    dom, console = _browse(outer, tmp_path / "profile", f"--window-size={max(width, 600)},9000")
    assert console == []
    inner_width, scroll_width, wide = re.search(r"<title>inner (\d+) scroll (\d+) wide (.*)\.</title>", dom).groups()
    assert int(inner_width) == width
    assert int(scroll_width) <= width
    assert wide == ""


def test_a_page_with_dark_preference_has_dark_ground_and_the_same_charts(tmp_path):
    page = html.write(Report(overview=(evidence_of_every_kind()["curve"],)), tmp_path / "report.html")
    dom, console = _browse(page, tmp_path / "profile", "--window-size=800,1500", "--blink-settings=preferredColorScheme=0")
    assert console == []
    assert 'stroke="var(--chart-target)"' in dom
