"""How often the 95% intervals of findings hold the truth: logs of dependent rows, simulated again and again, against one log of very many users.

`python bench/intervals.py [LOGS] [CODE ...]`: so many logs (500), of these findings only.

Each log has 400 users of 1 to 60 rows, whose tastes, activity, gaps and errors are their own. A finding says something about users that it did not see, so the truth is what it says
of 20,000 users drawn in the same way. Findings are chosen whose number does not depend on which of several came out worst. Where a finding cuts time or groups by how many rows there are, a
large log has another number; there the mean over all logs stands in for the truth, which cannot show a bias.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Scope, gathered, judge, plan
from recspect.diagnosis.diagnostics.data.label_maturity import LabelMaturity
from recspect.diagnosis.diagnostics.data.missing_values import MissingValues
from recspect.diagnosis.diagnostics.features.skew import Skew
from recspect.diagnosis.diagnostics.predictions.churn import Churn
from recspect.diagnosis.diagnostics.predictions.decay import Decay
from recspect.diagnosis.diagnostics.predictions.group_gap import GroupGap
from recspect.diagnosis.diagnostics.predictions.negative_sampling import NegativeSampling
from recspect.diagnosis.diagnostics.predictions.rating_error import RatingError
from recspect.diagnosis.diagnostics.predictions.roc_gap import RocGap
from recspect.diagnosis.diagnostics.recommendations.exposure_parity import ExposureParity
from recspect.diagnosis.diagnostics.recommendations.popularity_bias import PopularityBias
from recspect.diagnosis.diagnostics.training.id_shuffle import IdShuffle
from recspect.diagnosis.diagnostics.training.membership_inference import MembershipInference
from recspect.diagnosis.diagnostics.training.memorisation import Memorisation
from recspect.diagnosis.diagnostics.training.one_epoch import OneEpoch
from recspect.diagnosis.diagnostics.training.overfitting import Overfitting
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.finding import Finding
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.source import read
from recspect.diagnosis.tally import Tally
from recspect.schema import Field, Label, Schema

USERS, TRUTH_USERS, LOGS = 400, 20_000, 500
ITEMS, DAY = 300, 86_400
Table = dict[str, Any]

SCHEMA = Schema(user="user", item="item", time="time", time_unit="s", labels=(Label(name="click"),),
                fields=(Field(name="plan", kind="categorical", side="user"), Field(name="kind", kind="categorical", side="item"), Field(name="age", kind="numeric")))
GRADED = Schema(user="user", item="item", labels=(Label(name="grade", kind="graded"),))


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """Probabilities."""
    return 1 / (1 + np.exp(-logit))


def log(rng: np.random.Generator, users: int) -> tuple[Table, Table]:
    """(held-out, training) rows of the same users; two rows in three are in training, whose scores know a little of their own labels."""
    count = np.minimum(rng.geometric(0.05, users), 60)
    user = np.repeat(np.arange(users), count)
    rows = len(user)
    item = rng.integers(0, ITEMS, rows)
    taste, plan, kind = rng.normal(0, 1, users)[user], (np.arange(users) % 2)[user], item % 3
    logit = taste + np.linspace(-1, 1, ITEMS)[item] + 0.5 * rng.normal(size=rows) - 1.0
    y = (rng.random(rows) < sigmoid(logit)).astype(np.float64)
    train = rng.random(rows) < 2 / 3
    own = rng.normal(0, 0.4, users)[user]  # what the model has wrong about the user
    noise = own + np.where(plan == 1, 1.4, 0.5) * rng.normal(size=rows)
    memory = np.where(train, 1.0 + 2.0 / np.sqrt(count[user]), 0.0)
    time_ = rng.uniform(0, 14 * DAY, rows) + np.where(train, 0, 14 * DAY)
    age = np.maximum(time_ / DAY - 14, 0)
    seen = logit + noise - 0.8 * (kind == 2) + memory * (y - sigmoid(logit))
    late = (rng.random(rows) < np.clip((age - 12.5) / 1.5, 0, 1) * 0.9)
    table = {
        "user": user + int(rng.integers(0, 2**40)), "item": item, "plan": np.array(["a", "b"])[plan], "kind": np.array(["x", "y", "z"])[kind], "time": time_,
        "age": np.where(rng.random(rows) < np.where(train, 0.1, 0.5 * (rng.random(users) < 0.5)[user]), np.nan, 30.0), "@label": y, "label_now": np.where(late, 0.0, y),
        "grade": logit + rng.normal(size=rows), "@score": sigmoid(seen), "predicted": 0.7 * logit + noise, "@score:other": sigmoid(seen + own + 0.5 * rng.normal(size=rows)),
        "@score:epoch-1": sigmoid(logit + 0.4 * noise), "@score:epoch-2": sigmoid(logit + noise), "aged": sigmoid(logit + 0.3 * np.sqrt(age) * rng.normal(size=rows)),
        "crossed": sigmoid(np.where((plan == 1) & (y == 1), rng.normal(1.9, 2.5, rows), rng.normal(y, 1.0)) + own), "tripled": sigmoid(logit + own + np.log(3.0)), "@mismatch:age": (rng.random(rows) < rng.beta(0.3, 3, users)[user]).astype(np.float64),
        "@score:shuffled": sigmoid(seen), "@score:shuffled:user:0": sigmoid(seen - taste - np.where(train, memory * (y - sigmoid(logit)), 0.0)),
        "@list:user": user, "@list:popularity": rng.lognormal(3 + 0.3 * taste, 0.5), "@list:profile_popularity": np.exp(2.5 + 0.5 * taste), "@list:group": np.full(rows, "mid"),
    }
    table["@cluster"] = table["@list:user"] = table["user"]
    return {name: column[~train] for name, column in table.items()}, {name: column[train] for name, column in table.items()}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One figure of one finding.

    Args:
        diagnostic: Whose.
        place: Of the finding that holds it; empty for the only one.
        columns: Other names for columns of the log, such as {"@score": "aged"}.
        alone: Whether there are no training rows.
        by_size: Whether what is measured depends on how many rows there are.
        settings: Of the scope.
    """

    diagnostic: Callable[[], Diagnostic]
    place: str = ""
    columns: Mapping[str, str] | None = None
    alone: bool = False
    by_size: bool = False
    schema: Schema = SCHEMA
    settings: Mapping[str, Any] | None = None


