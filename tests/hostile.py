"""Calls the command line as a clumsy or hostile user does, and says what must hold when it refuses."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

SCHEMA = """schema = 1
[roles]
user = "user"
item = "item"
{roles}
[[labels]]
name = "click"
[fields]
user = {{ kind = "categorical", side = "user" }}
item = {{ kind = "categorical", side = "item" }}
colour = "categorical"
age = "numeric"
"""

SCORED, UNSCORED = SCHEMA.format(roles='score = "score"'), SCHEMA.format(roles="")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def table(rows: int = 400, seed: int = 0) -> pl.DataFrame:
    """Users, items, two features, a true score and clicks drawn from it."""
    r = np.random.default_rng(seed)
    user, item = r.integers(0, 50, rows), r.integers(0, 20, rows)
    p = 1 / (1 + np.exp(-(r.normal(0, 1, 50)[user] + r.normal(0, 1, 20)[item] - 0.5)))
    return pl.DataFrame({"user": user, "item": item, "colour": r.choice(["red", "blue"], rows), "age": r.normal(30, 5, rows), "score": p,
                         "click": (r.random(rows) < p).astype(int)})


class CommandLine:
    """The command line in this process, in a folder with `t.parquet`, `s.toml` (with a score) and `tr.toml` (without)."""

    def __init__(self, folder: Path, capsys, monkeypatch) -> None:
        self.folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch
        monkeypatch.chdir(folder)
        table().write_parquet("t.parquet")
        Path("s.toml").write_text(SCORED)
        Path("tr.toml").write_text(UNSCORED)

    def __call__(self, *arguments: object) -> Done:
        from recspect import cli

        self._monkeypatch.setattr(sys, "argv", ["recspect", *map(str, arguments)])
        before = signal.getsignal(signal.SIGTERM)
        self._capsys.readouterr()
        try:
            cli.main()
        except SystemExit as stop:
            return Done(stop.code, *self._capsys.readouterr())
        finally:
            signal.signal(signal.SIGTERM, before)
        raise AssertionError("the command line did not exit")

    def files(self) -> set[str]:
        """Everything below the folder."""
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")
                if "__pycache__" not in path.parts}

    def refuses(self, *arguments: object, said: tuple[str, ...] = ()) -> str:
        """The command tells an error that can be mended, leaves no file and no traceback; gives what it printed."""
        before = self.files()
        done = self(*arguments)
        assert done.code == 2, (arguments, done)
        must_teach(done.err, said)
        assert done.out == "", done.out
        assert self.files() == before, "a refused command left a file"
        return done.err


def must_teach(text: str, said: tuple[str, ...] = ()) -> None:
    """An error as docs/errors.md describes it."""
    assert "Traceback" not in text, text
    assert "fault of recspect" not in text, text
    assert "error: " in text, text
    assert "hint:  " in text, text
    for words in said:
        assert words in " ".join(text.split()), (words, text)
