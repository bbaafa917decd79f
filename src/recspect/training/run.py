"""A run directory: everything about one training, readable by all that comes after it.

See docs/run-directory.md for the files. Nothing is read with pickle.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from torch import nn

from recspect.diagnosis.observing.rows import HISTOGRAMS, HISTOGRAMS_FILE, STEPS, STEPS_FILE, read_rows
from recspect.errors import RecspectError, RunError, listing
from recspect.features import FeatureTransform, InputSize
from recspect.files import require_writable
from recspect.models import ModelConfig, build
from recspect.models.packing import packed
from recspect.models.storage import Storage
from recspect.schema import Schema
from recspect.training.config import TrainingConfig, known
from recspect.training.files import read_json, read_tensors, write_bytes, write_json

RUN_FORMAT = 1
"""Version of the run directory."""

PACKAGES = ("torch", "numpy", "pyarrow", "polars", "duckdb", "lightning-fabric", "safetensors")
"""Libraries whose versions a run records."""


@dataclass(frozen=True)
class Run:
    """A handle on a run directory, as it was when opened.

    Args:
        folder: The directory.
        record: Content of `run.json`.
    """

    folder: Path
    record: Mapping[str, Any]

    # ------------------------------------------------------------------ opening

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Read a run directory.

        Raises:
            RunError: It is not one, is damaged, or was written by a newer recspect.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise RunError(f"no run directory at {folder}", hint="`recspect train` makes one under runs/")
        record = read_json(folder / "run.json")
        if record.get("format") != "recspect-run":
            raise RunError(f"{folder / 'run.json'} is not the record of a run", hint="give the folder that `recspect train` made")
        version = record.get("version")
        if not isinstance(version, int) or version > RUN_FORMAT:
            raise RunError(f"{folder} is a run directory of version {version!r}, this recspect reads up to {RUN_FORMAT}",
                           hint="upgrade recspect")
        missing = [key for key in ("id", "status", "model", "inputs", "training", "label", "metrics") if key not in record]
        if missing:
            raise RunError(f"{folder / 'run.json'} is damaged: it lacks {missing}", hint="train anew, or restore the file")
        wrong = _wrong_parts(record)
        if wrong:
            raise RunError(f"{folder / 'run.json'} is damaged: {listing(wrong)} hold what no run holds", hint="train anew, or restore the file")
        return cls(folder, record)

    @classmethod
    def create(cls, folder: str | Path, *, schema: Schema, transform: FeatureTransform, config: TrainingConfig,
               data: Mapping[str, Any], data_fingerprint: str, split: Mapping[str, Any], command: str = "") -> Run:
        """Make a run directory with status "running".

        Raises:
            RunError: The folder already holds a run.
        """
        folder = Path(folder)
        require_writable(folder, folder=True)
        if (folder / "run.json").exists():
            raise RunError(f"{folder} already holds a run", hint="choose another folder, or resume that run")
        folder.mkdir(parents=True, exist_ok=True)
        transform.save(folder)
        write_bytes(folder / "schema.toml", schema.to_toml().encode())
        record = {
            "format": "recspect-run", "version": RUN_FORMAT, "id": folder.resolve().name, "status": "running",
            "created": datetime.now(UTC).isoformat(timespec="seconds"), "recspect": metadata.version("recspect"),
            "python": platform.python_version(),
            "packages": {name: version for name in PACKAGES if (version := _version(name))},
            "seed": config.seed, "command": command, "data": dict(data), "data_fingerprint": data_fingerprint,
            "split": dict(split), "training": config.to_mapping(), "model": asdict(config.model),
            "inputs": [asdict(size) for size in transform.sizes], "label": schema.label.name,
            "epochs_done": 0, "best_epoch": None, "metrics": {"epochs": []},
        }
        record = json.loads(json.dumps(record))  # as it will be read: lists for tuples
        write_json(folder / "run.json", record)
        return cls(folder, record)

    def updated(self, **changes: Any) -> Run:
        """Write changes to `run.json`; gives the run as it is now."""
        record = {**self.record, **changes}
        write_json(self.folder / "run.json", record)
        return Run(self.folder, record)

    # ------------------------------------------------------------------ reading

    @property
    def id(self) -> str:
        """Name of the run."""
        return str(self.record["id"])

    @property
    def status(self) -> Literal["running", "finished", "interrupted"]:
        """`running` is also what a killed run says: it can be resumed."""
        return self.record["status"]

    @property
    def schema(self) -> Schema:
        """The schema of the training."""
        return Schema.read(self.folder / "schema.toml")

    @property
    def transform(self) -> FeatureTransform:
        """The features as they were fitted on the training rows."""
        return FeatureTransform.load(self.folder)

    @property
    def config(self) -> TrainingConfig:
        """The settings of the training, model included."""
        try:
            model = ModelConfig(**known(ModelConfig, self.record["model"], "model"))
            return TrainingConfig.from_mapping(self.record["training"], model)
        except RunError:
            raise
        except (RecspectError, TypeError) as error:
            raise RunError(f"{self.folder / 'run.json'} is damaged: {error}", hint="train anew, or restore the file") from None

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """Metrics per epoch, in order: `epoch`, `train_loss`, `validation_auc`, `test_auc`, ..."""
        return list(self.record["metrics"]["epochs"])

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the best validation value; None before the first ends."""
        return self.record.get("best_epoch")

    def untrained_model(self) -> nn.Module:
        """The model with fresh weights, from `run.json` alone; of a compressed run, with empty ones."""
        try:
            sizes = [InputSize(**size) for size in self.record["inputs"]]
        except TypeError as error:
            raise RunError(f"{self.folder / 'run.json'} is damaged: inputs: {error}", hint="train anew, or restore the file") from None
        storage = Storage.from_mapping(self.record.get("storage"), where=str(self.folder / "run.json"))
        model = build(self.config.model, sizes)
        return model if storage.plain else packed(model, storage, hollow=True)

    def load_model(self, epoch: int | Literal["best", "last"] = "best") -> nn.Module:
        """The model with the weights at the end of an epoch, in evaluation mode, on the CPU.

        Raises:
            RunError: That epoch was not trained, or its checkpoint is missing or does not fit.
        """
        chosen = {"best": self.best_epoch, "last": self.record["epochs_done"] or None}.get(str(epoch), epoch)
        if chosen is None:
            raise RunError(f"run {self.id} has not finished an epoch", hint="resume it, or train anew")
        if chosen not in range(1, self.record["epochs_done"] + 1):
            raise RunError(f"run {self.id} has no epoch {chosen!r}, it has 1 to {self.record['epochs_done']}",
                           hint="epochs are numbers from 1, 'best' or 'last'")
        tensors, _ = read_tensors(checkpoint(self.folder, int(chosen)))
        model = self.untrained_model()
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(f"checkpoint of epoch {chosen} does not fit the model of run {self.id}: {error}",
                           hint="were files of two runs mixed?") from None
        return model.eval()

    def steps(self) -> pa.Table:
        """Training internals: step, epoch, series, place, value; empty where nothing was observed."""
        return read_rows(self.folder / STEPS_FILE, STEPS)

    def histograms(self) -> pa.Table:
        """Histograms: step, epoch, series, place, edges, counts; empty where none were made."""
        return read_rows(self.folder / HISTOGRAMS_FILE, HISTOGRAMS)


