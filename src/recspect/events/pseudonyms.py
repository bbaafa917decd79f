"""Names in place of user ids: a keyed hash, so that a person's events belong together and nobody without the key knows whose they are.

BLAKE2b with a key (RFC 7693) is a pseudo-random function: without the key, neither can an id be found from its name, nor can a list of
all possible ids be tried. The key comes from a file or an environment variable and is never stored with the data.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from recspect.errors import UsageError

KEY_VARIABLE = "RECSPECT_PSEUDONYM_KEY"
"""Environment variable that holds the key, or `@` and the path of its file."""

SHORTEST_KEY = 16
"""Bytes of the shortest key that is taken."""


@dataclass(frozen=True)
class Pseudonyms:
    """Gives users their names.

    Args:
        key: At least 16 bytes that nobody can guess, such as the output of `openssl rand -hex 32`.

    Raises:
        UsageError: A shorter key.

    Example:
        >>> Pseudonyms(b"an example of a key").name("ann")
        'b5b46fa010ea3c85ed55335eeac7847d'
    """

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) < SHORTEST_KEY:
            raise UsageError(f"the key of the pseudonyms has {len(self.key)} bytes, expected {SHORTEST_KEY} or more",
                             hint="openssl rand -hex 32 > key.txt; keep it apart from the data, and do not lose it")
        if len(self.key) > hashlib.blake2b.MAX_KEY_SIZE:
            object.__setattr__(self, "key", hashlib.blake2b(self.key).digest())

    def name(self, user: str) -> str:
        """32 hexadecimal digits that stand for the user."""
        return self._hash(user.encode("utf-8", "surrogatepass"), b"recspect.user")

    @property
    def fingerprint(self) -> str:
        """Tells this key from another one; kept with the store so that two keys are never mixed."""
        return self._hash(b"", b"recspect.key")[:12]

    def _hash(self, content: bytes, purpose: bytes) -> str:
        return hashlib.blake2b(content, key=self.key, digest_size=16, person=purpose).hexdigest()


def find_pseudonyms(path: Path | None = None) -> Pseudonyms | None:
    """The pseudonyms of a key file, or else of `RECSPECT_PSEUDONYM_KEY`; None where there is neither.

    Raises:
        UsageError: A file that cannot be read, or too short a key.
    """
    if path is None:
        given = os.environ.get(KEY_VARIABLE, "")
        if not given:
            return None
        if not given.startswith("@"):
            return Pseudonyms(given.strip().encode())
        path = Path(given[1:])
    try:
        return Pseudonyms(path.read_bytes().strip())
    except OSError as error:
        raise UsageError(f"cannot read the key of the pseudonyms from {path}: {error.strerror or error}", hint="openssl rand -hex 32 > key.txt") from None
