"""The dashboard in a real browser: every page drawn, nothing refused by its own policy, nothing asked of other machines, live while a training goes on."""

import json
import signal
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="the extra dashboard is not installed")
pytest.importorskip("playwright", reason="Playwright is not installed")
pytest.importorskip("axe_playwright_python", reason="axe is not installed")

from axe_playwright_python import sync_playwright as axe
from playwright import sync_api

from dashboard_samples import HOSTILE, make_run
from recspect.dashboard.app import create_app
from recspect.dashboard.guard import Guard
from recspect.dashboard.shelf import Shelf
from recspect.dashboard.views import Views
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Report, Verdict
from recspect.diagnosis.observing import Observer
from recspect.web_server import server_of

pytestmark = pytest.mark.browser


@contextmanager
def served(runs, guard=None):
    """The dashboard on a port of its own."""
    app = create_app(Views(Shelf(runs)), guard, live_seconds=0.2)
    server = server_of(app, host="127.0.0.1", port=0, patience_seconds=5, stopping=app.state.closing.set)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.handle_exit(signal.SIGINT, None)
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def chrome(chromium):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(chrome, at, **options):
    """A page, and at the end that its console was silent and every request stayed on this machine."""
    page = chrome.new_page(base_url=at, **options)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    page.close()
    assert said == []
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {urlsplit(at).netloc}


def wait_until_drawn(page):
    page.wait_for_load_state("networkidle")
    page.wait_for_function("""() => !document.querySelector('[aria-busy]') && [...document.querySelectorAll('[data-chart]')]
        .filter((e) => e.offsetParent !== null).every((e) => e.dataset.drawn === 'yes' && e.querySelector('svg'))""", timeout=60_000)


@pytest.fixture(scope="module")
def shelf(diagnosed_run, tmp_path_factory):
    """A real run beside a run whose texts are hostile."""
    import shutil

    runs = tmp_path_factory.mktemp("shelf")
    shutil.copytree(diagnosed_run.folder, runs / diagnosed_run.folder.name)
    bad = Finding(code="features.unused", verdict=Verdict.FAIL, claim=HOSTILE, place=Place(kind="field", name=HOSTILE), evidence=(Bars(title=HOSTILE, unit=HOSTILE, names=(HOSTILE,), values=(1.0,)),))
    make_run(runs / "hostile", Report(findings=(bad,), title=HOSTILE), model={"name": HOSTILE})
    return runs


def test_every_page_of_a_real_run_is_drawn_by_clicking_through(chrome, shelf, diagnosed_run):
    name = diagnosed_run.folder.name
    with served(shelf) as at, opened(chrome, at, viewport={"width": 1280, "height": 1000}) as page:
        page.goto("/")
        page.get_by_role("link", name=name).first.click()
        titles = [link.inner_text().strip() for link in page.locator("nav .chapter a").all()]
        assert len(titles) >= 8
        charts = 0
        for k in range(len(titles)):
            page.locator("nav .chapter a").nth(k).click()
            wait_until_drawn(page)
            assert page.locator("h1").count() == 1
            assert page.locator("nav [aria-current=page]").count() == 1
            charts += page.locator("[data-chart] svg").count()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert charts > 10
        twin = page.evaluate("fetch(document.querySelector('.aside a[href$=\"json\"]').href).then((answer) => answer.json())")
        assert twin["format"] == "recspect-findings"
        assert twin == json.loads((shelf / name / "findings.json").read_text())


def test_what_is_seen_says_what_the_report_says(chrome, shelf, diagnosed_run):
    """The stored picture of a page by content: headings and verdicts, in order."""
    name = diagnosed_run.folder.name
    report = Report.read(shelf / name / "findings.json")
    with served(shelf) as at, opened(chrome, at) as page:
        page.goto(f"/runs/{name}")
        shown = [code.inner_text() for code in page.locator(".glance code").all()]
        assert shown == list(dict.fromkeys(f.code for f in report.with_verdict(Verdict.FAIL, Verdict.WARN)))
        page.locator(".glance a").first.click()
        target = page.locator(":target")
        target.wait_for(state="visible")  # a click returns before the next page has come
        assert target.is_visible()
        assert shown[0] in target.inner_text()
        page.goto(f"/runs/{name}/findings")
        assert page.locator("tbody tr").count() == len(report.findings)
        page.select_option("select[name=verdict]", "FAIL")
        page.get_by_role("button", name="Show").click()
        assert page.locator("tbody tr").count() == len(report.with_verdict(Verdict.FAIL))


