"""What came of a compression, as findings and figures: data to draw."""

from __future__ import annotations

import numpy as np
import torch

from recspect.compressing.compress import LEVEL, Compression, Variant
from recspect.compressing.fitted import row_counts, segments, tables
from recspect.compressing.measuring import Cost
from recspect.diagnosis.diagnostics.policy import percent
from recspect.diagnosis.evidence import Bars, Curve, Evidence, Line, RankedTable, Scatter
from recspect.diagnosis.finding import Finding, Place, Report, Verdict
from recspect.models.packing import lost_by_rank

CODE = "cost.compression"
SOURCES = ("Kott 2001, The Delete-a-Group Jackknife (the same users left out of both models)", "Dunn 1961, Multiple Comparisons Among Means (Bonferroni intervals)",
           "Molchanov et al. 2019, Importance Estimation for Neural Network Pruning (use of rows)", "Eckart and Young 1936, The Approximation of One Matrix by Another of Lower Rank")
MIB = 2**20
SHOWN = 12


def report_of(found: Compression, *, command: str = "") -> Report:
    """One finding, and the figures behind it."""
    overview = [_bytes_and_auc(found), _parts(found), *_spectra(found), *_rows(found), *_fields(found)]
    chosen = found.chosen
    return Report(findings=(_finding(found),), overview=tuple(overview), title=f"Smaller models of run {found.run.id}",
                  provenance={"run": found.run.id, "epoch": found.run.best_epoch, "command": command, "data": found.run.record["data"], "data_fingerprint": found.run.record["data_fingerprint"],
                              "auc": found.auc, "bytes": found.before.bytes, "variants": len(found.variants),
                              "chosen": None if chosen is None else {"name": chosen.recipe.name, "bytes": chosen.cost.bytes, "bytes_ratio": chosen.cost.bytes / found.before.bytes, "auc_difference": chosen.difference.value,
                                                                     "low": chosen.difference.low, "high": chosen.difference.high, "low_alone": chosen.alone.low, "high_alone": chosen.alone.high, "rows": chosen.difference.n}})


def _finding(found: Compression) -> Finding:
    chosen, variants = found.chosen, found.variants
    counts = (f"Of {len(variants)} smaller models {sum(variant.equal for variant in variants)} are proven equal, {sum(variant.worse for variant in variants)} are surely worse, "
              f"and {sum(not (variant.equal or variant.worse) for variant in variants)} cannot be told")
    limit = variants[0].limit if variants else 0.0
    evidence = (_differences(found), _costs(found))
    if chosen is None:
        return Finding(code=CODE, verdict=Verdict.UNKNOWN, claim=f"{counts}.", threshold="give more held-out rows, or a larger limit", evidence=evidence, sources=SOURCES)
    return Finding(
        code=CODE, verdict=Verdict.PASS, place=Place(kind="run", name=chosen.recipe.name), estimate=chosen.difference, limit=-limit, evidence=evidence, sources=SOURCES,
        claim=f"{counts}. The smallest that is equal ({chosen.recipe.name}) takes {percent(chosen.cost.bytes / found.before.bytes)} of the bytes and {chosen.cost.operations / max(found.before.operations, 1):.2f} times "
              f"the operations of a row; its AUC differs by {_signed(chosen.difference.value)} ({_signed(chosen.difference.low)} to {_signed(chosen.difference.high)}).",
        threshold=f"equal when the whole interval, which holds for all {len(variants)} models at once, is above {-limit:g}")


def _signed(value: float | None) -> str:
    return "no interval" if value is None else f"{value:+.5f}"


def _bytes_and_auc(found: Compression) -> Scatter:
    names = ["as it is", *(variant.recipe.name for variant in found.variants)]
    sizes = [found.before.bytes / MIB, *(variant.cost.bytes / MIB for variant in found.variants)]
    return Scatter(title="How much AUC does each size cost?", x_title="MiB held by the model", y_title="AUC less that of the model as it is", names=tuple(names), x=tuple(sizes),
                   y=(0.0, *(variant.difference.value for variant in found.variants)), log_x=True, stage="cost", caption=f"{found.variants[0].difference.n:,} held-out rows; their intervals below" if found.variants else "")


def _differences(found: Compression) -> Bars:
    shown = [variant for variant in found.variants if variant.difference.has_interval]
    return Bars(title="Which smaller models are equal?", unit="AUC less that of the model as it is", names=tuple(f"{variant.recipe.name} ({percent(variant.cost.bytes / found.before.bytes)})" for variant in shown),
                values=tuple(variant.difference.value for variant in shown), low=tuple(float(variant.difference.low or 0.0) for variant in shown), high=tuple(float(variant.difference.high or 0.0) for variant in shown),
                highlighted=tuple(f"{variant.recipe.name} ({percent(variant.cost.bytes / found.before.bytes)})" for variant in shown if variant is found.chosen),
                reference=-shown[0].limit if shown else None, stage="cost",
                caption=f"Share of the bytes in brackets. Intervals hold for all {len(found.variants)} variants at once ({percent(LEVEL)}); equal where the whole interval is right of the line")


