"""Stores of counters for tests: of each kind, on one clock that a test moves."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Sequence

import msgspec

from penstock.limits import Period, Unit
from penstock.stores.base import Asking, Bound, Granted, Outcome, Seed, Slices, Unknown
from penstock.stores.slices import MemorySlices
from penstock.stores.valkey import PROBE, ValkeySlices
from penstock.types import Claim
from support.redis import RedisServer

PATIENCE = 10.0  # seconds for an answer of a server that is not frozen, on a machine that is busy


class Clock:
    """Unix seconds; begins some day at noon."""

    def __init__(self) -> None:
        self.now = 20_000 * 86_400.0 + 43_200.0

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


def bound(
    id: str, unit: Unit, period: Period, amount: int, *, rolling: bool = False, tag: str = "p", enforced: bool = True
) -> Bound:
    return Bound(id, tag, unit, period, rolling, amount, enforced)


def gateway(url: str, timeout: float = PATIENCE, *, probe: float = PROBE, clock: Clock | None = None) -> ValkeySlices:
    """One more that shares the server."""
    return ValkeySlices(url, timeout, secrets.token_hex(8), probe=probe, clock=clock)


def store_of(kind: str, server: RedisServer, clock: Clock) -> Slices:
    if kind == "memory":
        return MemorySlices(clock, clock)
    return gateway(server.url, clock=clock)


async def lease(store: Slices, asking: Asking) -> Outcome:
    outcome = store.lease(asking)
    return await outcome if inspect.isawaitable(outcome) else outcome


async def plant(store: Slices, seeds: Sequence[Seed]) -> None:
    planted = store.plant(seeds)
    if planted is not None:
        await planted


async def take(store: Slices, bounds: Sequence[Bound], claim: Claim, more: int = 0) -> Outcome:
    """A lease of bounds that begin with nothing spent."""
    asking = Asking(tuple(bounds), claim, more)
    outcome = await lease(store, asking)
    if isinstance(outcome, Unknown):
        await plant(store, [Seed(bounds[at]) for at in outcome.bounds])
        outcome = await lease(store, asking)
    return outcome


async def granted(store: Slices, bounds: Sequence[Bound], claim: Claim, more: int = 0) -> Granted:
    outcome = await take(store, bounds, claim, more)
    assert isinstance(outcome, Granted), outcome
    return outcome


async def arrived(store: Slices, tag: str = "p") -> None:
    """Return when all that was posted and renewed has taken effect."""
    nothing = bound("nothing", "requests", "minute", 1, tag=tag)
    assert isinstance(await lease(store, Asking((nothing,), Claim())), Unknown)


def plain(outcome: Outcome) -> object:
    """The same for every store: without places, and times to the microsecond."""
    if isinstance(outcome, Granted):
        whole = tuple(round(seconds, 6) for seconds in outcome.whole)
        return msgspec.structs.replace(outcome, places=(), whole=whole, valid=round(outcome.valid, 6))
    if isinstance(outcome, Unknown):
        return outcome
    return [(short.index, short.left, short.wait and round(short.wait, 6)) for short in outcome.short]
