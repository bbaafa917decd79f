"""The processes that `torchrun` started, on one machine or many: each takes every n-th task, and all of them get all that came of them.

A process that dies ends them all; torchrun starts them anew (`--max-restarts`), and what was kept is not read again (`Spread.keep`).
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recspect.diagnosis.runners.spread import Spread
from recspect.diagnosis.runners.work import Done, Task, Work, do
from recspect.errors import MissingExtraError, RunnerError, UsageError

PATIENCE_MINUTES = 24 * 60
"""How long a process waits for the others: as long as their partitions take."""


@dataclass(frozen=True)
class Torchrun(Spread):
    """The ranks of a torchrun; `workers` is how many there are. Make it with `torchrun_here`."""

    rank: int = 0
    name: str = "torchrun"

    def results(self, work: Work, tasks: Sequence[Task]) -> Iterator[Done]:
        # Every rank has the same tasks, and reads those that were kept before any of them began.
        self._require_same(tasks)
        mine = []
        for task in tasks[self.rank::self.workers]:
            done = do(work, task)
            mine.append(done)
            if done.mistake is not None:  # told to all, or they would wait for this one
                break
            self.remember(work, task, done)
        heads = [json.dumps([done.number, done.rows, done.lost, done.mistake]).encode() for done in mine]
        tallies = self._gathered([done.tally for done in mine])
        told = sorted(((json.loads(text), content) for texts, ones in zip(self._gathered(heads), tallies, strict=True) for text, content in zip(texts, ones, strict=True)),
                      key=lambda one: (one[0][3] is None, one[0][0]))  # mistakes first, so that every process ends by the same one
        for (number, rows, lost, mistake), content in told:
            yield Done(number, content, rows, tuple((piece, reason) for piece, reason in lost), None if mistake is None else tuple(mistake))

    @property
    def first(self) -> bool:
        """Whether this process tells people and writes files."""
        return self.rank == 0

    def _require_same(self, tasks: Sequence[Task]) -> None:
        told = {texts[0] for texts in self._gathered([repr([(task.number, task.of, task.piece, task.share, sorted(task.without)) for task in tasks]).encode()])}
        if len(told) > 1:
            raise RunnerError("the processes do not see the same partitions", hint="give all of them the same files; a folder of kept totals must be one that all see")

    def _gathered(self, mine: Sequence[bytes]) -> list[list[bytes]]:
        """What every rank gives, by rank.

        Raises:
            RunnerError: Another rank is gone.
        """
        try:
            return self._all_gathered(mine)
        except RuntimeError as error:
            raise RunnerError(f"another process of this torchrun is gone: {str(error).splitlines()[0][:200]}",
                              hint="torchrun --max-restarts 3 starts them anew; with --keep only what is missing is read") from None

    def _all_gathered(self, mine: Sequence[bytes]) -> list[list[bytes]]:
        """As bytes, padded to the longest."""
        import torch
        from torch import distributed

        lengths = torch.tensor([len(mine), sum(map(len, mine))], dtype=torch.int64)
        every = [torch.zeros_like(lengths) for _ in range(self.workers)]
        distributed.all_gather(every, lengths)
        most, longest = int(max(one[0] for one in every)), int(max(one[1] for one in every))
        sizes = torch.zeros(max(most, 1), dtype=torch.int64)
        sizes[:len(mine)] = torch.tensor([len(one) for one in mine], dtype=torch.int64)
        content = torch.zeros(max(longest, 1), dtype=torch.uint8)
        joined = b"".join(mine)
        if joined:
            content[:len(joined)] = torch.frombuffer(bytearray(joined), dtype=torch.uint8)
        all_sizes = [torch.zeros_like(sizes) for _ in every]
        all_content = [torch.zeros_like(content) for _ in every]
        distributed.all_gather(all_sizes, sizes)
        distributed.all_gather(all_content, content)
        found = []
        for length, size, held in zip(every, all_sizes, all_content, strict=True):
            whole, at, parts = held.numpy().tobytes(), 0, []
            for one in size[:int(length[0])].tolist():
                parts.append(whole[at:at + one])
                at += one
            found.append(parts)
        return found


def torchrun_here(**settings: Any) -> Torchrun:
    """The runner of the torchrun that started this process. Joins the others when first called.

    Args:
        settings: As for `Spread`, but for `workers`.

    Raises:
        UsageError: No torchrun started this process, or the others cannot be reached.
        MissingExtraError: torch is missing.
    """
    try:
        from torch import distributed
    except ImportError:
        raise MissingExtraError("torch", extra="inspect", purpose="Adding up on the ranks of torchrun") from None
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise UsageError("this process was not started by torchrun", hint="torchrun --nproc-per-node 2 -m recspect.cli diagnose ... --runner torchrun")
    if not distributed.is_initialized():
        from datetime import timedelta

        patience = timedelta(minutes=PATIENCE_MINUTES)
        try:
            store, rank, world = next(distributed.rendezvous("env://", timeout=patience))
            # Anew for each start: torchrun's store may still hold where the processes of the last one were.
            store = distributed.PrefixStore(f"recspect-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
            distributed.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"the processes of this torchrun cannot reach each other: {error}", hint="start them all with one torchrun") from None
        atexit.register(lambda: distributed.destroy_process_group() if distributed.is_initialized() else None)
    if distributed.get_backend() != "gloo":
        raise UsageError(f"the processes talk by {distributed.get_backend()}, expected gloo", hint="totals are held in main memory: torch.distributed.init_process_group('gloo')")
    return Torchrun(workers=distributed.get_world_size(), rank=distributed.get_rank(), **settings)


__all__ = ["Torchrun", "torchrun_here"]
