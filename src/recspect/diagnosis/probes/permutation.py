"""What the model says when the values of a field are dealt out to other rows: the scores behind permutation importance.

The permutations are drawn once over the whole sample, from a seed, the field's name and the number of the repeat. So they depend neither on how rows come in
batches nor on which other fields are permuted, and every batch knows its rows by the column `@position`.

Sources: Breiman 2001, "Random Forests"; Fisher, Rudin and Dominici 2019, "All Models are Wrong, but Many are Useful" (model reliance).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Column, concatenate
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.subject import SCORE_ROWS, Subject, TorchSubject, as_scores
from recspect.errors import DataError, SubjectError, UsageError, listing

if TYPE_CHECKING:
    from recspect.diagnosis.probes.exchange import Piece, RecordedRows

POSITION = "@position"
"""Column of the number of a row in the sample, from 0."""

_COMPARED = 64
"""Rows on which passes with exchanged lookups are compared with the model run on exchanged columns."""


def permutation(field: str, repeat: int, rows: int, seed: int) -> NDArray[np.int64]:
    """Where each row of the sample takes the field's value from, shape (rows,): each row gives its value once."""
    return np.random.default_rng([seed, repeat, zlib.crc32(field.encode())]).permutation(rows)


def with_positions(sample: Batch) -> Batch:
    """The sample with the column `@position`."""
    return sample.with_columns({POSITION: np.arange(sample.rows)})


class PermutedRows:
    """A sample of rows and the ways to score them with a field's values dealt out anew.

    Models of which only scores can be had are run on exchanged columns. PyTorch models are run on exchanged lookups (see `exchange`), field by
    field where this gives what exchanged columns give; a model that cannot be run so is run on columns.

    Args:
        subject: The model.
        sample: All rows.
        fields: Fields to permute; default all that the model reads. A name that `groups` explains stands for several fields.
        groups: Name to fields that are permuted together, each row giving all of them.
        repeats: How often each is permuted.
        seed: Of the permutations.
        whole_passes: See `RecordedRows`; for measures of lists.

    Raises:
        UsageError: A field that the model does not read, or fewer than one repeat.
    """

    def __init__(self, subject: Subject, sample: Batch, *, fields: Sequence[str] | None = None, groups: Mapping[str, Sequence[str]] | None = None,
                 repeats: int = 5, seed: int = 0, whole_passes: bool = False) -> None:
        if repeats < 1:
            raise UsageError(f"{repeats} repeats, expected at least 1")
        self.subject, self.sample, self.repeats, self.seed = subject, sample, repeats, seed
        self.recorded: RecordedRows | None = None
        known = subject.fields
        if isinstance(subject, TorchSubject):
            # here, since it needs torch, and models of which only scores can be had do without
            from recspect.diagnosis.probes.exchange import RecordedRows

            known = subject.sites(sample).fields
            try:
                self.recorded = RecordedRows(subject, sample, whole_passes=whole_passes)
            except SubjectError:  # scored on columns; what is wrong with those comes up there
                if any(name not in sample for name in known):
                    raise
        self.groups = {name: (name,) for name in known} | {name: tuple(own) for name, own in (groups or {}).items()}
        self.fields = tuple(known if fields is None else fields)
        wrong = [name for name in self.fields if name not in self.groups]
        wrong += [name for own in (groups or {}).values() for name in own if name not in known]
        if wrong:
            raise UsageError(f"the model does not read {listing(wrong)}; it reads: {listing(known)}")
        self.exchangeable = self._exchangeable()
        self._drawn: dict[tuple[str, int], NDArray[np.int64]] = {}

    def donors(self, name: str, repeat: int) -> NDArray[np.int64]:
        """Where every row takes the field's value from; see `permutation`."""
        if (name, repeat) not in self._drawn:
            self._drawn[name, repeat] = permutation(name, repeat, self.sample.rows, self.seed)
        return self._drawn[name, repeat]

    def scores(self, rows: NDArray[np.int64], piece: Piece | None, name: str, repeat: int) -> NDArray[np.float64]:
        """Scores of some rows of the sample in one permutation, shape (R,)."""
        donors = self.donors(name, repeat)[rows]
        if piece is not None and self.exchangeable[name]:
            return as_scores(piece.exchanged(self.groups[name], donors), len(rows))
        return self.subject.score(self._columns(name, rows, donors))

    def _columns(self, name: str, rows: NDArray[np.int64], donors: NDArray[np.int64]) -> Batch:
        other = self.sample.take(donors)
        return self.sample.take(rows).with_columns({field: other[field] for field in self.groups[name]})

    def _exchangeable(self) -> dict[str, bool]:
        """For each field, whether exchanged lookups give what exchanged columns give. What is no column of the sample can only be exchanged as a lookup."""
        if self.recorded is None:
            return dict.fromkeys(self.fields, False)
        rows = np.arange(min(_COMPARED, self.sample.rows))
        donors = {name: permutation(name, 0, self.sample.rows, self.seed)[rows] for name in self.fields}
        compared = [name for name in self.fields if all(field in self.sample for field in self.groups[name])]
        if not compared or not len(rows):
            return dict.fromkeys(self.fields, True)
        with self.recorded.running():
            piece = self.recorded.piece(rows)
            found = {name: as_scores(piece.exchanged(self.groups[name], donors[name]), len(rows)) for name in compared}
        expected = self.subject.score(concatenate([self._columns(name, rows, donors[name]) for name in compared])).reshape(len(compared), -1)
        same = {name: bool(np.allclose(found[name], scores, rtol=1e-4, atol=1e-6)) for name, scores in zip(compared, expected, strict=True)}
        return {name: same.get(name, True) for name in self.fields}


