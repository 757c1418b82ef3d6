"""Fake upstreams that come and go on ports of their own, and do to each request what the plan says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from chaos.books import Books
from chaos.plan import Plan
from penstock.fake_upstream import Answer, FakeUpstream, Seen


def marker(seen: Seen) -> str:
    """Which request this is: its question."""
    return str(seen.json()["messages"][0]["content"])


def begun(seen: Seen) -> str:
    """The part of an answer that it is to go on with."""
    last = seen.json()["messages"][-1]
    return str(last["content"]) if last["role"] == "assistant" else ""


class Flapping:
    """One upstream that is sometimes away: then nobody listens on its port."""

    def __init__(self, port: int, script: Callable[[Seen], Answer], on_end: Callable[[Seen], None]) -> None:
        self._port = port
        self._script = script
        self._on_end = on_end
        self._running: FakeUpstream | None = None
        self._began = 0  # calls, in all its lives
        self._ended = 0

    async def come(self) -> None:
        """Listen."""
        running = FakeUpstream(self._script, listen=f"127.0.0.1:{self._port}", on_end=self._end, remember=False)
        self._running = await running.__aenter__()

    async def go(self) -> None:
        """Stop listening, and cut off whatever is being answered."""
        running, self._running = self._running, None
        if running is not None:
            await running.__aexit__(None, None, None)
            self._began += running.requests_seen

    def _end(self, seen: Seen) -> None:
        self._ended += 1
        self._on_end(seen)

    @property
    def busy(self) -> int:
        """Calls that are being answered."""
        running = self._running.requests_seen if self._running is not None else 0
        return self._began + running - self._ended

    @property
    def listens(self) -> bool:
        """Whether it is there."""
        return self._running is not None

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return self._running.open_connections if self._running is not None else 0


class Planned:
    """Upstreams u0, u1, ... that follow the plan, on these ports."""

    def __init__(self, plan: Plan, books: Books, ports: list[int]) -> None:
        self._plan = plan
        self._books = books
        self._visits: Counter[tuple[int, str]] = Counter()
        self.all = [self._one(number, port) for number, port in enumerate(ports)]

    def _one(self, number: int, port: int) -> Flapping:
        def choose(seen: Seen) -> Answer:
            whose = marker(seen)
            visit = self._visits[number, whose]
            self._visits[number, whose] += 1
            return self._plan.answer(number, whose, visit, begun(seen))

        return Flapping(port, choose, lambda seen: self._books.saw(f"u{number}", marker(seen), seen.status))

    async def flap(self, number: int) -> None:
        """Come and go as the plan says, until cancelled; then be there."""
        upstream = self.all[number]
        try:
            for there, away in self._plan.absences(number):
                await asyncio.sleep(there)
                await upstream.go()
                await asyncio.sleep(away)
                await upstream.come()
        finally:
            if not upstream.listens:
                await upstream.come()
