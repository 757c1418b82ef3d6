"""Calls of a store that are waited for no longer than a store may take.

A call that takes longer is left alone: the disk or the connection beneath it cannot always be interrupted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

SECONDS = 2.0


class Patience:
    """Keeps the calls that are left alone from being lost sight of."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._running: set[asyncio.Task[Any]] = set()

    async def wait(self, call: Coroutine[Any, Any, T]) -> T:
        """What the call returns or raises; TimeoutError where it takes too long."""
        task = self.start(call)
        done, _ = await asyncio.wait({task}, timeout=self._seconds)
        if not done:
            raise TimeoutError
        return task.result()

    def start(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Let it run; nobody needs to look at how it ends."""
        task = asyncio.ensure_future(call)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Give the calls that still run as long again, then cancel them."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=self._seconds)
        for task in self._running:
            task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, whoever still waits
