"""Answers to workers: who a key is, when they are told to forget, what a failing store does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from penstock.control import keys as rooms
from penstock.control.keys import (
    ENVIRONMENT,
    InvalidKey,
    Lookups,
    both,
    check,
    check_limit,
    digest,
    generate,
    new_key,
    new_project,
)
from penstock.limits import Limit, Scope
from penstock.link import KeyLookup
from penstock.stores.base import Known, StoreUnavailable
from penstock.stores.memory import MemoryAccess
from penstock.types import Principal


class Breakable(MemoryAccess):
    """A store that can be made to fail, to hang, or to stop between its reading and its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = False
        self.held: asyncio.Event | None = None
        self.asked = 0
        self.limits_asked = 0
        self.found = asyncio.Event()

    async def lookup(self, digest: bytes) -> Known | None:
        self.asked += 1
        self._check()
        found = await super().lookup(digest)
        self.found.set()
        if self.held is not None:
            await self.held.wait()
        return found

    async def limits(self, scope: Scope | None = None, scope_id: str | None = None) -> tuple[Limit, ...]:
        self.limits_asked += 1
        self._check()
        return await super().limits(scope, scope_id)

    async def generation(self) -> int:
        self._check()
        return await super().generation()

    def _check(self) -> None:
        if self.failing:
            raise StoreUnavailable("the disk is gone")


class Room:
    """Lookups over a store, and what they said."""

    def __init__(self, environment_key: str | None = None) -> None:
        self.store = Breakable()
        self.now = 0.0
        self.changes = 0
        self.health: list[bool] = []
        self.lookups = Lookups(environment_key, self._change, self.health.append, 60.0, lambda: self.now)

    def _change(self) -> None:
        self.changes += 1


def run(scenario: Callable[[Room], Awaitable[None]], environment_key: str | None = None) -> None:
    async def main() -> None:
        room = Room(environment_key)
        await room.lookups.open(room.store)
        await scenario(room)

    asyncio.run(main())


KEY = "sk-penstock-for-tests-only"


def asking(key: str, ref: int = 7) -> KeyLookup:
    return KeyLookup(ref, digest(key))


def test_a_key_is_answered_with_its_owner_and_models() -> None:
    async def scenario(room: Room) -> None:
        made = await room.store.create_key(new_key(KEY, "reports", ("gpt-5.4",)))
        answer = await room.lookups.answer(asking(KEY))
        assert answer.ref == 7
        assert answer.available
        assert answer.principal is not None
        assert (answer.principal.key_id, answer.principal.name, answer.principal.models) == (
            made.id,
            "reports",
            ("gpt-5.4",),
        )

    run(scenario)


def test_a_key_of_a_project_is_answered_with_what_both_allow_and_what_bounds_them() -> None:
    async def scenario(room: Room) -> None:
        project = await room.store.create_project(
            new_project("web", models=("gpt-5*", "o3"), endpoints=("chat.completions", "responses"), keeps_content=True)
        )
        key = new_key(
            KEY,
            "reports",
            ("gpt-*", "local"),
            project_id=project.id,
            endpoints=("responses", "embeddings"),
            expires_at=1.0,
            weight=2.0,
        )
        made = await room.store.create_key(key)
        await room.lookups.look()
        assert (await room.lookups.answer(asking(KEY))).principal == Principal(
            made.id,
            "reports",
            ("gpt-5*",),
            project.id,
            ("responses",),
            weight=2.0,
            expires_at=1.0,  # which has passed: the worker sees to it, with every request
            keeps_content=True,
        )

    run(scenario)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ((), (False, False, False)),
        ((Limit("key", "", "rpm", 6),), (True, False, False)),
        ((Limit("key", "", "rpm", 6, shadow=True),), (True, False, False)),
        ((Limit("key", "", "rpm", 6, "gpt-*"), Limit("key", "", "rpm", 60)), (True, True, False)),
        ((Limit("project", "", "usd_total", 6, hard=True),), (True, False, True)),
    ],
)
def test_an_answer_says_whether_and_how_a_key_is_limited(
    limits: tuple[Limit, ...], said: tuple[bool, bool, bool]
) -> None:
    async def scenario(room: Room) -> None:
        project = await room.store.create_project(new_project("web"))
        made = await room.store.create_key(new_key(KEY, "reports", project_id=project.id))
        ids = {"key": made.id, "project": project.id}
        for limit in limits:
            await room.store.set_limit(msgspec.structs.replace(limit, scope_id=ids[limit.scope]))
        await room.lookups.look()
        found = (await room.lookups.answer(asking(KEY))).principal
        assert found is not None
        assert (found.limited, found.by_model, found.hard) == said

    run(scenario)


