"""The folder of a metric: every release of its weights and thresholds, every proposal and what became of it, in one JSON file that is whole or not there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from recspect.adapting.held_out import Policy
from recspect.adapting.posterior import Costs
from recspect.errors import RunError, UsageError
from recspect.experimenting.experiment import Floats
from recspect.files import write_bytes

FORMAT, VERSION = "recspect-metrics", 1
FILE = "metrics.json"
OPEN, ADOPTED, REJECTED = "open", "adopted", "rejected"


@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """A metric as it was, is or may be in use.

    Args:
        number: 1 for the first of its scene.
        scene: Which scene; empty for all.
        metrics: Names, the north star first.
        weights: The same as `shown` in the metrics' units, shape (metrics,).
        shown: Per standard error of the usual experiment, absolute values summing to 1 (less on the way between opposite signs), shape (metrics,).
        low, high: Interval of each of `shown` over draws of experiments; equal to it where nothing was drawn.
        chosen: Share of draws in which each has a weight.
        latent, noise: Covariances of true effects and of the usual experiment's errors, shape (metrics, metrics).
        costs: What mistakes cost.
        bar: Posterior mean that the usual experiment has to reach to be shipped.
        quality, alone: Proxy quality of the metric and of the best single one.
        cosine: Mean cosine of the weights over draws.
        experiments: Names of those fitted on; none of them can check it.
        evidence: How many experiments, the belief among them, the covariance rests on.
        adopted: When.
        by: `rule`, `person`, or `first`.
        why: In words.
    """

    number: int
    scene: str
    metrics: tuple[str, ...]
    weights: Floats
    shown: Floats
    low: Floats
    high: Floats
    chosen: Floats
    latent: Floats
    noise: Floats
    costs: Costs
    bar: float
    quality: float
    alone: float
    cosine: float
    experiments: tuple[str, ...]
    evidence: float
    adopted: datetime | None = None
    by: str = ""
    why: str = ""

    @property
    def policy(self) -> Policy:
        """What decides."""
        return Policy(weights=self.weights, latent=self.latent, costs=self.costs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal:
    """A change that may be made.

    Args:
        number: Over all scenes, from 1.
        made: When.
        release: What would be in use, one step of the way.
        share: Which share of the way to the fitted weights that step is, in (0, 1].
        passed: Whether the gate passes it.
        reasons: What the gate says, a sentence per condition.
        explanation: What changes and why, a sentence per metric.
        status: `open`, `adopted`, `rejected`.
        note: What the person who decided said.
    """

    number: int
    made: datetime
    release: Release
    share: float
    passed: bool
    reasons: tuple[str, ...]
    explanation: tuple[str, ...]
    status: str = OPEN
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything in the folder.

    Args:
        releases: In the order of adoption.
        proposals: In the order in which they were made.
    """

    releases: tuple[Release, ...] = ()
    proposals: tuple[Proposal, ...] = ()

    def current(self, scene: str = "") -> Release | None:
        """What is in use in a scene: its own, else that of all scenes."""
        for wanted in dict.fromkeys((scene, "")):
            found = [release for release in self.releases if release.scene == wanted]
            if found:
                return found[-1]
        return None

    def require_current(self, scene: str = "") -> Release:
        """The same.

        Raises:
            UsageError: Nothing is in use.
        """
        found = self.current(scene)
        if found is None:
            raise UsageError(f"no metric is in use{f' in scene {scene!r}' if scene else ''}", hint="recspect metrics fit METRICS.toml --experiments TABLE makes the first")
        return found

    def with_release(self, release: Release, *, by: str, why: str, now: datetime) -> History:
        """With one more release in use."""
        number = sum(one.scene == release.scene for one in self.releases) + 1
        return replace(self, releases=(*self.releases, replace(release, number=number, adopted=now, by=by, why=why)))

    def with_proposal(self, proposal: Proposal) -> History:
        """With one more proposal; an open one of the same scene is superseded."""
        earlier = tuple(replace(one, status=REJECTED, note="superseded by a newer proposal") if one.status == OPEN and one.release.scene == proposal.release.scene else one
                        for one in self.proposals)
        return replace(self, proposals=(*earlier, replace(proposal, number=len(earlier) + 1)))

    def open_proposal(self, number: int | None = None) -> Proposal:
        """The proposal of that number, or the newest open one.

        Raises:
            UsageError: There is none, or it was decided already.
        """
        found = [one for one in self.proposals if (one.number == number if number is not None else one.status == OPEN)]
        if not found:
            raise UsageError(f"there is no proposal {number}" if number is not None else "no proposal is open", hint="recspect metrics show lists them; recspect metrics fit makes one")
        if found[-1].status != OPEN:
            raise UsageError(f"proposal {number} was {found[-1].status} already", hint="recspect metrics fit makes a new one")
        return found[-1]

    def decided(self, number: int, *, adopt: bool, by: str, why: str, now: datetime) -> History:
        """With a proposal adopted (and its release in use) or rejected."""
        chosen = self.open_proposal(number)
        status = ADOPTED if adopt else REJECTED
        decided = replace(self, proposals=tuple(replace(one, status=status, note=why) if one.number == number else one for one in self.proposals))
        return decided.with_release(chosen.release, by=by, why=why or f"proposal {number}", now=now) if adopt else decided

    @classmethod
    def read(cls, folder: Path) -> History:
        """What lies in the folder; empty where nothing does.

        Raises:
            RunError: The file is damaged or of another version.
        """
        path = folder / FILE
        if not path.exists():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            _require_format(content, path)
            return cls(releases=tuple(_release(one) for one in content["releases"]), proposals=tuple(_proposal(one) for one in content["proposals"]))
        except RunError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} cannot be read as a history of metrics: {error!r:.200}", hint="restore it from a copy, or begin anew in another folder") from None

    def write(self, folder: Path) -> Path:
        """Write it to the folder, in one piece."""
        path = folder / FILE
        content = {"format": FORMAT, "version": VERSION, "releases": [_plain(one) for one in self.releases], "proposals": [_plain(one) for one in self.proposals]}
        write_bytes(path, f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode())
        return path


