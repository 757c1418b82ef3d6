"""Databases beneath the stores: made private, migrated once, shared by versions, and away for a while."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from penstock.limits import Limit
from penstock.stores import database, migrate, schema, sqlite
from penstock.stores import postgres as engines
from penstock.stores.base import Access, NewKey, StoreUnavailable
from penstock.stores.database import Database
from penstock.stores.sqlaccess import SqlAccess
from support.databases import Place
from support.postgres import PostgresServer, postgres_server


def a_key(number: int = 1) -> NewKey:
    return NewKey(f"key_{number:04}", "reports", (), "sk-p...wxyz", number.to_bytes(32, "big"))


def run(place: Place, scenario: Callable[[Access], Awaitable[None]]) -> None:
    """`scenario` with what is kept of access in the database at `place`, opened for it."""

    async def main() -> None:
        opened = await place.open()
        try:
            await scenario(SqlAccess(opened))
        finally:
            await opened.close()

    asyncio.run(main())


async def nothing(_keys: Access) -> None:
    """Opening was all."""


def inspected(place: Place, look: Callable[[sa.Connection], None]) -> None:
    async def main() -> None:
        opened = await place.open()
        async with opened.read() as connection:
            await connection.run_sync(look)
        await opened.close()

    asyncio.run(main())


# -- the schema


def test_the_schema_in_the_code_is_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(migrate.settings()).get_heads() == [schema.SCHEMA]


def test_the_tables_in_the_code_are_those_that_the_revisions_make(place: Place) -> None:
    def look(connection: sa.Connection) -> None:
        inspector = sa.inspect(connection)
        assert set(inspector.get_table_names()) == {*schema.metadata.tables, "alembic_version"}
        for table in schema.metadata.tables.values():
            made = [(column["name"], column["nullable"]) for column in inspector.get_columns(table.name)]
            assert made == [(column.name, column.nullable) for column in table.columns], table.name
            key = inspector.get_pk_constraint(table.name)
            assert key["constrained_columns"] == list(table.primary_key.columns.keys())
            indexes = [index for index in inspector.get_indexes(table.name) if "duplicates_constraint" not in index]
            assert {index["name"] for index in indexes} == {index.name for index in table.indexes}, table.name

    inspected(place, look)


def test_every_revision_says_which_programs_it_still_serves() -> None:
    revisions = ScriptDirectory.from_config(migrate.settings()).walk_revisions()
    assert all(revision.module.compatible_since <= revision.revision for revision in revisions)


def test_a_database_of_the_first_version_keeps_its_keys(tmp_path: Path) -> None:
    old = tmp_path / "migrations"
    shutil.copytree(schema.VERSIONS.parent, old)
    for path in (old / "versions").glob("r*.py"):
        if not path.name.startswith("r0001"):
            path.unlink()
    connection = sqlite3.connect(tmp_path / sqlite.FILE)
    engine = sa.create_engine("sqlite://", creator=lambda: connection)
    config = migrate.settings()
    config.set_main_option("script_location", str(old))
    with engine.begin() as alembic:
        config.attributes["connection"] = alembic
        command.upgrade(config, "head")
        row = "INSERT INTO keys (id, digest, name, models, hint, created_at) VALUES ('k', :digest, 'a', '[]', 'h', 1)"
        alembic.execute(sa.text(row), {"digest": a_key().digest})
    engine.dispose()

    async def scenario(keys: Access) -> None:
        known = await keys.lookup(a_key().digest)
        assert known is not None
        assert (known.key.weight, known.key.metadata, known.key.endpoints, known.project) == (1.0, {}, (), None)

    run(Place("sqlite", tmp_path), scenario)


LATER = """
import sqlalchemy as sa
from alembic import op

revision = "9000"
down_revision = {down!r}
branch_labels = None
depends_on = None
compatible_since = {since!r}


def upgrade():
    op.add_column("keys", sa.Column("colour", sa.Text, nullable=False, server_default="blue"))
    op.create_table("colours", sa.Column("name", sa.Text, primary_key=True))
