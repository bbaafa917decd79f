"""A training in a process of its own, killed in the middle of its second epoch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import torch


def killed_training(call: str, folder: Path, *arguments: str) -> Path:
    """Train as `call` says and kill the process in the fifth step of the second epoch; gives the folder of the run.

    Args:
        call: Python that trains into `folder` with `progress=tell`; `arguments` and everything in the folder of the tests can be imported there.
        folder: Of the run.
        arguments: Texts for the call.
    """
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        folder, arguments = sys.argv[2], sys.argv[3:]
        def tell(progress):
            if (progress.epoch, progress.step) == (2, 5):
                Path(folder + ".ready").touch()
                time.sleep(60)
    """) + call
    ready = folder.with_name(f"{folder.name}.ready")
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(folder), *arguments], env=environment)
    kill_when_there(process, ready)
    return folder


def kill_when_there(process: subprocess.Popen[bytes], ready: Path, *, seconds: float = 120) -> None:
    """Kill a process as soon as it has made a file; that it did is held."""
    try:
        deadline = time.monotonic() + seconds
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ready.exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
