"""What is kept of a run beside its report, to be looked at closer: neurons of every layer by field, pairs of fields, slices of one and of two fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import numpy as np

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.closer import Closer
from recspect.diagnosis.diagnostics.policy import examined_fields, is_identity, percent
from recspect.diagnosis.diagnostics.predictions.slice_candidates import LEAST_ROWS, first_slices
from recspect.diagnosis.diagnostics.predictions.slices import LEAST_BUCKETS, Judged, Part, judge_parts
from recspect.diagnosis.evidence import Bars, DistributionPair, Evidence, HeatMap, RankedTable
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.slice import ALL
from recspect.diagnosis.source import read
from recspect.diagnosis.stats.categories import CategoryCounts
from recspect.diagnosis.stats.slice_sums import POSITIVE, ROWS, SliceSums
from recspect.diagnosis.subject import TorchSubject
from recspect.errors import RecspectError, Unavailable
from recspect.examining.importance import Importance, importance
from recspect.examining.interactions import Interactions, interactions
from recspect.examining.sampling import scope_over
from recspect.examining.tables import sample_of, standard_probes
from recspect.schema import Kind, Schema

NEURON_ROWS, PAIR_ROWS, SLICED_ROWS = 1024, 512, 200_000
"""Held-out rows on which neurons, pairs of fields and slices are measured."""
MOST_NEURONS = 40
"""Neurons drawn of a layer for one field, largest flow first."""
MOST_FIELDS = 40
"""Fields whose neurons are kept, those relied on most."""
MOST_SLICES, MOST_SINGLES = 40, 150
"""Slices of one field or pair of fields, and of all single fields together, largest first."""

SCORE_BINS = 20
"""Of equal width, over all scores from 0 to 1."""

Say = Callable[[str], None]


def look_closer(subject: TorchSubject, held_out: Batch, schema: Schema, *, train: Batch | None = None, seed: int = 0, say: Say = lambda _: None) -> tuple[Closer, ...]:
    """Everything that is kept; what cannot be measured of a model is left out, and said.

    Args:
        subject: The model.
        held_out: Rows to judge by.
        schema: What the columns mean.
        train: Rows over which the mean is taken where paths begin.
        seed: Of the samples.
        say: Told what is being done.
    """
    found: list[Closer] = []
    steps: tuple[tuple[str, Callable[[], Iterable[Closer]]], ...] = (
        ("looking at neurons by field", lambda: of_neurons(importance(subject, held_out, schema, baseline_rows=train, rows=NEURON_ROWS, seed=seed))),
        ("looking at pairs of fields", lambda: of_pairs(interactions(subject, held_out, schema, baseline_rows=train, rows=PAIR_ROWS, seed=seed))),
        ("looking at slices of two fields", lambda: of_slices(subject, held_out, schema, seed=seed)),
    )
    for what, step in steps:
        say(what)
        try:
            found += step()
        except (RecspectError, Unavailable) as reason:
            say(f"{what} is left out: {reason}")
    return tuple(found)


# ---------------------------------------------------------------------- neurons


def of_neurons(measured: Importance) -> list[Closer]:
    """Mean and deviation over neurons for every field and layer, and the neurons themselves."""
    layers, total = measured.per_neuron.layers, measured.total
    if not layers:
        return []
    ranked = [score.field for score in measured.scores][:MOST_FIELDS]
    order = [measured.per_neuron.fields.index(field) for field in ranked]
    rows = f"{total.count:,.0f} held-out rows"
    size = np.column_stack([total.neuron_size(k).mean(1)[order] for k in range(len(layers))])
    spread = np.column_stack([total.spread(k)[order] for k in range(len(layers))])
    shape = {"rows": tuple(ranked), "columns": layers, "row_title": "field", "column_title": "layer, input side first", "stage": "features"}
    found = [Closer(stage="features", kinds=("field", "layer"), evidence=(
        HeatMap(title="How strongly does each field flow through the neurons of each layer?", unit="mean over neurons of the mean |flow| (logits)", values=_grid(size),
                caption=f"{rows}; a flow is what the field gives to the logit by way of the neuron", **shape),  # type: ignore[arg-type]
        HeatMap(title="How differently do the neurons of a layer take up a field?", unit="deviation over neurons of the mean |flow| (logits)", values=_grid(spread),
                caption=f"{rows}; far above the mean: a few neurons carry the field", **shape)))]  # type: ignore[arg-type]
    for k, layer in enumerate(layers):
        mean, deviation, flow = total.neuron_mean(k), total.neuron_deviation(k), total.neuron_size(k)
        units = np.argsort(-flow.sum(0), kind="stable")[:MOST_NEURONS]
        shown = np.sort(units)
        found.append(Closer(stage="features", column=layer, kinds=("field", "layer"), evidence=(
            HeatMap(title=f"What does each neuron of {layer} take from which field?", unit="mean flow (logits)", diverging=True, rows=tuple(ranked), columns=tuple(map(str, shown.tolist())),
                    values=_grid(mean[np.ix_(order, shown)]), row_title="field", column_title=f"neuron of {layer}", stage="features",
                    caption=f"{rows}; the {len(shown)} of {flow.shape[1]} neurons with the most flow"),)))
        for field, f in zip(ranked, order, strict=True):
            best = np.argsort(-flow[f], kind="stable")[:MOST_NEURONS]
            if not flow[f].sum() > 0:
                continue
            low, high = mean[f, best] - np.nan_to_num(deviation[f, best]), mean[f, best] + np.nan_to_num(deviation[f, best])
            carried = flow[f, best[:max(1, flow.shape[1] // 10)]].sum() / flow[f].sum()
            found.append(Closer(stage="features", row=field, column=layer, kinds=("field", "layer"), evidence=(
                Bars(title=f"Which neurons of {layer} carry {field}?", unit="mean flow (logits)", names=tuple(f"neuron {unit}" for unit in best.tolist()), values=_line(mean[f, best]),
                     low=_line(low), high=_line(high), reference=0.0, stage="features",
                     caption=f"{rows}; ranges are the mean ± one standard deviation over rows; the {len(best)} of {flow.shape[1]} neurons with the most flow. The strongest tenth of "
                             f"the neurons carries {percent(float(carried))}, {percent(float(total.cancellation()[f, k]))} is taken back inside the layer"),)))
    return found


# ---------------------------------------------------------------------- pairs of fields


def of_pairs(measured: Interactions) -> list[Closer]:
    """What pairs of fields make together: all of them, and for each field its own."""
    found = [Closer(stage="features", kinds=("field", "field"), evidence=(_kept(measured.evidence()),))]
    for field in measured.names:
        sizes = sorted(((other, measured.size(field, other)) for other in measured.names if other != field), key=lambda pair: -pair[1].value)
        if sizes:
            found.append(Closer(stage="features", row=field, kinds=("field", "field"), evidence=(
                Bars(title=f"With which fields does {field} count together?", unit="mean size of what the pair makes (logits)", names=tuple(other for other, _ in sizes),
                     values=_line([size.value for _, size in sizes]), low=_line([size.value if size.low is None else size.low for _, size in sizes]),
                     high=_line([size.value if size.high is None else size.high for _, size in sizes]), stage="features",
                     caption=f"{sizes[0][1].n:,} held-out rows, 95% intervals; alone it makes {measured.size(field, field).value:.3g}"),)))
    return found


def _kept(heat: HeatMap) -> HeatMap:
    return HeatMap(**{**vars(heat), "values": _grid(np.asarray(heat.values)), "stage": "features"})


# ---------------------------------------------------------------------- slices


def of_slices(subject: TorchSubject, held_out: Batch, schema: Schema, *, seed: int = 0) -> list[Closer]:
    """Calibration and loss of every slice of one field and of two, with intervals; of binary labels.

    Raises:
        Unavailable: Another label, or nothing that is large enough.
    """
    from recspect.diagnosis.probes.internals import ScoreProbe

    if not schema.labels or schema.label.kind != "binary":
        raise Unavailable("slices are of binary labels")
    sample = sample_of(held_out, SLICED_ROWS, seed=seed)
    own = standard_probes(schema, list(sample), score_from_table=False)
    probe = ScoreProbe(subject)
    scope = scope_over(schema, sample, [*own, probe], fields=subject.fields or schema.field_names, buckets=50)
    names = [field.name for field in examined_fields(scope, Kind.CATEGORICAL) if not is_identity(field.name, scope)]
    if not names:
        raise Unavailable("there is no categorical field")
    for one in (*own, probe):
        sample = sample.with_columns(one.observe(sample))
    counts = tally(read(sample), [(ALL, CategoryCounts(column=name)) for name in names])
    first = first_slices({name: counts.get_summary(CategoryCounts(column=name)) for name in names}, sample.rows)
    stat = SliceSums(crossings=first.crossings, buckets=scope.buckets)
    sums = tally(read(sample), [(ALL, stat)]).get_summary(stat).sums
    whole = sums[stat.slices.index(())]
    parts = []
    for terms, own_sums in zip(stat.slices, sums, strict=True):
        positive, n = own_sums[:, POSITIVE].sum(), own_sums[:, ROWS].sum()
        of_others_too = (own_sums[:, ROWS] > 0).sum() >= LEAST_BUCKETS  # rows of one user alone have no interval
        if terms and n >= LEAST_ROWS and 0 < positive < n and of_others_too:
            parts.append((tuple(name for name, _ in terms), Part(name=", ".join(f"{name}={text}" for name, text in terms), sums=own_sums)))
    if not parts:
        raise Unavailable(f"no slice has {LEAST_ROWS} rows of {LEAST_BUCKETS} buckets of users")
    judged = judge_parts([part for _, part in parts], [[whole] for _ in parts], whole)
    pairs = sorted(zip((fields for fields, _ in parts), judged, strict=True), key=lambda pair: (pair[0], -pair[1].rows))
    singles = sorted((one for fields, one in pairs if len(fields) == 1), key=lambda one: -one.rows)[:MOST_SINGLES]
    found = [Closer(stage="predictions", kinds=("field", "field"), least=LEAST_ROWS,
                    evidence=(*score_distributions(sample.numbers("@score"), sample.numbers("@label")), _slice_table("How good is the model on each slice?", singles)))]
    for fields, group in groupby(pairs, key=lambda pair: pair[0]):
        slices = [one for _, one in group][:MOST_SLICES]
        found.append(Closer(stage="predictions", row=fields[0], column=fields[1] if len(fields) > 1 else "", kinds=("field", "field"), least=LEAST_ROWS, evidence=_slice_evidence(fields, slices, sample.rows)))
    return found


def score_distributions(scores: np.ndarray, labels: np.ndarray) -> tuple[DistributionPair, ...]:
    """How the scores of rows with and without the outcome are distributed; nothing where either is missing.

    Args:
        scores: Probabilities, shape (rows,).
        labels: 0 or 1, shape (rows,).
    """
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not len(positive) or not len(negative):
        return ()
    edges = np.linspace(0, 1, SCORE_BINS + 1)

    def shares(part: np.ndarray) -> tuple[float, ...]:
        counts = np.histogram(np.clip(part, 0, 1), edges)[0]
        return _line((counts / counts.sum()).tolist())

    return (DistributionPair(title="How are the scores of positives and of negatives distributed?", x_title="score", bins=tuple(f"{edge:.2f}" for edge in edges[:-1]), target=shares(positive),
                             reference=shares(negative), target_name="positives", reference_name="negatives", stage="predictions",
                             caption=f"{len(positive):,} positives and {len(negative):,} negatives held out; mean scores {positive.mean():.3g} and {negative.mean():.3g}"),)


def _slice_evidence(fields: Sequence[str], slices: Sequence[Judged], rows: int) -> tuple[Evidence, ...]:
    by = " and ".join(fields)
    top = slices[:25]
    bars = Bars(title=f"Where are predictions too high or too low, by {by}?", unit="predicted / observed positives", names=tuple(one.part.name for one in top), values=_line([one.ratio.value for one in top]),
                low=_line([_end(one.ratio.low, one.ratio.value) for one in top]), high=_line([_end(one.ratio.high, one.ratio.value) for one in top]), reference=1.0, stage="predictions",
                highlighted=tuple(one.part.name for one in top if one.ratio.surely_above(1.0) or one.ratio.surely_below(1.0)),
                caption=f"{rows:,} held-out rows, 95% intervals by users, slices with most rows first; marked: the interval leaves out 1. One in twenty does so by chance")
    return bars, _slice_table(f"How good is the model by {by}?", slices)


def _slice_table(title: str, slices: Sequence[Judged]) -> RankedTable:
    return RankedTable(title=title, stage="predictions",
                        columns=("slice", "rows", "observed rate", "predicted / observed", "from", "to", "normalised entropy", "entropy from", "entropy to"),
                        rows=tuple((one.part.name, one.rows, *_line([float(one.part.sums[:, POSITIVE].sum()) / one.rows, one.ratio.value, _end(one.ratio.low, None), _end(one.ratio.high, None),
                                                                     one.entropy.value, _end(one.entropy.low, None), _end(one.entropy.high, None)])) for one in slices),
                        caption="normalised entropy is the log loss over that of the slice's own rate: below 1 the scores tell more than the rate alone; 95% intervals by users")


def _end(end: float | None, otherwise: float | None) -> float:
    return float("nan") if end is None and otherwise is None else float(end if end is not None else otherwise or 0.0)


def _line(values: Iterable[float]) -> tuple[float, ...]:
    """Four significant digits: more say nothing, and files stay small."""
    return tuple(float(f"{value:.4g}") for value in values)


def _grid(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(_line(row) for row in values)


__all__ = ["look_closer", "of_neurons", "of_pairs", "of_slices", "score_distributions"]
