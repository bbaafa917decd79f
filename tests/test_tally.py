"""Tallies: adding, storing, reading back, and refusing what is damaged."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.slice import ALL, Slice
from recspect.diagnosis.stat import Bucketed, Stat, Summary
from recspect.diagnosis.stats.measures import NDCG
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.stats.ranking import PerUnit
from recspect.diagnosis.tally import Tally, _encode
from recspect.errors import RunError, Unavailable

X = Moments(column="x")
DE = Slice.parse("country=DE")


def tally(values, slice_=ALL, stat=X):
    return Tally({(slice_, stat): stat.summarize(Batch({"x": np.array(values, dtype=float)}))})


def test_tallies_add_and_keep_what_only_one_side_has():
    total = tally([1, 2]) + tally([3]) + tally([10], DE)
    assert total.get_summary(X).count == 3
    assert total.get_summary(X).mean == 2
    assert total.get_summary(X, DE).mean == 10
    assert total.has(X, DE)
    assert not total.has(Moments(column="y"))
    assert len(total) == 2


def test_what_was_not_tallied_is_unavailable():
    with pytest.raises(Unavailable, match="Moments of y was not measured on country=DE"):
        tally([1]).get_summary(Moments(column="y"), DE)


def test_equal_stats_are_one_key():
    assert tally([1])[ALL, Moments(column="x")].mean == 1
    assert PerUnit(unit="u", measures=[NDCG(k=5)]) == PerUnit(unit="u", measures=(NDCG(k=5),))


def test_writing_and_reading(tmp_path):
    stat = Bucketed(stat=PerUnit(unit="u", measures=(NDCG(k=5), NDCG(k=None))), by="u", buckets=5)
    batch = Batch({"u": np.array([1, 1, 2]), "@score": np.array([.1, .2, .3]), "@label": np.array([0, 1, 1])})
    path = tmp_path / "tallies" / "day.tally"
    written = tally([1.5, np.nan], DE) + Tally({(ALL, stat): stat.summarize(batch)})
    written.write(path)
    read = Tally.read(path)
    assert set(read) == set(written)
    assert read.get_summary(X, DE) == written.get_summary(X, DE)
    assert read.get_summary(stat) == written.get_summary(stat)
    assert [p.name for p in path.parent.iterdir()] == ["day.tally"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "day.tally"
    tally([1]).write(path)
    with pytest.raises(TypeError, match="a set cannot be stored"):
        Tally({(ALL, X): {1, 2}}).write(path)
    assert Tally.read(path).get_summary(X).mean == 1
    assert [p.name for p in tmp_path.iterdir()] == ["day.tally"]


def test_a_stored_tally_is_read_where_no_stat_was_imported(tmp_path):
    tally([1, 3]).write(tmp_path / "day.tally")
    code = ("import sys; from recspect.diagnosis.tally import Tally; t = Tally.read(sys.argv[1]); (key,) = t; "
            "print(key[1], t[key].mean, 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "day.tally")], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "Moments(column='x') 2.0 False"


def rewritten(change):
    with np.load(io.BytesIO(tally([1]).to_bytes())) as archive:
        arrays = {name: archive[name] for name in archive.files}
    index = json.loads(arrays["index"].tobytes())
    arrays["index"] = np.frombuffer(json.dumps(change(index)).encode(), dtype=np.uint8)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def test_damage_is_told(tmp_path):
    whole = tally([1]).to_bytes()
    for damaged in (b"", b"nonsense", whole[:-30], whole[:50]):
        with pytest.raises(RunError, match="is not a readable tally"):
            Tally.from_bytes(damaged)
    with pytest.raises(RunError, match="tally format 99, this recspect reads 1"):
        Tally.from_bytes(rewritten(lambda index: {**index, "version": 99}))
    with pytest.raises(RunError, match="tally format None"):
        Tally.from_bytes(rewritten(lambda index: [index]))
    with pytest.raises(RunError, match="is damaged"):
        Tally.from_bytes(rewritten(lambda index: {"version": 1}))
    with pytest.raises(RunError, match="is damaged"):
        Tally.from_bytes(rewritten(lambda index: {**index, "entries": [[1, {"$type": "Moments", "colour": "x"}, 2]]}))
    with pytest.raises(RunError, match="holds a Unheard, which is not known here"):
        Tally.from_bytes(rewritten(lambda index: {**index, "entries": [[{"$type": "Unheard"}] * 3]}))
    with pytest.raises(RunError, match="no tally at"):
        Tally.read(tmp_path / "none.tally")


def test_no_pickle_is_written_or_read():
    out = io.BytesIO()
    np.savez(out, index=np.array([object()], dtype=object))
    with pytest.raises(RunError, match="not a readable tally"):
        Tally.from_bytes(out.getvalue())
    with pytest.raises(TypeError, match="a complex cannot be stored"):
        _encode(1j, {})


def test_a_second_class_of_a_registered_name_is_refused():
    for base, name in ((Summary, "MomentsSummary"), (Stat, "Moments")):
        with pytest.raises(TypeError, match=f"defines {name}, a name that recspect.diagnosis.stats.moments"):
            type(name, (base,), {"__module__": "plug_in"})
    assert Stat.registry["Moments"] is Moments
