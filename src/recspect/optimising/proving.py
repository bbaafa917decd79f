"""One remedy on trial: trainings with and without it, with a placebo beside them, judged on the rows of the proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from recspect.diagnosis.batch import Batch
from recspect.errors import RecspectError, UsageError
from recspect.optimising.arms import Arm, Trained
from recspect.optimising.holdout import Ledger
from recspect.optimising.judging import MARGIN, Judgement, against_placebo, judge
from recspect.optimising.remedy import Proposal
from recspect.schema import Schema

FEWEST_SEEDS = 5


class Trainer(Protocol):
    """Whoever trains: ours (`optimiser`) or a function of yours (`hook`)."""

    def __call__(self, proposal: Proposal | None, seed: int, codes: tuple[str, ...], *, placebo: bool = False) -> Trained:
        """Train with a remedy, with a placebo, or (None) as it is; pairs have the same seed."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one remedy.

    Args:
        proposal: The remedy.
        judgement: Of it; None where it could not be trained or judged.
        placebo: The same judgement of the placebo.
        trouble: Why there is no judgement.
    """

    proposal: Proposal
    judgement: Judgement | None = None
    placebo: Judgement | None = None
    trouble: str = ""

    @property
    def accepted(self) -> bool:
        return self.judgement is not None and self.judgement.accepted

    def to_mapping(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.proposal.to_mapping(), "accepted": self.accepted, "trouble": self.trouble, "judgement": _plain(self.judgement), "placebo": _plain(self.placebo)}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a remedy is judged.

    Args:
        seeds: One for each pair; at least 5.
        margin: Normalised entropy that a remedy which mends a defect may surely not cost more than.
        fewest: Pairs below which nothing is judged; lower only to try the machinery out.

    Raises:
        UsageError: Too few seeds, one twice, or a margin below 0.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    margin: float = MARGIN
    fewest: int = field(default=FEWEST_SEEDS, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        if len(set(self.seeds)) < max(self.fewest, len(self.seeds)):
            raise UsageError(f"{len(set(self.seeds))} different seeds of {len(self.seeds)} are given, expected {self.fewest} or more", hint="nothing is accepted on fewer pairs of trainings")
        if not self.margin >= 0:
            raise UsageError(f"the margin is {self.margin}, expected 0 or more")


def prove(proposal: Proposal, trainer: Trainer, rows: Batch, schema: Schema, ledger: Ledger, terms: Terms, *, key: str, say: Callable[[str], None] = lambda _: None) -> Trial:
    """Train pairs and judge them.

    Args:
        proposal: The remedy.
        trainer: Trains, and finds again what it has trained.
        rows: Of the proof.
        schema: Names label and user.
        ledger: Counts the uses of these rows.
        terms: Seeds and margin.
        key: Tells this trial from others, so that one that was stopped is not counted twice.
        say: Told what comes of it.
    """
    codes = tuple(dict.fromkeys(code for code, _ in proposal.target))
    try:
        before = _arm(trainer, None, terms.seeds, codes)
        after = _arm(trainer, proposal, terms.seeds, codes)
        other = _arm(trainer, None, terms.seeds, codes, placebo=True)
        use = ledger.use(key, f"{proposal.code} {proposal.place}".strip())
        placebo = judge(proposal, before, other, rows, schema, use, margin=terms.margin)
        judged = against_placebo(judge(proposal, before, after, rows, schema, use, margin=terms.margin), placebo)
    except RecspectError as error:
        say(f"{proposal.code}: {error.message}")
        return Trial(proposal=proposal, trouble=error.message)
    say(f"{proposal.code} {judged.outcome}: {judged.reasons[0]}")
    return Trial(proposal=proposal, judgement=judged, placebo=placebo)


def _arm(trainer: Trainer, proposal: Proposal | None, seeds: Sequence[int], codes: tuple[str, ...], *, placebo: bool = False) -> Arm:
    return tuple(trainer(proposal, seed, codes, placebo=placebo) for seed in seeds)


def _plain(judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    return {"outcome": judgement.outcome.value, "reasons": list(judgement.reasons), "healthy_before": judgement.healthy_before, "healthy_after": judgement.healthy_after,
            "use": judgement.use.number, "level": judgement.use.level,
            "figures": [{"name": one.name, "before": one.before, "after": one.after, "gain": one.gain.value, "low": one.gain.low, "high": one.gain.high, "unit": one.gain.unit} for one in judgement.figures]}


__all__ = ["FEWEST_SEEDS", "Terms", "Trainer", "Trial", "prove"]
