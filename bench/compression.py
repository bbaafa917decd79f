"""How small a DeepFM can be made, proven equal: KuaiRand-Pure (click, split by time), default settings, `recspect compress` with its default limit of .001 AUC.

Run: make bench NAME=compression. Each seed trains a model and compresses it; variants are chosen by training and validation rows and judged on test rows, with intervals that
hold for all variants of a seed at once. Last line: one JSON object; of several seeds the least favourable figure.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recspect.compressing.compress import Compression

if __name__ == "compression":  # Python 3.14 has a package of this name, and this folder stands before it on the path of benches and tests
    __path__ = [str(Path(sysconfig.get_paths()["stdlib"]) / "compression")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    from recspect.datasets import load

    dataset = load("kuairand-pure")
    found = [figures(dataset, seed) for seed in range(given.seeds)]
    chosen = [each for each in found if each["bytes_ratio"] is not None]
    print(json.dumps({
        "seeds": given.seeds, "proven_equal": len(chosen),
        "bytes_ratio": max((each["bytes_ratio"] for each in chosen), default=None), "auc_difference": min((each["auc_difference"] for each in chosen), default=None),
        "auc_difference_low": min((each["low"] for each in chosen), default=None), "auc_difference_high": min((each["high"] for each in chosen), default=None),
        "operations_ratio": max((each["operations_ratio"] for each in chosen), default=None),
        "by_seed": found}))


def figures(dataset: Any, seed: int) -> dict[str, Any]:
    from recspect.compressing.compress import compress
    from recspect.compressing.fitted import Fitted
    from recspect.compressing.writing import write
    from recspect.training.config import TrainingConfig
    from recspect.training.loop import train
    from recspect.training.run import Run

    with tempfile.TemporaryDirectory() as folder:
        run = train(dataset.source, dataset.schema, TrainingConfig(seed=seed, observe_every=0, histograms_every=0), Path(folder) / "run", reference={"kind": "dataset", "name": "kuairand-pure"})
        found = compress(run.folder)
        told = shown(found, seed)
        if found.chosen is None:
            return {"seed": seed, "auc": round(found.auc, 4), "bytes": found.before.bytes, "bytes_ratio": None}
        write(found, Path(folder) / "small")
        small = Fitted.of_run(Run.open(Path(folder) / "small"))
        assert small.held_bytes == found.chosen.cost.bytes  # as it is loaded again, not as it was computed
        on_disk = sum(file.stat().st_size for file in (Path(folder) / "small" / "checkpoints").glob("epoch-*.safetensors"))
    return {**told, "checkpoint_bytes": on_disk}


def shown(found: Compression, seed: int) -> dict[str, Any]:
    print(f"seed {seed}: AUC {found.auc:.4f}, {found.before.bytes:,} bytes, {found.before.operations:,.0f} operations per row")
    for variant in found.variants:
        verdict = "equal" if variant.equal else "worse" if variant.worse else "not told"
        print(f"  {variant.recipe.name:42s} {variant.cost.bytes / found.before.bytes:6.3f} of the bytes {variant.cost.operations / found.before.operations:6.2f} of the operations "
              f"{variant.cost.milliseconds:6.1f} ms {variant.difference.value:+.5f} ({variant.difference.low:+.5f} to {variant.difference.high:+.5f}), alone ({variant.alone.low:+.5f} to {variant.alone.high:+.5f}) {verdict}", flush=True)
    if found.chosen is None:
        return {}
    cost, difference = found.chosen.cost, found.chosen.difference
    return {"seed": seed, "auc": round(found.auc, 4), "bytes": found.before.bytes, "name": found.chosen.recipe.name, "bytes_ratio": round(cost.bytes / found.before.bytes, 4),
            "operations_ratio": round(cost.operations / found.before.operations, 3), "auc_difference": round(difference.value, 5), "low": round(float(difference.low or 0.0), 5),
            "high": round(float(difference.high or 0.0), 5), "low_alone": round(float(found.chosen.alone.low or 0.0), 5), "high_alone": round(float(found.chosen.alone.high or 0.0), 5),
            "rows": difference.n, "variants": len(found.variants)}


if __name__ == "__main__":
    main()
