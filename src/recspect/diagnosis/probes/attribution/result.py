"""What attributions are: contributions of fields to rows, with their own error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


def _none() -> Tensor:
    return torch.zeros(0)


@dataclass(frozen=True)
class Attribution:
    """Contributions of fields to rows.

    Args:
        reliance: Field to signed contribution to the logit, shape [B].
        usefulness: Field to the loss reduction in nats (or squared units) attributed to it, shape [B]; empty without labels.
        entries: Field to contributions per entry of a list field, shape [B, L]; padding gets exactly 0 where the model masks it.
        score: The logit (or value) of each row, shape [B].
        baseline: The logit at the baseline, shape [B].
        error: |sum over fields - (score - baseline)|, shape [B]: a lower bound of the error of the row's contributions.
        bound: Estimate from above of the error of the row's contributions, summed over fields, in logits, shape [B]; infinite where only one rule was
            evaluated (a fixed number of steps).
        points: Points of the path that were evaluated for the row (each a forward and a backward pass), shape [B].
        converged: Whether the bound is within the tolerance, shape [B]; False for a fixed number of steps.
    """

    reliance: dict[str, Tensor]
    usefulness: dict[str, Tensor]
    entries: dict[str, Tensor]
    score: Tensor
    baseline: Tensor
    error: Tensor
    bound: Tensor = field(default_factory=_none)
    points: Tensor = field(default_factory=_none)
    converged: Tensor = field(default_factory=_none)

    def minus(self, other: Attribution) -> Attribution:
        """Why these rows score above those of `other`, row by row: the difference of contributions, of the same baseline.

        For items i and j of one user, what the user's own fields contribute is what they do to i more than to j. Entries of lists are left out
        where their lengths differ.
        """
        entries = {name: value - other.entries[name] for name, value in self.entries.items()
                   if name in other.entries and other.entries[name].shape == value.shape}
        return Attribution({name: value - other.reliance[name] for name, value in self.reliance.items()},
                           {name: value - other.usefulness[name] for name, value in self.usefulness.items() if name in other.usefulness},
                           entries, self.score - other.score, self.baseline - other.baseline, self.error + other.error,
                           self.bound + other.bound, self.points + other.points, self.converged & other.converged)


def joined(parts: Sequence[Attribution]) -> Attribution:
    """The rows of several, one after the other; entries of shorter lists are padded with 0."""
    if not parts:
        return Attribution({}, {}, {}, _none(), _none(), _none(), _none(), _none(), _none().bool())

    def cat(which: str) -> dict[str, Tensor]:
        dicts = [getattr(part, which) for part in parts]
        width = {name: max(d[name].shape[-1] for d in dicts) for name in dicts[0]} if which == "entries" else {}
        return {name: torch.cat([F.pad(d[name], (0, width[name] - d[name].shape[-1])) if width else d[name] for d in dicts])
                for name in dicts[0]}

    def rows(which: str) -> Tensor:
        return torch.cat([getattr(part, which) for part in parts])

    return Attribution(cat("reliance"), cat("usefulness"), cat("entries"), rows("score"), rows("baseline"), rows("error"), rows("bound"),
                       rows("points"), rows("converged"))
