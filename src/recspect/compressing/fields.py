"""A model without some of its fields, whose scores are those of the old model with these fields at their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recspect.compressing.fitted import Fitted, columns_of, rebuilt, tables
from recspect.errors import UsageError, listing
from recspect.features import FeatureTransform

FOLDED = ("linear", "fm", "mlp", "deepfm")
"""Models of which what a constant field adds can be put into other weights, exactly."""


def droppable(fitted: Fitted) -> tuple[str, ...]:
    """Fields that can be left out: none that another reads the ids of, and none of a model that is not folded or has divided tables."""
    if fitted.config.name not in FOLDED or any(vectors.divided for vectors in tables(fitted.model).values()):
        return ()
    lent = {encoder.field.shares for encoder in fitted.transform.encoders.values() if encoder.field.shares}
    return tuple(name for name in fitted.transform.encoders if name not in lent)


def without_fields(fitted: Fitted, dropped: Sequence[str], means: Mapping[str, Mapping[str, Tensor]]) -> Fitted:
    """The model without these fields; their mean vectors m_f stay in its weights.

    linear: b' = b + sum_f m_f. mlp: the first layer's bias gets W_f m_f. fm: with c = sum_f m_f (of the vectors), sum_{f<g} <v_f, v_g> is the sum over the fields
    that stay, plus <v_g, c> for each of these, which is linear in what g looks up and goes into its first-order weights, plus a constant that goes into the bias.

    Args:
        fitted: The model, with plain float32 weights.
        dropped: Fields to leave out; at least one must stay.
        means: From `mean_vectors`.

    Raises:
        UsageError: A field that cannot be left out.
    """
    wrong = sorted(set(dropped) - set(droppable(fitted)))
    kept = [name for name in fitted.transform.encoders if name not in dropped]
    if wrong or not kept:
        raise UsageError(f"fields {listing(wrong or dropped)} cannot be left out of model {fitted.config.name!r}",
                         hint=f"models whose weights can take them up: {listing(FOLDED)}; at least one field must stay, and those whose ids another reads")
    schema = replace(fitted.transform.schema, fields=tuple(field for field in fitted.transform.schema.fields if field.name not in dropped))
    transform = FeatureTransform(schema, {name: fitted.transform.encoders[name] for name in kept})
    model = rebuilt(fitted, transform, {}, lambda name, weight: _folded(fitted, transform, dropped, means, name, weight))
    if fitted.config.name in ("fm", "deepfm"):
        crossed = _sum(means["vectors"], dropped)
        with torch.no_grad():
            for part in ("table.weight", "scales"):
                holder, _, own = part.rpartition(".")
                weights, vectors = (getattr(getattr(model, which), holder) if holder else getattr(model, which) for which in ("weights", "vectors"))
                if weights is not None and hasattr(weights, own):
                    getattr(weights, own).add_(getattr(vectors, own) @ crossed.unsqueeze(1))
    return Fitted(model, transform)


def _folded(fitted: Fitted, transform: FeatureTransform, dropped: Sequence[str], means: Mapping[str, Mapping[str, Tensor]], name: str, weight: Tensor) -> Tensor:
    """A parameter outside the tables, with what the dropped fields add at their mean."""
    if name == "bias":
        first = _sum(means["weights"], dropped).sum() if "weights" in means else torch.zeros(())
        if fitted.config.name not in ("fm", "deepfm"):
            return weight + first
        crossed = _sum(means["vectors"], dropped)
        return weight + first + (crossed.square().sum() - sum(means["vectors"][field].square().sum() for field in dropped)) / 2
    if name in ("mlp.0.weight", "mlp.0.bias"):
        before = tables(fitted.model)["vectors"].fields
        if name == "mlp.0.weight":
            kept = [field for field in before if field in transform.encoders]
            return weight[:, columns_of(before, kept, fitted.config.embedding_width)]
        matrix = fitted.model.get_parameter("mlp.0.weight")
        gone = [field for field in before if field in dropped]
        if not gone:
            return weight
        return weight + matrix[:, columns_of(before, gone, fitted.config.embedding_width)] @ torch.cat([means["vectors"][field] for field in gone])
    return weight


def _sum(vectors: Mapping[str, Tensor], fields: Sequence[str]) -> Tensor:
    width = next(iter(vectors.values())).shape[0]
    return torch.stack([torch.zeros(width), *(vectors[name] for name in fields)]).sum(dim=0)
