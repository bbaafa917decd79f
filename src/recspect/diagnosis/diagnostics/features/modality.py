"""What texts, images and vectors bring to a model beside its other fields, and which of them it could do without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.features.scores import loss_stat
from recspect.diagnosis.diagnostics.policy import between, names, number, percent, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars, RankedTable
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import Bucketed, jackknife
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable
from recspect.schema import Kind, Schema

APART = (Kind.TEXT, Kind.IMAGE, Kind.VECTOR)
"""Kinds that are a modality each; fields of all other kinds are one together."""
OTHER = "other"
WITHOUT = "@loss_without:"
LEAST = 0.02
"""Share of what all fields take off the loss below which a modality's own part is not worth having."""


@dataclass(frozen=True, kw_only=True)
class _Modality:
    """What the fields of one modality bring.

    Args:
        name: A kind of field, or `other`.
        fields: Its fields.
        usefulness: Loss that they take off per row, summed over the fields.
        unique: Loss that is added per row when none of them is known.
    """

    name: str
    fields: tuple[str, ...]
    usefulness: Estimate
    unique: Estimate

    def could_go(self, least: float) -> bool | None:
        """Whether the model could do without; None where the intervals cannot tell."""
        if not self.unique.has_interval:
            return None
        return True if self.unique.surely_below(least) else False if self.unique.surely_above(0.0) else None


