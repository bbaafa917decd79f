"""The page: one file, nothing from elsewhere, everything of data escaped, readable without seeing the charts."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from recspect.diagnosis.evidence import EVIDENCE_KINDS
from recspect.diagnosis.finding import Finding, Place, Remedy, Report, Verdict
from recspect.errors import UsageError
from recspect.report import html
from report_samples import evidence_of_every_kind, kuairand_like_report

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements with attributes, visible text, and the content of scripts and styles."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.raw, self.open, self.problems = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.raw[-1][2].append(data)
        else:
            self.text.append(data)

    def handle_comment(self, data):
        self.problems.append(f"comment {data[:40]}")

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join("".join(self.text).split())

    def content(self, tag):
        return ["".join(parts) for name, _, parts in self.raw if name == tag]


@pytest.fixture(scope="module")
def page():
    return Page(html.render(kuairand_like_report()))


# ---------------------------------------------------------------------- structure


def test_the_page_is_well_formed(page):
    assert page.problems == []
    assert page.open == []
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.named("a")} <= {f"#{i}" for i in ids}
    assert {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a} <= set(ids)


def test_the_verdict_comes_first_then_findings_passed_unknown_chapters_provenance(page):
    words = page.words
    order = ["Not healthy: 'video_click_rate' tells the answer.", "What is wrong", "Target leak in 2 fields", "The model memorises users after the first pass",
             "Held-out videos are older", "What passed", "What could not be answered", "Where do rows get lost", "Which fields does the model use",
             "How does the loss fall", "How many directions do the embeddings use", "Is the model better than simple baselines",
             "How much of the exposure goes to how many videos", "Command to reproduce", "Methods"]
    places = [words.index(text, words.index("What is wrong") if k else 0) for k, text in enumerate(order)]
    assert places == sorted(places)


def test_a_finding_says_what_was_seen_what_it_means_why_and_what_to_try(page):
    for text in ("Held-out AUC falls from 0.736 to 0.727", "−0.0090", "95% interval −0.0110 to −0.0070, n = 25,156 users", "Held against: the whole interval below 0",
                 "Every further pass makes the recommendations worse", "Embeddings of rarely seen ids", "Train one pass.", "--epochs 1"):
        assert text in page.words


def test_every_claim_reason_source_and_question_of_the_report_is_on_the_page(page):
    report = kuairand_like_report()
    for finding in report.findings:
        for sentence in re.split(r"(?<=[.:;])\s", finding.claim):
            assert sentence.rstrip(".:;").lower() in page.words.lower()
        assert finding.code in page.words
        assert all(source in page.words for source in finding.sources)
        assert all(e.title in page.words for e in finding.evidence)
    assert all(e.title in page.words for e in report.overview)


def test_passed_findings_are_folded_and_reasons_of_unknown_ones_stay_in_sight():
    text = html.render(kuairand_like_report(), scripts=False)
    assert re.search(r'<details class="passed"[^>]*>\s*<summary>[^§]{0,400}Predicted and observed clicks agree', text)
    assert "<details open" not in text
    folded = re.sub(r"<details.*?</summary>(.*?)</details>", lambda m: m[0].replace(m[1], ""), text[text.index('id="unknown"'):], flags=re.DOTALL)
    for reason in ("no column has the role", "No table of features as they were served was given.", "Only 37 users have lists in this slice"):
        assert reason in folded
    assert "To answer it" not in folded


def test_questions_that_lack_the_same_thing_stand_under_one_reason():
    findings = tuple(Finding(code=code, verdict=Verdict.UNKNOWN, claim="No recommended lists were made.", meaning=f"Not answered: {code}?", threshold="Make lists.")
                     for code in ("recommendations.coverage", "recommendations.popularity_bias"))
    page_ = Page(html.render(Report(findings=findings)))
    assert page_.words.count("No recommended lists were made.") == page_.words.count("Make lists.") == 1
    assert {"unknown-recommendations.coverage", "unknown-recommendations.popularity_bias"} <= {a["id"] for _, a in page_.elements if "id" in a}
    assert "To answer it: Make lists." in page_.words


def test_a_picture_that_stands_beside_its_finding_is_referred_to_from_its_chapter_and_not_drawn_twice():
    curve, bars, table_ = (evidence_of_every_kind()[kind] for kind in ("curve", "bars", "ranked_table"))
    findings = (Finding(code="training.overfitting", verdict=Verdict.FAIL, claim="a", evidence=(curve,)),
                *(Finding(code="data.leak", verdict=Verdict.WARN, claim=f"b{i}", place=Place(kind="field", name=f"f{i}"), evidence=(table_,)) for i in range(3)),
                Finding(code="features.unused", verdict=Verdict.PASS, claim="c", evidence=(bars,)))
    page_ = Page(html.render(Report(findings=findings, overview=tuple(replace(e, stage="training") for e in (curve, bars)))))
    assert len(page_.named("figure")) == 3
    # The curve of the FAIL is pointed to from the chapter, the bars of what passed stand in the chapter and are pointed to.
    text = "".join(page_.text)
    assert text.count(curve.title) == text.count(bars.title) == 2
    assert [a["href"] for a in page_.named("a") if a["href"].startswith("#figure-")] == ["#figure-3", "#figure-1"]


def test_evidence_stands_in_the_chapter_that_it_names():
    curve = replace(evidence_of_every_kind()["curve"], stage="embeddings")
    page_ = Page(html.render(Report(overview=(curve,))))
    assert re.search(r"Embeddings What the tables of ids hold. How does the loss fall", page_.words)
    assert "training" not in [a.get("id") for _, a in page_.elements]
    own = Page(html.render(Report(overview=(replace(curve, stage="towers"),))))
    assert "Towers How does the loss fall" in own.words


def test_headings_form_a_tree_with_one_top(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_keyboard_and_screen_reader_find_their_way(page):
    assert page.elements[[tag for tag, _ in page.elements].index("a")][1] == {"class": "skip", "href": "#main"}
    assert page.named("html") == [{"lang": "en"}]
    assert page.named("nav")[0]["aria-label"] == "Contents"
    drawn = [a for tag, a in page.elements if "data-chart" in a]
    assert all(a["role"] == "img" and a["aria-label"].startswith("Chart: ") for a in drawn)
    # Every drawn chart has its numbers as a table beside it.
    assert sum(a.get("class") == "numbers" for a in page.named("details")) == len(drawn)
    assert all("tabindex" in a for a in page.named("pre"))


def test_charts_are_numbered_through_and_the_library_is_there_once(page):
    drawing = json.loads(page.content("script")[0])
    numbers = [int(a["data-chart"]) for _, a in page.elements if "data-chart" in a]
    assert sorted(numbers) == list(range(len(drawing["specs"])))
    assert len(drawing["specs"]) == 14
    assert sum(len(script) > 500_000 for script in page.content("script")) == 1
    assert len(page.content("script")) == 3
    assert len(html.render(kuairand_like_report())) < 1_400_000


def test_every_chart_is_a_still_picture_too_so_that_it_needs_no_script():
    page_ = Page(html.render(kuairand_like_report(), scripts=False))
    assert page_.named("script") == []
    assert [a["class"] for a in page_.named("svg")] == ["still"] * 14
    drawn = {"path", "text", "line"}
    assert drawn <= {tag for tag, _ in page_.elements}
    assert "How does the loss fall while training?" in page_.words
    # Axis titles, names and direct labels are text of the picture.
    for text in ("log loss (nats)", "held-out", "user_id", "end of epoch 1"):
        assert text in page_.words
    assert len(html.render(kuairand_like_report(), scripts=False)) < 450_000
    # What a picture takes of colour follows the appearance of the page.
    assert {a["fill"] for tag, a in page_.elements if tag == "text" and "fill" in a} == {"var(--chart-ink)", "var(--chart-muted)", "var(--chart-surface)"}


# ---------------------------------------------------------------------- nothing from elsewhere


def test_nothing_is_loaded_from_elsewhere(page):
    for _, attributes in page.elements:
        assert set(attributes) & {"src", "srcset", "action", "formaction", "data", "poster", "style", "background"} == set()
        assert attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    style = "".join(page.content("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert {"link", "iframe", "img", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements} == set()


def test_the_policy_allows_exactly_our_style_and_scripts_by_hash(page):
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    def digest(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [digest(text) for text in page.content("script")[1:]]
    assert rules["style-src"] == digest(page.content("style")[0])
    assert "unsafe" not in policy
    assert "http" not in policy


def test_light_dark_print_and_narrow_are_provided_for(page):
    style = page.content("style")[0]
    for query in ("prefers-color-scheme:dark", "@media print", "max-width:40rem", "forced-colors:active"):
        assert query in style
    assert "/*" not in style


# ---------------------------------------------------------------------- hostile data

ATTACKS = ("<img src=x onerror=alert(1)>", '"><script>alert(1)</script>', "</script><script>alert(2)</script>", "' onmouseover='alert(3)", "<!-- ",
           "--><svg/onload=alert(4)>", "{{ 7*7 }}{% raw %}", "</title><h1>x</h1>", "</style><style>*{display:none}</style>", "javascript:alert(5)",
           "]]>&lt;b&gt;&amp;", "مرحبا \u202egnp.exe\u202c עברית", "\x00\x1b[31m\x85\ufeff\ud800", "\u2028\u2029", "x" * 10_000)


def _everywhere(value, text):
    """The same object with `text` added to every string in it."""
    if isinstance(value, StrEnum) or value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, str):
        return text + value
    if isinstance(value, tuple):
        return tuple(_everywhere(entry, text) for entry in value)
    if isinstance(value, dict):
        return {_everywhere(key, text) if key not in ("command", "run", "data") else key: _everywhere(entry, text) for key, entry in value.items()}
    if isinstance(value, list):
        return [_everywhere(entry, text) for entry in value]
    if not is_dataclass(value):  # a NumPy scalar
        return value
    return replace(value, **{field.name: _everywhere(getattr(value, field.name), text) for field in fields(value)})


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: ascii(a)[:30])
def test_no_element_and_no_attribute_comes_from_data(attack):
    harmless, hostile = (Page(html.render(_everywhere(kuairand_like_report(), text))) for text in ("harmless ", attack + " "))
    assert hostile.problems == []
    assert hostile.open == []
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in harmless.elements}
    assert {(tag, name) for tag, a in hostile.elements for name in a} <= {(tag, name) for tag, a in harmless.elements for name in a}
    # Nothing of data in any attribute but those that are read out.
    for _, attributes in hostile.elements:
        for name, value in attributes.items():
            assert name == "aria-label" or "alert" not in (value or "")
    assert len(hostile.content("script")) == 3
    assert hostile.content("script")[1:] == harmless.content("script")[1:]
    json.loads(hostile.content("script")[0])


def test_hostile_titles_are_shown_as_they_are():
    title = """<b onclick="x">it's</b> & [red]"""
    page_ = Page(html.render(Report(title=title, findings=(Finding(code="a.b", verdict=Verdict.FAIL, claim=title),))))
    assert title in page_.words


