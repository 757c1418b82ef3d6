"""A client of sockets that asks one thing after the other, reads as slowly as it is told, and hangs up when it is told.

It notes how an answer ended on the wire, which SDKs hide: whole by its framing, or broken off.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal, cast

import httptools
import msgspec

from support.raw import http_request

PATIENCE = 60.0  # seconds: an answer that takes longer hangs


class HangUp(msgspec.Struct, frozen=True):
    """When a client goes: with `part` of its request sent, `after` seconds, or after so many bytes of the body."""

    part: float | None = None
    after: float | None = None
    size: int | None = None
    reset: bool = False  # and not an end of input


class Wish(msgspec.Struct, frozen=True):
    """One request that a client makes. `slow`: it stops reading for that long after the first bytes."""

    marker: str
    model: str
    stream: bool
    hang_up: HangUp | None = None
    slow: float = 0.0
    patience: float | None = None

    def request(self, key: str) -> bytes:
        """The bytes of it; the marker is its id as the client has it, and its question."""
        messages = [{"role": "user", "content": self.marker}]
        said: dict[str, Any] = {"model": self.model, "messages": messages, "user": self.marker}
        headers = {"authorization": f"Bearer {key}", "content_type": "application/json"}
        headers["x_client_request_id"] = self.marker
        if self.patience is not None:
            headers["x_stainless_read_timeout"] = str(self.patience)
        if self.stream:
            said["stream"] = True
        return http_request("POST", "/v1/chat/completions", json.dumps(said).encode(), **headers)


class Got(msgspec.Struct):
    """What came back. `ended`: "whole"; "broken", by the other side; "gone", the client was; "partial", while it
    was still asking; "silent", nothing more came for too long."""

    status: int = 0
    headers: dict[str, str] = {}
    body: bytearray = msgspec.field(default_factory=bytearray)
    ended: Literal["", "whole", "broken", "gone", "partial", "silent"] = ""


class Caller(asyncio.Protocol):
    """One connection of a client's, and what comes back on it."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] | None = None
        self._got = Got()
        self._wish: Wish | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._keep = False
        self._closed: asyncio.Future[None] = self._loop.create_future()

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.open = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._finish("broken")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._finish("broken")
        if not self._closed.done():
            self._closed.set_result(None)

    # -- the parser's calls

    def on_header(self, name: bytes, value: bytes) -> None:
        self._got.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._got.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        got, wish = self._got, self._wish
        first = not got.body
        got.body += body
        if wish is None:
            return
        going = wish.hang_up
        if going is not None and going.size is not None and len(got.body) >= going.size:
            self._go(going)
        elif first and wish.slow and self._transport is not None:
            self._transport.pause_reading()
            self._loop.call_later(wish.slow, self._read_on)

    def on_message_complete(self) -> None:
        self._keep = self._parser.should_keep_alive()
        self._finish("whole")
        if not self._keep:
            self.close()

    # -- for the client

    async def ask(self, wish: Wish, key: str) -> Got:
        """Make one request and take what comes, or go as the wish says."""
        assert self._transport is not None
        self._got, self._wish = got, _ = Got(), wish
        self._parser = httptools.HttpResponseParser(self)
        self._done = self._loop.create_future()
        data, going = wish.request(key), wish.hang_up
        timer = None
        if going is not None and going.part is not None:
            self._transport.write(data[: int(len(data) * going.part)])
            await asyncio.sleep(0)
            self._go(going, "partial")
        else:
            self._transport.write(data)
            if going is not None and going.after is not None:
                timer = self._loop.call_later(going.after, self._go, going)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._done
        except TimeoutError:
            self._finish("silent")
            self.close()
        finally:
            if timer is not None:
                timer.cancel()
        if not self.open or got.ended != "whole":
            await self._closed
        return got

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    async def closed(self, seconds: float) -> bool:
        """Whether the other side closes the connection within so long."""
        done, _ = await asyncio.wait([self._closed], timeout=seconds)
        return bool(done)

    async def gone(self) -> None:
        """Wait until the connection is closed on this side."""
        self.close()
        await self._closed

    # -- inside

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _go(self, going: HangUp, ended: Literal["gone", "partial"] = "gone") -> None:
        assert self._transport is not None
        self._finish(ended)
        if going.reset:
            self._transport.abort()
        else:
            self._transport.close()

    def _finish(self, ended: Literal["whole", "broken", "gone", "partial", "silent"]) -> None:
        if self._done is not None and not self._done.done():
            self._got.ended = ended
            self._done.set_result(None)