@pytest.mark.parametrize(
    ("some", "others", "allowed"),
    [
        ((), (), ()),
        (("a",), (), ("a",)),
        ((), ("a*",), ("a*",)),
        (("a", "b"), ("b", "c"), ("b",)),
        (("gpt-*",), ("gpt-5*", "gpt-4"), ("gpt-5*", "gpt-4")),
        (("gpt-5*",), ("gpt-*",), ("gpt-5*",)),
        (("gpt-5*", "gpt-5.4"), ("gpt-*", "gpt-5.4"), ("gpt-5*", "gpt-5.4")),
        (("*",), ("a",), ("a",)),
        (("a",), ("b", "ab"), ("",)),
        (("a*",), ("b*",), ("",)),
    ],
)
def test_both_allow_what_each_allows(some: tuple[str, ...], others: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    assert both(some, others) == allowed
    assert set(both(others, some)) == set(allowed)


# -- limits


def test_limits_are_read_once_until_something_changes() -> None:
    async def scenario(room: Room) -> None:
        project = await room.store.create_project(new_project("web"))
        made = await room.store.create_key(new_key(KEY, "reports", project_id=project.id))
        own, shared = Limit("key", made.id, "rpm", 60), Limit("project", project.id, "tpm", 1000)
        await room.store.set_limit(own)
        await room.store.set_limit(shared)
        await room.lookups.look()
        assert await room.lookups.limits_of(made.id, project.id) == (own, shared)
        assert await room.lookups.limits_of(made.id, "") == (own,)
        assert room.store.limits_asked == 2
        await room.lookups.limits_of(made.id, project.id)
        assert room.store.limits_asked == 2
        await room.store.set_limit(msgspec.structs.replace(own, amount=61))
        await room.lookups.look()
        assert (await room.lookups.limits_of(made.id, project.id))[0].amount == 61

    run(scenario)


def test_who_was_looked_up_has_limits_that_need_no_further_question() -> None:
    async def scenario(room: Room) -> None:
        made = await room.store.create_key(new_key(KEY, "reports"))
        await room.store.set_limit(Limit("key", made.id, "rpm", 60))
        await room.lookups.look()
        await room.lookups.answer(asking(KEY))
        assert await room.lookups.limits_of(made.id, "") == (Limit("key", made.id, "rpm", 60),)
        assert room.store.limits_asked == 0

    run(scenario)


def test_limits_are_what_they_were_while_the_store_fails() -> None:
    async def scenario(room: Room) -> None:
        made = await room.store.create_key(new_key(KEY, "reports"))
        await room.store.set_limit(Limit("key", made.id, "rpm", 60))
        await room.lookups.look()
        found = await room.lookups.limits_of(made.id, "")
        room.store.failing = True
        await room.lookups.look()
        room.now = 60.0
        await room.lookups.look()  # workers were told to forget
        assert await room.lookups.limits_of(made.id, "") == found
        with pytest.raises(StoreUnavailable):
            await room.lookups.limits_of("key_other", "")

    run(scenario)


def test_the_key_from_the_environment_has_no_limits() -> None:
    async def scenario(room: Room) -> None:
        room.store.failing = True
        await room.lookups.look()
        assert await room.lookups.limits_of(ENVIRONMENT.key_id, ENVIRONMENT.project_id) == ()

    run(scenario, KEY)


def test_an_unknown_key_is_nobody_and_the_store_is_well() -> None:
    async def scenario(room: Room) -> None:
        answer = await room.lookups.answer(asking("sk-nobody"))
        assert (answer.principal, answer.available) == (None, True)

    run(scenario)


def test_the_key_from_the_environment_needs_no_store() -> None:
    async def scenario(room: Room) -> None:
        room.store.failing = True
        await room.lookups.look()
        answer = await room.lookups.answer(asking(KEY))
        assert answer.principal == ENVIRONMENT
        assert room.store.asked == 0

    run(scenario, KEY)


def test_a_question_that_comes_before_the_store_is_open_waits_for_it() -> None:
    async def main() -> None:
        room = Room()
        await room.store.create_key(new_key(KEY, "reports", ()))
        answer = asyncio.create_task(room.lookups.answer(asking(KEY)))
        await asyncio.sleep(0)
        assert not answer.done()
        await room.lookups.open(room.store)
        assert (await answer).principal is not None

    asyncio.run(main())


def test_a_change_by_anybody_makes_workers_forget_once() -> None:
    async def scenario(room: Room) -> None:
        await room.lookups.look()
        assert room.changes == 0
        await room.store.create_key(new_key(KEY, "reports", ()))
        await room.lookups.look()
        await room.lookups.look()
        assert room.changes == 1
        await room.store.revoke_key("reports")
        await room.lookups.look()
        assert room.changes == 2

    run(scenario)


def test_an_answer_that_a_change_overtook_is_asked_again() -> None:
    async def scenario(room: Room) -> None:
        await room.store.create_key(new_key(KEY, "reports", ()))
        await room.lookups.look()
        room.store.held = asyncio.Event()
        answer = asyncio.create_task(room.lookups.answer(asking(KEY)))
        await room.store.found.wait()  # and the store is slow to say so
        await room.store.revoke_key("reports")
        await room.lookups.look()
        assert room.changes == 2
        room.store.held.set()
        assert (await answer).principal is None
        assert room.store.asked == 2

    run(scenario)


def test_a_failing_store_is_told_and_answers_that_it_cannot_say() -> None:
    async def scenario(room: Room) -> None:
        await room.store.create_key(new_key(KEY, "reports", ()))
        await room.lookups.look()
        room.store.failing = True
        assert not (await room.lookups.answer(asking(KEY))).available
        await room.lookups.look()
        assert room.health == [False]
        asked = room.store.asked
        assert not (await room.lookups.answer(asking(KEY))).available
        assert room.store.asked == asked  # not asked while it is known to fail
        room.store.failing = False
        await room.lookups.look()
        assert room.health == [False, True]
        assert (await room.lookups.answer(asking(KEY))).principal is not None

    run(scenario)


def test_workers_keep_what_they_know_for_a_minute_of_failure_and_no_longer() -> None:
    async def scenario(room: Room) -> None:
        room.store.failing = True
        await room.lookups.look()
        room.now = 59.9
        await room.lookups.look()
        assert room.changes == 0
        room.now = 60.0
        await room.lookups.look()
        room.now = 61.0
        await room.lookups.look()
        assert room.changes == 1
        room.store.failing = False
        await room.lookups.look()
        room.store.failing = True
        room.now = 100.0
        await room.lookups.look()
        room.now = 160.0
        await room.lookups.look()
        assert room.changes == 2  # another outage, another minute

    run(scenario)


def test_a_change_made_during_an_outage_is_seen_after_it() -> None:
    async def scenario(room: Room) -> None:
        room.store.failing = True
        await room.lookups.look()
        await room.store.create_key(new_key(KEY, "reports", ()))
        room.store.failing = False
        await room.lookups.look()
        assert room.changes == 1

    run(scenario)


def test_a_store_that_hangs_counts_as_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "STORE_LIMIT", 0.01)

    async def scenario(room: Room) -> None:
        room.store.held = asyncio.Event()
        answer = await room.lookups.answer(asking(KEY))
        assert (answer.principal, answer.available) == (None, False)
        room.store.held.set()

    run(scenario)


