"""Ends what is in flight for keys that have stopped working, in an error and with the upstream freed.

When keys changed, the key of every request that this worker has begun to read is asked about again, once for each key
however many requests carry it; those of one that works no longer are stopped. Keys that expire are looked for each
second. A request of a key costs nothing until then: what is in flight is found through the connections.

While nobody can say whether a key works, nothing is stopped, and all is asked again a moment later. A change that comes
in the middle of asking has all asked again, too, since an answer may be from before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from penstock.errors import AuthenticationFailed
from penstock.gateway.exchange import Exchange
from penstock.http.request import Request

RETRY = 0.5  # seconds until a key is asked about again that nobody could speak for

InFlight = Callable[[], Iterable[Request]]


class Revocation:
    """`in_flight` gives the requests that the edge has in hand; `works` says whether an Authorization header's key
    does, None if nobody can say; `wall_clock` is in Unix seconds."""

    def __init__(
        self, in_flight: InFlight, works: Callable[[bytes], Awaitable[bool | None]], wall_clock: Callable[[], float]
    ) -> None:
        self._in_flight = in_flight
        self._works = works
        self._wall_clock = wall_clock
        self._changes = 0
        self._looking: asyncio.Task[None] | None = None

    def keys_changed(self) -> None:
        """Ask about every key in flight; what was asked before is asked again."""
        self._changes += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def end_expired(self) -> None:
        """Stop the requests whose key has expired meanwhile."""
        now = self._wall_clock()
        for request, exchange in self._known():
            principal = exchange.principal
            if principal is not None and principal.expires_at is not None and principal.expires_at <= now:
                request.stop(AuthenticationFailed("The API key expired while the request was in progress."))

    def close(self) -> None:
        """Ask no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        seen, unsaid = -1, False
        while unsaid or seen != self._changes:
            if unsaid:
                await asyncio.sleep(RETRY)
            seen = self._changes
            keys = {header for request, _ in self._known() if (header := _key(request))}
            answers = await asyncio.gather(*(self._works(key) for key in keys))
            unsaid = None in answers
            revoked = {key for key, works in zip(keys, answers, strict=True) if works is False}
            for request, exchange in self._known() if revoked else ():
                if exchange.principal is not None and _key(request) in revoked:
                    request.stop(AuthenticationFailed("The API key was revoked while the request was in progress."))

    def _known(self) -> list[tuple[Request, Exchange]]:
        """The requests whose head has been judged."""
        return [(request, request.context) for request in self._in_flight() if isinstance(request.context, Exchange)]


def _key(request: Request) -> bytes | None:
    return request.headers.get(b"authorization")
