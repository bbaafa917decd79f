"""Run one bench by name: `python bench/run.py ig`. Its last line must be one JSON object; exits 2 where it is not, or there is no such bench."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOT_BENCHES = {"run"}


def names() -> list[str]:
    """Names of the benches: the files beside this one, but for those whose name begins with an underscore."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_BENCHES and not path.stem.startswith("_"))


def main(arguments: list[str]) -> int:
    """Run the bench, passing on what it prints as it comes."""
    if not arguments or arguments[0] not in names():
        found = f"no bench {arguments[0]!r}" if arguments else "which bench?"
        print(f"{found}; benches: {', '.join(names()) or '(none)'}. Say: make bench NAME=...", file=sys.stderr)
        return 2
    command = [sys.executable, "-u", str(HERE / f"{arguments[0]}.py"), *arguments[1:]]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
    if process.returncode:
        return process.returncode
    try:
        figures = json.loads(last)
    except ValueError:
        figures = None
    if not isinstance(figures, dict):
        print(f"the last line of bench/{arguments[0]}.py must be one JSON object, found: {last[:80]!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
