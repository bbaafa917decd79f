"""Whether ids tell the model more about the rows it learned from than about new rows of the same ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, require_classes, verdict_above
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.jackknife import BucketedSummary, jackknife
from recspect.diagnosis.probes.shuffled_ids import SHUFFLED
from recspect.diagnosis.stat import Bucketed
from recspect.diagnosis.stats.score_label import ScoreLabel
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

WARN = 0.075
"""Of AUC. Models that read each row once lose less than this more on training rows; see the page of this finding."""


class IdShuffle(Diagnostic):
    """AUC lost on training rows when an id is dealt out to other rows, less what is lost on held-out rows of ids that training saw.

    What an id says of its user or item is lost on both sides alike; what the model kept of single rows is lost on training rows alone.
    """

    code = "training.id_shuffle"
    question = "Do the ids of users and items tell the model more about training rows than about new ones?"
    sources = ("Breiman 2001, Random Forests (permutation importance)",
               "Zhang et al. 2022, Towards Understanding the Overfitting Phenomenon of Deep Click-Through Rate Models (ids)", "Kott 2001, The Delete-a-Group Jackknife (interval)")

    def needs(self, scope: Scope) -> Needs:
        """Scores with each id as it is and dealt out, on both sides."""
        scope.require_binary()
        scope.require_target("@label", "@cluster")
        if SHUFFLED not in scope.target:
            raise Unavailable("the model was not run with ids dealt out to other rows", hint="examine a PyTorch model that reads the user or the item, together with its training rows")
        scope.require_reference(SHUFFLED, "@label", "@cluster")
        if not _ids(scope):
            raise Unavailable("the model reads neither user nor item", hint="name them in the schema")
        return Needs.of(both=[_stat(column, scope) for column in (SHUFFLED, *(column for name in _ids(scope) for column in _columns(name, scope)))])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        """One finding for each id."""
        sides = (("the held-out rows of ids that training saw", target), ("the training rows", reference))
        for side, total in sides:
            base = total.get_summary(_stat(SHUFFLED, scope)).total
            require_classes(base.positive, base.count, side)
        for name in _ids(scope):
            yield self._finding(name, target, reference, scope)

    def _finding(self, name: str, target: Tally, reference: Tally, scope: Scope) -> Finding:
        columns = (SHUFFLED, *_columns(name, scope))
        old, new = ([total.get_summary(_stat(column, scope)) for column in columns] for total in (reference, target))
        n = int(new[0].total.count)
        lost = {"training rows": _lost(old), "held-out rows": _lost(new)}
        extra = jackknife([*old, *new], lambda t: _drop(t[:len(columns)]) - _drop(t[len(columns):]), unit="AUC lost on training rows - on held-out rows", n=n)
        verdict = verdict_above(extra, fail=None, warn=WARN)
        role = "user" if name == scope.schema.user else "item"
        numbers = (f"dealing out {name} to other rows takes {between(lost['training rows'], 3)} of AUC from training rows and {between(lost['held-out rows'], 3)} from held-out rows of {role}s "
                   f"that training saw: {between(extra, 3)} more ({n:,} held-out rows)")
        start = f"The model keeps single training rows in the ids of {role}s" if verdict is not Verdict.PASS else f"The ids of {role}s tell the model about as much of new rows as of training rows"
        bars = Bars(title=f"How much AUC is lost when {name} is dealt out to other rows?", unit="AUC lost", names=tuple(lost), values=tuple(e.value for e in lost.values()),
                    low=tuple(_end(e.low, e) for e in lost.values()), high=tuple(_end(e.high, e) for e in lost.values()),
                    highlighted=("training rows",) if verdict is not Verdict.PASS else (), caption=f"{int(old[0].total.count):,} training and {n:,} held-out rows, {len(columns) - 1} times each")
        return Finding(
            code=self.code, verdict=verdict, place=Place(kind="field", name=name), claim=f"{start}: {numbers}.", estimate=extra, limit=WARN,
            threshold=f"WARN when surely more than {WARN:.3f} of AUC more is lost on training rows than on held-out rows; never FAIL",
            meaning="What an id holds of rows that were learned is worth nothing on new rows, and can give away what a person did.",
            causes=("several epochs over the same rows (see training.one_epoch)", "a fast optimiser or a high rate on the embeddings", "wide embeddings for ids with few rows"),
            remedies=(Remedy(code="stop_after_one_epoch", text="Train for one epoch."),
                      Remedy(code="raise_minimum_count", text="Let rare ids share one embedding (minimum_count)."),
                      Remedy(code="raise_embedding_decay", text="Add weight decay to the embeddings only, or narrow them.")),
            evidence=(bars,), sources=self.sources)


def _ids(scope: Scope) -> list[str]:
    return [name for name in (scope.schema.user, scope.schema.item) if name is not None and _columns(name, scope)]


def _columns(name: str, scope: Scope) -> tuple[str, ...]:
    """The columns of scores with this id dealt out, by repeat."""
    found: list[str] = []
    while (column := f"{SHUFFLED}:{name}:{len(found)}") in scope.target and column in scope.reference:
        found.append(column)
    return tuple(found)


def _stat(column: str, scope: Scope) -> Bucketed:
    return scope.bucketed(ScoreLabel(score=column, detail=3))


def _drop(totals: list[object]) -> float:
    """AUC as it is less the mean over repeats with the id dealt out."""
    first, *dealt = [float(total.auc) for total in totals]  # type: ignore[attr-defined]
    return first - float(np.mean(dealt))


def _lost(side: list[BucketedSummary]) -> Estimate:
    return jackknife(side, _drop, unit="AUC lost", n=int(side[0].total.count))


def _end(end: float | None, estimate: Estimate) -> float:
    return estimate.value if end is None else end
