"""Clients hang up, two hundred times in every phase: each frees what it held within 250 ms, and nothing is left.

Where the upstream has the request, the time is measured there: from the client's close to the moment at which the
upstream sees its own connection close. `pytest -s` shows the figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import statistics
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from scene import HUGE, Idle, deadlines, unanswered

from penstock.config import Breaker, Model, Retries, Upstream
from penstock.fake_upstream import Answer, Chunk, FakeUpstream, Seen
from penstock.fake_upstream.script import Cut, Script
from penstock.gateway.upstream import Lane
from penstock.gateway.upstream.health import State
from penstock.types import EngineAddress, Record
from support.gateway import ONCE, Running, chat, gateway, request, run, to, until, upstream

TIMES = 200
TOGETHER = 20  # clients that leave in the same moment
BOUND = 0.25  # seconds
WAYS = ("close", "reset", "half-close")
BOTH = pytest.mark.parametrize("stream", [False, True])

SILENT = Answer(wait="forever")
HEAD_ONLY = Answer(wait_first="forever")
ROLE_ONLY = Answer(chunks=("one",), cut=Cut(after_events=1, how="stall"))
BEGUN = Answer(chunks=("one", Chunk(text=" two", wait="forever")))
HALF = Answer(content="one two three", framing="chunked", cut=Cut(after_bytes=60, how="stall"))


class Client:
    """A socket that leaves in each of the ways there are, in turn."""

    def __init__(self, number: int) -> None:
        self._how = WAYS[number % len(WAYS)]
        self._sock = socket.socket()
        self._sock.setblocking(False)

    async def ask(self, address: tuple[str, int], asked: bytes) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._sock, address)
        await loop.sock_sendall(self._sock, asked)

    async def read(self, part: bytes) -> None:
        got = b""
        while part not in got:
            got += await asyncio.get_running_loop().sock_recv(self._sock, 65536)

    def leave(self) -> float:
        """Hang up; when that was."""
        if self._how == "half-close":
            self._sock.shutdown(socket.SHUT_WR)
        else:
            if self._how == "reset":
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.close()
        return time.monotonic()

    def close(self) -> None:
        self._sock.close()


Ready = Callable[[Sequence[Client]], Awaitable[object]]
Freed = Callable[[float], Awaitable[list[float]]]


async def hang_up(
    running: Running, stream: bool, ready: Ready, freed: Freed, asked: bytes | None = None
) -> list[float]:
    """TIMES hang-ups, TOGETHER at once; the seconds that each took to free what it held.

    A chat completion, or `asked`, is asked. `ready` waits until all of a round are in the phase; `freed`, given when
    the first one left, until nothing is held.
    """
    took: list[float] = []
    for first in range(0, TIMES, TOGETHER):
        clients = [Client(number) for number in range(first, first + TOGETHER)]
        for client in clients:
            await client.ask(running.address, asked or chat(stream=stream))
        await ready(clients)
        left = [client.leave() for client in clients]
        took += await freed(left[0])
        for client in clients:
            client.close()
    return took


def judge(phase: str, took: Sequence[float]) -> None:
    """The figures of a phase; each of them is within the bound."""
    middle, most = statistics.median(took) * 1000, max(took) * 1000
    print(f"{phase}: {len(took)} hang-ups, freed after {middle:.1f} ms (median), {most:.1f} ms (max)")
    assert len(took) == TIMES
    assert most < BOUND * 1000


async def recorded(running: Running, outcomes: list[str], count: int = TIMES, others: int = 0) -> None:
    """Every hang-up is on record once, with these attempts."""
    records = (await running.recorder.wait(count + others))[others:]
    assert len({record.request_id for record in records}) == len(records) == count
    assert {record.ended for record in records} == {"hangup"}
    assert {tuple(attempt.outcome for attempt in record.attempts) for record in records} == {tuple(outcomes)}


@asynccontextmanager
async def before(script: Any, **settings: Any) -> AsyncIterator[tuple[FakeUpstream, Running, Idle]]:
    """A gateway whose deadlines are all out of reach, so that they free nothing, and the fake upstream behind it."""
    rules = {name: settings.pop(name) for name in ("retries", "breaker") if name in settings}
    sockets = open_sockets()
    async with FakeUpstream(script) as fake:
        only = upstream(fake.base_url, deadlines=deadlines(), pool_wait=HUGE, **settings)
        async with gateway(only, **rules) as running:
            yield fake, running, Idle(running)
    await until(lambda: open_sockets() <= sockets)


def open_sockets() -> int:
    """How many sockets this process has."""
    found = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum(os.readlink(path).startswith("socket:") for path in found if os.path.lexists(path))


def the_lane(running: Running) -> Lane:
    (lane,) = running.api.gateway.upstreams.lanes.all().values()
    return lane


def at_the_upstream(fake: FakeUpstream) -> Freed:
    """Wait until the upstream has seen all of its calls end; how long after the hang-up each of the new ones did."""
    told = 0

    async def freed(left: float) -> list[float]:
        nonlocal told
        seen = [await fake.ended(number) for number in range(told, len(fake.seen))]
        told = len(fake.seen)
        assert all(one.hung_up for one in seen)
        return [_ended(one) - left for one in seen]

    return freed


def _ended(seen: Seen) -> float:
    assert seen.ended_at is not None
    return seen.ended_at


def here(free: Callable[[], object], count: int = TOGETHER) -> Freed:
    """Wait until nothing is held, where the upstream cannot know; that long each of them took at most."""

    async def freed(left: float) -> list[float]:
        await until(free)
        return [time.monotonic() - left] * count

    return freed


# -- where the upstream has the request


@pytest.mark.parametrize(
    ("phase", "script", "stream", "read"),
    [
        ("headers", SILENT, False, b""),
        ("headers, streamed", SILENT, True, b""),
        ("before the first event", HEAD_ONLY, True, b""),
        ("after the role", ROLE_ONLY, True, b""),
        ("mid-stream", BEGUN, True, b'"one"'),
        ("body, not streamed", HALF, False, b""),
    ],
)
def test_a_call_is_cut_off(phase: str, script: Answer, stream: bool, read: bytes) -> None:
    async def main() -> None:
        async with before(script) as (fake, running, idle):

            async def ready(clients: Sequence[Client]) -> None:
                await fake.reached("forever", len(clients))
                for client in clients if read else ():
                    await client.read(read)

            judge(phase, await hang_up(running, stream, ready, at_the_upstream(fake)))
            await idle.again(fake)
            await fake.wait_for(lambda: fake.open_connections == 0)
            assert running.pools["fake"].open == 0
            assert len(fake.seen) == TIMES
            await recorded(running, ["cancelled"])

    run(main())


@pytest.mark.parametrize(
    ("endpoint", "members", "script", "read"),
    [
        ("completions", {"prompt": "Hello", "stream": True}, BEGUN, b'"one"'),
        ("responses", {"input": "Hello", "stream": True}, BEGUN, b'"one"'),
        ("embeddings", {"input": "Hello"}, SILENT, b""),
    ],
)
def test_a_call_beside_chat_is_cut_off_too(endpoint: str, members: Any, script: Answer, read: bytes) -> None:
    async def main() -> None:
        body = json.dumps({"model": "gpt-5.4", **members}).encode()
        asked = request("POST", f"/v1/{endpoint}", body=body)
        async with before(script) as (fake, running, idle):

            async def ready(clients: Sequence[Client]) -> None:
                await fake.reached("forever", len(clients))
                for client in clients if read else ():
                    await client.read(read)

            judge(endpoint, await hang_up(running, False, ready, at_the_upstream(fake), asked))
            await idle.again(fake)
            assert running.pools["fake"].open == 0
            await recorded(running, ["cancelled"])

    run(main())


def test_a_rescue_is_cut_off() -> None:
    async def main() -> None:
        breaks = Answer(chunks=("one", " two"), cut=Cut(after_events=2, how="reset"))
        async with FakeUpstream(breaks) as first, FakeUpstream(SILENT) as second:
            providers = [
                upstream(fake.base_url, name, deadlines=deadlines()) for fake, name in ((first, "a"), (second, "b"))
            ]
            models = {"*": Model(to("a", "b").targets, rescue="splice")}
            async with gateway(*providers, models=models, retries=Retries(budget_burst=9999)) as running:
                idle = Idle(running)

                async def ready(clients: Sequence[Client]) -> None:
                    await second.reached("forever", len(clients))
                    for client in clients:
                        await client.read(b'"one"')

                judge("rescue", await hang_up(running, True, ready, at_the_upstream(second)))
                await idle.again(first, second)
                assert [pool.open for pool in running.pools.values()] == [0, 0]
                await recorded(running, ["reset", "cancelled"])

    run(main())


@pytest.mark.parametrize("path", ["/apply-template", "/completion"])
def test_a_step_of_a_local_model_is_cut_off(path: str, tmp_path: Path) -> None:
    async def main() -> None:
        place = str(tmp_path / "engine")
        template = Answer(body='{"prompt": "Hello"}')
        paths: dict[str, tuple[Answer, ...]] = {"/apply-template": (template,), path: (SILENT,)}
        engine = Upstream("local", "llama", deadlines=deadlines())
        async with (
            FakeUpstream(Script(paths=paths), listen=f"unix:{place}") as fake,
            gateway(engine, engine=EngineAddress(place, "token")) as running,
        ):
            idle, took, told = Idle(running), [], 0
            for first in range(0, TIMES, TOGETHER):
                clients = [Client(number) for number in range(first, first + TOGETHER)]
                for client in clients:
                    await client.ask(running.address, chat(stream=True))
                await fake.reached("forever", TOGETHER)
                left = min([client.leave() for client in clients])
                seen = [await fake.ended(number) for number in range(told, len(fake.seen))]
                told = len(fake.seen)
                took += [_ended(one) - left for one in seen if one.hung_up]
                for client in clients:
                    client.close()
            judge(f"local model, {path}", took)
            await idle.again(fake)
            await recorded(running, ["cancelled"])

    run(main())


# -- where it has not


@BOTH
def test_a_connect_is_given_up(stream: bool) -> None:
    async def main() -> None:
        with unanswered() as port:
            nowhere = upstream(f"http://127.0.0.1:{port}/v1", deadlines=deadlines())
            async with gateway(nowhere) as running:
                idle, pool = Idle(running), running.pools["fake"]

                async def ready(clients: Sequence[Client]) -> None:
                    await until(lambda: pool.open == len(clients))

                judge("connect", await hang_up(running, stream, ready, here(lambda: pool.open == 0)))
                await idle.again()
                await recorded(running, ["cancelled"])

    run(main())


def test_a_place_in_the_pools_line_is_left() -> None:
    async def main() -> None:
        async with before(Answer(wait="gate"), max_connections=1) as (fake, running, idle):
            first = asyncio.create_task(running.chat())
            await fake.reached("gate")
            pool = running.pools["fake"]

            async def ready(clients: Sequence[Client]) -> None:
                await until(lambda: len(pool.waiting) == len(clients))

            judge("waiting for a connection", await hang_up(running, False, ready, here(lambda: not pool.waiting)))
            await recorded(running, ["cancelled"])
            fake.open("gate")
            assert (await first).status == 200
            await idle.again(fake)
            assert (len(fake.seen), pool.open) == (1, 1)

    run(main())


def test_a_backoff_is_slept_no_further() -> None:
    async def main() -> None:
        rules = Retries(
            attempts=3, first_wait=600.0, longest_wait=600.0, max_wait=HUGE, patience=HUGE, budget_burst=9999
        )
        async with before(Answer(status=500), retries=rules) as (fake, running, idle):
            answered = 0

            async def ready(clients: Sequence[Client]) -> None:
                nonlocal answered
                answered += len(clients)
                await fake.wait_for(lambda: sum(seen.ended == "complete" for seen in fake.seen) == answered)
                await until(lambda: the_lane(running).health.outstanding == 0)

            freed = here(lambda: running.telemetry.metrics.in_flight == 0)
            judge("backoff", await hang_up(running, False, ready, freed))
            await idle.again(fake)
            assert len(fake.seen) == TIMES
            await recorded(running, ["unavailable"])

    run(main())


def test_a_place_before_the_gate_is_left() -> None:
    async def main() -> None:
        limited = Answer(status=429, retry_after=50.0)
        rules = Retries(attempts=1, max_wait=HUGE)
        async with before((limited, Answer()), retries=rules) as (fake, running, idle):
            assert (await running.chat()).status == 429
            gate = the_lane(running).gate

            async def ready(clients: Sequence[Client]) -> None:
                await until(lambda: len(gate._line) == len(clients))

            judge("line before the gate", await hang_up(running, False, ready, here(lambda: not gate._line)))
            await idle.again(fake)
            assert len(fake.seen) == 1
            await recorded(running, [], others=1)
            gate.closed_until = gate.next_at = 0.0
            assert (await running.chat()).status == 200  # whose turn none of them has taken along

    run(main())


def test_a_turn_that_is_given_in_the_moment_of_a_hang_up_goes_to_the_next() -> None:
    async def main() -> None:
        rules = Retries(attempts=1, max_wait=HUGE)
        async with before((Answer(status=429), Answer()), retries=rules) as (fake, running, idle):
            assert (await running.chat()).status == 429
            gate = the_lane(running).gate
            for _ in range(TIMES // TOGETHER):
                gate.closed_until = gate.next_at = time.monotonic() + HUGE / 1000
                gate.limit, gate.pace = 1.0, 1e9
                clients = [Client(number) for number in range(TOGETHER)]
                for client in clients:
                    await client.ask(running.address, chat())
                await until(lambda: len(gate._line) == TOGETHER)
                leaving = [connection.active for connection in running.server.edge.connections]
                staying = asyncio.create_task(running.chat())
                await until(lambda: len(gate._line) == TOGETHER + 1)
                gate.closed_until = gate.next_at = 0.0
                gate.ended()  # the first in line has its turn, and is cancelled before it can take it
                for one in leaving:
                    assert one is not None
                    assert one.task is not None
                    one.task.cancel()
                assert (await staying).status == 200
                for client in clients:
                    client.close()
            await idle.again(fake)

    run(main())


# -- whenever


@BOTH
def test_at_random_moments(stream: bool) -> None:
    """Of a call that takes about 40 ms in all its phases: connect, head, first event, stream, end, and next request."""

    async def main() -> None:
        dice = random.Random(4)
        slow = Answer(wait=0.01, wait_first=0.01, chunks=tuple(Chunk(text="x", wait=0.002) for _ in range(10)))
        rules = Retries(first_wait=0.005, longest_wait=0.005, budget_burst=9999)
        async with before((Answer(status=503), slow) * TIMES, retries=rules, max_connections=8) as scene:
            fake, running, idle = scene
            loop = asyncio.get_running_loop()
            for first in range(0, TIMES, TOGETHER):
                clients = [Client(number) for number in range(first, first + TOGETHER)]
                gone = [loop.create_future() for _ in clients]
                for client, left in zip(clients, gone, strict=True):
                    await client.ask(running.address, chat(stream=stream))
                    loop.call_later(dice.random() * 0.06, _leave, client, left)
                left_at = max(await asyncio.gather(*gone))
                await idle.alone()
                assert time.monotonic() - left_at < 2 * BOUND  # a round of them, with the reading of what was sent
                for client in clients:
                    client.close()
            await idle.again(fake)
            records = await running.recorder.wait(TIMES)
            assert len({record.request_id for record in records}) == len(records) == TIMES
            ends = {record.ended for record in records}
            assert {"ok", "hangup"} <= ends <= {"ok", "hangup", "failed"}  # failed: whose four attempts all met a 503
            assert all(_fits(record) for record in records)

    run(main())


def _leave(client: Client, left: asyncio.Future[float]) -> None:
    left.set_result(client.leave())


def _fits(record: Record) -> bool:
    """Whether its attempts are those of a request that ended so: one was cancelled at most, the last."""
    outcomes = [attempt.outcome for attempt in record.attempts]
    if record.ended == "hangup":
        return set(outcomes[:-1]) <= {"unavailable"}
    return set(outcomes) <= {"unavailable", "ok"}


def test_a_probe_whose_caller_hangs_up_tells_nothing_and_the_next_call_takes_its_place() -> None:
    async def main() -> None:
        rules = Breaker(failures=1, probe_interval=0.001)
        async with before((Answer(status=500), SILENT), breaker=rules, retries=ONCE) as (fake, running, idle):
            assert (await running.chat()).status == 502
            health = the_lane(running).health
            for number in range(50):
                assert health.state is not State.CLOSED
                await until(lambda: health.ready_at(time.monotonic()) <= time.monotonic())
                client = Client(number)
                await client.ask(running.address, chat())
                await fake.reached("forever")
                assert health.probing
                left = client.leave()
                assert _ended(await fake.ended(number + 1)) - left < BOUND
                await idle.again(fake)
                client.close()

    run(main())


def test_a_breaker_closes_at_the_first_event_of_its_probe_and_not_at_the_end() -> None:
    async def main() -> None:
        rules = Breaker(failures=1, probe_interval=0.001)
        script = (Answer(status=500), Answer(chunks=("one", Chunk(text=" two", wait="gate"))), Answer())
        async with before(script, breaker=rules, retries=ONCE) as (fake, running, idle):
            assert (await running.chat()).status == 502
            health = the_lane(running).health
            await until(lambda: health.ready_at(time.monotonic()) <= time.monotonic())
            probe = asyncio.create_task(running.chat(stream=True))
            await fake.reached("gate")
            await until(lambda: health.state is State.CLOSED)
            assert (await running.chat()).status == 200
            fake.open("gate")
            assert (await probe).body.endswith(b"data: [DONE]\n\n")
            await idle.again(fake)

    run(main())


def test_a_turn_that_the_breaker_makes_void_goes_to_the_next_in_line() -> None:
    async def main() -> None:
        rules = {"retries": Retries(attempts=1, max_wait=HUGE), "breaker": Breaker(failures=1, probe_interval=HUGE)}
        async with before((Answer(status=429), Answer(status=500)), **rules) as (fake, running, idle):
            assert (await running.chat()).status == 429
            lane = the_lane(running)
            lane.gate.closed_until = lane.gate.next_at = time.monotonic() + 5.0
            lane.gate.limit, lane.gate.pace = 1.0, 1e9
            asking = [asyncio.create_task(running.chat()) for _ in range(5)]
            await until(lambda: len(lane.gate._line) == 5)
            lane.gate.closed_until = lane.gate.next_at = 0.0
            lane.gate.ended()  # the first goes, and opens the breaker; the others must not wait for calls of nobody
            assert sorted([(await one).status for one in asking]) == [502, 503, 503, 503, 503]
            await idle.again(fake)
            assert len(fake.seen) == 2

    run(main())


def test_a_stream_of_hang_ups_never_counts_against_a_target() -> None:
    async def main() -> None:
        async with before((*(SILENT,) * 30, Answer()), breaker=Breaker(failures=1)) as (fake, running, idle):
            for number in range(30):
                client = Client(number)
                await client.ask(running.address, chat())
                await fake.reached("forever")
                client.leave()
                await fake.ended(number)
                client.close()
            assert (await running.chat()).status == 200
            assert the_lane(running).health.state is State.CLOSED
            await idle.again(fake)

    run(main())
