"""What becomes of a request with an idempotency key: several hosts, workers that die, a store that goes away."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.control import runs as room
from penstock.control.runs import LEASE, REMEMBERED, IdempotentRuns
from penstock.link import ClaimRun, FinishRun, ReleaseRun, RunClaimed
from penstock.stores.base import StoreUnavailable
from penstock.stores.base.runs import Verdict
from penstock.stores.memory_answers import MemoryRuns
from penstock.types import Replay, Run

WORKERS = 2
DAY = 86_400.0


class Clock:
    """The time of all hosts."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Store(MemoryRuns):
    """A store that goes away: before it does what it is told, or after, when nobody hears of it."""

    def __init__(self) -> None:
        super().__init__()
        self.away = ""
        self.writes = 0

    async def _answer(self, call: Coroutine[Any, Any, Any]) -> Any:
        if self.away == "before":
            call.close()
            raise StoreUnavailable("away")
        found = await call
        if self.away == "after":
            raise StoreUnavailable("away")
        self.writes += 1
        return found

    async def claim(self, run: Run, now: float, until: float) -> Verdict:
        verdict: Verdict = await self._answer(super().claim(run, now, until))
        return verdict

    async def finish(self, run: Run, until: float) -> bool:
        held: bool = await self._answer(super().finish(run, until))
        return held

    async def release(self, run: Run) -> None:
        await self._answer(super().release(run))

    async def renew(self, claims: Sequence[str], until: float) -> None:
        await self._answer(super().renew(claims, until))


class Asked(NamedTuple):
    """One request of a client's."""

    run: Run
    host: int
    worker: int
    answers: list[RunClaimed]


class House:
    """Hosts over one store, and what their workers hold."""

    def __init__(self, hosts: int = 2) -> None:
        self.clock = Clock()
        self.store = Store()
        self.hosts = [self._host() for _ in range(hosts)]
        self.asked: list[Asked] = []
        self.running: list[Asked] = []  # claimed, and neither finished nor released

    def _host(self) -> IdempotentRuns:
        host = IdempotentRuns(self.clock, self.clock)
        host._store = self.store
        return host

    def ask(self, tenant: int, key: int, body: int, host: int = 0, worker: int = 0) -> Asked:
        scope = hashlib.sha256(b"%d %d" % (tenant, key)).digest()
        run = Run(scope, hashlib.sha256(b"%d" % body).digest(), f"claim-{len(self.asked)}")
        asked = Asked(run, host, worker, [])
        self.asked.append(asked)
        self.hosts[host].receive(worker, ClaimRun(len(self.asked), run), asked.answers.append)
        return asked

    async def outcome(self, tenant: int, key: int, body: int, host: int = 0, worker: int = 0) -> str:
        asked = self.ask(tenant, key, body, host, worker)
        await self.settle()
        (answer,) = asked.answers
        if answer.outcome == "claimed":
            self.running.append(asked)
        if answer.replay is not None:
            assert answer.replay == answer_to(asked.run)
        return answer.outcome

    def finish(self, asked: Asked) -> None:
        self.running.remove(asked)
        self.hosts[asked.host].receive(asked.worker, FinishRun(asked.run, answer_to(asked.run)), nobody)

    def release(self, asked: Asked) -> None:
        self.running.remove(asked)
        self.hosts[asked.host].receive(asked.worker, ReleaseRun(asked.run), nobody)

    def kill(self, host: int, worker: int) -> None:
        self.running = [one for one in self.running if (one.host, one.worker) != (host, worker)]
        self.hosts[host].gone(worker)

    async def pass_time(self, seconds: float) -> None:
        """Hosts renew their leases as they go."""
        while seconds > 0:
            step = min(seconds, room.RENEW)
            seconds -= step
            self.clock.now += step
            for host in self.hosts:
                await host.renew()
            await self.settle()

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)


def answer_to(run: Run) -> Replay:
    """An answer that says whose it is and to what."""
    return Replay("req_1", False, b"", run.id + run.fingerprint)


def nobody(_answer: RunClaimed) -> None:
    raise AssertionError("an end is not answered")