class Modality(Diagnostic):
    """Which of the modalities (texts, images, vectors, all other fields) could be removed?

    Usefulness: the loss that the fields take off, summed over the modality. Unique part: loss of the score's mean over
    values of other rows for all of the modality's fields, less the loss as it is.
    """

    code = "features.modality"
    question = "What do texts, images and vectors bring beside the other fields?"
    sources = ("Covert, Lundberg and Lee 2020, Understanding Global Feature Contributions With Additive Importance Measures (SAGE)",
               "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        """What every field takes off the loss, and what is added to it without each modality."""
        groups = _groups(scope)
        scope.require_target("@cluster")
        return Needs.of(target=[scope.bucketed(loss_stat(scope)), *(_without(name, scope) for name in groups)])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - the interface's
        unit = "nats per row" if scope.binary else "squared units per row"
        measured = _measured(target, scope, unit)
        whole = sum(one.usefulness.value for one in measured)
        if not whole > 0:
            raise Unavailable("all fields together do not lower the loss on held-out rows", hint="see predictions.normalised_entropy")
        least = LEAST * whole
        evidence = (_bars(measured, unit), _table(measured, least, unit))
        spare = [one for one in measured if one.name != OTHER and one.could_go(least)]
        for one in spare:
            yield Finding(
                code=self.code, verdict=Verdict.WARN, place=Place(kind="field", name=names(one.fields)), estimate=one.unique, limit=least, neutral=0.0, concerns=max(0.0, 1 - one.unique.value / whole),
                claim=f"The model could do without its fields of kind {one.name} ({names(one.fields)}): {_said(one, unit)}; all fields together take off {number(whole)} ({one.unique.n:,} rows).",
                threshold=_threshold(least, unit),
                meaning="Texts, images and their vectors cost encoders, memory and latency, and are one more thing that can fail when serving.",
                causes=("another field, such as the item's id, says the same", "the vectors come from an encoder that knows nothing of what is asked here", "their scale is so small that the model hardly notices them"),
                remedies=(Remedy(code="drop_modality", text=f"Train without {names(one.fields)} and compare on held-out rows, new items apart: they have no history, and their content is all that is known."),
                          Remedy(code="fix_scaling", text="If they are meant to count, standardise the vectors or train their encoder.")),
                evidence=evidence, sources=self.sources)
        if not spare:
            last = min((one for one in measured if one.name != OTHER), key=lambda one: one.unique.value)
            doubt = "; whether that is something cannot be told" if last.could_go(least) is None else ""
            yield Finding(code=self.code, verdict=Verdict.PASS, estimate=last.unique, limit=least, neutral=0.0, evidence=evidence, sources=self.sources, threshold=_threshold(least, unit),
                          claim=f"No modality is surely dispensable. Least is brought by the fields of kind {last.name} ({names(last.fields)}): {_said(last, unit)}; all fields together take off "
                                f"{number(whole)} ({last.unique.n:,} rows){doubt}.")


def modality_groups(schema: Schema, fields: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name of each modality to its fields; empty where all fields are of one modality."""
    kinds = {field.name: field.kind for field in schema.fields}
    found: dict[str, tuple[str, ...]] = {}
    for field in fields:
        kind = kinds.get(field)
        name = kind.value if kind in APART else OTHER
        found[name] = (*found.get(name, ()), field)
    return found if len(found) > 1 else {}


def _groups(scope: Scope) -> dict[str, tuple[str, ...]]:
    groups = modality_groups(scope.schema, scope.fields or scope.schema.field_names)
    if not groups:
        raise Unavailable("all fields are of one modality", hint="fields of kind text, image or vector are compared with the others")
    if not all(f"{WITHOUT}{name}" in scope.target for name in groups):
        raise Unavailable("the loss without each modality was not measured", hint="examine a PyTorch model on rows with labels")
    return groups


def _without(name: str, scope: Scope) -> Bucketed:
    return scope.bucketed(Moments(column=f"{WITHOUT}{name}"))


def _measured(target: Tally, scope: Scope, unit: str) -> list[_Modality]:
    """Every modality, the one that takes most off first."""
    stat = loss_stat(scope)
    useful = target.get_summary(scope.bucketed(stat))
    require_rows(useful.total.count, "the rows whose fields were examined")
    found = []
    for name, fields in _groups(scope).items():
        places = [stat.fields.index(field) for field in fields if field in stat.fields]
        total = jackknife([useful], lambda t, places=places: float(t[0].mean_usefulness()[places].sum()), unit=f"{unit} taken off", n=int(useful.total.count))  # type: ignore[misc]
        left_out = target.get_summary(_without(name, scope))
        require_rows(left_out.total.count, "the rows from which modalities were left out")
        unique = jackknife([left_out], lambda t: float(t[0].mean), unit=f"{unit} added without", n=int(left_out.total.count))
        found.append(_Modality(name=name, fields=fields, usefulness=total, unique=unique))
    return sorted(found, key=lambda one: -one.usefulness.value)


def _said(one: _Modality, unit: str) -> str:
    return f"without them the loss changes by {between(one.unique)} {unit}, where above 0 is worse"


def _threshold(least: float, unit: str) -> str:
    return f"WARN when what a modality brings by itself is surely below {percent(LEAST)} of what all fields take off the loss ({number(least)} {unit})"


def _bars(measured: Sequence[_Modality], unit: str) -> Bars:
    entries = [(one.name, series, estimate) for one in measured for series, estimate in (("all that it takes off", one.usefulness), ("by itself", one.unique))]
    return Bars(title="What does each modality bring?", unit=unit, names=tuple(name for name, _, _ in entries), values=tuple(e.value for _, _, e in entries),
                low=tuple(e.value if e.low is None else e.low for _, _, e in entries), high=tuple(e.value if e.high is None else e.high for _, _, e in entries),
                group=tuple(series for _, series, _ in entries), reference=0.0, caption=f"{measured[0].unique.n:,} held-out rows, 95% intervals")


def _table(measured: Sequence[_Modality], least: float, unit: str) -> RankedTable:
    rows = tuple((one.name, names(one.fields), between(one.usefulness), between(one.unique), round(one.unique.value / one.usefulness.value, 2) if one.usefulness.surely_above(0.0) else None,
                  {True: "yes", False: "no", None: "cannot be told"}[one.could_go(least)]) for one in measured)
    return RankedTable(title="Which modality could be removed?", columns=("modality", "fields", f"takes off ({unit})", f"by itself ({unit})", "by itself / all", "could go"), rows=rows,
                       caption="by itself: what is added to the loss when its values are not known; what two modalities both say is lost with neither")
