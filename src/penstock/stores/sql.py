"""Keys in SQLite: SQLAlchemy Core over aiosqlite, one file in the data directory, mode 0600.

How it works: the file is in WAL mode, so readers never wait for a writer. A change is one transaction begun with
BEGIN IMMEDIATE, which takes the write lock at once and waits for it up to BUSY seconds: several processes that
change keys at the same time go one after the other, and none is told "locked" half-way, as a transaction would be
that reads first and asks to write later.

Opening reads the schema's version with one query. Only when it is not the current one is Alembic loaded and run,
in one transaction under a lock on a file beside the database, so that of several processes which start at once
one migrates and the others find the work done.

When it fails: anything the database, the driver or the disk reports is raised as StoreUnavailable with the
database's own words. Nothing is retried here but what BUSY covers.

What it refuses: a database from a newer version, and, so far, every store that is not SQLite.
"""

from __future__ import annotations

import asyncio
import fcntl
import hmac
import importlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from penstock.stores.base import KeyExists, KeyRecord, NewKey, StoreUnavailable, choose

FILE = "penstock.db"
SCHEMA = "0001"  # the newest revision in migrations/versions
BUSY = 5.0  # how long a change waits for another process's
SETUP = 30.0  # how long opening waits for another process's migration
CONNECTIONS = 4

metadata = sa.MetaData()
_keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
)
_generation = sa.Table(
    "key_generation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("value", sa.BigInteger, nullable=False),
)
_record = (_keys.c.id, _keys.c.name, _keys.c.models, _keys.c.hint, _keys.c.created_at, _keys.c.revoked_at)
_oldest_first = (_keys.c.created_at, _keys.c.id)


async def open_keys(store: str, directory: Path, clock: Callable[[], float] = time.time) -> SqlKeys:
    """The keys in `directory`, made or migrated as needed; `store` is the setting `server.store`."""
    if store != "sqlite":
        raise StoreUnavailable('server.store: only "sqlite" is served by this version')
    path = directory / FILE
    with _reported(path):
        # made here, for SQLite would make it as the umask has it; its -wal and -shm files take the same mode
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    engine = _engine(path)
    keys = SqlKeys(engine, path, clock)
    try:
        if not await keys.current():
            async with _alone(path.with_name(FILE + ".lock")):
                await keys.migrate()
    except BaseException:
        await asyncio.shield(keys.close())
        raise
    return keys


class SqlKeys:
    """Implements `stores.base.Keys` on an engine that `open_keys` made ready."""

    def __init__(self, engine: AsyncEngine, path: Path, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._path = path
        self._clock = clock

    async def create(self, key: NewKey) -> KeyRecord:
        async with self._change() as connection:
            return await self._insert(connection, key)

    async def create_first(self, key: NewKey) -> KeyRecord | None:
        async with self._change() as connection:
            if (await connection.execute(sa.select(_keys.c.id).limit(1))).first() is not None:
                return None
            return await self._insert(connection, key)

    async def _insert(self, connection: AsyncConnection, key: NewKey) -> KeyRecord:
        record = KeyRecord(key.id, key.name, key.models, key.hint, self._clock())
        values = {
            "id": record.id,
            "digest": key.digest,
            "name": record.name,
            "models": list(record.models),
            "hint": record.hint,
            "created_at": record.created_at,
        }
        try:
            await connection.execute(_keys.insert().values(values))
        except sa.exc.IntegrityError as error:
            raise KeyExists(key.id) from error
        await self._move(connection)
        return record

    async def list(self) -> tuple[KeyRecord, ...]:
        async with self._read() as connection:
            rows = await connection.execute(sa.select(*_record).order_by(*_oldest_first))
            return tuple(_to_record(row) for row in rows)

    async def revoke(self, id_or_name: str) -> KeyRecord:
        async with self._change() as connection:
            matching = sa.or_(_keys.c.id == id_or_name, _keys.c.name == id_or_name)
            rows = await connection.execute(sa.select(*_record).where(matching).order_by(*_oldest_first))
            chosen = choose(tuple(_to_record(row) for row in rows), id_or_name)
            if chosen.revoked_at is not None:
                return chosen
            now = self._clock()
            await connection.execute(_keys.update().where(_keys.c.id == chosen.id).values(revoked_at=now))
            await self._move(connection)
            return KeyRecord(chosen.id, chosen.name, chosen.models, chosen.hint, chosen.created_at, now)

    async def lookup(self, digest: bytes) -> KeyRecord | None:
        async with self._read() as connection:
            query = sa.select(*_record, _keys.c.digest).where(_keys.c.digest == digest)
            row = (await connection.execute(query)).first()
        if row is None or not hmac.compare_digest(row.digest, digest) or row.revoked_at is not None:
            return None
        return _to_record(row)

    async def generation(self) -> int:
        async with self._read() as connection:
            return int((await connection.execute(sa.select(_generation.c.value))).scalar_one())

    async def close(self) -> None:
        await self._engine.dispose()

    async def current(self) -> bool:
        """Whether the schema is this version's, by one query."""
        async with self._read() as connection:
            try:
                version = await connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            except sa.exc.OperationalError as error:
                if "no such table" not in str(error.orig):
                    raise
                return False
            return bool(version == SCHEMA)

    async def migrate(self) -> None:
        """Bring the schema to this version's; the caller is alone, but for processes that are done with this."""
        module = await asyncio.to_thread(_load_alembic)
        with _reported(self._path):
            await asyncio.to_thread(_use_wal, self._path)
        async with self._change() as connection:
            await connection.run_sync(module.upgrade)

    @staticmethod
    async def _move(connection: AsyncConnection) -> None:
        await connection.execute(_generation.update().values(value=_generation.c.value + 1))

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        with _reported(self._path):
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[AsyncConnection]:
        with _reported(self._path):
            async with self._engine.connect() as connection:
                await connection.execution_options(write=True)
                async with connection.begin():
                    yield connection


class _reported:
    """Raises as StoreUnavailable what the database, its driver or the disk raised inside."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, sa.exc.DBAPIError):
            raise StoreUnavailable(f"{self._path}: {error.orig}") from error
        if isinstance(error, sa.exc.SQLAlchemyError | sqlite3.Error):
            raise StoreUnavailable(f"{self._path}: {error}") from error
        if isinstance(error, OSError):
            raise StoreUnavailable(f"{self._path}: {error.strerror or error}") from error


def _to_record(row: sa.Row[*tuple[Any, ...]]) -> KeyRecord:
    return KeyRecord(row.id, row.name, tuple(row.models), row.hint, row.created_at, row.revoked_at)


def _load_alembic() -> ModuleType:
    return importlib.import_module("penstock.stores.migrate")


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
    return engine


def _on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # the driver shall begin no transaction of its own: it would begin late, and not around a change of schema
    connection.isolation_level = None


def _on_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[None]:
    """Hold the lock on the file at `path`, which the kernel frees should this process die."""
    with _reported(path):
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


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
