"""What is old goes, where that is wished, and what was summed up stays."""

from __future__ import annotations

import asyncio

import pytest

from penstock.control import retention
from penstock.control.retention import DAY, Retention
from penstock.limits import Limit
from penstock.stores.base import RowQuery, StoreUnavailable, UsageQuery
from penstock.stores.memoryledger import MemoryLedger
from support.ledger import NOON, a_row

NOW = NOON + 100 * DAY


async def filled(count: int = 25) -> MemoryLedger:
    """A request a day, the last one an hour ago."""
    ledger = MemoryLedger(lambda: NOW)
    await ledger.store([a_row(day, NOW - 3600 - day * DAY) for day in range(count)], [])
    return ledger


async def left(ledger: MemoryLedger) -> int:
    return len([row async for row in ledger.rows(RowQuery())])


def test_rows_that_are_too_old_are_deleted_in_batches_and_sums_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 4)
    monkeypatch.setattr(retention, "PAUSE", 0)

    async def main() -> None:
        ledger = await filled()
        assert await Retention(10, lambda: NOW).look(ledger) == 15
        assert await left(ledger) == 10
        (line,) = await ledger.usage(UsageQuery())
        assert line.requests == 25

    asyncio.run(main())


def test_all_rows_stay_unless_it_is_wished_and_the_finest_sums_go_all_the_same() -> None:
    async def main() -> None:
        ledger = await filled()
        kept = Retention(0, lambda: NOW)
        assert await kept.look(ledger) == 0
        assert await left(ledger) == 25
        rpm = Limit("key", "key_a", "rpm", 1)
        assert len(await ledger.spent(rpm, 0.0, 360)) == 2
        assert len(await ledger.spent(rpm, 0.0, 3600)) == 25
        kept.days = 1
        assert await kept.look(ledger) == 24

    asyncio.run(main())


class Away(MemoryLedger):
    """Cannot be asked the first time."""

    asked = 0

    async def trim(self, before: float) -> None:
        self.asked += 1
        if self.asked == 1:
            raise StoreUnavailable("the disk is gone")


def test_a_store_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "EVERY", 0)

    async def main() -> None:
        ledger = Away()
        running = asyncio.create_task(Retention(1, lambda: NOW).run(ledger))
        async with asyncio.timeout(10):
            while ledger.asked < 3:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0)
        running.cancel()

    asyncio.run(main())
