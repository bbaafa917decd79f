"""What watching a training costs: the default setting, the densest one, and TensorBoard histograms of all parameters at each step.

A DeepFM over 26 fields with a million ids in all, sparse gradients, 1,024 rows per step. Steps without and with each way of watching alternate in one
run on one thread; processor seconds, medians. What the default costs per step follows from its rhythm: a look every 50 steps, every fourth of them
thorough, the loss alone every 5 steps. Prints one JSON object as its last line.

    python bench/observation.py [--rows 1024] [--rounds 12]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from contextlib import nullcontext

import numpy as np
import torch
from torch.nn import functional

from recspect.diagnosis.observing import Observer
from recspect.features import Encoded, InputSize
from recspect.models import ModelConfig, build
from recspect.training.config import TrainingConfig
from recspect.training.epoch import make_optimisers

FIELDS, IDS, WIDTH = 26, 1_000_000, 16
CONFIG = ModelConfig(embedding_width=WIDTH, hidden=(256, 256, 256))
EVERY, THOROUGH, LOSS = 50, 4, 5
"""The default rhythm of an Observer: steps per look, looks per thorough look, steps per loss."""


class Training:
    """One model and its batches; a step can be made with any observer."""

    def __init__(self, rows: int, steps: int) -> None:
        torch.manual_seed(0)
        sizes = np.maximum(4, (np.geomspace(1, 60_000, FIELDS) * IDS / np.geomspace(1, 60_000, FIELDS).sum())).astype(int)
        self.names = [f"c{i}" for i in range(FIELDS)]
        self.model = build(CONFIG, [InputSize(name=name, form="id", rows=int(size)) for name, size in zip(self.names, sizes, strict=True)])
        self.optimisers = list(make_optimisers(self.model, TrainingConfig(model=CONFIG)).values())
        draw = np.random.default_rng(0)
        ids = np.minimum(np.exp(draw.random((rows * steps, FIELDS)) * np.log(sizes)), sizes - 1).astype(np.int64)
        self.ids, self.rows, self.position, self.steps = torch.from_numpy(ids), rows, 0, steps
        self.label = torch.from_numpy((draw.random(len(ids)) < 0.25).astype(np.float32))
        self.encoded = Encoded({name: self.ids[:, i].contiguous() for i, name in enumerate(self.names)}, {}, len(ids))
        self.total_ids = int(sizes.sum())

    def step(self, observer: Observer | None = None, after=None) -> float:
        """One training step; gives its processor seconds."""
        start = self.position % self.steps * self.rows
        self.position += 1
        began = time.process_time()
        inputs = self.encoded.take(torch.arange(start, start + self.rows)).inputs
        label = self.label[start:start + self.rows]
        with observer.step() if observer is not None else nullcontext() as look:
            losses = functional.binary_cross_entropy_with_logits(self.model(inputs), label, reduction="none")
            loss = losses.mean()
            if look is not None:
                look.before_backward(losses)
            for optimiser in self.optimisers:
                optimiser.zero_grad()
            loss.backward()
            if look is not None:
                look.before_update(loss, losses if look.sampled else None)
            for optimiser in self.optimisers:
                optimiser.step()
        if after is not None:
            after()
        return time.process_time() - began


def with_loss(training: Training, observer: Observer) -> float:
    """A step of which the observer records the loss only: its number is a multiple of LOSS and of nothing else."""
    while (observer.steps_done + 1) % LOSS or (observer.steps_done + 1) % EVERY == 0:
        with observer.step():  # an empty step moves the count on
            pass
    return training.step(observer)


def unsampled(observer: Observer, times: int = 10_000) -> float:
    """Processor seconds of what the observer does in a step of which it records nothing; too little to be seen beside a training step."""
    loss, counted, began = torch.zeros(()), 0, time.process_time()
    while counted < times:
        observer.steps_done = 1  # the next step is number 2, which is neither a look nor a loss
        with observer.step() as look:
            look.before_backward(None)
            look.before_update(loss)
        counted += 1
    return (time.process_time() - began) / times


def tensorboard(model: torch.nn.Module, folder: str):
    """Writes histograms of all parameters and gradients, as `add_histogram` is used in most loops."""
    from torch.utils.tensorboard import SummaryWriter

    writer, at = SummaryWriter(folder), iter(range(1_000_000))

    def write() -> None:
        step = next(at)
        for name, parameter in model.named_parameters():
            writer.add_histogram(f"weight/{name}", parameter.detach(), step)
            if parameter.grad is not None:
                gradient = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
                writer.add_histogram(f"gradient/{name}", gradient, step)

    return write


def wandb_watch(training: Training, folder: str, rounds: int) -> tuple[float | None, str]:
    """(processor seconds of a step under `wandb.watch(log="all", log_freq=1)`, ""), or (None, why there is no such figure)."""
    try:
        import wandb
    except ImportError:
        return None, "wandb is not installed"
    run = wandb.init(mode="offline", dir=folder, settings=wandb.Settings(silent=True))
    try:
        run.watch(training.model, log="all", log_freq=1)
        times = [training.step(after=lambda: run.log({"loss": 0.0})) for _ in range(rounds)]
        return statistics.median(times), ""
    except Exception as error:  # a training that its watching stops: that is the figure
        return None, f"wandb.watch stopped the training: {type(error).__name__}: {str(error)[:120]}"
    finally:
        run.unwatch(training.model)
        run.finish()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1024, help="rows per step")
    options.add_argument("--rounds", type=int, default=12, help="measured rounds")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    training = Training(chosen.rows, steps=64)
    with tempfile.TemporaryDirectory() as folder:
        default = Observer(training.model, every=EVERY, on_finding=print)
        looks = Observer(training.model, every=1, thorough_every=0)
        thorough = Observer(training.model, every=1, thorough_every=1)
        dense = Observer(training.model, every=1, thorough_every=1, histograms_every=1)
        write = tensorboard(training.model, folder)
        for _ in range(5):
            training.step()
        for observer in (default, looks, thorough, dense):
            training.step(observer)
        ways = {"loss": lambda: with_loss(training, default),
                "look": lambda: training.step(looks), "thorough": lambda: training.step(thorough), "dense": lambda: training.step(dense)}
        times: dict[str, list[float]] = {name: [] for name in ("plain", *ways, "tensorboard")}
        for number in range(chosen.rounds):
            for name, way in ways.items():
                times["plain"].append(training.step())
                times[name].append(way())
            if number % 4 == 0:
                times["tensorboard"].append(training.step(after=write))
        for observer in (default, looks, thorough, dense):
            if observer.failure:
                raise SystemExit(f"watching failed, so that nothing was measured: {observer.failure}")
        wandb, why = wandb_watch(training, folder, max(2, chosen.rounds // 4))
    plain = statistics.median(times["plain"])
    extra = {name: statistics.median(values) - plain for name, values in times.items()} | {"unsampled": unsampled(default)}
    amortised = ((1 - 1 / THOROUGH) * extra["look"] + extra["thorough"] / THOROUGH) / EVERY + max(0.0, extra["loss"]) * (1 / LOSS - 1 / EVERY)
    amortised += extra["unsampled"] * (1 - 1 / LOSS)
    print(f"{training.total_ids:,} ids, {chosen.rows} rows per step, one thread; a step takes {plain * 1e3:.1f} ms; on top of it: "
          + ", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in extra.items() if name != "plain"))
    print(json.dumps({
        "overhead_percent": round(100 * amortised / plain, 2), "overhead_dense_percent": round(100 * extra["dense"] / plain, 1),
        "wandb_watch_percent": None if wandb is None else round(100 * (wandb - plain) / plain), "wandb_watch_note": why,
        "tensorboard_percent": round(100 * extra["tensorboard"] / plain), "look_percent": round(100 * extra["look"] / plain, 1),
        "thorough_look_percent": round(100 * extra["thorough"] / plain, 1), "step_ms": round(plain * 1e3, 2), "ids": training.total_ids,
        "rows_per_step": chosen.rows, "threads": 1, "torch": torch.__version__, "machine": platform.machine(),
    }))


if __name__ == "__main__":
    main()
