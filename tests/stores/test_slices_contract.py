"""Every store of counters does the same: in memory, and in a real Redis."""

from __future__ import annotations

import asyncio
import datetime
import math
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeAlias

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.stores.base import Asking, Bound, Change, Granted, Refused, Seed, Short, Slices, Unknown
from penstock.stores.slices import MemorySlices
from penstock.stores.valkey import ValkeySlices
from penstock.types import Claim
from support.counting import Clock, arrived, bound, gateway, granted, lease, plain, plant, store_of, take
from support.redis import RedisServer, redis_server

Body: TypeAlias = Callable[[Slices, Clock], Coroutine[Any, Any, None]]
Run: TypeAlias = Callable[[Body], None]

RPM = bound("rpm", "requests", "minute", 10, rolling=True)
TPM = bound("tpm", "tokens", "minute", 1000, rolling=True)
SLOTS = bound("slots", "slots", "held", 7)
DAY = bound("day", "tokens", "day", 5000)
MONTH = bound("month", "nanos", "month", 10**15)
TOTAL = bound("total", "nanos", "lifetime", 5 * 10**15)
LONG = bound("long", "requests", "month", 100, rolling=True)
ALL = (RPM, TPM, SLOTS, DAY, MONTH, TOTAL)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(params=["memory", "valkey"])
def run(request: pytest.FixtureRequest, server: RedisServer) -> Run:
    """Runs a test on an empty store."""
    server.flush()

    def run(body: Body) -> None:
        async def main() -> None:
            clock = Clock()
            store = store_of(request.param, server, clock)
            try:
                await body(store, clock)
            finally:
                await store.close()

        asyncio.run(main())

    return run


def refused(*short: tuple[int, int, float | None]) -> Refused:
    return Refused(tuple(Short(*each) for each in short))


