"""Whether embedding vectors use the dimensions they have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.embeddings.spectrum import gaussian_effective_rank, table_key
from recspect.diagnosis.diagnostics.policy import names
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Curve, Line, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stats.gram import GramSummary
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

FAIL, WARN = 0.25, 0.35
NARROWEST, ROWS_PER_DIMENSION = 4, 4
EMPTY, CARRYING = 1e-4, 0.75
"""A singular value below so much of the largest carries nothing: gradients and initialisation leave none so small. WARN when fewer than so many do."""


class Collapse(Diagnostic):
    """Do embedding tables use their dimensions?

    erank = exp(H(s / sum s)) of the singular values s of the table less its mean, over the rows that training read; share =
    erank / width; and the share of dimensions that carry anything at all. Exact for the table, so without an interval.
    """

    code = "embeddings.collapse"
    question = "Do the embedding vectors use the dimensions they have?"
    sources = ("Roy and Vetterli 2007, The Effective Rank: A Measure of Effective Dimensionality",
               "Guo et al. 2024, On the Embedding Collapse When Scaling Up Recommendation Models (information abundance)",
               "Marchenko and Pastur 1967 (what a random table gives)")

    def needs(self, scope: Scope) -> Needs:
        keys = tuple(table_key(field, scope) for field in scope.tables if f"@embedding:{field}" in scope.target)
        if not keys:
            raise Unavailable("no embedding tables were seen", hint="examine a PyTorch model together with its training rows")
        return Needs(target=keys)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - the interface's
        tables: dict[str, GramSummary] = {}
        left_out: list[str] = []
        for field in scope.tables:
            slice_, stat = table_key(field, scope)
            if not target.has(stat, slice_):
                continue
            summary = target.get_summary(stat, slice_)
            enough = summary.width >= NARROWEST and summary.count >= ROWS_PER_DIMENSION * summary.width
            if enough:
                tables[field] = summary
            else:
                left_out.append(field)
        if not tables:
            raise Unavailable(f"no table is {NARROWEST} wide with {ROWS_PER_DIMENSION} times as many rows that training read "
                              f"({names(left_out)})", hint="smaller tables cannot be told from chance")
        shares = {field: _share(summary) for field, summary in tables.items()}
        carrying = {field: _carrying(summary) for field, summary in tables.items()}
        verdicts = {field: _verdict(share, carrying[field]) for field, share in shares.items()}
        evidence = (_spectra(tables), _table(tables, shares, left_out))
        for field, verdict in verdicts.items():
            if verdict is not Verdict.PASS:
                yield self._finding(field, tables[field], shares[field], verdict, evidence, carrying=carrying[field])
        healthy = [field for field, verdict in verdicts.items() if verdict is Verdict.PASS]
        if healthy:
            lowest = min(healthy, key=lambda field: shares[field])
            yield self._finding(lowest, tables[lowest], shares[lowest], Verdict.PASS, evidence, of=healthy)

    def _finding(self, field: str, summary: GramSummary, share: float, verdict: Verdict, evidence: tuple[Curve, RankedTable], *,
                 of: list[str] | None = None, carrying: float = 1.0) -> Finding:
        by_rank = verdict is not Verdict.WARN or share < WARN
        chance = gaussian_effective_rank(int(summary.count), summary.width)
        numbers = (f"{share * summary.width:.1f} of {summary.width} dimensions ({100 * share:.0f}%; a random table of this size gives "
                   f"{100 * chance / summary.width:.0f}%; {summary.count:,.0f} rows)")
        claim = (f"The {len(of)} embedding tables judged use their dimensions; the lowest, {field}, in effect {numbers}."
                 if of is not None and len(of) > 1 else f"The embedding table of {field} uses its dimensions: in effect {numbers}."
                 if of is not None else f"The embedding table of {field} has collapsed: its vectors use in effect {numbers}."
                 if by_rank else f"{carrying * summary.width:.0f} of the {summary.width} dimensions of the embedding table of {field} carry anything: its vectors use in effect {numbers}.")
        decided = (Estimate(value=share, unit="effective dimensions / width", n=int(summary.count), of="table rows") if by_rank else
                   Estimate(value=carrying, unit="dimensions that carry anything / width", n=int(summary.count), of="table rows"))
        return Finding(
            code=self.code, verdict=verdict, claim=claim,
            place=Place() if verdict is Verdict.PASS else Place(kind="table", name=field),
            estimate=decided, limit=FAIL if verdict is Verdict.FAIL else WARN if by_rank else CARRYING,
            threshold=f"FAIL up to {FAIL:.0%} of the width, WARN below {WARN:.0%}, or when up to {CARRYING:.0%} of the dimensions carry more than {EMPTY:g} of the largest",
            meaning="Dimensions that all vectors share carry nothing; a wider table will not help until the cause is gone.",
            causes=("strong weight decay on embeddings", "interaction with fields of few categories, which pulls vectors into their span",
                    "many epochs", "a width far beyond what the field needs"),
            remedies=(Remedy(code="lower_embedding_decay", text="Lower the weight decay on embeddings."),
                      Remedy(code="narrow_embeddings", text="Use narrower embeddings for this field."),
                      Remedy(code="multiple_embeddings", text="Give the field several embedding sets with interactions of their own (multi-embedding).")),
            evidence=evidence, sources=self.sources)


def _share(summary: GramSummary) -> float:
    rank = summary.effective_rank(centred=True)
    return (rank if np.isfinite(rank) else 0.0) / summary.width  # all vectors equal: no dimension is used


def _carrying(summary: GramSummary) -> float:
    """Share of the dimensions whose singular value is more than `EMPTY` of the largest."""
    values = summary.singular_values(centred=True)
    return float((values > EMPTY * values.max(initial=0.0)).sum()) / summary.width


def _verdict(share: float, carrying: float) -> Verdict:
    if share <= FAIL + 1e-6:
        return Verdict.FAIL
    return Verdict.WARN if share < WARN or carrying <= CARRYING else Verdict.PASS


def _spectra(tables: dict[str, GramSummary]) -> Curve:
    lines = []
    for field, summary in tables.items():
        values = summary.singular_values(centred=True)
        top = values[0] if len(values) and values[0] > 0 else 1.0
        lines.append(Line(name=field, x=tuple(float(i) for i in range(1, len(values) + 1)), y=tuple(float(v) for v in values / top)))
    return Curve(title="How evenly do the vectors use their dimensions?", x_title="dimension, largest first",
                 y_title="singular value / largest", lines=tuple(lines), caption="level: all dimensions used; steep: collapsed")


def _table(tables: dict[str, GramSummary], shares: dict[str, float], left_out: list[str]) -> RankedTable:
    rows = tuple((field, int(summary.count), summary.width, round(shares[field], 3),
                  round(gaussian_effective_rank(int(summary.count), summary.width) / summary.width, 3),
                  None if not np.isfinite(abundance := summary.information_abundance()) else round(abundance / summary.width, 3))
                 for field, summary in sorted(tables.items(), key=lambda entry: shares[entry[0]]))
    return RankedTable(title="Which tables use the fewest of their dimensions?",
                       columns=("table", "rows", "width", "effective / width", "random table", "information abundance / width"), rows=rows,
                       caption=f"not judged, too few rows or too narrow: {names(left_out)}" if left_out else "")
