"""How far the categories of a user's list are from those of the user's own items (Steck 2018), and how far they would be by chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import Batch, Column, Ragged
from recspect.diagnosis.stat import category_name
from recspect.recommending.ids import distinct, positions
from recspect.schema import Field, Kind, Schema

Floats = NDArray[np.float64]
SMOOTHING, DRAWS = 0.01, 20
LEAST_PROFILE, MOST_CATEGORIES, CHANGES, PRIOR_ITEMS = 10, 64, 0.01, 50
"""A profile needs so many items; a field needs 2 to so many categories, and may say otherwise of an item in so many rows."""


def category_columns(lists: Batch, wanted: Batch, items: Batch, schema: Schema) -> dict[str, Column]:
    """For every item-side field of few categories three columns, constant within a list; NaN for users with too short a profile.

    With p and q the shares of categories in the user's own items and in the list:

    - `calibration:f`: sum_g p_g ln(p_g / (0.99 q_g + 0.01 p_g)), in nats;
    - `calibration_by_chance:f`: the same, where the list is drawn from what the user's taste may be, as the items leave it open: the mean of 20
      draws of as many items, each from a draw of the taste (a Dirichlet process with everyone's items as prior);
    - `calibration_impersonal:f`: the same, where the list is drawn from everyone's items.

    Args:
        lists: From `make_lists`.
        wanted: Training rows that say a user wanted an item.
        items: From `catalogue`.
        schema: Names the user, the item and the fields.
    """
    user, item = schema.require("user"), schema.require("item")
    _, item_values = distinct(items, item)
    at_row, row_of = positions(wanted, item, item_values), positions(items, item, item_values)
    columns: dict[str, Column] = {}
    for field in schema.fields:
        if field.side != "item" or field.name == item or field.kind not in (Kind.CATEGORICAL, Kind.MULTI_VALUED) or field.name not in items:
            continue
        if isinstance(items[field.name], Ragged) or not _is_of_item(wanted, at_row, items, row_of, field.name):
            continue
        shares = _category_shares(field, items)
        if not 2 <= shares.shape[1] <= MOST_CATEGORIES:
            continue
        placed = np.zeros((len(item_values), shares.shape[1]))
        placed[row_of] = shares
        user_codes, users = distinct(lists, "user")
        found = _by_user(positions(wanted, user, users), at_row, user_codes, positions(lists, "item", item_values), placed, len(users))
        for name, values in zip(("calibration", "calibration_by_chance", "calibration_impersonal"), found.T, strict=True):
            columns[f"{name}:{field.name}"] = np.append(values, [np.nan])[user_codes]
    return columns


def _by_user(owner: NDArray[np.int64], own: NDArray[np.int64], lister: NDArray[np.int64], listed: NDArray[np.int64], shares: Floats, users: int) -> Floats:
    """Shape (users, 3). Items without a category count nowhere."""
    rng = np.random.default_rng(0)
    known = np.append(shares.sum(1) > 0, [False])  # the last place stands for items that training does not know
    out = np.full((users, 3), np.nan)
    profiles = {u: mine for u in range(users) if len(mine := own[(owner == u) & known[own]]) >= LEAST_PROFILE}
    if not profiles:
        return out
    others = own[known[own]]
    everyone = shares[others].mean(0)
    alike = _likeness([shares[profile] for profile in profiles.values()], everyone)
    for u, profile in profiles.items():
        places = listed[(lister == u) & known[listed]]
        if not len(places):
            continue
        p, k = shares[profile].mean(0), len(places)
        chance = np.stack([_drawn_list(rng, profile, others, alike, k, shares) for _ in range(DRAWS)])
        impersonal = shares[rng.choice(others, (DRAWS, k))].mean(1)
        out[u] = _divergence(p, shares[places].mean(0)), _divergence(p, chance).mean(), _divergence(p, impersonal).mean()
    return out


def _drawn_list(rng: np.random.Generator, profile: NDArray[np.int64], others: NDArray[np.int64], alike: float, k: int, shares: Floats) -> Floats:
    """Shares of categories in k items drawn from what the taste may be: a Dirichlet process of everyone's items, given the profile (Rubin's bootstrap with a prior)."""
    items = np.append(profile, rng.choice(others, PRIOR_ITEMS))
    weight = rng.dirichlet(np.append(np.ones(len(profile)), np.full(PRIOR_ITEMS, max(alike, 1e-6) / PRIOR_ITEMS)))
    return np.asarray(shares[rng.choice(items, k, p=weight / weight.sum())].mean(0))


def _likeness(profiles: list[Floats], everyone: Floats) -> float:
    """How many items of everyone's mixture a user's taste is worth: c of tastes drawn from a Dirichlet distribution of c times the mixture, by moments.

    Two items of a user agree in 1 / (c + 1) of the cases in which two of anyone do not by chance.
    """
    within = np.mean([(np.square(s.sum(0)).sum() - np.square(s).sum()) / (len(s) * (len(s) - 1)) for s in profiles])
    itself, apart = np.mean([np.square(s).sum(1).mean() for s in profiles]), float(np.square(everyone).sum())
    own = (within - apart) / max(itself - apart, 1e-12)
    return float(1 / np.clip(own, 1e-3, 1 - 1e-3) - 1)


def _divergence(p: Floats, q: Floats) -> Any:
    """Steck's C_KL along the last axis."""
    mixed = (1 - SMOOTHING) * q + SMOOTHING * p
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / mixed), 0.0)
    return terms.sum(-1)


def _category_shares(field: Field, items: Batch) -> Floats:
    """Share of every category in each item, shape (items, categories): 0 or 1, or evenly among several; rows of 0 where none is known."""
    column = items.categories(field.name)
    several = field.kind is Kind.MULTI_VALUED and field.separator is not None
    parts = [list(dict.fromkeys(filter(None, category_name(value).split(field.separator) if several else [category_name(value)]))) for value in column.values]
    used = np.unique(column.codes[column.codes >= 0])
    place = {name: g for g, name in enumerate(sorted({name for v in used for name in parts[v]}))}
    shares = np.zeros((len(parts) + 1, len(place)))
    for v in used:
        shares[v, [place[name] for name in parts[v]]] = 1 / max(len(parts[v]), 1)
    return np.asarray(shares[column.codes])


def _is_of_item(wanted: Batch, at_row: NDArray[np.int64], items: Batch, row_of: NDArray[np.int64], name: str) -> bool:
    """Whether nearly all rows say of the item what the catalogue says."""
    if name not in wanted or not wanted.rows:
        return False
    mine, named = wanted.categories(name), items.categories(name)
    where = np.full(len(row_of) + 1, -1, dtype=np.int64)
    where[row_of] = np.arange(len(row_of))
    both = (mine.codes >= 0) & (at_row >= 0)
    left = np.array([category_name(value) for value in mine.values], dtype=object)[mine.codes[both]]
    right = np.array([*map(category_name, named.values), ""], dtype=object)[named.codes[where[at_row[both]]]]
    return bool(both.any()) and float((left != right).mean()) <= CHANGES
