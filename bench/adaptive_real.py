"""Learnt metrics on real experiments: ASOS (four metrics, snapshots over time) and Upworthy (headlines, clicks per impression).

Last line: one JSON object. ASOS: what the first seven days of all four metrics say of the final effect on metric 4, the largest and noisiest (its means are those of a value per visitor; the data set does not say what
the metrics are), against its own first seven days. Effects are log ratios; experiments whose arms are not equally large, or in which an effect is beyond 0.2, are left out and counted. Metrics in the early reading share
users with the final one: cov(early, final) = rho sd sd' / final users. `asos_gain`: held-out value per comparison (log points of metric 4, families left out in turn) of the learnt metric beyond deciding
by the early reading alone, with a 90% interval; `asos_squared_surprise`: mean squared standardised surprise of held-out final effects, 1 where the model is right. Upworthy: each test's impressions and clicks are dealt to two
halves at random; the first decides, the second is the truth. `upworthy_*`: fitted on the first half of the weeks, judged on the later ones.
"""

import json
import os
from pathlib import Path

import numpy as np
import polars as pl

from recspect.adapting.bootstrap import stability
from recspect.adapting.held_out import Policy, clustered_mean, compare, values
from recspect.adapting.latent import Prior, fit_latent, usual_noise
from recspect.adapting.posterior import Costs, posterior
from recspect.adapting.surprise import surprises
from recspect.adapting.weights import Rules, choose, normalised
from recspect.experimenting.experiment import Corpus, Experiment
from recspect.experimenting.tables import step_correlation

DATA = Path(os.environ.get("RECSPECT_DATA_HOME", "data"))
DAYS, FINAL = 7.0, "metric_4"
EARLY = ("metric_4", "metric_1", "metric_2", "metric_3")
NAMES = ("final metric_4", *(f"early {name}" for name in EARLY))


def asos():
    """Comparisons with the final effect on metric 4 and the early effects on all metrics; and why others were left out."""
    table = pl.read_parquet(DATA / "asos" / "snapshots.parquet").drop_nulls().filter((pl.col("count_c") > 100) & (pl.col("count_t") > 100) & (pl.col("mean_c") > 0) & (pl.col("mean_t") > 0))
    table = table.with_columns(experiment=pl.col("experiment_id") + "/" + pl.col("variant_id").cast(pl.String), metric=pl.concat_str(pl.lit("metric_"), pl.col("metric_id").cast(pl.String)))
    rows = {name: [{"arm": arm, "metric": row["metric"], "time": row["time_since_start"], "users": row[f"count_{side}"], "mean": row[f"mean_{side}"]} for row in part.to_dicts()
                   for arm, side in (("control", "c"), ("new", "t"))] for (name,), part in table.group_by("experiment", maintain_order=True)}
    rho = step_correlation(rows, EARLY)
    found, left_out = [], {"short": 0, "sizes": 0, "extreme": 0}
    for (name,), part in table.group_by("experiment", maintain_order=True):
        last, early = (part.filter(keep).sort("time_since_start").group_by("metric").last() for keep in (pl.lit(value=True), pl.col("time_since_start") <= DAYS))
        final, first = {r["metric"]: r for r in last.to_dicts()}, {r["metric"]: r for r in early.to_dicts()}
        if set(first) != set(EARLY) or final[FINAL]["time_since_start"] < 2 * DAYS:
            left_out["short"] += 1
            continue
        one = final[FINAL]
        if abs(one["count_c"] - one["count_t"]) > 3.48 * np.sqrt(one["count_c"] + one["count_t"]):  # p < 0.0005 for equal shares
            left_out["sizes"] += 1
            continue
        cells = [one, *(first[metric] for metric in EARLY)]
        effects = np.array([np.log(r["mean_t"] / r["mean_c"]) for r in cells])
        if np.abs(effects).max() > 0.2:
            left_out["extreme"] += 1
            continue
        errors = np.array([[r["variance_t"] / r["count_t"] / r["mean_t"] ** 2, r["variance_c"] / r["count_c"] / r["mean_c"] ** 2] for r in cells]).sum(1) ** 0.5
        places = np.array([0, *range(len(EARLY))])
        correlation = rho[np.ix_(places, places)].copy()
        shared = np.sqrt(np.array([1.0, *(first[metric]["count_t"] / one["count_t"] for metric in EARLY)]))
        correlation[0, 1:] *= shared[1:]
        correlation[1:, 0] *= shared[1:]
        np.fill_diagonal(correlation, 1.0)
        found.append(Experiment(name=name, metrics=NAMES, effects=effects, noise=correlation * np.outer(errors, errors), users=(int(one["count_c"]), int(one["count_t"])), family=name.split("/")[0]))
    return Corpus(tuple(found)), left_out, rho


def learn_asos(corpus):
    beliefs = Prior.of_beliefs((0.8, 0.5, 0.5, 0.5))
    rules = Rules(signs=(0, 1, 1, 1, 1), prices=(0.0,) * 5, most=4, joint=False)

    def fit(part):
        latent = fit_latent(part, beliefs).covariance
        return Policy(weights=choose(latent, usual_noise(part), rules).values, latent=latent)

    whole = fit(corpus)
    alone = Policy(weights=np.array([0.0, 1.0, 0.0, 0.0, 0.0]), latent=whole.latent)
    comparison = compare(corpus, fit, alone)
    squared, groups = [], corpus.groups
    for left in np.unique(groups):
        held = corpus.take(np.flatnonzero(groups == left))
        squared += surprises(held, fit(corpus.take(np.flatnonzero(groups != left))).latent).surprise.tolist()
    steady = stability(corpus, beliefs, rules, usual_noise(corpus), draws=200)
    return whole, comparison, np.array(squared), steady


