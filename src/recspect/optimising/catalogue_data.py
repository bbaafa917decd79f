"""Remedies that change rows and fields."""

from __future__ import annotations

import numpy as np

from recspect.optimising.catalogue_training import MEMORY
from recspect.optimising.remedy import Facts, Gate, Part, Prepared, RemedyKind
from recspect.schema import Kind

MOST_IDS = 1_000_000
"""A vocabulary of more ids is not proposed in place of buckets."""
RARE_SHARE = 0.05
"""Share of training rows whose ids are grouped as rare: enough to matter, and hardly any of what is known."""


def _drop(facts: Facts) -> Prepared | None:
    if not facts.place or (facts.recipe is not None and (facts.place not in facts.recipe.schema.field_names or len(facts.recipe.schema.fields) < 2)):
        return None
    return Prepared(f"Leave the field {facts.place} out, in training and in serving.", {"fields": {facts.place: None}})


def _drop_leak(facts: Facts) -> Prepared | None:
    found = _drop(facts)
    return found and Prepared(f"{found.text} Or compute it from what was known before each event; the figures then fall to what is honest.", found.changes)


def _rare(facts: Facts) -> Prepared | None:
    if facts.recipe is None or facts.parts is None:
        return Prepared("Let ids seen fewer than 5 times in training share one row (minimum_count), and give that row to new ids too.")
    named = {finding.place.name for finding in facts.alarms("training.memorisation")} or {facts.recipe.schema.user, facts.recipe.schema.item}
    chosen: dict[str, dict[str, int]] = {}
    told = []
    for field in facts.recipe.schema.fields:
        if field.name not in named or field.kind is not Kind.CATEGORICAL or field.hash_buckets is not None or field.shares is not None:
            continue
        codes = facts.parts.train.categories(field.name).codes
        counts = np.bincount(codes[codes >= 0])
        counts = np.sort(counts[counts > 0])
        reach = np.cumsum(counts) <= RARE_SHARE * counts.sum()
        least = max(2, int(counts[reach.sum() - 1]) + 1 if reach.any() else 2)
        rare = counts < least
        if least > field.minimum_count and rare.any():
            chosen[field.name] = {"minimum_count": least}
            told.append(f"{field.name} below {least} training rows ({int(rare.sum()):,} of {len(counts):,} ids, {100 * counts[rare].sum() / counts.sum():.1f}% of the rows)")
    return Prepared(f"Let rare ids share one row: {'; '.join(told)}.", {"fields": chosen}) if chosen else None


def _more_buckets(facts: Facts) -> Prepared | None:
    if facts.recipe is None or facts.parts is None:
        return Prepared(f"Give {facts.place or 'the field'} ten times as many buckets as it has ids, two hashes per id, or a vocabulary of its frequent ids.")
    if facts.place not in facts.recipe.schema.field_names:
        return None
    field = facts.recipe.schema.field(facts.place)
    if field.hash_buckets is None:
        return None
    ids = len(np.unique(facts.parts.train.categories(field.name).codes))
    if ids <= MOST_IDS:
        return Prepared(f"A row for each of the {ids:,} ids of {field.name} (a vocabulary) in place of {field.hash_buckets:,} buckets.", {"fields": {field.name: {"hash_buckets": None}}})
    return Prepared(f"{10 * ids:,} buckets for the {ids:,} ids of {field.name} in place of {field.hash_buckets:,}.", {"fields": {field.name: {"hash_buckets": 10 * ids}}})


def _deduplicate(facts: Facts) -> Prepared | None:
    share = facts.value("data.split_overlap") if facts.recipe is None else next((f.estimate.value for f in facts.alarms("data.split_overlap") if f.estimate and f.place.kind == "slice"), None)
    told = f" ({100 * share:.1f}% of training rows repeat one)" if share else ""
    return Prepared(f"Keep each event once, by all columns{told}.", {"rows": [{"step": "deduplicate"}]})


