"""Reads the configuration file again when it has changed, or when told to, and has applied what is valid.

How it works: once a second the file is looked at, by its inode, size and time of change, through whatever links lead
to it. One that changed is read when two looks in a row found the same, so that a file that is being written, or
replaced in two steps, is left to come to rest. SIGHUP reads it at once: who sends it knows that it is whole.

The file is read and checked whole, as at the start and with the same options of the command line, in a thread. With a
single problem nothing of it is applied: all problems go to the log, one a line, and the old configuration serves on.
It is read again when the file changes once more. What only a restart can change (`config.changes`) keeps its old
value and is named in the log, while all else is applied.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from penstock.config import Config, ConfigError, changes
from penstock.link import SeriesValue

LOOK = 1.0  # seconds between looks at the file
NAMED = 20  # changed places that are named in a line

APPLIED, REFUSED, FAILED = OUTCOMES = ("applied", "refused", "failed")

_log = logging.getLogger("penstock.config")

Mark = tuple[int, int, int] | None


class NotApplied(Exception):
    """A valid configuration cannot be served now; each message says why, and where the old one serves on."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class ConfigFile:
    """The file, and what it looked like when it was read. `load` reads and checks it; it raises ConfigError."""

    def __init__(self, path: Path, load: Callable[[], Config]) -> None:
        self.path = path
        self._load = load
        self._read: Mark = None
        self._seen: Mark = None

    def read(self) -> Config:
        """What it says now. Raises ConfigError with every problem."""
        # Before it is read: what is written meanwhile is a change.
        self._read = self._seen = _mark(self.path)
        return self._load()

    def changed(self) -> bool:
        """Whether it is other than when it was read, and as it was when this was asked last."""
        before, self._seen = self._seen, _mark(self.path)
        return self._seen == before and self._seen != self._read


class Reloader:
    """Keeps the server to its file. `file` is None where the configuration came from none; `config` is what serves.

    `apply` has the workers serve another one and returns how many do. It raises NotApplied.
    """

    def __init__(self, file: ConfigFile | None, config: Config, apply: Callable[[Config], Awaitable[int]]) -> None:
        self._file = file
        self._config = config
        self._apply = apply
        self._asked = asyncio.Event()
        self._counts = dict.fromkeys(OUTCOMES, 0)
        self._last = APPLIED

    def ask(self) -> None:
        """Read the file now, changed or not."""
        if self._file is None:
            _log.info("no configuration file was given, so that there is nothing to read again")
        self._asked.set()

    async def run(self) -> None:
        """Watch the file until cancelled."""
        file = self._file
        while file is not None:
            try:
                async with asyncio.timeout(LOOK):
                    await self._asked.wait()
            except TimeoutError:
                if not file.changed():
                    continue
            self._asked.clear()
            await self._reload(file)

    def series(self) -> tuple[SeriesValue, ...]:
        """Its metrics."""
        outcomes = (
            SeriesValue("penstock_config_reloads_total", (name,), count) for name, count in self._counts.items()
        )
        return (*outcomes, SeriesValue("penstock_config_last_reload_successful", (), float(self._last == APPLIED)))

    async def _reload(self, file: ConfigFile) -> None:
        try:
            found = changes(self._config, await asyncio.to_thread(file.read))
        except ConfigError as error:
            count = _counted(len(error.problems), "problem")
            _log.error("%s is not applied, the old configuration serves on: %s", file.path, count)
            for problem in error.problems:
                _log.error("%s", problem.render(error.file))
            self._note(REFUSED)
            return
        for name in found.kept:
            _log.warning("%s was changed, which needs a restart: the old value stays", name)
        if not found.changed and self._last != FAILED:
            _log.info("%s was read: nothing else is to be changed", file.path)
            self._last = APPLIED
            return
        try:
            workers = await self._apply(found.config)
        except NotApplied as error:
            for reason in error.problems:
                _log.error("%s is not applied: %s", file.path, reason)
            self._note(FAILED)
            return
        self._config = found.config
        for warning in found.config.warnings:
            _log.warning("%s", warning.render(str(file.path)))
        _log.info("%s is applied by %s: %s", file.path, _counted(workers, "worker"), _named(found.changed))
        self._note(APPLIED)

    def _note(self, outcome: str) -> None:
        self._counts[outcome] += 1
        self._last = outcome


def _mark(path: Path) -> Mark:
    """What changes when the file does; None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _named(places: Sequence[str]) -> str:
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return (", ".join(places[:NAMED]) or "as before") + more
