"""`recspect loop`: the circle on a simulated audience, whose truth tells whether the system learns.

Each round, users come and are shown lists by the recommender of the round (the first round: random ones, all equally likely, so that there is something to
learn from). What is shown and clicked goes into the store of events, becomes labelled rows, trains a model, builds the next recommender. Rewards are expected
clicks per list by the audience's own truth, on the same visits for all who are compared, so no noise of clicks is in them.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspect.diagnosis.batch import concatenate
from recspect.diagnosis.source import read
from recspect.errors import DataError, RunError, UsageError
from recspect.events.event import Event, EventKind
from recspect.events.joining import label_exposures
from recspect.events.store import EventStore, Window, open_store
from recspect.files import require_writable, write_bytes
from recspect.looping.retraining import RetrainingRule
from recspect.models import ModelConfig
from recspect.recommending.pipeline.building import build_recommender
from recspect.recommending.pipeline.exploration import EpsilonGreedy
from recspect.recommending.pipeline.recommender import Recommender
from recspect.recommending.pipeline.settings import RecommenderSettings
from recspect.recommending.pipeline.sources_learnt import TwoTowerSource
from recspect.recommending.pipeline.sources_plain import ItemKNNSource, PopularSource
from recspect.schema import Schema
from recspect.training.config import TrainingConfig
from recspect.training.loop import train
from recspect.worlds.audience import SimulatedAudience

Ints = NDArray[np.int64]
RECORD = "loop.json"

FEW_CLICKS = 50
"""With fewer, it may be that no model can be trained; with more, a training that fails is a fault and is told as one."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What is gone round.

    Args:
        audience: Who comes.
        rounds: How often.
        visits: Lists shown per round.
        k: Length of a list.
        epsilon: Share of places that are filled at random, with known chance, so that the log can be judged and learnt from.
        model: The ranking model.
        epochs: Passes over the rows per training.
        rule: When to train anew; rounds are a day apart.
        seed: Of visits, clicks, lists and training.
    """

    audience: SimulatedAudience = field(default_factory=SimulatedAudience)
    rounds: int = 5
    visits: int = 3000
    k: int = 10
    epsilon: float = 0.1
    model: ModelConfig = field(default_factory=lambda: ModelConfig(embedding_width=8, hidden=(32,)))
    epochs: int = 15
    rule: RetrainingRule = field(default_factory=RetrainingRule)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rounds, self.visits - 1, self.k, self.epochs) < 1 or not 0 <= self.epsilon < 1:
            raise UsageError(f"rounds {self.rounds}, visits {self.visits}, k {self.k}, epochs {self.epochs}, epsilon {self.epsilon}",
                             hint="expected 1 or more each, 2 visits or more, and epsilon of 0 or more and below 1")
        if self.k > self.audience.items:
            raise UsageError(f"lists of {self.k} from {self.audience.items} items", hint=f"give {self.k} items or more")


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round gave; rewards are expected clicks per list, with 95% intervals over visits.

    Args:
        number: From 1.
        model: Version of what made the lists; `random` in the first, `popular` while nothing could be learned.
        trained: Why a training followed, empty where none did.
        shown, clicked: Events of the round.
        reward: Of the lists as shown.
        popular: Of lists of the most clicked items of the rounds before, on the same visits; of random ones in the first.
        best: Of the best lists there are.
        gain: Mean of reward minus popular over the same visits, with its interval (low, high).
        seconds: Wall clock.
        unlearnt: Why nothing could be learned though a training was due, such as no click; the next lists are popular items then, or those of the model before.
    """

    number: int
    model: str
    trained: str
    shown: int
    clicked: int
    reward: float
    popular: float
    best: float
    gain: tuple[float, float, float]
    seconds: float
    unlearnt: str = ""


def go_round(folder: Path, settings: LoopSettings | None = None, *, say: Callable[[Round], None] = lambda _: None) -> list[Round]:
    """Go round, and write everything into a folder: the store, the runs, the recommenders, `loop.json`. Goes on where it was stopped.

    Raises:
        RunError: The folder holds a loop of other settings.
    """
    settings = settings or LoopSettings()
    require_writable(folder, folder=True)
    folder.mkdir(parents=True, exist_ok=True)
    rounds, last = _resumed(folder, settings)
    store = open_store(folder / "events.duckdb")
    try:
        for number in range(len(rounds) + 1, settings.rounds + 1):
            found, last = _round(folder, settings, store, number, last)
            rounds.append(found)
            _write(folder, settings, rounds, last)
            say(found)
    finally:
        store.close()
    return rounds


