"""What a remedy is, and what it becomes for one model: a proposal with numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from recspect.diagnosis.finding import Finding, Report, Verdict

if TYPE_CHECKING:
    from recspect.optimising.parts import Parts
    from recspect.optimising.recipe import Recipe


class Part(StrEnum):
    """What a remedy changes."""

    DATA = "data"
    FEATURES = "features"
    MODEL = "model"
    TRAINING = "training"
    CALIBRATION = "calibration"
    LIST = "list"
    SERVING = "serving"


class Gate(StrEnum):
    """What the quality on rows of the proof must show for a remedy to be accepted.

    `gain`: surely better. `no_loss`: surely no worse than by the margin; for remedies that mend a defect, or save cost. `honest`: the figures were too good, so that a
    fall is success; the model must still surely beat a constant.
    """

    GAIN = "gain"
    NO_LOSS = "no_loss"
    HONEST = "honest"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a remedy may look at to choose its numbers. None of it comes from rows of the proof.

    Args:
        report: Of the diagnosis.
        place: What the cause, or the finding, is about; "" for the whole run.
        recipe: How the model was made; None for a model from elsewhere.
        parts: Its rows; None likewise.
        epochs: Figures of the epochs of the diagnosed training.
        logits: Logits and labels of the diagnosed rows in order of time; None where they are not known.
        try_out: Validation loss of a training with these changes, for a number that only a trial can tell; None where nothing can be trained.
    """

    report: Report
    place: str = ""
    recipe: Recipe | None = None
    parts: Parts | None = None
    epochs: tuple[Mapping[str, Any], ...] = ()
    logits: tuple[Any, Any] | None = None
    try_out: Callable[[Mapping[str, Any]], float] | None = None

    def alarms(self, *codes: str) -> tuple[Finding, ...]:
        """FAIL and WARN findings of these diagnostics, worst first."""
        return tuple(finding for finding in self.report.with_verdict(Verdict.FAIL, Verdict.WARN) if finding.code in codes)

    def value(self, code: str) -> float | None:
        """The number of the worst finding of a diagnostic, whatever its verdict."""
        return next((finding.estimate.value for finding in self.report.find(code) if finding.estimate is not None), None)


@dataclass(frozen=True)
class Prepared:
    """A remedy with its numbers.

    Args:
        text: What to do, in words, with the numbers.
        changes: The same as data; empty where it is done by hand.
    """

    text: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RemedyKind:
    """One remedy of the catalogue.

    Args:
        code: Stable.
        part: What it changes.
        prepare: Chooses the numbers; None where it does not apply to this model.
        causes: Codes of causes that it mends.
        codes: Diagnostics that must be healthy again; those of them that alarm are the target.
        cost: What it takes, in words.
        gate: What quality must show.
        guardrails: What must not get worse besides, in words; see `judging` for what is measured.
        vanishes: The question itself goes away with the remedy (a field that is not there any more, a second epoch): unanswered counts as healthy.
        source: Where it is from.
    """

    code: str
    part: Part
    prepare: Callable[[Facts], Prepared | None]
    causes: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    cost: str = "one training"
    gate: Gate = Gate.NO_LOSS
    guardrails: tuple[str, ...] = ("ranking (AUC, AUC within users)", "calibration", "no finding that fails anew")
    vanishes: bool = False
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A remedy for one model.

    Args:
        kind: The remedy.
        place: Where; "" for the whole run.
        why: The cause, or the claim of the finding, that it answers.
        prepared: Its numbers.
        target: (code, place) of the findings that must be healthy again; the place is "" where any place counts.
    """

    kind: RemedyKind
    place: str
    why: str
    prepared: Prepared
    target: tuple[tuple[str, str], ...]

    @property
    def code(self) -> str:
        """Of the remedy."""
        return self.kind.code

    @property
    def applicable(self) -> bool:
        """Whether it can be applied by changing a recipe."""
        return bool(self.prepared.changes)

    def to_mapping(self) -> dict[str, Any]:
        """Plain data."""
        return {"code": self.code, "part": self.kind.part.value, "place": self.place, "why": self.why, "text": self.prepared.text, "changes": dict(self.prepared.changes),
                "target": [list(pair) for pair in self.target], "gate": self.kind.gate.value, "cost": self.kind.cost, "guardrails": list(self.kind.guardrails), "source": self.kind.source}


__all__ = ["Facts", "Gate", "Part", "Prepared", "Proposal", "RemedyKind"]
