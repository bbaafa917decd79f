"""Who may send: a bearer token, needed wherever other machines can reach the port."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from recspect.errors import UsageError

TOKEN_VARIABLE = "RECSPECT_TOKEN"  # noqa: S105 - the name of a variable
"""Environment variable that holds the token."""

SHORTEST_TOKEN = 16
"""Characters of the shortest token that is taken."""


def find_token(path: Path | None = None) -> str | None:
    """The token of a file, or else of `RECSPECT_TOKEN`; None where there is neither.

    Raises:
        UsageError: A file that cannot be read, or too short a token.
    """
    try:
        token = path.read_text().strip() if path is not None else os.environ.get(TOKEN_VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the token from {path}: {error}", hint="openssl rand -hex 32 > token.txt") from None
    if token is None:
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"the token has {len(token)} characters, expected {SHORTEST_TOKEN} or more without spaces", hint="openssl rand -hex 32")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a port that is bound to the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_for(host: str, file: Path | None) -> str | None:
    """The token of a file or of `RECSPECT_TOKEN`; beyond loopback there must be one.

    Raises:
        UsageError: None is given for a host that others reach, or the file cannot be read.
    """
    token = find_token(file)
    if token is None and not is_loopback(host):
        raise UsageError(f"{host} is reached by others than this machine, and no token was given",
                         hint=f"--token-file FILE, or set {TOKEN_VARIABLE}; openssl rand -hex 32 makes one")
    return token