def _round(folder: Path, settings: LoopSettings, store: EventStore, number: int, last: datetime | None) -> tuple[Round, datetime | None]:
    started = time.perf_counter()
    audience, k = settings.audience, settings.k
    now = _day(number)
    users = audience.visits(settings.visits, seed=settings.seed * 1000 + number)
    recommender = _newest(folder, number)
    before = _clicks_before(store, now, audience.items)
    lists, propensities, version = _lists(recommender, users, settings, number, before)
    clicks = audience.clicks(users, lists, seed=settings.seed * 1000 + number)
    _keep(store, users, lists, propensities, clicks, version, now, number)
    rewards = audience.rewards(users, lists)
    popular = audience.rewards(users, _popular(before, users, k, seed=number))
    new_rows = int((lists >= 0).sum())
    reason = settings.rule.due(now + timedelta(days=1), last=last, new_rows=new_rows)
    unlearnt = ""
    if reason and number < settings.rounds:
        unlearnt = _learn(folder, settings, store, number, now)
        last = last if unlearnt else now + timedelta(days=1)
    difference = rewards - popular
    error = 1.96 * float(difference.std(ddof=1)) / len(difference) ** 0.5
    mean = float(difference.mean())
    return Round(number=number, model=version, trained=reason if number < settings.rounds and not unlearnt else "", unlearnt=unlearnt, shown=new_rows, clicked=int(clicks.sum()),
                 reward=float(rewards.mean()), popular=float(popular.mean()), best=float(audience.rewards(users, audience.best(users, k)).mean()),
                 gain=(mean, mean - error, mean + error), seconds=round(time.perf_counter() - started, 1)), last


def _lists(recommender: Recommender | None, users: Ints, settings: LoopSettings, number: int, before: Ints) -> tuple[Ints, NDArray[np.float64], str]:
    """Item codes, the chance of each place's item, and who made them."""
    k = settings.k
    if recommender is None:  # what is clicked equally often comes in an order drawn anew for each visit: all items, as long as there was no click
        ties = np.random.default_rng([settings.seed, 3, number]).random((len(users), len(before)))
        order = np.lexsort((ties, np.broadcast_to(-before, ties.shape)), axis=1)[:, :k]
        _, group, sizes = np.unique(before, return_inverse=True, return_counts=True)
        return order, 1 / sizes[group][order], "popular" if before.any() else "random"
    lists, chances = np.full((len(users), k), -1, dtype=np.int64), np.ones((len(users), k))
    for start in range(0, len(users), 256):
        chosen = users[start:start + 256]
        # A user who comes twice in a round gets two draws: the seed is that of the visit.
        found = recommender.recommend([f"u{user}" for user in chosen.tolist()], k, seed=settings.seed * 10_000_000 + number * 100_000 + start)
        for row, slate in enumerate(found.slates):
            own = [int(str(item)[1:]) for item in found.ids(row)]
            lists[start + row, :len(own)] = own
            if slate.propensity is not None:
                chances[start + row, :len(own)] = slate.propensity
    return lists, chances, recommender.version


def _keep(store: EventStore, users: Ints, lists: Ints, chances: NDArray[np.float64], clicks: NDArray[np.bool_], version: str, now: datetime, number: int) -> None:
    events = []
    for visit, user in enumerate(users.tolist()):
        request, shown = f"r{number}-{visit}", now + timedelta(seconds=20 * visit)
        for place in range(lists.shape[1]):
            item = int(lists[visit, place])
            if item < 0:
                continue
            common: dict[str, Any] = {"user": f"u{user}", "item": f"i{item}", "request": request, "position": place + 1, "model_version": version, "surface": "loop"}
            events.append(Event(event_id=f"{request}-{place}", kind=EventKind.EXPOSURE, time=shown, received=shown, propensity=float(chances[visit, place]), **common))
            if clicks[visit, place]:
                later = shown + timedelta(seconds=5 + place)
                events.append(Event(event_id=f"{request}-{place}-c", kind=EventKind.CLICK, time=later, received=later, **common))
    for start in range(0, len(events), 20_000):
        store.append(events[start:start + 20_000])


