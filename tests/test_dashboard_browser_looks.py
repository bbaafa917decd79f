"""Closer looks of the dashboard in a real browser: chosen by mouse and by keyboard, sorted, shared by address, printed, in light and dark, on a phone."""

import pytest

pytest.importorskip("fastapi", reason="the extra dashboard is not installed")
pytest.importorskip("playwright", reason="Playwright is not installed")
pytest.importorskip("axe_playwright_python", reason="axe is not installed")

from axe_playwright_python import sync_playwright as axe

from recspect.comparing.comparison import compare_scores
from test_comparing import SCHEMA, world
from test_dashboard_browser import chrome, opened, served, shelf, wait_until_drawn  # noqa: F401 - fixtures

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def runs(shelf, diagnosed_run):  # noqa: F811 - fixture
    """The real run, the hostile one, and a comparison beside them."""
    rows, current, candidate = world(4, rows=4000, users=400, noise=(1.2, 0.1))
    report = compare_scores(rows, SCHEMA, current, candidate, names=("hostile", diagnosed_run.id), provenance={"runs": ["hostile", diagnosed_run.id]}).report
    (shelf / "release.json").write_text(report.to_json())
    yield shelf
    (shelf / "release.json").unlink()


def test_a_click_on_a_cell_leads_to_its_neurons_and_the_address_can_be_shared(chrome, runs, diagnosed_run):  # noqa: F811 - fixture
    at_page = f"/runs/{diagnosed_run.id}/features"
    with served(runs) as at, opened(chrome, at, viewport={"width": 1280, "height": 1000}) as page:
        page.goto(at_page)
        wait_until_drawn(page)
        heat = page.locator("#look-closer [data-follows]").first
        heat.scroll_into_view_if_needed()
        assert "How strongly does each field flow" in page.locator("#look-closer .question").first.inner_text()
        heat.locator("path[aria-roledescription], .mark-rect path").first.click(force=True)
        page.wait_for_function("() => document.querySelector('#look-closer .question').textContent.startsWith('Which neurons of')")
        wait_until_drawn(page)
        field, layer = page.input_value("#closer-row"), page.input_value("#closer-column")
        assert page.locator("#look-closer .question").first.inner_text() == f"Which neurons of {layer} carry {field}?"
        shared = page.url
        assert f"row={field}" in shared
        page.goto(shared)
        wait_until_drawn(page)
        assert page.locator("#look-closer .question").first.inner_text() == f"Which neurons of {layer} carry {field}?"


def test_choosing_works_by_keyboard_and_the_slider_shows_another_state(chrome, runs, diagnosed_run):  # noqa: F811 - fixture
    with served(runs) as at, opened(chrome, at) as page:
        page.goto(f"/runs/{diagnosed_run.id}/embeddings?field=item")
        wait_until_drawn(page)
        shown = page.locator("#look-table output").inner_text()
        slider = page.locator("#look-table").get_by_role("slider")
        slider.focus()
        page.keyboard.press("ArrowLeft" if shown == "epoch 2" else "ArrowRight")
        page.wait_for_function(f"() => document.querySelector('#look-table output').textContent !== '{shown}'")
        wait_until_drawn(page)
        page.fill("#table-near", "#3")
        page.keyboard.press("Enter")
        page.locator("#look-table .question", has_text="What does the model take for most like").wait_for()
        wait_until_drawn(page)
        assert page.locator("#look-table [data-chart] svg").count() >= 3
        page.fill("#table-near", "<img src=x onerror=alert(1)>")
        page.keyboard.press("Enter")
        page.locator("#look-table [role=alert]").wait_for()
        assert page.locator("main img").count() == 0


def test_a_table_is_sorted_by_its_heading(chrome, runs, diagnosed_run):  # noqa: F811 - fixture
    with served(runs) as at, opened(chrome, at) as page:
        page.goto(f"/runs/{diagnosed_run.id}/embeddings")
        wait_until_drawn(page)
        table = page.locator("#look-table table").first
        heading = table.get_by_role("button", name="table rows")
        numbers = lambda: [int(cell.inner_text().replace(",", "")) for cell in table.locator("tbody tr td:nth-child(2)").all()]  # noqa: E731 - short
        heading.click()
        down = numbers()
        assert down == sorted(down, reverse=True)
        assert table.locator("th[aria-sort=descending]").count() == 1
        heading.press("Enter")
        assert numbers() == sorted(down)
        assert table.locator("th[aria-sort=ascending]").count() == 1


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_new_pages_have_no_serious_fault_of_accessibility(chrome, runs, diagnosed_run, scheme, width):  # noqa: F811 - fixture
    name = diagnosed_run.id
    with served(runs) as at, opened(chrome, at, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        for path in ("/effects", f"/runs/{name}/embeddings?field=item&near=%233", f"/runs/{name}/features?row=item&column=mlp.1", f"/runs/{name}/predictions?row=surface&column=",
                     f"/runs/{name}/about?kind=field&name=item", "/runs/release.json/effects", f"/runs/{name}/features?lang=zh", f"/runs/{name}/training?lang=en"):
            page.goto(path)
            wait_until_drawn(page)
            found = axe.Axe().run(page).response["violations"]
            assert [(path, one["id"], node["html"][:120]) for one in found if one["impact"] in ("serious", "critical") for node in one["nodes"]] == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), path


def test_a_page_is_printed_without_its_forms_and_with_its_pictures(chrome, runs, diagnosed_run):  # noqa: F811 - fixture
    with served(runs) as at, opened(chrome, at) as page:
        page.goto(f"/runs/{diagnosed_run.id}/embeddings")
        wait_until_drawn(page)
        page.emulate_media(media="print")
        for hidden in ("nav.contents", ".asked", ".skip", "form button", "details.numbers"):
            assert not any(one.is_visible() for one in page.locator(hidden).all()), hidden
        assert page.locator("#look-table [data-chart] svg").first.is_visible()
        assert page.locator("#look-table th button", has_text="table rows").is_visible()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.pdf()[:5] == b"%PDF-"


def test_the_widget_of_a_notebook_runs_in_a_page(chrome):  # noqa: F811 - fixture
    """Its script with the model that a notebook gives it, here made of a few lines."""
    from recspect.dashboard.notebook import ESM

    page = chrome.new_page()
    said = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.set_content("<div id=here></div>")
    page.add_script_tag(type="module", content=ESM.replace("export default { render };", """
        const values = { user: "7", item: "", over: "", gone: [], units: [[0, "wanted <i>x</i>"], [1, "age: 3"]], html: "<b>the list</b>" };
        const heard = {};
        window.model = { get: (k) => values[k], set: (k, v) => { values[k] = v; (heard["change:" + k] || []).forEach((f) => f()); },
          on: (k, f) => { (heard[k] = heard[k] || []).push(f); }, save_changes: () => { window.saved = { ...values }; } };
        render({ model: window.model, el: document.getElementById("here") });"""))
    page.wait_for_selector("#here fieldset label")
    assert page.locator("#here b").inner_text() == "the list"
    assert page.locator("#here i").count() == 0
    page.locator("#here input[type=checkbox]").nth(1).check()
    assert page.evaluate("window.saved.gone") == [1]
    page.locator("#here form input").first.fill("9")
    page.locator("#here form input").first.blur()
    assert page.evaluate("[window.saved.user, window.saved.gone.length]") == ["9", 0]
    page.evaluate("window.model.set('html', '<b>another</b>')")
    assert page.locator("#here b").inner_text() == "another"
    assert said == []
    page.close()
