"""Are the right remedies proposed, and accepted when they are? `make bench NAME=remedies`.

Ten faults of the exam that have a remedy, planted at typical severity in synthetic worlds; which remedy is right was written down here before anything was run. For each:
is the right one among the first two proposals, is it accepted on rows that nothing was decided on (which includes that its target is healthy again), and is the placebo beside it
turned down by the same rule? Healthy twins are optimised freely: whatever is accepted must not move scores away from the true probabilities.

Last line: one JSON object: `proposed_top2` and `accepted_right` of `faults`, `placebo_accepted` of `placebos`, `healthy_accepted` and `healthy_worse` of `healthy` runs.
Outcomes are added to runs/remedies.jsonl as they come; a bench that was stopped goes on with it (another file: the first argument; only some faults or programs: the second, with
commas, so that several processes can share the work).
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from recspect.diagnosis.jackknife import estimate_of_mean
from recspect.exam.faults import FAULTS
from recspect.exam.programs import PROGRAMS
from recspect.optimising.arms import labelled
from recspect.optimising.holdout import Ledger
from recspect.optimising.optimiser import Settings, _Chain
from recspect.optimising.parts import Parts
from recspect.optimising.proposing import propose
from recspect.optimising.proving import Terms, prove
from recspect.optimising.recipe import Recipe
from recspect.optimising.trainings import Trainings
from recspect.worlds.world import TRUTH

SEED, TYPICAL = 11, 1
SIZES = {"feed": (800, 200, 120_000, 23_000), "video": (1000, 200, 120_000, 20_000), "shop": (500, 200, 160_000, 38_000)}
"""Users, items and rows of each world, and the rows that train: training is what takes time, rows to judge by take little."""

PLANTED = (
    ("learning_rate", "feed/silu", ("lower_learning_rate",)),
    ("too_many_epochs", "video/mlp", ("stop_earlier",)),
    ("noise_field", "feed/silu", ("drop_field",)),
    ("label_copy", "video/mlp", ("drop_leaking_field",)),
    ("duplicated_rows", "feed/silu", ("deduplicate",)),
    ("copied_rows", "video/mlp", ("split_by_time",)),
    ("deep_stack", "feed/silu", ("fewer_layers",)),
    ("few_buckets", "video/mlp", ("more_buckets",)),
    ("sampled_negatives", "shop/deepfm", ("correct_sampling", "recalibrate")),
    ("prior_shift", "shop/deepfm", ("recalibrate",)),
)
"""Fault, program, and the remedies of which any is right."""
HEALTHY = ("feed/silu", "video/mlp", "shop/deepfm")


def case_of(program, fault=""):
    world = program.split("/")[0]
    users, items, rows, train = SIZES[world]
    made = PROGRAMS[program]
    case = replace(made, world=replace(made.world, users=users, items=items, rows=rows)).case(SEED)
    case = replace(case, train=case.train.take(slice(case.train.rows - train, case.train.rows)))
    case = case.with_settings(observe_every=10)
    return FAULTS[fault].change(case, TYPICAL) if fault else case


def chain_of(case, folder, trials=1):
    recipe = Recipe(schema=case.schema, config=case.config, epoch="last" if case.keep_last else "best")
    trainings = Trainings(folder, Parts.cut((case.train, case.validation, case.test), case.schema), case.schema, sample_rows=2000)
    terms = Terms(seeds=tuple(range(SEED, SEED + 5)))
    return _Chain(recipe, trainings, Ledger(folder, trainings.proof), terms, Settings(trials=trials), lambda text: print(f"    {text[:200]}", flush=True))


def planted(fault, program, right):
    with tempfile.TemporaryDirectory(prefix="recspect-remedies-") as name:
        case = case_of(program, fault)
        chain = chain_of(case, Path(name))
        trainings, terms = chain.trainings, chain.terms
        report = trainings.diagnose(chain.recipe, SEED)
        first = []
        for proposal in propose(report, chain._facts(report)):
            first.append(proposal)
            if len(first) == 2:
                break
        mine = next((proposal for proposal in first if proposal.code in right and proposal.applicable), None)
        outcome = {"fault": fault, "program": program, "proposed": [f"{one.code} {one.place}".strip() for one in first], "top2": mine is not None, "accepted": False, "placebos": []}
        if mine is None:
            return outcome
        changed = chain.recipe.changed(mine.prepared.changes)
        trial = prove(mine, chain._train, trainings.parts.proof, case.schema, chain.ledger, terms, key=changed.key(0, trainings.data))
        outcome |= {"accepted": trial.accepted, "reasons": list(trial.judgement.reasons) if trial.judgement else [trial.trouble]}
        if trial.judgement:
            gain = trial.judgement.gain
            outcome |= {"placebos": [trial.placebo.accepted], "gain": [gain.value, gain.low, gain.high], "target_healthy": [trial.judgement.healthy_before, trial.judgement.healthy_after]}
        return outcome


def healthy(program):
    """Optimised freely; truth is the mean cross-entropy with the true probabilities, per user."""
    with tempfile.TemporaryDirectory(prefix="recspect-remedies-") as name:
        case = case_of(program)
        chain = chain_of(case, Path(name), trials=3)
        first = chain.recipe
        chain.go_on()
        accepted = [trial.proposal.code for trial in chain.trials if trial.accepted]
        rows, truth = chain.trainings.parts.proof, chain.trainings.parts.proof.numbers(TRUTH)
        gains = []
        for recipe, sign in ((first, 1), (chain.recipe, -1)):
            for seed in chain.terms.seeds:
                scores = np.clip(np.concatenate([chain.trainings.subject(recipe, seed).score(piece) for piece in rows.pieces(65_536)]), 1e-9, 1 - 1e-9)
                gains.append(-sign * (truth * np.log(scores) + (1 - truth) * np.log1p(-scores)) / len(chain.terms.seeds))
        gain = estimate_of_mean(np.sum(gains, axis=0), labelled(rows, case.schema).buckets("@cluster", 50), unit="nats nearer to the truth")
        return {"healthy": program, "tried": [trial.proposal.code for trial in chain.trials], "accepted": accepted,
                "placebos": [trial.placebo.accepted for trial in chain.trials if trial.placebo], "nearer_to_truth": [gain.value, gain.low, gain.high], "worse": bool(accepted) and gain.surely_below(0.0)}


def outcomes(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def main():
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/remedies.jsonl")
    only = sys.argv[2].split(",") if len(sys.argv) > 2 else ()
    path.parent.mkdir(parents=True, exist_ok=True)
    tasks = {fault: (planted, (fault, program, right)) for fault, program, right in PLANTED} | {program: (healthy, (program,)) for program in HEALTHY}
    for name, (task, given) in tasks.items():
        if name in {one.get("fault") or one["healthy"] for one in outcomes(path)} or (only and name not in only):
            continue
        started = time.perf_counter()
        found = json.dumps({**task(*given), "seconds": round(time.perf_counter() - started)})
        with path.open("a") as file:
            file.write(found + "\n")
        print(found, flush=True)
    done = outcomes(path)
    faults, well = [one for one in done if "fault" in one], [one for one in done if "healthy" in one and "fault" not in one]
    placebos = [placebo for one in done for placebo in one["placebos"]]
    print(json.dumps({"faults": len(faults), "proposed_top2": sum(one["top2"] for one in faults), "accepted_right": sum(one["accepted"] for one in faults),
                      "placebos": len(placebos), "placebo_accepted": sum(placebos), "healthy": len(well), "healthy_accepted": sum(len(one["accepted"]) for one in well),
                      "healthy_worse": sum(one["worse"] for one in well)}))


if __name__ == "__main__":
    main()
