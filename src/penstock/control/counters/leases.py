"""What workers have of the limits: every lease, who holds it, and what of it is still out.

A lease has what was taken of each of its bounds, and where. Of that, rests come back from the worker, what requests
reserved is settled by the ledger, and slots come back when nothing is sent for them any more. A lease of which nothing
is out is forgotten.

A worker that ended holds no slots: they are free at once. What its requests had reserved is settled when its journal
has been read; what is left by then was used by nobody, and goes back.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from penstock.limits import Unit
from penstock.link import Rest
from penstock.stores.base import Bound, Change, Place
from penstock.types import Claim, Settlement

MOST = 1_000_000  # leases; what the oldest beyond have taken stays taken until it leaves its windows

UNITS: tuple[Unit, ...] = ("requests", "tokens", "nanos", "slots")
UNIT = {unit: number for number, unit in enumerate(UNITS)}
SLOTS = 3


class Held:
    """One lease. `places`: None where nothing could be taken of a bound, which lets requests through even so."""

    __slots__ = ("bounds", "closed", "id", "out", "places", "worker")

    def __init__(self, id: str, worker: int, bounds: Sequence[Bound], places: Sequence[Place | None]) -> None:
        self.id = id
        self.worker = worker
        self.bounds = bounds
        self.places = places
        self.out: dict[int, int] = {}  # by the number of a unit that is metered
        self.closed = False  # nothing of it lies unused

    @property
    def done(self) -> bool:
        return self.closed and not any(self.out.values())

    def give_back(self, amounts: Sequence[int]) -> list[Change]:
        """So much of it was used by nobody."""
        for unit in self.out:
            self.out[unit] -= amounts[unit]
        return [
            Change(bound, place, amounts[UNIT[bound.unit]])
            for bound, place in zip(self.bounds, self.places, strict=True)
            if place is not None and amounts[UNIT[bound.unit]]
        ]

    def settle(self, spent: Spent) -> list[Change]:
        """What requests came to that had reserved something of it; slots go their own way."""
        changes = []
        within, beyond = spent.within(), spent.beyond
        for bound, place in zip(self.bounds, self.places, strict=True):
            unit = UNIT[bound.unit]
            if unit == SLOTS:
                continue
            left, over = within[unit], beyond[unit]
            if place is None:
                left, over = (0, 0), (0, left[1] + over[1])
            changes += [Change(bound, place, *one) for one in (left, over) if one[0] != one[1]]
        for unit in self.out:
            if unit != SLOTS:
                self.out[unit] -= within[unit][0] + beyond[unit][0]
        return changes


class Spent:
    """What requests of one lease came to: what was reserved and what was used, of those that used no more than that,
    and, by unit, of those that used more. What goes back and what is taken must not be set off against each other: it
    goes back to where it was taken from, and is taken of what is now."""

    __slots__ = ("beyond", "nanos", "requests", "tokens", "used_nanos", "used_tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = self.nanos = self.used_tokens = self.used_nanos = 0  # of those within
        self.beyond = [(0, 0)] * SLOTS

    def add(self, one: Settlement) -> None:
        """One more request."""
        tokens, nanos, used_tokens, used_nanos = one.tokens, one.nanos, one.used_tokens, one.used_nanos
        self.requests += one.requests
        if used_tokens > tokens:
            self._add_beyond(1, tokens, used_tokens)
        else:
            self.tokens += tokens
            self.used_tokens += used_tokens
        if used_nanos > nanos:
            self._add_beyond(2, nanos, used_nanos)
        else:
            self.nanos += nanos
            self.used_nanos += used_nanos

    def within(self) -> Sequence[tuple[int, int]]:
        """By unit, what was reserved and used of it by those that used no more than that."""
        return (self.requests, self.requests), (self.tokens, self.used_tokens), (self.nanos, self.used_nanos)

    def _add_beyond(self, unit: int, taken: int, used: int) -> None:
        before = self.beyond[unit]
        self.beyond[unit] = before[0] + taken, before[1] + used


class Leases:
    """All that are out. `mark` begins every id, so that none is that of another run."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._numbers = itertools.count(1)
        self._leases: OrderedDict[str, Held] = OrderedDict()
        self._by_worker: dict[int, dict[str, Held]] = {}
        self._by_bound: dict[str, dict[str, Held]] = {}  # those of which something may come back at any time

    def __len__(self) -> int:
        return len(self._leases)

    def open(
        self, worker: int, bounds: Sequence[Bound], places: Sequence[Place | None], taken: Claim, unused: bool = False
    ) -> Held:
        """`taken` was taken of these bounds for a worker; `unused`: it is for more than the request that asked."""
        held = Held(f"{self._mark}{next(self._numbers):x}", worker, bounds, places)
        amounts = amounts_of(taken)
        for bound in bounds:
            unit = UNIT[bound.unit]
            held.out[unit] = amounts[unit]
        held.closed = not unused
        if len(self._leases) >= MOST:
            self._forget(next(iter(self._leases.values())))
        self._leases[held.id] = held
        self._by_worker.setdefault(worker, {})[held.id] = held
        if not held.closed or held.out.get(SLOTS):
            for bound in bounds:
                self._by_bound.setdefault(bound.id, {})[held.id] = held
        return held

    def rest(self, rest: Rest) -> list[Change]:
        """What a worker returned."""
        held = self._leases.get(rest.lease)
        if held is None:
            return []
        changes = held.give_back(amounts_of(rest.claim))
        held.closed = held.closed or rest.closed
        self._look(held)
        return changes

    def settle(self, settlements: Iterable[Settlement]) -> list[Change]:
        """What requests came to. A lease of another run is none of ours: the counters began with what it came to."""
        spent: dict[str, Spent] = {}
        for settlement in settlements:
            sum_ = spent.get(settlement.lease)
            if sum_ is None:
                sum_ = spent[settlement.lease] = Spent()
            sum_.add(settlement)
        changes = []
        for lease, sum_ in spent.items():
            held = self._leases.get(lease)
            if held is not None:
                changes += held.settle(sum_)
                self._look(held)
        return changes

    def gone(self, worker: int) -> tuple[list[Change], Callable[[], list[Change]]]:
        """This worker ended: its slots; and what to call when its journal has been settled, for the rest."""
        orphans = self._by_worker.pop(worker, {})
        changes = []
        for held in list(orphans.values()):
            changes += held.give_back((0, 0, 0, held.out.get(SLOTS, 0)))
            held.closed = True
            self._look(held)

        def rest() -> list[Change]:
            unused = []
            for held in list(orphans.values()):
                if held.id in self._leases:
                    unused += held.give_back([held.out.get(unit, 0) for unit in range(len(UNITS))])
                    self._forget(held)
            return unused

        return changes, rest

    def unused(self, bound: Bound, asker: int) -> dict[int, tuple[str, ...]]:
        """By worker, the leases of which something may lie unused that was taken of this bound. Of a bound on slots
        also those who may be returning one just now, but for the asker: what it returned has come before its question.
        """
        found: dict[int, list[str]] = {}
        for held in self._by_bound.get(bound.id, {}).values():
            if not held.closed:
                found.setdefault(held.worker, []).append(held.id)
            elif bound.unit == "slots" and held.worker != asker:
                found.setdefault(held.worker, [])
        return {worker: tuple(leases) for worker, leases in found.items()}

    def held_slots(self) -> list[Bound]:
        """The bounds of which slots are held."""
        found = {}
        for held in self._leases.values():
            if held.out.get(SLOTS):
                found.update({bound.id: bound for bound in held.bounds if bound.unit == "slots"})
        return list(found.values())

    def _look(self, held: Held) -> None:
        """Whether it is still of interest."""
        if held.closed and not held.out.get(SLOTS):
            self._withdraw(held)
            if held.done:
                self._forget(held)

    def _withdraw(self, held: Held) -> None:
        for bound in held.bounds:
            leases = self._by_bound.get(bound.id)
            if leases is not None and leases.pop(held.id, None) is not None and not leases:
                del self._by_bound[bound.id]

    def _forget(self, held: Held) -> None:
        self._withdraw(held)
        self._leases.pop(held.id, None)
        self._by_worker.get(held.worker, {}).pop(held.id, None)


def amounts_of(claim: Claim) -> tuple[int, int, int, int]:
    """By the number of the unit."""
    return claim.requests, claim.tokens, claim.nanos, claim.slots
