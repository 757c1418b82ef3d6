"""PostgreSQL under the stores, by asyncpg: for servers on several hosts, or where a database is at hand.

How it works: the setting `server.store` is a URL as libpq knows it, and is asyncpg's to read: sslmode, a unix socket
as `host`, PGPASSWORD and ~/.pgpass mean what they mean to psql. It may hold a password, so it stands in no message;
`where` names host and database alone.

Every wait is bounded: connecting and waiting for a lock by BUSY seconds, a statement by STATEMENT, so that a server
that is frozen, or beyond a network that swallows packets, is reported instead of waited for. A connection is tried
before it is used again, so one that a restart of the server cut is replaced without anybody being told.

It is migrated under an advisory lock, in one transaction, which statement timeouts do not bind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from penstock.config.database import where
from penstock.stores.base import StoreUnavailable
from penstock.stores.database import BUSY, CONNECTIONS, SETUP, Database

STATEMENT = 10.0
FORBIDDEN = "42501"  # insufficient_privilege
MIGRATING = 0x50656E73  # the advisory lock's number, any that others are unlikely to take


def connect(store: str, _directory: Path) -> Database:
    """The database at the URL `store`; nothing is sent yet."""
    return PostgresDatabase(store)


class PostgresDatabase(Database):
    """The database at `url`."""

    def __init__(self, url: str) -> None:
        super().__init__(_engine(url, STATEMENT), where(url), (asyncpg.PostgresError, asyncpg.InterfaceError))
        self._url = url

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[AsyncConnection]:
        engine = _engine(self._url, None)
        try:
            with self.reported():
                async with engine.begin() as connection:
                    await connection.execute(sa.text(f"SET LOCAL lock_timeout = {int(SETUP * 1000)}"))
                    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATING)))
                    yield connection
        except StoreUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, sa.exc.DBAPIError) and getattr(cause.orig, "sqlstate", "") == FORBIDDEN:
                fix = (
                    "run `penstock migrate` with the URL of a user that may change tables, and grant this one their use"
                )
                raise StoreUnavailable(f"{error}: {fix}") from error
            raise
        finally:
            await engine.dispose()


def _engine(url: str, statement: float | None) -> AsyncEngine:
    milliseconds = str(int(BUSY * 1000))

    async def connected(*_arguments: Any, **_options: Any) -> asyncpg.Connection:
        return await asyncpg.connect(
            url,
            timeout=BUSY,
            command_timeout=statement,
            server_settings={"application_name": "penstock", "lock_timeout": milliseconds},
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connected,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=BUSY,
        pool_pre_ping=True,
    )
