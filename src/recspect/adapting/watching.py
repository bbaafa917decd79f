"""The metric in use held against the experiments that came after it: surprises, metrics that teams play, and whether it still earns more than the north star alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recspect.adapting import goodhart
from recspect.adapting.adoption import Verdict, must_retire
from recspect.adapting.fitting import FINAL, gate_of, without_north_star
from recspect.adapting.history import Release
from recspect.adapting.metric_file import MetricFile
from recspect.adapting.proposing import retirement
from recspect.adapting.surprise import Surprises, surprises
from recspect.errors import DataError, UsageError
from recspect.experimenting.experiment import Corpus


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What was seen.

    Args:
        experiments: Names of those that the release was not fitted on, in order of their end.
        surprises: Of their north stars.
        suspects: Metrics, most suspicious first; empty where none promises anything.
        retire: Whether the metric does surely worse than the north star alone; None where that cannot be told.
        alarms: Sentences; empty where all is well.
    """

    experiments: tuple[str, ...]
    surprises: Surprises
    suspects: tuple[goodhart.Suspect, ...]
    retire: Verdict | None
    alarms: tuple[str, ...]

    @property
    def widening(self) -> float:
        """By how much posterior variances are to be widened: 1 unless the surprises gave an alarm."""
        return self.surprises.widening if self.surprises.alarm is not None else 1.0


def watch(corpus: Corpus, release: Release, file: MetricFile, *, draws: int = 200) -> Watch:
    """Look at the experiments that a release was not fitted on.

    Args:
        corpus: All experiments, with the metrics of the release.
        release: What is in use.
        file: For the gate.
        draws: Simulated healthy worlds behind the limit of the Goodhart watch.

    Raises:
        DataError: There is no such experiment.
    """
    seen = set(release.experiments)
    new = Corpus(tuple(one if one.maturity >= FINAL else without_north_star(one) for one in corpus.in_order() if one.name not in seen and one.measured[1:].any()))
    if not len(new):
        raise DataError("no experiment that the metric in use was not fitted on", hint="a metric is checked by experiments that came after it, or that were kept apart")
    surprising = surprises(new, release.latent)
    suspects = goodhart.watch(new, release.latent, past=release.evidence, draws=draws)
    try:
        retire = must_retire(retirement(new, release), gate_of(file))
    except UsageError:
        retire = None
    return Watch(experiments=tuple(one.name for one in new), surprises=surprising, suspects=suspects, retire=retire, alarms=tuple(_alarms(new, release, surprising, suspects, retire)))


def _alarms(corpus: Corpus, release: Release, surprising: Surprises, suspects: tuple[goodhart.Suspect, ...], retire: Verdict | None) -> list[str]:
    found = []
    if surprising.alarm is not None:
        about = {"above": "the north star turns out higher than promised", "below": "the north star turns out lower than promised", "size": "north stars turn out farther from what was promised"}
        found.append(f"{about[surprising.about]} since about experiment {corpus.experiments[surprising.alarm].name!r}: decide by the north star and guardrails, fit again, "
                     f"and take predictions as {surprising.widening ** 0.5:.1f} times as uncertain until then")
    named = [one for one in suspects if one.alarm is not None]
    found += [f"{one.metric} is {one.kind}: its correlation was {one.before:+.2f}, now rather {one.now:+.2f} (evidence {float(np.max(one.sums)):.1f} nats, limit {one.limit:.1f}, "
              f"reached at experiment {corpus.experiments[one.alarm].name!r}); is it a target of the teams?" for one in named[:1] if one.alarm is not None]
    if len(named) > 1:
        found.append(f"others that no longer go as they did, with less evidence: {', '.join(one.metric for one in named[1:])}")
    if retire is not None and retire.passed:
        found.append(f"release {release.number} is to be retired: {retire.reasons[0]}")
    return found


__all__ = ["Watch", "watch"]
