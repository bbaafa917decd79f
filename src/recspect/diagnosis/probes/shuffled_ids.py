"""What the model says when the id of the user, or of the item, is dealt out to other rows: on training rows and on new ones."""

from __future__ import annotations

from collections.abc import Mapping

from recspect.diagnosis.batch import Batch, Column
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.probes.permutation import BASE, PermutationProbe, PermutedRows

SHUFFLED = "@score:shuffled"
"""The score with nothing dealt out; with the name of an id and the number of a repeat behind it, the score with that id dealt out."""


class ShuffledIdsProbe(Probe):
    """Adds `@score:shuffled` and, for every id f and repeat r, `@score:shuffled:f:r`.

    Names of their own, since the permuted fields of a sample of held-out rows have theirs: those are chosen by what they can cost.

    Args:
        rows: The sample, its `fields` the ids; batches must carry its column `@position`.
    """

    def __init__(self, rows: PermutedRows) -> None:
        self._permuting = PermutationProbe(rows)

    @property
    def adds(self) -> tuple[str, ...]:
        return tuple(map(_named, self._permuting.adds))

    def observe(self, batch: Batch) -> Mapping[str, Column]:
        return {_named(name): column for name, column in self._permuting.observe(batch).items()}


def _named(column: str) -> str:
    return SHUFFLED + column.removeprefix(BASE)
