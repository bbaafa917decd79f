"""How fast we train, against RecBole 1.2.1 in its own environment: the same DeepFM on small tables and on two million ids, and SASRec per epoch.

Needs .venvs/recbole, which `make bench NAME=training_peers` builds. Rows per processor second, one thread. `speedup_sequence` compares an epoch: RecBole makes a
sample of every prefix, ours asks every position in one causal pass; of histories longer than 50 ours reads the last 51 events of each user, RecBole all prefixes,
so `speedup_sequence_per_answer` also says what an answered position costs. Last line: one JSON object.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parent / ".venvs/recbole/bin/python"


def main():
    if not PYTHON.exists():
        sys.exit("RecBole's environment is not there: make bench NAME=training_peers builds it")
    found = {}
    for part in ("small", "large", "sequence"):
        done = subprocess.run([PYTHON, "-W", "ignore", str(HERE / "_peer_recbole.py"), part], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{part} failed:\n{done.stderr[-3000:]}")
        found[part] = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{part}: {found[part]}", flush=True)
    sequence = found["sequence"]
    print(json.dumps({
        "speedup_large": round(found["large"]["ours"] / found["large"]["recbole"], 2), "speedup_small": round(found["small"]["ours"] / found["small"]["recbole"], 2),
        "speedup_sequence": round(sequence["recbole_seconds"] / sequence["our_seconds"], 1),
        "rows_per_second_large": round(found["large"]["ours"]), "rows_per_second_small": round(found["small"]["ours"]),
        "seconds_per_epoch_sequence": round(sequence["our_seconds"], 2), "peers": ["RecBole 1.2.1 DeepFM", "RecBole 1.2.1 SASRec"], "threads": 1,
    }))


if __name__ == "__main__":
    main()