def _require_format(content: Mapping[str, Any], path: Path) -> None:
    if content["format"] != FORMAT or content["version"] != VERSION:
        raise RunError(f"{path} is {content['format']} version {content['version']}, this recspect reads {FORMAT} {VERSION}", hint="use the recspect that wrote it")


def now_utc() -> datetime:
    """The present moment, in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


_ARRAYS = ("weights", "shown", "low", "high", "chosen", "latent", "noise")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (Release, Proposal, Costs)):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _release(content: Mapping[str, Any]) -> Release:
    arrays = {name: np.array([[math.nan if x is None else x for x in row] if isinstance(row, list) else math.nan if row is None else row for row in content[name]], np.float64)
              for name in _ARRAYS}
    rest = {name: content[name] for name in Release.__dataclass_fields__ if name not in (*_ARRAYS, "metrics", "experiments", "costs", "adopted", "bar")}
    return Release(**rest, **arrays, metrics=tuple(content["metrics"]), experiments=tuple(content["experiments"]), costs=Costs(**content["costs"]),
                   bar=math.inf if content["bar"] is None else float(content["bar"]), adopted=None if content["adopted"] is None else datetime.fromisoformat(content["adopted"]))


def _proposal(content: Mapping[str, Any]) -> Proposal:
    return Proposal(number=content["number"], made=datetime.fromisoformat(content["made"]), release=_release(content["release"]), share=content["share"], passed=content["passed"],
                    reasons=tuple(content["reasons"]), explanation=tuple(content["explanation"]), status=content["status"], note=content["note"])


__all__ = ["ADOPTED", "FILE", "OPEN", "REJECTED", "History", "Proposal", "Release", "now_utc"]
