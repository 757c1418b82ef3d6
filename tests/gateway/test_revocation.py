"""Keys that stop working while their requests are in flight: these end in an error, with the upstream freed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from penstock import link
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.types import Principal
from support.gateway import ALICE, KEY, chat, read_answer, run
from support.raw import Raw, raw_client
from support.serving import Served, serving
from support.upstreams import threaded_upstream
from support.worker_link import StandIn, worker

OTHER = "sk-another-key-0123456789"
BOB = Principal("key_bob", "bob")
HELD = Answer(chunks=("one", Chunk(text="two", wait="gate")))
WITHIN = 1.0  # seconds in which every worker has stopped what a revoked key began

Test = Callable[[FakeUpstream, StandIn], Awaitable[None]]


def with_worker(test: Test, script: Answer = HELD) -> None:
    async def main() -> None:
        async with FakeUpstream(script) as fake, worker(fake.base_url) as parent:
            parent.keys.principals = {KEY: ALICE, OTHER: BOB}
            await test(fake, parent)

    run(main())


async def begun(client: Raw, key: str = KEY) -> None:
    """Ask for a stream and read its first event."""
    await client.send(chat(key, stream=True))
    await client.read_until(b'"one"')


def error_in(stream: bytes) -> Any:
    return json.loads(stream.removesuffix(b"\n\n\r\n0\r\n\r\n").rpartition(b"data: ")[2])["error"]


def revoke(parent: StandIn, key: str = KEY) -> None:
    del parent.keys.principals[key]
    parent.channel.send(link.KeysChanged())


def test_a_stream_of_a_revoked_key_ends_in_an_error_and_its_upstream_is_freed() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        async with raw_client(parent.address) as client:
            await begun(client)
            revoke(parent)
            error = error_in(await client.read_all())
            assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            assert "revoked" in error["message"]
        assert (await fake.ended()).hung_up
        parent.channel.send(link.Drain(5.0))
        assert await parent.ended() == 0
        assert parent.process.stdout is not None
        (line,) = [json.loads(text) for text in (await parent.process.stdout.read()).splitlines()]
        assert (line["ended"], line["code"]) == ("revoked", "invalid_api_key")

    with_worker(test)


def test_an_answer_that_is_not_streamed_becomes_a_401() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        async with raw_client(parent.address) as client:
            await client.send(chat())
            await fake.reached("gate")
            revoke(parent)
            answer = await read_answer(client)
            assert (answer.status, answer.error["type"]) == (401, "authentication_error")
        assert (await fake.ended()).hung_up

    with_worker(test, Answer(wait="gate"))


def test_a_request_whose_body_is_on_its_way_is_refused_when_it_has_come() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        whole = chat()
        async with raw_client(parent.address) as client:
            await client.send(whole[:-5])
            await parent.keys.asked.wait()
            parent.keys.asked.clear()
            revoke(parent)
            await parent.keys.asked.wait()
            for ref in range(1, 5):  # so often has its loop gone round since it had the answer
                parent.channel.send(link.SnapshotRequest(ref))
                while (await parent.message(link.Snapshot)).ref != ref:
                    pass
            await client.send(whole[-5:])
            assert (await read_answer(client)).status == 401
        assert fake.seen == []

    with_worker(test)


def test_other_keys_go_on_and_are_asked_about_once_however_many_their_requests() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        async with (
            raw_client(parent.address) as one,
            raw_client(parent.address) as two,
            raw_client(parent.address) as gone,
        ):
            await begun(one, OTHER)
            await begun(two, OTHER)
            await begun(gone)
            asked = len(parent.keys.lookups)
            revoke(parent)
            assert error_in(await gone.read_all())["code"] == "invalid_api_key"
            assert len(parent.keys.lookups) == asked + 2
            fake.open("gate")
            for client in (one, two):
                assert b"[DONE]" in await client.read_until(b"data: [DONE]\n\n")

    with_worker(test)


def test_nothing_is_stopped_while_the_key_store_cannot_say() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        async with raw_client(parent.address) as client:
            await begun(client)
            parent.keys.available = False
            parent.keys.asked.clear()
            parent.channel.send(link.KeysChanged())
            await parent.keys.asked.wait()
            assert (await parent.ask(chat(OTHER))).status == 503  # the answer has arrived
            fake.open("gate")
            assert b"[DONE]" in await client.read_until(b"data: [DONE]\n\n")

    with_worker(test)


def test_who_could_not_be_spoken_for_is_asked_about_again() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        async with raw_client(parent.address) as client:
            await begun(client)
            parent.keys.available = False
            parent.keys.asked.clear()
            revoke(parent)
            await parent.keys.asked.wait()
            parent.keys.available = True
            assert error_in(await client.read_all())["code"] == "invalid_api_key"

    with_worker(test)


def test_a_change_in_the_middle_of_asking_has_all_asked_again() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        async with raw_client(parent.address) as client:
            await begun(client)
            parent.keys.hold()
            parent.channel.send(link.KeysChanged())
            await parent.keys.asked.wait()  # and is answered by what was true then
            revoke(parent)
            parent.keys.release()
            assert error_in(await client.read_all())["code"] == "invalid_api_key"

    with_worker(test)


def test_a_key_that_expires_is_refused_and_its_stream_ended() -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        parent.keys.principals[KEY] = Principal("key_alice", "alice", expires_at=time.time() + 1.0)
        async with raw_client(parent.address) as client:
            await begun(client)
            error = error_in(await client.read_all())
            assert (error["type"], "expired" in error["message"]) == ("authentication_error", True)
        refused = await parent.ask(chat())
        assert (refused.status, "expired" in refused.error["message"]) == (401, True)

    with_worker(test)


@pytest.mark.parametrize(("endpoints", "status"), [(("chat.completions",), 200), (("embeddings",), 403), ((), 200)])
def test_a_key_may_be_for_certain_endpoints_alone(endpoints: tuple[str, ...], status: int) -> None:
    async def test(fake: FakeUpstream, parent: StandIn) -> None:
        parent.keys.principals[KEY] = Principal("key_alice", "alice", endpoints=endpoints)
        answer = await parent.ask(chat())
        assert answer.status == status
        if status == 403:
            assert (answer.error["type"], "chat.completions" in answer.error["message"]) == ("permission_error", True)

    with_worker(test, Answer(chunks=("hello",)))


def keys_command(served: Served, *arguments: str) -> str:
    command = [sys.executable, "-m", "penstock", "keys", *arguments, "--data-dir", str(served.data_dir)]
    environment = {**os.environ, "HOME": str(served.home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_on_the_real_server_every_worker_stops_within_a_second() -> None:
    with threaded_upstream(HELD) as fake, ExitStack() as stack:
        config = f"""
        [server]
        workers = 2
        [providers.fake]
        type = "openai"
        base_url = "{fake.base_url}"
        [models."*"]
        targets = [{{ provider = "fake" }}]
        """
        served = stack.enter_context(serving(config))
        made = json.loads(keys_command(served, "create", "--name", "leaver", "--json"))
        body = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
        streams = []
        for _ in range(8):  # on connections of their own, so that both workers have some
            http = stack.enter_context(httpx.Client(trust_env=False, timeout=10.0))
            headers = {"authorization": f"Bearer {made['key']}"}
            url = f"{served.base_url}/chat/completions"
            streams.append(stack.enter_context(http.stream("POST", url, json=body, headers=headers)))
        for number in range(8):
            fake.request(number)
        keys_command(served, "revoke", made["id"])
        began = time.monotonic()
        for stream in streams:
            assert "authentication_error" in "".join(stream.iter_text())
        assert time.monotonic() - began < WITHIN
        for number in range(8):
            assert fake.ended(number).hung_up
