"""Metrics learnt from past experiments, in simulated worlds whose true effects are known: the pilot's world, five that break one assumption each, and a played metric.

Last line: one JSON object. `wins`: of the 16 cells, 4 corpus sizes x 4 competitors (the north star alone, equal weights, plug-in proxy quality without a belief and without constraints, least squares on observed
effects), those in which the correlation of our metric with the true effect on the north star, on 2,000 experiments of the same world, is higher on average over draws of the corpus;
`wins_value` the same for the value that is captured by shipping what looks positive, `wins_harder` over the five harder worlds (80 cells). `wrong_sign_vs_maxz`: the largest difference over
corpus sizes of the share of significant experiments that point the wrong way, ours less that of the largest mean z, which is given the true signs of the past; 0 or less means never above. `clickbait_caught`: share of
runs in which the metric that teams began to play leads the suspects and is alarmed within 20 experiments; `clickbait_false` the share of healthy runs in which any metric is. `aa_type1`:
share of null experiments in which the learnt metric is significant at 5%. `value_60_after_change`: after a change of what the metrics foretell, share of the oracle's value captured 60
experiments later (`value_60_new_beliefs`: where the metric file's beliefs were changed too, as right and wrong as the old ones; `value_60_fresh`: old beliefs, 60 experiments without a past; `experiments_to_90`: from when on it is
90% with old beliefs, null where not within 150). `wrong_beliefs_*`: correlation with truth under other beliefs.
"""

import json
import sys
import time
from dataclasses import replace

import numpy as np

from recspect.adapting.alternatives import largest_z
from recspect.adapting.goodhart import watch
from recspect.adapting.latent import Prior, fit_latent, nearest_covariance, usual_noise
from recspect.adapting.surprise import forgetting
from recspect.adapting.weights import Rules, choose, free_weights
from recspect.worlds.experiments import BELIEFS, CLICKBAIT, HARDER, PILOT

SIZES, HELD_OUT = (30, 60, 150, 300), 2_000
RULES = Rules.free(len(PILOT.metrics), most=5)
PRIOR = Prior.of_beliefs(BELIEFS)
COMPETITORS = ("north star only", "equal weights", "plug-in", "least squares")


def ours(corpus, prior=PRIOR, counted=None):
    return choose(fit_latent(corpus, prior, weights=counted).covariance, usual_noise(corpus), RULES).values


def short(weights):
    return np.concatenate([[0.0], weights])


def plug_in(corpus):
    latent, noise = nearest_covariance((corpus.effects[:, :, None] * corpus.effects[:, None, :] - corpus.noise).mean(0)), usual_noise(corpus)
    return free_weights(latent, noise, joint=False)


def least_squares(corpus):
    return short(np.linalg.lstsq(corpus.effects[:, 1:], corpus.effects[:, 0], rcond=None)[0])


def methods(corpus, truth):
    width = len(corpus.metrics)
    return {"ours": ours(corpus), "north star only": np.eye(width)[0], "equal weights": short(np.ones(width - 1)), "plug-in": plug_in(corpus), "least squares": least_squares(corpus),
            "largest z": largest_z(corpus, np.sign(truth[:, 0]))}


def judged(weights, held, truth):
    """Correlation with truth, share of the value of all good experiments captured, wrong signs among significant ones that are not null, power."""
    y, north = held.effects @ weights, truth[:, 0]
    z = y / np.sqrt(np.einsum("j,ejk,k->e", weights, held.noise, weights))
    real, significant = north != 0, np.abs(z) > 1.96
    wrong = (significant & real & (np.sign(y) != np.sign(north))).sum() / max(1, (significant & real).sum())
    return np.corrcoef(y, north)[0, 1], north[y > 0].sum() / north[north > 0].sum(), wrong, (significant & real & (np.sign(y) == np.sign(north))).sum() / real.sum()


def cells(name, world, draws):
    """Means over draws per corpus size and method, each (correlation, value, wrong, power)."""
    held, truth = world.draw(HELD_OUT, [1, 1])
    oracle = judged(free_weights(world.latent, usual_noise(held)), held, truth)
    print(f"{name}: oracle correlation {oracle[0]:.3f}, value {oracle[1]:.3f}, wrong {oracle[2]:.3f}, power {oracle[3]:.3f}; {draws} draws of the corpus")
    found = {}
    for size in SIZES:
        rows = {}
        for seed in range(draws):
            corpus, past = world.draw(size, [2, seed])
            for method, weights in methods(corpus, past).items():
                rows.setdefault(method, []).append(judged(weights, held, truth))
        found[size] = {method: np.mean(values, 0) for method, values in rows.items()}
        error = np.std([one[0] for one in rows["ours"]], ddof=1) / np.sqrt(draws)
        print(f"  {size:3d} past: " + "; ".join(f"{method} {values[0]:.3f} value {values[1]:.3f} wrong {values[2]:.3f} power {values[3]:.3f}" for method, values in found[size].items())
              + f"; standard error of ours {error:.3f}", flush=True)
    return found


