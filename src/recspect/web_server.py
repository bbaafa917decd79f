"""How a command that answers over HTTP runs and ends."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any


def server_of(app: Any, *, host: str, port: int, patience_seconds: int, stopping: Callable[[], None] | None = None, log_level: str = "warning") -> Any:
    """A server on one address, ready to `run()`.

    Being told to stop (Ctrl-C, SIGTERM) is how a server ends in order: it answers what it has begun, and the command exits with 0. The signal is
    not passed on to the command line, which would take it for work that was cut short.

    Args:
        app: An ASGI application.
        host: Address to listen on.
        port: 0 for any that is free.
        patience_seconds: How long requests that were begun may take when the server ends.
        log_level: Of the server's own words on stderr.
        stopping: Called at once when it is told to stop, so that streams without an end can end.
    """
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ARG002 - the interface's
            if stopping is not None:
                stopping()
            self.force_exit = self.should_exit and sig == signal.SIGINT  # the second Ctrl-C
            self.should_exit = True

    return Server(uvicorn.Config(app, host=host, port=port, log_level=log_level, access_log=False, timeout_graceful_shutdown=patience_seconds, server_header=False))


__all__ = ["server_of"]
