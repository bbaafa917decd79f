"""Which slices are worth counting, level by level: values of fields, then crossings of two, then of three whose parts are large enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.diagnostics.predictions.sliceline import Slices, children, upper_bound
from recspect.diagnosis.stats.categories import CategoryCountsSummary
from recspect.diagnosis.stats.slice_sums import LOSS, POSITIVE, PREDICTED, PROMISED, ROWS, Crossing

Floats = NDArray[np.float64]
CATEGORIES, CROSSED_FIELDS, MOST = 100, 10, 20_000
LEAST_ROWS, LEAST_SHARE, LEAST_POSITIVES = 100, 0.002, 10
CROSSED_ROWS, CROSSED_SHARE = 200, 0.01
SAME = 0.01
"""A crossing with all but this share of the rows of one of its parts says nothing of its own: one of its fields tells the other."""

_RATIOS = ((LOSS, PROMISED), (POSITIVE, PREDICTED), (PREDICTED, POSITIVE))
"""What is too high over what: the sizes and errors of the bound."""

WHOLE: Crossing = ((), ((),))
"""All rows."""


@dataclass(frozen=True)
class First:
    """Slices of one and of two fields.

    Args:
        crossings: For `SliceSums`, all rows first.
        too_many: Fields of too many categories.
        left_out: How many crossings there were beyond `MOST`.
    """

    crossings: tuple[Crossing, ...]
    too_many: tuple[str, ...]
    left_out: int


def least_rows(rows: float, terms: int) -> float:
    """Rows that a slice needs; a crossing more, as every one that is looked at makes all others harder to tell from chance."""
    return max(LEAST_ROWS, LEAST_SHARE * rows) if terms < 2 else max(CROSSED_ROWS, CROSSED_SHARE * rows)


def first_slices(counts: Mapping[str, CategoryCountsSummary], rows: float, share: float = 1.0) -> First:
    """Values and pairs of values with enough rows, from how often each category occurs among all rows, of which the share is searched."""
    rows *= share
    too_many = tuple(name for name, summary in counts.items() if summary.truncated or len(summary.names) > CATEGORIES)
    sizes = {name: dict(zip(summary.names, (share * summary.counts).tolist(), strict=True)) for name, summary in counts.items() if name not in too_many}
    singles = [((name,), tuple((text,) for text, n in found.items() if least_rows(rows, 1) <= n < rows)) for name, found in sizes.items()]
    pairs: list[tuple[float, tuple[str, str], tuple[str, str]]] = []
    for one, other in combinations(list(sizes)[:CROSSED_FIELDS], 2):
        large = [[(text, n) for text, n in sizes[name].items() if least_rows(rows, 2) <= n < rows] for name in (one, other)]
        pairs += [(min(n, m), (one, other), (text, second)) for text, n in large[0] for second, m in large[1]]
    pairs.sort(key=lambda pair: -pair[0])
    return First((WHOLE, *(single for single in singles if single[1]), *_grouped([(fields, texts) for _, fields, texts in pairs[:MOST]])), too_many, max(0, len(pairs) - MOST))


def third_slices(slices: Sequence[tuple[tuple[str, str], ...]], sums: Floats) -> tuple[Crossing, ...]:
    """Crossings of three fields that may have enough rows, from sums of singles and pairs, shape [M, buckets, 6]; the `MOST` of greatest bound where there are more.

    Each of the three pairs must have the rows and the positives and negatives that a crossing needs. The bound is SliceLine's, with the least of the three: for loss over
    what was promised, for positives observed over predicted, and the other way round.
    """
    totals = sums.sum(1)
    whole = totals[slices.index(())]
    rows = float(whole[ROWS])
    by_terms = {terms: i for i, terms in enumerate(slices)}
    pairs = []
    for terms, i in by_terms.items():
        if len(terms) == 2:
            size, positive = totals[i, ROWS], totals[i, POSITIVE]
            own = [totals[by_terms[(term,)], ROWS] for term in terms if (term,) in by_terms]
            if size >= least_rows(rows, 3) and min(positive, size - positive) >= LEAST_POSITIVES and all(size < (1 - SAME) * n for n in own):
                pairs.append((terms, i))
    if not pairs:
        return ()
    names = sorted({name for terms, _ in pairs for name, _ in terms})
    texts = sorted({text for terms, _ in pairs for _, text in terms})
    field, value = {name: k for k, name in enumerate(names)}, {text: k for k, text in enumerate(texts)}
    ordered = [(sorted(terms, key=lambda term: field[term[0]]), i) for terms, i in pairs]
    fields = np.array([[field[name] for name, _ in terms] for terms, _ in ordered])
    values = np.array([[value[text] for _, text in terms] for terms, _ in ordered])
    at = np.array([i for _, i in ordered])
    found: dict[tuple[tuple[int, int], ...], float] = {}
    for error, size in _RATIOS:
        level = children(Slices(fields, values, totals[at, size], totals[at, error], np.full(len(at), np.inf)))
        if not len(level) or whole[size] <= 0:
            continue
        mean = float(whole[error] / whole[size])
        bound = upper_bound(level, least=CROSSED_SHARE * float(whole[size]), mean_error=max(mean, 1e-12), rows=float(whole[size]))
        for key, most in zip(level.keys(), bound.tolist(), strict=True):
            found[key] = max(most, found.get(key, -np.inf))
    best = sorted(found, key=lambda key: (-found[key], key))[:MOST]
    return _grouped([(tuple(names[f] for f, _ in key), tuple(texts[v] for _, v in key)) for key in best])


def _grouped(slices: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]) -> tuple[Crossing, ...]:
    by_fields: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for fields, texts in slices:
        by_fields.setdefault(fields, []).append(texts)
    return tuple((fields, tuple(sorted(texts))) for fields, texts in sorted(by_fields.items()))