def _split(facts: Facts) -> Prepared | None:
    if facts.recipe is not None and facts.recipe.schema.time is None:
        return Prepared("Remove from training the rows that the held-out side has too.", {"rows": [{"step": "before_proof"}]})
    return Prepared("Train on nothing of the time that is judged, and on none of the rows that are held out; the figures then fall to what is honest.", {"rows": [{"step": "before_proof"}]})


def _newer(facts: Facts) -> Prepared | None:
    if facts.parts is None:
        return Prepared("Train on rows up to now, and more often: the newest are worth most.")
    return Prepared(f"Train up to the newest rows: {facts.parts.diagnosis.rows:,} rows that followed the training rows are added to {facts.parts.train.rows:,}.", {"rows": [{"step": "through_diagnosis"}]})


def _shorter(facts: Facts) -> Prepared | None:
    if facts.recipe is None or facts.parts is None or facts.recipe.schema.time is None:
        return Prepared("Train on the newest half of the rows only.") if facts.recipe is None else None
    return Prepared(f"Train on the newest half of the rows, {facts.parts.train.rows // 2:,}.", {"rows": [{"step": "newest", "share": 0.5}]})


def _weigh(facts: Facts) -> Prepared | None:
    place = facts.place
    if "=" not in place:
        return None
    if facts.parts is not None:
        from recspect.diagnosis.slice import Slice
        from recspect.errors import RecspectError

        try:
            share = float(Slice.parse(place).mask(facts.parts.train).mean())
        except (RecspectError, KeyError):
            return Prepared(f"Look at the rows where {place} for a defect of the data; then let them weigh twice in training.")
        if not 0 < share < 0.5:
            return None
        return Prepared(f"Let training rows where {place} ({100 * share:.1f}%) weigh twice, after a look for a defect of their data.", {"rows": [{"step": "repeat", "slice": place, "times": 2}]})
    return Prepared(f"Let training rows where {place} weigh twice, after a look for a defect of their data.")


REMEDIES: tuple[RemedyKind, ...] = (
    RemedyKind(code="drop_leaking_field", part=Part.FEATURES, prepare=_drop_leak, causes=("target_leak",), codes=("data.target_leak", "data.time_leak"), gate=Gate.HONEST, vanishes=True,
               guardrails=("calibration", "the model still beats a constant", "no finding that fails anew")),
    RemedyKind(code="split_by_time", part=Part.DATA, prepare=_split, causes=("split_leak",), codes=("data.split_overlap", "data.time_leak"), gate=Gate.HONEST,
               guardrails=("calibration", "the model still beats a constant", "no finding that fails anew"), source="Ji et al. 2023, A Critical Study on Data Leakage in Recommender System Offline Evaluation"),
    RemedyKind(code="deduplicate", part=Part.DATA, prepare=_deduplicate, causes=("duplicated_rows",), codes=("data.split_overlap",)),
    RemedyKind(code="drop_field", part=Part.FEATURES, prepare=_drop, causes=("spurious_field",), codes=("features.spurious", "features.unused"), vanishes=True, cost="less than before"),
    RemedyKind(code="more_buckets", part=Part.FEATURES, prepare=_more_buckets, causes=("small_table",), codes=("features.hash_collisions",), cost="a larger table"),
    RemedyKind(code="retrain_recent", part=Part.DATA, prepare=_newer, causes=("concept_drift", "new_ids", "prior_shift"), cost="one training on more rows",
               codes=("data.change_point", "embeddings.untrained_rows", "predictions.calibration", "predictions.cold_start")),
    RemedyKind(code="raise_minimum_count", part=Part.FEATURES, prepare=_rare, causes=("memorisation",), codes=(*MEMORY, "embeddings.untrained_rows"), cost="smaller tables"),
    RemedyKind(code="shorten_window", part=Part.DATA, prepare=_shorter, causes=("concept_drift",), codes=("data.change_point", "predictions.calibration"), gate=Gate.GAIN, cost="half a training"),
    RemedyKind(code="weigh_slice", part=Part.DATA, prepare=_weigh, causes=("bad_slice",), codes=("predictions.group_gap", "predictions.worst_slices")),
)

__all__ = ["REMEDIES"]
