"""What the fake upstream saw, and the gates that tests hold it by; both wake those who wait for a change."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from penstock.fake_upstream.connection import Request
from penstock.fake_upstream.pieces import Wait
from penstock.fake_upstream.script import FOREVER
from penstock.fake_upstream.shapes import asked

Found = TypeVar("Found")

COMPLETE, CUT, HANGUP, STOPPED = "complete", "cut", "hangup", "stopped"


class Seen:
    """One request and what became of it.

    `ended` is None while it is being answered, then complete, cut (as the script says), hangup (the client went first)
    or stopped (the fake upstream was, or it refused what followed on the connection). Times are of the monotonic clock.
    `sent_bytes` counts body bytes that left. `asked` is what the body asks for, None where it is no JSON object.
    """

    def __init__(self, number: int, connection: int, request: Request) -> None:
        self.number = number
        self.connection = connection
        self.method = request.method
        self.target = request.target
        self.path = request.target.partition("?")[0]
        self.headers = request.headers
        self.body = request.body
        self.asked = asked(request.body)
        self.model = "" if self.asked is None else self.asked.model
        self.stream = self.asked is not None and self.asked.stream
        self.status = 0
        self.sent_bytes = 0
        self.started_at = time.monotonic()
        self.ended_at: float | None = None
        self.ended: str | None = None

    @property
    def hung_up(self) -> bool:
        """Whether the client went before its answer was whole; then `ended_at` says when."""
        return self.ended == HANGUP

    def header(self, name: str) -> str | None:
        """The first value of a header, whose name is in lower case."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)

    def __repr__(self) -> str:
        return f"<{self.method} {self.target} {self.model!r} status {self.status}: {self.ended or 'being answered'}>"


class Changes:
    """Wakes those who wait for something to become true, whenever something has changed."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Something changed."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait_for(self, find: Callable[[], Found]) -> Found:
        """Wait until `find` returns something true, and return that."""
        while not (found := find()):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return found


class Gates:
    """Named gates at which answers wait until a test opens them; one that was opened stays open."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._open: set[str] = set()
        self._waiting: Counter[str] = Counter()

    def waiting(self, name: str) -> int:
        """How many answers wait there now."""
        return self._waiting[name]

    def open(self, name: str) -> None:
        """Let through all that wait there, and all that come."""
        self._open.add(name)
        self._changes.notify()

    async def pause(self, wait: Wait) -> None:
        """Let a time pass, or wait at a gate; nothing opens the one named forever."""
        if not isinstance(wait, str):
            await asyncio.sleep(wait)
            return
        self._waiting[wait] += 1
        self._changes.notify()
        try:
            await self._changes.wait_for(lambda: wait != FOREVER and wait in self._open)
        finally:
            self._waiting[wait] -= 1
            self._changes.notify()
