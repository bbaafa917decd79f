"""Training speed: our fused tables with sparse gradients against a list of nn.Embedding with dense gradients and Adam.

Both are the same DeepFM (checked: equal weights give equal losses) over 26 categorical fields with 4.7 million ids in
all, distributed over the fields like Criteo's, on random ids with a skew like real ones. Steps of both alternate in one
run, and medians are compared. Prints one JSON object as its last line.

    python bench/training.py [--rows 4096] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from recspect.features import Encoded, InputSize
from recspect.models import ModelConfig, build
from recspect.training.config import TrainingConfig
from recspect.training.epoch import make_optimisers

# Criteo's 26 cardinalities after rare ids were merged, scaled to 4.7 million in all.
CARDINALITIES = [1_460, 583, 1_260_000, 640_000, 305, 24, 12_517, 633, 3, 93_145, 5_683, 1_100_000, 3_194, 27, 14_992, 780_000,
                 10, 5_652, 2_173, 4, 700_000, 18, 15, 70_000, 105, 15_572]
WIDTH = 16
CONFIG = ModelConfig(embedding_width=WIDTH, hidden=(256, 256, 256))


class ListedDeepFM(nn.Module):
    """The same equation as recspect's DeepFM, as it is usually written: one nn.Embedding per field, dense gradients."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__()
        self.vectors = nn.ModuleList(nn.Embedding(count, WIDTH) for count in rows)
        self.weights = nn.ModuleList(nn.Embedding(count, 1) for count in rows)
        self.bias = nn.Parameter(torch.zeros(()))
        layers: list[nn.Module] = []
        for inputs, outputs in zip([len(rows) * WIDTH, *CONFIG.hidden], CONFIG.hidden, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(CONFIG.hidden[-1], 1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        vectors = torch.stack([table(ids[:, i]) for i, table in enumerate(self.vectors)], dim=1)
        first = torch.cat([table(ids[:, i]) for i, table in enumerate(self.weights)], dim=1).sum(dim=1)
        pairs = (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1) / 2
        return self.bias + first + pairs + self.mlp(vectors.flatten(1)).squeeze(1)

    @torch.no_grad()
    def copy(self, ours: nn.Module, rows: list[int]) -> None:
        """Take the weights of recspect's model."""
        for mine, theirs in ((self.vectors, ours.vectors), (self.weights, ours.weights)):
            for table, part in zip(mine, theirs.table.weight.split(rows), strict=True):
                table.weight.copy_(part)
        self.mlp.load_state_dict(ours.mlp.state_dict())


def skewed_ids(rows: int, cardinalities: list[int], draw: np.random.Generator) -> np.ndarray:
    """Ids whose frequency falls like 1 / rank, (rows, fields)."""
    uniform = draw.random((rows, len(cardinalities)))
    return np.minimum(np.exp(uniform * np.log(cardinalities)), np.array(cardinalities) - 1).astype(np.int64)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=4096, help="rows per step")
    options.add_argument("--rounds", type=int, default=5, help="measured rounds (one step of the peer, three of ours each)")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names = [f"c{i}" for i in range(len(CARDINALITIES))]
    ours = build(CONFIG, [InputSize(name=name, form="id", rows=count) for name, count in zip(names, CARDINALITIES, strict=True)])
    peer = ListedDeepFM(CARDINALITIES)
    peer.copy(ours, CARDINALITIES)
    our_optimisers = list(make_optimisers(ours, TrainingConfig(model=CONFIG)).values())
    peer_optimiser = torch.optim.Adam(peer.parameters(), lr=1e-3)
    fused_peer_optimiser = torch.optim.Adam(peer.parameters(), lr=1e-3, fused=True)

    draw = np.random.default_rng(0)
    steps = 3 * chosen.rounds + 6
    ids = torch.from_numpy(skewed_ids(chosen.rows * steps, CARDINALITIES, draw))
    label = torch.from_numpy((draw.random(len(ids)) < 0.25).astype(np.float32))
    encoded = Encoded({name: ids[:, i].contiguous() for i, name in enumerate(names)}, {}, len(ids))
    position = iter(range(steps))

    def batch() -> slice:
        start = next(position) * chosen.rows
        return slice(start, start + chosen.rows)

    def our_step() -> float:
        rows = batch()
        inputs = encoded.take(torch.arange(rows.start, rows.stop)).inputs  # as in training: a gather per batch
        for optimiser in our_optimisers:
            optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(ours(inputs), label[rows])
        loss.backward()
        for optimiser in our_optimisers:
            optimiser.step()
        return loss.item()

    first = batch()

    def peer_step(optimiser: torch.optim.Optimizer, rows: slice = first) -> float:
        optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(peer(ids[rows]), label[rows])
        loss.backward()
        optimiser.step()
        return loss.item()

    with torch.no_grad():
        one = ours(encoded.slice(first.start, first.stop).inputs)
        other = peer(ids[first])
    difference = float((one - other).abs().max())
    if difference > 1e-5:
        raise SystemExit(f"the two networks differ by {difference} at equal weights: nothing to compare")
    print(f"{sum(CARDINALITIES):,} ids, {len(names)} fields, width {WIDTH}, {chosen.rows} rows per step, 1 thread; "
          f"largest difference of the logits at equal weights {difference:.1e}")

    def seconds(step, *arguments) -> float:
        started = time.process_time()
        step(*arguments)
        return time.process_time() - started

    our_step()
    peer_step(peer_optimiser)
    # The fused form is timed too, and told: it is the best that dense Adam can do. Its state adds 0.6 GB.
    peer_step(fused_peer_optimiser)
    our_times, peer_times, fused_times = [], [], []
    for number in range(1, chosen.rounds + 1):
        our_times += [seconds(our_step) for _ in range(3)]
        peer_times.append(seconds(peer_step, peer_optimiser))
        fused_times.append(seconds(peer_step, fused_peer_optimiser))
        print(f"round {number}: ours {statistics.median(our_times[-3:]) * 1e3:.0f} ms, dense Adam {peer_times[-1] * 1e3:.0f} ms, "
              f"fused dense Adam {fused_times[-1] * 1e3:.0f} ms per step", flush=True)
    mine, theirs, fused = (statistics.median(times) for times in (our_times, peer_times, fused_times))
    print(json.dumps({
        "speedup_vs_dense_adam": round(theirs / mine, 2), "speedup_vs_fused_dense_adam": round(fused / mine, 2),
        "rows_per_cpu_second": round(chosen.rows / mine), "rows_per_cpu_second_dense_adam": round(chosen.rows / theirs),
        "rows_per_cpu_second_fused_dense_adam": round(chosen.rows / fused),
        "ids": sum(CARDINALITIES), "fields": len(names), "width": WIDTH, "rows_per_step": chosen.rows, "threads": 1,
        "difference_at_equal_weights": difference, "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "torch": torch.__version__, "machine": platform.machine(),
    }))


if __name__ == "__main__":
    main()