def test_made_keys_are_long_random_and_accepted() -> None:
    made = {generate() for _ in range(50)}
    assert len(made) == 50
    for key in made:
        assert key.startswith("sk-penstock-")
        assert len(key) == len("sk-penstock-") + 43
        check(key)


def test_what_is_kept_of_a_key_does_not_tell_it() -> None:
    key = generate()
    kept = new_key(key, "reports", ())
    assert kept.hint == f"{key[:4]}...{key[-4:]}"
    assert key not in repr(kept)
    assert len(kept.digest) == 32


@pytest.mark.parametrize(
    "key",
    ["", "short", "x" * 19, "x" * 513, "sk with spaces in the middle", "sk-tab\tin-the-middle-of-it", "sk-ümläut" * 3],
)
def test_a_key_that_no_client_could_send_is_refused(key: str) -> None:
    with pytest.raises(InvalidKey):
        new_key(key, "reports", ())


@pytest.mark.parametrize("name", ["", " x", "x\n", "\x1b[31m", "x" * 101])
def test_a_name_that_would_spoil_a_list_is_refused(name: str) -> None:
    with pytest.raises(InvalidKey):
        new_key(KEY, name, ())


@pytest.mark.parametrize("model", ["", "a*b", "**", "two words", "*-mini"])
def test_a_pattern_that_would_match_nothing_is_refused(model: str) -> None:
    with pytest.raises(InvalidKey):
        new_key(KEY, "reports", ("gpt-5.4", model))


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoints": ("chat",)},
        {"weight": 0.0},
        {"weight": float("nan")},
        {"weight": 1001.0},
        {"metadata": {"": "x"}},
        {"metadata": {"a": "x" * 513}},
        {"metadata": {"a": "\n"}},
        {"metadata": {str(n): "" for n in range(17)}},
    ],
)
def test_what_else_a_key_cannot_have_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidKey):
        new_key(KEY, "reports", **fields)


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Limit("key", "k", "rph", 1), "no meter"),
        (Limit("key", "k", "rpm", 0), "above 0"),
        (Limit("key", "k", "rpm", 2**63), "above 0"),
        (Limit("key", "k", "rpm", 1, "g*t"), "no model"),
        (Limit("key", "k", "rpm", 1, rolling=True), "--rolling"),
        (Limit("key", "k", "usd_total", 1, rolling=True), "--rolling"),
        (Limit("key", "k", "requests_per_day", 1, hard=True), "--hard"),
        (Limit("key", "k", "tpm", 1, hard=True, shadow=True), "--shadow"),
    ],
)
def test_a_limit_of_which_a_part_would_have_no_effect_is_refused(limit: Limit, said: str) -> None:
    with pytest.raises(InvalidKey, match=said):
        check_limit(limit)
