"""`recspect serve`: from options to a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from recspect.errors import MissingExtraError, UsageError
from recspect.events.token import token_for
from recspect.web_server import server_of


def mount(app: typer.Typer, console: Any) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
        console: A rich console on stderr.
    """

    @app.command()
    def serve(folder: Annotated[Path, typer.Argument(help="recommender, from `recspect recommender build`")],
              store: Annotated[str, typer.Option(help="events: FILE.duckdb or postgresql://USER@HOST/DATABASE")] = "",
              recent: Annotated[str, typer.Option(help="redis://HOST: where servers share what users did lately")] = "",
              host: Annotated[str, typer.Option(help="address to listen on; beyond loopback a token is needed")] = "127.0.0.1",
              port: Annotated[int, typer.Option(help="port to listen on")] = 8000,
              token_file: Annotated[Path | None, typer.Option(help="file with the token that clients send; or set RECSPECT_TOKEN")] = None,
              second: Annotated[Path | None, typer.Option(help="a second recommender, to be let in")] = None,
              percent: Annotated[float, typer.Option(help="share of users that get the second one")] = 0.0,
              shadow: Annotated[bool, typer.Option("--shadow", help="let both answer, show one, log both")] = False,
              interleave: Annotated[bool, typer.Option("--interleave", help="these users get lists of both models, for `recspect experiment interleaving`")] = False,
              models: Annotated[Path | None, typer.Option(help="folder of recommenders that may be put in place by POST /v1/models")] = None,
              backend: Annotated[str, typer.Option(help="of the ranking: torch or onnx")] = "torch",
              requests_per_second: Annotated[float, typer.Option(help="per client; 0 for no limit")] = 0.0) -> None:
        """Answer requests for recommendations over HTTP."""
        run(folder=folder, store=store, recent=recent, host=host, port=port, token_file=token_file, second=second, percent=percent, shadow=shadow, interleave=interleave, models=models,
            backend=backend, requests_per_second=requests_per_second, say=lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))


def run(*, folder: Path, store: str, recent: str, host: str, port: int, token_file: Path | None, second: Path | None, percent: float, shadow: bool, interleave: bool, models: Path | None,
        backend: str, requests_per_second: float, say: Callable[[str], None]) -> None:
    """Run the server until it is stopped.

    Raises:
        UsageError: Options that make no sense together.
        RunError: No recommender there.
        DataError: The store cannot be opened.
        MissingExtraError: The libraries of the server are not installed.
    """
    token = token_for(host, token_file)
    if second is None and (percent or shadow or interleave):
        raise UsageError("--percent, --shadow and --interleave need a second recommender", hint="--second FOLDER")
    if not 0 <= port < 65536:
        raise UsageError(f"port {port}, expected 0 to 65535")
    app = application(folder=folder, store=store, recent=recent, token=token, second=second, percent=percent, shadow=shadow, interleave=interleave, models=models, backend=backend,
                      requests_per_second=requests_per_second)
    say(f"serving {folder} on http://{host}:{port}; what it can do: http://{host}:{port}/openapi.json")
    server_of(app, host=host, port=port, patience_seconds=10).run()


def application(*, folder: Path, store: str = "", recent: str = "", token: str | None = None, second: Path | None = None, percent: float = 0.0, shadow: bool = False,
                interleave: bool = False, models: Path | None = None, backend: str = "torch", requests_per_second: float = 0.0) -> Any:
    """The application that `recspect serve` runs; see `run`."""
    try:
        import fastapi  # noqa: F401 - only whether it is there
        import prometheus_client  # noqa: F401
        import torch
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", extra="serve", purpose="Serving") from None
    from recspect.serving.answering import Answering
    from recspect.serving.app import ServingSettings, create_app
    from recspect.serving.figures import Figures
    from recspect.serving.online_features import OnlineFeatures
    from recspect.serving.recent import Recent
    from recspect.serving.recent_shared import SharedRecent
    from recspect.serving.rollout import Rollout
    from recspect.serving.shown import ShownLog
    from recspect.serving.slot import Slot

    torch.set_num_threads(1)  # requests are answered side by side; threads within one request would wait for each other
    first = Slot(folder, backend=backend)
    other = Slot(second, backend=backend) if second is not None else None
    features: OnlineFeatures | None = None
    lately: Recent | SharedRecent | None = None
    shown, closing, routers = None, [], []
    if store:
        from recspect.events.group_commit import GroupCommit
        from recspect.events.http import events_router
        from recspect.events.pseudonyms import find_pseudonyms
        from recspect.events.store import open_store

        kept = open_store(store, pseudonyms=find_pseudonyms())
        lately, shown, features = Recent(kept), ShownLog(kept), OnlineFeatures(kept)
        for slot in (first, other):
            if slot is not None:
                features.know(slot.current)
        writing = GroupCommit(kept)
        routers.append(events_router(writing))  # the token is asked for before any path
        closing += [writing.close, shown.close, kept.close]
    if recent:
        lately = SharedRecent(recent, lately)
    figures = Figures()
    answering = Answering(first, other, rollout=Rollout(percent=percent, shadow=shadow, interleave=interleave), recent=lately, features=features, shown=shown, told=figures.told)
    return create_app(answering, ServingSettings(token=token, requests_per_second=requests_per_second), figures=figures, models=models,
                      routers=tuple(routers), closing=tuple(closing))
