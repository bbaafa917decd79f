"""`recspect dashboard`: from options to a running server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from recspect.errors import MissingExtraError, RunError, UsageError
from recspect.events.token import is_loopback, token_for
from recspect.web_server import server_of


def mount(app: typer.Typer, console: Any) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
        console: A rich console on stderr.
    """

    @app.command()
    def dashboard(runs: Annotated[Path, typer.Argument(help="folder of runs, or one run directory")] = Path("runs"),
                  host: Annotated[str, typer.Option(help="address to listen on; beyond loopback a token is needed")] = "127.0.0.1",
                  port: Annotated[int, typer.Option(help="port to listen on")] = 8090,
                  token_file: Annotated[Path | None, typer.Option(help="file with the token of visitors; or set RECSPECT_TOKEN")] = None,
                  actions: Annotated[bool, typer.Option("--actions", help="let visitors record what they think of findings")] = False,
                  smallest: Annotated[int, typer.Option(help="groups of fewer rows or people are not shown; 0 shows all")] = 20) -> None:
        """Look at runs in a browser, also while they train."""
        run(runs, host=host, port=port, token_file=token_file, actions=actions, smallest=smallest,
            say=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))


def run(runs: Path, *, host: str, port: int, token_file: Path | None, actions: bool, smallest: int, say: Callable[[str], None]) -> None:
    """Run the dashboard until it is stopped.

    Raises:
        RunError: No such folder.
        UsageError: A host that others reach without a token, or an impossible port.
        MissingExtraError: The libraries of the server are not installed.
    """
    if not runs.is_dir():
        raise RunError(f"no folder at {runs}", hint="`recspect train` makes runs/, or name another: recspect dashboard FOLDER")
    if not 0 <= port < 65536:
        raise UsageError(f"port {port}, expected 0 to 65535")
    if smallest < 0:
        raise UsageError(f"groups of at least {smallest}, expected 0 or more")
    token = token_for(host, token_file)
    try:
        import fastapi  # noqa: F401 - only whether it is there
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", extra="dashboard", purpose="The dashboard") from None
    from recspect.dashboard.app import create_app
    from recspect.dashboard.guard import Guard
    from recspect.dashboard.pages import warm_up
    from recspect.dashboard.shelf import Shelf
    from recspect.dashboard.views import Views

    views = Views(Shelf(runs), smallest=smallest)
    app = create_app(views, Guard(host=host, token=token, actions=actions))
    shown = f"[{host}]" if ":" in host else host
    say(f"{len(views.shelf.entries())} runs of {runs} on http://{shown}:{port}" + ("" if is_loopback(host) else "/login"))
    threading.Thread(target=warm_up, name="recspect dashboard warm-up", daemon=True).start()
    server_of(app, host=host, port=port, patience_seconds=5, stopping=app.state.closing.set).run()
