"""Requests with an Idempotency-Key: run once, whatever their clients do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from penstock.config import Retries
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.stores.base import StoreUnavailable
from penstock.stores.memory_answers import MemoryRuns
from penstock.types import Principal
from support.gateway import ALICE, KEY, Answered, Running, gateway, request, run, until, upstream

BOB = Principal("key_bob", "bob")
BOBS = "sk-bob-0123456789abcdef"
CHAT = "/v1/chat/completions"
HELLO = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hello"}]}

Test = Callable[[Running, FakeUpstream], Awaitable[None]]


def with_gateway(test: Test, script: Any = None, retries: Retries | None = None, **settings: Any) -> None:
    async def main() -> None:
        async with FakeUpstream(script) as fake:
            entry = upstream(fake.base_url, **settings)
            more: dict[str, Any] = {} if retries is None else {"retries": retries}
            async with gateway(entry, keys={KEY: ALICE, BOBS: BOB}, **more) as running:
                await test(running, fake)

    run(main())


def asking(mark: str = "mark", key: str = KEY, path: str = CHAT, **members: Any) -> bytes:
    return request("POST", path, key, json.dumps({**HELLO, **members}).encode(), idempotency_key=mark)


def outcomes(running: Running) -> dict[str, float]:
    return {one.labels[0]: one.value for one in running.kin.runs.series()}


def same(first: Answered, second: Answered) -> None:
    """The second is the first again, and says so."""
    assert (first.status, second.status) == (200, 200)
    assert second.body == first.body
    assert second.headers["x-penstock-replayed"] == "true"
    assert second.headers["x-penstock-original-request-id"] == first.headers["x-request-id"]
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    for name in ("content-type", "x-penstock-target", "x-penstock-attempts", "openai-version"):
        assert second.headers[name] == first.headers[name]
    assert "x-penstock-replayed" not in first.headers


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_gets_the_same_answer_and_no_upstream_hears_of_it(stream: bool) -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        first = await running.ask(asking(stream=stream))
        for _ in range(2):
            same(first, await running.ask(asking(stream=stream)))
        assert len(fake.seen) == 1
        assert outcomes(running) == {"claimed": 1, "replayed": 2}
        records = await running.recorder.wait(3)
        assert [(one.endpoint, one.ended, one.usage is not None, len(one.attempts)) for one in records] == [
            ("chat.completions", "ok", records[0].usage is not None, 1),
            ("", "ok", False, 0),
            ("", "ok", False, 0),
        ]

    with_gateway(test)


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v1/embeddings", {"model": "m", "input": "text"}),
        ("/v1/completions", {"model": "m", "prompt": "Once"}),
        ("/v1/completions", {"model": "m", "prompt": "Once", "stream": True}),
        ("/v1/responses", {"model": "m", "input": "Hello", "stream": True}),
    ],
)
def test_the_neighbours_of_chat_are_run_once_too(path: str, members: dict[str, Any]) -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        body = json.dumps(members).encode()
        first, second = [await running.ask(request("POST", path, body=body, idempotency_key="mark")) for _ in range(2)]
        same(first, second)
        assert len(fake.seen) == 1

    with_gateway(test)


def test_a_key_is_its_callers_own() -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        alices, bobs = await running.ask(asking()), await running.ask(asking(key=BOBS))
        assert "x-penstock-replayed" not in bobs.headers
        assert alices.json()["id"] != bobs.json()["id"]
        assert len(fake.seen) == 2

    with_gateway(test)


def test_other_keys_and_none_run_by_themselves() -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        for mark in ("one", "two"):
            await running.ask(asking(mark))
        for _ in range(2):
            await running.chat()
        assert len(fake.seen) == 4
        assert outcomes(running) == {"claimed": 2}

    with_gateway(test)


@pytest.mark.parametrize("other", [{"temperature": 1}, {"stream": True}])
def test_another_body_or_path_under_the_same_key_is_a_409(other: dict[str, Any]) -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        await running.ask(asking())
        for raw in (asking(**other), asking(path="/v1/completions")):
            answer = await running.ask(raw)
            assert answer.status == 409
            error = answer.error
            assert (error["type"], error["param"], error["code"]) == (
                "invalid_request_error",
                None,
                "idempotency_key_reused",
            )
            assert answer.headers["x-should-retry"] == "false"
        assert len(fake.seen) == 1

    with_gateway(test)


def test_while_the_first_runs_a_repeat_is_told_to_come_again() -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        first = asyncio.create_task(running.ask(asking(stream=True)))
        await fake.request()
        answer = await running.ask(asking(stream=True))
        assert (answer.status, answer.error["code"]) == (409, "idempotent_request_running")
        assert answer.headers["retry-after"] == "1"
        assert "x-should-retry" not in answer.headers
        fake.open("gate")
        same(await first, await running.ask(asking(stream=True)))
        assert len(fake.seen) == 1

    with_gateway(test, [Answer(chunks=("one", Chunk(text=" two", wait="gate")))])


def test_of_many_at_once_one_runs() -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        answers = await asyncio.gather(*(running.ask(asking()) for _ in range(20)))
        assert len(fake.seen) == 1
        first = next(one for one in answers if "x-penstock-replayed" not in one.headers and one.status == 200)
        for answer in answers:
            assert answer.status == 409 or answer.body == first.body

    with_gateway(test)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ([Answer(status=500), Answer()], 502),
        ([Answer(status=429), Answer()], 429),
        ([Answer(status=400), Answer()], 400),
        ([Answer(status=503), Answer()], 503),
    ],
)
def test_what_failed_releases_the_key(script: list[Answer], status: int) -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        assert (await running.ask(asking())).status == status
        again = await running.ask(asking())
        assert again.status == 200
        assert "x-penstock-replayed" not in again.headers
        assert len(fake.seen) == 2
        same(again, await running.ask(asking()))

    with_gateway(test, script)


def test_what_was_refused_here_releases_the_key() -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        for _ in range(2):
            assert (await running.ask(asking(temperature=7))).status == 400
        assert (await running.ask(asking())).status == 200

    with_gateway(test)


def test_a_stream_that_ended_in_an_error_releases_the_key() -> None:
    broken = Answer(chunks=("one", Chunk(data='{"error":{"message":"lost","type":"server_error"}}')))

    async def test(running: Running, fake: FakeUpstream) -> None:
        assert b'"error"' in (await running.ask(asking(stream=True))).body
        again = await running.ask(asking(stream=True))
        assert b'"error"' not in again.body
        assert len(fake.seen) == 2
        same(again, await running.ask(asking(stream=True)))

    with_gateway(test, [broken, Answer()])


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_left_releases_the_key(stream: bool) -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        async with running.client() as client:
            await client.send(asking(stream=stream))
            await fake.request()
        assert (await running.record()).ended == "hangup"
        again = await running.ask(asking(stream=stream))
        assert again.status == 200
        assert len(fake.seen) == 2

    with_gateway(test, [Answer(wait_first="never"), Answer()])


def test_an_answer_that_is_read_on_is_the_repeats() -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        async with running.client() as client:
            await client.send(asking())
            await fake.request()
        await until(lambda: not running.server.edge.connections)
        assert (await running.ask(asking())).error["code"] == "idempotent_request_running"
        fake.open("gate")
        await running.recorder.wait(2)
        again = await running.ask(asking())
        assert again.headers["x-penstock-replayed"] == "true"
        assert again.json()["choices"][0]["message"]["content"] == "one two"
        assert len(fake.seen) == 1

    with_gateway(test, [Answer(chunks=("one", " two"), wait_first="gate")], on_hangup="drain")


def test_a_stream_that_is_read_on_keeps_the_key_until_its_end() -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        async with running.client() as client:
            await client.send(asking(stream=True))
            await fake.request()
        await until(lambda: not running.server.edge.connections)
        assert (await running.ask(asking(stream=True))).error["code"] == "idempotent_request_running"
        fake.open("gate")
        await running.recorder.wait(2)
        again = await running.ask(asking(stream=True))
        assert "x-penstock-replayed" not in again.headers
        assert len(fake.seen) == 2

    with_gateway(test, [Answer(chunks=("one", Chunk(text=" two", wait="gate"))), Answer()], on_hangup="drain")


@pytest.mark.parametrize("mark", ["", "x" * 256, "caf\u00e9", "a\tb"])
def test_a_key_that_is_none_is_a_bad_request(mark: str) -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        answer = await running.ask(asking(mark))
        assert (answer.status, answer.error["code"]) == (400, "invalid_idempotency_key")
        assert fake.seen == []

    with_gateway(test)


def test_the_longest_key_is_taken() -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        for _ in range(2):
            assert (await running.ask(asking("x y" * 85))).status == 200
        assert len(fake.seen) == 1

    with_gateway(test)


def test_an_answer_that_is_too_large_to_be_remembered_is_gone_for_its_repeat() -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        assert (await running.ask(asking())).status == 200
        answer = await running.ask(asking())
        assert (answer.status, answer.error["code"]) == (409, "idempotent_answer_gone")
        assert answer.headers["x-should-retry"] == "false"
        assert len(fake.seen) == 1

    with_gateway(test, [Answer(chunks=("x" * 9_000_000,))])


def test_while_the_store_is_away_nothing_that_has_a_key_is_run() -> None:
    class Away(MemoryRuns):
        async def claim(self, *_: Any) -> Any:
            raise StoreUnavailable("it is away")

    async def test(running: Running, fake: FakeUpstream) -> None:
        first = await running.ask(asking())
        running.kin.runs._store = Away()
        same(first, await running.ask(asking()))  # is remembered
        answer = await running.ask(asking("another"))
        assert (answer.status, answer.error["code"]) == (503, "idempotency_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert len(fake.seen) == 1

    with_gateway(test)


def test_a_client_that_leaves_while_its_key_is_looked_up_leaves_nothing_claimed() -> None:
    class Slow(MemoryRuns):
        def __init__(self) -> None:
            super().__init__()
            self.asked, self.go_on = asyncio.Event(), asyncio.Event()

        async def claim(self, *given: Any) -> Any:
            self.asked.set()
            await self.go_on.wait()
            return await super().claim(*given)

    async def test(running: Running, fake: FakeUpstream) -> None:
        slow = Slow()
        await until(lambda: running.kin.runs._store is not None)
        running.kin.runs._store = slow
        async with running.client() as client:
            await client.send(asking())
            await slow.asked.wait()
        record = await running.record()
        assert (record.ended, record.status) == ("hangup", 0)
        slow.go_on.set()
        assert (await running.ask(asking())).status in (200, 409)
        await until(lambda: not running.kin.runs._claiming)
        assert (await running.ask(asking())).status == 200
        assert len(fake.seen) == 1

    with_gateway(test)


def test_what_is_stored_and_has_a_key_is_stored_once() -> None:
    async def test(running: Running, fake: FakeUpstream) -> None:
        for stream in (False, True):
            same(
                await running.ask(asking(str(stream), stream=stream, store=True)),
                await running.ask(asking(str(stream), stream=stream, store=True)),
            )
        listed = (await running.ask(request("GET", CHAT))).json()["data"]
        assert len(listed) == 2

    with_gateway(test)
