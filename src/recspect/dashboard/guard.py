"""Who may ask: hosts, tokens, sizes, and where a change may come from."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from recspect.events.token import is_loopback

COOKIE = "recspect"
LONGEST_QUERY = 2048
LARGEST_BODY = 64 << 10
OPEN_PATHS = ("/health", "/login")
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
                               "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin", "X-Frame-Options": "DENY",
}
"""Sent with every answer: nothing but our own files runs, loads or frames a page."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """The rules of one server.

    Args:
        host: What it is bound to. On loopback only requests to a name of this machine are answered: a page elsewhere that points its own
            name at this machine gets nothing.
        token: What a visitor must have; None lets everybody in.
        actions: Whether anything may be changed.
    """

    host: str = "127.0.0.1"
    token: str | None = None
    actions: bool = False

    def refusal(self, method: str, path: str, query: str, headers: Mapping[str, str], cookies: Mapping[str, str]) -> tuple[int, str, str] | None:
        """Status, reason and what to do, of a request that is not answered; None lets it through."""
        asked = headers.get("host", "")
        if is_loopback(self.host) and _without_port(asked) not in (*LOCAL_NAMES, self.host):
            return 421, f"this server answers to {self.host}, not to {asked[:80] or 'a request without a host'}", "ask for it by its own address"
        if len(query) > LONGEST_QUERY:
            return 414, f"an address with {len(query):,} characters after the question mark, expected at most {LONGEST_QUERY:,}", "ask for less at once"
        length = headers.get("content-length", "0" if method in ("GET", "HEAD") else "")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return 413, f"a body of {length[:20] or 'an unknown number of'} bytes, expected at most {LARGEST_BODY:,}", "send less at once"
        if self.token is not None and path not in OPEN_PATHS and not path.startswith("/assets/") and not self.knows(headers, cookies):
            return 401, "this dashboard asks for a token", "open /login, or send Authorization: Bearer TOKEN"
        if method not in ("GET", "HEAD") and path != "/login":
            if not self.actions:
                return 403, "this dashboard only shows", "start it with --actions to record what people say of findings"
            if not same_origin(headers):
                return 403, "a change was asked for from another site", "use the buttons of the page"
        return None

    def knows(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether the request has the token, or the cookie that `/login` gave for it."""
        if self.token is None:
            return True
        given = headers.get("authorization", "").encode("utf-8", "replace")
        kept = cookies.get(COOKIE, "").encode("utf-8", "replace")
        return hmac.compare_digest(given, f"Bearer {self.token}".encode()) or hmac.compare_digest(kept, self.cookie().encode())

    def accepts(self, token: str) -> bool:
        """Whether that is the token."""
        return self.token is not None and hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def cookie(self) -> str:
        """What the browser keeps instead of the token: it opens this dashboard and nothing else."""
        return hmac.new((self.token or "").encode(), b"recspect dashboard", hashlib.sha256).hexdigest()


def _without_port(host: str) -> str:
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a change comes from a page of this server: browsers name the origin of every such request."""
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    if origin is None:
        return site in (None, "same-origin", "none") and headers.get("hx-request") == "true"
    return urlsplit(origin).netloc == headers.get("host", "")


__all__ = ["COOKIE", "HEADERS", "Guard", "same_origin"]
