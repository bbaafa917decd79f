"""Bad tables, schemas, options and places: exit code 2, what was found and what to do, nothing written; or UNKNOWN with its reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hostile import SCHEMA, SCORED, CommandLine, must_teach, table
from recspect.diagnosis.source import read
from recspect.errors import DataError, SchemaError
from recspect.schema import Schema

pytest.importorskip("torch", reason="training needs torch")
USER, AGE, SCORE, CLICK = (pl.col(name) for name in ("user", "age", "score", "click"))


@pytest.fixture
def line(tmp_path, capsys, monkeypatch):
    return CommandLine(tmp_path, capsys, monkeypatch)


def every_command(line, path, *said, schema="s.toml", trained="tr.toml", init=True):
    """diagnose, train and schema init all refuse the table."""
    line.refuses("diagnose", path, "--schema", schema, "--out", "findings.txt", said=said)
    line.refuses("train", path, "--schema", trained, "--run-dir", "run", said=said)
    if init:
        line.refuses("schema", "init", path, "--out", "draft.toml", said=said)


# ---------------------------------------------------------------------- files that are no tables


def damaged_files():
    good = Path("t.parquet").read_bytes()
    text = table().write_csv()
    garbage = np.random.default_rng(1).bytes(4000)
    yield "empty.parquet", b"", "is empty (0 bytes)"
    yield "empty.csv", b"", "is empty (0 bytes)"
    yield "header.csv", b"user,item,colour,age,score,click\n", "no rows"
    yield "cut.parquet", good[:-200], "damaged or cut short"
    yield "start.parquet", good[:40], "damaged or cut short"
    yield "garbage.parquet", garbage, "damaged or cut short"
    yield "garbage.feather", garbage, "damaged or cut short"
    yield "garbage.csv", garbage, "cannot be read as CSV"
    yield "x.csv.gz", b"not gzip", "cannot be read as CSV"
    yield "latin.csv", text.replace("red", "r\u00e9d").encode("latin-1"), "not utf-8"
    yield "utf16.csv", text.encode("utf-16"), "not utf-8"
    yield "long.csv", (text + "1,2,red,3,0.5,1,7,8\n").encode(), "line 402 of long.csv has 8 fields, the first line has 6"
    yield "short.csv", (text + "1,2,red\n" + text).encode(), "line 402 of short.csv has 3 fields, the first line has 6"
    yield "sheet.xlsx", b"PK", "unknown ending '.xlsx'"


def test_files_that_are_no_tables(line):
    for name, content, said in damaged_files():
        Path(name).write_bytes(content)
        every_command(line, name, said.replace("no rows", "no rows"), init=True)


def test_tables_that_are_not_there(line):
    Path("folder").mkdir()
    table().head(0).write_parquet("zero.parquet")
    for path, said in (("missing.parquet", "no file at missing.parquet"), ("folder", "folder holds no file that can be read"),
                       ("zero.parquet", "no rows"), ("x" * 300 + ".csv", "File name too long"), ("none-*.csv", "no file matches")):
        every_command(line, path, said)
    assert "t.parquet" in line.refuses("train", "t.parquett", "--schema", "tr.toml")  # the hint lists what is there


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_table_that_may_not_be_read(line):
    Path("t.parquet").chmod(0)
    every_command(line, "t.parquet", "no right to read")


def test_damage_inside_a_file_with_checksums(line):
    pq.write_table(table(4000).to_arrow(), "t.parquet", write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(Path("t.parquet").read_bytes())
    content[len(content) // 2:len(content) // 2 + 64] = bytes(64)
    Path("t.parquet").write_bytes(content)
    every_command(line, "t.parquet", "damaged or cut short", init=False)


# ---------------------------------------------------------------------- columns


TABLES = {
    "missing column": (lambda t: t.drop("colour"), "names 'colour'"),
    "text for numbers": (lambda t: t.with_columns(age=pl.lit("old")), "field 'age' is numeric in the schema"),
    "numbers and texts": (lambda t: t.with_columns(age=pl.when(USER > 20).then(pl.lit("12")).otherwise(pl.lit("n/a"))), "field 'age' is numeric"),
    "lists": (lambda t: t.with_columns(colour=pl.concat_list("user", "item")), "field 'colour' is categorical in the schema"),
    "bytes": (lambda t: t.with_columns(colour=pl.lit(b"\xff\x00")), "'colour'"),
    "structs": (lambda t: t.with_columns(colour=pl.struct("user", "item")), "'colour'"),
    "128 bits": (lambda t: t.with_columns(user=USER.cast(pl.Int128)), "64 bit"),
    "labels 0 to 3": (lambda t: t.with_columns(click=pl.int_range(pl.len()) % 4), "label 'click' is binary in the schema, but has values such as 2, 3"),
    "labels missing": (lambda t: t.with_columns(click=pl.lit(None, dtype=pl.Int64)), "label 'click' has no value"),
    "some labels missing": (lambda t: t.with_columns(click=pl.when(USER != 3).then(CLICK)), "label 'click' is missing or not finite"),
    "labels of text": (lambda t: t.with_columns(click=pl.lit("yes")), "label 'click' holds categories such as 'yes', expected numbers"),
    "infinite labels": (lambda t: t.with_columns(click=pl.lit(float("inf"))), "label 'click' has infinite values"),
}


@pytest.mark.parametrize(("change", "said"), TABLES.values(), ids=TABLES)
def test_tables_that_do_not_fit_the_schema(line, change, said):
    change(table()).write_parquet("bad.parquet")
    every_command(line, "bad.parquet", said, init=False)


def test_a_label_that_goes_wrong_late(line):
    rows = pl.concat([table()] * 300).with_columns(click=pl.when(pl.int_range(pl.len()) > 110_000).then(7).otherwise(CLICK))
    rows.write_parquet("bad.parquet")
    every_command(line, "bad.parquet", "label 'click' holds 7, expected 0 and 1", init=False)


def test_columns_of_one_name(line):
    pq.write_table(pa.table([pa.array([1, 2]), pa.array([1, 2])], names=["user", "user"]), "twice.parquet")
    every_command(line, "twice.parquet", "columns of the same name: 'user'")


ROLES = {
    'position = "text"': "the role 'position'", 'weight = "text"': "the role 'weight'", 'weight = "gaps"': "weight 'gaps' is missing or infinite",
    'weight = "negative"': "weight 'negative' has negative values", 'propensity = "negative"': "propensity 'negative' has values such as -1",
    'request = "lists"': "the request column 'lists' holds lists", 'arm = "lists"': "the arm column 'lists' holds lists",
    'time = "text"': "the time column 'text' holds categories", 'time = "negative"': "no time_unit", 'time = "lists"': "the time column 'lists' holds",
    'request = "absent"': "names 'absent'",
}


@pytest.mark.parametrize(("role", "said"), ROLES.items(), ids=ROLES)
def test_roles_of_unfit_columns(line, role, said):
    table().with_columns(text=pl.lit("first"), gaps=pl.when(USER > 3).then(1.0), negative=pl.lit(-1.0), lists=pl.concat_list("user")
                         ).write_parquet("t.parquet")
    Path("r.toml").write_text(SCHEMA.format(roles=f'score = "score"\n{role}'))
    line.refuses("diagnose", "t.parquet", "--schema", "r.toml", said=(said,))


@pytest.mark.parametrize("name", ["@colour", 'col"our', "col\nour", "colour; drop table t", "col'our", "[bold red]x[/bold red]", "a=b, c>1", "%s{}",
                                  "\x1b[31m", "c" * 3000])
def test_odd_names_of_columns_are_read_or_refused(line, name):
    table().rename({"colour": name}).write_parquet("t.parquet")
    schema = Schema.from_mapping({"roles": {"user": "user", "item": "item", "score": "score"}, "labels": ["click"], "fields": {name: "categorical"}})
    Path("s.toml").write_text(schema.to_toml())
    if name.startswith("@"):
        line.refuses("diagnose", "t.parquet", "--schema", "s.toml", said=("'@colour'", "begin with @"))
        return
    done = line("diagnose", "t.parquet", "--schema", "s.toml", "--out", "found.html", "--format", "html")
    assert done.code in (0, 1), done
    missing = line.refuses("diagnose", "t.parquet", "--schema", "s.toml", "--train", write(table(), "train.parquet"))
    assert "\x1b[31m" not in missing  # no name of a column steers the terminal


def write(frame, name):
    frame.write_parquet(name)
    return name


# ---------------------------------------------------------------------- few rows, odd ids, odd scores: answers, not errors


SCORES = {
    "NaN": pl.lit(float("nan")), "infinite": pl.lit(float("inf")), "missing": pl.lit(None, dtype=pl.Float64), "logits": (SCORE / (1 - SCORE)).log(),
    "times ten": SCORE * 10, "constant": pl.lit(0.5), "zero": pl.lit(0.0), "one": pl.lit(1.0), "huge": pl.lit(1e308),
    "some NaN": pl.when(USER == 3).then(float("nan")).otherwise(SCORE),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_odd_scores_are_judged(line, score):
    table(2000).with_columns(score=score).write_parquet("t.parquet")
    done = line("diagnose", "t.parquet", "--schema", "s.toml", "--format", "json")
    assert done.code in (0, 1), done.err
    report = json.loads(done.out)
    assert done.code == (1 if report["verdict"] == "FAIL" else 0)
    found = {finding["code"]: finding for finding in report["findings"]}
    for code in ("predictions.calibration", "predictions.ranking_quality"):
        assert found[code]["verdict"] in ("UNKNOWN", "FAIL", "WARN", "PASS")
        if found[code]["verdict"] == "UNKNOWN":
            assert len(found[code]["claim"]) > 10, found[code]  # the reason


def test_a_fail_exits_with_1(line):
    table(6000).with_columns(score=SCORE / 4).write_parquet("t.parquet")
    done = line("diagnose", "t.parquet", "--schema", "s.toml", "--format", "json")
    assert json.loads(done.out)["verdict"] == "FAIL"
    assert done.code == 1


@pytest.mark.parametrize("score", [pl.lit("high"), pl.concat_list("score")], ids=["text", "lists"])
def test_scores_that_are_no_numbers(line, score):
    table().with_columns(score=score).write_parquet("t.parquet")
    line.refuses("diagnose", "t.parquet", "--schema", "s.toml", said=("column 'score' holds", "expected numbers", "the role 'score'"))


ANSWERED = {
    "one user": lambda t: t.with_columns(user=pl.lit(3)), "one row": lambda t: t.head(1), "ten rows": lambda t: t.head(10),
    "negative ids": lambda t: t.with_columns(user=-USER - 1), "wide ids": lambda t: t.with_columns(user=USER + 2**60),
    "ids past 2**63": lambda t: t.with_columns(user=USER.cast(pl.UInt64) + (2**63 + 5)), "all clicked": lambda t: t.with_columns(click=pl.lit(1)),
    "none clicked": lambda t: t.with_columns(click=pl.lit(0)), "users missing": lambda t: t.with_columns(user=pl.lit(None, dtype=pl.Int64)),
    "infinite ages": lambda t: t.with_columns(age=pl.when(USER == 3).then(float("inf")).otherwise(AGE)),
    "huge ages": lambda t: t.with_columns(age=pl.when(USER == 3).then(1e300).otherwise(AGE)),
    "long texts": lambda t: t.with_columns(colour=pl.lit("x" * 100_000)),
}


@pytest.mark.parametrize("change", ANSWERED.values(), ids=ANSWERED)
def test_what_cannot_be_known_is_unknown(line, change):
    change(table()).write_parquet("t.parquet")
    done = line("diagnose", "t.parquet", "--schema", "s.toml", "--format", "json")
    assert done.code in (0, 1), done.err
    unknown = [finding for finding in json.loads(done.out)["findings"] if finding["verdict"] == "UNKNOWN"]
    assert unknown
    assert all(finding["claim"] for finding in unknown)


@pytest.mark.parametrize(("change", "said"), [
    (ANSWERED["all clicked"], "label 'click' is 1 in all"), (ANSWERED["none clicked"], "label 'click' is 0 in all"),
    (ANSWERED["one row"], "too few"),
], ids=["all clicked", "none clicked", "one row"])
def test_nothing_to_learn_from(line, change, said):
    change(table()).write_parquet("t.parquet")
    line.refuses("train", "t.parquet", "--schema", "tr.toml", "--run-dir", "run", said=(said,))


# ---------------------------------------------------------------------- schemas


SCHEMAS = {
    "syntax.toml": ("schema = [\n", "not valid TOML"),
    "role.toml": (SCORED.replace("item =", "itme =", 1), "unknown role 'itme'"),
    "kind.toml": (SCORED.replace('"numeric"', '"numerical"'), "kind of field 'age' is 'numerical'"),
    "twice.toml": (SCORED.replace('user = "user"\n', 'user = "user"\nuser = "item"\n', 1), "not valid TOML"),
    "twice.yaml": ("schema: 1\nroles: {user: a, user: b}\n", "'user' is given twice"),
    "twice.json": ('{"roles": {"user": "a", "user": "b"}}', "'user' is given twice"),
    "same.toml": (SCORED.replace('item = "item"\n', 'item = "user"\n', 1), "'user' is both the user and the item"),
    "leak.toml": (SCORED.replace('score = "score"', 'score = "click"'), "'click' is both a label and the score"),
    "input.toml": (SCORED + 'click = "numeric"\n', "both label and input field"),
    "labels.toml": (SCORED.replace('name = "click"', 'name = "click"\n[[labels]]\nname = "click"'), "labels named more than once"),
    "list.toml": (SCORED.replace('user = "user"\n', 'user = ["user"]\n', 1), "expected the name of a column"),
    "number.toml": (SCORED.replace('user = "user"\n', "user = 3\n", 1), "role 'user' is 3"),
    "roles.toml": ('roles = "user"\n', "roles is 'user', expected a table"),
    "fields.toml": ("fields = 3\n", "fields is 3, expected a table"),
    "field.toml": (SCORED.replace('age = "numeric"', "age = 3"), "field 'age' is 3"),
    "count.toml": (SCORED.replace('age = "numeric"', 'age = { minimum_count = "a" }'), "minimum_count is 'a', expected a whole number"),
    "missing.toml": (SCORED.replace('age = "numeric"', "age = { missing = 3 }"), "missing is 3, expected a list"),
    "least.toml": (SCORED.replace('name = "click"', 'name = "click"\nat_least = "a"'), "at_least is 'a', expected a number"),
    "positive.toml": (SCORED.replace('name = "click"', 'name = "click"\npositive = "maybe"'), "no row has the positive value 'maybe'"),
    "version.toml": (SCORED.replace("schema = 1", "schema = 99"), "schema format 99"),
    "unit.toml": ("time_unit = 'hours'\n" + SCORED, "time_unit is 'hours'"),
    "ignored.toml": ("ignored = 'abc'\n" + SCORED, "ignored is 'abc'"),
    "more.toml": (SCORED + "[more]\na = 1\n", "unknown setting 'more'"),
    "name.toml": (SCORED + '"no\\u0022such; drop table t" = "numeric"\n', 'no"such; drop table t'),
    "empty.toml": ("", "names no score column"),
    "nothing.yaml": ("schema: 1\nroles:\nlabels:\nfields:\n", "names no score column"),
    "scalar.yaml": ("3", "holds int, not a table of settings"),
    "keys.yaml": ("schema: 1\n3: 4\nx: 5\n", "unknown setting '3', 'x'"),
    "deep.json": ("[" * 100_000, "nested too deeply"),
    "latin.toml": ("name = '\u00e9'\n".encode("latin-1"), "not UTF-8 text"),
    "large.toml": (b"# " + b"x" * (16 * 2**20), "a schema has at most"),
}


def test_schemas_that_cannot_be_read(line):
    for name, (content, said) in SCHEMAS.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        line.refuses("diagnose", "t.parquet", "--schema", name, said=(said,))
    for name, said in (("none.toml", "no schema file at none.toml"), (".", "a folder is not a schema file"), ("t.parquet", "not UTF-8 text"),
                       ("x" * 400 + ".toml", "File name too long")):
        line.refuses("diagnose", "t.parquet", "--schema", name, said=(said,))


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch pwned']\n", "schema: 1\nname: !!python/name:os.system\n",
                                  "schema: 1\nname: !!python/object/new:os.system ['touch pwned']\n"])
def test_a_schema_is_never_executed(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(text)
    with pytest.raises(SchemaError, match="not valid YAML"):
        Schema.read("s.yaml")
    assert not Path("pwned").exists()


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf" + SCORED.encode())
    assert Schema.read(tmp_path / "s.toml").score == "score"


# ---------------------------------------------------------------------- slices and options


@pytest.mark.parametrize(("text", "said"), [
    ("nonsense", "cannot read the slice"), ("=x", "cannot read the slice"), ("user>abc", "'abc' is not a number"), ("user>", "'' is not a number"),
    ("colour>3", "column 'colour' holds categories"),
])
def test_slices_that_cannot_be_read(line, text, said):
    line.refuses("diagnose", "t.parquet", "--schema", "s.toml", "--slice", text, said=(said,))


def test_slices_without_rows_are_unknown(line):
    done = line("diagnose", "t.parquet", "--schema", "s.toml", "--format", "json", "--slice", "absent=3", "--slice", "age>1000")
    assert done.code in (0, 1), done.err
    claims = " ".join(finding["claim"] for finding in json.loads(done.out)["findings"] if finding["verdict"] == "UNKNOWN")
    assert "absent" in claims or "age>1000" in claims


OPTIONS = [
    (["train", "t.parquet", "--schema", "tr.toml", "--epochs", "0"], "maximum_epochs is 0, expected 1 or more"),
    (["train", "t.parquet", "--schema", "tr.toml", "--epochs", "-3"], "maximum_epochs is -3"),
    (["train", "t.parquet", "--schema", "tr.toml", "--epochs", "x"], "--epochs"),
    (["train", "t.parquet", "--schema", "tr.toml", "--model", "nope"], "no model named 'nope'"),
    (["train", "t.parquet", "--schema", "tr.toml", "--label", "nope"], "no label 'nope'"),
    (["train", "t.parquet", "--schema", "tr.toml", "--seed", "-1"], "seed is -1"),
    (["train", "t.parquet", "--dataset", "x"], "either a table"), (["train"], "either a table"), (["train", "t.parquet"], "needs a schema"),
    (["train", "--dataset", "nope"], "no data set 'nope'"), (["train", "--resume", "nope"], "no run directory at nope"),
    (["demo", "--dataset", "nope", "--no-open"], "no data set 'nope'"), (["datasets", "../x"], "no data set '../x'"),
    (["diagnose"], "nothing to examine"), (["diagnose", "t.parquet"], "needs a schema"), (["diagnose", "."], "without run.json"),
    (["diagnose", "t.parquet", "--schema", "s.toml", "--format", "pdf"], "--format"),
    (["diagnose", "t.parquet", "--eval", "t.parquet", "--schema", "s.toml"], "which table is to be examined"),
    (["report", "nope"], "no findings at nope"), (["report", "."], "no findings"), (["report", "t.parquet"], "is not JSON"),
    (["doctor"], "needs a run directory"), (["schema", "init"], "Missing argument"), (["frobnicate"], "No such command"),
]


def test_options_that_make_no_sense(line):
    for arguments, said in OPTIONS:
        line.refuses(*arguments, said=(said,))


# ---------------------------------------------------------------------- places that cannot be written


@pytest.mark.parametrize("out", ["file/found.txt", "folder", "x" * 300])
def test_places_that_cannot_be_written(line, out):
    Path("file").write_text("")
    Path("folder").mkdir()
    said = ("File name too long",) if out.startswith("x") else (f"cannot write {out}",)
    for form in ("text", "json", "html"):
        line.refuses("diagnose", "t.parquet", "--schema", "s.toml", "--format", form, "--out", out, said=said)
    line.refuses("schema", "init", "t.parquet", "--out", out, said=said)
    if out != "folder":
        line.refuses("train", "t.parquet", "--schema", "tr.toml", "--run-dir", out, said=said)
    line.refuses("train", "t.parquet", "--schema", "tr.toml", "--runs", "file", said=("cannot write file: it is a file",))


def test_an_older_file_stays_when_a_new_one_cannot_be_written(line):
    Path("found.json").write_text("old")
    line.refuses("diagnose", "t.parquet", "--schema", "s.toml", "--train", "none.parquet", "--format", "json", "--out", "found.json")
    assert Path("found.json").read_text() == "old"
    done = line("diagnose", "t.parquet", "--schema", "s.toml", "--format", "json", "--out", "new/folder/found.json")
    assert done.code in (0, 1)
    assert json.loads(Path("new/folder/found.json").read_text())["format"] == "recspect-findings"
    Path("draft.toml").write_text("mine")
    line.refuses("schema", "init", "t.parquet", "--out", "draft.toml", said=("exists already",))
    assert Path("draft.toml").read_text() == "mine"


def test_a_full_disk_leaves_nothing_half_written(line):
    """A limit on the size of files stands for a full disk: the page is larger, and the checkpoint too."""
    limited = ("import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
               "from recspect import cli; sys.argv = ['recspect', *sys.argv[1:]]; cli.main()")
    before = line.files()
    page = subprocess.run([sys.executable, "-c", limited, "diagnose", "t.parquet", "--schema", "s.toml", "--format", "html", "--out", "page.html"],
                          capture_output=True, text=True, check=False, timeout=120)
    assert page.returncode == 2
    must_teach(page.stderr, ("cannot write page.html", "too large"))
    assert line.files() == before
    run = subprocess.run([sys.executable, "-c", limited, "train", "t.parquet", "--schema", "tr.toml", "--run-dir", "run", "--epochs", "1"],
                         capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 2
    must_teach(run.stderr, ("cannot write", "too large"))
    assert not [name for name in line.files() if name.startswith("run/") and (Path(name).name.startswith(".") or "epoch-" in name)]
    assert json.loads(Path("run/run.json").read_text())["status"] == "interrupted"


# ---------------------------------------------------------------------- databases


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM nowhere", "SELECT 'unclosed FROM data", "DROP TABLE data", "SELECT 1; SELECT 2",
                                 'SELECT "no""such" FROM data', "SELECT * FROM postgres_scan('host=127.0.0.1 port=1', 'public', 't')"])
def test_queries_that_cannot_run(tmp_path, sql):
    table().write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError) as told:
        read(tmp_path / "t.parquet", sql=sql)
    assert told.value.hint
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    with pytest.raises(DataError) as told:
        read(connection, sql=sql)
    assert told.value.hint


def test_quotes_in_identifiers_are_names():
    connection = duckdb.connect()
    connection.execute('CREATE TABLE "t; drop" AS SELECT 1 AS "a""b", 2 AS "c; drop table t"')
    source = read(connection, sql='SELECT * FROM "t; drop"')
    (batch,) = source.batches(['a"b', "c; drop table t"])
    assert batch['a"b'].tolist() == [1]
