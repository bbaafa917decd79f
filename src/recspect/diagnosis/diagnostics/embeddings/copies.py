"""Whether rows of an embedding table hold the same vector, and how long vectors are by how often training read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.embeddings.spectrum import table_key
from recspect.diagnosis.diagnostics.policy import names, number, percent, plural, verdict_above
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Evidence, Line, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import Grouped, GroupedSummary
from recspect.diagnosis.stats.categories import CategoryCounts, CategoryCountsSummary
from recspect.diagnosis.stats.hashes import wilson
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

FAIL, WARN = 0.50, 0.01
NARROWEST, FEWEST = 8, 50
"""Of narrower vectors with a common mean many are equal to 8 bits by chance; of fewer rows a few copies say nothing."""


@dataclass(frozen=True, kw_only=True)
class _Table:
    """One table.

    Args:
        field: Whose.
        rows, width: Its size.
        share: Of the rows, those whose vector another row has too.
        largest: Rows that have the most frequent vector.
        correlation: Of ln length and octave of reads over all rows; NaN where they do not differ.
        lengths: ln length by octave of reads.
    """

    field: str
    rows: int
    width: int
    share: Estimate
    largest: int
    correlation: float
    lengths: GroupedSummary

    @property
    def verdict(self) -> Verdict:
        found = verdict_above(self.share, fail=FAIL, warn=WARN)
        return found if self.share.value > WARN else Verdict.PASS


class Copies(Diagnostic):
    """Share of the rows that training read whose vector another row has too, all entries equal to 8 significant bits.

    Exact up to 65,536 different vectors, beyond by a sample of them. Beside it, the correlation of ln length with the octave of reads.
    """

    code = "embeddings.copies"
    question = "Do rows of a table hold the same vector, so that the model cannot tell their ids apart?"
    sources = ("Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training (8 significant bits)", "Wilson 1927, Probable Inference (interval of a share)")

    def needs(self, scope: Scope) -> Needs:
        keys = tuple(key for field in _fields(scope) for key in (table_key(field, scope), *((table_key(field, scope)[0], stat) for stat in _stats(field))))
        if not keys:
            raise Unavailable("no embedding tables were seen", hint="examine a PyTorch model together with its training rows")
        return Needs(target=keys)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - the interface's
        """A finding for each table with copies, and one for the others."""
        tables: list[_Table] = []
        left_out: list[str] = []
        for field in _fields(scope):
            slice_, gram = table_key(field, scope)
            if not target.has(gram, slice_):
                continue
            vectors = target.get_summary(gram, slice_)
            counts, lengths = (target.get_summary(stat, slice_) for stat in _stats(field))
            if vectors.width < NARROWEST or counts.count < FEWEST:
                left_out.append(field)
            else:
                tables.append(_Table(field=field, rows=int(counts.count), width=vectors.width, share=_shared(counts), largest=int(counts.counts.max(initial=0)),
                                     correlation=_correlation(lengths), lengths=lengths))
        if not tables:
            raise Unavailable(f"no table is {NARROWEST} wide with {FEWEST} rows that training read ({names(left_out)})", hint="narrow vectors are equal by chance")
        tables.sort(key=lambda one: -one.share.value)
        evidence: tuple[Evidence, ...] = (_ranked(tables, left_out), *_curve(tables))
        for one in tables:
            if one.verdict is not Verdict.PASS:
                yield self._finding(one, evidence, place=Place(kind="table", name=one.field),
                                    claim=f"{percent(one.share.value)} of the {one.rows:,} rows of the embedding table of {one.field} that training read hold a vector that another row holds too, equal to 8 bits "
                                          f"in all {one.width} entries; {one.largest:,} rows hold the same one.{_beside(one)}")
        quiet = [one for one in tables if one.verdict is Verdict.PASS]
        if quiet:
            most = quiet[0]
            which = f"the table of {most.field}" if len(quiet) == 1 else f"{plural(len(quiet), 'table')}, the most in that of {most.field}"
            yield self._finding(most, evidence, place=Place(), claim=f"At most {percent(most.share.value)} of rows hold a vector that another row holds too, of {which} ({most.rows:,} rows).{_beside(most)}")

    def _finding(self, one: _Table, evidence: tuple[Evidence, ...], *, place: Place, claim: str) -> Finding:
        return Finding(
            code=self.code, verdict=one.verdict, claim=claim, place=place, estimate=one.share, limit=FAIL if one.verdict is Verdict.FAIL else WARN, concerns=one.share.value,
            threshold=f"FAIL when surely more than {percent(FAIL, 0)} of the rows that training read share their vector, WARN above {percent(WARN, 0)}",
            meaning="Ids with one vector are one id to the model: whatever it learned of the one it says of the other.",
            causes=("rows were copied or overwritten when the table was exported, or a default was written for what was not found",
                    "strong weight decay has drawn rows that are read seldom to the same point, often to zero", "rows are initialised alike and their gradient never arrived",
                    "vectors made from content that several ids share, such as the same text"),
            remedies=(Remedy(code="compare_checkpoints", text="Compare the rows named alike with those of the checkpoint that training wrote: was the table exported whole?"),
                      Remedy(code="lower_embedding_decay", text="Lower the weight decay on embeddings, or apply it only to rows that a step reads."),
                      Remedy(code="check_gradients", text="See training.gradient_flow: does the table get a gradient?")),
            evidence=evidence, sources=self.sources)


def _fields(scope: Scope) -> list[str]:
    return [field for field in scope.tables if {f"@embedding:{field}", f"@key:{field}"} <= scope.target]


def _stats(field: str) -> tuple[CategoryCounts, Grouped]:
    return CategoryCounts(column=f"@key:{field}"), Grouped(stat=Moments(column=f"@log_norm:{field}"), by=f"@octave:{field}", capacity=64)


def _shared(counts: CategoryCountsSummary) -> Estimate:
    """Share of rows whose vector is not theirs alone; among the vectors kept where these are a sample."""
    kept = float(counts.counts.sum())
    value = float(counts.counts[counts.counts > 1].sum()) / kept
    ends = wilson(value, len(counts.names), 0.95) if counts.truncated else (None, None)
    return Estimate(value=value, low=ends[0], high=ends[1], unit="share of table rows", n=int(counts.count), of="table rows")


def _correlation(lengths: GroupedSummary) -> float:
    """Correlation of ln length and octave of reads over all rows; NaN where one does not differ. Vectors of length 0 are left out."""
    parts = [(float(octave), part) for octave, part in lengths.parts.items() if octave and part.count]
    if len(parts) < 2:
        return float("nan")
    octave, n, mean = (np.array(values) for values in zip(*((o, p.count, p.mean) for o, p in parts), strict=True))
    inside = sum(part.variance * (part.count - 1) for _, part in parts if part.count > 1)
    x, y = octave - np.average(octave, weights=n), mean - np.average(mean, weights=n)
    spread = float(n @ x**2) * (float(n @ y**2) + inside)
    return float(n @ (x * y)) / np.sqrt(spread) if spread > 0 else float("nan")


def _beside(one: _Table) -> str:
    return "" if not np.isfinite(one.correlation) else f" Vectors are {'longer' if one.correlation >= 0 else 'shorter'} the oftener training read them: correlation {number(one.correlation, 2)}."


def _ranked(tables: list[_Table], left_out: list[str]) -> RankedTable:
    rows = tuple((one.field, one.rows, one.width, round(one.share.value, 4), one.largest, round(one.correlation, 3) if np.isfinite(one.correlation) else None) for one in tables)
    return RankedTable(title="How many rows of each table share their vector?", columns=("table", "rows", "width", "share of rows", "rows of the most frequent vector", "correlation of length and reads"), rows=rows,
                       caption=f"not judged, too few rows or too narrow: {names(left_out)}" if left_out else "")


def _curve(tables: list[_Table]) -> tuple[Curve, ...]:
    lines = []
    for one in tables:
        parts = sorted((float(octave), part) for octave, part in one.lengths.parts.items() if octave and part.count)
        if len(parts) > 1:
            lines.append(Line(name=one.field, x=tuple(2.0**octave for octave, _ in parts), y=tuple(float(np.exp(part.mean)) for _, part in parts)))
    return (Curve(title="How long are vectors by how often training read them?", x_title="training reads, at least", y_title="geometric mean length", lines=tuple(lines), log_x=True, log_y=True),) if lines else ()