def wins(found, place):
    return sum(float(found[size]["ours"][place]) > float(found[size][competitor][place]) for size in SIZES for competitor in COMPETITORS)


def played(world, runs):
    """Share of runs in which the played metric leads and is alarmed, and in which any is."""
    caught = any_alarm = 0
    for seed in range(runs):
        corpus, _ = world.draw(120, [3, seed])
        past, new = corpus.take(range(100)), corpus.take(range(100, 120))
        found = watch(new, fit_latent(past, PRIOR).covariance, past=140, draws=200)
        alarmed = [one for one in found if one.alarm is not None]
        any_alarm += bool(alarmed)
        caught += bool(alarmed) and alarmed[0].metric == CLICKBAIT.clickbait
    return caught / runs, any_alarm / runs


def null_significance(runs):
    """Share of A/A tests in which learnt metrics are significant at 5%; each is learnt on a corpus of its own."""
    nothing, hits, tests = replace(PILOT, null_share=0.999999), 0, 0
    for seed in range(runs):
        weights = ours(PILOT.draw(60, [4, seed])[0])
        null, _ = nothing.draw(500, [5, seed])
        z = null.effects @ weights / np.sqrt(np.einsum("j,ejk,k->e", weights, null.noise, weights))
        hits, tests = hits + int((np.abs(z) > 1.96).sum()), tests + len(z)
    return hits / tests


def recovery(draws):
    """Mean share of the oracle's value by experiments since a change of preferences, forgetting so that 60 experiments count; and of 60 experiments that know no other world."""
    changed = (0.2, 0.1, 0.8, 0.7, 0.4, 0.0, -0.25, 0.3)
    world, after = replace(PILOT, change_at=150, changed_correlation=changed), replace(PILOT, correlation=changed)
    held, truth = after.draw(HELD_OUT, [6, 0])
    oracle = judged(free_weights(after.latent, usual_noise(held)), held, truth)[1]
    prior = Prior.of_beliefs(BELIEFS, experiments=10.0)
    shares = {more: float(np.mean([judged(ours(world.draw(150 + more, [7, seed])[0], prior, forgetting(150 + more, 60)), held, truth)[1] for seed in range(draws)])) / oracle
              for more in (0, 30, 60, 100, 150)}
    fresh = float(np.mean([judged(ours(after.draw(60, [7, seed])[0], prior), held, truth)[1] for seed in range(draws)])) / oracle
    told = (0.3, 0.3, 0.6, 0.5, 0.5, 0.0, 0.2, 0.4)
    new = float(np.mean([judged(ours(world.draw(210, [7, seed])[0], Prior.of_beliefs(told), forgetting(210, 40)), held, truth)[1] for seed in range(draws)])) / oracle
    print("share of the oracle's value by experiments after the change:", json.dumps({str(more): round(share, 3) for more, share in shares.items()}), f"60 fresh ones: {fresh:.3f}, 60 with new beliefs: {new:.3f}", flush=True)
    return shares, fresh, new


def main(draws=30):
    began = time.monotonic()
    pilot = cells("pilot", PILOT, draws)
    harder = {name: cells(name, world, max(6, draws // 3)) for name, world in HARDER.items()}
    caught, _ = played(CLICKBAIT, 10 * draws)
    _, false = played(replace(CLICKBAIT, clickbait="", change_at=None), 10 * draws)
    held, truth = PILOT.draw(HELD_OUT, [1, 1])
    beliefs = {name: {str(size): round(float(np.mean([judged(ours(PILOT.draw(size, [2, seed])[0], Prior.of_beliefs(belief)), held, truth)[0] for seed in range(draws // 2)])), 3) for size in SIZES}
               for name, belief in {"flat": (0.3,) * 8, "none": (0.0,) * 8, "shuffled": BELIEFS[4:] + BELIEFS[:4], "reversed": tuple(-one for one in BELIEFS)}.items()}
    print("correlation with truth under other beliefs:", json.dumps(beliefs))
    worlds = {"pilot": pilot, **harder}
    shares, fresh, new = recovery(max(6, draws // 2))
    figures = {
        "wins": wins(pilot, 0), "wins_value": wins(pilot, 1), "wins_harder": sum(wins(found, 0) for found in harder.values()),
        "wrong_sign_vs_maxz": round(max(float(found[size]["ours"][2] - found[size]["largest z"][2]) for found in worlds.values() for size in SIZES), 4),
        "clickbait_caught": caught, "clickbait_false": false, "aa_type1": round(null_significance(2 * draws), 4), "value_60_after_change": round(shares[60], 3), "value_60_new_beliefs": round(new, 3), "value_60_fresh": round(fresh, 3),
        "experiments_to_90": next((more for more, share in shares.items() if share >= 0.9), None),
        "seconds": round(time.monotonic() - began)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
