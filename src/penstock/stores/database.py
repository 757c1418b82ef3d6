"""One database under all stores of SQL: opened once, brought to the schema, and shared by the stores on it.

How it works: `open_database` takes the setting `server.store` and loads the module of that kind of database, so that
nobody pays for another's driver. What is read goes through `read`, every change is one transaction of `change`.

The schema's version is read at the start. An older one is migrated: Alembic is loaded for that alone and runs in one
transaction, while whoever else starts waits. A newer one is taken as it is if its revisions have left what this
version knows as it was: each revision says the oldest schema whose programs it still serves, and the database keeps
the greatest of them. So a new version may migrate first, and older ones run beside it until their turn comes.

When it fails: anything that the database, its driver, the network or the disk reports is raised as StoreUnavailable
with their own words; a password is not among them. Nothing is retried here, but the next call makes new connections
where the old ones are gone.
"""

from __future__ import annotations

import abc
import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from penstock.stores.base import StoreUnavailable
from penstock.stores.schema import SCHEMA, compatible

DATABASES = {"sqlite": "penstock.stores.sqlite", "postgresql": "penstock.stores.postgres"}

BUSY = 5.0  # how long a change waits for another's, and a call for a connection
SETUP = 30.0  # how long opening waits for another process's migration
CONNECTIONS = 4


class Database(abc.ABC):
    """A database of one kind; `where` names it in messages. The kinds say how it is connected to and migrated."""

    def __init__(self, engine: AsyncEngine, where: str, errors: tuple[type[Exception], ...]) -> None:
        self.engine = engine
        self.where = where
        self._errors = errors  # what its driver raises past SQLAlchemy

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with, each statement seeing what is committed."""
        with self.reported():
            async with self.engine.connect() as connection:
                try:
                    yield connection
                except TimeoutError:
                    await connection.invalidate()  # its answer may still come
                    raise

    @asynccontextmanager
    async def change(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed unless the block raises. In SQLite there is one at a time, in PostgreSQL many."""
        with self.reported():
            async with self.engine.connect() as connection:
                await connection.execution_options(write=True)
                try:
                    async with connection.begin():
                        yield connection
                except TimeoutError:
                    await connection.invalidate()
                    raise

    async def scalar(self, sql: str) -> Any:
        """The one value that this statement, which has no parameters, reads: by the shortest way there is."""
        async with self.read() as connection:
            return (await connection.execute(sa.text(sql))).scalar_one()

    async def close(self) -> None:
        """Close every connection. No call may follow."""
        await self.engine.dispose()

    async def migrate(self) -> None:
        """Bring the schema to this version's, if it is not; raises StoreUnavailable."""
        if await self._fits():
            return
        module = await asyncio.to_thread(_load, "penstock.stores.migrate")
        async with self.alone() as connection:
            await connection.run_sync(module.upgrade)

    @abc.abstractmethod
    def alone(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction to migrate in; one process at a time has it, others wait SETUP seconds for it."""

    async def _fits(self) -> bool:
        """Whether this version can work with the schema as it is."""
        async with self.read() as connection:
            version, since = await connection.run_sync(_standing)
        if version is None or version < SCHEMA:
            return False
        if since > SCHEMA:
            raise StoreUnavailable(
                f"{self.where}: the database was written by a newer version of Penstock (its schema is {version}, "
                f"this version's {SCHEMA}): run that version, or choose another database"
            )
        return True

    def reported(self) -> _Reported:
        """Raises as StoreUnavailable what the database, its driver, the network or the disk raises inside."""
        return _Reported(self.where, self._errors)


async def open_database(store: str, directory: Path) -> Database:
    """The database that the setting `server.store` means, at this version's schema. `directory` holds SQLite's file.

    Raises StoreUnavailable.
    """
    kind = store.partition("://")[0]
    if kind not in DATABASES:
        raise StoreUnavailable('server.store: write "sqlite", or a URL that begins with postgresql://')
    module = await asyncio.to_thread(_load, DATABASES[kind])
    database: Database = module.connect(store, directory)
    try:
        await database.migrate()
    except BaseException:
        await asyncio.shield(database.close())
        raise
    return database


class _Reported:
    def __init__(self, where: str, errors: tuple[type[Exception], ...]) -> None:
        self._where = where
        self._errors = errors

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
            raise self._unavailable(error.orig.__cause__ or error.orig) from error
        if error is not None and isinstance(error, (sa.exc.SQLAlchemyError, OSError, *self._errors)):
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> StoreUnavailable:
        if isinstance(error, TimeoutError):
            return StoreUnavailable(f"{self._where}: no answer in time")
        words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        return StoreUnavailable(f"{self._where}: {words}")


def _standing(connection: sa.Connection) -> tuple[str | None, str]:
    """The schema's version, None for an empty database, and the oldest one whose programs can work with it."""
    inspector = sa.inspect(connection)
    if not inspector.has_table("alembic_version"):
        return None, ""
    version: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    if not inspector.has_table(compatible.name):
        return version, version or ""
    return version, connection.scalar(sa.select(compatible.c.since)) or ""


def _load(name: str) -> ModuleType:
    return importlib.import_module(name)
