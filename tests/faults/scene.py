"""A gateway before scripted upstreams, as the tests of faults use it, and what must hold after every one of them."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from penstock.config import Deadlines
from penstock.fake_upstream import FakeUpstream
from support.gateway import Running, until

HUGE = 3600.0  # seconds: more than any test lives


def deadlines(**few: float) -> Deadlines:
    """These deadlines, and all others out of reach."""
    return Deadlines(**{name: few.get(name, HUGE) for name in Deadlines.__struct_fields__})


@contextmanager
def unanswered() -> Iterator[int]:
    """A port on which connections are neither accepted nor refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        try:
            yield address[1]
        finally:
            for filler in fillers:
                filler.close()


def refusing() -> int:
    """A port on which connections are refused."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


class Idle:
    """What a gateway has while nothing is asked of it, to be compared with what it has afterwards."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._tasks = asyncio.all_tasks()

    async def alone(self) -> None:
        """No client is connected, and neither a request nor a task is left of one that was."""
        edge, gateway = self._running.server.edge, self._running.api.gateway
        await until(lambda: not (edge.connections or gateway.requests or self._new_tasks()))

    def _new_tasks(self) -> list[asyncio.Task[Any]]:
        """Those that are not a fake upstream's own."""
        coroutines = {task: getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks() - self._tasks}
        return [task for task, name in coroutines.items() if name != "Connection._answer_all"]

    async def again(self, *fakes: FakeUpstream) -> None:
        """Nothing is left of any request: no task, no connection but idle ones, no place, no turn, no probe."""
        running = self._running
        await self.alone()
        assert running.telemetry.metrics.in_flight == 0
        assert running.server.edge.buffered == 0
        for pool in running.pools.values():
            assert pool.open == len(pool._idle) == len(pool.connections)
            assert not pool.waiting
        for lane in running.api.gateway.upstreams.lanes.all().values():
            assert lane.health.outstanding == 0
            assert not lane.health.probing
            assert (lane.gate._granted, len(lane.gate._line)) == (0, 0)
        for fake in fakes:
            await fake.wait_for(functools.partial(_all_ended, fake))


def _all_ended(fake: FakeUpstream) -> bool:
    return all(seen.ended for seen in fake.seen)


@asynccontextmanager
async def fakes(*scripts: Any) -> AsyncIterator[list[FakeUpstream]]:
    """A fake upstream for each of these scripts."""
    made = [FakeUpstream(script) for script in scripts]
    for fake in made:
        await fake.__aenter__()
    try:
        yield made
    finally:
        for fake in made:
            await fake.__aexit__(None, None, None)
