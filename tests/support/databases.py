"""Where the contract suites of stores open them: memory, SQLite in a directory, a database of a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from penstock.stores.database import Database, open_database
from support.postgres import PostgresServer

KINDS = ("memory", "sqlite", "postgresql")


class Place(NamedTuple):
    """An empty database, as `server.store` says it; whoever opens it again has connections of their own."""

    store: str
    directory: Path

    async def open(self) -> Database:
        return await open_database(self.store, self.directory)


def place_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty database of that kind."""
    if kind == "sqlite":
        return Place("sqlite", tmp_path)
    server: PostgresServer = request.getfixturevalue("postgres")
    return Place(server.create(), tmp_path)
