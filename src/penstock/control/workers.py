"""The workers' processes: started, spoken with over the link, started again when they die, drained, killed.

Each worker has a slot with a number. A slot runs one process after another until it is told to stop. The link is a
socket pair whose other end only the worker holds, so that either side's end is seen by the other at once; a worker
whose parent is gone stops by itself, and none is left behind by a parent that was killed.

When it fails: a worker that dies before its first Ready, while the server starts, ends the start. One that dies later
is started again, at once the first time and then with waits that double while it keeps dying young. One whose link
broke while its process goes on is killed.

Workers are in sessions of their own, so that a Ctrl-C on the terminal reaches the parent alone, which drains them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence

import msgspec

from penstock import link
from penstock.config import Config
from penstock.types import EngineAddress

# -P: a module of ours must not be found in the current directory
COMMAND = (sys.executable, "-P", "-m", "penstock.gateway.worker")
PARENTS_OWN = "PENSTOCK_ADMIN_KEY"  # in the environment; no worker needs it
# How glibc's allocator is to keep memory, where the environment does not say: by default it gives the end of its heap
# back to the kernel, and takes it again, with each body of 64 KiB. See malloc_trim(3), mallopt(3).
HEAP = {
    "MALLOC_TOP_PAD_": str(1 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}

FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
STEADY = 30.0  # seconds of life after which a death counts as the first again
LINK_GRACE = 3.0  # from the end of the link to the end of the process
DRAIN_GRACE = 3.0  # what a worker may take beyond its drain limit
NOTHING = float("inf")  # later than any configuration: what a slot without a worker goes by

_log = logging.getLogger("penstock.workers")


class StartFailed(Exception):
    """A worker ended before it was ready; the message says how."""


class Applied(msgspec.Struct, frozen=True):
    """A configuration was given to `workers`; `problems`: why some of them do not serve it, in words."""

    version: int
    workers: int
    problems: tuple[str, ...]


class Handlers(msgspec.Struct, frozen=True):
    """Who is told what. Who has to answer is given a way to; `gone`: nothing more comes from this worker's process.
    `journal`: where a new process is to write its own."""

    lookup: Callable[[link.KeyLookup, Callable[[link.KeyAnswer], None]], None]
    snapshot: Callable[[int, link.Snapshot], None]
    gone: Callable[[int], None]
    answers: Callable[[link.AnswersMessage, Callable[[link.AnswersFound], None]], None]
    runs: Callable[[int, link.RunsMessage, Callable[[link.RunClaimed], None]], None]
    usage: Callable[[link.UsageQuestion, Callable[[link.UsageAnswer], None]], None]
    journal: Callable[[int], str]
    lease: Callable[[int, link.Lease, Callable[[link.Message], None]], None]
    returned: Callable[[int, link.Returned | link.Forget], None]


class Workers:
    """All slots. `run` it in a task; `health` is what each worker is told when it starts."""

    def __init__(
        self, count: int, start: link.Start, handlers: Handlers, health: link.Health, command: Sequence[str] = COMMAND
    ) -> None:
        self._start = start
        self._handlers = handlers
        self._health = health
        self._command = tuple(command)
        self._slots = [_Slot(number) for number in range(count)]
        self._stopping = asyncio.Event()
        self._refs = itertools.count(1)
        self._questions: dict[int, _Question] = {}
        self._moved = asyncio.Event()  # a slot's oldest configuration did
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # looked at, even if unused
        """Done when every worker was ready once; fails with StartFailed."""

    async def run(self) -> None:
        """Keep every slot busy until `drain` or `kill` has ended all, or until cancelled, which kills."""
        keeping = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        try:
            await asyncio.gather(*keeping)
        finally:
            self.kill()
            await asyncio.shield(asyncio.gather(*keeping, return_exceptions=True))

    def tell(self, health: link.Health) -> None:
        """Every worker's health from now on."""
        self._health = health
        self.broadcast(health)

    def broadcast(self, message: link.Message) -> None:
        for slot in self._slots:
            if slot.channel is not None:
                slot.channel.send(message)

    def send(self, worker: int, message: link.Message) -> bool:
        """Tell one worker; whether it is there."""
        channel = self._slots[worker].channel
        if channel is not None:
            channel.send(message)
        return channel is not None

    async def scrape(self, within: float) -> None:
        """Have every ready worker's metrics handed over, of those that answer in time."""
        ref = next(self._refs)
        asked = {slot.number for slot in self._slots if slot.channel is not None and slot.ready}
        await self._ask(ref, link.SnapshotRequest(ref), asked, within)  # of who is silent, the last known stands

    async def reconfigure(
        self, config: Config, engines: dict[str, EngineAddress], health: link.Health, within: float
    ) -> Applied:
        """Have every worker serve another configuration, those too that start from now on."""
        version = next(self._refs)
        self._start = msgspec.structs.replace(self._start, version=version, config=config, engines=engines)
        self._health = health
        asked = {slot.number for slot in self._slots if slot.channel is not None}
        question = await self._ask(version, link.Reconfigure(version, config, engines, health), asked, within)
        silent = [f"worker {number} did not answer within {within:g} s" for number in sorted(question.missing)]
        return Applied(version, len(self._slots), (*question.problems, *silent))

    async def settled(self, version: int) -> None:
        """Return when no request in any worker goes by a configuration before this one."""
        while any(slot.oldest < version for slot in self._slots):
            self._moved.clear()
            await self._moved.wait()

    async def _ask(self, ref: int, message: link.Message, asked: set[int], within: float) -> _Question:
        """Put a question to some workers; returns when all have answered or ended, or the time is over."""
        question = self._questions[ref] = _Question(asked)
        try:
            self.broadcast(message)
            async with asyncio.timeout(within):
                await question.answered.wait()
        except TimeoutError:
            pass
        finally:
            del self._questions[ref]
        return question

    async def drain(self, limit: float) -> None:
        """Let answers in progress end within `limit` seconds; then kill what is left. Returns when all have ended."""
        self._stopping.set()
        self.broadcast(link.Drain(limit))
        waiting = [asyncio.ensure_future(slot.ended.wait()) for slot in self._slots]
        try:
            await asyncio.wait(waiting, timeout=limit + DRAIN_GRACE)
        finally:
            for task in waiting:
                task.cancel()
            self.kill()

    def kill(self) -> None:
        """End every process at once and start no other."""
        self._stopping.set()
        for slot in self._slots:
            slot.kill()

    async def _keep(self, slot: _Slot) -> None:
        clock = asyncio.get_running_loop().time
        wait = FIRST_WAIT
        while not self._stopping.is_set():
            began = clock()
            try:
                ending = await self._serve_once(slot)
            except OSError as error:  # no process, descriptor or memory to be had
                ending = f"could not be started ({error.strerror or error})"
            if self._stopping.is_set():
                return
            if not self.ready.done():
                self.ready.set_exception(StartFailed(f"worker {slot.number} {ending} before it was ready"))
                return
            if clock() - began > STEADY:
                wait = FIRST_WAIT
            _log.error("worker %d %s; starting it again in %.1f s", slot.number, ending, wait)
            try:
                async with asyncio.timeout(wait):
                    await self._stopping.wait()
            except TimeoutError:
                wait = min(wait * 2, LONGEST_WAIT)

    async def _serve_once(self, slot: _Slot) -> str:
        """One process from its start to its end; how it ended."""
        ours, theirs = socket.socketpair()
        slot.ended.clear()
        process: Process | None = None
        try:
            with theirs:
                shared = (self._start.board_fd,) if self._start.board_fd >= 0 else ()
                descriptors = (*self._start.listen_fds, *shared, theirs.fileno())
                process = slot.process = await _spawn((*self._command, str(theirs.fileno())), descriptors)
            ours.setblocking(False)
            slot.channel = await link.connect(
                ours, lambda message: self._on_message(slot, message), lambda: self._on_closed(slot)
            )
            journal = self._handlers.journal(slot.number)
            slot.channel.send(msgspec.structs.replace(self._start, worker=slot.number, journal=journal))
            slot.oldest = self._start.version
            slot.channel.send(self._health)
            if self._stopping.is_set():
                slot.kill()
            return _ending(await process.wait())
        finally:
            await self._clean_up(slot, ours, process)

    async def _clean_up(self, slot: _Slot, ours: socket.socket, process: Process | None) -> None:
        """Leave neither process nor descriptor, however the start went; what the link still holds is read first."""
        if process is not None and process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
        if slot.channel is None:
            ours.close()
        else:
            # the worker's last snapshot may lie unread: its end of the link is closed, so ours comes to its end
            try:
                async with asyncio.timeout(LINK_GRACE):
                    await slot.closed.wait()
            except TimeoutError:
                slot.channel.close()
        self._leave(slot)
        slot.process = None
        slot.closed.clear()
        self._handlers.gone(slot.number)
        slot.ended.set()

    def _leave(self, slot: _Slot) -> None:
        slot.channel, slot.ready, slot.oldest = None, False, NOTHING
        self._moved.set()
        for question in self._questions.values():
            question.answer(slot.number)

    def _on_message(self, slot: _Slot, message: link.Message) -> None:
        match message:
            case link.Ready():
                slot.ready = slot.was_ready = True
                if not self.ready.done() and all(other.was_ready for other in self._slots):
                    self.ready.set_result(None)
            case link.KeyLookup():
                channel = slot.channel
                if channel is not None:
                    self._handlers.lookup(message, channel.send)
            case link.KeepAnswer() | link.FindAnswer() | link.ListAnswers() | link.EditAnswer() | link.DropAnswer():
                self._handlers.answers(message, _way(slot))
            case link.ClaimRun() | link.FinishRun() | link.ReleaseRun():
                self._handlers.runs(slot.number, message, _way(slot))
            case link.UsageQuestion():
                self._handlers.usage(message, _way(slot))
            case link.Lease():
                self._handlers.lease(slot.number, message, _way(slot))
            case link.Returned() | link.Forget():
                self._handlers.returned(slot.number, message)
            case link.Snapshot():
                self._handlers.snapshot(slot.number, message)
                self._answer(message.ref, slot)
            case link.Reconfigured():
                problem = message.problem and f"worker {slot.number} goes on by the old one: {message.problem}"
                self._answer(message.version, slot, problem)
            case link.Settled():
                slot.oldest = message.version
                self._moved.set()
            case _:
                _log.error("worker %d sent an unexpected %s", slot.number, type(message).__name__)

    def _answer(self, ref: int, slot: _Slot, problem: str = "") -> None:
        question = self._questions.get(ref)
        if question is not None:
            question.answer(slot.number, problem)

    def _on_closed(self, slot: _Slot) -> None:
        self._leave(slot)
        slot.closed.set()
        process = slot.process
        if process is not None and process.returncode is None:
            asyncio.get_running_loop().call_later(LINK_GRACE, _kill, process)


