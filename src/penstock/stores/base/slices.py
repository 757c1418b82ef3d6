"""What a store of counters does: how much of each limit is taken, in which window, and by whom; all claims or none.

A limit is counted by `Bound.id`, so that whoever names the same limit shares it. What is asked for is taken of every
bound that applies in one atomic step, or of none. Each taking has a `Place`, by which what was not used is given back
to where it was taken from.

Windows (`stores.slices` has the arithmetic): a minute, and a day or month that roll, are rings of 240 buckets; days and
months of the calendar are those of UTC. A taking counts in the bucket in which it was made, and may be used until the
end of that bucket: a bucket leaves its window when it is older than the period and one bucket more, so that no sliding
window ever holds more than the limit, although what was granted takes a moment to be used.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from penstock.limits import Limit, Period, Unit
from penstock.types import Claim

BUCKETS = 240  # to a period
SECONDS: dict[Period, float] = {"minute": 60.0, "day": 86_400.0, "month": 30 * 86_400.0}


class Bound(msgspec.Struct, frozen=True):
    """A limit as a store counts it. `amount` in `unit`; `enforced`: whether it refuses, or only counts (shadow).

    Bounds that are asked for together have the same `tag`, so that a store of several machines keeps them on one.
    """

    id: str
    tag: str
    unit: Unit
    period: Period
    rolling: bool
    amount: int
    enforced: bool = True


def width(bound: Bound) -> float:
    """Seconds of a bucket; 0 where the window is a calendar's or a lifetime, and so one bucket."""
    rolls = bound.rolling or bound.period == "minute"
    return SECONDS[bound.period] / BUCKETS if rolls and bound.period in SECONDS else 0.0


def since(bound: Bound, wall: float) -> float:
    """When the window began that is now, in Unix seconds."""
    if bound.period == "lifetime":
        return 0.0
    if each := width(bound):
        return wall - SECONDS[bound.period] - 2 * each
    day = datetime.datetime.fromtimestamp(wall, datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day if bound.period == "day" else day.replace(day=1)).timestamp()


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where something was taken from a bound: the bucket, and the life of the counter, which begins when it is
    planted, so that what was taken from one that the store has lost is not given back to its successor."""

    bucket: int
    life: int


class Asking(msgspec.Struct, frozen=True, gc=False):
    """`claim` is to be taken of all `bounds`. `more`: how many further claims like it are welcome besides, as far as
    half of what would be left, divided by `sharers`, goes; of slots, which are used again and again, there may be fewer
    than of the rest. `ahead`: what others will get first, where this one is told how long it had to wait."""

    bounds: tuple[Bound, ...]
    claim: Claim
    more: int = 0
    sharers: int = 1
    ahead: Claim = Claim()


class Granted(msgspec.Struct, frozen=True, gc=False):
    """All claims were taken, and `more` further ones, with `more_slots` for them. By bound: `places`; what is `left`,
    below zero where a limit does not refuse or was overrun; and in how many seconds it will be `whole`, if nothing else
    is taken.

    It may be used for `valid` seconds since it was asked for. `over`: the bounds, by index, that would have refused it
    and do not.
    """

    more: int
    more_slots: int
    places: tuple[Place, ...]
    left: tuple[int, ...]
    whole: tuple[float, ...]
    valid: float
    over: tuple[int, ...] = ()

    def taken(self, claim: Claim) -> Claim:
        """All that was taken, of such claims."""
        every = 1 + self.more
        return Claim(
            claim.requests * every, claim.tokens * every, claim.nanos * every, claim.slots * (1 + self.more_slots)
        )


class Short(msgspec.Struct, frozen=True, gc=False):
    """A bound that refuses, by its index: what is `left` of it, and in how many seconds there will be enough. None: it
    is a matter of when others give back; infinite: never."""

    index: int
    left: int
    wait: float | None


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Nothing was taken, since these bounds have too little."""

    short: tuple[Short, ...]


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """Nothing was taken, since of these bounds, by index, the store does not know what was spent before: `plant` it."""

    bounds: tuple[int, ...]


class Seed(msgspec.Struct, frozen=True):
    """What was spent of a bound by what the ledger says: seconds ago, and how much."""

    bound: Bound
    spent: tuple[tuple[float, int], ...] = ()


class Change(msgspec.Struct, frozen=True, gc=False):
    """Of `reserved`, taken at `place`, `actual` was used: what is too much goes back to that place, what is more is
    taken now, whether it is there or not. A place of None, or in a counter that is no more: all of it is taken now."""

    bound: Bound
    place: Place | None
    reserved: int
    actual: int = 0


Outcome = Granted | Refused | Unknown


class Slices(Protocol):
    """Counters. A method that can answer at once does so; else it gives an awaitable.

    Raises StoreUnavailable where the store did not answer in time. A `lease` that did so has taken nothing that is
    not given back as soon as the store answers again. `up`: whether it answered when last asked; `lost`: how often
    slots were held past their time, and so were anybody's for a while. `hosts`: how many are taken to share it, none of
    which gets back what lies unused on another.
    """

    hosts: int
    up: bool
    lost: int

    def lease(self, asking: Asking) -> Outcome | Awaitable[Outcome]:
        """Take all claims or none, atomically."""
        ...

    def post(self, changes: Sequence[Change]) -> None:
        """Give back, and take what was overrun; never refused. It takes effect before any `lease` that follows, once
        each, whatever becomes of the store meanwhile: a store that is away gets it when it is back."""
        ...

    def plant(self, seeds: Sequence[Seed]) -> Awaitable[None] | None:
        """Begin these counters with what was spent; those that exist by now stay as they are."""
        ...

    def renew(self, bounds: Sequence[Bound]) -> Awaitable[None] | None:
        """Go on holding the slots that were taken of these bounds; those that expired are taken again."""
        ...

    async def close(self) -> None:
        """Give back every slot that is held. No call may follow."""
        ...


History = Callable[[Limit, float, float], Awaitable[Sequence[tuple[float, int]]]]
"""What the ledger knows was spent of a limit: given the limit, the Unix time since when, and the seconds that may be
summed up in one; the Unix time and the amount of each sum. Raises StoreUnavailable."""
