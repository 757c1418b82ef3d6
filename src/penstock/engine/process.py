"""Keeps one local model's engine process running: starts it, watches it, restarts it, stops it.

The address, a unix socket in a directory that only we can enter and a random token, is fixed before the first start
and stays over restarts, so that the gateway's workers need to be told once. `down` says why the engine does not answer
at the moment, in words for the operator and the caller; `on_change` is called whenever it changes.

A process that dies after it was ready is started again at once, then with waits that double up to half a minute while
it keeps dying young. A file that cannot be loaded is looked at again once a minute, in case somebody has replaced it;
`down` tells what is wrong with it. A start has no deadline, because a large file may take minutes.

The child lives on our end of its standard input: closing it is how it is asked to stop, and a parent that is killed
takes its engines with it. What does not stop in time is killed. Tokens travel by that pipe only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import stat
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.engine.spec import Assignment, EngineSpec, Loaded, Report
from penstock.types import EngineAddress

# sun_path holds 108 bytes with its closing zero (unix(7)); macOS and the BSDs have four less.
MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103

_FIRST_WAIT = 0.1
_LONGEST_WAIT = 30.0
_UNLOADABLE_WAIT = 60.0
_STEADY = 60.0  # seconds of service after which a crash counts as the first again
_STOP_LIMIT = 2.0
_TAIL = 4096  # bytes of what the engine printed last

_STAMP = re.compile(r"^[\d.]+ E ")

_log = logging.getLogger("penstock.engine")
_report = msgspec.json.Decoder(Report)


class UnusableDirectory(Exception):
    """The runtime directory cannot hold the socket; the message says what to change."""


class Engine:
    """One engine; `run` it in a task."""

    def __init__(self, name: str, spec: EngineSpec, runtime_dir: Path, on_change: Callable[[], None]) -> None:
        """`name` is the provider's, for people; raises UnusableDirectory."""
        self.name = name
        self.down: str | None = "the local model is being loaded"
        self.pid: int | None = None
        self._spec = spec
        self._on_change = on_change
        self.address = EngineAddress(uds=_socket_path(runtime_dir), token=secrets.token_urlsafe(32))

    async def run(self) -> None:
        """Keep the engine running until cancelled; then stop it."""
        wait = _FIRST_WAIT
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            loaded = await self._serve_once()
            if not loaded:
                await asyncio.sleep(_UNLOADABLE_WAIT)
                continue
            if clock() - began > _STEADY:
                wait = _FIRST_WAIT
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _serve_once(self) -> bool:
        """Run one process to its end. Whether it is worth starting again soon: False if its file cannot be loaded."""
        # -P: a module of ours must not be found in the current directory.
        command = (sys.executable, "-P", "-m", "penstock.engine.worker")
        try:
            process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        except OSError as error:  # no process, no memory, no descriptor to be had now
            self._set_down(f"the local model's engine cannot be started: {error.strerror or error}")
            return False
        self.pid = process.pid
        tail = asyncio.create_task(_tail_of(process))
        try:
            report = await self._hand_over(process)
            if isinstance(report, Loaded):
                _log.info("engine %s is ready: pid %d, %s", self.name, process.pid, self._spec.model_path)
                self._set_down(None)
            code = await process.wait()
            last_words = _cause(await tail)
        finally:
            self.pid = None
            await _stop(process)
            tail.cancel()
        if isinstance(report, Loaded):
            self._set_down(f"the local model's engine stopped ({_ending(code)}) and is being restarted")
            return True
        if report is None:
            # It died while loading, of a damaged file most likely, or of a missing library.
            reason = f"cannot load model {self._spec.model_path}: the engine stopped ({_ending(code)})"
        else:
            reason = report.reason
        self._set_down(f"{reason}: {last_words}" if last_words else reason)
        return False

    async def _hand_over(self, process: Process) -> Report | None:
        """Tell the child what to do; its report, or None if it died without one."""
        assert process.stdin is not None
        assert process.stdout is not None
        assignment = Assignment(self._spec, self.address.uds, self.address.token)
        try:
            process.stdin.write(msgspec.json.encode(assignment) + b"\n")
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            return None
        line = await process.stdout.readline()
        return _report.decode(line) if line else None

    def _set_down(self, reason: str | None) -> None:
        if reason is not None:
            _log.error("engine %s: %s", self.name, reason)
        self.down = reason
        self._on_change()


def _socket_path(runtime_dir: Path) -> str:
    """The socket's path in a directory made private. Its name is random: an engine and its successor, of the same
    provider, may run side by side."""
    try:
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = runtime_dir.stat()
        if found.st_uid != os.geteuid():
            raise UnusableDirectory(f"{runtime_dir} belongs to another user: choose another directory")
        if stat.S_IMODE(found.st_mode) & 0o077:
            runtime_dir.chmod(0o700)
    except OSError as error:
        raise UnusableDirectory(f"cannot use {runtime_dir} for the engines' sockets: {error.strerror}") from error
    path = str(runtime_dir.absolute() / f"{secrets.token_hex(6)}.sock")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise UnusableDirectory(
            f"the engine's socket would be {path}, which is {len(os.fsencode(path))} bytes long; "
            f"a unix socket's path has at most {MAX_SOCKET_PATH}: choose a directory with a shorter path"
        )
    return path


async def _tail_of(process: Process) -> bytes:
    """Read what the engine prints to its end, so that it never waits for us; the first and last of it."""
    assert process.stderr is not None
    kept = b""
    while data := await process.stderr.read(_TAIL):
        kept += data
        if len(kept) > 2 * _TAIL:
            kept = kept[:_TAIL] + kept[-_TAIL:]
    return kept


def _cause(printed: bytes) -> str:
    """The line that tells most of why it ended: llama.cpp's first error, else the last line, as of a traceback."""
    lines = [line for line in printed.decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if " E " in line and "error" in line] or lines[-1:]
    return " ".join(_STAMP.sub("", told[0]).split())[:300] if told else ""


def _ending(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


async def _stop(process: Process) -> None:
    """End the child if it still lives: closed input first, a kill when that does not help in time."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _STOP_LIMIT)
    except (TimeoutError, asyncio.CancelledError):
        if process.returncode is None:
            process.kill()
        await process.wait()
