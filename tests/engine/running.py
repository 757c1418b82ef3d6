"""Real engines for tests, each kept by a loop in a thread of its own so that it outlives a single test's loop."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.engine.process import Engine
from penstock.engine.spec import EngineSpec

PATIENCE = 30.0


class Running:
    """One engine that is being run. `changes` receives what `down` became, each time."""

    def __init__(self, spec: EngineSpec, directory: Path) -> None:
        self.changes: queue.Queue[str | None] = queue.Queue()
        self.engine = Engine("local", spec, directory, lambda: self.changes.put(self.engine.down))
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._task = self._loop.create_task(self.engine.run())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    def next_change(self) -> str | None:
        return self.changes.get(timeout=PATIENCE)

    def until_ready(self) -> Running:
        while self.next_change() is not None:
            pass
        return self

    def stop(self) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """One call to the engine itself, past the provider."""
        connection = _UnixConnection(self.engine.address.uds)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {token or self.engine.address.token}"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def busy_slots(self) -> int:
        return sum(slot["is_processing"] for slot in self.ask("GET", "/slots")[1])


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


@contextlib.contextmanager
def running(spec: EngineSpec, directory: Path) -> Iterator[Running]:
    """An engine that is stopped in the end, ready or not."""
    run = Running(spec, directory)
    try:
        yield run
    finally:
        run.stop()