def test_control_characters_and_lone_surrogates_are_gone_so_that_the_file_can_be_written(tmp_path):
    report = _everywhere(kuairand_like_report(), ATTACKS[-3])
    path = html.write(report, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text.split("<script>")[0])


def test_text_of_ten_thousand_characters_is_cut_and_says_so():
    page_ = Page(html.render(Report(findings=(Finding(code="a.b", verdict=Verdict.FAIL, claim="y" * 10_000, causes=("z" * 10_000,)),))))
    assert "(8,800 more characters)" in page_.words
    assert len(page_.words) < 6_000


# ---------------------------------------------------------------------- states


def test_a_report_of_nothing_is_a_page_that_says_so():
    page_ = Page(html.render(Report()))
    assert page_.problems == []
    assert "Nothing was examined." in page_.words
    assert "Nothing is known about where these findings came from." in page_.words
    assert page_.named("script") == []


def test_a_healthy_report_says_healthy_and_has_no_section_of_wrongs():
    report = kuairand_like_report()
    page_ = Page(html.render(replace(report, findings=report.with_verdict(Verdict.PASS))))
    assert "Healthy: everything that could be judged passes." in page_.words
    assert "What is wrong" not in page_.words


def test_evidence_of_nothing_is_a_designed_state():
    empty = (EVIDENCE_KINDS["curve"](title="Empty curve?", x_title="x", y_title="y", lines=()),
             EVIDENCE_KINDS["ranked_table"](title="Empty table?", columns=("a",), rows=()), EVIDENCE_KINDS["reasons"](title="No reasons?", items=()))
    page_ = Page(html.render(Report(findings=(Finding(code="a.b", verdict=Verdict.WARN, claim="c", evidence=empty),))))
    for text in ("Nothing was measured here.", "The table has no rows.", "No reasons were found."):
        assert text in page_.words
    assert page_.named("script") == []


