"""`recspect events ...`: importing, labelling, serving, consuming and forgetting."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from recspect.errors import DataError, UsageError
from recspect.web_server import server_of

events_app = typer.Typer(no_args_is_help=True, help="Events: what was shown and what came of it.")

StoreOption = Annotated[str, typer.Option("--store", help="FILE.duckdb or postgresql://USER@HOST/DATABASE")]
KeyOption = Annotated[Path | None, typer.Option("--pseudonym-key", help="file of the key that users are named with; else RECSPECT_PSEUDONYM_KEY, else none")]


@events_app.command("import")
def import_command(files: Annotated[list[Path], typer.Argument(help="Parquet, CSV, TSV or JSON lines")], store: StoreOption,
                   mapping: Annotated[list[str] | None, typer.Option("--map", help="COLUMN=PART, such as movie_id=item (repeatable)")] = None,
                   kind: Annotated[str, typer.Option(help="kind of all rows, where no column says it")] = "",
                   time_unit: Annotated[str, typer.Option(help="of a numeric time: s, ms or us")] = "",
                   time_zone: Annotated[str, typer.Option(help="of times that have none, such as UTC")] = "", pseudonym_key: KeyOption = None) -> None:
    """Put the events of files into a store; again is no harm."""
    from recspect.events.importing import Mapped, import_files
    from recspect.events.pseudonyms import find_pseudonyms
    from recspect.events.reject import told
    from recspect.events.rows import known_kind
    from recspect.events.store import open_store

    pairs = [text.partition("=") for text in mapping or ()]
    for column, sign, part in pairs:
        if not (column and sign and part):
            raise UsageError(f"--map takes COLUMN=PART, this is {column + sign + part!r}", hint="--map movie_id=item")
    mapped = Mapped(columns={column: part for column, _, part in pairs}, kind=known_kind(kind) if kind else None, time_unit=time_unit or None,  # type: ignore[arg-type]
                    time_zone=time_zone or None)
    kept = open_store(store, pseudonyms=find_pseudonyms(pseudonym_key))
    began = said = time.monotonic()

    def tell(path: Path, rows: int) -> None:
        nonlocal said
        if time.monotonic() - said > 1:
            said = time.monotonic()
            typer.echo(f"{path.name}: {rows:,} rows are kept", err=True)

    try:
        done = import_files(files, kept, mapped, progress=tell)
    finally:
        kept.close()
    if done.ignored:
        typer.echo(f"columns not read: {', '.join(done.ignored)}", err=True)
    typer.echo(f"{done.rows:,} rows in {time.monotonic() - began:.1f} s: {told(done.accepted, done.duplicates, done.rejected)}")
    if done.rows and done.rejected.total() == done.rows:
        raise DataError(f"none of the {done.rows:,} rows is an event; the first one: {done.example}",
                        hint="--map COLUMN=PART says which column is what, --kind, --time-unit and --time-zone what no column says; the rows are kept among the rejects")


@events_app.command()
def forget(user: Annotated[str, typer.Argument(help="the id as it was sent")], store: StoreOption, pseudonym_key: KeyOption = None,
           recent: Annotated[str, typer.Option(help="redis://HOST: also where servers share what users did lately")] = "") -> None:
    """Erase every event and reject of a person."""
    from recspect.events.pseudonyms import find_pseudonyms
    from recspect.events.store import open_store

    kept = open_store(store, pseudonyms=find_pseudonyms(pseudonym_key), create=False)
    try:
        erased, name = kept.forget(user), kept.stored_user(user)
    finally:
        kept.close()
    typer.echo(f"erased {erased.events:,} events and {erased.rejects:,} rejects")
    if recent:
        from recspect.serving.recent_shared import erase

        typer.echo(f"erased {erase(recent, name):,} recent events in Redis")


@events_app.command()
def labels(store: StoreOption, out: Annotated[Path, typer.Option("--out", help="Parquet file; its schema is written beside it")],
           window_hours: Annotated[float, typer.Option(help="how long after an exposure feedback counts")] = 24.0,
           kinds: Annotated[str, typer.Option(help="feedback, with commas; the first is trained. By default every kind there is")] = "",
           pseudonym_key: KeyOption = None) -> None:
    """Join exposures with what came of them: a table that `recspect train` takes."""
    from recspect.events.joining import label_exposures
    from recspect.events.pseudonyms import find_pseudonyms
    from recspect.events.store import open_store
    from recspect.files import require_writable

    require_writable(out)
    kept = open_store(store, pseudonyms=find_pseudonyms(pseudonym_key), create=False)
    try:
        found = label_exposures(kept, window_hours=window_hours, kinds=[kind.strip() for kind in kinds.split(",") if kind.strip()] or None)
        schema = found.write(out)
    finally:
        kept.close()
    typer.echo(f"{found.exposures:,} exposures labelled, {found.immature:,} not yet mature; {found.credited:,} feedback events credited, {found.uncredited:,} not")
    typer.echo(f"Next: recspect train {out} --schema {schema}", err=True)
    sys.stdout.flush()


@events_app.command()
def consume(store: StoreOption, address: Annotated[str, typer.Option("--from", help="nats://, amqp://, redis:// or kafka://, with host and, where needed, USER:PASSWORD@")],
            subject: Annotated[str, typer.Option(help="NATS: the subject, such as events.>")] = "", queue: Annotated[str, typer.Option(help="RabbitMQ: the queue")] = "",
            stream: Annotated[str, typer.Option(help="Redis: the stream; NATS: the stream that holds the subject, where it is not found by it")] = "",
            topic: Annotated[str, typer.Option(help="Kafka: the topic")] = "",
            group: Annotated[str, typer.Option(help="consumers of one group share the messages; the broker keeps its place")] = "recspect",
            create: Annotated[bool, typer.Option("--create", help="make the stream or queue where it is not there")] = False,
            until_idle: Annotated[float | None, typer.Option(help="end when no message came for so many seconds; else at Ctrl-C")] = None,
            pseudonym_key: KeyOption = None) -> None:
    """Keep the events that come through a message broker; they are acknowledged when they are durable."""
    from recspect.events.brokers import place_of
    from recspect.events.consuming import consume as read
    from recspect.events.pseudonyms import find_pseudonyms
    from recspect.events.store import open_store

    place = place_of(address, names={"subject": subject, "queue": queue, "stream": stream, "topic": topic}, group=group, create=create)
    if until_idle is not None and until_idle <= 0:
        raise UsageError(f"--until-idle {until_idle:g}", hint="more than 0 seconds")
    kept = open_store(store, pseudonyms=find_pseudonyms(pseudonym_key))
    try:
        done = read(place, kept, until_idle=until_idle, say=lambda text: typer.echo(text, err=True))
    finally:
        kept.close()
    typer.echo(str(done))


@events_app.command()
def serve(store: StoreOption, host: Annotated[str, typer.Option(help="beyond this machine only with a token")] = "127.0.0.1",
          port: Annotated[int, typer.Option(help="0 takes a free one")] = 8080,
          token_file: Annotated[Path | None, typer.Option(help="file of the bearer token; else RECSPECT_TOKEN")] = None, pseudonym_key: KeyOption = None) -> None:
    """Take events over HTTP: POST /v1/events."""
    from recspect.errors import MissingExtraError
    from recspect.events.pseudonyms import find_pseudonyms
    from recspect.events.store import open_store
    from recspect.events.token import token_for

    token = token_for(host, token_file)
    try:
        import uvicorn  # noqa: F401 - only whether it is there

        from recspect.events.http import events_app as application
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", extra="serve", purpose="Serving") from None
    kept = open_store(store, pseudonyms=find_pseudonyms(pseudonym_key))
    try:
        # A request that waits for its write is answered before the process ends.
        server_of(application(kept, token=token), host=host, port=port, patience_seconds=30, log_level="info").run()
    finally:
        kept.close()
