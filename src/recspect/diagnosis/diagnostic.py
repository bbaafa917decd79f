"""One question about a model: which totals it needs, and a pure judgement of them.

A diagnostic never touches data. It says which stats it needs over the target (the held-out rows) and the reference (the training rows), the
engine adds them up wherever the data lies, and `judge` turns the totals into findings. Drift, train/serve skew, model A against
model B and slice against rest are all the same call with another target and reference.

Columns that probes add and that stats may ask for (all begin with '@'):

    @label                      0/1, or the grade
    @cluster                    id whose rows are dependent: the user, or the row itself without a user
    @score                      the model's probability (or value)
    @score:other                the score of another model on the same rows
    @score:epoch-1 ...          the score of the model as it was after each epoch
    @score:permuted @score:permuted:f:r     the score on a sample, as it is and with field f permuted for the r-th time
    @score:shuffled @score:shuffled:f:r     the same of the ids of users and items, on samples of both sides
    @score:missing @score:missing:f     the score on a sample, as it is and with field f missing
    @loss_without:m             what is added to the loss on a sample when the fields of modality m are not known
    @baseline:popular ...       scores of honest baselines
    @often:f                    how often training saw the row's id of field f: unseen, rare, middle, frequent
    @attribution:f @reliance:f  contribution of field f to the logit (signed, size), on a sample of rows
    @usefulness:f               loss reduction attributed to field f, nats
    @conductance:f:l            flow of field f through every neuron of layer l (logits), a matrix; with the model after an epoch
                                this and the two above carry its name: @conductance:f:l:epoch-1
    @flow_error @flow_explained how far the contributions behind the flows are from the logit's difference, and its size, per row
    @completeness_error @explained
    @explanation:m:e            measure m of the quality of explanations by explainer e, on a few rows; @explanation:m without explainer is of the model (see probes.explanation_quality)
    @activation:l               activations of layer l, a matrix; @gradient_norm:l its loss gradient per row; @squashed:l what its
                                sigmoid or tanh was given, a matrix
    @row:f                      table row(s) that field f reads
    @embedding:f @uses:f        one row per table row: its vector, and how often training read it
    @key:f @log_norm:f @octave:f     of each of these, its vector to 8 significant bits, ln of its length, and how often it was read, in doublings
    @part @part:bytes ...       one row per table or module: what it holds, computes and looks up for a row, how often training read its rows
    @cost:operations_both_ways @cost:run @cost:seconds     what a row takes forward and backward; timed runs of 1,000 rows
    @weights:l                  one row for each entry of the longer side of the weight matrix of layer l
    @step @epoch @series @place @value     training internals (read with the stat `Series`)
    @list:user @list:item @list:rank @list:score @list:popularity @list:group @list:profile_popularity     recommended lists
    @list:calibration:f @list:calibration_by_chance:f @list:calibration_impersonal:f @list:generation     how far from the user's categories; of which model
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from recspect.diagnosis.finding import Finding, Verdict
from recspect.diagnosis.multiplicity import Check, p_limit
from recspect.diagnosis.slice import ALL, Slice
from recspect.diagnosis.stat import Bucketed, Stat
from recspect.diagnosis.tally import Key, Tally
from recspect.errors import Unavailable, listing
from recspect.schema import Role, Schema


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What is being examined, as far as a diagnostic may know it.

    Args:
        schema: What the columns mean.
        target: Columns that can be added up over the held-out side.
        reference: Columns that can be added up over the training side; empty when there is none.
        slices: Slices that the user declared.
        epochs: Epochs whose scores are there, ascending.
        layers: Names of the layers whose activations are there, input side first.
        tables: Fields that have an embedding table.
        fields: Fields that enter the model.
        buckets: Number of jackknife buckets.
        p_limit: Largest p-value that is an alarm, over all checks of the run; `judge` sets it.
        checks: How many checks that was taken over.
    """

    schema: Schema
    target: frozenset[str] = frozenset()
    reference: frozenset[str] = frozenset()
    slices: tuple[Slice, ...] = ()
    epochs: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    buckets: int = 50
    p_limit: float = 0.0
    checks: int = 0

    @property
    def cluster_name(self) -> str:
        """What `@cluster` is in words: "users", or "rows" where the schema has no user."""
        return "rows" if self.schema.user is None else "users"

    def bucketed(self, stat: Stat[Any]) -> Bucketed:
        """The stat in buckets of whole users, for intervals."""
        return Bucketed(stat=stat, by="@cluster", buckets=self.buckets)

    @property
    def binary(self) -> bool:
        """Whether the label is 0/1."""
        return bool(self.schema.labels) and self.schema.label.kind == "binary"

    def require_target(self, *columns: str, why: str = "") -> None:
        """These columns can be added up over the held-out side.

        Raises:
            Unavailable: Some cannot; the reason names them.
        """
        _require(self.target, columns, "the held-out rows", why)

    def require_reference(self, *columns: str, why: str = "") -> None:
        """These columns can be added up over the training side.

        Raises:
            Unavailable: There is no training side, or it lacks some.
        """
        if not self.reference:
            raise Unavailable("there are no training rows to compare with", hint="give them: --train TABLE")
        _require(self.reference, columns, "the training rows", why)

    def require_role(self, role: Role | str) -> str:
        """The column that has the role.

        Raises:
            Unavailable: None has.
        """
        column = self.schema.column(role)
        if column is None:
            raise Unavailable(f"no column has the role '{Role(role).value}'", hint="name one in the schema")
        return column

    def require_binary(self) -> None:
        """The label is 0/1.

        Raises:
            Unavailable: It is a grade, or there is none.
        """
        if not self.schema.labels:
            raise Unavailable("no column has the role 'label'", hint="name one in the schema")
        if not self.binary:
            raise Unavailable(f"the label '{self.schema.label.name}' is a grade, this question is about 0/1 labels",
                              hint="declare a threshold: at_least = ... in the schema's label")


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What to add up: (slice, stat) pairs over each side."""

    target: tuple[Key, ...] = ()
    reference: tuple[Key, ...] = ()

    @classmethod
    def of(cls, *, target: Iterable[Stat[Any]] = (), reference: Iterable[Stat[Any]] = (), both: Iterable[Stat[Any]] = (),
           slices: Sequence[Slice] = (ALL,)) -> Needs:
        """Every stat over every slice; `both` goes to both sides."""
        both = tuple(both)
        return cls(target=tuple((s, stat) for stat in (*target, *both) for s in slices),
                   reference=tuple((s, stat) for stat in (*reference, *both) for s in slices))


class Diagnostic(ABC):
    """One question. Subclasses set `code` and `question`, and are found by being imported.

    `code` is stable (`stage.question`), `sources` are the papers or libraries behind the method.
    """

    code: ClassVar[str]
    question: ClassVar[str]
    sources: ClassVar[tuple[str, ...]] = ()
    registry: ClassVar[dict[str, type[Diagnostic]]] = {}

    def __init_subclass__(cls) -> None:
        if "code" in vars(cls):  # not a kind of diagnostic, which asks nothing itself
            Diagnostic.registry[cls.code] = cls

    @abstractmethod
    def needs(self, scope: Scope) -> Needs:
        """What to add up.

        Raises:
            Unavailable: The scope lacks what the question is about; becomes an UNKNOWN finding.
        """

    @abstractmethod
    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """The answer, from totals alone.

        Raises:
            Unavailable: The totals cannot say (too few rows, one class); becomes an UNKNOWN finding.
        """


@runtime_checkable
class Refining(Protocol):
    """A diagnostic that asks again once it has seen totals, such as a search that goes level by level."""

    def further(self, target: Tally, reference: Tally, scope: Scope) -> Needs:
        """What to add up next, beside what there is; nothing where that is enough.

        Raises:
            Unavailable: The totals cannot say.
        """


ROUNDS = 3
"""How often a diagnostic may ask again."""


class NullCalibrated(Diagnostic):
    """A diagnostic that makes comparisons whose chance is known when nothing is wrong.

    The engine measures once, takes the checks of all such diagnostics together, and then asks for findings; these call nothing an alarm whose
    p-value is above `scope.p_limit`.
    """

    @abstractmethod
    def measure(self, target: Tally, reference: Tally, scope: Scope) -> Any:
        """Everything compared, from totals alone: what `checks` and `findings` are given.

        Raises:
            Unavailable: The totals cannot say; becomes an UNKNOWN finding.
        """

    @abstractmethod
    def checks(self, measured: Any) -> Sequence[Check]:
        """Every comparison made."""

    @abstractmethod
    def findings(self, measured: Any, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        """The answer, from what was measured; raises like `judge`."""

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:
        return self.findings(self.measure(target, reference, scope), target, reference, scope)


@dataclass(frozen=True)
class Plan:
    """What a set of diagnostics needs together, each total once.

    Args:
        needs: Union of the needs.
        answering: The diagnostics that can answer.
        unknown: UNKNOWN findings of those that cannot.
    """

    needs: Needs
    answering: tuple[Diagnostic, ...]
    unknown: tuple[Finding, ...] = field(default=())


def all_diagnostics() -> list[Diagnostic]:
    """One of each diagnostic that recspect ships, by code."""
    from recspect.diagnosis import diagnostics

    for module in pkgutil.walk_packages(diagnostics.__path__, f"{diagnostics.__name__}."):
        importlib.import_module(module.name)
    return [Diagnostic.registry[code]() for code in sorted(Diagnostic.registry)]


def plan(diagnostics: Sequence[Diagnostic], scope: Scope) -> Plan:
    """Ask every diagnostic what it needs."""
    target: dict[Key, None] = {}
    reference: dict[Key, None] = {}
    answering, unknown = [], []
    for diagnostic in diagnostics:
        try:
            needs = diagnostic.needs(scope)
            _hold(needs, scope)
        except Unavailable as reason:
            unknown.append(unknown_finding(diagnostic, reason))
            continue
        target |= dict.fromkeys(needs.target)
        reference |= dict.fromkeys(needs.reference)
        answering.append(diagnostic)
    return Plan(Needs(target=tuple(target), reference=tuple(reference)), tuple(answering), tuple(unknown))


def gathered(planned: Plan, scope: Scope, target: Callable[[Sequence[Key]], Tally], reference: Callable[[Sequence[Key]], Tally]) -> tuple[Tally, Tally]:
    """Both sides' totals: of what was planned, and of what diagnostics ask for once they have seen it."""
    found = target(planned.needs.target), reference(planned.needs.reference)
    asking = [diagnostic for diagnostic in planned.answering if isinstance(diagnostic, Refining)]
    for _ in range(ROUNDS):
        keys: tuple[dict[Key, None], dict[Key, None]] = ({}, {})
        for diagnostic in asking:
            try:
                needs = diagnostic.further(*found, scope)
            except Unavailable:  # judging will say why
                continue
            for wanted, there, mine in zip(keys, found, (needs.target, needs.reference), strict=True):
                wanted.update(dict.fromkeys(key for key in mine if key not in there))
        if not any(keys):
            break
        found = found[0] + target(tuple(keys[0])), found[1] + reference(tuple(keys[1]))
    return found


