"""Why each of 100, 500 and 2,000 candidates scores as it does for one user: a two-tower and a SASRec, against Captum's IntegratedGradients.

Both explain the logit by the user's fields and the entries of a history of 50, along the straight path from zero embeddings, with the candidates as they are. Captum
takes one row per candidate and its default call, 50 points, or that call in pieces of 1,000 rows where this is faster or memory demands it. Ours is the default call
(an error of 1% of each candidate, at most 64 points, as many as it finds that it needs), with a new subject each time, so that the fields are found anew, and with all
contributions worked out. Processor seconds of one thread, alternating, medians.

Last line: one JSON object. `speedup_100` and so on are the lesser of both networks; `..._two_tower` and `..._sasrec` are each network's; `..._equal_points` is 50
points for both, `..._equal_error` as many of our points as reach Captum's own error. Where Captum's call would take more than LONG seconds, it is measured on 100
candidates and multiplied, as rows add up one by one; `extrapolated` says where. Errors are mean |contribution - truth| / mean |truth| over fields, entries and four
candidates; truth is a plain loop over 1,000 midpoints in float64. Stops where ours are further than 2% from it, or Captum's than 5% from it or from ours.
"""

import copy
import json
import statistics

import numpy as np
import torch
from captum.attr import IntegratedGradients

from _candidate_networks import SASRec, TwoTower, candidates_batch, train_sasrec, train_two_tower, users_batch
from _timing import seconds
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.probes.attribution import candidate_attributions
from recspect.diagnosis.subject import TorchSubject

ITEMS, LENGTH, COUNTS, ROUNDS = 2_001, 50, (100, 500, 2000), 3
PIECE, LONG, POINTS, MIDPOINTS = 1_000, 8.0, 50, 1_000


def networks():
    yield "two_tower", train_two_tower(TwoTower(width=32, out=64, hidden=256, items=ITEMS), length=LENGTH), ["user", "age", "activity", "history"]
    yield "sasrec", train_sasrec(SASRec(width=64, length=LENGTH, items=ITEMS), steps=100), ["history"]


def parts_of(model, users, candidates):
    """What moves, one row per candidate; what stays; and the logit of both."""
    rows = candidates.rows
    kind = next(model.parameters()).dtype
    history = torch.from_numpy(np.asarray(users["history"].values)).repeat(rows, 1)
    seen = (history > 0).unsqueeze(-1)
    with torch.no_grad():
        items = model.items({name: torch.from_numpy(np.asarray(candidates[name])) for name in candidates})
        moving = [model.item(history)]
        if isinstance(model, TwoTower):
            user, age = (table(torch.from_numpy(np.asarray(users[name])).repeat(rows)) for name, table in (("user", model.user), ("age", model.age)))
            moving = [user, age, torch.from_numpy(users["activity"]).to(kind).repeat(rows), *moving]

    def logit(*given):
        *moved, seen, items = given
        if isinstance(model, TwoTower):
            user, age, activity, history = moved
            u = model.behind(user, age, history, activity, seen)
        else:
            u = model.behind(*moved, seen)[torch.arange(len(seen)), seen.squeeze(-1).sum(1) - 1]
        return (u * items).sum(1)

    return moving, (seen, items), logit


def columns(values):
    """Contributions per field and entry, shape (C, P), from those per number of an embedding."""
    return torch.cat([(value.sum(-1) if value.dim() > 1 else value).reshape(len(value), -1) for value in values], 1)


def truth(model, users, candidates):
    """By a plain loop over midpoints in float64, shape (C, P)."""
    double = copy.deepcopy(model).double()
    moving, fixed, logit = parts_of(double, users, candidates)
    total = [torch.zeros_like(value) for value in moving]
    for k in range(MIDPOINTS):
        leaves = [(value * ((k + 0.5) / MIDPOINTS)).requires_grad_() for value in moving]
        for place, gradient in enumerate(torch.autograd.grad(logit(*leaves, *fixed).sum(), leaves)):
            total[place] += gradient * moving[place] / MIDPOINTS
    return columns(total)


