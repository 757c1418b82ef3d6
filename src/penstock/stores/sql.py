"""Every store in one database: what a composition root or a command opens, and closes once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from penstock.stores.database import Database, open_database
from penstock.stores.postgreswriter import PostgresWriter
from penstock.stores.sqlaccess import SqlAccess
from penstock.stores.sqlanswers import SqlAnswers
from penstock.stores.sqlite import SqliteDatabase
from penstock.stores.sqlitewriter import SqliteWriter
from penstock.stores.sqlledger import SqlLedger
from penstock.stores.sqlruns import SqlRuns


class Stores:
    """The stores on a database that `open_database` made ready."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        writer = SqliteWriter(database) if isinstance(database, SqliteDatabase) else PostgresWriter(database)
        self.ledger = SqlLedger(database, writer, clock)
        self.access = SqlAccess(database, clock)
        self.answers = SqlAnswers(database)
        self.runs = SqlRuns(database)

    async def close(self) -> None:
        """Close the database; no call to any of the stores may follow."""
        try:
            await self.ledger.close()
        finally:
            await self.database.close()


async def open_stores(store: str, directory: Path, clock: Callable[[], float] = time.time) -> Stores:
    """The stores where the setting `server.store` says, made or migrated as needed; raises StoreUnavailable."""
    return Stores(await open_database(store, directory), clock)
