"""The commands: a recommender of a run, lists in a file, a list on the terminal, errors that say what to do."""

import json

import pyarrow.parquet as pq
import pytest

from recspect.diagnosis.source_values import to_arrow
from recspect.worlds import World, split_by_time

pytest.importorskip("torch")

from typer.testing import CliRunner

from recspect.cli import app
from recspect.errors import RecspectError
from recspect.recommending.pipeline import Recommender
from recspect.training.config import TrainingConfig
from recspect.training.loop import train

WORLD = World(users=80, items=60, rows=4000)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    pq.write_table(to_arrow(WORLD.exposures()), folder / "log.parquet")
    config = TrainingConfig(maximum_epochs=1, observe_every=0, histograms_every=0)
    return train(WORLD.exposures(), WORLD.schema, config, folder / "run", reference={"kind": "file", "path": str(folder / "log.parquet")}).folder


def call(*words):
    """Standard output; errors that a user can mend are raised."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, RecspectError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def test_a_run_gives_lists_in_a_file_and_keeps_its_recommender(run, tmp_path):
    out = tmp_path / "lists.parquet"
    assert call("recommend", run, "--k", 5, "--out", out, "--trace").strip() == str(out)
    table = pq.read_table(out)
    assert table.num_rows == 5 * len(set(WORLD.exposures()["user"].tolist()))
    assert pq.read_table(tmp_path / "lists.trace.parquet").num_rows == table.num_rows // 5
    made = (run / "recommender" / "recommender.json").read_bytes()
    call("recommend", run, "--k", 5, "--out", tmp_path / "again.parquet")
    assert (run / "recommender" / "recommender.json").read_bytes() == made  # not built again
    assert pq.read_table(tmp_path / "again.parquet").equals(table)


def test_one_user_on_the_terminal(run, tmp_path):
    call("recommender", "build", run, "--out", tmp_path / "made", "--rows", "train", "--sources", "item_knn, popular", "--steps",
         "already_seen, epsilon_greedy(epsilon=0.2)")
    found = json.loads(call("recommend", tmp_path / "made", "--user", 7, "--k", 3, "--context", "surface=home", "--seed", 4, "--trace"))
    lists = Recommender.load(tmp_path / "made").recommend([7], 3, context={"surface": "home"}, seed=4)
    assert [row["item"] for row in found["items"]] == lists.ids(0)
    assert [row["propensity"] for row in found["items"]] == lists.slates[0].propensity.tolist()
    assert {source["source"] for candidate in found["trace"] for source in candidate["sources"]} == {"item_knn", "popular"}
    assert json.loads(call("recommend", tmp_path / "made", "--user", "nobody", "--unknown"))["notes"][0] == "the user is not known"


def test_candidates_can_be_ordered_by_their_sources_instead_of_the_model(run, tmp_path):
    call("recommender", "build", run, "--out", tmp_path / "made", "--ranking", "sources", "--sources", "popular")
    made = Recommender.load(tmp_path / "made")
    assert made.ranker is None
    unseen = [item for item in made.items.by_popularity.tolist() if item not in made.audience.wanted.of(0)]
    assert made.recommend([made.audience.ids.values[0]], 3).slates[0].items.tolist() == unseen[:3]


def test_users_of_a_file(run, tmp_path):
    (tmp_path / "users.txt").write_text("7\n3\nnobody\n7\n")
    call("recommend", run, "--users", tmp_path / "users.txt", "--k", 2, "--out", tmp_path / "lists.parquet")
    assert pq.read_table(tmp_path / "lists.parquet")["user"].to_pylist() == ["7", "7", "3", "3", "nobody", "nobody"]


@pytest.mark.parametrize(("words", "message"), [
    (["recommend", "RUN"], "to --out FILE"),
    (["recommend", "RUN", "--user", "999999"], "no user '999999'"),
    (["recommend", "RUN", "--user", "7", "--context", "surface"], "cannot be read"),
    (["recommend", "RUN", "--user", "7", "--context", "planet=Mars"], "'planet'"),
    (["recommend", "RUN", "--user", "7", "--steps", "shuffle"], "no step 'shuffle'"),
    (["recommend", "NOTHING", "--user", "7"], "no recommender"),
    (["recommender", "build", "RUN", "--out", "OUT", "--sources", "horoscope"], "no source 'horoscope'"),
    (["recommender", "build", "RUN", "--out", "OUT", "--rows", "some"], "'some'"),
    (["recommender", "build", "RUN", "--out", "OUT", "--ranking", "dice"], "'dice'"),
    (["recommender", "build", "NOTHING", "--out", "OUT"], "no run directory")])
def test_errors_teach(run, tmp_path, words, message):
    places = {"RUN": str(run), "OUT": str(tmp_path / "out"), "NOTHING": str(tmp_path / "nothing")}
    with pytest.raises(RecspectError, match=message):
        call(*(places.get(word, word) for word in words))
    assert not (tmp_path / "out").exists()


def test_a_run_without_items_has_no_lists(tmp_path):
    schema = WORLD.schema.with_roles(item=None)
    rows, _ = split_by_time(WORLD.exposures())
    folder = train(rows, schema, TrainingConfig(maximum_epochs=1, observe_every=0, histograms_every=0), tmp_path / "run").folder
    with pytest.raises(RecspectError, match="names no item column"):
        call("recommender", "build", folder, "--out", tmp_path / "made")
