"""From a table to tensors: fitted on training rows only, then the same for every row.

`FeatureTransform.fit(schema, training_rows)` learns; `.transform(any_rows)` gives one tensor per field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from recspect.diagnosis.batch import Batch
from recspect.errors import RunError
from recspect.features.encoded import Encoded, InputSize
from recspect.features.encoders import AnyEncoder, encoder_of
from recspect.features.fitting import Fitting
from recspect.features.vocabulary import Vocabulary
from recspect.files import write_bytes
from recspect.schema import Schema

FEATURES_FORMAT = 1
"""Version of `features.json`."""


@dataclass(frozen=True, eq=False)
class FeatureTransform:
    """The fitted encoders of all fields, in the schema's order.

    Args:
        schema: The schema it was fitted with; its fields decide what is read.
        encoders: Field to encoder.
    """

    schema: Schema
    encoders: Mapping[str, AnyEncoder]

    @classmethod
    def fit(cls, schema: Schema, batch: Batch, *, folder: str = "") -> FeatureTransform:
        """Learn vocabularies, means and buckets from training rows.

        Args:
            schema: Its fields decide what is read.
            batch: The rows.
            folder: Of the data, beside which vectors of texts and images are kept; empty for data in memory.

        Raises:
            SchemaError: No fields, or no such encoder of texts or images.
            MissingExtraError: The library that encodes texts or images is not installed.
            DataError: A column is missing or of the wrong type, or there are no rows.
        """
        fitting = Fitting(schema, folder)
        fitting.add(batch)
        return cls(schema, fitting.finish())

    @property
    def sizes(self) -> tuple[InputSize, ...]:
        """What a model must hold per field, in order."""
        return tuple(encoder.size for encoder in self.encoders.values())

    @property
    def vocabulary_fields(self) -> tuple[str, ...]:
        """Fields whose ids come from a vocabulary, so that an id can be unknown."""
        return tuple(name for name, encoder in self.encoders.items() if isinstance(getattr(encoder, "codes", None), Vocabulary))

    def transform(self, batch: Batch) -> Encoded:
        """Rows as tensors, with the share of unknown and of missing values per field.

        Raises:
            DataError: A column is missing or of another type than in training.
        """
        ids, numbers, unknown, missing = {}, {}, {}, {}
        for name, encoder in self.encoders.items():
            encoding = encoder.encode(batch)
            target = numbers if encoder.size.form == "numbers" else ids
            target[name] = torch.from_numpy(np.ascontiguousarray(encoding.values))
            unknown[name], missing[name] = encoding.unknown_share, encoding.missing_share
        return Encoded(ids, numbers, batch.rows, unknown, missing)

    def save(self, folder: str | Path) -> None:
        """Write `features.json` and `features.safetensors`, each atomically."""
        folder = Path(folder)
        entries: list[dict[str, Any]] = []
        arrays: dict[str, Any] = {}
        for number, (name, encoder) in enumerate(self.encoders.items()):
            settings, tables = encoder.state()
            if encoder.field.shares is not None:  # the ids are those of the other field, and are saved there
                settings, tables = {key: value for key, value in settings.items() if key == "width"}, {}
            entries.append({"name": name, "encoder": type(encoder).__name__, "settings": settings})
            arrays.update({f"{number}/{key}": np.ascontiguousarray(table) for key, table in tables.items()})
        content = {"format": "recspect-features", "version": FEATURES_FORMAT,
                   "schema": self.schema.to_mapping(), "fields": entries}
        write_bytes(folder / "features.safetensors", save(arrays))
        write_bytes(folder / "features.json", (json.dumps(content, ensure_ascii=True, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: str | Path) -> FeatureTransform:
        """Read what `save` wrote.

        Raises:
            RunError: A file is missing, damaged or of a newer version.
        """
        folder = Path(folder)
        try:
            content = json.loads((folder / "features.json").read_text(encoding="utf-8"))
            arrays = load_file(folder / "features.safetensors")
            if content["format"] != "recspect-features" or content["version"] != FEATURES_FORMAT:
                raise RunError(f"{folder / 'features.json'} has format {content['format']!r} version {content['version']!r}, "
                               f"this recspect reads version {FEATURES_FORMAT}", hint="upgrade recspect")
            schema = Schema.from_mapping(content["schema"], where=str(folder / "features.json"))
            saved = {}
            for number, entry in enumerate(content["fields"]):
                own = {key.split("/", 1)[1]: table for key, table in arrays.items() if key.startswith(f"{number}/")}
                saved[entry["name"]] = (entry["settings"], own)
            encoders: dict[str, AnyEncoder] = {}
            for name, (settings, own) in saved.items():
                field = schema.field(name)
                if field.shares is not None:
                    settings, own = {**saved[field.shares][0], **settings}, saved[field.shares][1]  # noqa: PLW2901
                encoders[name] = encoder_of(field).from_state(field, settings, own)
        except FileNotFoundError as error:
            gone = Path(error.filename or "features.safetensors").name  # safetensors' own error does not say which file
            raise RunError(f"no fitted features in {folder}: {gone} is missing",
                           hint="was the folder written by `recspect train`?") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise RunError(f"the fitted features in {folder} are damaged: {error!r}", hint="train anew") from None
        return cls(schema, encoders)
