"""Watching a PyTorch model while it trains: activations, gradients, weights and updates, every k steps.

Three lines in any training loop:

    observer = Observer(model, folder="runs/today")             # 1
    for inputs, label in batches:
        with observer.step() as look:                           # 2: counts the step; forward, backward and update happen inside
            loss = criterion(model(inputs), label)
            optimiser.zero_grad()
            loss.backward()
            look.before_update(loss)                            # may be left out: then no loss is recorded
            optimiser.step()
    observer.finish()                                           # 3: writes the files that `recspect diagnose` reads

Watching never changes a result: it draws no random numbers, assigns nothing, and hooks are there during sampled
steps only, which are also removed when a step raises. A step that is not sampled costs one comparison. What goes wrong in
watching is said once, in the log, and the training goes on unwatched.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn

from recspect.diagnosis.finding import Finding
from recspect.diagnosis.mirror import HistogramRow, Mirror, StepRow
from recspect.diagnosis.observing.alarms import Alarms
from recspect.diagnosis.observing.extra_gradients import NoiseScale
from recspect.diagnosis.observing.held_out import HeldOut
from recspect.diagnosis.observing.histograms import histogram
from recspect.diagnosis.observing.insides import Insides, TorchInsides
from recspect.diagnosis.observing.layers import LEAST_ROWS, UnitWindow
from recspect.diagnosis.observing.live_rows import LiveRows
from recspect.diagnosis.observing.look import Blind, Look, LossOnly, Open
from recspect.diagnosis.observing.record import write_record
from recspect.diagnosis.observing.rows import HISTOGRAMS, HISTOGRAMS_FILE, STEPS, STEPS_FILE, Rows
from recspect.diagnosis.observing.states import save_state
from recspect.errors import UsageError

_log = logging.getLogger("recspect.observing")
_BLIND = Blind()


class Observer:
    """Rows about the inside of a model, in memory and (with a folder) in files.

    Args:
        model: Any module. Every leaf module and every module with parameters of its own is a place; so is what the
            model returns, `(output)`. DataParallel and DistributedDataParallel are looked through (of several processes, that
            of rank 0 watches); of a compiled model all but the activations is seen.
        every: Steps between two looks; the first step is looked at too. 0 looks never. The loss alone, which costs nothing
            more than reading it, is recorded ten times as often, so that a short run has enough of it to judge.
        histograms_every: Steps between two sets of histograms, rounded up to looks; 0 for none.
        thorough_every: Looks between two thorough looks, which also measure what costs more (noise scale, effective rank of
            tables, conflict of tasks); 0 for none.
        folder: Where `flush` and `finish` write; None keeps rows in memory. Files of an earlier training there are replaced.
        steps_done: Steps before this loop (a resumed training): rows of later steps in the folder are dropped.
        bins: Of histograms.
        sinks: Told every row when its step is over (see docs/sinks.md). Their `open` and `close` are for who trains.
        on_finding: Told what goes wrong as it happens; by default it is logged as a warning ("recspect.observing").
        held_out: Measured at the end of every epoch: label information and fluctuation by layer.
        keep_every_steps, keep_every_epochs: Save the model's weights so often under `folder/states`, so that any series can be
            computed later (`recompute`); 0 for never.
        insides: How the model is seen, where it is no torch module.

    Attributes:
        steps_done: Steps counted so far.
        epoch: Written beside every row; the loop sets it, or calls `end_epoch`.
        first_nonfinite: (step, place) of the first NaN or infinity seen, or None.
        findings: What was told so far.
        left_out: What cannot be seen of this model, and why.
        failure: What went wrong in watching, in words; empty while all is well.

    Series: see docs/observing.md.
    """

    def __init__(self, model: nn.Module | None, *, every: int = 50, histograms_every: int = 0, thorough_every: int = 4,
                 folder: str | os.PathLike[str] | None = None, steps_done: int = 0, bins: int = 32,
                 sinks: Sequence[Mirror] = (), on_finding: Callable[[Finding], None] | None = None, held_out: HeldOut | None = None,
                 keep_every_steps: int = 0, keep_every_epochs: int = 0, insides: Insides | None = None) -> None:
        for name, value, least in (("every", every, 0), ("histograms_every", histograms_every, 0), ("thorough_every", thorough_every, 0),
                                   ("bins", bins, 1), ("keep_every_steps", keep_every_steps, 0), ("keep_every_epochs", keep_every_epochs, 0)):
            if value < least:
                raise UsageError(f"Observer: {name} is {value}, expected {least} or more", hint=f"use {least} or more")
        if folder is None and (keep_every_steps or keep_every_epochs):
            raise UsageError("Observer: states are to be kept, but there is no folder for them", hint='Observer(model, folder="runs/mine", ...)')
        rank = torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
        if rank > 0:  # weights are the same everywhere and gradients are averaged: one process sees it all
            every, keep_every_steps, keep_every_epochs, folder, sinks, held_out = 0, 0, 0, None, (), None
        self.insides = insides or TorchInsides(model)
        self.model = getattr(self.insides, "model", model)
        self.every, self.histograms_every, self.thorough_every = every, histograms_every, thorough_every
        self.keep_every_steps, self.keep_every_epochs = keep_every_steps, keep_every_epochs
        self.folder = None if folder is None else Path(folder)
        self.bins = bins
        self.steps_done = steps_done
        self.epoch = 1
        self.first_nonfinite: tuple[int, str] | None = None
        self.nonfinite_in = ""
        self.sinks = tuple(sinks)
        self.on_finding = on_finding
        self.held_out = held_out
        self.findings: list[Finding] = []
        self.left_out = self.insides.left_out
        self.failure = ""
        self.windows: dict[str, UnitWindow] = {}
        self.noise = NoiseScale()
        self._alarms = Alarms()
        self._next_histograms = steps_done + 1
        self._live = LiveRows(self.folder, after=steps_done)
        self._steps = Rows(self._at(STEPS_FILE), STEPS, StepRow, steps_done)
        self._histograms = Rows(self._at(HISTOGRAMS_FILE), HISTOGRAMS, HistogramRow, steps_done)
        self._tell()

    # ------------------------------------------------------------------ in the loop

    @contextmanager
    def step(self) -> Iterator[Look]:
        """One training step: forward, backward and update happen inside. Micro-batches of one update belong to one step."""
        self.steps_done += 1
        sampled = self.every > 0 and (self.steps_done == 1 or self.steps_done % self.every == 0)
        if not sampled:
            sound = self.first_nonfinite is None
            yield LossOnly(self) if self.every > 0 and self.steps_done % max(1, self.every // 10) == 0 else _BLIND
            if sound and self.first_nonfinite is not None:
                self._tell()
        else:
            look = None
            with self.guard():
                look = self._open()
            if look is None:
                yield _BLIND
            else:
                try:
                    yield look
                    look.before_update()
                    look.after_update()
                finally:
                    look.close()
                    self._tell()
        if self.keep_every_steps and self.steps_done % self.keep_every_steps == 0:
            self._keep()

    def end_epoch(self, figures: Mapping[str, float] | None = None) -> None:
        """Record figures of the epoch such as {"auc/validation": 0.71}, measure the held-out rows, write the files, begin the next epoch."""
        for series, value in (figures or {}).items():
            self.record(series, value)
        self.measure()
        if self.keep_every_epochs and self.epoch % self.keep_every_epochs == 0:
            self._keep()
        self.flush()
        self.epoch += 1

    def measure(self) -> None:
        """End what is added up over looks (so that a resumed training, which begins an epoch, says the same), and measure the held-out rows."""
        with self.guard():
            for place, window in self.windows.items():
                for series, value in window.figures(least=LEAST_ROWS).items():
                    self.record(series, value, place)
            self.windows, self.noise = {}, NoiseScale()
            if self.held_out is not None and self.every > 0:
                for (series, place), value in self.held_out.measure(self.model, self.insides).items():
                    self.record(series, value, place)

    def record(self, series: str, value: float, place: str = "", *, step: int | None = None) -> None:
        """Add a row of one's own, such as a validation loss or a learning rate."""
        self._steps.add(StepRow(self.steps_done if step is None else step, self.epoch, series, place, float(value)))

    def record_loss(self, loss: Tensor | float, *, looked: bool = False, updated: bool = False) -> None:
        """Add the loss of this step. Where it is the first thing that is not finite, what broke it is told as far as it can be known.

        Args:
            loss: Of the batch.
            looked: Whether outputs and gradients of this step were looked at.
            updated: Whether the optimiser has stepped already, so that the weights say nothing any more.
        """
        value = float(loss.detach() if isinstance(loss, Tensor) else loss)
        self.record("loss/train", value)
        if math.isfinite(value) or self.first_nonfinite is not None:
            return
        bad = [] if updated else [name for name, weight in self.insides.parameters().items() if not bool(torch.isfinite(weight.detach()).all())]
        if bad:
            self.saw_nonfinite(bad[0].rpartition(".")[0] or bad[0], "weights")
        else:
            self.saw_nonfinite("", "loss" if looked else "unseen")

    def record_histogram(self, series: str, values: Tensor, place: str = "") -> None:
        """Add a histogram of finite values: equal bins from the smallest to the largest."""
        edges, counts = histogram(values, self.bins)
        if counts:
            self._histograms.add(HistogramRow(self.steps_done, self.epoch, series, place, edges, counts))

    def saw_nonfinite(self, place: str, what: str = "output") -> None:
        """Remember the first place, and what broke: its `weights`, `input`, `gradient` or `output`, the `loss`, or something `unseen`."""
        if self.first_nonfinite is None:
            self.first_nonfinite, self.nonfinite_in = (self.steps_done, place), what

    # ------------------------------------------------------------------ after the loop

    def table(self) -> pa.Table:
        """All rows: step, epoch, series, place, value."""
        return self._steps.table()

    def histograms(self) -> pa.Table:
        """All histograms: step, epoch, series, place, edges, counts."""
        return self._histograms.table()

    def flush(self) -> None:
        """Write the files, each atomically; nothing where the observer has no folder. Sinks are told what is new."""
        self._written("running")

    def finish(self, status: str = "finished") -> None:
        """Write the files for the last time: the training is "finished" or "interrupted"."""
        self._written(status)

    # ------------------------------------------------------------------ details

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Whatever fails inside ends the watching, is said once, and never stops the training."""
        try:
            yield
        except Exception as error:
            self.every = 0
            if not self.failure:
                self.failure = f"{type(error).__name__}: {error}"
                _log.warning("watching failed at step %s and ends here; the training is not affected (%s)", self.steps_done, self.failure[:500])

    def _open(self) -> Open:
        histograms = self.histograms_every > 0 and self.steps_done >= self._next_histograms
        if histograms:
            self._next_histograms = self.steps_done + self.histograms_every
        thorough = self.thorough_every > 0 and self.steps_done // self.every % self.thorough_every == 0
        return Open(self, histograms=histograms, thorough=thorough)

    def _at(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name

    def _keep(self) -> None:
        with self.guard():
            save_state(self.folder, self.insides.parameters(), self.model, step=self.steps_done, epoch=self.epoch)

    def _written(self, status: str) -> None:
        self._tell()
        with self.guard():
            self._steps.write()
            self._live.clear()
            self._histograms.write()
            if self.folder is not None:
                write_record(self, status)

    def _tell(self) -> None:
        steps, histograms = self._steps.untold(), self._histograms.untold()
        if steps or histograms:
            self._live.add(steps)
            for sink in self.sinks:
                sink.rows(steps, histograms)
        found: list[Finding] = []
        if steps:
            with self.guard():
                first = None if self.first_nonfinite is None else (*self.first_nonfinite, self.nonfinite_in)
                found = self._alarms.see(steps, first)
        self.findings += found
        for finding in found:
            if self.on_finding is not None:
                self.on_finding(finding)  # not guarded: who raises here wants the training to stop
            else:
                _log.warning("%s", finding.claim)
