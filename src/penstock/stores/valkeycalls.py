"""What is to be asked of Valkey for one tag, how it is packed for the script, and what became of what was asked.

How it works: a Session gathers what waits: changes, leases, seeds, renewals. `call` packs it as one step of the script;
there is one call of a tag on its way at a time. Calls are numbered, and the server remembers the last number and what
that call took.

When it fails: a call whose reply did not come was done or was not. Its changes go with every call after it, with the
number of the first that had them: the script leaves them out if it has seen a call since. What it took otherwise nobody
was told of, and the script gives it back when the next call says up to which number replies have come. A call that
reaches the server after a later one is void. So nothing is taken or given back twice, and nothing is kept by nobody.

Slots are held under a life that begins when the holder has none. What is held by a life that the server does not know
any more are strays, until a renewal takes them again.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from penstock.stores.base import Asking, Bound, Change, Granted, Outcome, Place, Refused, Seed, Short, Unknown, width
from penstock.stores.base.slices import SECONDS

LEASES = 32  # to a call, for the server does nothing else meanwhile
CHANGES = 256

_MICROS = 1_000_000
_HOUR = 3600
_RING, _SLOTS = 0, 4
_OTHERS = {"day": (1, 86_400), "month": (2, 31 * 86_400), "lifetime": (3, 90 * 86_400)}  # kind, seconds it is kept


class Waiting(NamedTuple):
    """A question for a lease, and who waits for its answer; `answer` is done before that where nobody does any more."""

    asking: Asking
    answer: asyncio.Future[Outcome]


class Sown(NamedTuple):
    seed: Seed
    done: asyncio.Future[None]


class Call(NamedTuple):
    """One step of the script, packed. `renewed`: the slots that go on being held, with how many were strays."""

    session: Session
    number: int
    keys: list[str]
    body: bytes
    bounds: dict[str, Bound]
    leases: list[Waiting]
    seeds: list[Sown]
    renewed: list[str]


class Held:
    """The slots of one bound that this gateway holds: `count` in the life that the server knows, and `strays`."""

    __slots__ = ("bound", "count", "life", "strays")

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.life = self.count = self.strays = 0

    def take(self, life: int, amount: int) -> None:
        if life != self.life:
            self.strays += self.count
            self.life, self.count = life, 0
        self.count += amount

    def release(self, life: int, amount: int) -> int:
        """How many of these the server is to be told of."""
        if life != self.life:
            strays = min(amount, self.strays)
            self.strays -= strays
            amount -= strays
        told = min(amount, self.count)
        self.count -= told
        return told

    def renewed(self, life: int, again: int) -> int:
        """The server took so many again; of them it returns how many were released meanwhile."""
        if life != self.life:
            self.take(life, 0)
        surplus = max(0, again - self.strays)
        self.count += self.strays + surplus
        self.strays = 0
        return surplus


class _Amounts:
    """Changes of one bound at one place, summed up: what goes `back`, what is taken besides (`extra`), and what is
    taken (`whole`) where that place is no more."""

    __slots__ = ("back", "bound", "extra", "whole")

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.back = self.extra = self.whole = 0


_Spot = tuple[str, int, int]  # bound, bucket, life


class Session:
    """All that concerns one tag. `holder` is this gateway's name, different in each run."""

    def __init__(self, tag: str, holder: str) -> None:
        self.tag = tag
        self.leases: deque[Waiting] = deque()
        self._holder = holder
        self._changes: dict[_Spot, _Amounts] = {}
        self._batch: tuple[int, dict[_Spot, _Amounts]] = (0, {})  # with the number of the first call that had it
        self._seeds: list[Sown] = []
        self._held: dict[str, Held] = {}
        self._renewing: dict[str, None] = {}
        self._lost: tuple[int, dict[str, Bound]] | None = None  # since which call no reply came, and what they concern

    @property
    def waits(self) -> bool:
        """Whether there is something to ask."""
        return bool(self.leases or self._changes or self._batch[1] or self._seeds or self._renewing or self._lost)

    @property
    def idle(self) -> bool:
        return not self.waits and not self._held

    # -- what is to be done

    def post(self, change: Change) -> None:
        bound, place, reserved, actual = change.bound, change.place, change.reserved, change.actual
        if bound.unit == "slots":
            held = self._held.get(bound.id)
            if held is not None and place is not None:
                self._release(held, place.life, reserved - actual)
            return
        spot = (bound.id, 0, 0) if place is None else (bound.id, place.bucket, place.life)
        amounts = self._amounts(spot, bound)
        amounts.whole += actual
        if place is not None:
            amounts.back += max(0, reserved - actual)
            amounts.extra += max(0, actual - reserved)

    def sow(self, sown: Sown) -> None:
        self._seeds.append(sown)

    def renew(self, bounds: Iterable[str]) -> None:
        self._renewing.update((bound, None) for bound in bounds if bound in self._held)

    def renew_all(self) -> None:
        self.renew(list(self._held))

    def release_all(self) -> None:
        """Hold nothing any more."""
        self._renewing.clear()
        for held in self._held.values():
            held.strays = 0
            self._release(held, held.life, held.count)

    def give_back(self, waiting: Waiting, granted: Granted) -> None:
        """Nobody wants what was granted."""
        taken = granted.taken(waiting.asking.claim)
        for bound, place in zip(waiting.asking.bounds, granted.places, strict=True):
            self.post(Change(bound, place, getattr(taken, bound.unit)))

    def refuse(self, error: Exception) -> None:
        """Answer everybody who waits in this way. What is posted is kept."""
        for waiting in self.leases:
            _fail(waiting.answer, error)
        for sown in self._seeds:
            _fail(sown.done, error)
        self.leases.clear()
        self._seeds.clear()

    # -- what is asked

    def call(self, number: int) -> Call:
        """The next call. What it asks for is its own until `replied` or `failed`."""
        bounds = dict(self._lost[1]) if self._lost is not None else {}
        if not self._batch[1]:
            spots = list(self._changes)[:CHANGES]
            self._batch = (number if spots else 0), {spot: self._changes.pop(spot) for spot in spots}
        changes = self._batch[1]
        bounds.update((amounts.bound.id, amounts.bound) for amounts in changes.values())
        renewed = [bound for bound in self._renewing if bound in self._held]
        self._renewing.clear()
        bounds.update((bound, self._held[bound].bound) for bound in renewed)
        seeds, self._seeds = self._seeds, []
        bounds.update((sown.seed.bound.id, sown.seed.bound) for sown in seeds)
        leases: list[Waiting] = []
        while self.leases and len(leases) < LEASES and not self._changes:  # all that is posted goes before them
            waiting = self.leases.popleft()
            if not waiting.answer.done():
                leases.append(waiting)
                bounds.update((bound.id, bound) for bound in waiting.asking.bounds)
        index = {bound: at for at, bound in enumerate(bounds, 1)}
        shapes = [_shape(bound) for bound in bounds.values()]
        body = (
            number,
            number - 1 if self._lost is None else self._lost[0] - 1,
            self._holder,
            [shape for _, shape in shapes],
            (self._batch[0], [_changed(index, spot, amounts) for spot, amounts in changes.items()]),
            [(index[bound], *_holding(self._held[bound])) for bound in renewed],
            [(index[sown.seed.bound.id], _spent(sown.seed)) for sown in seeds],
            [_wanted(index, waiting.asking) for waiting in leases],
        )
        keys = [key_of(self.tag, "gateway", self._holder), *(key for key, _ in shapes)]
        return Call(self, number, keys, msgspec.msgpack.encode(body), bounds, leases, seeds, renewed)

    def replied(self, call: Call, reply: bytes) -> int:
        """Tell everybody what came of it; how many slots had to be taken again."""
        renewed, answers = msgspec.msgpack.decode(reply)
        self._lost = None
        self._batch = 0, {}
        lost = 0
        for bound, (life, again) in zip(call.renewed, renewed, strict=True):
            held = self._held[bound]
            self._release(held, life, held.renewed(life, again))
            lost += again
        for sown in call.seeds:
            if not sown.done.done():
                sown.done.set_result(None)
        for waiting, answer in zip(call.leases, answers, strict=True):
            self._answer(waiting, _outcome(answer))
        self._held = {bound: held for bound, held in self._held.items() if held.count or held.strays}
        return lost

    def failed(self, call: Call, error: Exception) -> None:
        """No reply came, and none will: whether it was done is for the next call to find out."""
        since, bounds = (call.number, call.bounds) if self._lost is None else self._lost
        self._lost = since, bounds | call.bounds
        for waiting in call.leases:
            _fail(waiting.answer, error)
        for sown in call.seeds:
            _fail(sown.done, error)

    def _answer(self, waiting: Waiting, outcome: Outcome) -> None:
        if isinstance(outcome, Granted):
            for bound, place in zip(waiting.asking.bounds, outcome.places, strict=True):
                amount = outcome.taken(waiting.asking.claim).slots
                if bound.unit == "slots" and amount:
                    self._held.setdefault(bound.id, Held(bound)).take(place.life, amount)
        if not waiting.answer.done():
            waiting.answer.set_result(outcome)
        elif isinstance(outcome, Granted):
            self.give_back(waiting, outcome)

    def _release(self, held: Held, life: int, amount: int) -> None:
        told = held.release(life, amount)
        if told:
            self._amounts((held.bound.id, 0, held.life), held.bound).back += told

    def _amounts(self, spot: _Spot, bound: Bound) -> _Amounts:
        amounts = self._changes.get(spot)
        if amounts is None:
            amounts = self._changes[spot] = _Amounts(bound)
        return amounts


