"""Keys at the door: what is refused, and how; what is kept; who is throttled; and that no key is ever told."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Config, Limits, Server
from penstock.errors import AuthenticationFailed, Overloaded, RateLimited, Refusal
from penstock.fake_upstream import FakeUpstream
from penstock.gateway import auth as auth_module
from penstock.gateway.auth import MAX_TOKEN, WINDOW, Auth
from penstock.gateway.telemetry import AccessLog
from penstock.types import Principal
from support import gateway as support
from support.gateway import ALICE, KEY, UPSTREAM_KEY, Keys, chat, gateway, read_answer, request

HERE = "192.0.2.1"
THERE = "192.0.2.2"


@dataclasses.dataclass
class Clock:
    """Time as the test has it."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """An Auth with the parts that it is given."""

    def __init__(self, failures: int = 3) -> None:
        self.clock = Clock()
        self.reasons: list[str] = []
        self.keys = Keys({KEY: ALICE})
        self.auth = Auth(self.keys, self.clock, failures, self.reasons.append)

    async def enter(self, key: str, address: str = HERE) -> Principal:
        found = self.auth.identify(f"Bearer {key}".encode(), address)
        return found if isinstance(found, Principal) else await found

    async def refused(self, key: str, address: str = HERE) -> Refusal:
        with pytest.raises(Refusal) as caught:
            await self.enter(key, address)
        return caught.value


def run(main: Coroutine[Any, Any, None]) -> None:
    support.run(main)


def with_gateway(test: Any, **settings: Any) -> None:
    async def main() -> None:
        async with FakeUpstream() as upstream, gateway(upstream.base_url, **settings) as running:
            await test(upstream, running)

    run(main())


# -- what the wire says


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("authorization", "says"),
    [
        (None, "No API key was provided"),
        ("", "malformed"),
        ("Bearer", "malformed"),
        ("Bearer ", "malformed"),
        (KEY, "malformed"),
        ("Basic dXNlcjpwYXNz", "malformed"),
        (f"Bearer  {KEY}", "malformed"),
        (f"Bearer {KEY} {KEY}", "malformed"),
        (f"Bearer\t{KEY}", "malformed"),
        (f"Bearer {'k' * (MAX_TOKEN + 1)}", "malformed"),
        ("Bearer sk-nobody-knows-this-key", "Incorrect API key provided: sk-n***-key."),
    ],
)
def test_a_bad_key_is_told_in_json_whatever_was_asked_for(authorization: str | None, says: str, stream: bool) -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        fields = {} if authorization is None else {"authorization": authorization}
        body = json.dumps({"model": "m", "messages": [], "stream": stream}).encode()
        answer = await running.ask(request("POST", "/v1/chat/completions", None, body, **fields))
        assert answer.status == 401
        assert says in answer.error["message"]
        assert (answer.error["type"], answer.error["code"]) == ("authentication_error", "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"]
        assert upstream.seen == []

    with_gateway(test)


def test_two_authorization_fields_are_no_key() -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        raw = request("GET", "/v1/models").replace(b"\r\n\r\n", b"\r\nauthorization: Bearer other\r\n\r\n")
        assert (await running.ask(raw)).status == 401

    with_gateway(test)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        answer = await running.ask(request("GET", "/v1/models", None, authorization=f"{scheme} {KEY}"))
        assert answer.status == 200

    with_gateway(test)


@given(st.text(st.characters(codec="ascii", exclude_characters=" ", categories=["L", "N", "P", "S"]), min_size=1))
def test_no_refusal_tells_more_of_a_key_than_its_ends(key: str) -> None:
    async def main() -> None:
        door = Door()
        refusal = await door.refused(key)
        shown = refusal.message.partition("provided: ")[2].rpartition(". Ask")[0]
        if len(key) < 16:
            assert shown == "***"
        else:
            assert shown == f"{key[:4]}***{key[-4:]}"

    if len(key) <= MAX_TOKEN:
        asyncio.run(main())


def test_a_refused_head_is_answered_before_its_body_is_sent() -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        async with running.client() as client:
            whole = chat("sk-wrong-wrong-wrong-wrong", padding="x" * 100_000)
            await client.send(whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            answer = await read_answer(client)
            assert (answer.status, answer.headers["connection"]) == (401, "close")
            assert await client.read_all() == b""
        assert running.server.edge.buffered == 0

    with_gateway(test)


def test_a_body_that_waits_for_leave_is_not_asked_for_when_the_key_is_bad() -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        async with running.client() as client:
            head = request("POST", "/v1/chat/completions", "sk-wrong", expect="100-continue", content_length="5")
            await client.send(head)
            assert (await client.read_all()).startswith(b"HTTP/1.1 401 ")

    with_gateway(test)


def test_a_key_store_that_cannot_answer_is_a_503_that_says_when_to_come_back() -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        running.keys.available = False
        answer = await running.chat()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.error["type"] == "server_error"
        running.keys.available = True
        assert (await running.chat()).status == 200

    with_gateway(test)


def test_no_key_is_ever_logged_counted_or_told(capfd: pytest.CaptureFixture[str]) -> None:
    secrets = (KEY, UPSTREAM_KEY, "sk-a-stranger-came-by-with-this")

    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        answers = [
            await running.chat(),
            await running.chat(stream=True),
            await running.chat(model=7),
            *[await running.chat(secrets[2]) for _ in range(3)],
            *[await running.ask(request("GET", path)) for path in ("/v1/models", "/v1/models/x", "/nowhere")],
        ]
        records = await running.recorder.wait(len(answers))
        reading, writing = os.pipe()
        log = AccessLog(writing)
        log.observe(records)
        log.close()
        os.close(writing)
        with os.fdopen(reading) as lines:
            written = lines.read()
        assert written.count("\n") == len(answers)
        everything = [
            written,
            repr(records),
            repr(running.series()),
            *(f"{one.headers}{one.body!r}" for one in answers),
        ]
        for place in everything:
            for secret in secrets:
                assert secret not in place
                assert secret[4:-4] not in place

    with_gateway(test)
    out, err = capfd.readouterr()
    assert not any(secret in out + err for secret in secrets)


# -- what is kept


def test_a_known_key_is_looked_up_once_until_keys_change() -> None:
    async def main() -> None:
        door = Door()
        for _ in range(3):
            assert await door.enter(KEY) is ALICE
        assert len(door.keys.lookups) == 1
        door.auth.forget()
        assert await door.enter(KEY) == ALICE
        assert len(door.keys.lookups) == 2

    run(main())


def test_a_revoked_key_is_refused_as_soon_as_keys_changed() -> None:
    async def main() -> None:
        door = Door()
        await door.enter(KEY)
        del door.keys.principals[KEY]
        assert await door.enter(KEY) is ALICE, "not told yet"
        door.auth.forget()
        assert isinstance(await door.refused(KEY), AuthenticationFailed)

    run(main())


def test_an_unknown_key_is_looked_up_once_and_works_as_soon_as_it_is_made() -> None:
    async def main() -> None:
        door = Door()
        for _ in range(2):
            assert isinstance(await door.refused("sk-made-in-a-moment"), AuthenticationFailed)
        assert len(door.keys.lookups) == 1
        door.keys.principals["sk-made-in-a-moment"] = ALICE
        door.auth.forget()
        assert await door.enter("sk-made-in-a-moment") == ALICE

    run(main())


@pytest.mark.parametrize("known", [True, False])
def test_an_answer_on_its_way_while_keys_changed_is_used_and_not_kept(known: bool) -> None:
    async def main() -> None:
        door = Door()
        if not known:
            door.keys.principals.clear()
        door.keys.hold()
        entering = asyncio.create_task(door.enter(KEY))
        await door.keys.asked.wait()
        door.auth.forget()
        door.keys.release()
        await asyncio.wait([entering])
        assert (entering.exception() is None) == known
        door.keys.principals = {} if known else {KEY: ALICE}
        if known:
            await door.refused(KEY)
        else:
            await door.enter(KEY)
        assert len(door.keys.lookups) == 2

    run(main())


def test_a_store_that_cannot_answer_is_asked_again_and_does_not_count_against_the_address() -> None:
    async def main() -> None:
        door = Door(failures=1)
        door.keys.available = False
        for _ in range(5):
            assert isinstance(await door.refused(KEY), Overloaded)
        door.keys.available = True
        assert await door.enter(KEY) == ALICE
        assert door.reasons == []

    run(main())


def test_a_head_that_comes_again_on_its_connection_is_worth_no_more_than_its_key() -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        async with running.client() as client:

            async def ask() -> int:
                await client.send(chat())
                return (await read_answer(client)).status

            assert [await ask() for _ in range(4)] == [200] * 4
            running.auth.forget()
            assert [await ask() for _ in range(3)] == [200] * 3
            assert len(running.keys.lookups) == 2
            records = await running.recorder.wait(7)
            assert {(one.key_id, one.client, one.client_request_id) for one in records} == {
                ("key_alice", "127.0.0.1", None)
            }
            del running.keys.principals[KEY]
            running.auth.forget()
            assert await ask() == 401

    with_gateway(test)


def test_a_key_that_expires_between_two_requests_of_one_connection_is_refused() -> None:
    async def main() -> None:
        now = Clock()
        mortal = Principal("key_mortal", "mortal", expires_at=now.now + 10)
        async with FakeUpstream() as upstream, gateway(upstream.base_url, keys={KEY: mortal}) as running:
            running.auth._wall_clock = now
            async with running.client() as client:
                for status in (200, 200, 200, 401):
                    now.now += 10 if status == 401 else 0
                    await client.send(chat())
                    assert (await read_answer(client)).status == status

    run(main())


def test_a_head_that_comes_again_is_read_again_once_other_proxies_are_trusted() -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        async with running.client() as client:
            for number in range(5):
                if number in (2, 4):
                    running.api.trust(("127.0.0.1",) if number == 2 else ())
                await client.send(chat().replace(b"\r\n\r\n", b"\r\nx-forwarded-for: 192.0.2.9\r\n\r\n"))
                assert (await read_answer(client)).status == 200
        records = await running.recorder.wait(5)
        assert [one.client for one in records] == ["127.0.0.1"] * 2 + ["192.0.2.9"] * 2 + ["127.0.0.1"]

    with_gateway(test)


# -- throttling


def test_bad_keys_from_one_address_are_throttled_without_a_lookup_until_the_window_ends() -> None:
    async def main() -> None:
        door = Door(failures=3)
        for number in range(3):
            assert isinstance(await door.refused(f"sk-guess-{number}"), AuthenticationFailed)
            door.clock.now += 10
        refusal = await door.refused("sk-guess-4")
        assert isinstance(refusal, RateLimited)
        assert dict(refusal.headers) == {b"Retry-After": b"30", b"x-should-retry": b"false"}
        assert isinstance(await door.refused("sk-guess-1"), RateLimited), "one that is known to be unknown, too"
        assert len(door.keys.lookups) == 3
        assert door.reasons == ["unknown"] * 3 + ["throttled"] * 2
        assert isinstance(await door.refused("sk-guess-4", THERE), AuthenticationFailed), "others are not concerned"
        door.clock.now = 1000 + WINDOW
        assert isinstance(await door.refused("sk-guess-5"), AuthenticationFailed)

    run(main())


def test_a_throttle_is_never_lengthened_by_knocking() -> None:
    async def main() -> None:
        door = Door(failures=1)
        await door.refused("sk-guess")
        for _ in range(100):
            door.clock.now += 0.5
            assert isinstance(await door.refused("sk-guess"), RateLimited)
        door.clock.now = 1000 + WINDOW
        assert isinstance(await door.refused("sk-guess"), AuthenticationFailed)

    run(main())


def test_a_known_key_passes_from_a_throttled_address() -> None:
    async def main() -> None:
        door = Door(failures=1)
        await door.enter(KEY)
        await door.refused("sk-guess")
        assert isinstance(await door.refused("sk-guess"), RateLimited)
        assert await door.enter(KEY) is ALICE

    run(main())


def test_a_change_of_keys_does_not_lock_out_whose_key_was_good_behind_a_throttled_address() -> None:
    async def main() -> None:
        door = Door(failures=1)
        await door.enter(KEY)
        await door.refused("sk-guess")
        for _ in range(2):
            door.auth.forget()
        assert await door.enter(KEY) == ALICE
        door.auth.forget()
        del door.keys.principals[KEY]
        assert isinstance(await door.refused(KEY), RateLimited)

    run(main())


def test_who_sends_no_key_locks_nobody_out() -> None:
    async def main() -> None:
        door = Door(failures=1)
        for authorization in (None, b"Basic x", b"Bearer "):
            with pytest.raises(AuthenticationFailed):
                await door.auth.identify(authorization, HERE)  # type: ignore[misc]  # it raises at once
        assert await door.enter(KEY) == ALICE
        assert door.reasons == ["missing", "malformed", "malformed"]

    run(main())


def test_what_is_kept_of_keys_and_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_module, "MAX_CACHED", 10)
    monkeypatch.setattr(auth_module, "MAX_ADDRESSES", 10)

    async def main() -> None:
        door = Door(failures=3)
        for number in range(100):
            await door.refused(f"sk-guess-{number}", f"192.0.2.{number}")
            good = f"sk-good-{number}"
            door.keys.principals[good] = ALICE
            assert await door.enter(good) == ALICE
            if number % 5 == 0:
                door.auth.forget()
        for table in (door.auth._cache, door.auth._once_known, door.auth._failures):
            assert len(table) <= 20

    run(main())


# -- whose address it is


@pytest.mark.parametrize(
    ("proxies", "forwarded", "client"),
    [
        ((), "198.51.100.7", "127.0.0.1"),
        (("10.0.0.0/8",), "198.51.100.7", "127.0.0.1"),
        (("127.0.0.1",), "198.51.100.7", "198.51.100.7"),
        (("127.0.0.1",), "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        (("127.0.0.1", "10.0.0.0/8"), "203.0.113.9, 198.51.100.7, 10.1.2.3", "198.51.100.7"),
        (("127.0.0.1",), "198.51.100.7, nonsense", "127.0.0.1"),
        (("127.0.0.1",), "", "127.0.0.1"),
        (("127.0.0.1",), "2001:db8::1", "2001:db8::1"),
        (("127.0.0.1", "10.0.0.0/8"), "198.51.100.7, ::ffff:10.0.0.1", "198.51.100.7"),
    ],
)
def test_a_forwarded_address_counts_only_as_far_as_proxies_are_trusted(
    proxies: tuple[str, ...], forwarded: str, client: str
) -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        await running.ask(request("GET", "/v1/models", x_forwarded_for=forwarded))
        assert (await running.record()).client == client

    with_gateway(test, config=Config(server=Server(trusted_proxies=proxies)))


def test_clients_behind_a_trusted_proxy_are_throttled_each_for_itself() -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        async def status(key: str, address: str) -> int:
            return (await running.ask(request("GET", "/v1/models", key, x_forwarded_for=address))).status

        assert [await status("sk-guess-1", HERE), await status("sk-guess-2", HERE)] == [401, 429]
        assert [await status(KEY, THERE), await status("sk-guess-1", THERE)] == [200, 401]

    with_gateway(test, config=Config(server=Server(trusted_proxies=("127.0.0.1",), auth_failures=1)))


def test_a_throttled_caller_is_told_in_the_guides_form() -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        await running.chat("sk-guess-1")
        answer = await running.chat("sk-guess-2", stream=True)
        assert answer.status == 429
        assert (answer.error["type"], answer.error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["x-should-retry"] == "false"
        assert running.series()["penstock_auth_failures_total", "throttled"] == 1

    with_gateway(test, config=Config(server=Server(auth_failures=1)))


def test_the_callers_key_does_not_travel_upstream() -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        await running.chat()
        seen = await upstream.ended()
        assert seen.header("authorization") == f"Bearer {UPSTREAM_KEY}"
        assert KEY not in repr(seen.headers) + seen.body.decode()

    with_gateway(test)


def test_limits_of_the_edge_are_told_in_the_same_form_as_all_else() -> None:
    async def test(upstream: FakeUpstream, running: support.Running) -> None:
        answer = await running.chat(padding="x" * 3000)
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert answer.headers["x-request-id"] == (await running.record()).request_id
        assert (await running.record()).client == "127.0.0.1"

    with_gateway(test, config=Config(server=Server(limits=Limits(body_bytes=2000))))
