"""Questions to the parent over the link, each with a number that its answer carries."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from penstock import link

A = TypeVar("A")

SECONDS = 5.0


class Questions(Generic[A]):
    """Those that are answered by messages of one kind. `send` queues one, or says that the parent is gone."""

    def __init__(self, send: Callable[[link.Message], bool], seconds: float = SECONDS) -> None:
        self._send = send
        self._seconds = seconds
        self._refs = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[A]] = {}

    async def ask(self, question: Callable[[int], link.Message]) -> A | None:
        """The answer; None where there is none in time."""
        ref = next(self._refs)
        waiting: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting[ref] = waiting
        try:
            if not self._send(question(ref)):
                return None
            async with asyncio.timeout(self._seconds):
                return await waiting
        except TimeoutError:
            return None
        finally:
            del self._waiting[ref]

    def answered(self, ref: int, answer: A) -> None:
        """The parent has answered; whoever waited may have gone."""
        waiting = self._waiting.get(ref)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
