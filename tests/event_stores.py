"""Stores that the tests of events run on: a DuckDB file, and a schema of its own on a real PostgreSQL server."""

import os
import uuid
from datetime import UTC, datetime

import pytest

from recspect.errors import DataError, RecspectError
from recspect.events.reject import take
from recspect.events.store import open_store

POSTGRES = os.environ.get("RECSPECT_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")
"""Address of a server on which schemas may be made."""

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def event(number=0, **changes):
    """A well-formed event, or one with changes; None takes a field out."""
    given = {"event_id": f"e-{number}", "kind": "click", "user": f"user-{number % 3}", "item": f"item-{number}", "time": "2026-05-01T12:00:00Z", **changes}
    return {name: value for name, value in given.items() if value is not None}


def taken(*given, received=NOW):
    return [take(each, received=received, origin="test") for each in given]


class Places:
    """Addresses of stores of one kind, each empty, all gone in the end."""

    def __init__(self, engine, folder):
        self.engine, self.folder, self.schemas = engine, folder, []

    def new(self):
        if self.engine == "duckdb":
            return str(self.folder / f"{uuid.uuid4().hex}.duckdb")
        self.schemas.append(f"test_{uuid.uuid4().hex}")
        return f"{POSTGRES}?recspect_schema={self.schemas[-1]}"

    def clear(self):
        if self.schemas:
            import psycopg

            with psycopg.connect(POSTGRES, autocommit=True) as connection:
                for schema in self.schemas:
                    connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


def require_postgres():
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    try:
        psycopg.connect(POSTGRES, connect_timeout=3).close()
    except psycopg.Error as error:
        pytest.skip(f"no PostgreSQL at {POSTGRES}: {str(error).strip().splitlines()[0]}")


@pytest.fixture(params=["duckdb", "postgres"])
def places(request, tmp_path):
    if request.param == "postgres":
        require_postgres()
    made = Places(request.param, tmp_path)
    yield made
    made.clear()


@pytest.fixture
def store(places):
    opened = open_store(places.new())
    yield opened
    opened.close()


__all__ = ["NOW", "POSTGRES", "DataError", "Places", "RecspectError", "event", "places", "require_postgres", "store", "taken"]
