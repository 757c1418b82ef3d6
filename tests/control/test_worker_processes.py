"""The workers' processes: started, started again, drained, killed, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from penstock import link
from penstock.config import Config, Problem
from penstock.control import workers as room
from penstock.control.workers import Handlers, StartFailed, Workers
from support.processes import children

STAND_IN = str(Path(__file__).with_name("stand_in_worker.py"))


class Told:
    """What the workers said; waits for more of it."""

    def __init__(self) -> None:
        self.snapshots: list[tuple[int, str]] = []
        self.lookups: list[Callable[[link.KeyAnswer], None]] = []
        self.gone: list[int] = []
        self.leases: list[tuple[int, link.Lease, Callable[[link.Message], None]]] = []
        self.returned: list[tuple[int, link.Returned | link.Forget]] = []
        self.news = asyncio.Event()
        self._others = set(children(os.getpid()))  # servers that other tests share

    def processes(self) -> list[int]:
        """The workers' processes."""
        return [pid for pid in children(os.getpid()) if pid not in self._others]

    def handlers(self) -> Handlers:
        return Handlers(
            self._lookup,
            self._snapshot,
            self._gone,
            self._answers,
            self._runs,
            self._usage,
            lambda worker: "",
            self._lease,
            self._returned,
        )

    def _lease(self, worker: int, question: link.Lease, send: Callable[[link.Message], None]) -> None:
        self.leases.append((worker, question, send))
        self.news.set()

    def _returned(self, worker: int, message: link.Returned | link.Forget) -> None:
        self.returned.append((worker, message))
        self.news.set()

    def _lookup(self, question: link.KeyLookup, send: Callable[[link.KeyAnswer], None]) -> None:
        self.lookups.append(send)
        self.news.set()

    def _usage(self, question: link.UsageQuestion, send: Callable[[link.UsageAnswer], None]) -> None:
        raise AssertionError("a stand-in asks no such thing")

    def _snapshot(self, worker: int, snapshot: link.Snapshot) -> None:
        self.snapshots += [(worker, series.labels[0]) for series in snapshot.series]
        self.news.set()

    def _answers(self, message: link.AnswersMessage, send: Callable[[link.AnswersFound], None]) -> None:
        raise NotImplementedError  # no stand-in keeps anything

    def _runs(self, worker: int, message: link.RunsMessage, send: Callable[[link.RunClaimed], None]) -> None:
        raise NotImplementedError

    def _gone(self, worker: int) -> None:
        self.gone.append(worker)
        self.news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.news.clear()
                await self.news.wait()


def run(
    scenario: Callable[[Workers, Told], Awaitable[None]], count: int = 1, behaviour: str = "", wait: bool = True
) -> None:
    async def main() -> None:
        told = Told()
        start = link.Start(0, Config(), ())
        health = link.Health(True, {})
        command = (sys.executable, STAND_IN, behaviour)
        workers = Workers(count, start, told.handlers(), health, command)
        running = asyncio.create_task(workers.run())
        try:
            if wait:
                await asyncio.wait_for(asyncio.shield(workers.ready), 20)
            await scenario(workers, told)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert told.processes() == []

    uvloop.run(main())


async def pids(workers: Workers, told: Told) -> dict[int, int]:
    told.snapshots.clear()
    await workers.scrape(20)
    return {worker: int(said.split(",")[0]) for worker, said in told.snapshots}


def test_every_worker_is_ready_and_hears_how_things_are() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        found = await pids(workers, told)
        assert sorted(found) == [0, 1]
        assert sorted(found.values()) == sorted(told.processes())
        assert all(said.split(",")[1:3] == ["Start", "Health"] for _, said in told.snapshots)

    run(scenario, count=2)


def test_a_worker_does_not_see_the_admin_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ADMIN_KEY", "sk-secret")

    async def scenario(workers: Workers, told: Told) -> None:
        await workers.scrape(20)
        assert "sk-secret" not in repr(told.snapshots)

    run(scenario)


def environment_of(process: int) -> list[bytes]:
    return Path(f"/proc/{process}/environ").read_bytes().split(b"\0")


def test_a_worker_keeps_its_heap_unless_the_environment_has_other_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4711")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)

    async def scenario(workers: Workers, told: Told) -> None:
        (process,) = told.processes()
        environment = environment_of(process)
        assert [line for line in environment if line.startswith(b"MALLOC_TOP_PAD_=")] == [b"MALLOC_TOP_PAD_=4711"]
        assert b"MALLOC_TRIM_THRESHOLD_=8388608" in environment

    run(scenario)


def test_a_message_reaches_every_worker_and_answers_go_to_who_asked() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        workers.broadcast(link.KeysChanged())
        await told.until(lambda: len(told.lookups) == 2)
        told.lookups[0](link.KeyAnswer(1, None))
        told.snapshots.clear()
        await workers.scrape(20)
        assert sorted("KeyAnswer" in said for _, said in told.snapshots) == [False, True]

    run(scenario, count=2)


def test_a_worker_that_is_killed_is_started_again_and_its_neighbour_is_not_touched() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        before = await pids(workers, told)
        os.kill(before[0], signal.SIGKILL)
        await told.until(lambda: told.gone == [0])
        after: dict[int, int] = {}
        async with asyncio.timeout(20):
            while len(after) < 2:
                after = await pids(workers, told)
        assert after[1] == before[1]
        assert after[0] != before[0]

    run(scenario, count=2)


