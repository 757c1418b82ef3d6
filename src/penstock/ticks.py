"""The beat of what recurs: on whole multiples of its period, so that a process at rest is woken once for all of it.

To be woken costs a process that sleeps some 200 us, which is many times what it then has to do.
"""

from __future__ import annotations

import asyncio
import math

_EARLY = 0.002  # by so much a timer may ring before its time: the loop counts milliseconds


def next_tick(now: float, period: float) -> float:
    """The next time on the loop's clock, in seconds, that is a multiple of `period`, which is 10 ms or more."""
    return (math.floor((now + _EARLY) / period) + 1) * period


async def tick(period: float) -> None:
    """Sleep until then."""
    now = asyncio.get_running_loop().time()
    await asyncio.sleep(next_tick(now, period) - now)