def test_remedies_and_causes_shared_by_many_places_are_told_once():
    findings = tuple(Finding(code="a.leak", verdict=Verdict.FAIL, claim=f"Field f{i} leaks.", place=Place(kind="field", name=f"f{i}"), meaning="It matters.",
                             causes=("One cause.",), remedies=(Remedy(code="drop", text="Drop it.", command=f"drop f{i}"),)) for i in range(9))
    words = Page(html.render(Report(findings=findings))).words
    assert words.count("It matters.") == words.count("One cause.") == words.count("Drop it.") == 1
    assert all(f"Field f{i} leaks." in words for i in range(9))
    assert "Leak in 9 fields" in words


def test_a_remedy_that_differs_only_by_place_is_told_for_the_first_and_counted():
    findings = tuple(Finding(code="a.slice", verdict=Verdict.FAIL, claim=f"Slice {i} is off.", place=Place(kind="slice", name=f"{i}"),
                             remedies=(Remedy(code="inspect", text=f"Look into {i}.", command=f"look {i}"), Remedy(code="weigh", text="Give it weight.")))
                     for i in range(5))
    words = Page(html.render(Report(findings=findings))).words
    assert "Look into 0. The same for 4 other places. look 0 look 1 look 2 Give it weight." in " ".join(words.replace("look", " look").replace("Give", " Give").split())
    assert "Look into 1." not in words