def _learn(folder: Path, settings: LoopSettings, store: EventStore, number: int, now: datetime) -> str:
    """Labelled rows of all rounds, a run, and the recommender of the next round; gives why nothing could be learned, or nothing."""
    labelled = label_exposures(store, window_hours=1.0, kinds=["click"], as_of=now + timedelta(days=1))
    schema = labelled.schema
    table = folder / "rows" / f"round-{number:02d}.parquet"  # kept, so that the run can be diagnosed
    labelled.write(table)
    config = TrainingConfig(model=settings.model, maximum_epochs=settings.epochs, patience_epochs=2, table_learning_rate=0.05, batch_rows=512, test_share=0.05, validation_share=0.1,
                            seed=settings.seed + number, observe_every=0, histograms_every=0)
    place = folder / "runs" / f"round-{number:02d}"
    if (place / "run.json").exists():  # the loop was stopped behind this training, or within it
        shutil.rmtree(place)
    clicks = store.count(EventKind.CLICK)
    try:
        _train_and_build(folder, settings, number, table, schema, config, place)
    except (DataError, UsageError) as error:
        if clicks >= FEW_CLICKS:
            raise
        shutil.rmtree(place, ignore_errors=True)
        return f"{clicks:,} clicks so far ({error.message})"
    return ""


def _train_and_build(folder: Path, settings: LoopSettings, number: int, table: Path, schema: Schema, config: TrainingConfig, place: Path) -> None:
    source = read(table)
    run = train(source, schema, config, place, reference={"kind": "file", "path": str(table.resolve())}, on_finding=lambda _: None)
    rows = concatenate(list(source.batches([name for name in schema.columns if name in source.columns])))
    steps = (EpsilonGreedy(epsilon=settings.epsilon),) if settings.epsilon else ()
    recommenders = RecommenderSettings(sources=(TwoTowerSource(), ItemKNNSource(), PopularSource()), steps=steps, per_source=settings.audience.items,
                                       candidates=settings.audience.items)
    build_recommender(rows, run=run, settings=recommenders).save(_place(folder, number + 1), replace=True)


def _clicks_before(store: EventStore, now: datetime, items: int) -> Ints:
    counts = np.zeros(items, dtype=np.int64)
    if not store.count(EventKind.CLICK):
        return counts
    for batch in store.read(Window(end=now), kinds=[EventKind.CLICK]).batches(["item"]):
        found = batch.categories("item")
        np.add.at(counts, np.array([int(str(value)[1:]) for value in found.values], dtype=np.int64)[found.codes], 1)
    return counts


def _popular(clicks: Ints, users: Ints, k: int, *, seed: int) -> Ints:
    if not clicks.any():
        return np.argsort(np.random.default_rng([seed, 4]).random((len(users), len(clicks))), axis=1)[:, :k]
    return np.tile(np.argsort(-clicks, kind="stable")[:k], (len(users), 1))


def _newest(folder: Path, number: int) -> Recommender | None:
    """The recommender of this round: the last one that was built before it."""
    for earlier in range(number, 1, -1):
        if _place(folder, earlier).is_dir():
            return Recommender.load(_place(folder, earlier))
    return None


def _place(folder: Path, number: int) -> Path:
    return folder / "recommenders" / f"round-{number:02d}"


def _day(number: int) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number - 1)


def _resumed(folder: Path, settings: LoopSettings) -> tuple[list[Round], datetime | None]:
    path = folder / RECORD
    if not path.exists():
        return [], None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        rounds = [Round(**entry | {"gain": tuple(entry["gain"])}) for entry in note["rounds"]]
        same = note["settings"] == _plain(settings)
        last = None if note["last_training"] is None else datetime.fromisoformat(note["last_training"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}", hint="choose another folder") from None
    if not same:
        raise RunError(f"{folder} holds a loop of other settings", hint="choose another folder, or the same settings")
    return rounds[:settings.rounds], last


def _write(folder: Path, settings: LoopSettings, rounds: list[Round], last: datetime | None) -> None:
    content = {"format": "recspect-loop", "version": 1, "settings": _plain(settings), "rounds": [asdict(each) for each in rounds],
               "last_training": None if last is None else last.isoformat()}
    write_bytes(folder / RECORD, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _plain(settings: LoopSettings) -> Mapping[str, Any]:
    content = asdict(settings)
    del content["rounds"]  # a loop may be gone round more often later
    found: Mapping[str, Any] = json.loads(json.dumps(content))
    return found


__all__ = ["LoopSettings", "Round", "go_round"]