def judge(planned: Plan, target: Tally, reference: Tally, scope: Scope) -> list[Finding]:
    """All findings: of the diagnostics that answer, and UNKNOWN with the reason of those that cannot."""
    measured = measurements(planned, target, reference, scope)
    scope = with_p_limit(measured, scope)
    findings = list(planned.unknown)
    for diagnostic in planned.answering:
        try:
            if isinstance(diagnostic, NullCalibrated):
                seen = measured[diagnostic]
                if isinstance(seen, Unavailable):
                    raise seen
                findings.extend(diagnostic.findings(seen, target, reference, scope))
            else:
                findings.extend(diagnostic.judge(target, reference, scope))
        except Unavailable as reason:
            findings.append(unknown_finding(diagnostic, reason))
    return findings


def measurements(planned: Plan, target: Tally, reference: Tally, scope: Scope) -> dict[NullCalibrated, Any]:
    """What every null-calibrated diagnostic measured, or the `Unavailable` that says why it could not."""
    measured: dict[NullCalibrated, Any] = {}
    for diagnostic in planned.answering:
        if isinstance(diagnostic, NullCalibrated):
            try:
                measured[diagnostic] = diagnostic.measure(target, reference, scope)
            except Unavailable as reason:
                measured[diagnostic] = reason
    return measured