CASES: dict[str, Case] = {
    "data.missing_values": Case(diagnostic=MissingValues, place="age"),
    "data.label_maturity": Case(diagnostic=LabelMaturity, columns={"@label": "label_now", "@score": "aged"}, alone=True, by_size=True),
    "features.skew": Case(diagnostic=Skew, place="age", alone=True),
    "predictions.churn": Case(diagnostic=Churn, alone=True),
    "predictions.decay": Case(diagnostic=Decay, columns={"@score": "aged"}),
    "predictions.group_gap": Case(diagnostic=GroupGap, place="plan=b", alone=True),
    "predictions.negative_sampling": Case(diagnostic=NegativeSampling, columns={"@score": "tripled"}, alone=True),
    "predictions.rating_error": Case(diagnostic=RatingError, columns={"@score": "predicted", "@label": "grade"}, schema=GRADED, alone=True),
    "predictions.roc_gap": Case(diagnostic=RocGap, place="plan=b", columns={"@score": "crossed"}, alone=True),
    "recommendations.exposure_parity": Case(diagnostic=ExposureParity, place="kind=z", alone=True),
    "recommendations.popularity_bias": Case(diagnostic=PopularityBias, alone=True),
    "training.id_shuffle": Case(diagnostic=IdShuffle, place="user"),
    "training.membership_inference": Case(diagnostic=MembershipInference),
    "training.memorisation": Case(diagnostic=Memorisation, place="user"),
    "training.one_epoch": Case(diagnostic=OneEpoch, settings={"epochs": (1, 2)}),
    "training.overfitting": Case(diagnostic=Overfitting),
}


def asked(case: Case, sides: tuple[Table, Table]) -> Estimate | None:
    """The figure, or None where the finding does not hold it."""
    tables = [{**side, **{new: side[old] for new, old in (case.columns or {}).items()}} for side in sides]
    if case.alone:
        tables = tables[:1]
    names = [frozenset(table) for table in tables]
    scope = Scope(schema=case.schema, target=names[0], reference=names[1] if len(names) > 1 else frozenset(), **(case.settings or {}))
    planned = plan([case.diagnostic()], scope)
    found = gathered(planned, scope, *(lambda keys, table=table: tally(read(table), keys) if keys else Tally({}) for table in (tables[0], tables[-1])))
    findings: list[Finding] = judge(planned, *found, scope)
    mine = [finding for finding in findings if finding.place.name == case.place] or (findings if len(findings) == 1 else [])
    return mine[0].estimate if mine else None


def held(case: Case, found: list[Estimate], truth: float | None) -> tuple[float, float, float]:
    """The share of intervals that hold the truth, the truth, and the mean of the estimates."""
    mean = float(np.mean([one.value for one in found]))
    true = mean if case.by_size or truth is None else truth
    return float(np.mean([one.low <= true <= one.high for one in found])), true, mean  # type: ignore[operator]


def main(arguments: list[str]) -> None:
    """Print the share of intervals that hold the truth, and the ends of what chance makes of 95%."""
    logs = int(arguments[0]) if arguments and arguments[0].isdigit() else LOGS
    wanted = [name for name in arguments if name in CASES] or list(CASES)
    rng = np.random.default_rng(0)
    large = log(rng, TRUTH_USERS)
    truths = {name: None if (found := asked(CASES[name], large)) is None else found.value for name in wanted}
    estimates: dict[str, list[Estimate]] = {name: [] for name in wanted}
    began = time.monotonic()
    for done in range(1, logs + 1):
        sides = log(rng, USERS)
        for name in wanted:
            found = asked(CASES[name], sides)
            if found is not None and found.has_interval:
                estimates[name].append(found)
        if done % 50 == 0:
            print(f"{done} logs, {time.monotonic() - began:.0f} s: " + ", ".join(f"{name} {100 * held(CASES[name], estimates[name], truths[name])[0]:.1f}%" for name in wanted if estimates[name]), flush=True)
    figures: dict[str, float] = {}
    for name in wanted:
        mine = estimates[name]
        share, truth, mean = held(CASES[name], mine, truths[name])
        width = float(np.mean([one.high - one.low for one in mine]))  # type: ignore[operator]
        print(f"{name}: {100 * share:.1f}% of {len(mine)} intervals hold {truth:.4g}{' (the mean over logs)' if CASES[name].by_size else f'; mean over logs {mean:.4g}'}, mean width {width:.3g}")
        figures[name] = round(share, 4)
    print(json.dumps({"logs": logs, "lowest": min(figures.values()), "highest": max(figures.values()), **figures}))


if __name__ == "__main__":
    main(sys.argv[1:])
