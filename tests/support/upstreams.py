"""A fake upstream in a thread of its own, for tests that are not coroutines and servers that are other processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from penstock.fake_upstream import FakeUpstream, Seen
from penstock.fake_upstream.server import Scripted

_T = TypeVar("_T")


class ThreadedUpstream:
    """A FakeUpstream whose coroutines are called from another thread."""

    def __init__(self, upstream: FakeUpstream, loop: asyncio.AbstractEventLoop) -> None:
        self._upstream = upstream
        self._loop = loop
        self.url = upstream.url
        self.base_url = upstream.base_url

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    @property
    def seen(self) -> list[Seen]:
        """All requests so far."""
        return list(self._upstream.seen)

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return self._upstream.open_connections

    def wait_for(self, find: Callable[[], _T]) -> _T:
        """Wait until `find` returns something true; it is called in the upstream's thread."""
        return self._run(self._upstream.wait_for(find))

    def request(self, number: int = 0) -> Seen:
        """The request of that number, once it has come."""
        return self._run(self._upstream.request(number))

    def ended(self, number: int = 0) -> Seen:
        """The request of that number, once its answer has ended."""
        return self._run(self._upstream.ended(number))

    def reached(self, gate: str, count: int = 1) -> None:
        """Wait until so many answers wait at a gate."""
        self._run(self._upstream.reached(gate, count))

    def open(self, gate: str) -> None:
        """Open a gate."""
        self._loop.call_soon_threadsafe(self._upstream.open, gate)

    def close_idle(self) -> None:
        """Close every idle connection."""
        self._run(self._upstream.close_idle())


@contextmanager
def threaded_upstream(script: Scripted | None = None, **settings: Any) -> Iterator[ThreadedUpstream]:
    """Run a FakeUpstream, with its own settings, while the block runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake upstream")
    thread.start()
    upstream = FakeUpstream(script, **settings)
    try:
        asyncio.run_coroutine_threadsafe(upstream.__aenter__(), loop).result(30)
        try:
            yield ThreadedUpstream(upstream, loop)
        finally:
            asyncio.run_coroutine_threadsafe(upstream.__aexit__(None, None, None), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
