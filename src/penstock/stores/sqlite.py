"""SQLite under the stores: one file in the data directory, mode 0600, by aiosqlite.

How it works: the file is in WAL mode, so readers never wait for a writer. A change is one transaction begun with
BEGIN IMMEDIATE, which takes the write lock at once and waits for it up to BUSY seconds: several processes that
change something at the same time go one after the other, and none is told "locked" half-way, as a transaction would be
that reads first and asks to write later.

What is asked for again and again does not go through SQLAlchemy, which hands every step of a call to another thread and
waits for it, but in one step to a thread that has a connection of its own (`Apart`).

It is migrated under a lock on a file beside the database, so that of several processes which start at once one migrates
and the others find the work done.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from penstock.stores.base import StoreUnavailable
from penstock.stores.database import BUSY, CONNECTIONS, SETUP, Database

FILE = "penstock.db"

T = TypeVar("T")

_rolling: set[asyncio.Future[None]] = set()


def connect(_store: str, directory: Path) -> Database:
    """The database in the file in `directory`, which is made if it is missing."""
    path = directory / FILE
    database = SqliteDatabase(path)
    with database.reported():
        # made here, for SQLite would make it as the umask has it; its -wal and -shm files take the same mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    return database


class SqliteDatabase(Database):
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__(_engine(path), str(path), (sqlite3.Error,))
        self.path = path
        self._reading = Apart(path, "penstock-reading")

    async def scalar(self, sql: str) -> Any:
        with self.reported():
            return await self._reading.run(lambda connection: _scalar(connection, sql))

    async def close(self) -> None:
        try:
            await self._reading.close()
        finally:
            await super().close()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[AsyncConnection]:
        async with self._locked():
            with self.reported():
                await asyncio.to_thread(_use_wal, self.path)
            async with self.change() as connection:
                yield connection

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Hold the lock on a file beside the database, which the kernel frees should this process die."""
        path = self.path.with_name(FILE + ".lock")
        with self.reported():
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + SETUP
            while not _lock(file):
                if time.monotonic() > deadline:
                    raise StoreUnavailable(f"{path}: another process has been migrating the database for {SETUP:.0f} s")
                await asyncio.sleep(0.02)
            yield
        finally:
            os.close(file)


class Apart:
    """A connection of its own in a thread of its own, set up by `pragmas`; it is in no transaction but those it begins.

    A cancelled call leaves the thread at its work, and the next one waits for that: on a disk that hangs, nothing piles
    up behind it. When anything fails the connection is closed, which rolls back what was begun, and the next call makes
    another.
    """

    def __init__(self, path: Path, name: str, *pragmas: str) -> None:
        self._path = path
        self._pragmas = pragmas
        self._thread = ThreadPoolExecutor(1, name)
        self._connection: sqlite3.Connection | None = None
        self._working: asyncio.Future[Any] | None = None

    async def run(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """What `act` returns; raises what it raises."""
        while self._working is not None:
            await asyncio.wait((self._working,))
        working = self._working = asyncio.get_running_loop().run_in_executor(self._thread, self._act, act)
        working.add_done_callback(self._done)
        return await asyncio.shield(working)

    def _done(self, worked: asyncio.Future[Any]) -> None:
        self._working = None
        if not worked.cancelled():
            worked.exception()  # looked at: who asked may have gone

    async def close(self) -> None:
        """Wait for what was begun. No call may follow."""
        await asyncio.to_thread(self._thread.shutdown)
        if self._connection is not None:
            self._connection.close()

    def _act(self, act: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                # opened in its thread, and closed when that has ended
                self._connection = sqlite3.connect(
                    self._path, timeout=BUSY, isolation_level=None, check_same_thread=False
                )
                for pragma in self._pragmas:
                    self._connection.execute(pragma)
            return act(self._connection)
        except BaseException:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            raise


def _scalar(connection: sqlite3.Connection, sql: str) -> Any:
    rows = connection.execute(sql).fetchall()
    if not rows:
        raise sqlite3.DatabaseError(f"no row where one is expected: {sql}")
    return rows[0][0]


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _use_wal(path: Path) -> None:
    """Written into the file for good; not possible inside a transaction, which every connection of the engine is in."""
    with closing(sqlite3.connect(path, timeout=BUSY, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=str(path)),
        connect_args={"timeout": BUSY},
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=BUSY,
    )
    sa.event.listen(engine.sync_engine, "connect", _on_connect)
    sa.event.listen(engine.sync_engine, "begin", _on_begin)
    sa.event.listen(engine.sync_engine, "invalidate", _on_invalidate)
    return engine


def _on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # the driver shall begin no transaction of its own: it would begin late, and not around a change of schema
    connection.isolation_level = None


def _on_invalidate(connection: Any, _entry: ConnectionPoolEntry, _error: BaseException | None) -> None:
    """Roll back what a cancelled call leaves, before the connection is closed: a statement of it that is not finished,
    and that whoever looks at the cancellation's traceback keeps, would otherwise keep the write lock."""
    rolling = asyncio.ensure_future(
        connection.driver_connection.rollback()
    )  # goes to the driver's thread before the close
    _rolling.add(rolling)
    rolling.add_done_callback(_rolled)


def _rolled(rolling: asyncio.Future[None]) -> None:
    _rolling.discard(rolling)
    if not rolling.cancelled():
        rolling.exception()  # looked at: the close says the same, and is heard


def _on_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
