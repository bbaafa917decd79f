"""The project holds what it says: counted surface, a page per finding code, links that resolve, docs that run, walls."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import recspect
from recspect.comparing.comparison import CODES as COMPARISON_CODES
from recspect.comparing.launches import CODES as LAUNCH_CODES
from recspect.diagnosis.diagnostic import all_diagnostics
from recspect.diagnosis.evidence import EVIDENCE_KINDS
from recspect.examining.partial import CODE as PARTIAL
from recspect.examining.references import CODE as UNLIKE_HEALTHY
from recspect.experimenting.analysing import CODES as EXPERIMENT_CODES
from recspect.experimenting.interleaving import CODES as INTERLEAVING_CODES
from recspect.experimenting.off_policy import CODES as POLICY_CODES

ROOT = Path(__file__).resolve().parents[1]
FINDINGS = ROOT / "docs" / "findings"


def repository_files():
    """Everything that is, or would be, committed."""
    done = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


MARKDOWN = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def relative(path):
    return path.relative_to(ROOT).as_posix()


def shipped():
    """The diagnostics of the package; other tests may have registered more."""
    return [diagnostic for diagnostic in all_diagnostics() if type(diagnostic).__module__.startswith("recspect.diagnosis.diagnostics.")]


# ------------------------------------------------------------------ the surface is counted: adding to it is a visible decision


PUBLIC_NAMES = frozenset()

EVIDENCE = frozenset({"curve", "bars", "heat_map", "distribution_pair", "scatter", "ranked_table", "reasons", "stage_graph"})

CODES = frozenset({
    "cost.model",
    "data.change_point", "data.drift", "data.joint_drift", "data.label_maturity", "data.missing_values", "data.negative_volume", "data.replay", "data.sample_ratio",
    "data.split_overlap", "data.target_leak", "data.time_leak",
    "embeddings.collapse", "embeddings.copies", "embeddings.heavy_tail", "embeddings.untrained_rows",
    "explanations.baselines", "explanations.completeness", "explanations.deletion", "explanations.entries", "explanations.infidelity", "explanations.insertion", "explanations.randomisation", "explanations.sensitivity",
    "features.canary", "features.corruption", "features.disagreement", "features.hash_collisions", "features.modality", "features.skew", "features.spurious", "features.unused",
    "predictions.calibration", "predictions.calibration_slope", "predictions.churn", "predictions.cold_start", "predictions.decay", "predictions.group_gap",
    "predictions.negative_sampling", "predictions.normalised_entropy", "predictions.ranking_quality", "predictions.rating_error",
    "predictions.roc_gap", "predictions.worst_slices",
    "recommendations.coverage", "recommendations.exposure_parity", "recommendations.homogenisation", "recommendations.miscalibrated_lists", "recommendations.policy_support", "recommendations.popularity_bias", "recommendations.position_bias", "recommendations.sampled_candidates",
    "training.batch_size", "training.dead_units", "training.gradient_flow", "training.id_shuffle", "training.learning_rate", "training.loss_anomaly", "training.membership_inference",
    "training.memorisation", "training.one_epoch", "training.overfitting", "training.plateau", "training.saturation",
    "training.update_ratio",
})

EFFECTS = frozenset({"effects.decision", "effects.guardrail", "effects.interleaving", "effects.metric", "effects.model_fields", "effects.model_figure", "effects.model_slices", "effects.offline_metric",
                     "effects.policy_support", "effects.policy_value", "effects.release", "effects.sample_ratio", "effects.slices"})

COMMANDS = {
    "compare": {"CANDIDATE", "CURRENT", "--eval", "--format", "--out", "--rules", "--schema"},
    "compress": {"RUN", "--format", "--limit", "--out"},
    "dashboard": {"RUNS", "--actions", "--host", "--port", "--smallest", "--token-file"},
    "datasets": {"NAME"},
    "demo": {"--dataset", "--epochs", "--no-open", "--open", "--runs"},
    "diagnose": {"RUN", "--eval", "--format", "--keep", "--memory-gib", "--out", "--reference", "--runner", "--schema", "--slice", "--subject", "--train"},
    "doctor": {"RUN", "--eval", "--schema", "--subject"},
    "events consume": {"--create", "--from", "--group", "--pseudonym-key", "--queue", "--store", "--stream", "--subject", "--topic", "--until-idle"},
    "events forget": {"USER", "--pseudonym-key", "--recent", "--store"},
    "events import": {"FILES", "--kind", "--map", "--pseudonym-key", "--store", "--time-unit", "--time-zone"},
    "events labels": {"--kinds", "--out", "--pseudonym-key", "--store", "--window-hours"},
    "events serve": {"--host", "--port", "--pseudonym-key", "--store", "--token-file"},
    "exam": {"--faults", "--out", "--programs", "--seeds", "--severity", "--workers"},
    "experiment analyse": {"TABLE", "--alpha", "--arm", "--by", "--control", "--count", "--format", "--guardrail", "--least", "--look", "--lower-is-better", "--metric", "--out",
                           "--planned-users", "--sequential", "--share", "--user", "--winsorise"},
    "experiment interleaving": {"LOG", "--candidate", "--credit", "--format", "--out", "--sequential", "--session", "--team", "--user"},
    "experiment launches": {"TABLE", "--format", "--lower-is-better", "--offline", "--online", "--out"},
    "experiment off-policy": {"LOG", "--expected", "--format", "--item", "--out", "--policy", "--position", "--predicted", "--propensity", "--reward", "--target", "--user"},
    "experiment plan": {"TABLE", "--alpha", "--deviation", "--effect", "--guardrail", "--guardrails", "--mean", "--metric", "--power", "--sequential", "--share", "--treatments",
                        "--user", "--users", "--users-per-day", "--winsorise"},
    "explain": {"RECOMMENDER", "--against", "--below", "--context", "--format", "--item", "--k", "--lang", "--names", "--over", "--unknown", "--user"},
    "loop": {"--epsilon", "--items", "--out", "--rounds", "--seed", "--users", "--visits"},
    "metrics alternatives": {"FILE", "--experiments", "--format", "--users"},
    "metrics decide": {"FILE", "--adopt", "--experiments", "--folder", "--format", "--north-star-only", "--reject", "--scene", "--why"},
    "metrics fit": {"FILE", "--adopt-by-rule", "--draws", "--experiments", "--folder", "--recent", "--scene"},
    "metrics measure": {"FILE", "--assignments", "--events", "--out", "--pseudonym-key"},
    "metrics show": {"--folder", "--format", "--out", "--scene"},
    "metrics watch": {"FILE", "--experiments", "--folder", "--format", "--scene"},
    "optimise": {"RUN", "--eval", "--finding", "--folder", "--format", "--minutes", "--out", "--seeds", "--trials"},
    "recommend": {"RECOMMENDER", "--context", "--k", "--out", "--seed", "--steps", "--trace", "--unknown", "--user", "--users"},
    "recommender build": {"RUN", "--author", "--candidates", "--category", "--items", "--out", "--per-source", "--ranking", "--replace", "--rows", "--sources", "--steps"},
    "reference add": {"RUN", "--to"},
    "report": {"RUN", "--format", "--out"},
    "schema init": {"DATA", "--out"},
    "send": {"RUN", "--to"},
    "serve": {"FOLDER", "--backend", "--host", "--interleave", "--models", "--percent", "--port", "--recent", "--requests-per-second", "--second", "--shadow", "--store", "--token-file"},
    "train": {"DATA", "--buffer-mebibytes", "--dataset", "--epochs", "--label", "--model", "--resume", "--run-dir", "--runs", "--schema", "--seed", "--settings", "--split", "--to"},
    "tune": {"DATA", "--dataset", "--epochs", "--format", "--label", "--minutes", "--model", "--objective", "--out", "--resume", "--schema", "--seed", "--trials"},
}


def test_public_names():
    assert frozenset(getattr(recspect, "__all__", ())) == PUBLIC_NAMES
    for name in PUBLIC_NAMES:
        getattr(recspect, name)


def test_evidence_kinds():
    assert frozenset(EVIDENCE_KINDS) == EVIDENCE


def test_finding_codes():
    assert {diagnostic.code for diagnostic in shipped()} == CODES


def test_codes_about_effects_are_counted_and_described():
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert frozenset({*EXPERIMENT_CODES, *POLICY_CODES, *COMPARISON_CODES, *INTERLEAVING_CODES, *LAUNCH_CODES}) == EFFECTS
    assert all(f"`{code}`" in text for code in EFFECTS)


def commands():
    """Name of each command ("schema init") to its options and arguments."""
    cli = pytest.importorskip("recspect.cli", reason="the command line is not there yet")
    import typer

    found = {}

    def walk(command, path):
        for name, child in getattr(command, "commands", {}).items():
            walk(child, [*path, name])
        if not getattr(command, "commands", {}):
            found[" ".join(path)] = {option for parameter in command.params for option in
                                     (parameter.opts + parameter.secondary_opts if parameter.param_type_name == "option" else [parameter.name.upper()])}

    walk(typer.main.get_command(cli.app), [])
    return found


def test_commands_and_options():
    assert commands() == COMMANDS


# ------------------------------------------------------------------ findings and their pages


def test_every_finding_code_has_its_page_and_every_page_its_code():
    assert {path.stem for path in FINDINGS.glob("*.md")} - {"index"} == {diagnostic.code for diagnostic in shipped()} | {UNLIKE_HEALTHY, PARTIAL}


def test_a_page_begins_with_its_code_and_holds_its_question():
    for diagnostic in shipped():
        text = (FINDINGS / f"{diagnostic.code}.md").read_text(encoding="utf-8")
        assert diagnostic.code in text.splitlines()[0], diagnostic.code
        assert diagnostic.question.rstrip("?.").lower() in " ".join(text.split()).lower(), f"{diagnostic.code}: {diagnostic.question}"


def test_a_code_is_its_stage_and_question():
    for diagnostic in shipped():
        stage, question = diagnostic.code.split(".")
        assert type(diagnostic).__module__.split(".")[-2] == stage, diagnostic.code
        assert re.fullmatch(r"[a-z][a-z0-9_]*", question), diagnostic.code
        assert diagnostic.question.endswith("?"), diagnostic.question


# ------------------------------------------------------------------ documents


@pytest.mark.parametrize("path", MARKDOWN, ids=relative)
def test_links_resolve(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), f"{relative(path)} links to {target}"
        if anchor and linked.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, f"{relative(path)} links to {target}"


def python_blocks(path):
    """The Python blocks of a document that run; `<!-- not run: reason -->` on the line before keeps one out."""
    found = re.finditer(r"(?P<before>[^\n]*)\n```python\n(?P<code>.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [block["code"] for block in found if not re.match(r"<!-- not run: .+ -->", block["before"])]


@pytest.mark.parametrize("path", [path for path in MARKDOWN if python_blocks(path)], ids=relative)
def test_python_in_documents_runs(path, tmp_path):
    """The blocks of a document run in order, as one program: later ones may use names of earlier ones."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", "\n".join(python_blocks(path))], cwd=tmp_path, capture_output=True, text=True,
                          timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_document_is_reachable_from_the_index():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for path in MARKDOWN:
        if path.parent == FINDINGS or path.name == "index.md":
            continue
        assert f"({os.path.relpath(path, ROOT / 'docs')})" in text, f"docs/index.md does not name {relative(path)}"


