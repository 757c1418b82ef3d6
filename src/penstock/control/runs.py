"""Which requests with an idempotency key run, and what their repeats are answered.

How it works: the key and a digest of the request are in the store, for KEPT seconds, and the store's claim is what
keeps two workers, or two hosts, from running the same. What runs here, and what has finished here, is known here first,
so that a repeat costs no look at the store. Answers are in this process's memory alone: for REMEMBERED seconds, the
longest unused going first where there are more than REPLAY_BYTES of them.

A run is held under a lease of LEASE seconds, renewed while it goes on. It ends finished or released. A worker that dies
releases what it had claimed; a parent that dies leaves its leases to lapse.

When it fails: while the store is away nothing is claimed (fail closed: whoever sends the header asks for just this),
and repeats of what is remembered here are answered. An end that cannot be written is written when the store is back;
should another host have taken the key meanwhile, because the lease has lapsed, that one's run counts. Beyond UNWRITTEN
of such ends the oldest is let go: its key may then run again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from penstock.control.patience import Patience
from penstock.link import ClaimRun, FinishRun, RunClaimed, RunsMessage, SeriesValue
from penstock.stores.base import StoreUnavailable
from penstock.stores.base.runs import Runs, Verdict
from penstock.ticks import tick
from penstock.types import Replay, Run

LEASE, RENEW = 60.0, 15.0
KEPT = 86_400.0
REMEMBERED = 600.0
REPLAY_BYTES = 64 * 1024 * 1024
UNWRITTEN = 100_000
SWEEP, SWEPT = 60.0, 1000  # seconds between sweeps, runs in one step of them

Send = Callable[[RunClaimed], None]


class _Going(msgspec.Struct):
    """A run that a worker of ours has claimed, or is claiming. `withdrawn`: nobody wants the claim any more."""

    run: Run
    worker: int
    withdrawn: bool = False


class _Finished(msgspec.Struct):
    """A run that has finished here. `until`: when its answer is forgotten, of the monotonic clock."""

    run: Run
    replay: Replay | None
    until: float
    written: bool = False


class IdempotentRuns:
    """All of one server's. `clock` gives Unix seconds, `monotonic` those that memory goes by."""

    def __init__(self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._store: Runs | None = None
        self._opened = asyncio.Event()
        self._claiming: dict[str, _Going] = {}  # by claim
        self._going: dict[bytes, _Going] = {}  # by the run's id
        self._finished: OrderedDict[bytes, _Finished] = OrderedDict()  # the longest unused first
        self._bytes = 0  # of the answers in there
        self._patience = Patience()
        self._counts: dict[str, int] = {}

    def receive(self, worker: int, message: RunsMessage, send: Send) -> None:
        """A worker's message; a claim is answered by `send`."""
        if isinstance(message, ClaimRun):
            self._claim(worker, message, send)
        elif isinstance(message, FinishRun):
            self._finish(message.run, message.replay)
        else:
            self._release(message.run)

    def gone(self, worker: int) -> None:
        """A worker ended: what it had claimed may run elsewhere."""
        for going in (*self._claiming.values(), *self._going.values()):
            if going.worker == worker:
                self._release(going.run)

    async def run(self, store: Runs) -> None:
        """Renew leases, write ends that could not be written, forget, until cancelled."""
        self._store = store
        self._opened.set()
        swept = self._monotonic()
        while True:
            await tick(RENEW)
            await self.renew()
            if self._monotonic() - swept >= SWEEP:
                swept = self._monotonic()
                await self.sweep()

    async def close(self) -> None:
        """Let ends that are being written be written."""
        await self._patience.close()

    def series(self) -> tuple[SeriesValue, ...]:
        """Requests with a key, by what became of them."""
        return tuple(
            SeriesValue("penstock_idempotent_requests_total", (outcome,), count)
            for outcome, count in self._counts.items()
        )

    # -- claims

    def _claim(self, worker: int, question: ClaimRun, send: Send) -> None:
        run = question.run
        outcome, replay = self._known(run)
        if outcome:
            self._answer(question, outcome, replay, send)
            return
        # On record before anything is awaited: what comes next may be its release, or its worker's end.
        going = self._claiming[run.claim] = _Going(run, worker)
        self._patience.start(self._ask(question, going, send))

    async def _ask(self, question: ClaimRun, going: _Going, send: Send) -> None:
        """Answer a claim by what the store says."""
        replay = None
        try:
            outcome, replay = await self._patience.wait(self._claim_in_store(going))
        except (StoreUnavailable, TimeoutError):
            going.withdrawn = True  # it may be claimed yet
            outcome = "unavailable"
        self._answer(question, outcome, replay, send)

    def _answer(self, question: ClaimRun, outcome: str, replay: Replay | None, send: Send) -> None:
        self._counts[outcome] = self._counts.get(outcome, 0) + 1
        send(RunClaimed(question.ref, outcome, replay))

    def _known(self, run: Run) -> tuple[str, Replay | None]:
        """What is known here of a run with that id; nothing where it is all in the store."""
        going = self._going.get(run.id)
        if going is not None:
            return "running" if going.run.fingerprint == run.fingerprint else "reused", None
        finished = self._finished.get(run.id)
        if finished is None:
            return "", None
        if finished.run.fingerprint != run.fingerprint:
            return "reused", None
        if finished.replay is not None and finished.until <= self._monotonic():
            self._forget(finished)
        if finished.replay is None:
            return "gone", None
        self._finished.move_to_end(run.id)
        return "replayed", finished.replay

    async def _claim_in_store(self, going: _Going) -> tuple[str, Replay | None]:
        run = going.run
        try:
            if self._store is None:
                await self._opened.wait()  # at the start it comes some tenths of a second after the workers
            store = self._store
            assert store is not None
            now = self._clock()
            verdict = await store.claim(run, now, now + LEASE)
        finally:
            del self._claiming[run.claim]
        if verdict is Verdict.CLAIMED:
            if going.withdrawn:
                await store.release(run)
                raise StoreUnavailable("too late")
            # A run that finished here, whose end the store does not have, is over: the lease has been lost.
            self._drop(run.id)
            self._going[run.id] = going
            return "claimed", None
        if verdict is Verdict.DONE:
            outcome, replay = self._known(run)  # it may have finished here meanwhile
            return (outcome, replay) if outcome == "replayed" else ("gone", None)
        return verdict.value, None

    # -- ends

    def _finish(self, run: Run, replay: Replay | None) -> None:
        if not self._leave(run):
            return  # it was released: its worker was thought dead
        finished = _Finished(run, replay, self._monotonic() + REMEMBERED)
        self._drop(run.id)
        self._finished[run.id] = finished
        self._bytes += _size(replay)
        self._make_room()
        self._patience.start(self._write(finished))

    def _release(self, run: Run) -> None:
        claiming = self._claiming.get(run.claim)
        if claiming is not None:
            claiming.withdrawn = True
        elif self._leave(run):
            self._patience.start(self._give_up(run))

    def _leave(self, run: Run) -> bool:
        """The run goes on no more; whether it did."""
        going = self._going.get(run.id)
        if going is None or going.run.claim != run.claim:
            return False
        del self._going[run.id]
        return True

    async def _write(self, finished: _Finished) -> None:
        assert self._store is not None
        try:
            held = await self._store.finish(finished.run, self._clock() + KEPT)
        except StoreUnavailable:
            return  # `renew` tries again
        finished.written = True
        if not held or finished.replay is None:
            self._drop(finished.run.id, finished)

    async def _give_up(self, run: Run) -> None:
        assert self._store is not None
        try:
            await self._store.release(run)
        except StoreUnavailable:
            pass  # its lease lapses

    # -- now and then

    async def renew(self) -> None:
        """Keep hold of what runs here, and write the ends that could not be written."""
        if self._store is None:
            return
        unwritten = [finished for finished in self._finished.values() if not finished.written]
        claims = [going.run.claim for going in self._going.values()]
        try:
            if claims:
                await self._patience.wait(self._store.renew(claims, self._clock() + LEASE))
        except (StoreUnavailable, TimeoutError):
            return
        for finished in unwritten:
            await self._write(finished)

    async def sweep(self) -> None:
        """Forget what is over, here and in the store."""
        now = self._monotonic()
        for finished in [finished for finished in self._finished.values() if finished.until <= now]:
            self._forget(finished)
        try:
            while self._store is not None and await self._store.sweep(self._clock(), SWEPT) == SWEPT:
                pass
        except StoreUnavailable:
            pass  # the next sweep does this one's work

    def _make_room(self) -> None:
        while self._bytes > REPLAY_BYTES:
            self._forget(next(one for one in self._finished.values() if one.replay is not None))
        while len(self._finished) > UNWRITTEN:
            self._drop(next(iter(self._finished)))

    def _forget(self, finished: _Finished) -> None:
        """Forget the answer; what the store does not know yet stays known."""
        self._bytes -= _size(finished.replay)
        finished.replay = None
        if finished.written:
            self._drop(finished.run.id, finished)

    def _drop(self, run_id: bytes, only: _Finished | None = None) -> None:
        finished = self._finished.get(run_id)
        if finished is not None and (only is None or finished is only):
            del self._finished[run_id]
            self._bytes -= _size(finished.replay)


def _size(replay: Replay | None) -> int:
    return 0 if replay is None else len(replay.head) + len(replay.body) + 512
