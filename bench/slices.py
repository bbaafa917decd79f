"""The five worst slices of up to three fields of 100,000 rows x 10 columns, by SliceLine's score, against the sliceline package; and a planted slice in 60,000 rows.

    python bench/slices.py [--rows 100000] [--columns 10] [--rounds 3]

Last line: one JSON object.

- Columns of 4 categories of equal share; the errors are log losses of a model that is wrong on one crossing of two columns. (With 10 categories the package
  asked for 24 GiB and failed; ours took 0.05 s.) Both ways get the same
  integer codes, need 100 rows of a slice (0.1%), alpha 0.95, and give the five best of up to three terms. Each runs in a process of its own, on one thread, once to warm up
  (Numba compiles) and then `--rounds` times.
- `seconds`, `speedup_vs_sliceline`: median processor seconds of ours; theirs over ours.
- `peak_mib`, `peak_ratio_vs_sliceline`: how far the resident memory of the process rose above what it was with the data loaded; theirs over ours.
- `planted_rank`: place at which a slice of 720 of 60,000 rows with raised errors comes (10 columns of 10 categories; 1 is first), `planted_score`, and the greatest score
  of 20 healthy tables, `healthy_score`.

The package lies in .venvs/sliceline (sliceline 0.3.0 with Numba). Without it the two ratios are null. Stops where ours finds a smaller score than theirs at any of the five places.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np

from _timing import seconds

HERE = Path(__file__).resolve().parent
PEER = HERE.parent / ".venvs" / "sliceline"
LEAST, BEST, LEVELS, ALPHA = 100, 5, 3, .95


def table(rows, columns, seed=0):
    """(errors, codes): log losses of a model whose click probabilities are right but for one crossing."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (rows, columns))
    p = rng.beta(1.5, 8, rows)
    clicked = rng.random(rows) < p
    wrong = (codes[:, 1] == 2) & (codes[:, 4] == 1)
    said = np.where(wrong, p * 1e-6, p)
    return -np.log(np.where(clicked, said, 1 - said)), codes


def ours(errors, codes):
    from recspect.diagnosis.diagnostics.predictions.sliceline import worst_slices

    return worst_slices(errors, codes, least=LEAST, k=BEST, levels=LEVELS, alpha=ALPHA).scores.tolist()


def theirs(errors, codes):
    from sliceline.slicefinder import Slicefinder

    found = Slicefinder(alpha=ALPHA, k=BEST, max_l=LEVELS, min_sup=LEAST, verbose=False).fit(codes, errors)
    return [float(one["slice_score"]) for one in found.top_slices_statistics_]


def measured(way, rows, columns, rounds):
    """In the process of its own: seconds of each round, the rise of memory, the scores."""
    warnings.simplefilter("ignore")
    data = table(rows, columns)
    {"ours": ours, "theirs": theirs}[way](data[0][:2000], data[1][:2000])  # imports, and what Numba compiles
    before = resident()
    spent = []
    for _ in range(rounds + 1):
        taken, scores = seconds(lambda: {"ours": ours, "theirs": theirs}[way](*data))
        spent.append(taken)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": statistics.median(spent[1:]), "peak_mib": peak - before, "scores": scores}))


def resident():
    """MiB held now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def alone(way, options):
    path = f"{PEER}{os.pathsep}{HERE}" if way == "theirs" else str(HERE)
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run([sys.executable, __file__, way, *map(str, (options.rows, options.columns, options.rounds))], stdout=subprocess.PIPE, text=True, check=True,
                          env={**os.environ, **one, "PYTHONPATH": path})
    return json.loads(done.stdout.strip().splitlines()[-1])


def planted(rows=60_000, size=720, columns=10):
    """Rank and score of the planted slice, and the greatest score where nothing is planted."""
    from recspect.diagnosis.diagnostics.predictions.sliceline import worst_slices

    rng = np.random.default_rng(1)
    codes = rng.integers(0, 10, (rows, columns))
    codes[:, 3], codes[:, 7] = codes[:, 3] % 9, codes[:, 7] % 9  # no row is in the crossing of 9 and 9 but those that are put there
    inside = rng.choice(rows, size, replace=False)
    codes[inside, 3], codes[inside, 7] = 9, 9
    clicked = rng.random(rows) < .2
    errors = np.where(clicked, 1.6, .22) + rng.exponential(.02, rows)
    errors[inside] *= 10
    found = worst_slices(errors, codes, least=120, k=5, levels=LEVELS)
    rank = next((i + 1 for i, terms in enumerate(found.terms) if set(terms) <= {(3, 9), (7, 9)}), 0)
    healthy = [worst_slices(rng.permutation(errors), codes, least=120, k=1, levels=LEVELS).scores.max(initial=0.0) for _ in range(20)]
    return rank, float(found.scores[0]), float(max(healthy))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    mine = alone("ours", options)
    print("ours", mine)
    peer = alone("theirs", options) if (PEER / ".ready").is_file() else None
    print("sliceline", peer)
    if peer:
        assert len(mine["scores"]) >= len(peer["scores"]), (mine, peer)
        assert all(a >= b - 1e-9 for a, b in zip(mine["scores"], peer["scores"], strict=False)), (mine, peer)
    rank, score, healthy = planted()
    print(json.dumps({
        "seconds": round(mine["seconds"], 3), "peak_mib": round(mine["peak_mib"], 1),
        "speedup_vs_sliceline": round(peer["seconds"] / mine["seconds"], 1) if peer else None,
        "peak_ratio_vs_sliceline": round(peer["peak_mib"] / max(mine["peak_mib"], 1.0), 1) if peer else None,
        "sliceline_seconds": round(peer["seconds"], 2) if peer else None, "sliceline_peak_mib": round(peer["peak_mib"], 1) if peer else None,
        "largest_score_difference": float(f"{max(abs(a - b) for a, b in zip(mine['scores'], peer['scores'], strict=False)):.2g}") if peer and peer["scores"] else None,
        "planted_rank": rank, "planted_score": round(score, 3), "healthy_score": round(healthy, 3), "rows": options.rows, "columns": options.columns}))


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("ours", "theirs"):
        measured(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        main()