def _costs(found: Compression) -> RankedTable:
    def row(name: str, cost: Cost, variant: Variant | None) -> tuple[str | float | int | None, ...]:
        return (name, round(cost.bytes / 1024, 1), round(cost.operations), round(cost.read), round(cost.milliseconds, 1), round(cost.feature_bytes / 1024, 1), 0.0 if variant is None else round(variant.difference.value, 6),
                None if variant is None else _rounded(variant.difference.low), None if variant is None else _rounded(variant.difference.high), "" if variant is None else "equal" if variant.equal else "worse" if variant.worse else "not told")

    return RankedTable(title="What does each take, and what does it lose?", stage="cost",
                       columns=("model", "KiB held", "operations per row", "bytes looked up per row", "ms for 1,000 rows", "KiB of features", "AUC difference", "low", "high", "verdict"),
                       rows=(row("as it is", found.before, None), *(row(variant.recipe.name, variant.cost, variant) for variant in found.variants)),
                       caption="Time is a measurement of this machine as it was, with encoding; all else is counted. Features are vocabularies and the like, which the model itself does not hold")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _parts(found: Compression) -> Bars:
    series = [("as it is", found.before), *([(found.chosen.recipe.name, found.chosen.cost)] if found.chosen is not None else [])]
    names = sorted({name for _, cost in series for name in cost.by_part}, key=lambda name: -found.before.by_part.get(name, 0))[:SHOWN]
    split = [(name, which, cost.by_part.get(name, 0) / 1024) for name in names for which, cost in series]
    return Bars(title="Where do the bytes lie, before and after?", unit="KiB", names=tuple(name for name, _, _ in split), values=tuple(size for _, _, size in split), group=tuple(which for _, which, _ in split), stage="cost",
                caption=f"{len(names)} parts of most bytes; parameters and buffers")


def _spectra(found: Compression) -> list[Evidence]:
    """What narrower vectors lose, per large field: the share of the rows' squared length beyond each rank."""
    lines = []
    fitted = found.workbench.fitted
    for vectors in tables(fitted.model).values():
        if vectors.table is None or vectors.table.weight.shape[1] < 2:
            continue
        counts, weight = row_counts(vectors, fitted.transform), vectors.table.weight.detach()
        for name, start, rows in sorted(segments(vectors), key=lambda part: -part[2])[:5]:
            lost = lost_by_rank(weight[start:start + rows], counts[start:start + rows])
            lines.append(Line(name=f"{name} ({rows:,} rows)", x=tuple(float(rank) for rank in range(1, len(lost) + 1)), y=tuple(torch.clamp(lost, min=0).tolist())))
        break
    if not lines:
        return []
    return [Curve(title="How many directions do the vectors use?", x_title="numbers per row", y_title="share of squared length that is lost", lines=tuple(lines), stage="cost",
                  caption="The largest tables; rows count as often as training read them")]


def _rows(found: Compression) -> list[Evidence]:
    values = {name: np.sort(use)[::-1] for name, use in found.workbench.rows.items() if use.sum() > 0}
    lines = []
    for name, use in sorted(values.items(), key=lambda item: -len(item[1]))[:5]:
        share = 1 - np.cumsum(use) / use.sum()
        at = np.unique(np.linspace(0, len(use) - 1, 60).astype(int))
        lines.append(Line(name=f"{name} ({len(use):,} ids)", x=tuple(((at + 1) / len(use)).tolist()), y=tuple(np.maximum(share[at], 0).tolist())))
    if not lines:
        return []
    return [Curve(title="How many rows does the model need?", x_title="share of the ids that keep their row, the most useful first", y_title="share of the use that is lost", lines=tuple(lines), stage="cost",
                  caption="Use of a row: squared change of the logit, to first order, were it the field's mean, over training rows")]


def _fields(found: Compression) -> list[Evidence]:
    use = found.workbench.fields
    if not use:
        return []
    return [Bars(title="What does each field take off the loss?", unit="nats per row, on validation rows, held at its mean instead", names=tuple(use), values=tuple(use.values()), reference=0.0, stage="cost",
                 caption=f"{len(use)} fields that can be left out, the least useful first: the order in which they go. One at a time: two that can stand in for each other both look useless")]


__all__ = ["CODE", "report_of"]
