"""What a store of runs does: of all requests with one idempotency key, whichever host has them, one runs at a time.

A run is claimed under a lease, which its holder renews while it goes on. It ends in one of two ways: it is finished,
and the key names its answer from then on; or it is released, and the next request with that key may run. A holder that
died neither finishes nor releases: its lease lapses. Times are in Unix seconds, and come from the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from penstock.types import Run


class Verdict(Enum):
    """What became of a claim."""

    CLAIMED = "claimed"  # it is this run's now
    RUNNING = "running"  # another one runs
    DONE = "done"  # another one has finished
    REUSED = "reused"  # another one, with another fingerprint, runs or has finished


class Runs(Protocol):
    """Every method may raise StoreUnavailable, and has then changed nothing or all it says; so has a cancelled one."""

    async def claim(self, run: Run, now: float, until: float) -> Verdict:
        """Claim the run's id until then, atomically: of several that claim it at once, one does."""
        ...

    async def finish(self, run: Run, until: float) -> bool:
        """Keep the id as that of a finished run until then; False, and nothing is changed, if it is not this claim's.

        Idempotent.
        """
        ...

    async def release(self, run: Run) -> None:
        """Give the id up, if it is this claim's and not finished. Idempotent."""
        ...

    async def renew(self, claims: Sequence[str], until: float) -> None:
        """Hold what these claims hold, and have not finished, until then."""
        ...

    async def sweep(self, now: float, most: int) -> int:
        """Forget at most so many of the runs whose time is over; how many."""
        ...
