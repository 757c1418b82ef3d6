"""Calls back from workers what lies unused, before anybody is refused for want of it.

A round asks every worker that may have something of a bound, and ends when all have answered or a moment has passed.
Who needs the same bound meanwhile waits for the next round, which begins when this one has ended: only what is asked
for after a question came tells what was free by then. Rounds of a bound have a pause between them, so that a storm of
refusals costs no more than some hundred rounds a second.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from penstock.control.counters.leases import Leases
from penstock.link import Recall
from penstock.stores.base import Bound

WITHIN = 0.05  # seconds
PAUSE = 0.002

NOBODY = -1  # no worker has this number


class Recalls:
    """All rounds. `tell` sends a message to a worker, if it is there."""

    def __init__(self, leases: Leases, tell: Callable[[int, Recall], bool]) -> None:
        self._leases = leases
        self._tell = tell
        self._refs = itertools.count(1)
        self._missing: dict[int, tuple[set[int], asyncio.Event]] = {}
        self._now: dict[str, asyncio.Task[None]] = {}
        self._next: dict[str, asyncio.Task[None]] = {}

    def worth(self, bound: Bound, asker: int) -> bool:
        """Whether somebody may have something."""
        return bool(self._leases.unused(bound, asker))

    async def gather(self, bound: Bound) -> None:
        """Return when what lies unused of a bound has come back, or a moment has passed."""
        following = self._next.get(bound.id)
        if following is None:
            following = asyncio.create_task(self._round(bound, self._now.get(bound.id)))
            self._next[bound.id] = following
        await asyncio.shield(following)

    def answered(self, ref: int, worker: int) -> None:
        """This worker has returned what it could."""
        asked = self._missing.get(ref)
        if asked is not None:
            asked[0].discard(worker)
            if not asked[0]:
                asked[1].set()

    def gone(self, worker: int) -> None:
        """It will not answer any more, and has nothing."""
        for ref in list(self._missing):
            self.answered(ref, worker)

    def cancel(self) -> None:
        for task in (*self._now.values(), *self._next.values()):
            task.cancel()

    async def _round(self, bound: Bound, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
            await asyncio.sleep(PAUSE)
        self._now[bound.id] = self._next.pop(bound.id)
        ref = next(self._refs)
        try:
            unused = self._leases.unused(bound, NOBODY)
            missing = {worker for worker, leases in unused.items() if self._tell(worker, Recall(ref, leases))}
            if missing:
                everybody = asyncio.Event()
                self._missing[ref] = missing, everybody
                async with asyncio.timeout(WITHIN):
                    await everybody.wait()
        except TimeoutError:
            pass  # a worker that is slow, or stopped, keeps what it has
        finally:
            self._missing.pop(ref, None)
            del self._now[bound.id]
