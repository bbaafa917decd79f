"""TensorBoard logs of any training, as rows of steps.parquet, so that they can be diagnosed.

Names differ from project to project, so tags are understood by their words: `Loss/train`, `train_loss_step` and Keras's
`train/epoch_loss` are all the training loss; `grad_norm`, `gradients/fc1.weight` and a histogram `fc1.weight.grad` are gradient
norms (of a histogram, from its sum of squares). What is not understood is kept under its own name. `names` overrides.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from recspect.errors import DataError, UsageError, listing
from recspect.sinks.event_files import Condition, HistogramPoint, Point, ScalarPoint, points_of
from recspect.sinks.sink import WHOLE_MODEL

PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation", "eval": "validation",
         "dev": "validation", "test": "test"}
FILLERS = frozenset({"step", "epoch", "batch", "iter", "iteration", "iterations", "total", "mean", "avg", "average", "running", "global", "evaluation",
                     "vs", "per", "by", "value"})
LOSSES = frozenset({"loss", "bce", "logloss", "log", "nll", "cross", "entropy", "binary", "objective"})
GRADIENT = frozenset({"grad", "grads", "gradient", "gradients"})
OWN = ("gradient_norm", "weight_norm", "update_ratio", "touched_rows", "nonfinite", "learning_rate", "activation_mean", "activation_deviation",
       "activation_zero_share", "activation_absolute_mean", "activation_low", "activation_median", "activation_high", "dead_share", "saturated_share",
       "support_rows", "batch_rows", "gradient_square", "gradient_variance", "noise_scale", "effective_rank_share", "fluctuation_ratio",
       "layer_auc/train", "layer_auc/held_out", "fluctuation/train", "fluctuation/held_out")
"""Series that recspect itself writes, as `<series>/<place>` (docs/run-directory.md)."""

Series = tuple[str, str]
"""(series, place)."""


@dataclass
class Log:
    """What a log holds.

    Args:
        steps: Columns step, epoch, series, place, value, as in steps.parquet.
        understood: Series and place of each tag that was taken for one that diagnostics know.
        others: Tags kept under their own names.
        notes: What could not be read, in sentences.
        files: Event files read.
    """

    steps: pa.Table
    understood: dict[str, Series] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0


def read_events(path: str | Path, *, names: Mapping[str, str] | None = None) -> Log:
    """One run's event files.

    Args:
        path: An event file, or the folder of one run (with subfolders such as `train` and `validation`).
        names: Tag to series, or series and place with a colon, where the words mislead: {"criterion": "loss/train",
            "norms/encoder": "gradient_norm:encoder"}.

    Raises:
        DataError: No event file, or none that can be read.
        UsageError: The folder holds several runs.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*.tfevents.*") if file.is_file()) if path.is_dir() else []
    if not files:
        raise DataError(f"no event files (*.tfevents.*) at {path}", hint="give the folder that TensorBoard's --logdir names, or one run in it")
    root = path.parent if path.is_file() else path
    _one_run(root, files)
    log = Log(steps=pa.table({}), files=len(files))
    lines = _lines(root, files, log)
    if not lines:
        raise DataError(f"nothing could be read from {len(files)} event files at {path}: no scalar and no histogram. {' '.join(log.notes)}".strip())
    log.steps = _table(lines, names or {}, log)
    return log


def _one_run(root: Path, files: list[Path]) -> None:
    """Refuse a folder of several runs. A subfolder belongs to a run above it, or is a part (train, validation) of its parent."""
    folders = sorted({file.parent for file in files})
    runs: set[Path] = set()
    for folder in folders:
        above = next((parent for parent in folder.parents if parent in runs), None)
        run = above or (folder.parent if folder != root and folder.name.lower() in PARTS else folder)
        runs.add(run)
    if len(runs) > 1:
        raise UsageError(f"{root} holds {len(runs)} runs: {listing(str(run.relative_to(root)) for run in sorted(runs))}", hint="give the folder of one of them")


def _lines(root: Path, files: list[Path], log: Log) -> dict[tuple[str, str], list[Point]]:
    """(folder within the run, tag) to its points. A training that was started again replaces the steps that it repeats."""
    lines: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for file in files:
        condition = Condition()
        fresh: dict[tuple[str, str], list[Point]] = defaultdict(list)
        folder = file.parent.relative_to(root).as_posix().removeprefix(".")
        for point in points_of(file, condition):
            fresh[folder, point.tag].append(point)
        for key, points in fresh.items():
            first = min(point.step for point in points)
            lines[key] = [point for point in lines[key] if point.step < first] + points
        if condition.cut_at is not None:
            log.notes.append(f"{file.name} breaks off at byte {condition.cut_at:,}, after {condition.records:,} records.")
        if condition.damaged:
            log.notes.append(f"{condition.damaged:,} damaged records of {file.name} were passed over.")
    return dict(lines)