def test_the_commands_of_the_readme_are_make_targets():
    readme, makefile = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
    named = set(re.findall(r"\bmake ([a-z]+)\b", readme.split("## Your own model")[0]))
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))


def test_commands_in_documents_exist():
    """Every `recspect ...` in a shell block or between backticks names a command, and options that it has."""
    known = commands()
    for path in MARKDOWN:
        text = path.read_text(encoding="utf-8")
        lines = [line for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
        for found in [*lines, *re.findall(r"`(recspect [^`]+)`", text)]:
            line = found.split("#")[0].split(">")[0].strip().removeprefix("$ ")
            if not line.startswith("recspect ") or line.startswith("recspect -"):
                continue
            words = line.split()[1:]
            name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), None)
            assert name is not None, f"{relative(path)}: no command in {line!r}"
            options = {word.split("=")[0] for word in words if word.startswith("--")}
            assert options <= known[name], f"{relative(path)}: {line!r} has options that {name} has not"


# ------------------------------------------------------------------ benches


def test_benches_and_their_rows_in_the_document_agree():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| \[(\w+)\]\(\.\./bench/\1\.py\)", text, flags=re.MULTILINE))
    assert named == {path.stem for path in (ROOT / "bench").glob("[!_]*.py")} - {"run"}  # files that begin with _ are parts that benches share


