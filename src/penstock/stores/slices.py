"""The arithmetic of counters, pure and in memory: windows made of buckets, slots that are held; and the store of one
host, which needs nothing else.

A window knows the amount of each of its buckets and their sum. What is taken counts in the bucket of now; what is given
back leaves the bucket that it was taken from, if that is still in the window. A bucket leaves when it is older than the
period and one bucket more: n buckets to a period, the current one and n + 1 before it are in. So whatever a bucket
granted may be used until one bucket later, and every sliding window holds at most the limit. The price is that a
limit is used to 240 / 242, 99.2 %, at worst.

Rings go by a monotonic clock, calendars by UTC; where a clock steps back, the newest bucket stays the current one.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from penstock.limits import Period
from penstock.stores.base import Asking, Bound, Change, Granted, Outcome, Place, Refused, Seed, Short, Unknown
from penstock.stores.base.slices import BUCKETS, width

LEASE = 1.0  # seconds that a grant is valid at most

_FOREVER = math.inf
_LIFE = 0  # a counter in memory lives as long as those that hold of it


class Times(NamedTuple):
    """Now, on both clocks: monotonic and Unix seconds."""

    steady: float
    wall: float


def _calendar(period: Period, wall: float) -> tuple[int, float]:
    """The number of the day or month that is now, and the seconds until it ends."""
    days = int(wall // 86_400)
    if period == "day":
        return days, (days + 1) * 86_400 - wall
    date = datetime.date(1970, 1, 1) + datetime.timedelta(days=days)
    following = datetime.date(date.year + date.month // 12, date.month % 12 + 1, 1)
    return date.year * 12 + date.month, (following - datetime.date(1970, 1, 1)).days * 86_400 - wall


class Window:
    """What was taken of one bound, by buckets: oldest first, of which those that are too old are forgotten."""

    __slots__ = ("buckets", "newest", "period", "taken", "width")

    def __init__(self, bound: Bound) -> None:
        self.period = bound.period
        self.width = width(bound)
        self.buckets: dict[int, int] = {}
        self.taken = 0
        self.newest = -(1 << 62)

    def advance(self, now: Times) -> float:
        """Make the bucket of now the newest, and forget what has left the window; the seconds until that bucket ends,
        which is when others may no longer be granted of it."""
        if self.width:
            current = int(now.steady // self.width)
            oldest = max(current, self.newest) - BUCKETS - 1
            ends = (max(current, self.newest) + 1) * self.width - now.steady
        elif self.period == "lifetime":
            current, oldest, ends = 0, 0, _FOREVER
        else:
            current, ends = _calendar(self.period, now.wall)
            oldest = max(current, self.newest)
        if current > self.newest:
            self.newest = current
        buckets = self.buckets
        while buckets:
            first = next(iter(buckets))
            if first >= oldest:
                break
            self.taken -= buckets.pop(first)
        return ends

    def take(self, amount: int) -> None:
        """Of the newest bucket."""
        self.buckets[self.newest] = self.buckets.get(self.newest, 0) + amount
        self.taken += amount

    def give_back(self, bucket: int, amount: int) -> None:
        """To the bucket it was taken from; nothing, once that has left."""
        if bucket in self.buckets:
            self.buckets[bucket] -= amount
            self.taken -= amount

    def wait(self, amount: int, now: Times, ends: float) -> float:
        """Seconds until so much has left the window, if nothing else is taken; infinite where it never will."""
        if not self.width:
            return ends if amount <= self.taken else _FOREVER
        for bucket, taken in self.buckets.items():
            amount -= taken
            if amount <= 0:
                return self._leaves(bucket) - now.steady
        return _FOREVER

    def whole(self, now: Times, ends: float) -> float:
        """Seconds until nothing is taken of it, if nothing else is."""
        if not self.taken:
            return 0.0
        if not self.width:
            return ends
        return self._leaves(next(bucket for bucket, taken in reversed(self.buckets.items()) if taken)) - now.steady

    def _leaves(self, bucket: int) -> float:
        return (bucket + BUCKETS + 2) * self.width


class MemorySlices:
    """Counters of one host. What is held here is held by nobody else, and ends with the process."""

    hosts = 1
    up = True
    lost = 0

    def __init__(self, steady: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._steady = steady
        self._wall = wall
        self._windows: dict[str, Window] = {}
        self._slots: dict[str, int] = {}

    def lease(self, asking: Asking) -> Outcome:
        now = Times(self._steady(), self._wall())
        windows, slots = self._windows, self._slots
        unknown, short, over, taken, ends = [], [], [], [], []
        more = more_slots = asking.more  # claims, and slots
        for index, bound in enumerate(asking.bounds):
            claim: int = getattr(asking.claim, bound.unit)
            window = windows.get(bound.id) if bound.unit != "slots" else None
            if window is not None:
                ends.append(window.advance(now))
                taken.append(window.taken)
            elif bound.unit == "slots":
                ends.append(_FOREVER)
                taken.append(slots.get(bound.id, 0))
            else:
                unknown.append(index)
                continue
            left = bound.amount - taken[-1] - claim
            if left < 0:
                more = 0
                if bound.enforced:
                    short.append(_short(index, asking, window, left + claim, now, ends[-1]))
                else:
                    over.append(index)
            elif claim:
                plenty = left // (2 * asking.sharers * claim)
                if bound.unit == "slots":
                    more_slots = min(more_slots, plenty)
                else:
                    more = min(more, plenty)
        if unknown:
            return Unknown(tuple(unknown))
        if short:
            return Refused(tuple(short))
        more_slots = min(more, more_slots)
        return self._grant(asking, more if more_slots else 0, more_slots, ends, tuple(over), now)

    def _grant(
        self, asking: Asking, more: int, more_slots: int, ends: list[float], over: tuple[int, ...], now: Times
    ) -> Granted:
        places, left, whole = [], [], []
        for bound, end in zip(asking.bounds, ends, strict=True):
            amount = getattr(asking.claim, bound.unit) * (1 + (more_slots if bound.unit == "slots" else more))
            if bound.unit == "slots":
                taken = self._slots[bound.id] = self._slots.get(bound.id, 0) + amount
                places.append(_HELD)
                whole.append(0.0)
            else:
                window = self._windows[bound.id]
                window.take(amount)
                taken = window.taken
                places.append(Place(window.newest, _LIFE))
                whole.append(window.whole(now, end))
            left.append(bound.amount - taken)
        return Granted(more, more_slots, tuple(places), tuple(left), tuple(whole), min(LEASE, *ends), over)

    def post(self, changes: Sequence[Change]) -> None:
        now = Times(self._steady(), self._wall())
        for bound, place, reserved, actual in map(_fields, changes):
            if bound.unit == "slots":
                self._slots[bound.id] = self._slots.get(bound.id, 0) + actual - reserved
                continue
            window = self._windows.get(bound.id)
            if window is None:
                continue  # never asked for, so that its seed will have it
            if place is None:
                reserved = 0
            elif actual < reserved:
                window.give_back(place.bucket, reserved - actual)
            if actual > reserved:
                window.advance(now)
                window.take(actual - reserved)

    def plant(self, seeds: Sequence[Seed]) -> None:
        now = Times(self._steady(), self._wall())
        for seed in seeds:
            if seed.bound.id in self._windows:
                continue
            window = self._windows[seed.bound.id] = Window(seed.bound)
            for ago, amount in sorted(seed.spent, reverse=True):  # the oldest first, as its buckets are kept
                window.advance(Times(now.steady - ago, now.wall - ago))
                window.take(amount)
            window.advance(now)

    def renew(self, bounds: Sequence[Bound]) -> None:
        """Slots in memory do not expire: who held them tells when they are free."""

    async def close(self) -> None: ...


_HELD = Place(0, _LIFE)


def _fields(change: Change) -> tuple[Bound, Place | None, int, int]:
    return change.bound, change.place, change.reserved, change.actual


def _short(index: int, asking: Asking, window: Window | None, left: int, now: Times, ends: float) -> Short:
    bound = asking.bounds[index]
    claim: int = getattr(asking.claim, bound.unit)
    ahead: int = getattr(asking.ahead, bound.unit)
    if claim > bound.amount:
        return Short(index, left, _FOREVER)
    if window is None:
        return Short(index, left, None)
    return Short(index, left, window.wait(claim + ahead - left, now, ends))