def _table(lines: Mapping[tuple[str, str], list[Point]], names: Mapping[str, str], log: Log) -> pa.Table:
    chosen: dict[Series, tuple[str, list[tuple[int, float]]]] = {}
    rest: list[tuple[str, list[tuple[int, float]]]] = []
    for (folder, tag), points in sorted(lines.items(), key=lambda item: -sum(isinstance(p, ScalarPoint) for p in item[1])):
        shown = f"{folder}/{tag}" if folder else tag
        for series, values in _understood(folder, tag, points, names):
            if series is None or series in chosen:
                rest.append((shown, values))
            else:  # of two tags for one series (train_loss_step, train_loss_epoch) that with more points, scalars before histograms
                chosen[series] = (shown, values)
                log.understood[shown] = series
    _only_loss(chosen, rest, log)
    log.others = sorted(name for name, _ in rest)
    rows = [(step, series, place, value) for (series, place), (_, values) in chosen.items() for step, value in values]
    rows += [(step, name, "", value) for name, values in rest for step, value in values]
    rows.sort(key=lambda row: row[0])
    steps, series_names, places, numbers = zip(*rows, strict=True)
    return pa.table({"step": pa.array(steps, pa.int64()), "epoch": pa.array(np.ones(len(rows)), pa.int32()), "series": pa.array(series_names, pa.string()),
                     "place": pa.array(places, pa.string()), "value": pa.array(numbers, pa.float64())})


def _understood(folder: str, tag: str, points: list[Point], names: Mapping[str, str]) -> Iterator[tuple[Series | None, list[tuple[int, float]]]]:
    scalars = [(p.step, p.value) for p in points if isinstance(p, ScalarPoint)]
    histograms = [p for p in points if isinstance(p, HistogramPoint)]
    if tag in names:
        series, _, place = names[tag].partition(":")
        yield (series, place), scalars or [(p.step, float(np.sqrt(p.squares))) for p in histograms]
        return
    if scalars:
        yield series_of(tag, folder), scalars
    if histograms:
        yield from _of_histograms(tag, histograms)


def _of_histograms(tag: str, points: list[HistogramPoint]) -> Iterator[tuple[Series | None, list[tuple[int, float]]]]:
    head, _, rest = tag.partition("/")
    norms = [(p.step, float(np.sqrt(p.squares))) for p in points]
    place = rest if _words(head) & GRADIENT and rest else re.sub(r"[./](grads?|gradients?)$", "", tag)
    if _words(head) & GRADIENT or place != tag:
        yield ("gradient_norm", place), norms
    elif _words(head) & {"activation", "activations"} and rest:
        yield ("activation_mean", rest), [(p.step, p.total / p.count if p.count else float("nan")) for p in points]
    elif _words(head) & {"weight", "weights", "param", "params", "parameter", "parameters"} and rest:
        yield ("weight_norm", rest), norms
    elif re.search(r"(^|[./_])(weight|bias)$", tag):
        yield ("weight_norm", tag), norms


def series_of(tag: str, folder: str = "") -> Series | None:
    """Series and place that a scalar's tag means, None where its words do not tell."""
    for own in OWN:
        rest = tag.removeprefix(f"{own}/")
        if rest and rest != tag:
            return own, "" if rest == WHOLE_MODEL else rest
    folder_words = _words(folder)
    part = next((PARTS[word] for word in (*_ordered(tag), *folder_words) if word in PARTS), "train")
    words = (_words(tag) | (folder_words if folder_words & LOSSES else set())) - PARTS.keys() - FILLERS
    words = {word for word in words if not word.isdigit()}
    if words and words <= LOSSES and words & {"loss", "bce", "logloss", "nll", "objective", "entropy"}:
        return f"loss/{part}", ""
    if words in ({"auc"}, {"rmse"}):
        return f"{next(iter(words))}/{part}", ""
    segments = [segment for segment in tag.split("/") if not _words(segment) <= PARTS.keys()] or [tag]
    if words & GRADIENT and "norm" in words:
        named = [segment for segment in segments if not (_words(segment) & GRADIENT)]
        return "gradient_norm", "" if not named or _words("/".join(named)) <= FILLERS else "/".join(named)
    if "lr" in words or {"learning", "rate"} <= words:
        return "learning_rate", "/".join(segments[1:])
    return None


def _only_loss(chosen: dict[Series, tuple[str, list[tuple[int, float]]]], rest: list[tuple[str, list[tuple[int, float]]]], log: Log) -> None:
    """Where no tag is plainly the training loss but just one speaks of a loss and of no other part, it is meant."""
    if ("loss/train", "") in chosen:
        return
    found = [entry for entry in rest if "loss" in _words(entry[0]) and not {PARTS.get(word) for word in _words(entry[0])} & {"validation", "test"}]
    if len(found) == 1 and Counter(name for name, _ in rest)[found[0][0]] == 1:
        rest.remove(found[0])
        chosen["loss/train", ""] = found[0]
        log.understood[found[0][0]] = ("loss/train", "")


def _ordered(text: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]


def _words(text: str) -> set[str]:
    return set(_ordered(text))
