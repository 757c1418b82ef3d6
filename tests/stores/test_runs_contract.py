"""One contract for every store of the runs of requests with an idempotency key."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from penstock.stores.base.runs import Runs, Verdict
from penstock.stores.memory_answers import MemoryRuns
from penstock.stores.sqlruns import SqlRuns
from penstock.types import Run
from support.databases import KINDS, Place, place_of

NOW, UNTIL = 1000.0, 1060.0
CLAIMED, RUNNING, DONE, REUSED = Verdict.CLAIMED, Verdict.RUNNING, Verdict.DONE, Verdict.REUSED


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place | None:
    """Where the runs are; None is memory."""
    return None if request.param == "memory" else place_of(request.param, request, tmp_path)


def run(place: Place | None, test: Callable[[Runs, Runs], Awaitable[None]]) -> None:
    """Run a test on two stores of the same runs, as two hosts have them."""

    async def main() -> None:
        if place is None:
            runs = MemoryRuns()
            await test(runs, runs)
            return
        databases = [await place.open() for _ in range(2)]
        try:
            await test(SqlRuns(databases[0]), SqlRuns(databases[1]))
        finally:
            for database in databases:
                await database.close()

    asyncio.run(main())


def a_run(claim: str = "one", key: str = "key", asked: str = "asked") -> Run:
    return Run(hashlib.sha256(key.encode()).digest(), hashlib.sha256(asked.encode()).digest(), claim)


def test_a_key_is_claimed_once_until_it_is_released(place: Place | None) -> None:
    async def test(runs: Runs, others: Runs) -> None:
        assert await runs.claim(a_run("one"), NOW, UNTIL) is CLAIMED
        assert await others.claim(a_run("two"), NOW, UNTIL) is RUNNING
        assert await others.claim(a_run("two", asked="another"), NOW, UNTIL) is REUSED
        assert await others.claim(a_run("two", key="other"), NOW, UNTIL) is CLAIMED
        await others.release(a_run("two"))  # not its own
        assert await others.claim(a_run("two"), NOW, UNTIL) is RUNNING
        for _ in range(2):
            await runs.release(a_run("one"))
        assert await others.claim(a_run("two", asked="another"), NOW, UNTIL) is CLAIMED

    run(place, test)


def test_a_finished_run_is_done_until_its_time_is_over(place: Place | None) -> None:
    async def test(runs: Runs, others: Runs) -> None:
        await runs.claim(a_run("one"), NOW, UNTIL)
        for _ in range(2):
            assert await runs.finish(a_run("one"), 5000.0) is True
        await runs.release(a_run("one"))
        await runs.renew(["one"], NOW)
        assert await others.claim(a_run("two"), 4999.0, 5100.0) is DONE
        assert await others.claim(a_run("two", asked="another"), 4999.0, 5100.0) is REUSED
        assert await others.claim(a_run("two", asked="another"), 5000.0, 5100.0) is CLAIMED

    run(place, test)


def test_a_lease_that_lapsed_is_another_claims_and_the_first_cannot_finish(place: Place | None) -> None:
    async def test(runs: Runs, others: Runs) -> None:
        await runs.claim(a_run("one"), NOW, UNTIL)
        assert await others.claim(a_run("two"), UNTIL - 0.5, 2000.0) is RUNNING
        assert await others.claim(a_run("two"), UNTIL, 2000.0) is CLAIMED
        assert await runs.finish(a_run("one"), 5000.0) is False
        await runs.release(a_run("one"))
        assert await runs.claim(a_run("three"), UNTIL + 1, 2000.0) is RUNNING
        assert await others.finish(a_run("two"), 5000.0) is True

    run(place, test)


def test_a_lease_that_nobody_else_took_may_still_be_finished(place: Place | None) -> None:
    async def test(runs: Runs, others: Runs) -> None:
        await runs.claim(a_run("one"), NOW, UNTIL)
        assert await runs.finish(a_run("one"), 5000.0) is True
        assert await others.claim(a_run("two"), UNTIL + 1, 2000.0) is DONE
        assert await runs.finish(a_run("one", key="never claimed"), 5000.0) is False

    run(place, test)


def test_renewed_leases_hold(place: Place | None) -> None:
    async def test(runs: Runs, others: Runs) -> None:
        for number in range(3):
            await runs.claim(a_run(f"one-{number}", key=f"key-{number}"), NOW, UNTIL)
        await runs.renew([], 2000.0)
        await runs.renew(["one-0", "one-1", *(f"none-{number}" for number in range(1200))], 2000.0)
        verdicts = [await others.claim(a_run("two", key=f"key-{number}"), UNTIL, 2000.0) for number in range(3)]
        assert verdicts == [RUNNING, RUNNING, CLAIMED]

    run(place, test)


def test_of_many_that_claim_at_once_one_does(place: Place | None) -> None:
    async def test(runs: Runs, others: Runs) -> None:
        for turn in range(5):
            verdicts = await asyncio.gather(
                *(
                    (runs, others)[number % 2].claim(a_run(f"{turn}-{number}", key=f"key-{turn}"), NOW, UNTIL)
                    for number in range(20)
                )
            )
            assert sorted(verdict.value for verdict in verdicts) == ["claimed"] + ["running"] * 19

    run(place, test)


def test_what_is_over_is_swept_some_at_a_time(place: Place | None) -> None:
    async def test(runs: Runs, others: Runs) -> None:
        for number in range(5):
            await runs.claim(a_run("one", key=f"key-{number}"), NOW, UNTIL + number)
        assert [await others.sweep(UNTIL + 2, 2) for _ in range(3)] == [2, 1, 0]
        assert await runs.claim(a_run("two", key="key-3"), NOW, UNTIL) is RUNNING

    run(place, test)


def test_a_cancelled_claim_is_there_whole_or_not_at_all(place: Place | None) -> None:
    async def test(runs: Runs, others: Runs) -> None:
        for turns in range(12):
            task = asyncio.ensure_future(runs.claim(a_run("one", key=f"key-{turns}"), NOW, UNTIL))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await runs.release(a_run("one", key=f"key-{turns}"))
            assert await others.claim(a_run("two", key=f"key-{turns}"), NOW, UNTIL) is CLAIMED

    run(place, test)
