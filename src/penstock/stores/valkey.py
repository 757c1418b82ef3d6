"""The counters of several hosts: in one Valkey or Redis, which their parents ask, by one script.

How it works: what is asked waits until the calls before it are answered, then all goes out at once, one call for each
tag (`valkeycalls` says what is in it, `valkey.lua` what is done with it). Whatever a call does is one step: what was
posted first, then leases, each with all its claims or none. The server's clock is everybody's. A grant is valid from
when it was asked for, which is before the server reckoned.

When it fails: whoever waits is told so within `timeout`, and a call that takes longer ends the connection. From then
on nobody asks, so that no request waits for a server that is away, but for one probe every `probe` seconds; `up` is
false meanwhile, and the log has one line of when it began and one of when it ended. What is posted is kept, summed up
by counter and bucket, and goes out before anything else; slots that are held are taken again, if they expired or the
server forgot them. A server that forgot its counters answers Unknown, and gets them planted.

What it does not do: it speaks to one server, or to what stands before several; it follows no redirections of a cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import NoScriptError, RedisError, ResponseError

from penstock.config.counters import fault, where
from penstock.stores.base import Asking, Bound, Change, Granted, Outcome, Seed, StoreUnavailable
from penstock.stores.valkeycalls import Call, Session, Sown, Waiting

PROBE = 0.25
CONNECT = 1.0  # seconds, of which no request waits more than `timeout`
MOMENT = 0.01  # seconds, by which a loop may be late
CALLS = 64  # at once

_SCRIPT = resources.files("penstock.stores").joinpath("valkey.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_FAILURES = (RedisError, OSError, TimeoutError, UnicodeError)  # the last of host names that cannot be any

_log = logging.getLogger("penstock.counters")


def open_slices(url: str, timeout: float, holder: str) -> ValkeySlices:
    """The counters at the URL that `server.counters` says; nothing is sent yet. Raises StoreUnavailable."""
    return ValkeySlices(url, timeout, holder)


class ValkeySlices:
    """Counters at `url`. `timeout`: seconds that anybody waits at most; `holder`: this gateway's name, another in each
    run; `probe`: seconds between two looks whether a server that was away is back. `clock`: Unix seconds that the
    server is to take for its own, as a test does.
    """

    hosts = 4

    def __init__(
        self,
        url: str,
        timeout: float,
        holder: str,
        *,
        probe: float = PROBE,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.up = True
        self.lost = 0
        self._timeout = timeout
        self._probe = probe
        self._clock = clock
        self._server = _Server(url)
        self._holder = holder
        self._numbers = itertools.count(1)
        self._sessions: dict[str, Session] = {}
        self._ready: dict[str, Session] = {}  # those that have something to ask
        self._flying: list[Call] = []
        self._woken = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def lease(self, asking: Asking) -> Outcome:
        """Take all claims or none, atomically."""
        if not self.up:
            raise self._unavailable()
        waiting = Waiting(asking, asyncio.get_running_loop().create_future())
        session = self._session(asking.bounds[0].tag)
        session.leases.append(waiting)
        self._wake(session)
        try:
            async with _within(self._timeout):
                return await waiting.answer
        except TimeoutError:
            self._abandon(waiting)
            raise self._unavailable() from None
        except asyncio.CancelledError:
            self._abandon(waiting)
            raise

    def post(self, changes: Sequence[Change]) -> None:
        """Give back, and take what was overrun; it goes out before any lease that follows."""
        for change in changes:
            session = self._session(change.bound.tag)
            session.post(change)
            self._wake(session)

    async def plant(self, seeds: Sequence[Seed]) -> None:
        """Begin these counters with what was spent; those that exist by now stay as they are."""
        if not self.up:
            raise self._unavailable()
        loop = asyncio.get_running_loop()
        sown = [Sown(seed, loop.create_future()) for seed in seeds if seed.bound.unit != "slots"]
        for each in sown:
            session = self._session(each.seed.bound.tag)
            session.sow(each)
            self._wake(session)
        try:
            async with _within(self._timeout):
                await asyncio.gather(*(each.done for each in sown))
        except TimeoutError:
            raise self._unavailable() from None

    def renew(self, bounds: Sequence[Bound]) -> None:
        """Go on holding slots; a server that is away hears of it when it is back."""
        for bound in bounds:
            session = self._sessions.get(bound.tag)
            if session is not None:
                session.renew((bound.id,))
                self._wake(session)

    async def close(self) -> None:
        """Give back every slot that is held, and send what was posted, if the server answers."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._drop()
        for session in self._sessions.values():
            session.release_all()
            self._ready[session.tag] = session
        try:
            if self.up:
                async with asyncio.timeout(CONNECT):
                    await self._send_all()
        except _FAILURES:
            pass  # what is held ends by itself
        finally:
            await self._server.disconnect()

    # -- what waits

    def _session(self, tag: str) -> Session:
        session = self._sessions.get(tag)
        if session is None:
            session = self._sessions[tag] = Session(tag, self._holder)
        return session

    def _wake(self, session: Session) -> None:
        self._ready[session.tag] = session
        self._woken.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    def _abandon(self, waiting: Waiting) -> None:
        """Nobody waits any more: an answer that is there already is given back, another when it comes."""
        answer = waiting.answer
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            outcome = answer.result()
            if isinstance(outcome, Granted):
                session = self._session(waiting.asking.bounds[0].tag)
                session.give_back(waiting, outcome)
                self._wake(session)

    def _drop(self) -> None:
        """Tell everybody who waits that the server does not answer."""
        error = self._unavailable()
        for call in self._flying:
            call.session.failed(call, error)
        self._flying = []
        for session in self._sessions.values():
            session.refuse(error)

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self._server.where}: no answer in time")

    # -- asking

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._send_all()
            except _FAILURES as error:
                await self._recover(error)

    async def _send_all(self) -> None:
        """Send all that waits, and what comes to wait meanwhile."""
        while self._ready:
            sessions = list(itertools.islice(self._ready.values(), CALLS))
            for session in sessions:
                del self._ready[session.tag]
            self._flying = [session.call(next(self._numbers)) for session in sessions if session.waits]
            await self._exchange()
            for session in sessions:
                if session.waits:
                    self._ready[session.tag] = session
                elif session.idle:
                    del self._sessions[session.tag]

    async def _exchange(self) -> None:
        """Send the calls and tell everybody what came of them. Raises where one has no reply, which is then flying."""
        calls = self._flying
        async with asyncio.timeout(CONNECT):
            await self._server.connect()
        async with _within(self._timeout):
            replies = await self._server.ask([self._command("EVALSHA", _SHA, call) for call in calls])
            unseen = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unseen:
                again = await self._server.ask([self._command("EVAL", _SCRIPT, calls[at]) for at in unseen])
                for at, reply in zip(unseen, again, strict=True):
                    replies[at] = reply
        self._flying = []
        refused: ResponseError | None = None
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, bytes):
                self.lost += call.session.replied(call, reply)
            else:
                self._flying.append(call)
                refused = reply if isinstance(reply, ResponseError) else ResponseError("another call came first")
        if refused is not None:
            raise refused

    def _command(self, name: str, script: str | bytes, call: Call) -> tuple[Any, ...]:
        clock = () if self._clock is None else (round(self._clock() * 1_000_000),)
        return name, script, len(call.keys), *call.keys, call.body, *clock

    async def _recover(self, error: Exception) -> None:
        """Wait until the server answers again; all that is to be sent whatever happens is sent by then."""
        began = asyncio.get_running_loop().time()
        self.up = False
        _log.warning("%s does not answer: %s", self._server.where, str(error) or "no answer in time")
        while True:
            self._drop()
            await self._server.disconnect()
            await asyncio.sleep(self._probe)
            for session in self._sessions.values():
                session.renew_all()
                self._ready[session.tag] = session
            try:
                async with asyncio.timeout(CONNECT):
                    await self._server.connect()
                async with _within(self._timeout):
                    await self._server.ask([("PING",)])
                await self._send_all()
            except _FAILURES:
                continue
            break
        self.up = True
        _log.info("%s answers again, after %.1f s", self._server.where, asyncio.get_running_loop().time() - began)


