"""What a worker has to send, gathered until the end of the loop's turn.

A turn of the loop often finds several sockets that have something to be read. Were each answer and each call written in
the moment it is made, every one would wake a process that has gone to sleep since the one before, and to wake a process
takes the kernel as long as the writing itself. So they are kept until all that was there to be read has been, and are
then written one after the other: who is awake once takes the rest as it comes, and what one client gets in several
pieces goes to it in one. A turn that has one thing to do, as most have on a quiet machine, writes it when that is done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

MOST_BYTES = 16 * 1024  # that are gathered of one client


class Sender(Protocol):
    """Who has something to send."""

    def flush(self) -> None:
        """Send it, if it is still to be sent."""
        ...


class Outbox:
    """Those who have something to send in this turn are `waiting`: who joins while nobody is calls `rouse` first."""

    __slots__ = ("_call_soon", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        self.waiting: deque[Sender] = deque()

    def rouse(self) -> None:
        """Have them send when this turn ends."""
        self._call_soon(self._flush)

    def _flush(self) -> None:
        waiting = self.waiting
        try:
            while waiting:
                waiting.popleft().flush()
        finally:
            if waiting:  # one of them broke, through no fault of those behind it
                self.rouse()


class GatheringTransport:
    """A client's transport, as far as a connection needs one, that writes when the turn ends.

    It is as `asyncio.Transport` in all else: what was written before it is closed or aborted is not held back.
    """

    __slots__ = ("_held", "_outbox", "_transport", "can_write_eof", "is_closing", "pause_reading", "resume_reading")

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        self._transport = transport
        self._outbox = outbox
        self._held = b""
        self.can_write_eof = transport.can_write_eof
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
        else:
            outbox = self._outbox
            if not outbox.waiting:
                outbox.rouse()
            outbox.waiting.append(self)
        self._held = data
        if len(data) > MOST_BYTES:
            self.flush()  # and so it is known at once whether its client takes it

    def flush(self) -> None:
        """Write what is held. What comes too late for a client that has gone is lost, as it would be on the wire."""
        held, self._held = self._held, b""
        if held and not self.is_closing():
            self._transport.write(held)

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return len(self._held) + self._transport.get_write_buffer_size()

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self.flush()
        self._transport.abort()
