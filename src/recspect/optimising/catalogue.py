"""Every remedy, in the order in which those of one cause are tried; and those of scores and lists."""

from __future__ import annotations

from recspect.optimising import catalogue_data, catalogue_training
from recspect.optimising.remedy import Facts, Part, Prepared, RemedyKind


def _recalibrate(facts: Facts) -> Prepared | None:
    if facts.recipe is not None and facts.recipe.schema.label.kind != "binary":
        return None
    if facts.logits is None:
        ratio, slope = facts.value("predictions.calibration"), facts.value("predictions.calibration_slope")
        told = "; ".join([*([f"predicted over observed is {ratio:.3g}"] if ratio is not None else []), *([f"the slope is {slope:.3g}"] if slope is not None else [])])
        return Prepared(f"Fit logit -> a + b logit on the newest complete rows, by Platt's method{f' ({told})' if told else ''}.")
    from recspect.optimising.calibrating import best_map, fitted

    logit, label = facts.logits
    name = best_map(logit, label)
    found = fitted({"map": name}, logit, label)
    numbers = f"{len(found.knots)} knots" if found.knots else f"logit becomes {found.slope:.3f} times itself {found.offset:+.3f}"
    return Prepared(f"Calibrate scores on {len(label):,} held-out rows by {name} ({numbers}); fitted on their earlier half, no other map is surely better on the later one.", {"scores": [{"map": name}]})


def _correct_sampling(facts: Facts) -> Prepared | None:
    faster = facts.value("data.negative_volume")
    if faster is None or faster <= 1:
        return Prepared("Correct scores by p / (p + (1 - p) / rate), with the rate at which negatives were kept.") if facts.recipe is None else None
    rate = 1 / faster
    return Prepared(f"Correct scores by p / (p + (1 - p) / {rate:.3g}): that share of negatives was kept for training.", {"scores": [{"map": "sampling", "rate": rate}]})


def _rerank(facts: Facts) -> Prepared:
    lift = facts.value("recommendations.popularity_bias")
    return Prepared("Re-rank by score less a tenth of the log of an item's training rows, and raise that weight while NDCG falls by less than 1%"
                    + (f" (lists are {lift:.2g} times as popular as histories)" if lift else "") + ": the recommender's steps have it.")


SCORES: tuple[RemedyKind, ...] = (
    RemedyKind(code="correct_sampling", part=Part.CALIBRATION, prepare=_correct_sampling, causes=("sampled_negatives",), cost="no training",
               codes=("predictions.calibration", "predictions.negative_sampling"), source="He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook"),
    RemedyKind(code="recalibrate", part=Part.CALIBRATION, prepare=_recalibrate, causes=("prior_shift", "sampled_negatives", "memorisation", "concept_drift"), cost="no training",
               codes=("predictions.calibration", "predictions.calibration_slope", "predictions.negative_sampling"),
               source="Platt 1999; Zadrozny and Elkan 2002; Guo et al. 2017, On Calibration of Modern Neural Networks"),
)

LISTS: tuple[RemedyKind, ...] = (
    RemedyKind(code="rerank_popularity", part=Part.LIST, prepare=_rerank, codes=("recommendations.popularity_bias",), cost="no training",
               source="Abdollahpouri et al. 2019, Managing Popularity Bias in Recommender Systems with Personalized Re-ranking"),
    RemedyKind(code="model_position", part=Part.MODEL, causes=("position_in_labels",), codes=("recommendations.position_bias",),
               prepare=lambda _: Prepared("Give the position to training in a tower of its own whose logit is added, and leave that tower out at serving (PAL); or weigh clicks by 1 / chance of being seen."),
               source="Guo et al. 2019, PAL: a position-bias aware learning framework"),
    RemedyKind(code="weigh_propensity", part=Part.DATA, causes=("feedback_loop",), codes=("recommendations.homogenisation",),
               prepare=lambda _: Prepared("Show 5% of places at random with known propensities; weigh training rows by 1 / propensity, capped at 20, or subtract log Q from sampled-softmax logits."),
               source="Schnabel et al. 2016; Yi et al. 2019 (log Q)"),
)

REMEDIES: tuple[RemedyKind, ...] = (*catalogue_training.CHECKS, *catalogue_data.REMEDIES[:5], *SCORES[:1], *catalogue_training.REMEDIES, *SCORES[1:], *catalogue_data.REMEDIES[5:], *LISTS, *catalogue_training.INSTRUCTIONS)
"""Every remedy; codes are unique."""

__all__ = ["REMEDIES"]
