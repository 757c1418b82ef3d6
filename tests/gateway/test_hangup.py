"""A client that hangs up, in whatever phase and way, frees its upstream within 250 ms and leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.config import Config, Limits, Server, Upstream
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.script import Cut, Script
from penstock.types import EngineAddress, Record
from support.gateway import Running, chat, gateway, run, until, upstream
from support.raw import PATIENCE

BOUND = 0.25  # seconds
LIMITS = Config(server=Server(limits=Limits(heartbeat=60.0)))  # so that streams are watched for silence


class Client:
    """A socket that can leave in each of the ways there are."""

    def __init__(self) -> None:
        self._sock = socket.socket()
        self._sock.setblocking(False)

    async def send(self, address: tuple[str, int], request: bytes) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._sock, address)
        await loop.sock_sendall(self._sock, request)

    async def read_until(self, part: bytes) -> None:
        got = b""
        async with asyncio.timeout(PATIENCE):
            while part not in got:
                got += await asyncio.get_running_loop().sock_recv(self._sock, 65536)

    def leave(self, how: str) -> float:
        """Hang up; when that was."""
        if how == "half-close":
            self._sock.shutdown(socket.SHUT_WR)
        else:
            if how == "reset":
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.close()
        return time.monotonic()

    def close(self) -> None:
        self._sock.close()


HOW = pytest.mark.parametrize("how", ["close", "reset", "half-close"])
BOTH = pytest.mark.parametrize("stream", [False, True])
Leave = Callable[[Running, Client], Awaitable[None]]


async def settled(running: Running, tasks: set[asyncio.Task[Any]]) -> None:
    """Nothing is left of the requests: no task, no connection, nothing counted as in flight, nothing watched."""
    begun = running.telemetry.metrics
    await until(lambda: not (running.server.edge.connections or asyncio.all_tasks() - tasks or begun.in_flight))
    assert running.api.gateway.heartbeats._open == {}
    assert running.server.edge.buffered == 0


def cut_off(record: Record) -> None:
    """The record of a request whose client left."""
    assert record.ended == "hangup"
    assert [attempt.outcome for attempt in record.attempts] == ["cancelled"]
    assert record.code is None


@asynccontextmanager
async def before(
    *upstreams: Upstream, **settings: Any
) -> AsyncIterator[tuple[Running, Client, set[asyncio.Task[Any]]]]:
    """A gateway, a client, and the tasks that run while nothing is asked."""
    async with gateway(*upstreams, config=LIMITS, **settings) as running:
        client = Client()
        try:
            yield running, client, asyncio.all_tasks()
        finally:
            client.close()


def leaving(script: Answer, how: str, stream: bool, ready: Leave | None = None) -> Record:
    """Hang up once the upstream waits forever (and `ready` has returned); the record of it."""
    found: list[Record] = []

    async def main() -> None:
        async with FakeUpstream(script) as fake, before(upstream(fake.base_url)) as (running, client, tasks):
            await client.send(running.address, chat(stream=stream))
            await fake.reached("forever")
            if ready is not None:
                await ready(running, client)
            left = client.leave(how)
            seen = await fake.ended()
            assert seen.hung_up
            assert seen.ended_at is not None
            print(f"freed after {(seen.ended_at - left) * 1000:.1f} ms")
            assert seen.ended_at - left < BOUND
            await fake.wait_for(lambda: fake.open_connections == 0)
            assert running.pools["fake"].open == 0
            await settled(running, tasks)
            record = await running.record()
            cut_off(record)
            assert running.series()["penstock_requests_total", "*", "fake", str(record.status), "hangup"] == 1
            assert running.series()["penstock_attempts_total", "fake", "cancelled"] == 1
            found.append(record)

    run(main())
    return found[0]


@HOW
@BOTH
def test_while_the_upstream_has_not_begun_to_answer(how: str, stream: bool) -> None:
    record = leaving(Answer(wait="forever"), how, stream)
    assert (record.status, record.attempts[0].status, record.first_event_ms) == (0, 0, None)


@HOW
@BOTH
def test_between_the_head_and_the_first_event(how: str, stream: bool) -> None:
    assert leaving(Answer(wait_first="forever"), how, stream).status == 0


@HOW
def test_after_events_that_are_not_yet_for_the_client(how: str) -> None:
    assert leaving(Answer(chunks=(Chunk(text="one", wait="forever"),)), how, True).status == 0


@HOW
def test_in_the_middle_of_a_stream(how: str) -> None:
    async def has_read(running: Running, client: Client) -> None:
        await client.read_until(b'"one"')

    record = leaving(Answer(chunks=("one", Chunk(text="two", wait="forever"))), how, True, has_read)
    assert (record.status, record.attempts[0].status) == (200, 200)
    assert record.first_event_ms is not None


@HOW
def test_in_the_moment_of_the_first_event(how: str) -> None:
    """The client may go before the task of its request has heard that there was a first event."""
    leaving(Answer(chunks=("one", Chunk(text="two", wait="forever"))), how, True)


@HOW
def test_in_the_middle_of_a_body(how: str) -> None:
    told = Answer(content="x" * 10_000, framing="chunked", cut=Cut(after_bytes=5000, how="stall"))
    assert leaving(told, how, False).status == 0


@HOW
def test_while_the_upstream_is_paused_for_the_slow_client(how: str) -> None:
    async def main() -> None:
        endless = Answer(chunks=("x" * 65_536,) * 10_000)
        async with FakeUpstream(endless) as fake, before(upstream(fake.base_url)) as (running, client, tasks):
            await client.send(running.address, chat(stream=True))
            await until(lambda: any(one.transport.get_write_buffer_size() for one in running.server.edge.connections))
            left = client.leave(how)
            if how == "half-close":  # its other half is still open, and the gateway does not wait for it to read
                client.close()
            seen = await fake.ended()
            assert seen.hung_up
            assert seen.ended_at is not None
            assert seen.ended_at - left < BOUND
            await settled(running, tasks)
            cut_off(await running.record())
            assert running.pools["fake"].open == 0

    run(main())


@HOW
def test_while_the_key_is_looked_up(how: str) -> None:
    async def main() -> None:
        async with FakeUpstream() as fake, before(upstream(fake.base_url)) as (running, client, tasks):
            running.keys.hold()
            await client.send(running.address, chat())
            await running.keys.asked.wait()
            client.leave(how)  # the edge reads no more until it knows whether it may: nothing has been begun
            running.keys.release()
            await settled(running, tasks)
            assert all(seen.hung_up for seen in fake.seen)
            assert (await running.chat()).status == 200

    run(main())


@HOW
@BOTH
def test_while_the_connection_to_the_upstream_is_made(how: str, stream: bool) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            address = listener.getsockname()
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            async with before(upstream(f"http://127.0.0.1:{address[1]}/v1")) as (running, client, tasks):
                pool = running.pools["fake"]
                await client.send(running.address, chat(stream=stream))
                await until(lambda: pool.open)
                left = client.leave(how)
                await until(lambda: not pool.open)
                assert time.monotonic() - left < BOUND
                await settled(running, tasks)
                cut_off(await running.record())
            for filler in fillers:
                filler.close()

    run(main())


@HOW
def test_while_it_waits_for_a_place_in_the_pool(how: str) -> None:
    async def main() -> None:
        async with (
            FakeUpstream(Answer(wait="gate")) as fake,
            before(upstream(fake.base_url, max_connections=1)) as (running, client, tasks),
        ):
            first = asyncio.create_task(running.chat())
            await fake.reached("gate")
            pool = running.pools["fake"]
            await client.send(running.address, chat())
            await until(lambda: pool.waiting)
            left = client.leave(how)
            cut_off(await running.record())
            assert time.monotonic() - left < BOUND
            assert not pool.waiting
            fake.open("gate")
            assert (await first).status == 200
            await settled(running, tasks)
            assert (len(fake.seen), pool.open) == (1, 1)

    run(main())


@HOW
@pytest.mark.parametrize("path", ["/apply-template", "/completion"])
def test_in_each_step_of_a_local_model(how: str, path: str, tmp_path: Path) -> None:
    async def main() -> None:
        socket_path = str(tmp_path / "engine")
        prompt = Answer(body='{"prompt": "hello"}')
        paths: dict[str, tuple[Answer, ...]] = {"/apply-template": (prompt,), path: (Answer(wait="forever"),)}
        script = Script(paths=paths)
        async with (
            FakeUpstream(script, listen=f"unix:{socket_path}") as fake,
            before(Upstream("local", "llama"), engine=EngineAddress(socket_path, "token")) as (running, client, tasks),
        ):
            await client.send(running.address, chat(stream=True))
            await fake.reached("forever")
            left = client.leave(how)
            seen = await fake.ended(len(fake.seen) - 1)
            assert (seen.path, seen.hung_up) == (path, True)
            assert seen.ended_at is not None
            assert seen.ended_at - left < BOUND
            await settled(running, tasks)
            cut_off(await running.record())
            await fake.wait_for(lambda: fake.open_connections == running.pools["local"].open)

    run(main())


def test_many_at_once() -> None:
    async def main() -> None:
        told = Answer(chunks=("one", Chunk(text="two", wait="forever")))
        async with FakeUpstream(told) as fake, before(upstream(fake.base_url)) as (running, _, tasks):
            clients = [Client() for _ in range(50)]
            for client in clients:
                await client.send(running.address, chat(stream=True))
            await fake.reached("forever", 50)
            left = min([client.leave("close") for client in clients])
            for number in range(50):
                seen = await fake.ended(number)
                assert seen.hung_up
                assert seen.ended_at is not None
                assert seen.ended_at - left < 2 * BOUND  # fifty share a processor with this test
            await settled(running, tasks)
            records = await running.recorder.wait(50)
            for record in records:
                cut_off(record)
            assert running.pools["fake"].open == 0

    run(main())


def test_a_client_that_leaves_while_its_body_arrives_leaves_nothing() -> None:
    async def main() -> None:
        async with FakeUpstream() as fake, before(upstream(fake.base_url)) as (running, client, tasks):
            await running.chat()
            await client.send(running.address, chat(padding="x" * 10_000)[:5000])
            await until(lambda: running.server.edge.buffered)
            client.leave("close")
            await settled(running, tasks)
            assert len(fake.seen) == 1

    run(main())
