"""Finding items by vectors: exact against brute force, the graph of neighbours against exact."""

import sys

import numpy as np
import pytest

from recspect.errors import MissingExtraError, RunError
from recspect.recommending.pipeline.vector_index import EXACT_ITEMS, ExactIndex, GraphIndex, make_index


def vectors(n, width=32, seed=0):
    """Vectors of length 1 near to a space of eight dimensions, as learnt ones are."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(n, 8)) @ np.random.default_rng(9).normal(size=(8, width)) + 0.3 * rng.normal(size=(n, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("items", "n"), [(50, 10), (50, 50), (50, 80), (3000, 10), (3000, 1)])
def test_the_exact_index_is_a_sort_of_all_scores(items, n):
    known, queries = vectors(items), vectors(7, seed=1)
    found, values = ExactIndex(known).search(queries, n)
    scores = queries @ known.T
    assert found.shape == (7, min(n, items))
    for row in range(7):
        expected = np.lexsort((np.arange(items), -scores[row]))[: min(n, items)]
        assert found[row].tolist() == expected.tolist()
        np.testing.assert_allclose(values[row], scores[row][expected], atol=1e-6)


def test_equal_vectors_come_in_order_of_their_place():
    known = np.repeat(vectors(2), 300, axis=0)
    found, _ = ExactIndex(known).search(known[:1], 5)
    assert found[0].tolist() == [0, 1, 2, 3, 4]


def test_nothing_to_find():
    assert ExactIndex(np.zeros((0, 4), dtype=np.float32)).search(np.zeros((2, 4), dtype=np.float32), 3)[0].shape == (2, 0)
    assert ExactIndex(vectors(5)).search(np.zeros((0, 32), dtype=np.float32), 3)[0].shape == (0, 3)


def test_few_items_are_compared_exactly():
    assert isinstance(make_index(vectors(100)), ExactIndex)
    assert EXACT_ITEMS >= 10_000


# ---------------------------------------------------------------------- the graph


@pytest.fixture(scope="module")
def graph():
    pytest.importorskip("usearch", reason="usearch is not installed")
    known = vectors(6000)
    return known, GraphIndex(known)


def recall(index, known, queries, n):
    exact, _ = ExactIndex(known).search(queries, n)
    found, values = index.search(queries, n)
    np.testing.assert_allclose(values, np.take_along_axis(queries @ known.T, found, axis=1), atol=1e-5)
    assert (np.diff(values, axis=1) <= 1e-7).all()
    return np.mean([len(set(one) & set(other)) / n for one, other in zip(exact.tolist(), found.tolist(), strict=True)])


@pytest.mark.parametrize("n", [10, 200])
def test_the_graph_finds_nearly_all_of_the_true_neighbours(graph, n):
    known, index = graph
    assert recall(index, known, vectors(200, seed=2), n) > 0.99


def test_a_graph_in_a_file_finds_the_same(graph, tmp_path):
    known, index = graph
    index.save(tmp_path / "graph.usearch")
    queries = vectors(20, seed=3)
    again = make_index(known, kind="graph", path=tmp_path / "graph.usearch")
    assert again.search(queries, 10)[0].tolist() == index.search(queries, 10)[0].tolist()
    assert GraphIndex(known).search(queries, 10)[0].tolist() == index.search(queries, 10)[0].tolist()  # built anew, the same graph
    with pytest.raises(RunError, match="expected 100"):
        GraphIndex(known[:100], tmp_path / "graph.usearch")
    (tmp_path / "graph.usearch").write_bytes((tmp_path / "graph.usearch").read_bytes()[:1000])
    with pytest.raises(RunError):
        GraphIndex(known, tmp_path / "graph.usearch")


def test_without_usearch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtraError, match="recspect\\[index\\]"):
        GraphIndex(vectors(10))
