"""Health of 26 embedding tables with 50 million parameters, against torch.linalg.svdvals and WeightWatcher.

Tables are 16 wide and as many rows long as the fields of Criteo have values, those beyond a million shrunk by one factor; half of them share a mean vector as long as
the spread, two have collapsed to rank 2 with a rest of 1e-3. Ours gives singular values, effective rank and information abundance, both as they are and less the mean,
norms, mean cosine and zero rows, in one pass; `svdvals` gives the singular values as they are, and nothing else (`same_figures` adds what it takes to give all
that ours does); WeightWatcher's `analyze` (told to accept few singular values and many rows, which it leaves out by default) those of a float64 copy, with
figures and a power-law fit of them. Processor seconds of one thread, alternating, medians; memory is the most that a process of its own held beyond the tables.
Last line: one JSON object.

Stops where ours are not those of a float64 SVD: `largest_error` is the largest relative error of an effective rank or information abundance (at most 1e-6), and
`singular_value_error` the largest error of a singular value, as a share of the largest one of the table (at most 1e-8); `svd_error` is the peer's, in float32.
"""

import contextlib
import io
import json
import multiprocessing
import resource
import statistics
import sys
import warnings

import numpy as np
import torch
import weightwatcher as ww
from torch import nn

from _timing import seconds
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stats.gram import Gram

PARAMETERS, WIDTH, ROUNDS, LARGE = 50_000_000, 16, 5, 1_000_000
CRITEO = (1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105,
          142572)  # values of the fields in the Kaggle set
COLLAPSED = (9, 23)


