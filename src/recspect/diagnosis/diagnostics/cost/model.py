"""What a model takes to hold, to run and to train, and whether a part of it lies idle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.cost.budget import Budget, exceeded
from recspect.diagnosis.diagnostics.policy import names, number, percent
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, Evidence, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import Grouped
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

COLUMNS = ("numbers", "learned", "bytes", "operations", "read", "made", "seconds", "matrices", "table", "rows", "never", "once", "twice", "lookups")
"""Of every part of the model, in the columns `@part:...`; those of table rows from `rows` on are missing where it is not known what training reads."""

IDLE, IDLE_BYTES, OF_MODEL = 0.5, 2**20, 0.1
"""A table is mostly idle from this share of its rows on; where they take at least so many bytes, and such a share of the model's, that is worth saying."""
SHOWN = 12
MOST_PARTS = 40
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One table, or one module without what is inside it; the fields are those of `COLUMNS`, NaN where not known."""

    name: str
    numbers: float
    learned: float
    bytes: float
    operations: float
    read: float
    made: float
    seconds: float
    matrices: float
    table: float
    rows: float
    never: float
    once: float
    twice: float
    lookups: float

    @property
    def told(self) -> bool:
        """Whether it is known which rows training reads."""
        return self.rows > 0 and self.lookups > 0

    @property
    def idle_bytes(self) -> float:
        """Bytes of the rows that no training row reads; 0 where that is not known."""
        return self.bytes * self.never / self.rows if self.told else 0.0

    def idle(self) -> Estimate:
        """Share of the rows that more training rows would not be expected to read either."""
        more, low, high = unseen(self.once, self.twice)
        shares = [max(0.0, self.never - rows) / self.rows for rows in (more, high, low)]
        return Estimate(value=shares[0], low=shares[1], high=shares[2], unit="share of the table's rows", n=int(self.lookups), of="training lookups")

    def mostly_idle(self, whole: float) -> bool:
        """Whether the rows that are surely idle are most of the table and worth their bytes; `whole`: bytes of the model."""
        if not self.told or not self.idle().surely_above(IDLE):
            return False
        surely = float(self.idle().low or 0.0) * self.bytes
        return surely >= max(IDLE_BYTES, OF_MODEL * whole)


class CostOfModel(Diagnostic):
    """Bytes, operations, lookups and time of a model by its parts, and table rows that take memory for nothing.

    Operations are counted as they are dispatched, on a sample of rows; lookups as they are made. How many rows more training rows would read is estimated from the rows read once and twice.

    Args:
        budget: What the model may take; beyond it is a FAIL. Default: anything.
    """

    code = "cost.model"
    question = "What does the model take to hold, to run and to train, and is a part of it idle?"
    sources = ("torch.utils.flop_counter (operations)", "Chao 1984, Nonparametric Estimation of the Number of Classes in a Population",
               "Chao 1987, Estimating the Population Size for Capture-Recapture Data with Unequal Catchability (interval)")

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget

    def needs(self, scope: Scope) -> Needs:
        """Every figure of every part."""
        if "@part:bytes" not in scope.target:
            raise Unavailable("the parts of the model cannot be seen", hint="examine a PyTorch model")
        return Needs.of(target=[*map(_of_part, COLUMNS), _BOTH_WAYS, _SECONDS])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - the interface's
        parts = _parts(target)
        whole = sum(part.bytes for part in parts)
        idle = [part for part in parts if part.mostly_idle(whole)]
        evidence = _evidence(parts, target)
        held = (f"The model holds {_size(whole)}, {percent(sum(part.bytes for part in parts if part.table) / whole)} of it in tables, and takes {_count(sum(part.operations for part in parts))} "
                f"operations and {_size(sum(part.read for part in parts))} of lookups for a row")
        if self.budget is not None:
            yield from self._beyond(self.budget, parts, target, evidence)
        for part in idle:
            yield Finding(
                code=self.code, verdict=Verdict.WARN, place=Place(kind="table", name=part.name), estimate=part.idle(), limit=IDLE, concerns=part.idle_bytes / whole, threshold=_THRESHOLD,
                claim=f"{part.never:,.0f} of the {part.rows:,.0f} rows of the table {part.name} were read by none of {part.lookups:,.0f} training lookups: {_size(part.idle_bytes)} of {_size(whole)} hold what they "
                      f"held before training. More such rows would be expected to leave {percent(part.idle().value)} of the table unread.",
                meaning="Rows that training never reads take memory when serving, and twice as much again in an optimiser that keeps two numbers for each, and say nothing: they are as random as at the start.",
                causes=("the table was sized for more ids than there are", "ids are numbers far apart, and the table has a row for each between", "the training rows at hand are fewer than those the model was trained on"),
                remedies=(Remedy(code="shrink_table", text="Number the ids that training has one after another, and let all others read one row for unknown ids."),
                          Remedy(code="fewer_buckets", text="Where ids are hashed, take fewer buckets, and see features.hash_collisions.")),
                evidence=evidence, sources=self.sources)
        if idle:
            return
        told = [part for part in parts if part.told]
        if not told:
            tables = sum(part.table for part in parts)
            why = "it has no tables" if not tables else "which of its table rows training reads is not known"
            yield Finding(code=self.code, verdict=Verdict.UNKNOWN, claim=f"{held}. Whether a part of it is idle cannot be told: {why}.", evidence=evidence, sources=self.sources,
                          meaning=f"Not answered in full: {self.question}", threshold="" if not tables else "give the training rows: --train TABLE")
            return
        most = max(told, key=lambda part: part.idle_bytes)
        yield Finding(code=self.code, verdict=Verdict.PASS, estimate=most.idle(), limit=IDLE, evidence=evidence, sources=self.sources, threshold=_THRESHOLD,
                      claim=f"{held}. Rows that no training row reads take {_size(sum(part.idle_bytes for part in told))}, most of it in the table {most.name} "
                            f"({most.never:,.0f} of {most.rows:,.0f} rows, {most.lookups:,.0f} training lookups).")


    def _beyond(self, budget: Budget, parts: Sequence[_Part], target: Tally, evidence: tuple[Evidence, ...]) -> Iterable[Finding]:
        """A FAIL for every limit that the model is beyond."""
        for over in exceeded(budget, size=sum(part.bytes for part in parts), operations=sum(part.operations for part in parts), lookups=sum(part.read for part in parts), runs=_runs(target),
                             rows=int(target.get_summary(_BOTH_WAYS).count)):
            yield Finding(
                code=self.code, verdict=Verdict.FAIL, place=Place(kind="metric", name=over.name), estimate=over.taken, limit=over.limit, evidence=evidence, sources=self.sources,
                claim=f"The model takes {number(over.taken.value)} {over.what}, {number(over.taken.value / over.limit)} times the budget of {number(over.limit)}.",
                threshold=f"FAIL above the budget of {number(over.limit)} {over.what}" + ("; the fastest run counts" if over.taken.has_interval else ""),
                meaning="It does not fit where it is meant to serve.",
                causes=("tables or layers wider than what they bring", "more fields than are needed", "weights of 32 bits where fewer would do"),
                remedies=(Remedy(code="compress_model", text="Make smaller models and compare them on the same rows.", command="recspect compress RUN"),
                          Remedy(code="drop_fields", text="Leave out fields that features.unused names.")))


def unseen(once: float, twice: float) -> tuple[float, float, float]:
    """How many things not seen yet more looking would show, with the ends of a 95% interval, from those seen once and twice.

    A lower bound where things differ in how often they come (Chao 1984, in the form that needs none seen twice); interval: log-normal (Chao 1987).
    """
    if once < 2:
        return 0.0, 0.0, 0.0
    found = once * (once - 1) / (2 * (twice + 1))
    variance = found + once * (2 * once - 1) ** 2 / (4 * (twice + 1) ** 2) + once**2 * twice * (once - 1) ** 2 / (4 * (twice + 1) ** 4)
    factor = math.exp(1.96 * math.sqrt(math.log1p(variance / found**2)))
    return found, found / factor, found * factor


def _of_part(column: str) -> Grouped:
    return Grouped(stat=Moments(column=f"@part:{column}"), by="@part", capacity=100_000)


_BOTH_WAYS = Moments(column="@cost:operations_both_ways")
_SECONDS = Grouped(stat=Moments(column="@cost:seconds"), by="@cost:run")
_THRESHOLD = (f"WARN for a table of which surely more than {percent(IDLE)} of the rows are idle, where these take at least 1 MiB and {percent(OF_MODEL)} of the model")


def _parts(target: Tally) -> list[_Part]:
    """Every part, the one of most bytes first."""
    found = {column: target.get_summary(_of_part(column)).parts for column in COLUMNS}
    parts = [_Part(name=name, **{column: _value(found[column][name]) for column in COLUMNS}) for name in found["bytes"]]
    if not sum(part.bytes for part in parts):
        raise Unavailable("the model has no parameters", hint="give the module that holds them, not a function that calls it")
    return sorted(parts, key=lambda part: (-part.bytes, part.name))


def _runs(target: Tally) -> list[float]:
    """Milliseconds of each timed run of 1,000 rows."""
    return [summary.mean * 1000 for summary in target.get_summary(_SECONDS).parts.values() if summary.count]


def _value(summary: object) -> float:
    return float(summary.mean) if summary.count else float("nan")  # type: ignore[attr-defined]


def _evidence(parts: Sequence[_Part], target: Tally) -> tuple[Evidence, ...]:
    return tuple(one for one in (_bytes(parts), _operations(parts), _figures(parts, target), _by_part(parts)) if one is not None)


def _bytes(parts: Sequence[_Part]) -> Bars:
    shown, whole = parts[:SHOWN], sum(part.bytes for part in parts)
    split = [(part.name, series, value) for part in shown for series, value in (("in use", part.bytes - part.idle_bytes), ("never read in training", part.idle_bytes)) if value or series == "in use"]
    return Bars(title="Where do the bytes lie?", unit="MiB", names=tuple(name for name, _, _ in split), values=tuple(value / MIB for _, _, value in split), group=tuple(series for _, series, _ in split),
                highlighted=tuple(part.name for part in shown if part.mostly_idle(whole)),
                caption=f"{_shown(len(shown), len(parts))}; parameters and buffers, {_size(whole)} in all. Of tables that are not learned, or of which not every read is known, all counts as in use")


def _operations(parts: Sequence[_Part]) -> Bars | None:
    working = sorted((part for part in parts if part.operations), key=lambda part: (-part.operations, part.name))
    silent = [part.name for part in parts if part.matrices and not part.table and not part.operations]
    if not working:
        return None
    missing = f". Not counted, or not run: {names(silent)}" if silent else ""
    return Bars(title="Which part computes?", unit="operations per row", names=tuple(part.name for part in working[:SHOWN]), values=tuple(part.operations for part in working[:SHOWN]),
                caption=f"{_shown(min(SHOWN, len(working)), len(working))}; forward, matrix products, convolutions and attention, two operations per multiply-add{missing}")


def _figures(parts: Sequence[_Part], target: Tally) -> RankedTable:
    both = _value(target.get_summary(_BOTH_WAYS))
    learned = sum(part.learned for part in parts)
    state = sum(2 * part.bytes * part.learned / part.numbers for part in parts if part.numbers)
    rows: list[tuple[str, float | None, str]] = [
        ("numbers held", sum(part.numbers for part in parts), ""), ("of them learned", learned, ""), ("held by the model", _rounded(sum(part.bytes for part in parts) / MIB), "MiB"),
        ("further state of an optimiser that keeps two numbers for each that is learned, such as Adam", _rounded(state / MIB), "MiB"),
        ("operations of a row, forward", _rounded(sum(part.operations for part in parts)), ""), ("operations of a row, forward and backward", _rounded(both) if math.isfinite(both) else None, ""),
        ("looked up for a row", _rounded(sum(part.read for part in parts)), "bytes")]
    runs = _runs(target)
    caption = ""
    if runs:
        rows.append(("1,000 rows scored, median", _rounded(float(np.median(runs))), "ms"))
        caption = f"Time is a measurement of this machine as it was: {len(runs)} runs of 1,000 rows with their encoding, {_rounded(min(runs))} to {_rounded(max(runs))} ms. All else is counted"
    return RankedTable(title="What does it take?", columns=("figure", "value", "unit"), rows=tuple(rows), caption=caption)


def _by_part(parts: Sequence[_Part]) -> RankedTable:
    """Every figure of every part, the one of most bytes first."""
    timed = sum(part.seconds for part in parts if math.isfinite(part.seconds))
    rows = tuple((part.name, _rounded(part.bytes / 1024), _rounded(part.operations), _rounded(part.read), _rounded(part.made), _rounded(part.seconds * 1e6) if math.isfinite(part.seconds) else None)
                 for part in parts[:MOST_PARTS])
    caption = f"{_shown(len(rows), len(parts))}. Computed: results of operations, forward, that are no views of what was there, lookups included"
    if timed:
        caption += f". Time is a measurement of this machine as it was, of rows encoded already and 1,000 at once: {_rounded(timed * 1e6)} microseconds per row in all"
    return RankedTable(title="What does each part take?", columns=("part", "KiB held", "operations per row", "bytes looked up per row", "bytes computed per row", "microseconds per row"), rows=rows, caption=caption)


def _shown(shown: int, there: int) -> str:
    return f"the largest {shown} of {there} parts" if shown < there else f"all {there} parts"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _size(amount: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if amount >= size:
            return f"{number(amount / size)} {unit}"
    return f"{number(amount, 0)} bytes"


def _count(value: float) -> str:
    return f"{_rounded(value):,.0f}"