class _Server:
    """One connection to the server, made when it is needed."""

    def __init__(self, url: str) -> None:
        if wrong := fault(url):
            raise StoreUnavailable(f"server.counters: {wrong}")
        self.where = where(url)
        # Waits are bounded by whoever asks. RESP 2 needs no word before the first command.
        options = {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": None, "driver_info": None}
        try:
            pool: Any = ConnectionPool.from_url(url, **options)
            pool.make_connection()  # nothing is sent; but it looks at all that the URL says
        except (ValueError, TypeError):
            raise StoreUnavailable("server.counters: not a URL that Redis' client takes") from None
        self._pool = pool
        self._connection: Any = None  # whose class has no types

    async def connect(self) -> None:
        if self._connection is None:
            connection = self._pool.make_connection()
            try:
                await connection.connect()
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            self._connection = connection

    async def ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies, of which some may be errors. Whatever is raised, the connection is not used again."""
        connection = self._connection
        assert connection is not None
        self._connection = None
        try:
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            replies = [await _reply(connection) for _ in commands]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._connection = connection
        return replies

    async def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError where it takes longer. A loop that was busy itself may look for what has come meanwhile."""
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds
    async with asyncio.timeout(None) as bound:

        def look() -> None:
            now = loop.time()
            bound.reschedule(now + MOMENT if now - due > MOMENT else now)

        timer = loop.call_at(due, look)
        try:
            yield
        finally:
            timer.cancel()


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response(disable_decoding=True, timeout=math.inf)
    except ResponseError as error:
        return error
