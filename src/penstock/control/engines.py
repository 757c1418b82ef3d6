"""The engine processes that the configuration asks for: one for each local model, started, replaced, stopped.

An engine whose specification stays is not touched. One that is replaced or no longer asked for runs on until it is
stopped, which is for when no request is answered by it any more; its successor is loaded beside it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.engine.process import Engine, UnusableDirectory
from penstock.engine.spec import EngineSpec
from penstock.types import EngineAddress

WAIT = 5.0  # before an engine is tried again whose process the system could not start

_log = logging.getLogger("penstock.engine")

Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Running:
    """One engine and the task that keeps it."""

    def __init__(self, engine: Engine, spec: EngineSpec, task: asyncio.Task[None]) -> None:
        self.engine = engine
        self.spec = spec
        self.task = task


class Engines:
    """All of them, by their providers' names. `start` runs a task; `on_change` is told when one is up or down."""

    def __init__(self, start: Start, on_change: Callable[[], None]) -> None:
        self._start = start
        self._on_change = on_change
        self._running: dict[str, Running] = {}
        self._directory: Path | None = None  # of the sockets, once there is an engine

    def follow(self, specs: Mapping[str, EngineSpec]) -> list[Running]:
        """Have just these from now on; those that are to be stopped, which run on. Raises UnusableDirectory, and then
        has changed nothing."""
        new = {
            name: Engine(name, spec, self._sockets(), self._on_change)
            for name, spec in specs.items()
            if name not in self._running or self._running[name].spec != spec
        }
        old = [running for name, running in self._running.items() if name in new or name not in specs]
        started = {name: Running(engine, specs[name], self._start(_keep(engine))) for name, engine in new.items()}
        self._running = {name: started.get(name) or self._running[name] for name in specs}
        return old

    async def stop(self, engines: Sequence[Running]) -> None:
        """End their processes."""
        for running in engines:
            running.task.cancel()
        await asyncio.gather(*(running.task for running in engines), return_exceptions=True)
        for running in engines:
            _log.info("engine %s was stopped: the configuration asks for it no longer", running.engine.name)

    def close(self) -> None:
        """Remove what they left behind, once all have ended."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def addresses(self) -> dict[str, EngineAddress]:
        return {name: running.engine.address for name, running in self._running.items()}

    @property
    def down(self) -> dict[str, str]:
        """Those that do not answer now, each with the reason."""
        return {name: found.engine.down for name, found in self._running.items() if found.engine.down is not None}

    def _sockets(self) -> Path:
        if self._directory is None:
            try:
                self._directory = Path(tempfile.mkdtemp(prefix="penstock-"))
            except OSError as error:
                message = f"no directory can be made for the engines' sockets: {error.strerror or error}"
                raise UnusableDirectory(message) from error
        return self._directory


async def _keep(engine: Engine) -> None:
    """Run an engine, also when the system could not start its process."""
    while True:
        try:
            await engine.run()
        except OSError as error:
            _log.error("engine %s cannot be started: %s", engine.name, error.strerror or error)
        await asyncio.sleep(WAIT)
