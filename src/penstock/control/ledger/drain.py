"""Drains the workers' journals: every request is settled at once, and its row stored as soon as the store takes it.

How it works: the journals of all workers are read some twenty times a second. What is found is priced, settled, and
handed as rows to the store, those of a tenth of a second together and each journal's in order, for a transaction costs
as much as some hundred rows; the same transaction notes how far that journal is stored, so that no row is stored twice,
whatever is read again. What is stored of a journal is deleted. When a worker has ended, its journal is read to the end,
and what it had begun and not ended becomes rows marked partial.

Journals that were left by a parent that died are drained like those of workers that have ended, first of all; but
nothing of them is settled, since it may have been: what was reserved for it stays so until its window has passed.
A directory belongs to one parent and its workers, each of whom holds a shared lock in it: what can be locked
exclusively was left by the dead. So several servers may have one data directory.

When the store is away: rows are held in memory until there are WAITING, and those of the last slice. Beyond them a
journal is read on for its settlements alone, and read once more, from its beginning, for its rows when there is room
again. Segments are kept meanwhile, until a worker has as many as it may have and refuses requests. It tries again every
second; the operator has one line when it begins, one when it is over, and a metric.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import itertools
import logging
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.control.ledger.reading import Reading, journals, remove, retire, segments
from penstock.control.ledger.rows import Opened, Price, account, accounts, at_length
from penstock.journal import LAST, LOCK, SEGMENT_BYTES, Entry
from penstock.link import SeriesValue
from penstock.stores.base import LedgerRow, LedgerWriter, Mark, RequestRow, StoreUnavailable
from penstock.stores.base.ledger import Series
from penstock.ticks import tick
from penstock.types import Settlement

_T = TypeVar("_T")

JOURNAL = "journal"  # in the data directory

POLL_SECONDS = 0.05
RETRY_SECONDS = 1.0
GATHER_SECONDS = 0.1
SLICE = 256  # entries that are read of a journal before others have their turn: few enough for a processor's cache
BATCH = 2000  # rows in a transaction; more only where a slice of each journal has more
MOST_SERIES = 4096  # that are shared by the rows that wait
WAITING = 20_000  # rows in memory, beyond which no further slice is kept

_log = logging.getLogger("penstock.ledger")

Settle = Callable[[Sequence[Settlement]], object]


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    """Rows of one slice that are not stored yet: the segment in which the first of them ended; the position up to which
    they are all, or LAST; what they were made of; and since when they wait."""

    segment: int
    position: int
    rows: Sequence[LedgerRow]
    origins: Sequence[Opened]
    since: float


class _Journal:
    """One worker's journal. `queued`: up to where its rows are stored, or wait; `ended`: nobody writes it any more."""

    def __init__(self, prefix: str, settles: bool, queued: int = 0) -> None:
        self.prefix = prefix
        path = Path(prefix)
        self.name = f"{path.parent.name}/{path.name}"
        self.settles = settles
        self.queued = queued
        self.ended = not settles
        self.reading = Reading(prefix)
        self.rereading: Reading | None = None
        self.behind = False  # some of its rows are to be read again
        self.lost = False  # what was never ended is accounted for
        self.settled: Callable[[], None] | None = None  # to be called when all that it says is settled
        self.last: list[tuple[RequestRow, Opened]] = []  # that, until it waits
        self.waiting: deque[_Waiting] = deque()
        self.kept = 1  # its first segment that is not deleted
        self.retiring = False  # segments are being deleted

    @property
    def is_stored(self) -> bool:
        return self.lost and not (self.behind or self.waiting or self.last)

    def unstored(self) -> list[Entry]:
        """What must be carried over when segments are deleted."""
        waiting = itertools.chain.from_iterable(some.origins for some in self.waiting)
        return list(itertools.chain.from_iterable(map(at_length, (*self.reading.opened.values(), *waiting))))

    def close(self) -> None:
        self.reading.close()
        if self.rereading is not None:
            self.rereading.close()