def halves(counts, generator):
    """Clicks and impressions of a random half: impressions are dealt one by one, clicks with them."""
    shown, clicked = counts
    first = generator.binomial(shown, 0.5)
    return first, generator.hypergeometric(clicked, shown - clicked, first)


def upworthy():
    """Comparisons of each headline with the first of its test: the final effect is that of the second half of the impressions, the early one that of the first."""
    table = pl.read_parquet(DATA / "upworthy" / "packages.parquet").filter((pl.col("clicks") >= 20) & (pl.col("impressions") >= 500)).sort("clickability_test_id", "headline", "eyecatcher_id")
    generator, found, weeks, left_out = np.random.default_rng(0), [], [], 0
    for (test,), part in table.group_by("clickability_test_id", maintain_order=True):
        shown, clicked = part["impressions"].to_numpy(), part["clicks"].to_numpy()
        if len(shown) < 2:
            continue
        if ((shown - shown.mean()) ** 2 / shown.mean()).sum() > len(shown) - 1 + 4 * np.sqrt(2 * (len(shown) - 1)):
            left_out += 1
            continue
        first, clicks = halves((shown, clicked), generator)
        second, later = shown - first, clicked - clicks
        if min(clicks.min(), later.min()) < 5:
            continue
        rates = np.log(np.stack([later / second, clicks / first]))
        errors = np.stack([(1 - later / second) / later, (1 - clicks / first) / clicks])
        for arm in range(1, len(shown)):
            found.append(Experiment(name=f"{test}/{arm}", metrics=("rest", "early"), effects=rates[:, arm] - rates[:, 0], noise=np.diag(errors[:, arm] + errors[:, 0]), family=test,
                                    users=(int(shown[0]), int(shown[arm]))))
            weeks.append(int(part["test_week"][0]))
    return Corpus(tuple(found)), np.array(weeks), left_out


def learn_upworthy(corpus, weeks):
    middle = np.median(weeks)
    past, later = corpus.take(np.flatnonzero(weeks <= middle)), corpus.take(np.flatnonzero(weeks > middle))
    latent = fit_latent(past, Prior(np.array([[1.0, 0.999], [0.999, 1.0]]), 40.0)).covariance
    policy = Policy(weights=np.array([0.0, 1.0]), latent=latent, costs=Costs())
    found = [posterior(one, policy.weights, latent, policy.costs) for one in later]
    claimed = np.array([one.probability for one in found])
    truth = np.array([one.effects[0] for one in later])
    sure = claimed > 0.9
    promised, came = np.array([one.mean for one in found]), truth
    raw = np.array([one.effects[1] for one in later])
    slope = {name: float((x * came).sum() / (x * x).sum()) for name, x in (("posterior", promised), ("raw", raw))}
    return {"past": len(past), "later": len(later), "sd": float(np.sqrt(latent[0, 0])), "squared_surprise": float(np.mean(surprises(later, latent).surprise ** 2)), "slope": slope,
            "promised_of_sure": float(promised[sure].mean()), "raw_of_sure": float(raw[sure].mean()), "came_of_sure": clustered_mean(came[sure], np.ones(int(sure.sum())), later.groups[sure]), "sure": int(sure.sum()),
            "value": float(np.mean(values(later, policy)))}


def main():
    corpus, left_out, rho = asos()
    print(f"ASOS: {len(corpus)} comparisons of {len(np.unique(corpus.groups))} experiments; left out: {left_out}; correlation of errors\n{np.round(rho, 2)}")
    whole, comparison, squared, steady = learn_asos(corpus)
    shown = normalised(whole.weights, usual_noise(corpus))
    scale = np.sqrt(np.diag(whole.latent))
    for place, name in enumerate(NAMES):
        print(f"  {name}: weight {shown[place]:+.2f} ({steady.low[place]:+.2f} to {steady.high[place]:+.2f}), with weight in {steady.chosen[place]:.0%} of draws; true effects: sd {scale[place]:.4f}, "
              f"{scale[place] / np.sqrt(usual_noise(corpus)[place, place]):.2f} standard errors, correlation with the final one {whole.latent[0, place] / scale[0] / scale[place]:+.2f}")
    print(f"  held out: {comparison}")
    upworthy_corpus, weeks, odd = upworthy()
    found = learn_upworthy(upworthy_corpus, weeks)
    print(f"Upworthy: {len(upworthy_corpus)} comparisons of {len(np.unique(upworthy_corpus.groups))} tests; {odd} tests left out for unequal impressions\n  {found}")
    print(json.dumps({
        "asos_comparisons": len(corpus), "asos_gain": round(comparison.gain, 6), "asos_gain_low": round(comparison.low, 6), "asos_gain_high": round(comparison.high, 6),
        "asos_value_alone": round(comparison.value_current, 6), "asos_squared_surprise": round(float(np.nanmean(squared**2)), 3), "asos_cosine": round(steady.cosine, 3),
        "upworthy_comparisons": len(upworthy_corpus), "upworthy_squared_surprise": round(found["squared_surprise"], 3), "upworthy_slope_posterior": round(found["slope"]["posterior"], 3),
        "upworthy_slope_raw": round(found["slope"]["raw"], 3)}))


if __name__ == "__main__":
    main()
