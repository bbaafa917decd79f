"""Pictures of one embedding table: norms against frequency, spectrum, what lies near a row, and where a sample of the rows lies."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recspect.dashboard.embedding_rows import (
    MOST_ROWS,
    FieldTable,
    RunTables,
    SavedState,
    neighbours,
    some_rows,
)
from recspect.diagnosis.diagnostics.embeddings.spectrum import gaussian_effective_rank
from recspect.diagnosis.evidence import Curve, Evidence, Line, RankedTable, Scatter
from recspect.errors import MissingExtraError

STAGE = "embeddings"
SAMPLE = 400
"""Rows of a projection, drawn by how often training read them."""
BINS = 24
"""Stretches of frequency."""
SELDOM = 5
"""Reads below which a row has hardly been trained."""
WAYS = ("pca", "umap")
"""How a sample is laid out in the plane."""


def all_tables(tables: RunTables) -> RankedTable:
    """Every table: its size, and how much of it training never or hardly read."""
    rows = []
    for table in sorted(tables.tables.values(), key=lambda one: -one.rows):
        if table.counts is None:
            rows.append((table.field, table.rows, table.width, None, None, None, None))
            continue
        never, seldom = int((table.counts == 0).sum()), int((table.counts < SELDOM).sum())
        rows.append((table.field, table.rows, table.width, never, round(never / table.rows, 4), seldom, float(np.median(table.counts))))
    return RankedTable(title="How much of each table has training read?", rows=tuple(rows), stage=STAGE,
                       columns=("table", "table rows", "width", "never read", "share never read", f"read fewer than {SELDOM} times", "median reads"),
                       caption="the rows of missing, unknown and rare values count too; a table without counts is of numbers in buckets")


def pictures(table: FieldTable, state: SavedState, *, smallest: int, by: str = "pca") -> list[Evidence]:
    """Norms, spectrum and projection of one table in one state.

    Args:
        table: Which.
        state: When.
        smallest: Values that training saw fewer times are not named, nor are people.
        by: `pca` or `umap`.

    Raises:
        RunError: The state cannot be read.
        MissingExtraError: UMAP is not installed.
    """
    at, vectors = some_rows(table, state)
    counts = None if table.counts is None else table.counts[at]
    sampled = "" if len(at) == table.rows else f"; {len(at):,} of {table.rows:,} rows were looked at, at most {MOST_ROWS:,}"
    shown: list[Evidence] = []
    if counts is not None:
        shown += [norms(vectors, counts, state, sampled)]
    trained = vectors if counts is None else vectors[counts > 0]
    if table.width > 1 and len(trained) > 1:
        shown += [spectrum(trained, state, sampled), projection(table, at, vectors, counts, state, smallest=smallest, by=by)]
    return [piece for piece in shown if piece is not None]


def norms(vectors: NDArray[np.float32], counts: NDArray[np.int64], state: SavedState, sampled: str = "") -> Curve:
    """Lengths of vectors over how often training read them: median and middle 80% by stretches of frequency."""
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    read = counts > 0
    never = f"; {int((~read).sum()):,} rows never read have length {np.median(length[~read]):.3g} in the middle" if (~read).any() else "; every row was read"
    seen, long = counts[read], length[read]
    edges = np.unique(np.geomspace(1, max(2, int(seen.max(initial=1)) + 1), BINS + 1))
    which = np.clip(np.searchsorted(edges, seen, side="right") - 1, 0, len(edges) - 2)
    x, y, low, high = [], [], [], []
    for k in np.unique(which):
        inside = long[which == k]
        x.append(float(np.median(seen[which == k])))
        y.append(float(np.median(inside)))
        low.append(float(np.quantile(inside, 0.1)))
        high.append(float(np.quantile(inside, 0.9)))
    line = Line(name="median length", x=tuple(x), y=tuple(y), low=tuple(low), high=tuple(high))
    return Curve(title="Do frequent values have longer vectors?", x_title="times that training read the row", y_title="Euclidean length", lines=(line,), log_x=True, stage=STAGE,
                 caption=f"{int(read.sum()):,} rows at {state.name}; the band holds the middle 80%{never}{sampled}")


def spectrum(vectors: NDArray[np.float32], state: SavedState, sampled: str = "") -> Curve:
    """Singular values of the table less its mean, beside those of random numbers of the same shape."""
    values = _singular(vectors)
    share = values / values.sum() if values.sum() > 0 else values
    with np.errstate(divide="ignore", invalid="ignore"):
        rank = float(np.exp(-np.nansum(np.where(share > 0, share * np.log(share), 0.0))))
    chance = _singular(np.random.default_rng(0).normal(size=(min(len(vectors), 4096), vectors.shape[1])).astype(np.float32))
    lines = tuple(Line(name=name, x=tuple(float(k) for k in range(1, len(found) + 1)), y=tuple((found / (found[0] or 1.0)).tolist()), role=role)
                  for name, found, role in (("random numbers", chance, "reference"), ("this table", values, "target")))
    return Curve(title="How evenly does it use its dimensions?", x_title="direction, strongest first", y_title="singular value / largest", lines=lines, stage=STAGE,
                 caption=f"{len(vectors):,} rows that training read, at {state.name}; in effect {rank:.1f} of {vectors.shape[1]} dimensions, random numbers "
                         f"{gaussian_effective_rank(len(vectors), vectors.shape[1]):.1f}{sampled}")


def projection(table: FieldTable, at: NDArray[np.int64], vectors: NDArray[np.float32], counts: NDArray[np.int64] | None, state: SavedState, *, smallest: int, by: str) -> Scatter | None:
    """A sample of the rows, drawn by how often training read them, laid out in the plane."""
    known = at >= 3
    chance = np.where(known, 1.0 if counts is None else counts.astype(np.float64), 0.0)
    n = min(SAMPLE, int((chance > 0).sum()))
    if n < 3:
        return None
    chosen = np.sort(np.random.default_rng(0).choice(len(at), n, replace=False, p=chance / chance.sum()))
    rows = vectors[chosen].astype(np.float64)
    if by == "umap":
        plane, titles, how = _umap(rows), ("UMAP 1", "UMAP 2"), "by UMAP (cosine): what is near is alike, distances between groups mean little"
    else:
        centred = rows - rows.mean(0)
        left, sizes, right = np.linalg.svd(centred, full_matrices=False)
        turned = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])[:2]  # the same way round each time
        plane = left[:, :2] * sizes[:2] * turned
        share = np.square(sizes) / max(float(np.square(sizes).sum()), 1e-30)
        titles = (f"first direction ({100 * share[0]:.0f}% of the variance)", f"second direction ({100 * share[1]:.0f}%)")
        how = "by principal components"
    return Scatter(title=f"Which values of {table.field} lie together?", x_title=titles[0], y_title=titles[1], x=tuple(plane[:, 0].tolist()), y=tuple(plane[:, 1].tolist()),
                   names=tuple(table.name(int(at[k]), smallest) for k in chosen), stage=STAGE, caption=f"{n:,} rows at {state.name}, drawn by how often training read them; {how}")


def near(table: FieldTable, state: SavedState, row: int, *, smallest: int) -> RankedTable:
    """What lies nearest to a row.

    Raises:
        RunError: The state cannot be read.
    """
    found, looked = neighbours(table, state, row)
    return RankedTable(title=f"What does the model take for most like {table.field} {table.name(row, smallest)}?", columns=(table.field, "row", "cosine", "reads in training"), stage=STAGE,
                       rows=tuple((table.name(other, smallest), f"#{other}", round(cosine, 4), None if table.counts is None else int(table.counts[other])) for other, cosine in found),
                       caption=f"among {looked:,} rows that training read, at {state.name}"
                               + ("" if smallest <= 1 else f"; people, and values seen fewer than {smallest} times, are named by their row"))


def _singular(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Singular values of centred vectors, by way of their covariance."""
    exact = vectors.astype(np.float64)
    exact -= exact.mean(0)
    return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(exact.T @ exact)[::-1], 0.0)))


def _umap(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of libraries that it could use and does not need
        try:
            import umap
        except ImportError:
            raise MissingExtraError("umap", extra="projection", purpose="A projection by UMAP") from None
        found: NDArray[np.float64] = umap.UMAP(n_neighbors=min(15, len(rows) - 1), metric="cosine", random_state=0, n_jobs=1).fit_transform(rows)
    return found


def titles() -> Mapping[str, str]:
    """How to lay out, in words."""
    return {"pca": "principal components", "umap": "UMAP"}


__all__ = ["SAMPLE", "STAGE", "WAYS", "all_tables", "near", "norms", "pictures", "projection", "spectrum", "titles"]
