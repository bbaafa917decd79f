"""Pictures of the weights as they were saved: how far each has moved since the first state, and its distribution then and now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recspect.dashboard.embedding_rows import SavedState
from recspect.diagnosis.evidence import Curve, DistributionPair, Evidence, Line, RankedTable
from recspect.errors import RunError

STAGE = "training"
MOST_NUMBERS = 65_536
"""Numbers of one weight that are looked at, from its first rows on at equal distances."""
MOST_WEIGHTS, MOST_DISTRIBUTIONS, MOST_LINES = 40, 6, 8
BINS = 24


def pictures(states: Sequence[SavedState], number: int) -> list[Evidence]:
    """What the weights are at one of the states, beside the first.

    Args:
        states: First to last.
        number: Which, from 0.

    Raises:
        RunError: A state cannot be read.
    """
    if not states:
        return []
    first, now = read_weights(states[0]), read_weights(states[number])
    before = read_weights(states[number - 1]) if number else first
    shared = [name for name in now if name in first and first[name].shape == now[name].shape]
    moved = {name: _distance(now[name], first[name]) for name in shared}
    ranked = sorted(shared, key=lambda name: -moved[name])[:MOST_WEIGHTS]
    table = RankedTable(title="How far has each weight moved?", stage=STAGE, columns=("weight", "numbers looked at", "root mean square", "moved since the first state", "moved since the state before", "share of zeros"),
                        rows=tuple((name, now[name].size, _round(_size(now[name])), _round(moved[name]), _round(_distance(now[name], before[name])), _round(float((now[name] == 0).mean()))) for name in ranked),
                        caption=f"{states[number].name} beside {states[0].name}; moved: norm of the difference over the norm of the first state")
    return [table, *([course(states, ranked[:MOST_LINES])] if len(states) > 2 else []),
            *(_pair(name, now[name], first[name], states[number], states[0]) for name in ranked[:MOST_DISTRIBUTIONS])]


def course(states: Sequence[SavedState], names: Sequence[str]) -> Curve:
    """How far weights had moved at each state."""
    first = read_weights(states[0], names)
    each = [read_weights(state, names) for state in states]
    x = tuple(float(k + 1) for k in range(len(states)))
    lines = tuple(Line(name=name, x=x, y=tuple(_distance(one[name], first[name]) for one in each)) for name in names)
    return Curve(title="When did the weights move?", x_title=f"saved state: {states[0].name} to {states[-1].name}", y_title="distance to the first state / its norm", lines=lines, stage=STAGE,
                 caption=f"{len(states)} states: {', '.join(state.name for state in states[:12])}{' ...' if len(states) > 12 else ''}")


def read_weights(state: SavedState, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Weights of a state by name, each as up to `MOST_NUMBERS` numbers.

    Raises:
        RunError: It is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    found = {}
    try:
        with safe_open(state.path, framework="numpy") as file:
            for name in sorted(file.keys()) if names is None else names:
                part = file.get_slice(name)
                shape = part.get_shape()
                if part.get_dtype() not in ("F64", "F32", "F16"):
                    continue
                if not shape:
                    found[name] = np.asarray(file.get_tensor(name), dtype=np.float64).reshape(-1)
                    continue
                width = int(np.prod(shape[1:], dtype=np.int64))
                rows = max(1, MOST_NUMBERS // max(1, width))
                if shape[0] <= rows:
                    values = part[:]
                else:  # stretches, so that no whole table is read
                    stretches = min(16, rows)
                    length = rows // stretches
                    values = np.concatenate([part[int(at):int(at) + length] for at in np.linspace(0, shape[0] - length, stretches)])
                found[name] = np.asarray(values, dtype=np.float64).reshape(-1)
    except FileNotFoundError:
        raise RunError(f"{state.path.name} is gone", hint="load the page again") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise RunError(f"{state.path.name} is damaged: {error}", hint="look at another state") from None
    return found


def _pair(name: str, now: np.ndarray, first: np.ndarray, state: SavedState, start: SavedState) -> DistributionPair:
    both = np.concatenate([now, first])
    both = both[np.isfinite(both)]
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)

    def shares(values: np.ndarray) -> tuple[float, ...]:
        counts = np.histogram(values[np.isfinite(values)], edges)[0]
        return tuple((counts / max(1, counts.sum())).tolist())

    return DistributionPair(title=f"How are the numbers of {name} distributed?", x_title="weight", bins=tuple(f"{edge:.3g}" for edge in edges[:-1]), target=shares(now), reference=shares(first),
                            target_name=state.name, reference_name=start.name if start.name != state.name else f"{start.name} (the first)", stage=STAGE, caption=f"{now.size:,} numbers")


def _distance(now: np.ndarray, first: np.ndarray) -> float:
    length = float(np.linalg.norm(first))
    return float(np.linalg.norm(now - first)) / length if length > 0 else float(np.linalg.norm(now - first))


def _size(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0


def _round(value: float) -> float:
    return float(f"{value:.4g}")


__all__ = ["course", "pictures", "read_weights"]