def _wrong_parts(record: Mapping[str, Any]) -> list[str]:
    """Keys of `run.json` whose values have not the type that a run writes."""
    metrics = record["metrics"]
    epochs = metrics.get("epochs") if isinstance(metrics, Mapping) else None
    done, best = record.get("epochs_done"), record.get("best_epoch")
    sound = {
        "status": record["status"] in ("running", "finished", "interrupted"),
        "model": isinstance(record["model"], Mapping),
        "training": isinstance(record["training"], Mapping),
        "inputs": isinstance(record["inputs"], list) and all(isinstance(size, Mapping) for size in record["inputs"]),
        "metrics": isinstance(epochs, list) and all(isinstance(row, Mapping) and isinstance(row.get("epoch"), int) for row in epochs),
        "epochs_done": isinstance(done, int) and isinstance(epochs, list) and done == len(epochs),
        "best_epoch": best is None or isinstance(best, int),
        "data": isinstance(record.get("data"), Mapping),
        "data_fingerprint": isinstance(record.get("data_fingerprint"), str),
    }
    return [key for key, holds in sound.items() if not holds]


def checkpoint(folder: Path, epoch: int) -> Path:
    """Where the weights at the end of an epoch lie."""
    return folder / "checkpoints" / f"epoch-{epoch:03d}.safetensors"


def new_folder(parent: str | Path, name: str) -> Path:
    """A free `<parent>/YYYYMMDD-HHMMSS-<name>`."""
    stem = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('-.') or 'run'}"
    candidates = [Path(parent) / stem, *(Path(parent) / f"{stem}-{number}" for number in range(2, 1000))]
    return next(folder for folder in candidates if not folder.exists())


def runs_in(parent: str | Path) -> Sequence[Path]:
    """Folders of runs below a folder, oldest name first."""
    return sorted(path.parent for path in Path(parent).glob("*/run.json"))


def plain_number(value: float) -> float | None:
    """A number for JSON; None for NaN and infinities."""
    return float(value) if np.isfinite(value) else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