def key_of(tag: str, kind: str, name: str) -> str:
    """The name of what is kept. All of one tag are on one machine of a cluster, which goes by what is in braces."""
    return f"penstock:{{{quote(tag, safe='')}}}:{kind}:{name}"


@lru_cache(16_384)
def _shape(bound: Bound) -> tuple[str, tuple[int, int, int]]:
    """The key of a bound's counter; its kind, the width of its buckets, and for how many seconds it is kept unused."""
    key = key_of(bound.tag, "counter", bound.id)
    if bound.unit == "slots":
        return key, (_SLOTS, 0, 0)
    if each := width(bound):
        return key, (_RING, round(each * _MICROS), round(SECONDS[bound.period] + 2 * each) + _HOUR)
    kind, seconds = _OTHERS[bound.period]
    return key, (kind, 0, seconds + _HOUR)


def _changed(index: dict[str, int], spot: _Spot, amounts: _Amounts) -> tuple[int, ...]:
    bound, bucket, life = spot
    return index[bound], bucket, life, amounts.back, amounts.extra, amounts.whole


def _holding(held: Held) -> tuple[int, int, int]:
    return held.life, held.count, held.strays


def _spent(seed: Seed) -> list[tuple[int, int]]:
    return [(round(ago * _MICROS), amount) for ago, amount in seed.spent]


def _wanted(index: dict[str, int], asking: Asking) -> tuple[int, int, list[tuple[int, int, int, int, bool]]]:
    claim, ahead = asking.claim, asking.ahead
    wanted = [
        (index[bound.id], getattr(claim, bound.unit), getattr(ahead, bound.unit), bound.amount, bound.enforced)
        for bound in asking.bounds
    ]
    return asking.more, asking.sharers, wanted


def _outcome(answer: list[Any]) -> Outcome:
    match answer:
        case ["granted", more, more_slots, rows, valid, over]:
            return Granted(
                more,
                more_slots,
                tuple([Place(bucket, life) for bucket, life, _, _ in rows]),
                tuple([left for _, _, left, _ in rows]),
                tuple([_seconds(whole) for _, _, _, whole in rows]),
                valid / _MICROS,
                tuple(over),
            )
        case ["refused", short]:
            return Refused(
                tuple([Short(at, left, None if span is False else _seconds(span)) for at, left, span in short])
            )
        case _:
            return Unknown(tuple(answer[1]))


def _seconds(micros: int) -> float:
    return math.inf if micros < 0 else micros / _MICROS


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
