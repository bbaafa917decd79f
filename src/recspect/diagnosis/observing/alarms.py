"""What goes wrong in a training, named as it happens: each thing once, with step, place and what to do.

The thresholds are those of the diagnostics that judge a whole training afterwards; here they are applied to what was seen so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from recspect.diagnosis.diagnostics.embeddings.collapse import FAIL as COLLAPSE_FAIL
from recspect.diagnosis.diagnostics.embeddings.collapse import WARN as COLLAPSE_WARN
from recspect.diagnosis.diagnostics.training.dead_units import DEAD_FAIL, IDLE_WARN
from recspect.diagnosis.diagnostics.training.depth import stacks
from recspect.diagnosis.diagnostics.training.gradient_flow import BURST, VANISHING_RATIO, WINDOW
from recspect.diagnosis.diagnostics.training.gradient_flow import FEWEST_STEPS as FEWEST_NORMS
from recspect.diagnosis.diagnostics.training.learning_rate import FEWEST_LOOKS, FEWEST_LOSSES, rate_finding
from recspect.diagnosis.diagnostics.training.loss_anomaly import FEWEST_STEPS as FEWEST_FOR_SPIKES
from recspect.diagnosis.diagnostics.training.loss_anomaly import find_anomalies
from recspect.diagnosis.diagnostics.training.one_epoch import SMALLEST_FALL
from recspect.diagnosis.finding import Finding, Verdict
from recspect.diagnosis.mirror import StepRow
from recspect.diagnosis.observing import alarm_findings as say
from recspect.diagnosis.stats.series import SeriesLine, SeriesSummary

LOSSES, FIRST_LOSSES = 100, 50
"""Losses kept: the last ones, and those of the start."""
LOSS_RISE = 0.01
"""A validation loss that is higher by such a share than after the first epoch is worth a word."""
EXPLODED = 1e4
"""A gradient norm of so many times its first median is an explosion, however slowly it grew."""

FirstBad = tuple[int, str, str]
"""(step, place, what): where the first NaN or infinity was seen, and what broke: see `Observer.saw_nonfinite`."""


class Alarms:
    """Sees rows as they are made; says each finding once per code, place and kind."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()
        self._losses: deque[tuple[int, float]] = deque(maxlen=LOSSES)
        self._first_losses: list[float] = []
        self._norms: dict[str, deque[tuple[int, float]]] = {}
        self._first_norms: list[float] = []
        self._ratios: dict[str, float] = {}
        self._looks: deque[float] = deque(maxlen=200)
        self._tables: set[str] = set()
        self._epochs: dict[str, dict[int, float]] = {}
        self._support: dict[str, float] = {}

    def see(self, rows: Sequence[StepRow], first_bad: FirstBad | None = None) -> list[Finding]:
        """What is new and wrong.

        Args:
            rows: Of whole steps, in order.
            first_bad: Where the first NaN or infinity was seen, if any was.
        """
        found: list[Finding] = []
        looked = 0
        for row in rows:
            found += self._take(row)
            looked = row.step if row.series == "weight_norm" and not row.place else looked
        if first_bad is not None:
            found += self._once("nonfinite", "", lambda: say.nonfinite(*first_bad))
        elif looked:
            for rule in (self._bursts, self._spikes, self._rate, self._vanishing):
                found += rule(looked)
        return found

    # ------------------------------------------------------------------ rows

    def _take(self, row: StepRow) -> Iterator[Finding]:
        value = row.value
        if row.series == "loss/train":
            if np.isfinite(value):
                self._losses.append((row.step, value))
                if len(self._first_losses) < FIRST_LOSSES:
                    self._first_losses.append(value)
        elif row.series == "gradient_norm" and np.isfinite(value):
            self._norms.setdefault(row.place, deque(maxlen=WINDOW + 1)).append((row.step, value))
            if not row.place and len(self._first_norms) < FEWEST_NORMS:
                self._first_norms.append(value)
        elif row.series == "touched_rows":
            self._tables.add(row.place)
        elif row.series == "update_ratio" and np.isfinite(value):
            if row.place:
                self._ratios[row.place] = value
            else:  # the last row of a look
                matrices = [ratio for place, ratio in self._ratios.items() if place not in self._tables and not place.endswith("bias")]
                self._looks.append(float(np.median(matrices)) if matrices else value)
                self._ratios = {}
        elif row.series == "support_rows":
            self._support[row.place] = value
        elif row.series == "dead_share" and value > IDLE_WARN:
            verdict = Verdict.FAIL if value > DEAD_FAIL else Verdict.WARN
            yield from self._once(f"dead {verdict}", row.place, lambda: say.dead(row, verdict, rows=int(self._support.get(row.place, 0))))
        elif row.series == "effective_rank_share" and value < COLLAPSE_WARN:
            verdict = Verdict.FAIL if value <= COLLAPSE_FAIL else Verdict.WARN
            yield from self._once(f"collapse {verdict}", row.place, lambda: say.collapse(row, verdict))
        elif row.series.split("/")[0] in ("auc", "loss", "rmse"):
            self._epochs.setdefault(row.series, {})[row.epoch] = value
            yield from self._cliff(row)

    # ------------------------------------------------------------------ rules

    def _bursts(self, step: int) -> Iterator[Finding]:
        whole = self._norms.get("", deque())
        if len(whole) < 6 or whole[-1][0] != step:
            return
        now, before = whole[-1][1], float(np.median([norm for _, norm in list(whole)[:-1]]))
        first = float(np.median(self._first_norms))
        if (before > 0 and now > BURST * before) or (first > 0 and now > EXPLODED * first):
            place = max((place for place in self._norms if place and len(self._norms[place]) > 5), default="", key=self._growth)
            base = before if before > 0 and now > BURST * before else first
            yield from self._once("burst", "", lambda: say.burst(step, place, now / base, n=len(whole)))

    def _growth(self, place: str) -> float:
        norms = [norm for _, norm in self._norms[place]]
        return norms[-1] / max(float(np.median(norms[:-1])), 1e-30)

    def _spikes(self, step: int) -> Iterator[Finding]:
        if len(self._losses) < FEWEST_FOR_SPIKES or ("spike", "") in self._told:
            return
        losses = np.array([loss for _, loss in self._losses])
        found = find_anomalies(losses)
        out = np.union1d(found.jumps, found.alone)
        if len(out):
            at = self._losses[int(out[0])]
            z = float(found.z.max())
            yield from self._once("spike", "", lambda: say.spike(at[0], at[1], z, stays=bool(len(found.jumps)), n=len(losses), seen_at=step))

    def _rate(self, step: int) -> Iterator[Finding]:
        losses = np.array([*self._first_losses, *(loss for _, loss in list(self._losses)[-50:])]) if len(self._losses) == LOSSES else np.array(
            [loss for _, loss in self._losses])
        if len(self._looks) < FEWEST_LOOKS or len(losses) < FEWEST_LOSSES:
            return
        finding = rate_finding(np.array(self._looks), losses)
        if finding.verdict is not Verdict.PASS:
            yield from self._once("rate", "", lambda: say.at_step(finding, step))

    def _vanishing(self, step: int) -> Iterator[Finding]:
        lines = {place: _line(list(norms)) for place, norms in self._norms.items() if place and place not in self._tables}
        silent = [place for place, line in lines.items() if len(line.steps) >= FEWEST_NORMS and not line.totals.any() and not place.endswith("bias")]
        if silent:
            yield from self._once("silent", silent[0], lambda: say.no_gradient(step, silent[0], n=len(lines[silent[0]].steps)))
        for stack in stacks(SeriesSummary(lines, False, len(lines) + 1)):
            if len(stack.ratios) >= FEWEST_NORMS and float(np.median(stack.ratios)) < VANISHING_RATIO and stack.names[0] not in silent:
                yield from self._once("vanishing", stack.names[0], lambda stack=stack: say.vanishing(step, stack))  # type: ignore[misc]

    def _cliff(self, row: StepRow) -> Iterator[Finding]:
        values = self._epochs[row.series]
        if row.series not in ("auc/validation", "loss/validation", "loss/held_out") or row.epoch < 2 or 1 not in values:
            return
        if row.series != "auc/validation" and "auc/validation" in self._epochs:
            return
        higher = row.series.startswith("auc")
        fall = values[1] - row.value if higher else (row.value - values[1]) / max(abs(values[1]), 1e-12)
        best = max(values.values()) if higher else min(values.values())
        if fall > (SMALLEST_FALL if higher else LOSS_RISE) and best == values[1]:
            yield from self._once("cliff", "", lambda: say.cliff(row, values[1], fall))

    def _once(self, kind: str, place: str, finding: Callable[[], Finding]) -> Iterator[Finding]:
        if (kind, place) not in self._told:
            self._told.add((kind, place))
            yield finding()


def _line(points: list[tuple[int, float]]) -> SeriesLine:
    steps = np.array([step for step, _ in points], dtype=np.int64)
    values = np.array([value for _, value in points])
    return SeriesLine(steps, np.ones(len(points)), values, np.zeros(len(points), dtype=np.int64), 1, max(2, len(points)))
