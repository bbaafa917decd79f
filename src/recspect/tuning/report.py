"""What came of a search, as findings and figures: data to draw."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from recspect.diagnosis.diagnostics.policy import between
from recspect.diagnosis.evidence import Bars, Curve, Evidence, Line, RankedTable, Scatter
from recspect.diagnosis.finding import Finding, Place, Remedy, Report
from recspect.diagnosis.finding import Verdict as Mark
from recspect.tuning.judging import Trial, Verdict, winner_of
from recspect.tuning.tuning import SETTINGS, Tuning, require_optuna

CODE = "training.search"
SOURCES = ("Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization (TPE)", "Li et al. 2018, Hyperband", "Cawley and Talbot 2010, On Over-fitting in Model Selection and Subsequent Selection Bias",
           "Watanabe et al. 2023, PED-ANOVA (what each setting matters)")
ENOUGH = 10
"""Finished trials before what each setting matters is estimated."""


def report_of(tuning: Tuning, trials: Sequence[Trial], verdict: Verdict | None, *, command: str = "") -> Report:
    """The finding about the winner, and the figures behind it."""
    finished = [one for one in trials if one.state == "finished"]
    counts = {state: sum(one.state == state for one in trials) for state in ("finished", "pruned", "failed", "running")}
    findings = (_finding(tuning, trials, verdict, counts),)
    overview: list[Evidence] = [*_course(tuning, trials), *_front(tuning, finished), _table(tuning, trials), *_matters(tuning, finished)]
    winner = winner_of(tuning, trials) if finished else None
    return Report(findings=findings, overview=tuple(overview), title=f"Settings of {tuning.base.model.name}, searched for {', '.join(one.name for one in tuning.objectives)}",
                  provenance={"folder": tuning.folder.name, "created": tuning.note["created"], "command": command or tuning.note["command"], "data": tuning.note["data"], "data_fingerprint": tuning.note["data_fingerprint"],
                              "trials": counts, "seconds": tuning.note["seconds"], "winner": None if winner is None else winner.number, "winners_judged": len(tuning.note["judgements"]),
                              "front": [one.number for one in finished if one.front], "settings": None if winner is None else winner.settings})


def _finding(tuning: Tuning, trials: Sequence[Trial], verdict: Verdict | None, counts: dict[str, int]) -> Finding:
    told = f"{len(trials)} trials: {counts['finished']} finished, {counts['pruned']} ended early, {counts['failed']} failed"
    if not counts["finished"]:
        return Finding(code=CODE, verdict=Mark.UNKNOWN, claim=f"{told}.", threshold="give a larger budget", sources=SOURCES)
    if verdict is None:
        winner = winner_of(tuning, trials)
        why = "the default settings do best on validation rows" if winner.number == 0 else "the trial of the default settings did not finish, so there is nothing to hold the winner against"
        return Finding(code=CODE, verdict=Mark.UNKNOWN, claim=f"{told}; {why}.", threshold="search longer", sources=SOURCES)
    better, worse = verdict.gain.surely_above(0.0), verdict.gain.surely_below(0.0)
    word = "is better than the default settings" if better else "is worse than the default settings" if worse else "cannot be told from the default settings"
    quality = "AUC" if verdict.gain.unit == "AUC" else "root mean squared error"
    optimism = abs(verdict.on_validation[0] - verdict.on_validation[1])
    widened = f"; the intervals hold for the {verdict.times} winners that these rows have judged" if verdict.times > 1 else ""
    return Finding(
        code=CODE, verdict=Mark.PASS if better else Mark.WARN if worse else Mark.UNKNOWN, place=Place(kind="run", name=f"trial {verdict.winner}"), estimate=verdict.gain, limit=0.0, sources=SOURCES,
        claim=f"{told}. The winner (trial {verdict.winner}) {word} on {verdict.gain.n:,} test rows that chose nothing: {quality} {verdict.quality[0]:.4f} against {verdict.quality[1]:.4f}, a gain of {between(verdict.gain)}"
              f"{widened}. Loss per row falls by {between(verdict.loss)}. On the validation rows by which it was chosen {quality} was {verdict.on_validation[0]:.4f} against {verdict.on_validation[1]:.4f}: "
              f"{optimism:.4f} apart, which flatters the winner, being the best of many.",
        threshold="PASS when the whole interval of the gain is above 0, WARN when it is below" if better or worse else "hold out more rows, or train winner and default settings with several seeds",
        meaning="One training each: the interval covers other rows, and no other seeds.", remedies=(Remedy(code="train_with_settings", text="Train with the settings of the winner.", command=f"recspect train --settings {SETTINGS}"),))


def _course(tuning: Tuning, trials: Sequence[Trial]) -> list[Evidence]:
    first, shown = tuning.objectives[0], [one for one in trials if one.state in ("finished", "pruned") and one.values]
    if not shown:
        return []
    best: list[float] = []
    for one in shown:
        value = one.values[0] if one.state == "finished" else None
        best.append(best[-1] if value is None and best else value if not best else first.sign * max(first.sign * best[-1], first.sign * float(value or 0.0)) if value is not None else float("nan"))
    numbers = tuple(float(one.number) for one in shown)
    lines = (Line(name="best so far", x=numbers, y=tuple(best)), Line(name="trial", x=numbers, y=tuple(one.values[0] for one in shown), role="reference"))
    return [Curve(title="How did the search go?", x_title="trial", y_title=first.unit, lines=lines, stage="training", caption=f"{len(shown)} trials; of those that were ended early their best value until then, which is not counted as the best")]


def _front(tuning: Tuning, finished: Sequence[Trial]) -> list[Evidence]:
    if len(tuning.objectives) < 2 or not finished:
        return []
    first = tuning.objectives[0]
    found: list[Evidence] = []
    for place, other in enumerate(tuning.objectives[1:], start=1):
        front = sorted((one for one in finished if one.front), key=lambda one, place=place: one.values[place])  # type: ignore[misc]
        log = all(one.values[place] > 0 for one in finished)
        if len(tuning.objectives) == 2 and len(front) > 1:
            found.append(Curve(title=f"Which trials are best at their {other.name}?", x_title=other.unit, y_title=first.unit, log_x=log, stage="training",
                               lines=(Line(name="Pareto front", x=tuple(one.values[place] for one in front), y=tuple(one.values[0] for one in front)),),
                               caption=f"{len(front)} of {len(finished)} finished trials: none other is better by one objective and no worse by the other"))
        found.append(Scatter(title=f"What does {first.name} cost in {other.name}?", x_title=other.unit, y_title=first.unit, x=tuple(one.values[place] for one in finished), y=tuple(one.values[0] for one in finished),
                             names=tuple(f"trial {one.number}{' (front)' if one.front else ''}" for one in finished), log_x=log, stage="training", caption=f"{len(finished)} finished trials, {len(front)} of them on the Pareto front"))
    return found


def _table(tuning: Tuning, trials: Sequence[Trial]) -> RankedTable:
    names = [dimension.name for dimension in tuning.space]
    first = tuning.objectives[0]
    order = sorted(trials, key=lambda one: (one.state != "finished", -first.sign * one.values[0] if one.values else float("inf"), one.number))
    rows = tuple((one.number, one.state + (", front" if one.front and len(tuning.objectives) > 1 else ""), *(one.values[place] if place < len(one.values) else None for place in range(len(tuning.objectives))),
                  *(_cell(one.settings.get(name)) for name in names)) for one in order[:100])
    return RankedTable(title="Which settings did best?", columns=("trial", "state", *(one.name for one in tuning.objectives), *names), rows=rows, stage="training",
                       caption=f"{len(rows)} of {len(trials)} trials, by {first.unit}; trial 0 has the default settings")


def _cell(value: Any) -> str | float | int | None:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _matters(tuning: Tuning, finished: Sequence[Trial]) -> list[Evidence]:
    """How much each setting matters for being among the good trials; nothing where there are too few."""
    if len(finished) < ENOUGH:
        return []
    optuna = require_optuna()
    with tuning.study() as study, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library calls it experimental
        try:
            found = optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), target=lambda trial: trial.values[0])
        except (ValueError, RuntimeError, ImportError):  # all values alike, or no setting that varies
            return []
    kept = {name: float(value) for name, value in found.items() if value == value}  # noqa: PLR0124 - NaN
    if not kept:
        return []
    return [Bars(title="Which settings matter?", unit="share", names=tuple(kept), values=tuple(kept.values()), stage="training",
                 caption=f"For being among the best tenth of {len(finished)} finished trials, by validation rows; PED-ANOVA, without intervals: with few trials the order is chance")]


__all__ = ["CODE", "report_of"]
