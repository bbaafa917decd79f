"""Actors of a Ray cluster: each is given the model and the place of the table once, and reads and adds up one partition after another.

Ray starts an actor anew, on this machine or another, where it or its machine is lost, and gives it what it had not given back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from recspect.diagnosis.runners.processes import ATTEMPTS, packed
from recspect.diagnosis.runners.spread import Spread
from recspect.diagnosis.runners.work import Done, Task, Work, do
from recspect.errors import MissingExtraError, RunnerError, UsageError


@dataclass(frozen=True)
class Ray(Spread):
    """Actors of a Ray cluster; see `Spread`. The table must be where all machines can read it.

    Args:
        address: Of the cluster, such as `ray://head:10001` or `auto`; empty for the one that is connected, or that RAY_ADDRESS names, or one of
            this machine that is begun now.
        cpus: Processors of an actor.
    """

    address: str = ""
    cpus: float = 1.0
    name: str = "ray"

    def results(self, work: Work, tasks: Sequence[Task]) -> Iterator[Done]:
        ray = _ray()
        _connect(ray, self.address)
        content = ray.put(packed(work))
        actor = ray.remote(max_restarts=-1, max_task_retries=ATTEMPTS, num_cpus=self.cpus)(_Worker)
        actors = [actor.remote() for _ in range(min(self.workers, len(tasks)))]
        waiting = list(reversed(tasks))
        running: dict[Any, Any] = {}
        try:
            for one in actors:
                running[one.do.remote(content, waiting.pop())] = one
            while running:
                (ready,), _ = ray.wait(list(running), num_returns=1)
                one = running.pop(ready)
                if waiting:
                    running[one.do.remote(content, waiting.pop())] = one
                yield ray.get(ready)
        except ray.exceptions.RayError as error:
            raise RunnerError(f"Ray gave up after {ATTEMPTS} attempts: {str(error).strip().splitlines()[0]}",
                              hint="actors that take too much memory are ended: fewer on a machine (cpus), or a budget of memory to be told where") from error
        finally:
            for one in actors:
                ray.kill(one)


class _Worker:
    """What an actor is."""

    def do(self, content: bytes, task: Task) -> Done:
        return do(_unpacked(content), task)


@lru_cache(maxsize=1)
def _unpacked(content: bytes) -> Work:
    import pickle

    work = pickle.loads(content)  # noqa: S301 - from the driver, through Ray
    assert isinstance(work, Work)
    return work


def ray_here(address: str = "", **settings: Any) -> Ray:
    """As many actors as the cluster has processors. Connects, or begins a cluster of this machine, when first called.

    Args:
        address: As for `Ray`.
        settings: As for `Spread`, but for `workers`.

    Raises:
        UsageError: There is no such cluster.
        MissingExtraError: Ray is missing.
    """
    ray = _ray()
    _connect(ray, address)
    return Ray(workers=max(int(ray.cluster_resources().get("CPU", 1)), 1), address=address, **settings)


def _connect(ray: Any, address: str) -> None:
    if ray.is_initialized():
        return
    try:
        ray.init(address=address or None, logging_level=logging.WARNING, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"no Ray cluster at {address or 'the address that RAY_ADDRESS names'}: {str(error).splitlines()[0]}",
                         hint="ray start --head, and --runner ray:auto; or --runner ray alone for one on this machine") from None


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", extra="ray", purpose="Adding up on a Ray cluster") from None
    return ray


__all__ = ["Ray", "ray_here"]