class Drain:
    """The journals of a data directory. `settle` is told what became of reservations, some at a time.

    `replayed` is set when all that was left by others is stored.
    """

    def __init__(
        self,
        data_dir: Path,
        price: Price,
        settle: Settle,
        clock: Callable[[], float] = time.monotonic,
        mark: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """Raises OSError."""
        self._price = price
        self._settle = settle
        self._clock = clock
        self._root = data_dir / JOURNAL
        self._root.mkdir(mode=0o700, exist_ok=True)
        self._own = self._root / mark()
        staged = self._own.with_name(f".{self._own.name}")  # nobody takes it before it is locked
        staged.mkdir(mode=0o700)
        self._locks = {self._own: _locked(staged, fcntl.LOCK_SH)}
        staged.rename(self._own)
        self._numbers = itertools.count(1)
        self._journals: list[_Journal] = []
        self._current: dict[int, _Journal] = {}  # by worker
        self._left: set[Path] | None = None  # directories of others that were here first; None: not looked for yet
        self._series: dict[Series, Series] = {}
        self._waiting = 0
        self._closing = False
        self._ok = True
        self._deleting: asyncio.Future[None] | None = None
        self._undeletable = False
        self._rows = {"complete": 0, "partial": 0}
        self._more = asyncio.Event()  # there are rows to be stored
        self._emptied = asyncio.Event()  # a journal was done with
        self.replayed = asyncio.Event()

    def begin(self, worker: int) -> str:
        """How the journal of this worker's new process is to be called."""
        self.end(worker)
        prefix = str(self._own / f"{worker}-{next(self._numbers)}")
        journal = self._current[worker] = _Journal(prefix, settles=True)
        self._journals.append(journal)
        return prefix

    def end(self, worker: int, settled: Callable[[], None] | None = None) -> None:
        """This worker's process has ended. `settled` is called when all that it had reserved has been settled."""
        journal = self._current.pop(worker, None)
        if journal is not None:
            journal.ended, journal.settled = True, settled

    async def run(self, store: LedgerWriter) -> None:
        """Drain for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._replay(store))
            group.create_task(self._read())
            group.create_task(self._write(store))
            group.create_task(self._tidy(store))

    async def close(self, store: LedgerWriter | None, within: float) -> None:
        """No worker is left and `run` has ended: store what there still is, as far as that goes in time."""
        self._closing = True
        for worker in list(self._current):
            self.end(worker)
        if store is not None:
            self._left = self._left or set()
            running = asyncio.ensure_future(self.run(store))
            try:
                async with asyncio.timeout(within):
                    while any(journal.settles for journal in self._journals):
                        self._emptied.clear()
                        await self._emptied.wait()
            except TimeoutError:
                _log.error("not everything could be stored in the ledger: the next start goes on with it")
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        if self._deleting is not None:
            await asyncio.gather(self._deleting, return_exceptions=True)
        for journal in self._journals:
            journal.close()
        if not journals(self._own):
            shutil.rmtree(self._own, ignore_errors=True)
        for descriptor in self._locks.values():
            os.close(descriptor)

    def series(self) -> Sequence[SeriesValue]:
        """What there is to be seen."""
        since = [journal.waiting[0].since for journal in self._journals if journal.waiting]
        size = sum(len(segments(journal.prefix)) for journal in self._journals) * SEGMENT_BYTES
        return (
            *(SeriesValue("penstock_ledger_rows_total", (state,), count) for state, count in self._rows.items()),
            SeriesValue("penstock_ledger_lag_seconds", (), self._clock() - min(since) if since else 0.0),
            SeriesValue("penstock_ledger_journal_bytes", (), size),
            SeriesValue("penstock_ledger_store_up", (), float(self._ok)),
        )

    # -- what others left

    async def _replay(self, store: LedgerWriter) -> None:
        """Take over the directories of those that died, as they do."""
        if self._left is None:
            self._left = {path for path in self._root.iterdir() if not path.name.startswith(".") and path != self._own}
        while self._left:
            marks = await self._asked(store.marks)
            for directory in sorted(self._left):
                try:
                    lock = _locked(directory, fcntl.LOCK_EX)
                except BlockingIOError:
                    continue  # somebody lives there
                except FileNotFoundError:  # another took it over, and is done
                    self._left.discard(directory)
                    continue
                self._left.discard(directory)
                self._locks[directory] = lock
                found = [_Journal(prefix, settles=False) for prefix in journals(directory)]
                for journal in found:
                    journal.queued = marks.get(journal.name, 0)
                self._journals += found
                self._leave(directory)
            self._note_replayed()
            await asyncio.sleep(RETRY_SECONDS)
        self._note_replayed()

    def _note_replayed(self) -> None:
        if all(journal.settles for journal in self._journals):
            self.replayed.set()

    def _leave(self, directory: Path) -> None:
        """Remove the directory of another when nothing of it is left."""
        if directory != self._own and all(Path(one.prefix).parent != directory for one in self._journals):
            shutil.rmtree(directory, ignore_errors=True)
            os.close(self._locks.pop(directory))

    # -- reading

    async def _read(self) -> None:
        while True:
            settlements: list[Settlement] = []
            busy = False
            now = list(self._journals)
            for journal in now:
                more = self._advance(journal, settlements)
                busy = busy or more
                if more:
                    self._settle(settlements)
                    settlements = []
                    await asyncio.sleep(0)
            if settlements:
                self._settle(settlements)
            for journal in now:
                if journal.lost and journal.settled is not None:
                    journal.settled()
                    journal.settled = None
            await (asyncio.sleep(0) if busy else tick(POLL_SECONDS))

    def _advance(self, journal: _Journal, settlements: list[Settlement]) -> bool:
        """Read a slice of one journal; whether there is more to be read of it at once."""
        reading, more = journal.reading, False
        if journal.settles or self._waiting < WAITING:
            some, settled = self._take(journal, reading)
            more = reading.cut
            if journal.settles:
                settlements += settled
            if some is not None and not journal.behind:
                if self._waiting < WAITING or not journal.settles:
                    self._put(journal, some)
                else:
                    journal.behind = True
        if journal.behind and self._ok and not journal.retiring and self._waiting < WAITING:
            self._reread(journal)
            more = more or journal.behind
        if reading.over and not journal.lost:
            journal.lost = True
            for opened in reading.opened.values() if journal.queued < LAST else ():
                row, settlement = account(at_length(opened), None, self._price)
                journal.last.append((row, opened))
                if settlement is not None and journal.settles:
                    settlements.append(settlement)
        if journal.last and not journal.behind:
            rows, origins = zip(*journal.last, strict=True)
            self._put(journal, _Waiting(LAST >> 32, LAST, rows, origins, self._clock()))
            journal.last = []
        return more

    def _reread(self, journal: _Journal) -> None:
        """Read rows that there was no room for; up to where the journal has been read for its settlements."""
        until = journal.reading.position
        rereading = journal.rereading
        if rereading is None:
            rereading = journal.rereading = Reading(journal.prefix)
        some, _ = self._take(journal, rereading, until)
        if some is not None:
            self._put(journal, some)
        if rereading.position >= until:
            rereading.close()
            journal.rereading = None
            journal.behind = False

    def _take(self, journal: _Journal, reading: Reading, until: int = LAST) -> tuple[_Waiting | None, list[Settlement]]:
        """What ended within the next slice, but for what is stored, or waits, already."""
        if reading.position < journal.queued:
            reading.read(SLICE, journal.ended, min(until, journal.queued))
            return None, []
        closed = reading.read(SLICE, journal.ended, until)
        if not closed:
            return None, []
        if len(self._series) > MOST_SERIES:
            self._series.clear()
        rows, settlements = accounts(closed, self._price, self._series)
        origins = [opened for opened, _ in closed]
        return _Waiting(reading.first_ended_in, reading.position, rows, origins, self._clock()), settlements

    def _put(self, journal: _Journal, some: _Waiting) -> None:
        journal.waiting.append(some)
        journal.queued = some.position
        self._waiting += len(some.rows)
        self._more.set()

    # -- storing

    async def _write(self, store: LedgerWriter) -> None:
        while True:
            if not self._waiting:
                self._more.clear()
                await self._more.wait()
            if self._waiting < BATCH and not self._closing:
                await asyncio.sleep(GATHER_SECONDS)
            batch = self._batch()
            rows = list(itertools.chain.from_iterable(each.rows for _, some in batch for each in some))
            marks = [Mark(journal.name, some[-1].position) for journal, some in batch]
            await self._asked(functools.partial(store.store, rows, marks))
            for journal, some in batch:
                for _ in some:
                    journal.waiting.popleft()
            self._waiting -= len(rows)
            partial = sum(row.state == "partial" for row in rows if not isinstance(row, tuple))
            self._rows["partial"] += partial
            self._rows["complete"] += len(rows) - partial

    def _batch(self) -> list[tuple[_Journal, list[_Waiting]]]:
        """What is stored next: of each journal its first slices, whole."""
        journals = [journal for journal in self._journals if journal.waiting]
        share = max(1, BATCH // max(1, len(journals)))
        batch = []
        for journal in journals:
            some: list[_Waiting] = []
            left = share
            for each in journal.waiting:
                left -= len(each.rows)
                if some and left < 0:
                    break
                some.append(each)
            batch.append((journal, some))
        return batch

    async def _asked(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """What the store says, when it does."""
        while True:
            try:
                said = await ask()
            except StoreUnavailable as error:
                if self._ok:
                    _log.error("the ledger is not stored for now, journals keep it: %s", error)
                self._ok = False
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if not self._ok:
                    _log.warning("the ledger is stored again")
                self._ok = True
                return said

    # -- deleting

    async def _tidy(self, store: LedgerWriter) -> None:
        while True:
            await tick(POLL_SECONDS)
            for journal in list(self._journals):
                if journal.is_stored:
                    await self._asked(store.sync)
                    if await self._delete(functools.partial(remove, journal.prefix)):
                        journal.close()
                        self._journals.remove(journal)
                        self._leave(Path(journal.prefix).parent)
                        await self._asked(functools.partial(store.forget, [journal.name]))
                        self._note_replayed()
                        self._emptied.set()
                    continue
                before = journal.reading.number
                if journal.waiting:
                    before = min(before, journal.waiting[0].segment)
                if before > journal.kept and not journal.behind:
                    journal.retiring = True
                    unstored = journal.unstored()  # before anything else is stored, which the disk may not have yet
                    await self._asked(store.sync)
                    if await self._delete(functools.partial(retire, journal.prefix, unstored, before)):
                        journal.kept = before
                    journal.retiring = False

    async def _delete(self, work: Callable[[], None]) -> bool:
        """Whether it could be done."""
        self._deleting = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            await asyncio.shield(self._deleting)
        except OSError as error:
            if not self._undeletable:
                _log.error("journals that are stored cannot be deleted: %s", error)
            self._undeletable = True
            return False
        self._undeletable = False
        return True


def _locked(directory: Path, operation: int) -> int:
    """A descriptor that holds the directory's lock. Raises BlockingIOError where others do."""
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