def test_all_claims_are_taken_or_none(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        first = await granted(store, ALL, Claim(1, 400, 3 * 10**14, 1))
        assert first.left == (9, 600, 6, 4600, 7 * 10**14, 47 * 10**14)
        assert await take(store, ALL, Claim(1, 700, 1, 1)) == refused((1, 600, 60.5))
        again = await granted(store, ALL, Claim(1, 600, 1, 1))
        assert again.left == (8, 0, 5, 4000, 7 * 10**14 - 1, 47 * 10**14 - 1), "a refusal costs nothing"

    run(body)


def test_a_counter_that_was_never_planted_is_unknown(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        asking = Asking((SLOTS, RPM, DAY), Claim(1, 10, 0, 1))
        assert await lease(store, asking) == Unknown((1, 2)), "slots begin with nobody"
        await plant(store, [Seed(RPM, ((70.0, 5), (30.0, 4), (30.0, 1)))])
        assert await lease(store, asking) == Unknown((2,))
        await plant(store, [Seed(DAY, ((50_000.0, 700), (3600.0, 50))), Seed(RPM)])
        outcome = await lease(store, asking)
        assert isinstance(outcome, Granted)
        assert outcome.left == (6, 4, 4940), "what exists stays, and what is older than its window is not in it"

    run(body)


def test_a_window_slides(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        for _ in range(5):
            await granted(store, [RPM], Claim(2))
            clock.move(1)
        assert await take(store, [RPM], Claim(1)) == refused((0, 0, 55.5))
        assert await take(store, [RPM], Claim(3)) == refused((0, 0, 56.5))
        assert await take(store, [RPM], Claim(11)) == refused((0, 0, math.inf))
        clock.move(55.375)
        assert await take(store, [RPM], Claim(1)) == refused((0, 0, 0.125))
        clock.move(0.125)
        outcome = await granted(store, [RPM], Claim(2))
        assert outcome.left == (0,)
        assert outcome.whole == (60.5,)
        assert isinstance(await take(store, [RPM], Claim(1)), Refused)

    run(body)


def test_a_grant_is_valid_until_its_bucket_ends(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        assert (await granted(store, [RPM], Claim(1))).valid == 0.25
        clock.move(0.125)
        assert (await granted(store, [RPM], Claim(1))).valid == 0.125
        assert (await granted(store, [TOTAL], Claim())).valid == 1.0
        clock.move(43_199.5)
        assert (await granted(store, [DAY], Claim())).valid == 0.375, "nor beyond midnight"

    run(body)


def test_what_comes_back_goes_to_where_it_was_taken(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        first = await granted(store, [TPM], Claim(0, 500))
        clock.move(30)
        await granted(store, [TPM], Claim(0, 400))
        store.post([Change(TPM, first.places[0], 500, 200)])
        assert (await granted(store, [TPM], Claim())).left == (400,)
        clock.move(30.5)
        assert (await granted(store, [TPM], Claim())).left == (600,)
        store.post([Change(TPM, first.places[0], 200, 0)])
        assert (await granted(store, [TPM], Claim())).left == (600,), "of what has left its window nothing comes back"

    run(body)


def test_what_is_used_beyond_what_was_reserved_is_debt_of_now(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        first = await granted(store, [TPM], Claim(0, 500))
        clock.move(59)
        store.post([Change(TPM, first.places[0], 500, 1300), Change(TPM, None, 0, 10)])
        assert await take(store, [TPM], Claim(0, 1)) == refused((0, -310, 1.5))
        clock.move(2)
        assert (await granted(store, [TPM], Claim(0, 1))).left == (189,)

    run(body)


def test_a_limit_on_trial_counts_and_lets_through(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        trial = bound("trial", "requests", "minute", 1, rolling=True, enforced=False)
        assert (await granted(store, [RPM, trial], Claim(1), 3)).over == ()
        outcome = await granted(store, [RPM, trial], Claim(1), 3)
        assert (outcome.more, outcome.left, outcome.over) == (0, (8, -1), (1,))

    run(body)


def test_more_is_granted_as_far_as_there_is_plenty(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        await plant(store, [Seed(TPM), Seed(RPM)])
        outcome = await lease(store, Asking((TPM, RPM), Claim(1, 100), 9, 2))
        assert isinstance(outcome, Granted)
        assert (outcome.more, outcome.left) == (2, (700, 7))
        outcome = await lease(store, Asking((TPM, RPM), Claim(1, 100), 9, 100))
        assert isinstance(outcome, Granted)
        assert (outcome.more, outcome.left) == (0, (600, 6))

    run(body)


def test_fewer_slots_are_granted_than_requests_where_there_are_fewer(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        await plant(store, [Seed(RPM)])
        asking = Asking((RPM, SLOTS), Claim(1, slots=1), 4)
        outcome = await lease(store, asking)
        assert isinstance(outcome, Granted)
        assert (outcome.more, outcome.more_slots, outcome.left) == (4, 3, (5, 3))
        assert outcome.taken(asking.claim) == Claim(5, slots=4)
        pair = bound("pair", "slots", "held", 2)
        outcome = await lease(store, Asking((RPM, pair), Claim(1, slots=1), 4))
        assert isinstance(outcome, Granted)
        assert (outcome.more, outcome.more_slots, outcome.left) == (0, 0, (4, 1)), "without slots the rest is of no use"

    run(body)


def test_who_waits_is_told_of_those_before_it(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        await plant(store, [Seed(RPM, ((40.0, 1), (30.0, 2), (20.0, 7)))])
        assert await lease(store, Asking((RPM,), Claim(1), ahead=Claim(1))) == refused((0, 0, 30.5))
        assert await lease(store, Asking((RPM,), Claim(1))) == refused((0, 0, 20.5))

    run(body)


def test_slots_are_held_until_they_come_back(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        places = [(await granted(store, [SLOTS], Claim(slots=1))).places[0] for _ in range(7)]
        assert await take(store, [SLOTS], Claim(slots=1)) == refused((0, 0, None))
        for _ in range(20):
            clock.move(10)
            store.renew([SLOTS])
            await arrived(store)
        assert await take(store, [SLOTS], Claim(slots=1)) == refused((0, 0, None))
        store.post([Change(SLOTS, place, 1) for place in places[:3]])
        assert (await granted(store, [SLOTS], Claim(slots=3))).left == (0,)
        assert store.lost == 0

    run(body)


def test_calendars_are_those_of_utc(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        for year in (2027, 2028, 2100, 2400):
            for month in range(1, 13):
                last = datetime.datetime(year, month, 28, 23, 59, 59, tzinfo=datetime.UTC)
                following = datetime.datetime(year + month // 12, month % 12 + 1, 1, tzinfo=datetime.UTC)
                clock.now = last.timestamp()
                outcome = await granted(store, [MONTH], Claim(0, 0, 7))
                assert outcome.whole == ((following - last).total_seconds(),)
                assert outcome.left == (10**15 - 7,), "a month begins with nothing taken"
                clock.now = following.timestamp() - 1
                assert (await granted(store, [MONTH], Claim())).left == (10**15 - 7,)

    run(body)


def test_a_clock_that_steps_back_gives_nothing_twice(run: Run) -> None:
    async def body(store: Slices, clock: Clock) -> None:
        await granted(store, [RPM, DAY], Claim(10, 5000))
        clock.move(-90_000)
        assert isinstance(await take(store, [RPM], Claim(1)), Refused)
        assert isinstance(await take(store, [DAY], Claim(1, 1)), Refused)

    run(body)


# -- both at once


Step: TypeAlias = tuple[Any, ...]

BOUNDS = (*ALL, LONG, bound("trial", "tokens", "minute", 300, rolling=True, enforced=False))
MOVES = (1 / 64, 1 / 4, 1.0, 29.0, 59.75, 61.0, 3600.0, 86_400.0, 40 * 86_400.0, -1.0, -100.0)
AMOUNTS = st.tuples(
    st.integers(0, 3), st.sampled_from([0, 1, 90, 400]), st.sampled_from([0, 5, 10**14]), st.integers(0, 3)
)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("lease"),
            st.lists(st.integers(0, len(BOUNDS) - 1), min_size=1, max_size=6, unique=True),
            *(AMOUNTS, st.integers(0, 3), st.integers(1, 3), AMOUNTS),
        ),
        st.tuples(st.just("settle"), st.integers(0, 30), st.sampled_from([0, 1, 2, 3])),
        st.tuples(st.just("move"), st.sampled_from(MOVES)),
        st.tuples(st.just("spend"), st.sampled_from([0, 1, 3]), st.integers(1, 400)),
    ),
    min_size=5,
    max_size=40,
)


class Pair:
    """One store in memory, and three on one Redis that are asked in turn: who counts the same answers the same."""

    def __init__(self, server: RedisServer) -> None:
        self.clock = Clock()
        self.memory = MemorySlices(self.clock, self.clock)
        self.gateways = [gateway(server.url, clock=self.clock) for _ in range(3)]
        self.out: list[tuple[int, Asking, Granted, Granted]] = []
        self.turn = 0

    async def step(self, step: Step) -> None:
        self.turn = (self.turn + 1) % 3
        match step:
            case ("lease", indices, claim, more, sharers, ahead):
                bounds = tuple(BOUNDS[index] for index in indices)
                await self.lease(Asking(bounds, Claim(*claim), more, sharers, Claim(*ahead)))
            case ("settle", index, actual) if self.out:
                await self.settle(*self.out.pop(index % len(self.out)), actual)
            case ("move", seconds):
                if seconds < 0:  # both know what the newest bucket was
                    await self.lease(Asking(BOUNDS, Claim()))
                self.clock.move(seconds)
                for one in self.gateways:  # before its slots are anybody's
                    one.renew([SLOTS])
                    await arrived(one)
            case ("spend", index, amount):
                self.memory.post([Change(BOUNDS[index], None, 0, amount)])
                self.gateways[self.turn].post([Change(BOUNDS[index], None, 0, amount)])
                await arrived(self.gateways[self.turn])

    async def lease(self, asking: Asking) -> None:
        expected, outcome = self.memory.lease(asking), await self.gateways[self.turn].lease(asking)
        assert plain(outcome) == plain(expected)
        if isinstance(expected, Unknown):
            seeds = [Seed(asking.bounds[at], ((70.0, 1), (9.0, 2), (61.0, 1), (0.0, 1))) for at in expected.bounds]
            await plant(self.memory, seeds)
            await plant(self.gateways[self.turn], seeds)
            await self.lease(asking)
        elif isinstance(expected, Granted) and isinstance(outcome, Granted):
            self.out.append((self.turn, asking, expected, outcome))

    async def settle(self, turn: int, asking: Asking, expected: Granted, outcome: Granted, actual: int) -> None:
        def changes(granted: Granted) -> Sequence[Change]:
            return [
                Change(each, place, getattr(asking.claim, each.unit), 0 if each is SLOTS else actual * 40)
                for each, place in zip(asking.bounds, granted.places, strict=True)
            ]

        self.memory.post(changes(expected))
        self.gateways[turn].post(changes(outcome))
        await arrived(self.gateways[turn])


def test_any_history_has_the_same_outcomes_in_memory_and_in_redis(server: RedisServer) -> None:
    with asyncio.Runner() as runner:

        @settings(max_examples=60, deadline=None)
        @given(STEPS)
        def check(steps: list[Step]) -> None:
            async def main() -> None:
                pair = Pair(server)
                try:
                    for step in steps:
                        await pair.step(step)
                finally:
                    for each in pair.gateways:
                        await each.close()

            server.flush()
            runner.run(main())

        check()


# -- Redis alone


def valkey(server: RedisServer, body: Callable[[Clock], Coroutine[Any, Any, None]]) -> None:
    server.flush()
    asyncio.run(body(Clock()))


def test_gateways_together_never_take_more_than_there_is(server: RedisServer) -> None:
    async def body(clock: Clock) -> None:
        limits = (bound("r", "requests", "minute", 200, rolling=True), bound("s", "slots", "held", 50))
        gateways = [gateway(server.url, clock=clock) for _ in range(3)]
        await plant(gateways[0], [Seed(limits[0])])

        async def one(store: ValkeySlices, number: int) -> int:
            outcome = await store.lease(Asking(limits, Claim(1, slots=1), number % 3))
            if isinstance(outcome, Refused):
                return 0
            assert isinstance(outcome, Granted)
            assert min(outcome.left) >= 0
            store.post([Change(limits[1], outcome.places[1], 1 + outcome.more_slots)])
            return 1 + outcome.more

        counts = await asyncio.gather(*(one(gateways[number % 3], number) for number in range(900)))
        for each in gateways:
            await arrived(each)
        while (more := await one(gateways[0], 0)) == 1:
            counts.append(more)
        assert sum(counts) == 200
        last = await granted(gateways[1], limits[1:], Claim(slots=0))
        assert last.left == (50,)
        for each in gateways:
            await each.close()

    valkey(server, body)


def test_a_holder_that_says_nothing_for_long_holds_nothing(server: RedisServer) -> None:
    async def body(clock: Clock) -> None:
        dead, alive = (gateway(server.url, clock=clock) for _ in range(2))
        place = (await granted(dead, [SLOTS], Claim(slots=7))).places[0]
        clock.move(29)
        assert await take(alive, [SLOTS], Claim(slots=1)) == refused((0, 0, None))
        clock.move(2)
        await granted(alive, [SLOTS], Claim(slots=1))
        dead.renew([SLOTS])
        await arrived(dead)
        assert dead.lost == 7, "it is there, and takes them again"
        assert await take(alive, [SLOTS], Claim(slots=1)) == refused((0, -1, None))
        dead.post([Change(SLOTS, place, 7)])
        await arrived(dead)
        assert (await granted(alive, [SLOTS], Claim(slots=1))).left == (5,)
        await dead.close()
        await alive.close()

    valkey(server, body)


def test_who_ends_gives_back_its_slots(server: RedisServer) -> None:
    async def body(clock: Clock) -> None:
        one, other = (gateway(server.url, clock=clock) for _ in range(2))
        await granted(one, [SLOTS], Claim(slots=7))
        await one.close()
        assert (await granted(other, [SLOTS], Claim(slots=7))).left == (0,)
        await other.close()

    valkey(server, body)


def test_who_waits_no_more_takes_nothing(server: RedisServer) -> None:
    async def body(clock: Clock) -> None:
        store = gateway(server.url, clock=clock)
        await granted(store, [RPM, SLOTS], Claim(1, slots=1))
        for turns in range(30):
            asking = asyncio.create_task(store.lease(Asking((RPM, SLOTS), Claim(1, slots=1))))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            if not asking.cancelled():
                store.post([Change(each, place, 1) for each, place in zip((RPM, SLOTS), _places(asking), strict=True)])
        assert (await granted(store, [RPM, SLOTS], Claim())).left == (9, 6)
        await store.close()

    valkey(server, body)


def _places(task: asyncio.Task[Any]) -> Any:
    return task.result().places


def test_every_call_is_of_one_tag_and_every_key_ends(server: RedisServer) -> None:
    async def body(clock: Clock) -> None:
        store = gateway(server.url, clock=clock)
        tags = ("a", "{b}", "c d")
        for tag in tags:
            mine = [Bound(f"{tag}/{each.id}", tag, *_rest(each)) for each in ALL]
            first = await granted(store, mine, Claim(1, 1, 1, 1))
            store.post([Change(each, place, 1) for each, place in zip(mine[:2], first.places, strict=False)])
            await arrived(store, tag)
        with redis.Redis.from_url(server.url, protocol=2) as client:
            keys = client.keys("*")
            assert {key.split(b":")[1] for key in keys} == {b"{a}", b"{%7Bb%7D}", b"{c%20d}"}
            assert len(keys) == 3 * (len(ALL) + 1)
            assert all(client.ttl(key) > 0 for key in keys)
        await store.close()

    valkey(server, body)


def test_a_node_of_a_cluster_never_finds_a_call_of_several_slots() -> None:
    async def body(clock: Clock) -> None:
        store = gateway(node.url, clock=clock)
        for tag in ("a", "{b}", "c}"):
            mine = [Bound(f"{tag}/{{x}}/{each.id}", tag, *_rest(each)) for each in ALL]
            await granted(store, mine, Claim(1, 1, 1, 1))
        await store.close()

    port = 65_535
    while port > 55_535:  # nodes talk to each other on the one 10,000 above
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    with redis_server(port, "--cluster-enabled", "yes") as node:
        with redis.Redis.from_url(node.url, protocol=2) as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                pass
        asyncio.run(body(Clock()))


def _rest(each: Bound) -> Any:
    return each.unit, each.period, each.rolling, each.amount, each.enforced
