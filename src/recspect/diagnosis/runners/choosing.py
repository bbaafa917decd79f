"""From what a person writes to a runner: `local`, `processes:4`, `torchrun`, `ray:auto`, `spark:local[2]`."""

from __future__ import annotations

import os
from pathlib import Path

from recspect.diagnosis.runners.kept import Kept
from recspect.diagnosis.runners.runner import Local, Runner
from recspect.errors import UsageError, listing

RUNNERS = ("local", "processes", "torchrun", "ray", "spark")


def runner_of(choice: str | Runner, *, keep: str | Path | None = None, memory: int | None = None) -> Runner:
    """The runner that is named, or the one that is given.

    Args:
        choice: A name, with what belongs to it after a colon: `processes:4` (how many), `ray:auto` or `ray:ray://head:10001` (the cluster),
            `spark:local[2]` or `spark:spark://host:7077` (the master).
        keep: Folder where totals of partitions are kept, so that a later run reads only what is missing; not for `local`, which cuts nothing.
        memory: Bytes that each process may hold.

    Raises:
        UsageError: No such runner, or what follows the colon makes no sense.
        MissingExtraError: Its library is not installed.

    Example:
        >>> runner_of("processes:4").workers
        4
    """
    if isinstance(choice, Runner):
        if keep is not None or memory is not None:
            raise UsageError("keep and memory are given beside a runner", hint="give them to the runner")
        return choice
    name, _, rest = choice.partition(":")
    kept = None if keep is None else Kept(Path(keep))
    cores = os.cpu_count() or 1
    if name == "local":
        if rest or kept is not None:
            raise UsageError(f"the local runner takes no {'folder of kept totals' if kept is not None else repr(rest)}",
                             hint="--runner processes:1 cuts the table into partitions, whose totals can be kept")
        return Local(memory=memory)
    if name == "processes":
        from recspect.diagnosis.runners.processes import Processes

        if rest and not (rest.isdigit() and int(rest)):
            raise UsageError(f"processes:{rest}, expected a number of processes", hint="--runner processes:4")
        return Processes(workers=int(rest) if rest else cores, keep=kept, memory=memory)
    if name == "torchrun":
        from recspect.diagnosis.runners.torchrun import torchrun_here

        if rest:
            raise UsageError(f"torchrun:{rest}, expected torchrun alone", hint="torchrun itself says how many: torchrun --nproc-per-node 4 ...")
        return torchrun_here(keep=kept, memory=memory)
    if name == "ray":
        from recspect.diagnosis.runners.ray_actors import ray_here

        return ray_here(rest, keep=kept, memory=memory)
    if name == "spark":
        from recspect.diagnosis.runners.spark import spark_here

        return spark_here(rest, keep=kept, memory=memory)
    raise UsageError(f"no runner {choice!r}", hint=f"runners: {listing(RUNNERS)}")


__all__ = ["RUNNERS", "runner_of"]