def test_a_scrape_waits_no_longer_than_it_may_for_a_worker_that_is_silent() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        await workers.scrape(0.05)
        assert told.snapshots == []

    run(scenario, behaviour="silent")


def test_a_scrape_does_not_wait_for_a_worker_that_dies_meanwhile() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        scrape = asyncio.create_task(workers.scrape(60))
        await asyncio.sleep(0)
        os.kill(told.processes()[0], signal.SIGKILL)
        await asyncio.wait_for(scrape, 20)

    run(scenario, behaviour="silent")


NEW = Config(warnings=(Problem("", None, "new", "none"),))
WELL = link.Health(True, {})


async def versions(workers: Workers, told: Told) -> dict[int, str]:
    """What configuration each worker has, by its version."""
    told.snapshots.clear()
    await workers.scrape(20)
    return {worker: said.split(",")[-2] for worker, said in told.snapshots}


def test_a_configuration_reaches_every_worker_and_those_that_start_later() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        assert await versions(workers, told) == {0: "v0", 1: "v0"}
        applied = await workers.reconfigure(NEW, {}, WELL, 20)
        assert (applied.workers, applied.problems) == (2, ())
        new = f"v{applied.version}"
        assert await versions(workers, told) == {0: new, 1: new}
        os.kill((await pids(workers, told))[0], signal.SIGKILL)
        await told.until(lambda: told.gone == [0])
        after: dict[int, str] = {}
        async with asyncio.timeout(20):
            while len(after) < 2:
                after = await versions(workers, told)
        assert after == {0: new, 1: new}
        assert all("Reconfigure" not in said for worker, said in told.snapshots if worker == 0)

    run(scenario, count=2)


def test_a_worker_that_does_not_take_a_configuration_is_named_with_its_reason() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        applied = await workers.reconfigure(NEW, {}, WELL, 20)
        assert applied.problems == ("worker 0 goes on by the old one: it will not",)

    run(scenario, behaviour="unwilling")


def test_a_worker_that_says_nothing_of_a_configuration_is_waited_for_no_longer_than_may_be() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        applied = await workers.reconfigure(NEW, {}, WELL, 0.05)
        assert applied.problems == ("worker 0 did not answer within 0.05 s",)

    run(scenario, behaviour="silent")


def test_a_worker_that_dies_over_a_configuration_is_not_waited_for() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        applying = asyncio.create_task(workers.reconfigure(NEW, {}, WELL, 600))
        await asyncio.sleep(0)
        os.kill(told.processes()[0], signal.SIGKILL)
        assert (await asyncio.wait_for(applying, 20)).problems == ()

    run(scenario, behaviour="silent")


def test_a_configuration_is_settled_when_the_last_request_of_the_one_before_has_ended() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        await workers.settled(0)
        applied = await workers.reconfigure(NEW, {}, WELL, 20)
        settled = [asyncio.create_task(workers.settled(applied.version)) for _ in range(2)]
        await pids(workers, told)  # by now the worker would have said so
        assert not any(task.done() for task in settled)
        workers.broadcast(link.KeysChanged())
        await asyncio.wait_for(asyncio.gather(*settled), 20)

    run(scenario, behaviour="busy")


def test_a_worker_that_dies_holds_up_no_settlement() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        applied = await workers.reconfigure(NEW, {}, WELL, 20)
        settled = asyncio.create_task(workers.settled(applied.version))
        os.kill(told.processes()[0], signal.SIGKILL)
        await asyncio.wait_for(settled, 20)

    run(scenario, behaviour="busy")


def test_a_worker_that_dies_before_it_is_ready_ends_the_start() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        with pytest.raises(StartFailed, match="worker 0 ended with exit status 3 before it was ready"):
            await asyncio.wait_for(asyncio.shield(workers.ready), 20)

    run(scenario, behaviour="die", wait=False)


def test_a_command_that_does_not_exist_ends_the_start() -> None:
    async def main() -> None:
        told = Told()
        missing = ("/nonexistent/python",)
        workers = Workers(1, link.Start(0, Config(), ()), told.handlers(), link.Health(True, {}), missing)
        running = asyncio.create_task(workers.run())
        with pytest.raises(StartFailed, match="could not be started"):
            await asyncio.wait_for(asyncio.shield(workers.ready), 20)
        await running

    uvloop.run(main())


def test_a_drained_worker_ends_by_itself_and_hands_in_its_last_counts() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        await workers.drain(20)
        assert told.gone == [0, 1] or told.gone == [1, 0]
        assert sorted(worker for worker, said in told.snapshots if "Drain" in said) == [0, 1]
        assert told.processes() == []

    run(scenario, count=2)


def test_a_worker_that_will_not_drain_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "DRAIN_GRACE", 0.05)

    async def scenario(workers: Workers, told: Told) -> None:
        await workers.drain(0.05)
        await told.until(lambda: told.gone == [0])

    run(scenario, behaviour="stubborn")


def test_a_kill_ends_a_drain_at_once() -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        draining = asyncio.create_task(workers.drain(600))
        await asyncio.sleep(0)
        workers.kill()
        await asyncio.wait_for(draining, 20)

    run(scenario, behaviour="stubborn")


def test_a_worker_whose_link_broke_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LINK_GRACE", 0.05)

    async def scenario(workers: Workers, told: Told) -> None:
        await told.until(lambda: bool(told.gone))

    run(scenario, behaviour="unlinked")


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34])
def test_a_start_that_is_cancelled_anywhere_leaves_no_process(turns: int) -> None:
    async def scenario(workers: Workers, told: Told) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    run(scenario, count=2, behaviour="deaf", wait=False)
