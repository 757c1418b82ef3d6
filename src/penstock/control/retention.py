"""Deletes what the ledger need not keep any longer: rows after so many days, where that is wished; sums never.

Rows go in small batches with a pause after each, so that what is stored meanwhile waits for one of them at most. The
sums over six minutes, which only rolling days are counted from, go after two days whatever is wished. A store that is
away is asked again an hour later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from penstock.stores.base import Ledger, StoreUnavailable

DAY = 86_400
EVERY = 3600.0
BATCH = 500
PAUSE = 0.05
FINEST = 2 * DAY

_log = logging.getLogger("penstock.retention")


class Retention:
    """`days` may be changed at any time; 0 keeps every row."""

    def __init__(self, days: int, clock: Callable[[], float]) -> None:
        self.days = days
        self._clock = clock

    async def run(self, ledger: Ledger) -> None:
        """Look once an hour, until cancelled."""
        while True:
            try:
                await self.look(ledger)
            except StoreUnavailable as error:
                _log.error("old rows of the ledger stay for now: %s", error)
            await asyncio.sleep(EVERY)

    async def look(self, ledger: Ledger) -> int:
        """Delete what is too old; how many rows. Raises StoreUnavailable."""
        await ledger.trim(self._clock() - FINEST)
        deleted = 0
        while self.days > 0:
            count = await ledger.prune(self._clock() - self.days * DAY, BATCH)
            deleted += count
            if count < BATCH:
                break
            await asyncio.sleep(PAUSE)
        if deleted:
            _log.info("%d rows of the ledger, older than %d days, were deleted", deleted, self.days)
        return deleted
