"""The row for ids that training never saw is trained by hiding some that it did see.

An id that is new when the model serves reads the "unknown" row of its table. No training row reads it, so without this it would
stay as it was initialised. Here a small share of known ids is replaced by "unknown" in every step, other ones in every epoch
(dropout of ids; the same idea as unknown-word replacement in language models, Iyyer et al. 2015, "Deep Unordered Composition
Rivals Syntactic Methods for Text Classification", and as out-of-vocabulary training in recommender libraries).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recspect.features.encoded import MISSING, UNKNOWN, Encoded


def hide_ids(encoded: Encoded, fields: Sequence[str], share: float, generator: torch.Generator) -> Encoded:
    """The rows with a share of the ids of these fields replaced by "unknown"; missing values stay missing.

    Args:
        encoded: Rows on the processor.
        fields: Fields whose ids come from a vocabulary (see `FeatureTransform.vocabulary_fields`).
        share: Chance of each id to be hidden, 0 to 1.
        generator: Decides which.
    """
    if share <= 0 or not fields:
        return encoded
    ids = dict(encoded.ids)
    for name in fields:
        hidden = torch.rand(ids[name].shape, generator=generator) < share
        ids[name] = torch.where(hidden & (ids[name] != MISSING), UNKNOWN, ids[name])
    return Encoded(ids, encoded.numbers, encoded.rows, encoded.unknown_share, encoded.missing_share)
