"""Everything that decides a training, as one value: what is read, how it is trained, which epoch is kept, and what is done to rows and scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from recspect.errors import UsageError, listing
from recspect.schema import Schema

if TYPE_CHECKING:
    from recspect.training.config import TrainingConfig

Changes = Mapping[str, Any]
"""What a remedy changes, as plain data. Keys: `training` and `model` (settings to values), `fields` (name to settings, or to None for leaving it out), `rows` and `scores`
(steps that are added), `epoch` (`best` or `last`), `order` (`reversed`: the fields in reverse, which changes nothing but the draws of the first weights)."""

KEYS = ("training", "model", "fields", "rows", "scores", "epoch", "order")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is made of rows. Equal recipes on equal rows give the same model.

    Args:
        schema: Which fields are read, and how.
        config: Settings of the training, the model's among them; its seed is replaced by that of each training.
        epoch: Which epoch is kept.
        rows: Done to the rows before training, in order (`row_steps`).
        scores: Done to the scores after it, in order (`calibrating`).
    """

    schema: Schema
    config: TrainingConfig
    epoch: Literal["best", "last"] = "best"
    rows: tuple[Mapping[str, Any], ...] = ()
    scores: tuple[Mapping[str, Any], ...] = ()

    def changed(self, changes: Changes) -> Recipe:
        """The recipe with the changes made.

        Raises:
            UsageError: A change that there is not, or a field or setting that there is not.
        """
        unknown = sorted(set(changes) - set(KEYS))
        if unknown:
            raise UsageError(f"changes of a recipe name {listing(unknown)}", hint=f"they can name {listing(KEYS)}")
        model = replace(self.config.model, **dict(changes.get("model", {})))
        config = replace(self.config, model=model, **dict(changes.get("training", {})))
        schema = _with_fields(self.schema, changes.get("fields", {}))
        if changes.get("order") == "reversed":
            schema = replace(schema, fields=schema.fields[::-1])
        return replace(self, schema=schema, config=config, epoch=changes.get("epoch", self.epoch), rows=(*self.rows, *changes.get("rows", ())),
                       scores=(*self.scores, *changes.get("scores", ())))

    def to_mapping(self) -> dict[str, Any]:
        """Plain data."""
        return {"schema": self.schema.to_toml(), "training": {name: value for name, value in self.config.to_mapping().items() if name != "seed"},
                "model": asdict(self.config.model), "epoch": self.epoch, "rows": [dict(step) for step in self.rows], "scores": [dict(step) for step in self.scores]}

    def key(self, seed: int, data: str) -> str:
        """16 hexadecimal digits by which a finished training is found again.

        Args:
            seed: Of the training.
            data: Fingerprint of the rows.
        """
        text = json.dumps([self.to_mapping(), seed, data], sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def without_scores(self) -> Recipe:
        """The recipe of the same weights: what is done to scores comes after training, so both share one."""
        return replace(self, scores=())


def _with_fields(schema: Schema, changes: Mapping[str, Mapping[str, Any] | None]) -> Schema:
    dropped = {name for name, settings in changes.items() if settings is None}
    for name in changes:
        schema.field(name)  # says which fields there are
    dropped |= {field.name for field in schema.fields if field.shares in dropped}  # its vectors are gone too
    fields = tuple(replace(field, **(changes.get(field.name) or {})) for field in schema.fields if field.name not in dropped)
    if not fields:
        raise UsageError("without these fields the model would read nothing", hint="leave at least one field")
    return replace(schema, fields=fields)


__all__ = ["KEYS", "Changes", "Recipe"]