"""


@contextmanager
def later_version(directory: Path, since: str) -> Iterator[None]:
    """A version of Penstock with one more revision, which serves programs from the schema `since` on."""
    migrations = directory / "later"
    shutil.copytree(schema.VERSIONS.parent, migrations)
    (migrations / "versions" / "r9000_colours.py").write_text(LATER.format(down=schema.SCHEMA, since=since))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "VERSIONS", migrations / "versions")
        patch.setattr(database, "SCHEMA", "9000")
        yield


def test_a_version_that_runs_goes_on_and_starts_again_beside_a_migrated_database(place: Place, tmp_path: Path) -> None:
    async def used(opened: Database, number: int) -> None:
        keys = SqlAccess(opened)
        await keys.create_key(a_key(number), (Limit("key", a_key(number).id, "rpm", 60),))
        known = await keys.lookup(a_key(number).digest)
        assert known is not None
        assert len(known.limits) == 1

    async def main() -> None:
        running = await place.open()
        await used(running, 1)
        with later_version(tmp_path, since=schema.SCHEMA):
            newer = await place.open()
            async with newer.read() as connection:
                assert (await connection.execute(sa.text("SELECT colour FROM keys"))).scalar_one() == "blue"
        await used(running, 2)
        again = await place.open()
        await used(again, 3)
        await used(newer, 4)
        for opened in (running, newer, again):
            await opened.close()

    asyncio.run(main())


def test_a_database_whose_newer_version_serves_no_older_programs_is_refused(place: Place, tmp_path: Path) -> None:
    with later_version(tmp_path, since="9000"):
        run(place, nothing)
    with pytest.raises(StoreUnavailable, match="newer version of Penstock"):
        run(place, nothing)


def test_a_migration_that_fails_changes_nothing(place: Place, tmp_path: Path) -> None:
    run(place, nothing)
    with later_version(tmp_path, since="9000"):
        file = tmp_path / "later" / "versions" / "r9000_colours.py"
        file.write_text(file.read_text() + '    op.drop_table("no_such_table")\n')
        with pytest.raises(StoreUnavailable, match="no_such_table"):
            run(place, nothing)

    def look(connection: sa.Connection) -> None:
        assert not sa.inspect(connection).has_table("colours")

    inspected(place, look)


def test_several_that_start_at_once_on_an_empty_database_all_work(place: Place) -> None:
    async def main() -> None:
        opened = await asyncio.gather(*(place.open() for _ in range(4)))
        await asyncio.gather(*(SqlAccess(one).create_key(a_key(n)) for n, one in enumerate(opened)))
        assert len(await SqlAccess(opened[0]).keys()) == 4
        for one in opened:
            await one.close()

    asyncio.run(main())


# -- SQLite


def test_the_generation_is_read_while_another_writes_and_again_after_it_could_not_be(tmp_path: Path) -> None:
    async def scenario(keys: Access) -> None:
        with closing(sqlite3.connect(tmp_path / sqlite.FILE, isolation_level=None)) as other:
            assert await keys.generation() == 0
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE key_generation SET value = 7")
            assert await keys.generation() == 0
            other.execute("COMMIT")
            assert await keys.generation() == 7
            other.execute("DELETE FROM key_generation")
            with pytest.raises(StoreUnavailable, match="no row"):
                await keys.generation()
            other.execute("ALTER TABLE key_generation RENAME TO away")
            with pytest.raises(StoreUnavailable, match="no such table"):
                await keys.generation()
            other.execute("ALTER TABLE away RENAME TO key_generation")
            other.execute("INSERT INTO key_generation VALUES (1, 8)")
            assert await keys.generation() == 8

    run(Place("sqlite", tmp_path), scenario)


def test_nothing_piles_up_behind_a_reading_that_hangs_though_who_asked_has_gone(tmp_path: Path) -> None:
    begun, thaw, worked = threading.Event(), threading.Event(), []

    def hang(_connection: sqlite3.Connection) -> None:
        begun.set()
        thaw.wait(10)
        worked.append("hung")

    async def main() -> None:
        apart = sqlite.Apart(tmp_path / sqlite.FILE, "reading")
        first = asyncio.ensure_future(apart.run(hang))
        await asyncio.to_thread(begun.wait, 10)
        others = [asyncio.ensure_future(apart.run(lambda _connection: worked.append("more"))) for _ in range(5)]
        await asyncio.sleep(0)
        for each in (first, *others):
            each.cancel()
        await asyncio.gather(first, *others, return_exceptions=True)
        last = asyncio.ensure_future(apart.run(lambda connection: connection.execute("SELECT 7").fetchone()))
        thaw.set()
        assert await last == (7,)
        assert worked == ["hung"]
        await apart.close()

    asyncio.run(main())


# -- PostgreSQL


def test_a_server_that_was_stopped_or_stood_still_is_used_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "STATEMENT", 0.3)

    async def main() -> None:
        opened = await Place(server.create(), Path()).open()
        keys = SqlAccess(opened)
        await keys.create_key(a_key())
        server.stop()
        with pytest.raises(StoreUnavailable, match="No such file"):
            await keys.generation()
        server.start()
        assert await keys.generation() == 1
        server.freeze()
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            await keys.generation()
        server.thaw()
        assert await keys.generation() == 1
        await opened.close()

    with postgres_server() as server:
        asyncio.run(main())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://penstock:hunter2@127.0.0.1:1/db",
        "postgresql://penstock:hunter2@/db?host=/nonexistent",
        "postgresql://penstock@/db?host=/nonexistent&password=hunter2",
    ],
)
def test_what_is_said_of_a_database_that_is_not_there_has_no_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"PostgreSQL at .*, database db") as raised:
        asyncio.run(database.open_database(url, tmp_path))
    error: BaseException | None = raised.value
    while error is not None:
        assert "hunter2" not in repr(error)
        error = error.__cause__


def test_a_user_that_may_not_change_tables_is_told_what_to_do_and_uses_what_another_made(
    postgres: PostgresServer,
) -> None:
    owner = postgres.create()
    name = owner.partition("@/")[2].partition("?")[0]
    postgres.sql(name, f"CREATE ROLE guest_{name} LOGIN")
    guest = Place(owner.replace("postgres@", f"guest_{name}@"), Path())
    with pytest.raises(StoreUnavailable, match="penstock migrate"):
        run(guest, nothing)
    run(Place(owner, Path()), nothing)
    postgres.sql(name, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest_{name}")

    async def scenario(keys: Access) -> None:
        await keys.create_key(a_key())
        assert await keys.generation() == 1

    run(guest, scenario)


def test_a_change_waits_for_another_only_so_long(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BUSY", 0.2)

    async def main() -> None:
        opened = await Place(postgres.create(), Path()).open()
        keys = SqlAccess(opened)
        async with opened.change() as connection:
            await connection.execute(sa.select(schema.generation.c.value).with_for_update())
            with pytest.raises(StoreUnavailable, match="lock timeout"):
                await keys.create_key(a_key())
            assert await keys.keys() == ()  # readers do not wait
        await keys.create_key(a_key())
        await opened.close()

    asyncio.run(main())


# -- SQLite


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def test_every_file_of_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    async def scenario(keys: Access) -> None:
        await keys.create_key(a_key())
        assert {f"{sqlite.FILE}-wal", f"{sqlite.FILE}-shm"} <= modes(tmp_path).keys()
        assert set(modes(tmp_path).values()) == {0o600}

    before = os.umask(0)
    try:
        run(Place("sqlite", tmp_path), scenario)
    finally:
        os.umask(before)


def test_a_database_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    async def scenario(keys: Access) -> None:
        assert modes(tmp_path)[sqlite.FILE] == 0o600

    (tmp_path / sqlite.FILE).touch(mode=0o644)
    run(Place("sqlite", tmp_path), scenario)


def test_a_current_database_opens_without_alembic(tmp_path: Path) -> None:
    run(Place("sqlite", tmp_path), nothing)
    script = (
        "import asyncio, sys, pathlib\n"
        "from penstock.stores.sql import open_stores\n"
        "async def main():\n"
        "    stores = await open_stores('sqlite', pathlib.Path(sys.argv[1]))\n"
        "    await stores.close()\n"
        "asyncio.run(main())\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 0


def test_processes_that_start_at_once_migrate_once_and_all_keep_their_keys(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, sys, pathlib\n"
        "from penstock.stores.base import NewKey\n"
        "from penstock.stores.sql import open_stores\n"
        "async def main():\n"
        "    sys.stdin.readline()\n"
        "    stores = await open_stores('sqlite', pathlib.Path(sys.argv[1]))\n"
        "    for n in range(10):\n"
        "        await stores.access.create_key(NewKey(f'key_{sys.argv[2]}_{n}', 'n', (), 'h', os.urandom(32)))\n"
        "    await stores.close()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE) for n in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0, 0, 0]

    async def scenario(keys: Access) -> None:
        assert len(await keys.keys()) == 30
        assert await keys.generation() == 30

    run(Place("sqlite", tmp_path), scenario)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / sqlite.FILE).write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        run(Place("sqlite", tmp_path), nothing)


def test_a_database_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        run(Place("sqlite", tmp_path / "missing"), nothing)


def test_another_kind_of_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="sqlite"):
        asyncio.run(database.open_database("mysql://db/penstock", tmp_path))


def test_a_writer_that_holds_the_lock_too_long_makes_a_change_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY", 0.1)

    async def scenario(keys: Access) -> None:
        with closing(sqlite3.connect(tmp_path / sqlite.FILE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                await keys.create_key(a_key())
            assert await keys.keys() == ()  # readers do not wait for the writer
            other.execute("ROLLBACK")
        await keys.create_key(a_key())

    run(Place("sqlite", tmp_path), scenario)
