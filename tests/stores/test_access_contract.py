"""One contract for every store of keys, projects and limits."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from penstock.limits import Limit
from penstock.stores.base import (
    Access,
    AmbiguousName,
    KeyChange,
    KeyExists,
    KeyNotFound,
    KeyRevoked,
    Known,
    LimitNotFound,
    NewKey,
    NewProject,
    ProjectArchived,
    ProjectChange,
    ProjectExists,
    ProjectNotFound,
)
from penstock.stores.memory import MemoryAccess
from penstock.stores.sqlaccess import SqlAccess
from support.databases import KINDS, Place, place_of

Opened = tuple[Access, Callable[[], Awaitable[None]]]
Open = Callable[[], Awaitable[Opened]]

CHANGEABLE = KeyChange.__struct_fields__


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


# -- what else a key has


def test_a_key_keeps_all_that_it_was_given_and_what_it_is_changed_to(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        project = await keys.create_project(NewProject("prj_1", "web"))
        new = msgspec.structs.replace(
            a_key(),
            project_id=project.id,
            endpoints=("chat.completions",),
            expires_at=1_800_000_000.5,
            weight=2.5,
            metadata={"team": "späti"},
        )
        made = await keys.create_key(new)
        assert {name: getattr(made, name) for name in CHANGEABLE} == {name: getattr(new, name) for name in CHANGEABLE}
        known = await keys.lookup(new.digest)
        assert known == Known(made, project, ())
        change = KeyChange("other", ("gpt-*",), "", (), None, 1.0, {})
        changed = await keys.edit_key(made.id, change)
        assert {name: getattr(changed, name) for name in CHANGEABLE} == msgspec.structs.asdict(change)
        assert await keys.lookup(new.digest) == Known(changed, None, ())
        assert await keys.key("other") == changed

    run(opened, scenario)


def test_a_change_leaves_what_it_does_not_name(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        made = await keys.create_key(a_key(models=("gpt-5.4",)))
        changed = await keys.edit_key("reports", KeyChange(weight=3.0))
        assert changed == msgspec.structs.replace(made, weight=3.0)

    run(opened, scenario)


def test_what_changes_nothing_moves_no_generation_and_the_rest_does(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        seen = [await keys.generation()]

        async def moved(by: int, call: Awaitable[object]) -> None:
            await call
            seen.append(await keys.generation())
            assert seen[-1] == seen[-2] + by

        limit = Limit("key", "key_0001", "rpm", 60)
        await moved(1, keys.create_project(NewProject("prj_1", "web")))
        await moved(1, keys.create_key(a_key()))
        await moved(1, keys.edit_key("reports", KeyChange(project_id="prj_1")))
        await moved(0, keys.edit_key("reports", KeyChange(project_id="prj_1", name="reports")))
        await moved(1, keys.set_limit(limit))
        await moved(0, keys.set_limit(limit))
        await moved(1, keys.set_limit(msgspec.structs.replace(limit, amount=61)))
        await moved(1, keys.remove_limit(limit.id))
        await moved(1, keys.edit_project("web", ProjectChange(models=("gpt-*",))))
        await moved(0, keys.edit_project("web", ProjectChange(models=("gpt-*",))))
        await moved(1, keys.archive_project("web"))
        await moved(0, keys.archive_project("web"))
        await moved(1, keys.revoke_key("reports"))
        await moved(0, keys.revoke_key("reports"))

    run(opened, scenario)


def test_a_revoked_key_is_not_changed(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        made = await keys.create_key(a_key())
        revoked = await keys.revoke_key(made.id)
        with pytest.raises(KeyRevoked):
            await keys.edit_key(made.id, KeyChange(weight=2.0))
        with pytest.raises(KeyRevoked):
            await keys.set_limit(Limit("key", made.id, "rpm", 1))
        assert await keys.key(made.id) == revoked
        with pytest.raises(KeyNotFound):
            await keys.edit_key("nobody", KeyChange(weight=2.0))

    run(opened, scenario)


def test_a_key_and_its_limits_are_kept_together_or_not_at_all(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        limits = (Limit("key", "key_0001", "rpm", 60), Limit("key", "key_0001", "usd_per_month", 12_500_000_000))
        made = await keys.create_key(a_key(), limits)
        assert await keys.lookup(a_key().digest) == Known(made, None, limits)
        again = msgspec.structs.replace(a_key(2), digest=a_key().digest)
        with pytest.raises(KeyExists):
            await keys.create_key(again, (Limit("key", "key_0002", "rpm", 1),))
        assert await keys.limits() == limits

    run(opened, scenario)


# -- projects


def test_a_project_keeps_what_it_was_given_and_what_it_is_changed_to(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        new = NewProject("prj_1", "web", ("gpt-*",), ("responses",), {"owner": "ada"}, True)
        made = await keys.create_project(new)
        assert msgspec.structs.asdict(new).items() <= msgspec.structs.asdict(made).items()
        assert made.created_at >= 1_700_000_000
        assert await keys.project("web") == await keys.project("prj_1") == made
        change = ProjectChange("site", (), (), {}, False)
        changed = await keys.edit_project("web", change)
        assert msgspec.structs.asdict(change).items() <= msgspec.structs.asdict(changed).items()
        assert await keys.projects() == (changed,)

    run(opened, scenario)


def test_the_keys_of_an_archived_project_work_no_more(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        await keys.create_project(NewProject("prj_1", "web"))
        await keys.create_key(msgspec.structs.replace(a_key(), project_id="prj_1"))
        assert await keys.lookup(a_key().digest) is not None
        archived = await keys.archive_project("web")
        assert archived.archived_at is not None
        assert await keys.archive_project("web") == archived
        assert await keys.lookup(a_key().digest) is None
        for refused in (
            keys.create_key(msgspec.structs.replace(a_key(2), project_id="prj_1")),
            keys.edit_key("reports", KeyChange(project_id="prj_1")),
            keys.edit_project("web", ProjectChange(name="site")),
            keys.set_limit(Limit("project", "prj_1", "rpm", 1)),
        ):
            with pytest.raises(ProjectArchived):
                await refused

    run(opened, scenario)


def test_a_name_is_one_projects_until_it_is_archived(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        await keys.create_project(NewProject("prj_1", "web"))
        await keys.create_project(NewProject("prj_2", "site"))
        with pytest.raises(ProjectExists):
            await keys.create_project(NewProject("prj_3", "web"))
        with pytest.raises(ProjectExists):
            await keys.edit_project("site", ProjectChange(name="web"))
        await keys.archive_project("web")
        second = await keys.edit_project("site", ProjectChange(name="web"))
        assert await keys.project("web") == second  # the one that is not archived
        assert (await keys.project("prj_1")).archived_at is not None
        assert [project.id for project in await keys.projects()] == ["prj_1", "prj_2"]

    run(opened, scenario)


def test_of_several_projects_of_a_name_made_at_once_one_is_kept(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        calls = (keys.create_project(NewProject(f"prj_{n}", "web")) for n in range(3))
        made = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(type(result).__name__ for result in made) == ["ProjectExists", "ProjectExists", "ProjectRecord"]

    run(opened, scenario)


def test_a_project_that_is_not_there_is_told(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        await keys.create_key(a_key())
        for refused in (
            keys.project("web"),
            keys.edit_project("web", ProjectChange(name="site")),
            keys.archive_project("web"),
            keys.create_key(msgspec.structs.replace(a_key(2), project_id="prj_1")),
            keys.edit_key("reports", KeyChange(project_id="prj_1")),
            keys.set_limit(Limit("project", "prj_1", "rpm", 1)),
        ):
            with pytest.raises(ProjectNotFound):
                await refused

    run(opened, scenario)


# -- limits


def test_a_limit_is_kept_whole_and_found_with_its_key(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        await keys.create_project(NewProject("prj_1", "web"))
        made = await keys.create_key(msgspec.structs.replace(a_key(), project_id="prj_1"))
        own = (
            Limit("key", made.id, "tpm", 2**62, "gpt-5.4/fast*"),
            Limit("key", made.id, "usd_total", 1, rolling=True, hard=True, shadow=True, fails_open=False),
        )
        shared = (Limit("project", "prj_1", "rpm", 600, fails_open=True),)
        for limit in (*shared, *reversed(own)):
            await keys.set_limit(limit)
        known = await keys.lookup(a_key().digest)
        assert known is not None
        assert known.limits == (*own, *shared)
        assert await keys.limits() == (*own, *shared)
        assert await keys.limits("key") == await keys.limits("key", made.id) == own
        assert await keys.limits("project", "prj_1") == shared
        assert await keys.limits("project", "prj_2") == ()

    run(opened, scenario)


def test_there_is_one_limit_for_a_meter_and_a_model(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        await keys.create_key(a_key())
        first = Limit("key", "key_0001", "rpm", 60)
        second = Limit("key", "key_0001", "rpm", 6, "gpt-5.4")
        later = Limit("key", "key_0001", "rpm", 30, shadow=True)
        for limit in (first, second, later):
            await keys.set_limit(limit)
        assert await keys.limits() == (later, second)
        assert await keys.remove_limit(second.id) == second
        with pytest.raises(LimitNotFound):
            await keys.remove_limit(second.id)
        with pytest.raises(LimitNotFound):
            await keys.remove_limit("nonsense")
        assert await keys.limits() == (later,)

    run(opened, scenario)


def test_a_limit_holds_for_a_key_that_is_there(opened: Open) -> None:
    async def scenario(keys: Access) -> None:
        with pytest.raises(KeyNotFound):
            await keys.set_limit(Limit("key", "key_0001", "rpm", 60))
        assert await keys.limits() == ()

    run(opened, scenario)
