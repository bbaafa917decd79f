"""Scores of a trained model for requests and candidates, with the items' side encoded once and gathered, not encoded anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recspect.diagnosis.batch import Batch
from recspect.errors import DataError, RunError, listing
from recspect.features import FeatureTransform
from recspect.recommending.lists import side_of
from recspect.recommending.pipeline.parts import REBUILD
from recspect.training.files import read_json, read_tensors, write_json, write_tensors
from recspect.training.run import Run

ROWS = 8192
"""Pairs that pass the model at once."""

BACKENDS = ("torch", "onnx")


@dataclass(frozen=True, eq=False)
class Ranker:
    """A trained model, ready to score pairs of a request and an item.

    Args:
        model: In evaluation mode, on the CPU.
        transform: The features that it was trained with.
        items: Field to tensor of all items, in the order of their codes.
        probabilities: Whether scores are probabilities (a binary label), or values in the label's unit.
        note: What rebuilds the model, plain data: `model`, `inputs`, `run`, `epoch`.
        session: An ONNX Runtime session that scores instead of `model`, or None.
    """

    model: nn.Module
    transform: FeatureTransform
    items: Mapping[str, Tensor]
    probabilities: bool
    note: Mapping[str, Any]
    session: Any = None

    @classmethod
    def of_run(cls, run: Run, items: Batch, epoch: Any = "best") -> Ranker:
        """The model of a run after an epoch.

        Args:
            run: A run with a finished epoch.
            items: One row per item, in the order of their codes.
            epoch: Number, `best` or `last`.

        Raises:
            RunError: No such epoch.
            DataError: The items lack a field.
        """
        chosen = run.best_epoch if epoch == "best" else epoch
        note = {"model": run.record["model"], "inputs": run.record["inputs"], "run": run.id, "epoch": chosen, "training": run.record["training"],
                **({"storage": run.record["storage"]} if "storage" in run.record else {})}
        return cls.of(run.load_model(epoch), run.transform, items, note)

    @classmethod
    def of(cls, model: nn.Module, transform: FeatureTransform, items: Batch, note: Mapping[str, Any]) -> Ranker:
        """A model with the features that it was trained with; items in the order of their codes."""
        own = _side(transform, item=True)
        lacking = [name for name in own.encoders if name not in items]
        if lacking:
            raise DataError(f"items lack {listing(lacking)}, which the model reads as fields of the item",
                            hint='correct "side" in the schema of the run, or give a table of items that has them')
        encoded = own.transform(items).inputs if own.encoders else {}
        return cls(model.eval(), transform, encoded, model.config.output == "logit", note)

    def encode_requests(self, rows: Batch) -> dict[str, Tensor]:
        """Field to tensor of the fields of users and context, one row per request.

        Raises:
            DataError: A field is missing.
        """
        own = _side(self.transform, item=False)
        lacking = [name for name in own.encoders if name not in rows]
        if lacking:
            raise DataError(f"requests lack {listing(lacking)}, which the model reads", hint="give them as context")
        return own.transform(rows).inputs if own.encoders else {}

    def scores(self, requests: Mapping[str, Tensor], request: NDArray[np.int64], item: NDArray[np.int64]) -> NDArray[np.float64]:
        """One score per pair, shape (pairs,): the same as the model gives for a row with these values.

        Args:
            requests: From `encode_requests`.
            request: Row of the request of each pair.
            item: Item code of each pair.
        """
        out = np.empty(len(item))
        for first in range(0, len(item), ROWS):
            rows, codes = (torch.from_numpy(part[first:first + ROWS]) for part in (request, item))
            inputs = {name: tensor.index_select(0, rows) for name, tensor in requests.items()}
            inputs |= {name: tensor.index_select(0, codes) for name, tensor in self.items.items()}
            out[first:first + ROWS] = self._forward(inputs)
        return out

    def _forward(self, inputs: dict[str, Tensor]) -> NDArray[np.float64]:
        if self.session is not None:
            from recspect.recommending.pipeline.ranker_onnx import run_session

            raw = run_session(self.session, inputs)
        else:
            with torch.inference_mode():
                raw = self.model(inputs).double().numpy()
        if not self.probabilities:
            return raw
        small = np.exp(-np.abs(raw))  # never overflows
        return np.asarray(np.where(raw >= 0, 1 / (1 + small), small / (1 + small)))

    def with_backend(self, backend: str) -> Ranker:
        """The same scores to 1e-5 from `torch` or from `onnx` (ONNX Runtime).

        Raises:
            MissingExtraError: ONNX Runtime or the exporter is not installed.
            UsageError: No such backend.
        """
        from dataclasses import replace

        from recspect.errors import UsageError

        if backend not in BACKENDS:
            raise UsageError(f"no backend {backend!r}", hint=f"choices: {BACKENDS}")
        if backend == "torch":
            return replace(self, session=None)
        from recspect.recommending.pipeline.ranker_onnx import make_session

        sample = {name: tensor[:1] for name, tensor in self.items.items()}
        sizes = {size.name: size for size in self.transform.sizes}
        for name in _side(self.transform, item=False).encoders:
            size = sizes[name]
            shape = (1,) if size.form == "id" or (size.form == "numbers" and size.width == 1) else (1, size.width)
            sample[name] = torch.zeros(shape, dtype=torch.float32 if size.form == "numbers" else torch.int64)
        if any(size.form == "numbers" and size.width == 1 and self.transform.schema.field(size.name).kind == "vector" for size in sizes.values()):
            raise UsageError("vectors of width 1 cannot be exported", hint="declare them as numeric, or use the backend torch")
        return replace(self, session=make_session(self.model, {name: sample[name] for name in self.transform.encoders}))

    def save(self, folder: Path) -> None:
        """Write features, settings and weights into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.transform.save(folder)
        write_tensors(folder / "model.safetensors", self.model.state_dict())
        write_json(folder / "ranker.json", {"format": "recspect-ranker", "version": 1, **self.note})

    @classmethod
    def load(cls, folder: Path, items: Batch) -> Ranker:
        """Read what `save` wrote.

        Raises:
            RunError: A file is missing, damaged, or of a newer version.
        """
        from recspect.features import InputSize
        from recspect.models import ModelConfig, build
        from recspect.models.packing import packed
        from recspect.models.storage import Storage
        from recspect.training.config import known

        note = read_json(folder / "ranker.json")
        if note.pop("format", None) != "recspect-ranker" or note.pop("version", None) != 1:
            raise RunError(f"{folder / 'ranker.json'} is not of a format that this recspect reads", hint="upgrade recspect")
        tensors, _ = read_tensors(folder / "model.safetensors")
        storage = Storage.from_mapping(note.get("storage"), where=str(folder / "ranker.json"))
        try:
            model = build(ModelConfig(**known(ModelConfig, note["model"], "model")), [InputSize(**size) for size in note["inputs"]])
            model = model if storage.plain else packed(model, storage, hollow=True)
            model.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"the ranking model in {folder} is damaged: {error!r:.300}", hint=REBUILD) from None
        return cls.of(model, FeatureTransform.load(folder), items, note)


def _side(transform: FeatureTransform, *, item: bool) -> FeatureTransform:
    """The fields of the item, or all others; the id columns by their role, whatever side their field names."""
    names = [name for name in transform.encoders if (side_of(name, transform.schema) == "item") == item]
    return FeatureTransform(transform.schema, {name: transform.encoders[name] for name in names})
