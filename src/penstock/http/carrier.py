"""Carries the answer to one request: a coroutine that is begun at once and goes on in the moment it waited for.

asyncio's Task begins a coroutine in the loop's next turn, and goes on in the turn after that in which what it waited
for has come: two more turns of the loop for a request whose two reads would do, each with handles made, callbacks
queued and a look for events. A `Carrier` runs its first step where it is begun, and the step after a `Signal` where
that is given: in the callback of the upstream's connection. Whatever else is waited for, futures and tasks, is waited
for as by a Task, for which a Carrier passes while it runs: timeouts, sleeps and groups work within.

It never runs within the step of another, or of a Task: then it is the loop's next turn, as for a Task. Who begins one
or gives a signal from a callback must be ready for anything to have happened when that returns.

A Carrier that is cancelled before it has begun ends without having begun, and one that waits is told in the loop's next
turn. An error that ends it goes to the loop's handler, and it goes by the context in which it is woken.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task  # by which a task is the current one
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any


class Signal:
    """Something that comes once, waited for by at most one Carrier or Task. `done`: it has come."""

    # Defaults stand on the class, since setting them for each is a cost.
    _asyncio_future_blocking = True  # how a Task knows what it can wait for
    _callback: Callable[[Any], object] | None = None  # the Task's
    _context: Context | None = None
    _cancelled = False
    carrier: Carrier | None = None  # which waits for it
    done = False

    def give(self) -> None:
        """It has come; or has come already, and then nothing happens."""
        if self.done:
            return
        self.done = True
        carrier = self.carrier
        if carrier is not None:
            self.carrier = None
            carrier.step()
        elif self._callback is not None:
            self.get_loop().call_soon(self._callback, self, context=self._context)

    def __await__(self) -> Generator[Signal, None, None]:
        if not self.done:
            yield self

    # -- what a Task asks of that which it waits for

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        self._callback, self._context = callback, context

    def cancel(self, msg: object = None) -> bool:
        if self.done:
            return False
        self._cancelled = True
        self.give()
        return True

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError


class Carrier:
    """Runs one coroutine from its first step to its end."""

    __slots__ = ("_cancelled", "_coroutine", "_loop", "_requested", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
        self._loop = loop
        self._coroutine: Any = coroutine  # None once it has ended
        self._waiting: Any = None  # what it waits for: a Signal, a future or a task; None while a step is due
        self._cancelled = False  # which the next step is to tell
        self._requested = 0  # how often it was cancelled, less what was taken back

    def step(self, error: BaseException | None = None) -> None:
        """Run from where it is, at first from its beginning, to the next thing to wait for: what it waited for has
        come, or failed with `error`."""
        loop = self._loop
        self._waiting = None
        try:
            _enter_task(loop, self)  # type: ignore[arg-type]  # it passes for one
        except RuntimeError:  # another is in the middle of its step
            loop.call_soon(self.step, error)
            return
        if self._cancelled:
            self._cancelled = False
            error = asyncio.CancelledError()
        try:
            found = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except (StopIteration, asyncio.CancelledError):
            self._coroutine = None
        except (KeyboardInterrupt, SystemExit):
            self._coroutine = None
            raise
        except BaseException as fault:  # noqa: BLE001  # there is nobody else to tell
            self._coroutine = None
            loop.call_exception_handler({"message": "an answer failed", "exception": fault})
        else:
            self._waiting = found
            if found.__class__ is Signal:
                found.carrier = self
            elif found is None:  # it lets others go first
                loop.call_soon(self.step)
            else:
                found._asyncio_future_blocking = False
                found.add_done_callback(self._woken)
            if self._cancelled:  # in the middle of this step
                self._interrupt()
        finally:
            _leave_task(loop, self)  # type: ignore[arg-type]

    def _woken(self, future: asyncio.Future[Any]) -> None:
        """The future that it waited for is done."""
        self.step(asyncio.CancelledError() if future.cancelled() else future.exception())

    def _interrupt(self) -> None:
        """Have what it waits for come to nothing."""
        waiting = self._waiting
        if waiting.__class__ is Signal:
            waiting.carrier = self._waiting = None
            self._cancelled = True
            self._loop.call_soon(self.step)
        else:
            self._cancelled = waiting is None or not waiting.cancel()

    # -- what is asked of a task

    def cancel(self, msg: object = None) -> bool:
        """Have CancelledError raised where it waits. False once it has ended."""
        if self._coroutine is None:
            return False
        self._requested += 1
        self._interrupt()
        return True

    def cancelling(self) -> int:
        return self._requested

    def uncancel(self) -> int:
        if self._requested:
            self._requested -= 1
        return self._requested

    def done(self) -> bool:
        return self._coroutine is None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop
