"""The worker's journal: what a request is about to spend is on file before it is sent, and what it came to before its
answer ends.

An entry is one copy into a segment that is mapped into memory: nothing is awaited, nothing is flushed. Such bytes
outlive the process, whatever kills it; for those that must outlive the machine a thread has them on the disk within a
second or so. The thread also makes segments ahead of their use, wholly allocated, so that a disk that is full is found
there and not by a write; and it takes full ones off the loop's hands. The parent deletes what it has stored.

What is refused: a request for which there is no room, because the disk is full or the parent is `most` bytes behind.
Room for its entries, at their largest, is kept from before anything is sent until its last entry is written, so that
what was begun can always be ended. The thread tries again every second, so that a refusal ends by itself.

A lock is held on the directory for as long as the process lives: nobody takes its journal for one that was left.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from penstock.gateway.exchange import Exchange
from penstock.journal import (
    ENTRY_BYTES,
    MAGIC,
    SEGMENT_BYTES,
    START,
    Answered,
    Begun,
    Context,
    Done,
    Ended,
    Reserved,
    Sent,
    Spent,
    Tried,
    framed,
    lock_path,
    segment_path,
    skips,
)
from penstock.providers.base import AnyRequest
from penstock.types import Record, Target, milliseconds
from penstock.wire.chat import ChatRequest

FLUSH_SECONDS = 1.0
MOST_CONTEXTS = 4096  # of one segment

_NEEDED = 2 * ENTRY_BYTES  # for the beginning of an attempt and the end of the request


_Said: TypeAlias = tuple[str, str, str, str, str, str, str]
"""A context without its number."""


class _Segment:
    """One file of the journal, mapped; it has its name once it is whole. Raises OSError, and then leaves no file."""

    __slots__ = ("descriptor", "map")

    def __init__(self, path: str, size: int) -> None:
        staged = path + ".new"
        self.descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self.descriptor, 0, size)
            self.map = mmap.mmap(self.descriptor, size)
            self.map[:START] = MAGIC
            os.rename(staged, path)
        except OSError:
            os.close(self.descriptor)
            os.unlink(staged)
            raise

    def close(self) -> None:
        self.map.close()
        os.close(self.descriptor)


class Journal:
    """One worker's journal, in segments whose names begin with `prefix`.

    `most`: bytes that may lie there before the parent has stored them. `complain` is told when there is no room for
    another segment, and when there is again.
    """

    def __init__(
        self, prefix: str, most: int, complain: Callable[[str], object], segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._prefix = prefix
        self.most = most
        self._complain = complain
        self._size = segment_bytes
        self._end = segment_bytes - ENTRY_BYTES  # where an entry may begin, at the latest
        self._each = self._end - START  # the room of a new segment
        self._kept = 0  # bytes of room that are kept for requests
        self._segment: _Segment | None = None  # that is written
        self._at = self._end + 1  # where the next entry begins
        self._ahead: deque[_Segment] = deque()  # the thread appends, the loop takes
        self._full: deque[_Segment] = deque()  # the loop appends, the thread takes
        self._contexts: dict[_Said, int] = {}  # of the segment that is written, with their numbers
        self._made = 0  # segments; this and what follows is the thread's own
        self._paths: list[str] = []  # those that the parent had not deleted when the thread last looked
        self._stuck = False
        self._flushed = (0, 0)
        self._woken = False
        self._wake = threading.Event()
        self._closing = False
        self._lock = os.open(lock_path(prefix), os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._grow()
        # A daemon: a disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    # -- for the path of a request

    def reserve(self, exchange: Exchange) -> bool:
        """Keep room for an attempt's beginning and the request's end, until `done`; False where there is none."""
        wanted = _NEEDED - exchange.room
        spare = self._end - self._at + len(self._ahead) * self._each - self._kept - wanted
        if spare < self._each and not self._woken:
            self._woken = True
            self._wake.set()
        if spare < 0:
            return False
        self._kept += wanted
        exchange.room = _NEEDED
        return True

    def begin(self, exchange: Exchange, asked: AnyRequest, target: Target) -> None:
        """An attempt is about to be sent, for which room was reserved."""
        principal, hold = exchange.principal, exchange.hold
        assert principal is not None
        exchange.begun = True
        self._kept -= ENTRY_BYTES
        exchange.room -= ENTRY_BYTES
        if self._at > self._end:
            self._turn()  # now: what is in common is told in each segment
        said = (
            target.provider,
            target.model,
            target.route,
            principal.key_id,
            principal.project_id,
            exchange.endpoint,
            asked.model,
        )
        safety_identifier = asked.safety_identifier if type(asked) is ChatRequest else None
        told, context = b"", 0
        if not (exchange.attempts or exchange.tags or asked.user or safety_identifier):
            context = self._contexts.get(said, 0)
            if not context:
                context, told = self._introduced(said)
        # By position, in the order of the declaration: names would cost as much as the rest.
        id_, stream, started_at, size = exchange.request_id, asked.stream, exchange.started_at, len(asked.body)
        if not context:
            reserved = None
            if hold is not None:
                reserved = Reserved(hold.lease, hold.claim.requests, hold.claim.tokens, hold.claim.nanos)
            more = stream, started_at, size, reserved, exchange.tags, asked.user, safety_identifier
            self._put(framed(Begun(id_, len(exchange.attempts), *said, *more)))
        elif hold is None:
            self._put(told + framed(Sent(id_, context, stream, started_at, size)))
        else:
            claim = hold.claim
            lease, requests, tokens, nanos = hold.lease, claim.requests, claim.tokens, claim.nanos
            self._put(told + framed(Sent(id_, context, stream, started_at, size, lease, requests, tokens, nanos)))
        if told:
            self._contexts[said] = context  # now that it is written, and not before

    def _introduced(self, said: _Said) -> tuple[int, bytes]:
        """A number for what beginnings have in common, and what is to be written before the first; 0 for what should
        not have one: it is long, or there are many."""
        number = len(self._contexts) + 1
        if number > MOST_CONTEXTS:
            return 0, b""
        entry = framed(Context(number, *said))
        if len(entry) > ENTRY_BYTES // 2:  # the rest is for the beginning itself
            return 0, b""
        return number, entry

    def ended(self, exchange: Exchange) -> None:
        """The attempts so far led nowhere, and another may follow; left to `done` where there is too little room."""
        first, attempts = exchange.journaled, exchange.attempts
        room = self._end - self._at + len(self._ahead) * self._each
        if not exchange.begun or first == len(attempts) or room < self._kept + ENTRY_BYTES:
            return
        self._put(framed(Ended(exchange.request_id, first, tuple([Tried.of(one) for one in attempts[first:]]))))
        exchange.journaled = len(attempts)

    def done(self, exchange: Exchange, record: Record, heard: int) -> None:
        """The request has ended. `heard`: completion tokens that came, by a guess, where none were reported."""
        if exchange.begun:
            lasting = len(record.attempts) != 1 or record.skipped or record.rescue or exchange.lined
            end = _full if lasting or record.ended != "ok" else _short
            self._put(framed(end(exchange, record, heard)))
        self._kept -= exchange.room
        exchange.room = 0

    def _put(self, data: bytes) -> None:
        """Write what is framed, at most ENTRY_BYTES."""
        if self._at > self._end:
            self._turn()
        at = self._at
        self._at = end = at + len(data)
        self._map[at:end] = data

    def _turn(self) -> None:
        """Go on in the next segment."""
        if self._segment is not None:
            self._full.append(self._segment)
        self._segment = self._ahead.popleft()
        self._map = self._segment.map
        self._at = START
        self._contexts.clear()

    # -- the thread's

    def close(self) -> None:
        """Have all of it on the disk. No entry may follow."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        os.close(self._lock)

    def _work(self) -> None:
        while not self._closing:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            self._woken = False
            self._grow()
            self._flush()
        for segment in (self._segment, *self._ahead):
            if segment is not None:
                segment.close()

    def _grow(self) -> None:
        """Make segments until there is one that nobody needs yet."""
        try:
            while self._end - self._at + len(self._ahead) * self._each < self._kept + _NEEDED + self._each:
                self._paths = [path for path in self._paths if os.path.exists(path)]
                if (len(self._paths) + 1) * self._size > self.most:
                    raise OSError(None, f"{self.most} bytes wait to be stored, which is the most that may")
                path = segment_path(self._prefix, self._made + 1)
                self._ahead.append(_Segment(path, self._size))
                self._made += 1
                self._paths.append(path)
        except OSError as error:
            if not self._stuck:
                self._complain(f"the journal cannot grow, and requests may be refused: {error.strerror or error}")
            self._stuck = True
        else:
            if self._stuck:
                self._complain("the journal can grow again")
            self._stuck = False

    def _flush(self) -> None:
        try:
            while self._full:
                os.fdatasync(self._full[0].descriptor)
                self._full.popleft().close()
            written = self._made, self._at
            if self._segment is not None and written != self._flushed:
                os.fdatasync(self._segment.descriptor)
                self._flushed = written
        except OSError as error:
            self._complain(f"the journal could not be brought to the disk: {error.strerror or error}")


def _short(exchange: Exchange, record: Record, heard: int) -> Answered:
    usage = record.usage
    if usage is None:
        source, prompt, completion, cached, reasoning = "", 0, 0, 0, 0
    else:
        source, prompt, completion = usage.source, usage.prompt_tokens, usage.completion_tokens
        cached, reasoning = usage.cached_tokens, usage.reasoning_tokens
    return Answered(
        record.request_id,
        exchange.finish,
        source,
        prompt,
        completion,
        cached,
        reasoning,
        heard,
        record.duration_ms,
        record.first_event_ms,
        record.attempts[0].duration_ms,
    )


def _full(exchange: Exchange, record: Record, heard: int) -> Done:
    first = exchange.journaled
    return Done(
        record.request_id,
        record.status,
        record.ended,
        record.code,
        exchange.finish,
        record.provider,
        record.model,
        Spent.of(record.usage),
        heard,
        record.duration_ms,
        record.first_event_ms,
        first,
        tuple([Tried.of(one) for one in record.attempts[first:]]),
        skips(record.skipped),
        record.stopped,
        record.rescue,
        milliseconds(exchange.lined),
    )