class PermutationProbe(Probe):
    """Adds `@score:permuted` (nothing permuted) and, for every field f and repeat r, `@score:permuted:f:r`.

    All come from passes of one kind, so that a field that changes nothing changes nothing, to the last bit.

    Args:
        rows: The sample; batches must carry its column `@position`.
    """

    def __init__(self, rows: PermutedRows) -> None:
        self.rows = rows

    @property
    def adds(self) -> tuple[str, ...]:
        return (BASE, *(column(name, repeat) for name in self.rows.fields for repeat in range(self.rows.repeats)))

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        with nullcontext() if self.rows.recorded is None else self.rows.recorded.running():
            return self._observe(batch)

    def _observe(self, batch: Batch) -> Mapping[str, Column]:
        where = positions_of(batch)
        out: dict[str, NDArray[np.float64]] = {name: np.empty(batch.rows) for name in self.adds}
        for start in range(0, batch.rows, SCORE_ROWS):
            chosen = slice(start, start + SCORE_ROWS)
            mine = where[chosen]
            piece = None if self.rows.recorded is None else self.rows.recorded.piece(mine)
            own = self.rows.subject.score(self.rows.sample.take(mine)) if piece is None else as_scores(piece.score(), len(mine))
            out[BASE][chosen] = own
            plain = own
            if piece is not None and not all(self.rows.exchangeable.values()):
                plain = self.rows.subject.score(self.rows.sample.take(mine))
            for name in self.rows.fields:
                for repeat in range(self.rows.repeats):
                    found = self.rows.scores(mine, piece, name, repeat)
                    if piece is not None and not self.rows.exchangeable[name]:
                        found = np.where(found == plain, own, found)  # what columns do not change stays exactly as it was
                    out[column(name, repeat)][chosen] = found
        return out


BASE = "@score:permuted"
"""The score with nothing permuted."""


def column(name: str, repeat: int) -> str:
    """Name of the column of scores with a field permuted."""
    return f"@score:permuted:{name}:{repeat}"


def positions_of(batch: Batch) -> NDArray[np.int64]:
    """The rows' places in the sample.

    Raises:
        DataError: The batch does not carry them.
    """
    if POSITION not in batch:
        raise DataError(f"permuting needs the column {POSITION!r}, the number of each row in the sample", hint="with_positions(sample) adds it")
    return batch.numbers(POSITION).astype(np.int64)


class PermutationBoundProbe(Probe):
    """Adds `@permutation_bound:f`: by how much permuting the field can raise the row's loss, from one backward pass for all fields.

    For log loss with logit s, probability p and label y, a change of the logit by d raises the loss by at most (p - y) d + d^2 / 8, as its second derivative is at most
    1/4; for squared error by exactly 2 (s - y) d + d^2. Here d is the first-order change, slope times what the lookups differ between the row and its donor,
    averaged over the repeats' donors. It is exact where the logit is linear in each single field (linear, FM and dot parts), so it is a bound there and an estimate
    of one elsewhere.

    Args:
        rows: The sample; batches must carry its column `@position`.
        label: Column of labels.
    """

    def __init__(self, rows: PermutedRows, *, label: str = "@label") -> None:
        if rows.recorded is None:
            raise SubjectError("screening needs the model's slopes by its lookups, which cannot be had", hint="permute all fields instead: screen=None")
        self.rows, self.recorded, self.label = rows, rows.recorded, label

    @property
    def adds(self) -> tuple[str, ...]:
        return tuple(bound_column(name) for name in self.rows.fields)

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        where, label = positions_of(batch), batch.numbers(self.label)
        out: dict[str, NDArray[np.float64]] = {name: np.zeros(batch.rows) for name in self.adds}
        for start in range(0, batch.rows, SCORE_ROWS):
            chosen = slice(start, start + SCORE_ROWS)
            mine, y = where[chosen], label[chosen]
            piece = self.recorded.piece(mine)
            trace, *slopes = piece.slopes()
            score = as_scores(trace.output, len(mine))
            for name in self.rows.fields:
                for repeat in range(self.rows.repeats):
                    d = piece.moved(self.rows.groups[name], self.rows.donors(name, repeat)[mine], (slopes[0], slopes[1])).numpy()
                    rise = (score - y) * d + d**2 / 8 if trace.logit is not None else 2 * (score - y) * d + d**2
                    out[bound_column(name)][chosen] += rise / self.rows.repeats
        return out


def bound_column(name: str) -> str:
    """Name of the column of what permuting a field can add to the loss."""
    return f"@permutation_bound:{name}"