def ours(model, users, candidates, **settings):
    subject = TorchSubject(model, fields=[*users, *candidates])
    found = candidate_attributions(subject, users, candidates, **settings)
    values = [found.contributions[name][0].unsqueeze(1) for name in found.fields if name != "history"]
    order = {name: k for k, name in enumerate(name for name in found.fields if name != "history")}
    return torch.cat([*(values[order[name]] for name in ("user", "age", "activity") if name in order), found.entries["history"][0]], 1), found


def captum(model, users, candidates, piece=None):
    moving, fixed, logit = parts_of(model, users, candidates)
    found = IntegratedGradients(logit).attribute(tuple(moving), additional_forward_args=fixed, n_steps=POINTS, internal_batch_size=piece)
    return columns(found).detach().float()


def compare(name, model, fields):
    row = users_batch(1, items=ITEMS, longest=LENGTH)
    users = Batch({field: row[field] for field in fields})
    every = candidates_batch(max(COUNTS), items=ITEMS)
    if name == "sasrec":
        every = every.select(["item"])
    of = {count: every.take(np.arange(count)) for count in COUNTS}
    few = np.linspace(0, COUNTS[0] - 1, 4).astype(int)
    true = truth(model, users, of[COUNTS[0]].take(few))

    def error(values, against=true):
        return float((values[few].double() - against).abs().mean() / against.abs().mean())

    peer = captum(model, users, of[COUNTS[0]], PIECE)
    found, details = ours(model, users, of[COUNTS[0]])
    same = {"ours": error(found), "captum": error(peer), "difference": error(found, peer[few].double())}
    assert same["ours"] < 0.02, same
    assert max(same["captum"], same["difference"]) < 0.05, same
    enough = next(n for n in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128) if error(ours(model, users, of[COUNTS[0]], steps=n)[0]) <= same["captum"])
    whole, piece = (seconds(lambda p=p: captum(model, users, of[COUNTS[0]], p))[0] for p in (None, PIECE))
    best = None if whole < piece else PIECE
    measured = [count for count in COUNTS if count == COUNTS[0] or min(whole, piece) * count / COUNTS[0] <= LONG]
    ways = {"default": {}, "equal_points": {"steps": POINTS}, "equal_error": {"steps": enough}}
    times = {}
    for _ in range(ROUNDS):  # alternating, so that a slow moment hits all alike
        for count in COUNTS:
            if count in measured:
                use = best if count == COUNTS[0] else max(PIECE, count)  # no piece may be shorter than the rows
                times.setdefault(("captum", count), []).append(seconds(lambda c=count, p=use: captum(model, users, of[c], p))[0])
            for way, settings in ways.items():
                times.setdefault((way, count), []).append(seconds(lambda c=count, s=settings: ours(model, users, of[c], **s))[0])
    t = {key: statistics.median(values) for key, values in times.items()}
    for count in COUNTS:
        t.setdefault(("captum", count), t["captum", COUNTS[0]] * count / COUNTS[0])
    print(name, {f"{way} {count}": round(value, 3) for (way, count), value in t.items()}, "seconds;", {key: float(f"{value:.2g}") for key, value in same.items()},
          f"points: {int(details.points)} by default (converged: {bool(details.converged)}), {enough} for Captum's error", flush=True)
    ratios = {f"{count}{'' if way == 'default' else '_' + way}": t["captum", count] / t[way, count] for way in ways for count in COUNTS}
    return ratios, same, [f"{name}_{count}" for count in COUNTS if count not in measured], details


def main():
    found = {name: compare(name, model, fields) for name, model, fields in networks()}
    ratios = {name: result[0] for name, result in found.items()}
    keys = next(iter(ratios.values()))
    print(json.dumps({
        **{f"speedup_{key}": round(min(one[key] for one in ratios.values()), 2) for key in keys},
        **{f"speedup_{key}_{name}": round(one[key], 2) for key in keys for name, one in ratios.items()},
        **{f"error_{name}": float(f"{result[1]['ours']:.2g}") for name, result in found.items()},
        **{f"captum_error_{name}": float(f"{result[1]['captum']:.2g}") for name, result in found.items()},
        **{f"converged_{name}": bool(result[3].converged) for name, result in found.items()},
        "extrapolated": [one for result in found.values() for one in result[2]]}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
