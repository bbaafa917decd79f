"""Thresholds fitted on other worlds and architectures than the one that is judged.

The alarm policy has a minimum effect for each code: a size below which nothing is worth a word, whatever the chance of it. An honest exam must not let a
program that is judged have a part in where these lie. So for each program a *stretch* is fitted per code and verdict, on the healthy and benign runs of
all programs that share neither its world nor its architecture: the factor on the minimum effect by which all but a share `USUAL` of those runs fall
silent. With it the program's findings are judged again: a FAIL that is not further out becomes a WARN, a WARN that is not further out falls silent.

A stretch is never below 1, so fitting takes alarms away and adds none: what is found with fitted thresholds is found by the shipped ones too. Hard
invariants (a limit at the neutral value: one shared row is a leak) have no factor. Sources: the split conformal quantile (Vovk, Gammerman and Shafer 2005).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from recspect.exam.faults import BENIGN
from recspect.exam.programs import parts_of
from recspect.exam.seen import Seen
from recspect.exam.sitting import HEALTHY, Outcome

USUAL = 0.02
"""Share of healthy runs of other programs that a fitted threshold may still alarm in, by one code and verdict."""


@dataclass(frozen=True)
class Fitted:
    """Stretches from healthy runs.

    Args:
        runs: How many runs they were fitted on.
        stretches: (code, verdict) to the factor on the limit; 1 where it is not there.
    """

    runs: int
    stretches: Mapping[tuple[str, str], float]

    def judge(self, seen: Seen) -> Seen:
        """The finding with the verdict that the stretched thresholds give."""
        strength = seen.strength
        if strength is None or strength > self.stretches.get((seen.code, seen.verdict), 0.0):
            return seen
        return replace(seen, verdict="WARN" if seen.verdict == "FAIL" else "PASS")


def fit(healthy: Sequence[Outcome]) -> Fitted:
    """The stretches by which all but a share `USUAL` of these runs are silent."""
    furthest: dict[tuple[str, str], list[float]] = {}
    for outcome in healthy:
        of_run: dict[tuple[str, str], float] = {}
        for seen in outcome.findings:
            if (strength := seen.strength) is not None:
                of_run[seen.code, seen.verdict] = max(strength, of_run.get((seen.code, seen.verdict), 0.0))
        for key, strength in of_run.items():
            furthest.setdefault(key, []).append(strength)
    allowed = math.floor(USUAL * (len(healthy) + 1))  # so many runs may be as far out: with fewer than 49 the furthest of all is the limit
    return Fitted(len(healthy), {key: sorted(values, reverse=True)[max(allowed - 1, 0)] for key, values in furthest.items() if len(values) >= max(allowed, 1)})


def leave_one_out(outcomes: Iterable[Outcome]) -> tuple[list[Outcome], dict[str, Fitted]]:
    """The outcomes of every program judged by thresholds fitted on the others, and these.

    A program is left out (and not among the keys) where no other shares neither its world nor its architecture.
    """
    outcomes = list(outcomes)
    healthy = [o for o in outcomes if (o.sheet.fault == HEALTHY or o.sheet.fault in BENIGN) and not o.refused]
    fitted: dict[str, Fitted] = {}
    for program in dict.fromkeys(o.sheet.program for o in outcomes):
        mine = parts_of(program)
        others = [o for o in healthy if not set(mine) & set(parts_of(o.sheet.program))]
        if others:
            fitted[program] = fit(others)
    judged = [replace(o, findings=tuple(fitted[o.sheet.program].judge(seen) for seen in o.findings)) for o in outcomes if o.sheet.program in fitted]
    return judged, fitted


__all__ = ["USUAL", "Fitted", "fit", "leave_one_out"]
