"""A search over settings: its folder, which a stopped search goes on from.

tuning.json       what is searched, of which table, for what; who was judged
schema.toml       the schema of the trainings
study.sqlite      Optuna's storage: trials, their values and states
trials/0000/ ...  a run directory per trial
settings.toml     of the winner, for `recspect train --settings`
tuning.html       the page; findings.json is its twin
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from recspect.errors import MissingExtraError, RunError, UsageError
from recspect.files import require_writable, write_bytes
from recspect.models.config import ModelConfig
from recspect.models.spaces import Dimension, space_of
from recspect.schema import Schema
from recspect.training.config import TrainingConfig, known
from recspect.training.files import read_note, write_json
from recspect.tuning.objectives import Objective, chosen

FORM = "recspect-tuning"
NOTE, STUDY, SETTINGS, PAGE, TWIN = "tuning.json", "study.sqlite", "settings.toml", "tuning.html", "findings.json"
NAME = "settings"
"""Of the study in the storage."""
REDUCTION = 3
"""Of the trials that reach a rung, Hyperband lets one in so many go on."""


@dataclass(frozen=True)
class Tuning:
    """A handle on the folder of a search.

    Args:
        folder: Where it lies.
        note: Content of `tuning.json`.
    """

    folder: Path
    note: Mapping[str, Any]

    @classmethod
    def create(cls, folder: str | Path, *, schema: Schema, base: TrainingConfig, objectives: Sequence[str], data: Mapping[str, Any], data_fingerprint: str, command: str = "") -> Tuning:
        """Begin a search.

        Args:
            folder: Where it shall lie.
            schema: Of the trainings.
            base: Settings that are not searched, and of those that are the first to be tried.
            objectives: Names; see `recspect.tuning.objectives`.
            data: How the data can be read again.
            data_fingerprint: Of the table.
            command: What to type to do this again.

        Raises:
            RunError: The folder holds a search already.
            UsageError: Objectives or model make no sense.
            MissingExtraError: Optuna is not installed.
        """
        folder = Path(folder)
        names = [one.name for one in chosen(objectives, schema)]
        space_of(base.model.name)
        require_optuna()
        require_writable(folder, folder=True)
        if (folder / NOTE).exists():
            raise RunError(f"{folder} already holds a search", hint=f"recspect tune --resume {folder}, or another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "schema.toml", schema.to_toml().encode())
        note = {"format": FORM, "version": 1, "created": datetime.now(UTC).isoformat(timespec="seconds"), "recspect": metadata.version("recspect"), "optuna": metadata.version("optuna"), "command": command,
                "data": dict(data), "data_fingerprint": data_fingerprint, "objectives": names, "training": base.to_mapping(), "model": asdict(base.model), "seconds": 0.0, "judgements": []}
        write_json(folder / NOTE, note)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Tuning:
        """Read the folder of a search.

        Raises:
            RunError: It is none, or is damaged.
        """
        folder = Path(folder)
        if not (folder / NOTE).is_file():
            raise RunError(f"{folder} holds no search", hint="recspect tune writes one; --resume takes its folder")
        note = read_note(folder / NOTE, FORM)
        wrong = [key for key, kind in (("data", dict), ("data_fingerprint", str), ("objectives", list), ("training", dict), ("model", dict), ("judgements", list), ("seconds", (int, float)))
                 if not isinstance(note.get(key), kind)]
        if wrong:
            raise RunError(f"{folder / NOTE} is damaged: {', '.join(wrong)}", hint="begin anew, or restore the file")
        return cls(folder, note)

    def updated(self, **changes: Any) -> Tuning:
        """Write changes to `tuning.json`; gives the search as it is now."""
        note = {**self.note, **changes}
        write_json(self.folder / NOTE, note)
        return Tuning(self.folder, note)

    @property
    def schema(self) -> Schema:
        """Of the trainings."""
        return Schema.read(self.folder / "schema.toml")

    @property
    def base(self) -> TrainingConfig:
        """Settings that are not searched, and the first to be tried of those that are."""
        try:
            return TrainingConfig.from_mapping(dict(self.note["training"]), ModelConfig(**known(ModelConfig, self.note["model"], "model")))
        except (UsageError, TypeError) as error:
            raise RunError(f"{self.folder / NOTE} is damaged: {error}", hint="begin anew, or restore the file") from None

    @property
    def space(self) -> tuple[Dimension, ...]:
        """What is searched."""
        return space_of(self.base.model.name)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What it is for, how well it does first."""
        return chosen(self.note["objectives"], self.schema)

    def run_folder(self, number: int) -> Path:
        """The run directory of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    @contextmanager
    def study(self) -> Iterator[Any]:
        """Optuna's study, made where it is not there yet; its storage is closed afterwards.

        Raises:
            RunError: The storage is damaged.
            MissingExtraError: Optuna is not installed.
        """
        optuna = require_optuna()
        import sqlalchemy

        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{(self.folder / STUDY).resolve()}", engine_kwargs={"poolclass": sqlalchemy.pool.NullPool})
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            raise RunError(f"{self.folder / STUDY} is damaged: {error!s:.200}", hint="begin anew, or restore the file") from None
        try:
            objectives = self.objectives
            pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=self.base.maximum_epochs, reduction_factor=REDUCTION) if len(objectives) == 1 else optuna.pruners.NopPruner()
            yield optuna.create_study(storage=storage, study_name=NAME, directions=[one.direction for one in objectives], pruner=pruner, load_if_exists=True)
        finally:
            storage.remove_session()
            storage.engine.dispose()


def require_optuna() -> Any:
    """The library.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError as error:
        raise MissingExtraError(error.name or "optuna", extra="tune", purpose="Searching settings") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


__all__ = ["NOTE", "PAGE", "SETTINGS", "STUDY", "TWIN", "Tuning", "require_optuna"]
