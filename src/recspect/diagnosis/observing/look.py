"""One training step as an observer sees it: nothing, its loss alone, or everything."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from recspect.diagnosis.observing.extra_gradients import copied, task_conflict
from recspect.diagnosis.observing.insides import first_tensor
from recspect.diagnosis.observing.layers import LayerSums, UnitWindow, has_units, routing_figures, squashed_argument
from recspect.diagnosis.observing.updates import SNAPSHOT_VALUES, Snapshot, norms, weight_norms

if TYPE_CHECKING:
    from recspect.diagnosis.observing.observer import Observer

NARROWEST, ROWS_PER_DIMENSION = 4, 4
"""The effective rank is measured of tables at least so wide, on so many touched rows per dimension, as in embeddings.collapse."""


class Look(ABC):
    """What a loop holds during a step. `sampled` says whether this step is looked at."""

    sampled: bool

    @abstractmethod
    def before_backward(self, losses: Tensor | None = None, tasks: Mapping[str, Tensor] | None = None) -> None:
        """May be called before `backward`, for what needs gradients of its own; costs backward passes in thorough looks only.

        Args:
            losses: Per row, (B,), with their graph: gives the gradient noise scale.
            tasks: Loss of each task, with its graph: gives the conflict between their gradients.
        """

    @abstractmethod
    def record_loss(self, loss: Tensor | float) -> None:
        """For callbacks that hear of the loss only when the step is over, instead of giving it to `before_update`."""

    @abstractmethod
    def before_update(self, loss: Tensor | float | None = None, losses: Tensor | None = None) -> None:
        """Call between `backward` and the optimiser's step. Without it the optimiser's step itself is noticed, and no loss recorded.

        Args:
            loss: Of the batch.
            losses: Per row, for its histogram.
        """


class Blind(Look):
    """A step that is not sampled."""

    sampled = False

    def before_backward(self, losses: Tensor | None = None, tasks: Mapping[str, Tensor] | None = None) -> None:
        del losses, tasks

    def record_loss(self, loss: Tensor | float) -> None:
        del loss

    def before_update(self, loss: Tensor | float | None = None, losses: Tensor | None = None) -> None:
        del loss, losses


class LossOnly(Blind):
    """A step of which only the loss is recorded; sinks are told of it at the next look."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer

    def before_update(self, loss: Tensor | float | None = None, losses: Tensor | None = None) -> None:
        del losses
        if loss is not None:
            with self.observer.guard():
                self.observer.record_loss(loss)

    def record_loss(self, loss: Tensor | float) -> None:
        with self.observer.guard():
            self.observer.record_loss(loss, updated=True)


