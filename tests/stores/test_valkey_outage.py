"""The counters' server frozen, killed, restarted empty, and behind a line that swallows what it carries."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
import redis

from penstock.stores.base import Asking, Change, Granted, Seed, StoreUnavailable, Unknown
from penstock.stores.valkey import ValkeySlices, open_slices
from penstock.types import Claim
from support.counting import arrived, bound, gateway, granted, plant
from support.gateway import until
from support.redis import RedisServer, redis_server

DAY = bound("day", "tokens", "day", 100_000, rolling=True)
TOTAL = bound("total", "requests", "lifetime", 100_000)
SLOTS = bound("slots", "slots", "held", 1000)
BOUNDS = (DAY, TOTAL, SLOTS)
ONE = Asking(BOUNDS, Claim(1, 10, 0, 1))
TIMEOUT = 0.05  # seconds
AMOUNTS = (10, 1, 1)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main

    asyncio.run(bounded())


async def lease(store: ValkeySlices, asking: Asking = ONE) -> Granted:
    """One that is granted, on a machine that may be too busy for the timeout."""
    while True:
        try:
            outcome = await store.lease(asking)
        except StoreUnavailable:
            await until(lambda: store.up)
            continue
        assert isinstance(outcome, Granted), outcome
        return outcome


async def begin(server: RedisServer) -> None:
    """Plant BOUNDS with nothing spent."""
    other = gateway(server.url)
    await plant(other, [Seed(each) for each in BOUNDS])
    await other.close()


async def taken(server: RedisServer) -> tuple[int, ...]:
    """What the server says is taken of BOUNDS, by who has nothing else to do with it."""
    other = gateway(server.url)
    outcome = await granted(other, BOUNDS, Claim())
    await other.close()
    return tuple(each.amount - left for each, left in zip(BOUNDS, outcome.left, strict=True))


def test_nobody_waits_for_a_server_that_is_frozen_and_it_recovers(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store = gateway(server.url, TIMEOUT)
        await begin(server)
        held = [await lease(store) for _ in range(3)]
        caplog.clear()
        server.freeze()
        began = time.monotonic()
        outcomes = await asyncio.gather(*(store.lease(ONE) for _ in range(50)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        assert time.monotonic() - began < 1
        await until(lambda: not store.up)
        with pytest.raises(StoreUnavailable, match=r"^the counters' server at /tmp/.*: no answer in time$"):
            store.lease(ONE).send(None)  # it does not wait at all
        store.post(
            [Change(each, place, amount) for each, place, amount in zip(BOUNDS, held[0].places, AMOUNTS, strict=True)]
        )
        store.post([Change(DAY, held[1].places[0], 10, 25)])
        await asyncio.sleep(0.6)  # in which it is looked for more than once
        assert not store.up
        server.thaw()
        await until(lambda: store.up)
        assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
        assert await taken(server) == (35, 2, 2), "what was asked for meanwhile is not taken, what was posted is done"
        await lease(store)
        assert await taken(server) == (45, 3, 3)
        await store.close()
        assert await taken(server) == (45, 3, 0)

    with caplog.at_level(logging.INFO):
        run(main())


def test_a_server_that_was_restarted_empty_gets_slots_and_counters_again(server: RedisServer) -> None:
    async def main() -> None:
        store = gateway(server.url, TIMEOUT)
        await begin(server)
        held = [await lease(store) for _ in range(5)]
        server.stop()
        with pytest.raises(StoreUnavailable):
            await store.lease(ONE)
        store.post([Change(SLOTS, held[0].places[2], 1)])
        server.start()
        await until(lambda: store.up)
        assert store.lost == 4
        store.post([Change(DAY, held[1].places[0], 10, 0), Change(TOTAL, held[1].places[1], 1, 3)])
        assert await store.lease(ONE) == Unknown((0, 1)), "and what was posted of them is known to whoever plants them"
        await plant(store, [Seed(DAY, ((60.0, 70),)), Seed(TOTAL, ((60.0, 7),))])
        assert await taken(server) == (70, 7, 4)
        store.post([Change(DAY, held[2].places[0], 10, 4), Change(TOTAL, held[2].places[1], 1, 3)])
        store.post([Change(SLOTS, each.places[2], 1) for each in held[2:]])
        await arrived(store)
        assert await taken(server) == (74, 10, 1), "all that is used of a counter that is no more is taken of the next"
        await store.close()

    run(main())


def test_a_server_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        store = gateway(f"unix://{tmp_path}/nothing.sock", TIMEOUT)
        store.post([Change(DAY, None, 0, 5)])
        with pytest.raises(StoreUnavailable):
            await store.lease(ONE)
        await until(lambda: not store.up)
        await store.close()

    run(main())


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@localhost:port/0",
        "redis://u:secret@[::1/0",
        "http://:secret@host",
        "unix://:secret@",
        "redis://:secret@h/0?socket_timeout=secret",
        "redis://:secret@h/0?nothing=secret",
    ],
)
def test_a_password_is_not_shown_by_what_is_wrong(url: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"^server\.counters: ") as refused:
        open_slices(url, TIMEOUT, "me")
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_password_is_sent_and_a_wrong_one_is_not_shown(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        at = server.url
        with redis.Redis.from_url(at, protocol=2) as client:
            client.config_set("requirepass", "s3cret/word")
        right, wrong = (f"{at}?password={quote(word, safe='')}" for word in ("s3cret/word", "my-s3cret"))
        store = gateway(right)
        assert await store.lease(ONE) == Unknown((0, 1))
        await store.close()
        store = gateway(wrong)
        with pytest.raises(StoreUnavailable) as refused:
            await store.lease(ONE)
        await store.close()
        assert "invalid username-password pair" in caplog.text
        assert "s3cret" not in caplog.text + str(refused.value)

    run(main())


# -- a line that loses what it carries


class Line:
    """Between a gateway and the server. `ask` and `reply`: the chance that what goes that way ends the connection
    instead of arriving. `late`: what is asked from now on arrives when `deliver` says so."""

    def __init__(self, server: RedisServer, seed: int) -> None:
        self._socket = unquote(server.url.removeprefix("unix://"))
        self._random = random.Random(seed)
        self.ask = self.reply = 0.0
        self.late = False
        self._kept: list[tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def deliver(self) -> None:
        """Let arrive what is late, from connections that are no more, and wait until it is answered."""
        for data, there, back in self._kept:
            back.write(data)
            await there.read(65536)
            back.close()
        self._kept.clear()

    @asynccontextmanager
    async def url(self, directory: Path) -> AsyncIterator[str]:
        path = directory / "line.sock"
        line = await asyncio.start_unix_server(self._carry, path)
        try:
            yield f"unix://{quote(str(path))}"
        finally:
            line.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._socket)
        if self.late:
            self._kept.append((await reader.read(65536), there, back))
            writer.close()
            return
        try:
            ways = [
                asyncio.create_task(self._one_way(reader, back, lambda: self.ask)),
                asyncio.create_task(self._one_way(there, writer, lambda: self.reply)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            writer.close()
            back.close()

    async def _one_way(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: Callable[[], float]
    ) -> None:
        while (data := await reader.read(65536)) and self._random.random() >= chance():
            writer.write(data)
            await writer.drain()


async def put(store: ValkeySlices, out: list[Granted], chance: random.Random) -> None:
    """One thing or another is done with the store; `out` has what is held."""
    if chance.random() < 0.5 or not out:
        try:
            outcome = await store.lease(Asking(BOUNDS, ONE.claim, chance.randrange(3)))
        except StoreUnavailable:
            await until(lambda: store.up)
        else:
            assert isinstance(outcome, Granted)
            out.append(outcome)
    else:
        one = out.pop(chance.randrange(len(out)))
        taken = one.taken(ONE.claim)
        store.post(
            [Change(each, place, getattr(taken, each.unit)) for each, place in zip(BOUNDS, one.places, strict=True)]
        )
    if chance.random() < 0.1:
        store.renew([SLOTS])


def _sum(out: list[Granted]) -> tuple[int, int, int]:
    taken = [one.taken(ONE.claim) for one in out]
    return sum(one.tokens for one in taken), sum(one.requests for one in taken), sum(one.slots for one in taken)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_line_loses_nothing_is_taken_or_given_back_twice(
    server: RedisServer, tmp_path: Path, seed: int
) -> None:
    async def main() -> None:
        line = Line(server, seed)
        await begin(server)
        async with line.url(tmp_path) as url:
            store = gateway(url, 2.0, probe=0.002)
            chance = random.Random(seed)
            out: list[Granted] = []
            await lease(store)
            out.append(await lease(store))
            store.post([Change(each, None, 0, 1) for each in (DAY, TOTAL)])
            line.ask, line.reply = 0.1, 0.1
            for _ in range(100):
                await asyncio.gather(*(put(store, out, chance) for _ in range(4)))
            line.ask = line.reply = 0.0
            out.append(await lease(store))
            tokens, requests, slots = _sum(out)
            assert await taken(server) == (tokens + 11, requests + 2, slots + 1)
            await store.close()
            assert await taken(server) == (tokens + 11, requests + 2, 0)

    run(main())


def test_what_arrives_late_from_a_connection_that_is_no_more_does_nothing(server: RedisServer, tmp_path: Path) -> None:
    async def main() -> None:
        line = Line(server, 0)
        await begin(server)
        async with line.url(tmp_path) as url:
            store = gateway(url, 2.0, probe=0.002)
            line.late = True
            store.post([Change(DAY, None, 0, 7)])
            with pytest.raises(StoreUnavailable):
                await store.lease(ONE)
            line.late = False
            await until(lambda: store.up)
            assert await taken(server) == (7, 0, 0)
            await line.deliver()
            assert await taken(server) == (7, 0, 0)
            await store.close()

    run(main())


def test_slots_are_taken_again_once_though_the_reply_is_lost(server: RedisServer, tmp_path: Path) -> None:
    async def main() -> None:
        line = Line(server, 0)
        await begin(server)
        async with line.url(tmp_path) as url:
            store = gateway(url, 2.0, probe=0.002)
            held = [await lease(store) for _ in range(3)]
            server.flush()
            await begin(server)
            line.reply = 1.0
            store.renew([SLOTS])
            await until(lambda: not store.up)
            assert await taken(server) == (0, 0, 3)
            line.reply = 0.0
            await until(lambda: store.up)
            assert await taken(server) == (0, 0, 3)
            assert store.lost == 3
            store.post([Change(SLOTS, each.places[2], 1) for each in held])
            await arrived(store)
            assert await taken(server) == (0, 0, 0)
            await store.close()

    run(main())
