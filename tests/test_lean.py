"""A scored table is examined without torch, and no heavy library is imported where it is not used."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "lightning", "lightning_fabric", "pytorch_lightning", "sklearn", "scipy", "ray", "pyspark", "tensorflow", "pandas", "matplotlib")
"""Libraries that the core neither needs nor imports. pandas is special: `pyarrow.dataset` imports it by itself where it is
installed, so that only doing without it can be held."""

TORCH_ROOMS = (
    "recspect.features", "recspect.models", "recspect.training", "recspect.diagnosis.probes", "recspect.diagnosis.lookups",
    "recspect.diagnosis.sites", "recspect.diagnosis.observing", "recspect.diagnosis.keras_tensorflow", "recspect.examining.runs", "recspect.examining.embedding_tables",
    "recspect.examining.shapley", "recspect.examining.interactions", "recspect.exam", "recspect.compressing", "recspect.tuning",
    "recspect.examining.looking_closer", "recspect.optimising.optimiser", "recspect.optimising.trainings", "recspect.serving",
    "recspect.explaining.reasons", "recspect.explaining.explainer", "recspect.looping.rounds", "recspect.recommending.pipeline.ranker", "recspect.recommending.pipeline.ranker_onnx",
)
"""Where importing the module may import torch; everywhere else torch is imported inside functions."""

EXAMINE = """
import tempfile
from pathlib import Path
import numpy as np, polars as pl
import recspect, recspect.cli, recspect.datasets, recspect.diagnosis.source, recspect.schema
from recspect.diagnosis.finding import Report
from recspect.examining.examination import examine_table
from recspect.report import html, text
from recspect.schema import Field, Label, Schema

generator = np.random.default_rng(0)
rows = 4000
chance = generator.beta(2, 5, rows)
table = pl.DataFrame({
    "user": generator.integers(0, 300, rows), "item": generator.zipf(1.5, rows) % 200, "hour": generator.integers(0, 24, rows),
    "click": (generator.random(rows) < chance).astype(int), "score": chance,
})
schema = Schema(fields=(Field(name="hour"),), labels=(Label(name="click"),), user="user", item="item", score="score")
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "scored.parquet"
    table[rows // 2:].write_parquet(path)
    report = examine_table(path, schema, reference=table[:rows // 2])  # a reference, so that baselines and drift are judged too
    assert report.findings
    html.write(report, Path(folder) / "report.html")
    assert Report.from_mapping(report.to_mapping()).ranked
text.render(report)
verdicts = sorted((f.code, f.place.name, f.verdict.value) for f in report.findings)
"""

PERMUTE = """
import numpy as np
from recspect.diagnosis.subject import ScoreSubject
from recspect.examining.permutation import permutation_importance
from recspect.schema import Field, Label, Schema

generator = np.random.default_rng(0)
table = {"user": generator.integers(0, 300, 2000), "a": generator.random(2000), "b": generator.random(2000)}
table["click"] = (generator.random(2000) < table["a"]).astype(int)
schema = Schema(user="user", labels=[Label(name="click")], fields=[Field(name="a"), Field(name="b")])
subject = ScoreSubject(lambda batch: batch.numbers("a"), fields=["a", "b"])
found = permutation_importance(subject, table, schema, repeats=2)
lost = [(one.field, one.importance.value) for one in found.permuted]
"""

BLOCK = """
import importlib.abc, sys
BLOCKED = set({blocked!r})
class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Wall())
"""


def run(code, *arguments):
    """What the code printed last, as JSON, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def examined():
    """Heavy modules that were imported while a scored table was examined with all libraries installed, and the verdicts."""
    return run(f"import json, sys\n{EXAMINE}\nprint(json.dumps([sorted(set({HEAVY!r}) & set(sys.modules)), verdicts]))")


def test_examining_a_scored_table_imports_nothing_heavy(examined):
    imported, verdicts = examined
    assert set(imported) <= {"pandas"}
    assert any(verdict != "UNKNOWN" for _, _, verdict in verdicts)


def test_the_same_verdicts_come_where_nothing_heavy_is_installed(examined):
    without = run(f"{BLOCK.format(blocked=HEAVY)}\nimport json\n{EXAMINE}\nprint(json.dumps(verdicts))")
    assert without == examined[1]


def test_fields_of_a_model_of_which_only_scores_can_be_had_are_permuted_without_torch():
    imported, lost = run(f"import json, sys\n{PERMUTE}\nprint(json.dumps([sorted(set({HEAVY!r}) & set(sys.modules)), lost]))")
    assert set(imported) <= {"pandas"}
    assert [name for name, _ in lost] == ["a", "b"]
    assert lost[0][1] > 0.2
    assert lost[1][1] == 0
    assert run(f"{BLOCK.format(blocked=HEAVY)}\nimport json\n{PERMUTE}\nprint(json.dumps(lost))") == lost


def test_where_torch_is_missing_the_error_names_the_extra():
    message = run(f"""{BLOCK.format(blocked=HEAVY)}
import json
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import MissingExtraError
try:
    TorchSubject(object())
except MissingExtraError as error:
    print(json.dumps(error.hint))
""")
    assert message == "pip install 'recspect[inspect]'"


def test_torch_is_imported_only_in_its_rooms():
    """Every module of the package on its own, without torch: only those of the torch rooms may fail, and only for that."""
    failed = run(f"""{BLOCK.format(blocked=HEAVY)}
import importlib, json, pkgutil
import recspect
failed = {{}}
for module in pkgutil.walk_packages(recspect.__path__, "recspect.", onerror=lambda name: None):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed[module.name] = error.name
print(json.dumps(failed))
""")
    elsewhere = {module: missing for module, missing in failed.items()
                 if not any(module == room or module.startswith(f"{room}.") for room in TORCH_ROOMS)}
    assert elsewhere == {}


def test_asking_for_help_imports_no_drawing_and_no_torch():
    imported = run("""
import json, sys
import recspect, recspect.cli
print(json.dumps(sorted({"torch", "altair", "vl_convert", "sklearn", "lightning_fabric", "pandas"} & set(sys.modules))))
""")
    assert set(imported) <= {"pandas"}