class Open(Look):
    """A sampled step."""

    sampled = True

    def __init__(self, observer: Observer, *, histograms: bool, thorough: bool) -> None:
        self.observer = observer
        self.with_histograms, self.thorough = histograms, thorough
        self.activations: dict[str, LayerSums] = {}
        self.routing: dict[str, dict[str, float]] = {}
        self.ids: dict[str, list[Tensor]] = {}
        self.snapshots: list[Snapshot] = []
        self.nonfinite = 0
        self.seen = False
        self.tables = dict(observer.insides.tables())
        self.handles = list(observer.insides.attach(self._see))
        self.handles.append(register_optimizer_step_pre_hook(self._before_step).remove)

    # ------------------------------------------------------------------ called while the step runs

    def _see(self, place: str, module: Any, inputs: Any, output: Any) -> None:
        with self.observer.guard(), torch.no_grad(), torch.autocast("cuda" if torch.cuda.is_available() else "cpu", enabled=False):
            if (table := self.tables.get(id(module))) is not None and isinstance(inputs, tuple) and inputs and not getattr(module, "sparse", False):
                self.ids.setdefault(table, []).append(inputs[0].detach().reshape(-1))
            values = first_tensor(output)
            if values is None or not values.is_floating_point() or values.numel() == 0:
                return
            values = values.detach()
            sums = self.activations.setdefault(place, LayerSums())
            bad = sums.add(values)
            if bad:
                self._found(place, bad, _why(module, inputs))
            if has_units(module, values):
                squashed = squashed_argument(module, inputs)
                if squashed is not None or sums.rectified:
                    self.observer.windows.setdefault(place, UnitWindow()).add(values, squashed)
                elif place in self.observer.windows:  # a rectified layer that was silent nowhere this time
                    self.observer.windows[place].add(values, None)
            self.routing[place] = routing_figures(place, module, output)
            if self.with_histograms:
                self.observer.record_histogram("activation", values, place)

    def _before_step(self, optimiser: torch.optim.Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self.seen or named.get("closure") is not None or any(callable(argument) for argument in arguments):
            return  # a closure runs forward and backward inside the step: the gradients are not there yet
        mine = {id(parameter) for parameter in self.observer.insides.parameters().values()}
        if any(id(parameter) in mine for group in optimiser.param_groups for parameter in group["params"]):
            self.before_update()

    def before_backward(self, losses: Tensor | None = None, tasks: Mapping[str, Tensor] | None = None) -> None:
        observer = self.observer
        if not self.thorough or not observer.insides.extra_gradients:
            return
        with observer.guard():
            parameters = copied(observer.insides.parameters(), set(self.tables.values()))
            if losses is not None:
                for series, value in observer.noise.add(losses, parameters).items():
                    observer.record(series, value)
            for pair, value in (task_conflict(tasks, parameters) if tasks else {}).items():
                observer.record("task_cosine", value, pair)

    def record_loss(self, loss: Tensor | float) -> None:
        with self.observer.guard():
            self.observer.record_loss(loss, looked=self.observer.insides.has_gradients, updated=True)

    def before_update(self, loss: Tensor | float | None = None, losses: Tensor | None = None) -> None:
        if self.seen:
            return
        self.seen = True
        self._unhook()
        with self.observer.guard(), torch.no_grad():
            self._record(loss, losses)

    def after_update(self) -> None:
        """Called when the step is over."""
        with self.observer.guard(), torch.no_grad():
            now = self.observer.insides.parameters()
            differences = norms([snapshot.difference(now[snapshot.name].detach()) for snapshot in self.snapshots])
            befores = norms([snapshot.before for snapshot in self.snapshots])
            for snapshot, update, before in zip(self.snapshots, differences, befores, strict=True):
                if before > 0:
                    self.observer.record("update_ratio", update / before, snapshot.name)
            whole = sum(before**2 for before in befores)
            if whole > 0:
                self.observer.record("update_ratio", math.sqrt(sum(update**2 for update in differences) / whole))

    def close(self) -> None:
        """Leave no hook and no copy behind."""
        self._unhook()
        self.snapshots.clear()

    # ------------------------------------------------------------------ details

    def _record(self, loss: Tensor | float | None, losses: Tensor | None) -> None:
        observer = self.observer
        for place, seen in self.activations.items():
            window = observer.windows.get(place)
            for series, value in {**seen.figures(), **self.routing.get(place, {}), **(window.figures() if window else {})}.items():
                observer.record(series, value, place)
        if loss is not None:
            observer.record_loss(loss, looked=True)
        if losses is not None and self.with_histograms:
            observer.record_histogram("loss", losses, "")
        parameters = observer.insides.parameters()
        weights = {name: parameter.detach() for name, parameter in parameters.items()}
        weight_sizes = dict(zip(weights, weight_norms(list(weights.values())), strict=True))
        gradients: dict[str, tuple[Tensor | None, Tensor]] = {}
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                gradients[name] = _touched(parameter.grad.detach(), self.ids.get(name))
        gradient_sizes = dict(zip(gradients, norms([values for _, values in gradients.values()]), strict=True))
        for name, weight in weights.items():
            observer.record("weight_norm", weight_sizes[name], name)
            if not math.isfinite(weight_sizes[name]):
                self._bad(name, weight, "weights")
            if self.with_histograms:
                observer.record_histogram("weight", weight, name)
            if name not in gradients:
                if not observer.insides.has_gradients:
                    self.snapshots.append(Snapshot(name, weight, None))
                continue
            rows, values = gradients[name]
            if rows is not None:
                observer.record("touched_rows", len(rows), name)
            observer.record("gradient_norm", gradient_sizes[name], name)
            if not math.isfinite(gradient_sizes[name]):
                self._bad(name, values, "gradient")
            if self.with_histograms:
                observer.record_histogram("gradient", values, name)
            snapshot = Snapshot(name, weight, _thinned(rows, weight))
            self.snapshots.append(snapshot)
            if self.thorough and rows is not None:
                self._effective_rank(snapshot)
        if gradients:
            observer.record("gradient_norm", math.sqrt(sum(size**2 for size in gradient_sizes.values())))
        observer.record("weight_norm", math.sqrt(sum(size**2 for size in weight_sizes.values())))
        observer.record("nonfinite", self.nonfinite)

    def _effective_rank(self, snapshot: Snapshot) -> None:
        table = snapshot.before
        if table.dim() != 2 or table.shape[1] < NARROWEST or table.shape[0] < ROWS_PER_DIMENSION * table.shape[1]:
            return
        centred = table.double() - table.double().mean(0)
        gram = centred.T @ centred
        if not bool(torch.isfinite(gram).all()):
            return
        sizes = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
        if float(sizes.sum()) > 0:
            shares = sizes / sizes.sum()
            rank = math.exp(-float(torch.special.xlogy(shares, shares).sum()))
            self.observer.record("effective_rank_share", rank / table.shape[1], snapshot.name)

    def _bad(self, name: str, values: Tensor, what: str) -> None:
        count = int(values.numel() - torch.isfinite(values).sum())
        if count:
            self._found(name, count, what)

    def _found(self, place: str, count: int, what: str) -> None:
        self.nonfinite += count
        self.observer.saw_nonfinite(place, what)
        self.observer.record("nonfinite", count, place)

    def _unhook(self) -> None:
        for remove in self.handles:
            remove()
        self.handles = []


def _touched(gradient: Tensor, ids: list[Tensor] | None) -> tuple[Tensor | None, Tensor]:
    """(rows, gradient): the rows that a table's step touches, None for other parameters; a sparse gradient's values are summed by row."""
    if gradient.is_sparse:
        summed = gradient.coalesce()
        return summed.indices()[0], summed.values()
    if ids:
        return torch.unique(torch.cat(ids)).long(), gradient
    return None, gradient


def _thinned(rows: Tensor | None, weight: Tensor) -> Tensor | None:
    if rows is None:
        return None
    most = max(1, SNAPSHOT_VALUES // max(1, weight.numel() // max(1, weight.shape[0])))
    return rows[::max(1, -(-len(rows) // most))]


def _why(module: Any, inputs: Any) -> str:
    """Where the bad numbers of a module's output came from: its weights, its input, or itself."""
    own = module.parameters(recurse=False) if isinstance(module, torch.nn.Module) else ()
    if any(not bool(torch.isfinite(parameter).all()) for parameter in own):
        return "weights"
    given = [value for value in (inputs if isinstance(inputs, tuple) else ()) if isinstance(value, Tensor) and value.is_floating_point()]
    return "input" if any(not bool(torch.isfinite(value).all()) for value in given) else "output"