def test_a_repeat_is_running_then_replayed_then_gone_then_free() -> None:
    async def main() -> None:
        house = House()
        assert await house.outcome(1, 1, 1) == "claimed"
        assert await house.outcome(1, 1, 1, worker=1) == "running"
        assert await house.outcome(1, 1, 1, host=1) == "running"
        assert await house.outcome(1, 1, 2) == "reused"
        assert await house.outcome(1, 1, 2, host=1) == "reused"
        house.finish(house.running[0])
        await house.settle()
        assert await house.outcome(1, 1, 1, worker=1) == "replayed"
        assert await house.outcome(1, 1, 1, host=1) == "gone"  # whose memory is another
        assert await house.outcome(1, 1, 2, host=1) == "reused"
        await house.pass_time(REMEMBERED)
        assert await house.outcome(1, 1, 1) == "gone"
        house.clock.now += DAY - REMEMBERED - 1
        assert await house.outcome(1, 1, 1) == "gone"
        house.clock.now += 1
        assert await house.outcome(1, 1, 1) == "claimed"

    asyncio.run(main())


def test_a_worker_that_dies_lets_go_of_what_it_had_claimed_and_of_nothing_else() -> None:
    async def main() -> None:
        house = House()
        assert await house.outcome(1, 1, 1, worker=0) == "claimed"
        assert await house.outcome(1, 2, 1, worker=1) == "claimed"
        unheard = house.ask(1, 3, 1, worker=0)  # is claimed in the moment of its worker's end
        dead = house.running[0]
        house.kill(0, 0)
        house.hosts[0].receive(0, FinishRun(dead.run, answer_to(dead.run)), nobody)  # too late
        await house.settle()
        assert [answer.outcome for answer in unheard.answers] == ["unavailable"]
        for key, wanted in ((1, "claimed"), (2, "running"), (3, "claimed")):
            assert await house.outcome(1, key, 1, host=1) == wanted

    asyncio.run(main())


def test_a_lease_holds_for_as_long_as_the_run_goes_on_and_lapses_with_its_host() -> None:
    async def main() -> None:
        house = House()
        assert await house.outcome(1, 1, 1) == "claimed"
        await house.pass_time(10 * LEASE)
        assert await house.outcome(1, 1, 1, host=1) == "running"
        house.hosts[0] = house._host()  # killed, and started again
        assert await house.outcome(1, 1, 1) == "running"
        house.clock.now += LEASE
        assert await house.outcome(1, 1, 1, host=1) == "claimed"

    asyncio.run(main())


def test_an_end_that_comes_when_its_lease_is_lost_is_nobodys_answer() -> None:
    async def main() -> None:
        house = House()
        assert await house.outcome(1, 1, 1) == "claimed"
        house.clock.now += LEASE  # the host was frozen
        assert await house.outcome(1, 1, 2, host=1) == "claimed"
        house.finish(house.running[0])
        await house.settle()
        assert await house.outcome(1, 1, 2) == "running"
        assert house.hosts[0]._bytes == 0
        house.finish(house.running[0])
        await house.settle()
        assert await house.outcome(1, 1, 2, host=1) == "replayed"

    asyncio.run(main())


@pytest.mark.parametrize("away", ["before", "after"])
def test_an_end_that_the_store_did_not_take_is_written_when_it_is_back(away: str) -> None:
    async def main() -> None:
        house = House()
        assert await house.outcome(1, 1, 1) == "claimed"
        house.store.away = away
        house.finish(house.running[0])
        await house.settle()
        assert await house.outcome(1, 1, 1) == "replayed"
        assert await house.outcome(1, 2, 1) == "unavailable"
        await house.pass_time(LEASE / 2)
        house.store.away = ""
        await house.pass_time(LEASE)
        assert await house.outcome(1, 1, 1, host=1) == "gone"

    asyncio.run(main())


def test_what_is_remembered_is_bounded_and_the_longest_unused_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "REPLAY_BYTES", 4 * (512 + 64))

    async def main() -> None:
        house = House()
        for key in range(4):
            assert await house.outcome(1, key, 1) == "claimed"
            house.finish(house.running[0])
            await house.settle()
        assert await house.outcome(1, 0, 1) == "replayed"
        assert await house.outcome(1, 9, 1) == "claimed"
        house.finish(house.running[0])
        await house.settle()
        assert [await house.outcome(1, key, 1) for key in (0, 1, 2, 3, 9)] == [
            "replayed",
            "gone",
            "replayed",
            "replayed",
            "replayed",
        ]
        assert house.hosts[0]._bytes == 4 * (512 + 64)

    asyncio.run(main())