def with_p_limit(measured: Mapping[NullCalibrated, Any], scope: Scope) -> Scope:
    """The scope with what is unlikely by chance among all null-calibrated checks of the run."""
    checks = [check for diagnostic, seen in measured.items() if not isinstance(seen, Unavailable) for check in diagnostic.checks(seen)]
    return replace(scope, p_limit=p_limit(checks), checks=len(checks))


def unknown_finding(diagnostic: Diagnostic, reason: Unavailable) -> Finding:
    """What a diagnostic says that cannot know."""
    return Finding(code=diagnostic.code, verdict=Verdict.UNKNOWN, claim=_sentence(reason.reason),
                   meaning=f"Not answered: {diagnostic.question}", threshold=reason.hint, sources=diagnostic.sources)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _hold(needs: Needs, scope: Scope) -> None:
    for keys, columns, side in ((needs.target, scope.target, "the held-out rows"),
                                (needs.reference, scope.reference, "the training rows")):
        for slice_, stat in keys:
            _require(columns, (*stat.columns, *slice_.columns), side, "")


def _require(there: frozenset[str], wanted: Sequence[str], side: str, why: str) -> None:
    missing = [column for column in dict.fromkeys(wanted) if column not in there]
    if missing:
        raise Unavailable(why or f"{side} have no {listing(missing, limit=3)}")
