"""What all tests share: one thread per process, real data sets, a browser.

Markers (declared in pyproject.toml): `data` needs a real data set, `browser` needs Chromium, `slow` takes more than ten
seconds. All run by default; what the machine lacks is skipped with the reason. `pytest -m "not slow"` for a quick round.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy or torch is imported: several test processes share the cores

import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A shared core may be slow for a moment; what hypothesis must not do is fail a law for that.
settings.register_profile("recspect", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("recspect")


@pytest.fixture(autouse=True)
def one_thread():
    """One torch thread in tests that use torch; the others do not pay for its import."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if getattr(torch, "get_num_threads", lambda: 1)() != 1:
            torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_home() -> Path:
    """The folder with one folder per data set, named by RECSPECT_DATA_HOME."""
    chosen = os.environ.get("RECSPECT_DATA_HOME")
    if not chosen:
        pytest.skip("RECSPECT_DATA_HOME is not set: no real data on this machine")
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        pytest.skip(f"RECSPECT_DATA_HOME names {folder}, which is no folder")
    return folder


@pytest.fixture(scope="session")
def real_data():
    """`real_data("uci-bank")` is that data set, loaded; skips with the reason where it is not on this machine."""
    from recspect import datasets

    loaded = {}

    def load(name):
        if name not in loaded:
            if datasets.locate(name) is None:
                pytest.skip(f"data set {name} is not on this machine (set RECSPECT_DATA_HOME)")
            loaded[name] = datasets.load(name)
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine")


@pytest.fixture(scope="session")
def diagnosed_run(tmp_path_factory):
    """A small run of a synthetic world with findings.json and report.html: the source of what the tests of sinks send.

    Whatever is found in it, one finding fails and one warns: they are added to the file.
    """
    from dataclasses import replace

    from recspect.diagnosis.finding import Report
    from recspect.examining.runs import examine_run
    from recspect.training.run import Run
    from sink_samples import bad_findings, small_table, trained_run

    run = trained_run(tmp_path_factory.mktemp("runs") / "small-run")
    examine_run(run.folder, data=small_table()[0], sample_rows=1000)
    report = Report.read(run.folder / "findings.json")
    report = replace(report, findings=(*(f for f in report.findings if f.code not in {bad.code for bad in bad_findings()}), *bad_findings()))
    (run.folder / "findings.json").write_text(report.to_json(), encoding="utf-8")
    return Run.open(run.folder)
