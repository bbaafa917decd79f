"""Several processes that train one model, as `torchrun` starts them: each takes its share of every step, and gradients are added up.

The steps are those of one process with the same rows per step; only the order of additions differs. Gradients of embedding tables stay
sparse: what travels is the rows that a step touched. Every process then makes the same update, so all hold the same weights.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from recspect.errors import RunError, UsageError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: From 0; the first writes files and tells people.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """What torchrun has started, or one process alone. Joins the others when first called.

        Raises:
            UsageError: torchrun's variables are there, but the others cannot be reached.
        """
        if not distributed.is_available():
            return ALONE
        if not distributed.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
                return ALONE
            try:
                distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
            except (RuntimeError, ValueError) as error:
                raise UsageError(f"the processes of this training cannot reach each other: {error}", hint="start them all with one torchrun") from None
            atexit.register(_leave)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and tells people."""
        return self.rank == 0

    @property
    def devices(self) -> int | list[int]:
        """What Fabric is to train on: one device, on a machine of several graphics processors this process's own."""
        return [self.device.index] if self.device.type == "cuda" else 1

    @property
    def device(self) -> torch.device:
        """What the processes talk with."""
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if self.several and distributed.get_backend() == "nccl" else torch.device("cpu")

    def mean(self, values: Tensor, loss: Tensor, rows: int) -> float:
        """Mean of the values of all processes over the step's rows; NaN or infinite where one of their losses is."""
        pair = torch.stack([values.detach().sum().double(), loss.detach().double()]).to(self.device)
        distributed.all_reduce(pair)
        return (pair[0] / rows).item() if torch.isfinite(pair[1]) else pair[1].item()

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by the sum over all processes; to the bit the same in each."""
        if not self.several:
            return
        held = [parameter for parameter in parameters if parameter.grad is not None]
        dense = [parameter for parameter in held if not parameter.grad.is_sparse]  # type: ignore[union-attr]
        if dense:
            flat = torch.cat([parameter.grad.reshape(-1) for parameter in dense])  # type: ignore[union-attr]
            distributed.all_reduce(flat)
            for parameter, summed in zip(dense, flat.split([parameter.numel() for parameter in dense]), strict=True):
                parameter.grad = summed.reshape(parameter.shape)
        for parameter in held:
            if parameter.grad.is_sparse:  # type: ignore[union-attr]
                parameter.grad = self._added(parameter.grad.coalesce())  # type: ignore[union-attr]

    def told(self, content: Any) -> Any:
        """What the first process gives, in all of them: plain data, as JSON."""
        if not self.several:
            return content
        text = torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8).to(self.device) if self.first else torch.empty(0, dtype=torch.uint8)
        length = torch.tensor([len(text)], device=self.device)
        distributed.broadcast(length, 0)
        if not self.first:
            text = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        distributed.broadcast(text, 0)
        return json.loads(bytes(text.cpu().numpy()))

    def require_same(self, model: torch.nn.Module) -> None:
        """Make sure that all processes hold the same weights.

        Raises:
            RunError: They do not; the machines compute differently, or a process was given other data.
        """
        if not self.several:
            return
        sums = torch.stack([parameter.detach().double().sum() for parameter in model.parameters()]).to(self.device)
        lowest, highest = sums.clone(), sums.clone()
        distributed.all_reduce(lowest, distributed.ReduceOp.MIN)
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        if not torch.equal(lowest, highest):
            raise RunError("the processes of this training hold different weights", hint="give all of them the same files, settings and versions")

    def _added(self, gradient: Tensor) -> Tensor:
        """The sparse gradients of all processes as one; what travels is padded to the longest."""
        sizes = [torch.zeros(1, dtype=torch.int64, device=gradient.device) for _ in range(self.world)]
        distributed.all_gather(sizes, torch.tensor([gradient.values().shape[0]], device=gradient.device))
        longest = max(int(size) for size in sizes)
        rows = gradient.indices()[0].new_zeros(longest)
        values = gradient.values().new_zeros(longest, *gradient.values().shape[1:])
        rows[:gradient.indices().shape[1]] = gradient.indices()[0]
        values[:gradient.values().shape[0]] = gradient.values()
        all_rows = [torch.empty_like(rows) for _ in sizes]
        all_values = [torch.empty_like(values) for _ in sizes]
        distributed.all_gather(all_rows, rows)
        distributed.all_gather(all_values, values)
        joined = torch.cat([part[:int(size)] for part, size in zip(all_rows, sizes, strict=True)])
        summed = torch.cat([part[:int(size)] for part, size in zip(all_values, sizes, strict=True)])
        return torch.sparse_coo_tensor(joined.unsqueeze(0), summed, gradient.shape, check_invariants=False).coalesce()


ALONE = Ranks()
"""One process."""


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