def run_bench(folder, *names):
    return subprocess.run([sys.executable, str(folder / "run.py"), *names], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("last", "status"), [('{"speedup_vs_peer": 2.0}', 0), ("done", 2), ("[1]", 2)])
def test_a_bench_ends_with_one_json_object(tmp_path, last, status):
    (tmp_path / "run.py").write_bytes((ROOT / "bench" / "run.py").read_bytes())
    (tmp_path / "toy.py").write_text(f"print('measuring')\nprint({last!r})\n")
    done = run_bench(tmp_path, "toy")
    assert done.returncode == status
    assert done.stdout.splitlines()[-1] == last
    if status == 0:
        assert json.loads(last) == {"speedup_vs_peer": 2.0}
    else:
        assert "must be one JSON object" in done.stderr


def test_a_bench_that_fails_or_does_not_exist_fails(tmp_path):
    (tmp_path / "run.py").write_bytes((ROOT / "bench" / "run.py").read_bytes())
    (tmp_path / "toy.py").write_text("raise SystemExit(3)\n")
    assert run_bench(tmp_path, "toy").returncode == 3
    missing = run_bench(tmp_path, "other")
    assert missing.returncode == 2
    assert "benches: toy" in missing.stderr


# ------------------------------------------------------------------ project files


def test_no_file_names_a_place_of_one_machine():
    """Absolute paths of the machines that this was written on, and keys of the services that it was written with."""
    pattern = re.compile(r"/(?:work|root|tmp|home/\w+|Users/\w+)/|\bfile:///opt\b")
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path == Path(__file__).resolve():
            continue
        found = pattern.search(text)
        assert found is None, f"{relative(path)}: {text[max(0, found.start() - 40):found.end() + 40]!r}"


def test_no_data_and_no_large_file_is_committed():
    for path in repository_files():
        assert path.suffix not in {".parquet", ".csv", ".tsv", ".inter", ".safetensors", ".pt", ".pkl", ".zip", ".whl"}, relative(path)
        assert path.stat().st_size < 500_000, relative(path)


def test_everything_required_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = dict(re.findall(r"^([\w.\-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE))
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    required = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    for text in required:
        name = re.match(r"[\w.\-]+", text)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in pinned, f"{name} has no pin in constraints.txt"
    assert pins["torch"] == "2.13.0"


def test_nothing_is_called_what_says_nothing():
    for path in (ROOT / "src").rglob("*.py"):
        assert path.stem not in {"utils", "util", "helpers", "helper", "manager", "processor", "context", "common", "misc"}, relative(path)
