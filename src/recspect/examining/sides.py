"""The tables of one side (held-out or training) from which totals are taken, and who adds them up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.runner import Local, Lost, Runner
from recspect.diagnosis.source import Source
from recspect.diagnosis.tally import Key, Tally

Say = Callable[[str], None]
"""Told in a few words what is being done."""


@dataclass(frozen=True)
class View:
    """One table from which totals can be taken.

    Args:
        source: Its rows.
        probes: Applied to every batch.
        columns: All columns that are there once the probes have run.
        rows: Rows of a batch.
    """

    source: Source
    probes: tuple[Probe, ...] = ()
    columns: frozenset[str] = frozenset()
    rows: int = 65_536

    @classmethod
    def over(cls, source: Source, probes: Sequence[Probe] = (), *, rows: int = 65_536) -> View:
        added = [column for probe in probes for column in probe.adds]
        return cls(source, tuple(probes), frozenset((*source.columns, *added)), rows)

    def needed(self, keys: Sequence[Key]) -> tuple[Probe, ...]:
        """The probes without the last ones that add nothing that the keys read."""
        read_ = {column for slice_, stat in keys for column in (*stat.columns, *slice_.columns)}
        probes = list(self.probes)
        while probes and read_.isdisjoint(probes[-1].adds):
            probes.pop()
        return tuple(probes)


@dataclass
class Side:
    """All views of one side (held-out or training), the rows first, and who adds them up."""

    views: list[View] = field(default_factory=list)
    runner: Runner = field(default_factory=Local)
    lost: dict[str, Lost] = field(default_factory=dict)

    @property
    def columns(self) -> frozenset[str]:
        return frozenset().union(*(view.columns for view in self.views))

    def lose(self, lost: Lost) -> None:
        """Note a partition that could not be read."""
        self.lost[lost.name] = lost

    def tally(self, keys: Sequence[Key], say: Say) -> Tally:
        """Every key over the first view that has its columns."""
        total = Tally({})
        taken: set[Key] = set()
        for view in self.views:
            mine = [key for key in keys if key not in taken
                    and view.columns.issuperset((*key[1].columns, *key[0].columns))]
            if mine:
                taken.update(mine)
                say(f"adding up {len(mine)} totals over {view.source.name}")
                total = total + self.runner.tally(view.source, mine, probes=view.needed(mine), rows=view.rows, loss=self.lose)
        return total


__all__ = ["Say", "Side", "View"]