def sizes():
    small = sum(n for n in CRITEO if n < LARGE)
    factor = (PARAMETERS // WIDTH - small) / (sum(CRITEO) - small)
    return [n if n < LARGE else round(n * factor) for n in CRITEO]


def tables():
    r = np.random.default_rng(0)
    out = []
    for k, n in enumerate(sizes()):
        scale = np.geomspace(1, .2, WIDTH) if k not in COLLAPSED else np.where(np.arange(WIDTH) < 2, 1, 1e-3)
        turn = np.linalg.qr(r.normal(size=(WIDTH, WIDTH)))[0] * scale[:, None]
        table = r.standard_normal((n, WIDTH), dtype=np.float32) @ turn.astype(np.float32)
        if k % 2:
            table += r.normal(size=WIDTH).astype(np.float32) * np.sqrt((scale**2).sum() / WIDTH)
        table *= .03
        out.append(table)
    return out


def ours(found):
    out = []
    for table in found:
        total = Gram(column="e").summarize(Batch({"e": table}))
        out.append({"values": total.singular_values(centred=False), "centred": total.singular_values(), "rank": total.effective_rank(),
                    "abundance": total.information_abundance(), "norm": total.mean_norm, "cosine": total.mean_cosine, "zeros": total.zeros})
    return out


def svd(found):
    return [torch.linalg.svdvals(torch.from_numpy(table)).numpy() for table in found]


def same_figures(found):
    """All figures of ours the way of SVDs: another one less the mean, and the vectors' lengths and directions."""
    out = []
    for table in map(torch.from_numpy, found):
        length = table.norm(dim=1)
        direction = (table / length.unsqueeze(1)).sum(0)
        raw, centred = torch.linalg.svdvals(table), torch.linalg.svdvals(table - table.mean(0))
        p = centred / centred.sum()
        n = len(table)
        out.append({"rank": float(torch.special.entr(p).sum().exp()), "abundance": float(raw.sum() / raw[0]), "norm": float(length.mean()),
                    "cosine": float((direction @ direction - n) / (n * (n - 1))), "zeros": int((length == 0).sum())})
    return out


def weightwatcher(model):
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        return ww.WeightWatcher(model=model).analyze(min_evals=1, max_N=2**31)


def truth(table):
    """The same figures, from a float64 SVD and the vectors one by one."""
    x = table.astype(np.float64)
    raw, centred = np.linalg.svd(x, compute_uv=False), np.linalg.svd(x - x.mean(0), compute_uv=False)
    p = centred[centred > 1e-9 * centred[0]] / centred.sum()
    length = np.linalg.norm(x, axis=1)
    direction = (x / length[:, None]).sum(0)
    return {"values": raw, "centred": centred, "rank": np.exp(-(p * np.log(p)).sum()), "abundance": raw.sum() / raw[0], "norm": length.mean(),
            "cosine": (direction @ direction - len(x)) / (len(x) * (len(x) - 1)), "zeros": 0}


def peak_mb(call):
    """The most that the call holds beyond what is there, in a process of its own."""
    def child(pipe):
        before = held()
        call()
        pipe.send(held() - before)

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
    process.start()
    kilobytes = here.recv()
    process.join()
    return round(kilobytes / 1024, 1)


def held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def check(found, peer, figures, watched, tables_):
    """Largest errors of ours and of the peer."""
    worst = {"figure": 0.0, "value": 0.0, "svd": 0.0}
    for k, (mine, theirs, other, table) in enumerate(zip(found, peer, figures, tables_, strict=True)):
        true = truth(table)
        n = min(table.shape)
        for key in ("values", "centred"):
            worst["value"] = max(worst["value"], float(np.abs(mine[key][:n] - true[key]).max() / true["values"][0]))
        worst["svd"] = max(worst["svd"], float(np.abs(theirs - true["values"]).max() / true["values"][0]))
        worst["figure"] = max([worst["figure"], *(abs(mine[key] / true[key] - 1) for key in ("rank", "abundance", "norm"))])
        assert abs(mine["cosine"] - true["cosine"]) < 1e-9, (k, mine["cosine"], true["cosine"])
        assert mine["zeros"] == true["zeros"] == other["zeros"]
        for key in ("rank", "abundance", "norm"):
            assert abs(mine[key] / other[key] - 1) < 1e-3, (k, key, mine[key], other[key])
        for key, value in (("sv_max", mine["values"][0]), ("sv_min", mine["values"][n - 1]), ("spectral_norm", mine["values"][0]**2)):
            assert abs(watched[key][k] - value) <= 1e-6 * value + 1e-9, (k, key, watched[key][k], value)
    assert worst["value"] < 1e-8, worst
    assert worst["figure"] < 1e-6, worst
    return worst


def main():
    found = tables()
    model = nn.ModuleList(nn.Embedding.from_pretrained(torch.from_numpy(table)) for table in found)  # shares the memory
    ways = {"ours": lambda: ours(found), "svd": lambda: svd(found), "same_figures": lambda: same_figures(found),
            "weightwatcher": lambda: weightwatcher(model)}
    memory = {name: peak_mb(way) for name, way in ways.items()}
    times, last = {name: [] for name in ways}, {}
    for round_ in range(ROUNDS + 1):  # alternating, so that a slow moment hits all alike
        for name, way in ways.items():
            spent, last[name] = seconds(way)
            if round_:  # the first round warms up
                times[name].append(spent)
    median = {name: statistics.median(values) for name, values in times.items()}
    print({name: round(value, 4) for name, value in median.items()}, "seconds;", memory, "MB beyond the tables")
    watched = last["weightwatcher"]
    assert len(watched) == len(found), len(watched)
    worst = check(last["ours"], last["svd"], last["same_figures"], watched.set_index("layer_id").sort_index().reset_index(), found)
    print(json.dumps({
        "speedup_vs_svd": round(median["svd"] / median["ours"], 2), "speedup_vs_weightwatcher": round(median["weightwatcher"] / median["ours"], 2),
        "speedup_vs_svd_same_figures": round(median["same_figures"] / median["ours"], 2),
        "seconds": round(median["ours"], 4), "parameters": sum(table.size for table in found), "tables": len(found), "rounds": ROUNDS,
        "largest_error": float(f"{worst['figure']:.2g}"), "singular_value_error": float(f"{worst['value']:.2g}"), "svd_error": float(f"{worst['svd']:.2g}"),
        **{f"peak_mb_{name}": value for name, value in memory.items()}}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of power laws fitted to a few values
    sys.exit(main())
