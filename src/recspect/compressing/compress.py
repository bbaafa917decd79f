"""Make smaller models of a run, hold each against the run's own on rows not used to make them, and keep the smallest that is proven equal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recspect.compressing.fitted import Fitted
from recspect.compressing.measuring import Cost, Judged, cost_of, scores_of
from recspect.compressing.variants import Recipe, Workbench, together
from recspect.diagnosis.estimate import Estimate
from recspect.errors import DataError, RunError, Unavailable, UsageError
from recspect.training.rows import Tables
from recspect.training.run import Run

LIMIT = 0.001
"""AUC that a model may surely not lose to be called equal."""
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A smaller model, measured.

    Args:
        recipe: What was done.
        cost: What it takes.
        difference: Its AUC less that of the run's model on the held-out rows; the interval holds for all variants at once.
        alone: The same with a 95% interval for it alone.
        limit: AUC that may be lost.
    """

    recipe: Recipe
    cost: Cost
    difference: Estimate
    alone: Estimate
    limit: float

    @property
    def equal(self) -> bool:
        """Whether the loss is surely below the limit."""
        return self.difference.has_interval and self.difference.surely_above(-self.limit)

    @property
    def worse(self) -> bool:
        """Whether the loss is surely beyond it."""
        return self.difference.has_interval and self.difference.surely_below(-self.limit)


@dataclass(frozen=True, eq=False)
class Compression:
    """What came of it.

    Args:
        run: The run that was compressed.
        before: What its model takes.
        auc: Of its model, on the held-out rows.
        variants: All that were judged, most bytes first.
        chosen: The smallest that is equal, or None.
        fitted: The model of `chosen`.
        workbench: What is known of the use of fields and rows.
        data: The table that the run was trained on.
    """

    run: Run
    before: Cost
    auc: float
    variants: tuple[Variant, ...]
    chosen: Variant | None
    fitted: Fitted | None
    workbench: Workbench
    data: Any


def compress(folder: str | Path, *, data: Any = None, limit: float = LIMIT, recipes: Sequence[Recipe] | None = None, say: Callable[[str], None] = lambda _: None) -> Compression:
    """Compress the best model of a run; nothing is written (see `recspect.compressing.writing`).

    How useful fields are and how much is combined is decided on validation rows, how useful table rows are on training rows; test rows judge. Which variants there are
    is settled before the test rows are looked at, and their intervals hold for all at once (Bonferroni), so that the choice of the smallest costs no honesty.

    Args:
        folder: The run directory.
        data: The table it was trained on, where `run.json` cannot tell where to find it.
        limit: AUC that a model may surely not lose to be called equal.
        recipes: What to try; by default each kind alone at several strengths, and combinations.
        say: Told what is being done.

    Raises:
        RunError: The run is missing, unfinished, damaged, or was trained on other data.
        UsageError: A run of a graded label, or one that is compressed already.
    """
    from recspect.diagnosis.source import read
    from recspect.examining.runs import open_data

    if not 0 < limit < 1:
        raise UsageError(f"the limit is {limit}, expected AUC between 0 and 1", hint="0.001 is usual")
    run = Run.open(folder)
    if run.best_epoch is None:
        raise RunError(f"run {run.id} has no finished epoch yet", hint=f"recspect train --resume {folder}")
    if run.schema.label.kind != "binary":
        raise UsageError(f"run {run.id} predicts the graded label {run.schema.label.name!r}; equality is proven by AUC, of a binary label", hint="declare `at_least` for the label")
    say("reading the data")
    data = open_data(run.record["data"]) if data is None else data if isinstance(data, tuple) else read(data)
    tables = Tables.cut(data, run.schema, run.config)
    if tables.fingerprint != run.record["data_fingerprint"]:
        raise RunError(f"run {run.id} was trained on other data: fingerprint {run.record['data_fingerprint']}, this data has {tables.fingerprint}", hint="give the same rows in the same order")
    fitted = Fitted.of_run(run)
    say("measuring the use of fields and rows")
    bench = Workbench.of(fitted, tables.train, tables.validation)
    if recipes is None:
        choosing = Judged(tables.validation, run.schema, scores_of(fitted, tables.validation))
        recipes = _recipes(bench, choosing, limit, say)
    judged = Judged(tables.test, run.schema, scores_of(fitted, tables.test))
    if math.isnan(judged.auc):
        raise DataError("the held-out rows are all of one class: no AUC can be had", hint="hold out more rows")
    level = 1 - (1 - LEVEL) / max(1, len(recipes))
    made = []
    for place, recipe in enumerate(recipes):
        say(f"variant {place + 1} of {len(recipes)}: {recipe.name}")
        small = bench.make(recipe)
        scores = scores_of(small, tables.test)
        try:
            made.append((Variant(recipe=recipe, cost=cost_of(small, tables.test), difference=judged.difference(scores, level=level), alone=judged.difference(scores), limit=limit), small))
        except Unavailable as error:
            raise DataError(error.reason, hint=error.hint) from None
    made.sort(key=lambda pair: -pair[0].cost.bytes)
    before = cost_of(fitted, tables.test)
    equal = [pair for pair in made if pair[0].equal and pair[0].cost.bytes < before.bytes]
    chosen, small_model = equal[-1] if equal else (None, None)
    return Compression(run, before, judged.auc, tuple(variant for variant, _ in made), chosen, small_model, bench, data)


def _recipes(bench: Workbench, choosing: Judged, limit: float, say: Callable[[str], None]) -> list[Recipe]:
    """Every kind alone, then combinations: to 8-bit weights, of each further kind the strongest with which validation loses at most half the limit, and the next milder beside it."""
    kinds = bench.singles()
    steps = [kinds["storage"][-1]]
    found = [one for recipes in kinds.values() for one in recipes]
    for kind in ("rank", "fields", "rows"):
        for place in range(len(kinds[kind]) - 1, -1, -1):
            recipe = together([*steps, kinds[kind][place]])
            say(f"trying on validation rows: {recipe.name}")
            if choosing.difference(scores_of(bench.make(recipe), choosing.rows)).value >= -limit / 2:
                found += [together([*steps, one]) for one in kinds[kind][max(0, place - 1):place + 1]]
                steps.append(kinds[kind][place])
                break
    return list(dict.fromkeys(found))