def test_a_training_is_followed_while_it_goes_on_without_loading_the_page_again(chrome, tmp_path):
    import torch

    folder = make_run(tmp_path / "runs" / "going", status="running", epochs=0)
    for file in ("steps.parquet", "histograms.parquet"):
        (folder / file).unlink()
    going = threading.Event()

    def train():
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        observer = Observer(model, every=1, histograms_every=20, folder=folder, on_finding=lambda _: None)
        while not going.is_set():
            with observer.step() as look:
                loss = model(torch.randn(32, 4)).square().mean()
                loss.backward()
                look.before_update()
                optimiser.step()
                optimiser.zero_grad()
                look.after_update()
            observer.record_loss(loss)
            if observer.steps_done % 40 == 0:
                observer.end_epoch({"auc/validation": 0.6})
            time.sleep(0.03)
        observer.finish()
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(record | {"status": "finished"}))

    thread = threading.Thread(target=train)
    thread.start()
    try:
        with served(tmp_path / "runs") as at, opened(chrome, at) as page:
            page.goto("/runs/going/training")
            page.evaluate("window.stayed = true")
            step = "Number(document.querySelector('[role=status]')?.textContent.match(/[0-9,]+/)?.[0].replace(',', '') || 0)"
            page.wait_for_function(f"() => {step} > 0", timeout=60_000)
            first = page.evaluate(step)
            page.wait_for_function(f"() => {step} > {first + 45}", timeout=60_000)  # beyond the end of an epoch
            going.set()
            page.wait_for_function("() => !document.querySelector('.status.running')?.closest('#now')", timeout=60_000)
            wait_until_drawn(page)
            assert page.evaluate("window.stayed") is True
            assert page.locator("#now [data-chart] svg").count() >= 3
    finally:
        going.set()
        thread.join()


def test_the_slider_shows_another_step_by_keyboard(chrome, tmp_path):
    make_run(tmp_path / "runs" / "one")
    with served(tmp_path / "runs") as at, opened(chrome, at) as page:
        page.goto("/runs/one/training")
        slider = page.get_by_role("slider")
        slider.wait_for()
        wait_until_drawn(page)
        assert page.locator(".scrub output").inner_text() == "80"
        slider.focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("() => document.querySelector('.scrub output').textContent === '40'")
        wait_until_drawn(page)
        assert "step 40" in page.locator("#spread").inner_text()


def test_hostile_texts_run_nothing_and_do_not_break_the_page(chrome, shelf):
    with served(shelf) as at, opened(chrome, at, viewport={"width": 1000, "height": 900}) as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        for path in ("/", "/runs/hostile", "/runs/hostile/features", "/runs/hostile/findings", "/runs/hostile/training"):
            page.goto(path)
            wait_until_drawn(page)
            assert page.locator("main img").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_no_serious_fault_of_accessibility_and_no_sideways_scrolling(chrome, shelf, diagnosed_run, scheme, width):
    name = diagnosed_run.folder.name
    with served(shelf, Guard(actions=True)) as at, opened(chrome, at, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        for path in ("/", "/compare", "/login", f"/runs/{name}", f"/runs/{name}/training", f"/runs/{name}/features", f"/runs/{name}/predictions", f"/runs/{name}/findings",
                     f"/runs/{name}/provenance", f"/compare?run={name}&run=hostile", "/?lang=zh"):
            page.goto(path)
            wait_until_drawn(page)
            found = axe.Axe().run(page).response["violations"]
            grave = [(path, one["id"], node["html"][:120]) for one in found if one["impact"] in ("serious", "critical") for node in one["nodes"]]
            assert grave == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), path


def test_a_visitor_says_what_they_think_of_a_finding(chrome, shelf, diagnosed_run):
    name = diagnosed_run.folder.name
    with served(shelf, Guard(actions=True)) as at, opened(chrome, at) as page:
        page.goto(f"/runs/{name}/findings?verdict=FAIL")
        page.locator("tbody tr").first.get_by_role("button", name="rejected").click()
        page.locator("tbody tr").first.locator(".word", has_text="rejected").wait_for()
        page.reload()
        assert page.locator("tbody tr").first.locator(".word").inner_text() == "rejected"
    (shelf / name / "feedback.jsonl").unlink()