def test_large_provenance_is_folded_and_bounded():
    text = html.render(Report(provenance={"schema": {f"field_{i}": "x" * 50 for i in range(5000)}, "run": "7"}))
    assert len(text) < 100_000
    assert "more characters" in text


# ---------------------------------------------------------------------- files, notebooks, imports


def test_writing_is_atomic_and_leaves_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "report.html"
    assert html.write(kuairand_like_report(), path) == path
    first = path.read_text(encoding="utf-8")
    assert first.startswith("<!doctype html>")

    def full(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="disk full"):
        html.write(Report(title="second"), path)
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == first
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_the_same_report_gives_the_same_page():
    assert html.render(kuairand_like_report()) == html.render(kuairand_like_report())


def test_a_notebook_gets_the_page_in_a_frame():
    report = _everywhere(kuairand_like_report(), '"><script>alert(1)</script>')
    fragment = report._repr_html_()
    page_ = Page(fragment)
    assert [tag for tag, _ in page_.elements] == ["iframe"]
    frame = page_.named("iframe")[0]
    assert frame["srcdoc"] == html.render(report, scripts=False)
    assert frame["sandbox"] == ""
    assert frame["height"] == "800"
    assert "<script" not in frame["srcdoc"]
    assert len(fragment) < 800_000


def test_the_report_needs_no_torch_and_a_terminal_needs_no_charts():
    code = ("import sys, recspect.report.text, recspect.report.html, recspect.report.charts;"
            "from recspect.diagnosis.finding import Report; recspect.report.text.render(Report()); recspect.report.html.render(Report());"
            "heavy = {'torch', 'altair', 'vl_convert', 'pandas', 'sklearn'} & set(sys.modules); print(heavy); sys.exit(bool(heavy))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", EVIDENCE_KINDS)
def test_every_kind_of_evidence_stands_on_the_page(kind):
    evidence = evidence_of_every_kind()[kind]
    page_ = Page(html.render(Report(overview=(evidence,))))
    assert evidence.title in page_.words
    assert evidence.caption in page_.words
    assert len(page_.named("figure")) == 1
    assert len([a for _, a in page_.elements if "data-chart" in a]) == (kind not in ("ranked_table", "reasons"))
