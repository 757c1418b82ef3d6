"""Three workers and their parent, with limits of several keys, and an oracle that sees what passes between them."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable
from typing import Any, cast

from penstock import link
from penstock.control.counters import Counters, Sources
from penstock.limits import Limit
from penstock.types import Principal
from soak.oracle import Oracle
from support.limiting import Clock, Host, Link

WORKERS = 3
LOOK_UP = 0.002  # seconds
PRICES = {"gpt-one": (10.0, 40.0), "gpt-two": (1.0, 5.0), "other": (0.0, 2.5)}


class OneClock(Clock):
    """Unix seconds are the steady ones and something, to the last bit."""

    def __init__(self, unix: float) -> None:
        super().__init__()
        self.epoch = unix - self.now
        self.move(0.0)

    def move(self, seconds: float) -> None:
        self.now += seconds
        self.unix = self.now + self.epoch


class Way(Link):
    """A worker's link, of which the oracle sees what passes."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.edits: deque[int] = deque()  # of which it is on its way to be told
        super().__init__(world, number)

    @property
    def returns_at_most(self) -> bool:
        """Whether nothing is on its way but what goes back."""
        return not self.down and all(isinstance(message, link.Returned) for message in self.up)

    def deliver_up(self) -> None:
        message = self.up[0]
        if isinstance(message, link.Lease):
            self.world.oracle.asked(self.number, message, self.world.applying(message))
            self.world.asked_ahead += message.ahead
        super().deliver_up()

    def from_parent(self, message: link.Message) -> None:
        if self.alive and isinstance(message, link.Leased):
            self.world.oracle.granted(self.number, message, self.world.clock.now)
        super().from_parent(message)

    def deliver_down(self) -> None:
        message = self.down[0]
        if isinstance(message, link.KeysChanged):
            self.world.oracle.told(self.number, self.edits.popleft())
        if isinstance(message, link.Denied) and message.ref in cast(Any, self.admission)._asked:
            self.world.last_denied = message
        super().deliver_down()


class World(Host):
    """A host whose limits are those of several keys."""

    links: list[Way]  # type: ignore[assignment]

    def __init__(
        self, limits: tuple[Limit, ...], max_wait: float, sharers: int, clock: OneClock, draw: random.Random
    ) -> None:
        super().__init__(limits, 0, held=True, max_wait=max_wait, clock=clock)
        self._draw = draw
        self.oracle = Oracle(clock.epoch)
        self.last_denied: link.Denied | None = None
        self.asked_ahead = 0
        self._of: dict[tuple[str, str], tuple[Limit, ...]] = {}
        sources = Sources(self._find, lambda provider, model: PRICES.get(model), None, clock.wall)
        self.counters = Counters(self.store, sources, self._tell, self.board, mark="m-", workers=sharers, clock=clock)
        self.links = [Way(self, number) for number in range(WORKERS)]

    def limits_of(self, key_id: str, project_id: str) -> tuple[Limit, ...]:
        found = self._of.get((key_id, project_id))
        if found is None:
            scopes = ("key", key_id), ("project", project_id)
            found = tuple(limit for limit in self.limits if (limit.scope, limit.scope_id) in scopes)
            self._of[key_id, project_id] = found
        return found

    def _find(self, key_id: str, project_id: str) -> tuple[Limit, ...] | Awaitable[tuple[Limit, ...]]:
        """The same, now and then of a store that takes a moment."""
        found = self.limits_of(key_id, project_id)
        return found if self._draw.random() < 0.9 else asyncio.sleep(LOOK_UP, found)

    def edit(self, limits: tuple[Limit, ...]) -> None:
        """Limits change, and every worker is told."""
        self.limits = limits
        self._of.clear()
        event = self.oracle.edited()
        for way in self.links:
            if way.alive:
                way.edits.append(event)
                way.from_parent(link.KeysChanged())

    def applying(self, question: link.Lease) -> list[Limit]:
        limits = self.limits_of(question.key_id, question.project_id)
        return [limit for limit in limits if holds(limit, question.model)]

    def principal(self, key: tuple[str, str]) -> Principal:
        limits = self.limits_of(*key)
        by_model, hard = any(limit.model for limit in limits), any(limit.hard for limit in limits)
        return Principal(key[0], key[0], project_id=key[1], limited=True, by_model=by_model, hard=hard)

    def _tell(self, worker: int, message: link.Recall) -> bool:
        self.links[worker].from_parent(message)
        return True  # as long as the parent does not know that it has ended


def holds(limit: Limit, model: str) -> bool:
    """Whether a limit is one for requests that name this model."""
    return model.startswith(limit.model[:-1]) if limit.model.endswith("*") else limit.model in ("", model)