def test_sweeping_forgets_here_and_in_the_store() -> None:
    async def main() -> None:
        house = House()
        for key in range(3):
            assert await house.outcome(1, key, 1) == "claimed"
        house.finish(house.running[0])
        await house.settle()
        house.clock.now += DAY
        await house.hosts[0].sweep()
        assert house.store._held == {}
        assert not house.hosts[0]._finished

    asyncio.run(main())


class Step(msgspec.Struct, frozen=True):
    """One thing that happens: `turns` of the loop go by before the next."""

    what: str
    number: int
    host: int
    worker: int
    turns: int


STEPS = st.builds(
    Step,
    st.sampled_from(["ask"] * 6 + ["finish"] * 3 + ["release", "withdraw", "kill", "wait", "away", "lost", "back"]),
    st.integers(0, 11),
    st.integers(0, 1),
    st.integers(0, WORKERS - 1),
    st.integers(0, 6),
)


class Model:
    """Follows a history, and complains as soon as a promise is broken.

    Leases are renewed whenever time passes, so that none lapses but while the store is away; histories keep it away for
    less than a lease.
    """

    def __init__(self) -> None:
        self.house = House()
        self.done: dict[bytes, bytes] = {}  # of finished runs: the fingerprint by id
        self.unheard: list[Asked] = []
        self.away_for = 0.0

    async def take(self, step: Step) -> None:
        house = self.house
        match step.what:
            case "ask":
                tenant, rest = divmod(step.number, 6)
                self.unheard.append(house.ask(tenant, rest % 3, rest // 3, step.host, step.worker))
            case "finish" | "release" if house.running:
                asked = house.running[step.number % len(house.running)]
                if step.what == "finish":
                    self.done[asked.run.id] = asked.run.fingerprint
                    house.finish(asked)
                else:
                    house.release(asked)
            case "withdraw" if self.unheard:  # its client has gone while the store was asked
                asked = self.unheard.pop(step.number % len(self.unheard))
                house.hosts[asked.host].receive(asked.worker, ReleaseRun(asked.run), nobody)
            case "kill":
                self.unheard = [one for one in self.unheard if (one.host, one.worker) != (step.host, step.worker)]
                house.kill(step.host, step.worker)
            case "wait" if self.away_for + 10 < LEASE - 2 * room.RENEW:
                self.away_for += 10 if house.store.away else 0
                house.clock.now += 10
                for host in house.hosts:
                    await host.renew()
            case "away" | "lost":
                house.store.away = "before" if step.what == "away" else "after"
            case "back":
                house.store.away, self.away_for = "", 0.0
                for host in house.hosts:
                    await host.renew()
        for _ in range(step.turns):
            await asyncio.sleep(0)
        self.look()

    def look(self) -> None:
        """Hear what was answered, and hold it against the promises."""
        house = self.house
        for asked in [one for one in self.unheard if one.answers]:
            self.unheard.remove(asked)
            (answer,) = asked.answers
            run = asked.run
            if answer.outcome == "claimed":
                assert run.id not in self.done, "run again after its end"
                assert run.id not in [other.run.id for other in house.running], "run twice at once"
                house.running.append(asked)
            elif answer.outcome == "replayed":
                assert answer.replay == answer_to(run), "another's answer"
                assert self.done[run.id] == run.fingerprint
            elif answer.outcome == "gone":
                assert self.done[run.id] == run.fingerprint
            elif answer.outcome == "reused":
                others = [other.run for other in (*house.running, *house.asked)]
                assert any(other.id == run.id and other.fingerprint != run.fingerprint for other in others)

    async def end(self) -> None:
        """The store is back and everything ends: nothing is held by anybody any more."""
        house = self.house
        house.store.away = ""
        await house.settle()
        self.look()
        for asked in list(house.running):
            house.release(asked)
        for host in house.hosts:
            await host.renew()
        await house.settle()
        for host in house.hosts:
            assert not host._claiming
            assert not host._going
            assert all(finished.written for finished in host._finished.values())
            assert host._bytes == sum(room._size(finished.replay) for finished in host._finished.values())
        house.clock.now += LEASE  # for what a store that was away did all the same
        assert {run_id for run_id, held in house.store._held.items() if held.until > house.clock.now} == set(self.done)


@settings(max_examples=600, deadline=None)
@given(st.lists(STEPS, min_size=5, max_size=60))
def test_no_history_runs_a_key_twice_or_shows_anothers_answer(steps: list[Step]) -> None:
    async def main() -> None:
        model = Model()
        for step in steps:
            await model.take(step)
        await model.end()

    asyncio.run(main())
