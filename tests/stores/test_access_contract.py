"""One contract for every store of keys, and what is SQLite's own."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from penstock.stores import database, migrate, schema, sqlite
from penstock.stores.base import Access, AmbiguousName, KeyExists, KeyNotFound, Known, NewKey, StoreUnavailable
from penstock.stores.memory import MemoryAccess
from penstock.stores.sqlaccess import SqlAccess
from support.databases import KINDS, Place, place_of

Opened = tuple[Access, Callable[[], Awaitable[None]]]
Open = Callable[[], Awaitable[Opened]]


async def nothing_to_close() -> None:
    """Memory needs none."""


def ticking() -> Callable[[], float]:
    ticks = itertools.count(1_700_000_000)
    return lambda: float(next(ticks))


def in_database(place: Place) -> Open:
    """Gives stores that share one database, each one with connections of its own."""
    clock = ticking()

    async def opened() -> Opened:
        database = await place.open()
        return SqlAccess(database, clock), database.close

    return opened


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param != "memory":
        return in_database(place_of(request.param, request, tmp_path))
    shared = MemoryAccess(ticking())

    async def same() -> Opened:
        return shared, nothing_to_close

    return same


def run(opened: Open, scenario: Callable[[Access], Awaitable[None]]) -> None:
    async def main() -> None:
        keys, close = await opened()
        try:
            await scenario(keys)
        finally:
            await close()

    asyncio.run(main())


async def nothing(_keys: Access) -> None:
    """Opening was all."""


def a_key(number: int = 1, name: str = "reports", models: tuple[str, ...] = ()) -> NewKey:
    return NewKey(f"key_{number:04}", name, models, "sk-p...wxyz", hashlib.sha256(b"%d" % number).digest())


def test_a_kept_key_is_found_by_its_digest_with_all_that_was_given(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        new = a_key(models=("gpt-5.4", "local-*"))
        made = await keys.create_key(new)
        assert (made.id, made.name, made.models, made.hint) == (new.id, new.name, new.models, new.hint)
        assert made.created_at >= 1_700_000_000
        assert made.revoked_at is None
        assert await keys.lookup(new.digest) == Known(made, None, ())

    run(opened, scenario)


def test_an_unknown_digest_is_nobodys(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        await keys.create_key(a_key())
        assert await keys.lookup(a_key(2).digest) is None
        assert await keys.lookup(b"") is None

    run(opened, scenario)


def test_a_revoked_key_is_found_no_more_and_stays_listed(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        new = a_key()
        await keys.create_key(new)
        revoked = await keys.revoke_key(new.id)
        assert revoked.revoked_at is not None
        assert await keys.lookup(new.digest) is None
        assert await keys.keys() == (revoked,)

    run(opened, scenario)


def test_revoking_again_changes_nothing(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        await keys.create_key(a_key())
        first = await keys.revoke_key("reports")
        generation = await keys.generation()
        assert await keys.revoke_key("reports") == first
        assert await keys.revoke_key(first.id) == first
        assert await keys.generation() == generation

    run(opened, scenario)


def test_a_digest_is_kept_once_even_after_it_was_revoked(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        await keys.create_key(a_key())
        generation = await keys.generation()
        again = NewKey("key_other", "other", (), "x", a_key().digest)
        with pytest.raises(KeyExists):
            await keys.create_key(again)
        await keys.revoke_key("reports")
        with pytest.raises(KeyExists):
            await keys.create_key(again)
        assert await keys.generation() == generation + 1
        assert len(await keys.keys()) == 1

    run(opened, scenario)


def test_a_name_that_several_working_keys_have_revokes_none(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        for number in (1, 2):
            await keys.create_key(a_key(number))
        with pytest.raises(AmbiguousName) as raised:
            await keys.revoke_key("reports")
        assert raised.value.ids == ("key_0001", "key_0002")
        await keys.revoke_key("key_0001")
        assert (await keys.revoke_key("reports")).id == "key_0002"
        assert (await keys.revoke_key("reports")).id == "key_0002"

    run(opened, scenario)


def test_an_id_wins_over_a_name(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        await keys.create_key(a_key(1, name="key_0002"))
        await keys.create_key(a_key(2))
        assert (await keys.revoke_key("key_0002")).name == "reports"

    run(opened, scenario)


def test_a_key_that_is_not_there_cannot_be_revoked(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        with pytest.raises(KeyNotFound):
            await keys.revoke_key("nobody")

    run(opened, scenario)


def test_every_change_moves_the_generation_for_every_connection(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        other, close = await opened()
        seen = [await other.generation()]
        await keys.create_key(a_key())
        seen.append(await other.generation())
        await keys.revoke_key("reports")
        seen.append(await other.generation())
        assert await other.lookup(a_key().digest) is None
        assert len(set(seen)) == 3
        await close()

    run(opened, scenario)


def test_changes_at_the_same_time_all_count(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        pairs = [await opened() for _ in range(3)]
        others = [other for other, _ in pairs]
        before = await keys.generation()
        await asyncio.gather(*(others[n % 3].create_key(a_key(n)) for n in range(24)))
        await asyncio.gather(*(others[n % 3].revoke_key(f"key_{n:04}") for n in range(24)))
        assert len(await keys.keys()) == 24
        assert all(record.revoked_at for record in await keys.keys())
        assert await keys.generation() == before + 48
        for _, close in pairs:
            await close()

    run(opened, scenario)


def test_of_several_first_keys_one_is_kept(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        pairs = [await opened() for _ in range(3)]
        others = [other for other, _ in pairs]
        made = await asyncio.gather(*(other.create_first_key(a_key(n)) for n, other in enumerate(others)))
        assert len([record for record in made if record]) == 1
        assert len(await keys.keys()) == 1
        await keys.revoke_key("reports")
        assert await keys.create_first_key(a_key(9)) is None
        for _, close in pairs:
            await close()

    run(opened, scenario)


def test_keys_are_listed_oldest_first(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        for number in (3, 1, 2):
            await keys.create_key(a_key(number))
        assert [record.id for record in await keys.keys()] == ["key_0003", "key_0001", "key_0002"]

    run(opened, scenario)


def test_a_cancelled_change_is_there_whole_or_not_at_all(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        for turns in range(24):
            before = await keys.generation()
            task = asyncio.ensure_future(keys.create_key(a_key(turns)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            kept = await keys.lookup(a_key(turns).digest) is not None
            assert await keys.generation() == before + kept
        await keys.create_key(a_key(99))  # and the store still takes changes

    run(opened, scenario)


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
        run(in_database(Place("sqlite", tmp_path)), scenario)
    finally:
        os.umask(before)


def test_a_database_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    async def scenario(keys: Access) -> None:
        assert modes(tmp_path)[sqlite.FILE] == 0o600

    (tmp_path / sqlite.FILE).touch(mode=0o644)
    run(in_database(Place("sqlite", tmp_path)), scenario)


def test_the_schema_in_the_code_is_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(migrate.settings()).get_heads() == [schema.SCHEMA]


def test_the_tables_in_the_code_are_those_that_the_revisions_make(tmp_path: Path) -> None:
    async def scenario(keys: Access) -> None:
        with closing(sqlite3.connect(tmp_path / sqlite.FILE)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            for table in schema.metadata.tables.values():
                made = connection.execute(f"PRAGMA table_info({table.name})").fetchall()
                assert [(row[1], bool(row[3])) for row in made] == [
                    (column.name, not column.nullable) for column in table.columns
                ]

    run(in_database(Place("sqlite", tmp_path)), scenario)


def test_a_current_database_opens_without_alembic(tmp_path: Path) -> None:
    run(in_database(Place("sqlite", tmp_path)), nothing)
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

    run(in_database(Place("sqlite", tmp_path)), scenario)


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    run(in_database(Place("sqlite", tmp_path)), nothing)
    with closing(sqlite3.connect(tmp_path / sqlite.FILE)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("UPDATE schema_compatible SET since = '9999'")
        connection.commit()
    with pytest.raises(StoreUnavailable, match="newer version of Penstock"):
        run(in_database(Place("sqlite", tmp_path)), nothing)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / sqlite.FILE).write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        run(in_database(Place("sqlite", tmp_path)), nothing)


def test_a_database_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="No such file or directory"):
        run(in_database(Place("sqlite", tmp_path / "missing")), nothing)


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

    run(in_database(Place("sqlite", tmp_path)), scenario)
