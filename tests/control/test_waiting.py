"""A bounded, fair wait for a limit, instead of a refusal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec
import pytest

from penstock import link
from penstock.errors import RateLimited
from penstock.gateway.admission import Hold
from penstock.limits import Limit
from penstock.stores.valkey import ValkeySlices
from penstock.types import Principal
from support.limiting import KEY, Clock, Host
from support.redis import redis_server

A, B = KEY, msgspec.structs.replace(KEY, key_id="key_2")
HEAVY = msgspec.structs.replace(B, weight=3.0)


class Now(Clock):
    """The clock on the wall, since what waits is woken by the loop's."""

    def __call__(self) -> float:
        return time.monotonic()


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(bounded())


def host(*limits: Limit, max_wait: float = 10.0, **more: Any) -> Host:
    return Host(limits, max_wait=max_wait, clock=Now(), **more)


def project(meter: str, amount: int) -> Limit:
    return Limit("project", "prj", meter, amount)


async def queue(there: Host, keys: Sequence[Principal], **members: Any) -> list[asyncio.Task[Hold]]:
    """A request of each of these keys, asked for in that order."""
    tasks = []
    for key in keys:
        tasks.append(asyncio.create_task(there.reserve(key=key, **members)))
        await asyncio.sleep(0.005)
    return tasks


def waiting(there: Host) -> float:
    return next(one.value for one in there.counters.series() if one.name == "penstock_limits_waiting")


async def served(tasks: Sequence[asyncio.Task[Hold]], holds: list[Hold], count: int) -> list[int]:
    """Who is served, one after another, when each slot that comes free goes to the next; by their numbers."""
    order: list[int] = []
    left = dict(enumerate(tasks))
    for _ in range(count):
        holds.pop(0).release()
        done, _ = await asyncio.wait(left.values(), return_when=asyncio.FIRST_COMPLETED)
        for number in [number for number, task in left.items() if task in done]:
            order.append(number)
            holds.append(left.pop(number).result())
    return order


def test_a_request_waits_for_a_slot_and_gets_it_in_the_moment_it_is_free() -> None:
    async def main() -> None:
        there = host(project("concurrency", 1))
        hold = await there.reserve()
        (task,) = await queue(there, [A])
        assert waiting(there) == 1
        began = time.monotonic()
        hold.release()
        await task
        assert time.monotonic() - began < 0.1
        assert waiting(there) == 0

    run(main())


def test_a_request_waits_for_its_window_to_move_on() -> None:
    async def main() -> None:
        async def history(limit: Limit, since: float, width: float) -> list[tuple[float, int]]:
            return [(there.clock.wall() - 60.1, 2)]

        there = host(project("rpm", 2), history=history)
        began = time.monotonic()
        await there.reserve()
        assert 0.1 < time.monotonic() - began < 1.5

    run(main())


def test_who_would_not_be_served_in_time_is_refused_at_once() -> None:
    async def main() -> None:
        there = host(project("rpm", 2))
        await there.reserve()
        await there.reserve()
        began = time.monotonic()
        with pytest.raises(RateLimited, match="Try again in 60"):
            await there.reserve()
        assert time.monotonic() - began < 0.2, "sixty seconds are more than ten"

    run(main())


def test_who_has_waited_as_long_as_it_may_is_refused() -> None:
    async def main() -> None:
        there = host(project("concurrency", 1), max_wait=0.2)
        await there.reserve()
        began = time.monotonic()
        with pytest.raises(RateLimited):
            await there.reserve()
        assert 0.2 <= time.monotonic() - began < 1.0
        assert waiting(there) == 0
        with pytest.raises(RateLimited):
            await there.reserve(patience=time.monotonic() + 0.05)

    run(main())


def test_a_key_that_asks_much_stands_behind_itself() -> None:
    async def main() -> None:
        there = host(project("concurrency", 1))
        holds = [await there.reserve()]
        tasks = await queue(there, [A, A, A, A, B, B])
        assert await served(tasks, holds, 6) == [0, 4, 1, 5, 2, 3]

    run(main())


def test_a_key_of_three_times_the_weight_gets_three_times_the_share() -> None:
    async def main() -> None:
        there = host(project("concurrency", 1))
        holds = [await there.reserve()]
        tasks = await queue(there, [A] * 4 + [HEAVY] * 9)
        order = await served(tasks, holds, 8)
        assert sum(number < 4 for number in order) == 2

    run(main())


def test_nobody_overtakes_who_waits_also_if_there_would_be_enough_for_him() -> None:
    async def main() -> None:
        there = host(project("tpm", 1000), project("concurrency", 2))
        first = await there.reserve(max_tokens=800)
        (large,) = await queue(there, [A], max_tokens=500)
        assert large.done(), "sixty seconds are too long"
        assert isinstance(large.exception(), RateLimited)
        second = await there.reserve(max_tokens=20)
        (third,) = await queue(there, [A], max_tokens=20)
        (fourth,) = await queue(there, [B], max_tokens=20)
        second.release()
        await third
        assert not fourth.done()
        first.release()
        await fourth

    run(main())


def test_who_leaves_the_line_leaves_it_to_the_next() -> None:
    async def main() -> None:
        there = host(project("concurrency", 1), workers=2)
        hold = await there.reserve()
        tasks = await queue(there, [A, B, A])
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        await asyncio.sleep(0.01)
        assert waiting(there) == 2
        assert any(isinstance(message, link.Forget) for message in there.links[0].sent)
        hold.release()
        await tasks[1]
        assert not tasks[2].done()
        there.crash(0)
        assert waiting(there) == 0
        (await there.reserve(1)).release()
        tasks[2].cancel()
        await asyncio.gather(tasks[2], return_exceptions=True)

    run(main())


def test_a_line_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.control.counters.line.MOST", 3)

    async def main() -> None:
        there = host(project("concurrency", 1))
        await there.reserve()
        tasks = await queue(there, [A] * 4)
        assert waiting(there) == 3
        assert isinstance(tasks[3].exception(), RateLimited)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main())


def test_a_slot_that_comes_free_on_another_host_is_found() -> None:
    async def main() -> None:
        with redis_server() as server:
            stores = [ValkeySlices(server.url, 1.0, name) for name in ("a", "b")]
            one, two = (host(project("concurrency", 1), store=store) for store in stores)
            hold = await one.reserve()
            tasks = await queue(two, [A, B])
            assert waiting(two) == 2
            hold.release()
            (await tasks[0]).release()
            await tasks[1]
            for store in stores:
                await store.close()

    run(main())
