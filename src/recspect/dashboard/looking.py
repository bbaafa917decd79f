"""Closer looks that a page of a stage offers: a few things to choose, and the pictures of what was chosen.

A look is a function of an entry and of what was asked; the page, its fragment and its JSON twin are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recspect.dashboard.hiding import pieces_without_small_groups
from recspect.dashboard.kept import Kept
from recspect.dashboard.shelf import Entry, stamp
from recspect.diagnosis.closer import FILE, Closer, read_closer
from recspect.diagnosis.evidence import Evidence
from recspect.errors import MissingExtraError, RecspectError
from recspect.report.wording import clean, short

KEPT = 8
"""Runs whose tables or drill-downs are held in memory."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """Something to choose.

    Args:
        kind: `choice`, `slider` (its value is the number of an option) or `text`.
        name: In the address.
        label: In words; it is looked up in the catalogue.
        value: What is chosen.
        options: (value, text) of a choice or slider, in order.
    """

    kind: str
    name: str
    label: str
    value: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a look shows: things to choose, pictures, and in words why there is none."""

    controls: tuple[Control, ...] = ()
    pictures: tuple[Evidence, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One closer look.

    Args:
        slug: In the address.
        title: In words; it is looked up in the catalogue.
        offered: Whether an entry has it.
        show: What it shows; told the entry, what was asked, and the smallest group that may be shown.
        cells: Whether a cell of a heat map leads to what stands behind it.
    """

    slug: str
    title: str
    offered: Callable[[Entry], bool]
    show: Callable[[Entry, Mapping[str, str], int], Shown]
    cells: bool = False


class Looks:
    """All closer looks.

    Args:
        smallest: Groups of fewer rows or people are not shown.
    """

    def __init__(self, *, smallest: int) -> None:
        self.smallest = smallest
        self._closer: Kept[tuple[Closer, ...]] = Kept(KEPT)
        self._tables: Kept[Any] = Kept(KEPT)
        self.by_stage: dict[str, tuple[Look, ...]] = {
            "training": (Look(slug="states", title="Saved states", offered=_has_states, show=self._states),),
            "embeddings": (Look(slug="table", title="Inside the tables", offered=_has_epochs, show=self._table),),
        }

    def offered(self, entry: Entry, stage: str) -> tuple[Look, ...]:
        """The looks that the page of a stage has for an entry."""
        try:
            kept = [self._pieces_look(stage)] if any(piece.stage == stage for piece in self.pieces(entry)) else []
        except RecspectError:
            kept = [self._pieces_look(stage)]  # it says what is the matter
        return (*(look for look in self.by_stage.get(stage, ()) if look.offered(entry)), *kept)

    def stages(self, entry: Entry) -> tuple[str, ...]:
        """Stages that have something to be looked at even where no report speaks of them."""
        return tuple(stage for stage, looks in self.by_stage.items() if any(look.offered(entry) for look in looks))

    def look(self, entry: Entry, stage: str, slug: str, asked: Mapping[str, str]) -> tuple[Look, Shown] | None:
        """One look at what was asked; None where there is none of that name."""
        found = next((look for look in self.offered(entry, stage) if look.slug == slug), None)
        if found is None:
            return None
        try:
            return found, found.show(entry, asked, self.smallest)
        except RecspectError as error:
            return found, Shown(problem=" ".join(filter(None, (error.message, error.hint))))
        except ImportError as error:
            missing = MissingExtraError(error.name or "torch", extra="train", purpose="This look at a run's weights")
            return found, Shown(problem=f"{missing.message} {missing.hint}")

    def pieces(self, entry: Entry) -> tuple[Closer, ...]:
        """What was kept of a run to be looked at closer, without small groups; nothing where nothing was kept.

        Raises:
            RunError: Its file is damaged.
        """
        if entry.folder is None:
            return ()
        path = entry.folder / FILE
        found = self._closer.get(entry.name, stamp(path), lambda: read_closer(path.parent))
        return tuple(replace(one, evidence=pieces_without_small_groups(one.evidence, self.smallest, least=one.least)) for one in found)

    # ------------------------------------------------------------------ the looks

    def _pieces_look(self, stage: str) -> Look:
        def show(entry: Entry, asked: Mapping[str, str], smallest: int) -> Shown:  # noqa: ARG001 - small groups are out already
            return of_pieces([piece for piece in self.pieces(entry) if piece.stage == stage], asked)

        return Look(slug="closer", title="Closer", offered=lambda _: True, show=show, cells=True)

    def _table(self, entry: Entry, asked: Mapping[str, str], smallest: int) -> Shown:
        from recspect.dashboard.embedding_pictures import WAYS, all_tables, near, pictures, titles
        from recspect.dashboard.embedding_rows import open_tables

        tables = self._tables.get(entry.name, (stamp(entry.path / "run.json"), stamp(entry.path / "features.safetensors")), lambda: open_tables(entry.path))
        table = tables.table(asked.get("field", ""))
        number = _number(asked.get("state", ""), len(tables.states), tables.best)
        state, by = tables.states[number], asked.get("by", "") if asked.get("by", "") in WAYS else WAYS[0]
        sought = asked.get("near", "").strip()
        controls = (
            Control(kind="choice", name="field", label="Table", value=table.field, options=tuple((one.field, f"{clean(one.field, limit=60)} ({one.rows:,} x {one.width})") for one in tables.tables.values())),
            Control(kind="slider", name="state", label="Saved state", value=str(number), options=tuple((str(k), one.name) for k, one in enumerate(tables.states))),
            Control(kind="text", name="near", label="Nearest to", value=sought),
            Control(kind="choice", name="by", label="Laid out by", value=by, options=tuple(titles().items())),
        )
        problem, shown = "", [all_tables(tables)]
        try:
            if sought:
                shown = [near(table, state, table.row_of(sought), smallest=smallest), *shown]
            return Shown(controls=controls, pictures=(*shown, *pictures(table, state, smallest=smallest, by=by)))
        except RecspectError as error:
            problem = " ".join(filter(None, (error.message, error.hint)))
        return Shown(controls=controls, pictures=(*shown, *pictures(table, state, smallest=smallest)), problem=problem)

    def _states(self, entry: Entry, asked: Mapping[str, str], smallest: int) -> Shown:  # noqa: ARG002 - weights are of no group
        from recspect.dashboard.embedding_rows import saved_states
        from recspect.dashboard.state_pictures import pictures

        states = saved_states(entry.path)
        number = _number(asked.get("at", ""), len(states), len(states) - 1)
        control = Control(kind="slider", name="at", label="Saved state", value=str(number), options=tuple((str(k), one.name) for k, one in enumerate(states)))
        return Shown(controls=(control,), pictures=tuple(pictures(states, number)))


def of_pieces(pieces: Sequence[Closer], asked: Mapping[str, str]) -> Shown:
    """The pieces of the place that was asked for, and what else there is: the whole stage where nothing was."""
    row, column = asked.get("row", ""), asked.get("column", "")
    places = {(one.row, one.column) for one in pieces}
    if (row, column) not in places and (column, row) in places:
        row, column = column, row
    found = [piece for one in pieces if (one.row, one.column) == (row, column) for piece in one.evidence]
    rows = list(dict.fromkeys(one.row for one in pieces if one.row))
    columns = list(dict.fromkeys(one.column for one in pieces if one.column))
    kinds = next((one.kinds for one in pieces if one.column), pieces[0].kinds if pieces else ("", ""))
    if kinds[0] == kinds[1]:  # a pair, whichever way round it was kept
        rows = columns = list(dict.fromkeys((*rows, *columns)))
    controls = (Control(kind="choice", name="row", label=_label(kinds[0]), value=row, options=_options(rows)),
                *([Control(kind="choice", name="column", label=_label(kinds[1]), value=column, options=_options(columns))] if columns else []))
    return Shown(controls=controls, pictures=tuple(found), problem="" if found or not (row or column) else "nothing was kept of this place")


def _label(kind: str) -> str:
    return {"field": "Field", "layer": "Layer", "slice": "Slice"}.get(kind, kind.capitalize())


def _options(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return (("", "all"), *((name, short(name, 36)) for name in names))


def _number(text: str, n: int, otherwise: int) -> int:
    return min(int(text), n - 1) if text.isdecimal() and len(text) < 8 else otherwise


def _has_epochs(entry: Entry) -> bool:
    return entry.kind == "run" and entry.epochs > 0


def _has_states(entry: Entry) -> bool:
    from recspect.dashboard.embedding_rows import saved_states

    return entry.folder is not None and entry.kind in ("run", "observed") and bool(saved_states(entry.folder))


__all__ = ["Control", "Look", "Looks", "Shown", "of_pieces"]