class _Slot:
    """One worker's place: the process that fills it now, if any, and the link to it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        self.channel: link.Channel | None = None
        self.ready = False
        self.was_ready = False
        self.oldest: float = NOTHING  # the version of the oldest configuration that a request there may go by
        self.closed = asyncio.Event()
        self.ended = asyncio.Event()
        self.ended.set()

    def kill(self) -> None:
        if self.process is not None:
            _kill(self.process)


class _Question:
    """One question to several workers. `missing`: those that have not answered; `problems`: what others said."""

    def __init__(self, asked: set[int]) -> None:
        self.missing = asked
        self.problems: list[str] = []
        self.answered = asyncio.Event()
        if not asked:
            self.answered.set()

    def answer(self, worker: int, problem: str = "") -> None:
        self.missing.discard(worker)
        if problem:
            self.problems.append(problem)
        if not self.missing:
            self.answered.set()


def _way(slot: _Slot) -> Callable[[link.Message], None]:
    """How to answer the worker that is in this slot now: never another, which has questions of the same numbers."""
    return slot.channel.send if slot.channel is not None else _nowhere


def _nowhere(_message: link.Message) -> None:
    """Its worker has gone."""


async def _spawn(command: Sequence[str], descriptors: tuple[int, ...]) -> Process:
    """Start a process. One whose start is cancelled half-way is not left running: the loop would lose sight of it."""
    environment = {**HEAP, **{name: value for name, value in os.environ.items() if name != PARENTS_OWN}}
    spawning = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command, pass_fds=descriptors, stdin=DEVNULL, env=environment, start_new_session=True
        )
    )
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        (process,) = await asyncio.gather(spawning, return_exceptions=True)
        if isinstance(process, Process):
            _kill(process)
            await process.wait()
        raise


def _kill(process: Process) -> None:
    if process.returncode is None:
        try:
            process.kill()
        except ProcessLookupError:
            pass  # it ended in this moment


def _ending(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
