"""Examine a model or a scored table: gather what can be added up, ask every diagnostic, judge."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from recspect.diagnosis.batch import Batch, concatenate
from recspect.diagnosis.diagnostic import Diagnostic, Scope, all_diagnostics, gathered, judge, plan
from recspect.diagnosis.diagnostics.features.modality import modality_groups
from recspect.diagnosis.evidence import Evidence
from recspect.diagnosis.finding import Report
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.choosing import runner_of
from recspect.diagnosis.runners.runner import Runner
from recspect.diagnosis.slice import ALL, Slice
from recspect.diagnosis.source import Source, read
from recspect.diagnosis.subject import Subject, TorchSubject
from recspect.diagnosis.tally import Key, Tally
from recspect.errors import DataError, SubjectError
from recspect.examining.clusters import USERS, with_users
from recspect.examining.compared_baselines import COMPARED_ROWS, compared_baselines
from recspect.examining.overview import NEEDS, overview
from recspect.examining.partial import partial_findings, readable
from recspect.examining.sampling import all_rows
from recspect.examining.scorecard import scorecard_needs
from recspect.examining.sides import Say, Side, View
from recspect.examining.tables import fitted_baselines, frequency_probe, sample_of, standard_probes
from recspect.features.derived import derive_together
from recspect.schema import Schema
from recspect.validating import require_one_clock, validate

FLOW_ROWS, EPOCH_FLOW_ROWS = 4096, 1024
"""Held-out rows on which flows through layers are measured, for the model and for the model after each epoch."""

PERMUTED_ROWS, PERMUTED_FIELDS, PERMUTATIONS = 8192, 6, 5
"""Held-out rows on which fields are permuted, how many fields (those that can raise the loss most), and how often each."""

EXPLAINED_ROWS = 256
"""Held-out rows whose explanations are held against the model, by several measures and several explainers."""

DONORS = 8
"""Rows from which a row without the fields of a modality takes their values."""

TABLE_ROWS = 262_144
"""Rows of a batch where no model runs: what is named and merged once per batch is then a small part of the work."""


def examine_table(target: Any, schema: Schema, *, reference: Any = None, slices: Sequence[Slice] = (), other_score: str = "",
                  diagnostics: Sequence[Diagnostic] | None = None, title: str = "", say: Say = lambda _: None,
                  provenance: Mapping[str, Any] | None = None, runner: str | Runner = "local") -> Report:
    """Examine a scored table; no model and no torch needed.

    Args:
        target: The held-out (or current) rows: anything that `read` takes.
        schema: What the columns mean; the role `score` names the column to judge. Derived columns that the tables lack are computed
            from the rows of both together.
        reference: Training (or earlier) rows to compare with.
        slices: Slices to judge apart.
        other_score: Column of the target with the scores of another model, or of another training of it, to compare with.
        diagnostics: Which questions to ask; default all.
        title: What is examined, for the report.
        say: Told what is being done.
        provenance: Added to the report's provenance.
        runner: Who adds up: `local`, `processes:4`, `torchrun`, `ray`, `spark:local[2]` (see `recspect.diagnosis.runners.choosing`), or one that was made.

    Raises:
        DataError, SchemaError: The table does not fit the schema.
    """
    runner = runner_of(runner)
    target = read(target, name="held-out rows")
    validate(schema, readable(target, runner), need=())
    if reference is None:
        (target,) = _derived(schema, [target])
    side, other = Side(runner=runner), Side(runner=runner)
    train_probes: list[Probe] = []
    if reference is not None:
        reference = read(reference, name="training rows")
        validate(schema.with_roles(score=None) if schema.score not in reference.columns else schema, reference, need=())
        require_one_clock(schema, target, reference)
        reference, target = _derived(schema, [reference, target])
    probes = standard_probes(schema, target.columns, score_from_table=True, other_score=other_score)
    if reference is not None:
        train_probes = standard_probes(schema, reference.columns,
                                       score_from_table=schema.score in reference.columns)
        if schema.item is not None and schema.labels:
            say("fitting baselines")
            roles = dict.fromkeys(c for c in (schema.user, schema.item, schema.label.name) if c)
            baselines = fitted_baselines(concatenate(list(reference.batches(list(roles)))), schema)
            if baselines is not None:
                probes.append(baselines)
        probes[1:1] = frequency_probe(schema, reference, target.columns)
        other.views.append(View.over(reference, train_probes, rows=TABLE_ROWS))
    side.views.append(View.over(target, probes, rows=TABLE_ROWS))
    return _judged(side, other, schema, slices=slices, diagnostics=diagnostics, title=title or target.name, say=say,
                   provenance={**_versions(), "data_fingerprint": target.fingerprint(), **(provenance or {})})


def examine(subject: Subject, target: Any, schema: Schema, *, reference: Any = None, slices: Sequence[Slice] = (),
            epochs: Mapping[int, Subject] | None = None, steps: Any = None, lists: Batch | None = None,
            trained: TorchSubject | None = None, other_model: Subject | None = None,
            diagnostics: Sequence[Diagnostic] | None = None, sample_rows: int = 20_000, path_steps: int = 8,
            title: str = "", say: Say = lambda _: None, provenance: Mapping[str, Any] | None = None, runner: str | Runner = "local") -> Report:
    """Examine a model on held-out and training rows.

    Args:
        subject: The model.
        target: Held-out rows: anything that `read` takes.
        schema: What the columns mean. Derived columns that the tables lack are computed from the rows of both together.
        reference: Training rows.
        slices: Slices to judge apart.
        epochs: The model as it was after each epoch.
        steps: Training internals, a table in the format of `steps.parquet`.
        lists: Recommended lists with popularity columns (see `recspect.recommending.lists`).
        trained: The model as training fed it, where that differs from `subject` (ids hidden at random).
        other_model: Another model, or another training of it, whose scores on the held-out rows are compared with those of `subject`.
        diagnostics: Which questions to ask; default all.
        sample_rows: Rows on which attributions and activations are measured, on each side.
        path_steps: Points of the integration path per row.
        title, say, provenance, runner: As for `examine_table`.

    Raises:
        DataError, SchemaError, SubjectError: The tables, schema and model do not fit together.
    """
    from recspect.diagnosis.probes.internals import ScoreProbe

    sources = [read(rows, name=name) for rows, name in ((target, "held-out rows"), (reference, "training rows")) if rows is not None]
    if reference is not None:
        require_one_clock(schema, *sources)
    held_out, *others = map(_loaded, _derived(schema, sources))
    train = others[0] if others else None
    fields = subject.fields or schema.field_names
    runner = runner_of(runner)
    side, other = Side(runner=runner), Side(runner=runner)
    scores = ScoreProbe(subject, others={f"@score:epoch-{epoch}": model for epoch, model in sorted((epochs or {}).items())})
    baselines = None
    if train is not None:
        say("fitting baselines")
        baselines = fitted_baselines(train, schema)
    probes = [*standard_probes(schema, list(held_out), score_from_table=False), scores]
    if train is not None:
        probes[1:1] = frequency_probe(schema, read(train, name="training rows"), list(held_out))
    compared = [ScoreProbe(other_model, column="@score:other")] if other_model is not None else []
    side.views.append(View.over(read(held_out, name="held-out rows"), [*probes, *compared, *([baselines] if baselines else [])]))
    if train is not None:
        own = standard_probes(schema, list(train), score_from_table=False)
        other.views.append(View.over(read(train, name="training rows"), [*own, scores]))
    layers: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    shown: tuple[Evidence, ...] = ()
    if isinstance(subject, TorchSubject):
        say("finding the model's lookups")
        fields = subject.sites(held_out).fields
        layers, tables = _look_inside(subject, trained or subject, schema, held_out, train, side, other, sample_rows, path_steps, say)
        models = {epoch: model for epoch, model in sorted((epochs or {}).items()) if isinstance(model, TorchSubject)}
        _watch_flows(subject, models, schema, held_out, train, side, layers, sample_rows, path_steps, say)
        _permute(subject, schema, held_out, side, sample_rows, say)
        _shuffle_ids(subject, schema, held_out, train, side, other, sample_rows, say)
        shown = compared_baselines(subject, sample_of(held_out, min(COMPARED_ROWS, sample_rows)), say)
        _leave_out_modalities(subject, schema, held_out, side, sample_rows, say)
        _score_explanations(subject, schema, held_out, train, side, sample_rows, path_steps, say)
    for extra, name in ((_prefixed(steps, "@") if steps is not None else None, "training steps"),
                        (_list_columns(lists) if lists is not None else None, "recommended lists")):
        if extra is not None:
            view = View.over(read(extra, name=name))
            side.views.append(view)
            other.views.append(view)
    return _judged(side, other, schema, slices=slices, diagnostics=diagnostics, title=title or subject.name, say=say,
                   provenance={**_versions(), **(provenance or {})}, epochs=tuple(sorted(epochs or ())), layers=layers,
                   tables=tables, fields=tuple(fields), shown=shown)


def _look_inside(subject: TorchSubject, trained: TorchSubject, schema: Schema, held_out: Batch, train: Batch | None, side: Side, other: Side,
                 sample_rows: int, path_steps: int, say: Say) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from recspect.diagnosis.probes.attribution import AttributionProbe, mean_baseline
    from recspect.diagnosis.probes.internals import InternalsProbe, RowProbe
    from recspect.diagnosis.probes.vector_keys import VectorKeysProbe
    from recspect.examining.embedding_tables import table_rows, table_uses, uses_by_table
    from recspect.examining.weight_matrices import weight_matrices

    label = "@label" if schema.labels else None
    internals, rows, read_in_training = InternalsProbe(subject, label=label), RowProbe(subject), RowProbe(trained)
    trained.sites(held_out)
    baseline = mean_baseline(subject, sample_of(held_out if train is None else train, 4096))
    attribution = AttributionProbe(subject, baseline=baseline, label=label, steps=path_steps)
    ready = standard_probes(schema, (), score_from_table=False)[0]
    first = sample_of(held_out, 256)
    layers = internals.find_layers(first.with_columns(ready.observe(first)))
    for batch, views, name, reader in ((held_out, side.views, "held-out", rows), (train, other.views, "training", read_in_training)):
        if batch is None:
            continue
        own = standard_probes(schema, list(batch), score_from_table=False)
        sample = read(sample_of(batch, sample_rows), name=f"a sample of the {name} rows")
        views.append(View.over(sample, [*own, attribution, internals], rows=8192))
        views.append(View.over(read(batch, name=f"the table rows that {name} rows read"), [*own, reader], rows=16_384))
    by_table: Mapping[str, Any] = {}
    if train is not None:
        say("reading embedding tables")
        uses = table_uses(subject, read_in_training, train)
        by_table = uses_by_table(read_in_training, uses)
        for name, table in table_rows(subject, read_in_training, uses).items():
            view = View.over(read(table, name=f"the embedding table of {name}"), [VectorKeysProbe(name)])
            side.views.append(view)
            other.views.append(view)
    side.views += [View.over(read(matrix, name=f"the weights of {name}")) for name, matrix in weight_matrices(subject).items()]
    _count_costs(subject, held_out, by_table, side, say)
    return layers, tuple(rows.tables())


def _count_costs(subject: TorchSubject, held_out: Batch, uses: Mapping[str, Any], side: Side, say: Say) -> None:
    """Views of the parts of the model and of what a row takes; `uses` says how often training read the rows of a table."""
    from recspect.examining.costs import costs_of

    say("counting what the model takes")
    try:
        found = costs_of(subject, held_out, uses)
    except SubjectError as reason:
        say(f"counting what the model takes is left out: {reason}")
        return
    side.views += [View.over(read(costs, name=f"what the model takes, {name}")) for name, costs in found.items()]


def _watch_flows(subject: TorchSubject, epochs: Mapping[int, TorchSubject], schema: Schema, held_out: Batch, train: Batch | None, side: Side,
                 layers: tuple[str, ...], sample_rows: int, path_steps: int, say: Say) -> None:
    """Views of how fields flow through layers: of the model on held-out rows, and of the model after each epoch on fewer of them."""
    from recspect.diagnosis.probes.attribution import mean_baseline
    from recspect.diagnosis.probes.conductance import ConductanceProbe

    label = "@label" if schema.labels else None
    own = standard_probes(schema, list(held_out), score_from_table=False)
    asked = [(subject, "", FLOW_ROWS), *((model, f":epoch-{epoch}", EPOCH_FLOW_ROWS) for epoch, model in epochs.items())]
    for model, suffix, rows in asked:
        sample = sample_of(held_out, min(rows, sample_rows))
        try:
            baseline = mean_baseline(model, sample_of(held_out if train is None else train, 4096))
            probe = ConductanceProbe(model, baseline=baseline, layers=layers, label=label, steps=path_steps, suffix=suffix)
            batch_rows = probe.rows_within(sample)
        except SubjectError as reason:  # whole contributions are still there, from attributions
            say(f"flows through layers are left out: {reason}")
            return
        name = f"how fields flow through layers{f' after epoch {suffix[7:]}' if suffix else ''}"
        side.views.append(View.over(read(sample, name=name), [*own, probe], rows=batch_rows))


def _permute(subject: TorchSubject, schema: Schema, held_out: Batch, side: Side, sample_rows: int, say: Say) -> None:
    """Views of the scores of held-out rows with the fields permuted, and missing, that can raise the loss most when permuted."""
    from recspect.diagnosis.probes.missing import MissingProbe, fields_that_may_be_missing
    from recspect.diagnosis.probes.permutation import PermutationProbe, PermutedRows, with_positions
    from recspect.examining.permutation import screened_fields

    if not schema.labels:
        return
    own = standard_probes(schema, list(held_out), score_from_table=False)
    sample = with_positions(sample_of(held_out, min(PERMUTED_ROWS, sample_rows)))
    try:
        permuted = PermutedRows(subject, sample, repeats=PERMUTATIONS)
        permuted.fields = screened_fields(permuted, sample, own, PERMUTED_FIELDS)
    except SubjectError as reason:
        say(f"permuting fields is left out: {reason}")
        return
    side.views.append(View.over(read(sample, name="held-out rows with fields permuted"), [*own, PermutationProbe(permuted)]))
    fields = fields_that_may_be_missing(subject, sample, permuted.fields)
    if fields:
        side.views.append(View.over(read(sample, name="held-out rows with fields missing"), [*own, MissingProbe(subject, fields)]))


def _shuffle_ids(subject: TorchSubject, schema: Schema, held_out: Batch, train: Batch | None, side: Side, other: Side, sample_rows: int, say: Say) -> None:
    """Views of the scores of rows of both sides with the ids of users and items dealt out to other rows."""
    from recspect.examining.shuffled_ids import ROWS, shuffled_ids

    if train is None or not schema.labels:
        return
    try:
        found = shuffled_ids(subject, schema, held_out, train, rows=min(ROWS, sample_rows))
    except SubjectError as reason:
        say(f"dealing out ids to other rows is left out: {reason}")
        return
    for views, (sample, probe), name in zip((side.views, other.views), found, ("held-out", "training"), strict=False):
        own = standard_probes(schema, list(sample), score_from_table=False)
        views.append(View.over(read(sample, name=f"{name} rows with ids dealt out"), [*own, probe]))


def _leave_out_modalities(subject: TorchSubject, schema: Schema, held_out: Batch, side: Side, sample_rows: int, say: Say) -> None:
    """A view of the loss without the fields of each modality, where there are several."""
    from recspect.diagnosis.probes.modality import WithoutGroupsProbe
    from recspect.diagnosis.probes.permutation import PermutedRows, with_positions

    groups = modality_groups(schema, subject.sites(held_out).fields)
    if not groups or not schema.labels:
        return
    own = standard_probes(schema, list(held_out), score_from_table=False)
    sample = with_positions(sample_of(held_out, min(PERMUTED_ROWS, sample_rows)))
    try:
        rows = PermutedRows(subject, sample, fields=tuple(groups), groups=groups, repeats=DONORS)
    except SubjectError as reason:
        say(f"leaving out modalities is left out: {reason}")
        return
    probe = WithoutGroupsProbe(rows, binary=schema.label.kind == "binary")
    side.views.append(View.over(read(sample, name="held-out rows without the fields of a modality"), [*own, probe]))


def _score_explanations(subject: TorchSubject, schema: Schema, held_out: Batch, train: Batch | None, side: Side, sample_rows: int, path_steps: int, say: Say) -> None:
    """A view of explanations of held-out rows, scored beside random, constant and measured ones."""
    from recspect.diagnosis.probes.explanation_quality import ExplanationQualityProbe

    sample = sample_of(held_out, min(EXPLAINED_ROWS, sample_rows))
    probe = ExplanationQualityProbe(subject, pool=sample_of(held_out if train is None else train, 4096), steps=path_steps)
    try:
        probe.require_explained(sample.take(slice(0, 2)))
    except SubjectError as reason:
        say(f"scoring explanations is left out: {reason}")
        return
    own = standard_probes(schema, list(held_out), score_from_table=False)
    side.views.append(View.over(read(sample, name="held-out rows whose explanations are scored"), [*own, probe], rows=EXPLAINED_ROWS))


def _judged(side: Side, other: Side, schema: Schema, *, slices: Sequence[Slice], diagnostics: Sequence[Diagnostic] | None,
            title: str, say: Say, provenance: Mapping[str, Any], epochs: tuple[int, ...] = (), layers: tuple[str, ...] = (),
            tables: tuple[str, ...] = (), fields: tuple[str, ...] = (), shown: tuple[Evidence, ...] = ()) -> Report:
    asked = all_diagnostics() if diagnostics is None else list(diagnostics)
    scope = Scope(schema=schema, target=side.columns, reference=other.columns, slices=tuple(slices), epochs=epochs,
                  layers=layers, tables=tables, fields=fields or schema.field_names)
    planned = plan(asked, scope)
    counted = [(ALL, USERS)] if scope.cluster_name == "users" and planned.answering else []
    first = ([*counted, *NEEDS, *(scorecard_needs(scope) if any(d.code.startswith("explanations.") for d in planned.answering) else ())], counted if "@cluster" in other.columns else [])
    target, reference = gathered(planned, scope, *(_asked(one, extra, say) for one, extra in zip((side, other), first, strict=True)))
    say("judging")
    findings = [*with_users(judge(planned, target, reference, scope), target, reference), *partial_findings(side, other)]
    return Report(findings=tuple(findings), title=title, overview=(*overview(target, reference, scope, findings), *shown),
                  provenance={**provenance, "schema": schema.to_mapping(), "questions": [d.code for d in asked]})


def _asked(side: Side, extra: Sequence[Key], say: Say) -> Callable[[Sequence[Key]], Tally]:
    """What adds up keys over a side; the extra ones with the first."""
    pending = list(extra)

    def add_up(keys: Sequence[Key]) -> Tally:
        mine = list(dict.fromkeys([*keys, *pending]))
        pending.clear()
        return side.tally(mine, say) if mine else Tally({})

    return add_up


def _derived(schema: Schema, tables: Sequence[Source]) -> list[Source]:
    """The tables with the derived columns of the schema, computed from the rows of all of them; as they are where they have these."""
    return [read(table) for table in derive_together(tables, schema)]


def _loaded(source: Source) -> Batch:
    batch = all_rows(source)
    if batch.rows == 0:
        raise DataError(f"{source.name} are empty", hint="check the path and the split")
    return batch


def _prefixed(table: Any, prefix: str) -> Batch:
    batch = all_rows(table)
    return Batch({f"{prefix}{name}": batch[name] for name in batch}, rows=batch.rows)


def _list_columns(lists: Batch) -> Batch:
    names = {"popularity_group": "group", "popularity_decile": "decile"}
    return Batch({f"@list:{names.get(name, name)}": lists[name] for name in lists}, rows=lists.rows)


def _versions() -> dict[str, Any]:
    packages = {}
    for name in ("recspect", "numpy", "polars", "pyarrow", "duckdb", "torch"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "packages": packages}


__all__ = ["Say", "Side", "View", "examine", "examine_table"]
