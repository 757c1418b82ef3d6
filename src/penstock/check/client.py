"""An HTTP/1.1 client that hides nothing: bytes go out as they are given, an answer keeps its framing and its timing.

A check must be able to send what no decent client sends, and to see what every decent client smooths over: how a
body was framed, when each part of it came, whether the connection was left usable. So there are no redirects, no
pool, no repeats and no decompression, and one connection serves one call unless its holder sends again.

What is sent goes out while the answer is read, since a server may answer a body before it has all of it. Whatever
keeps an answer from being one raises Trouble, which says in words what was seen: nothing within the patience, a
connection that broke, bytes that are not HTTP, more than a body may be. Patience is for silence; a total bounds an
answer that never ends.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

CONNECT_LIMIT = 10.0
HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 8 * 1024 * 1024
TOTAL_PATIENCES = 5  # an answer may take so many times the patience for one silence

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: .*)?")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")

_Got = TypeVar("_Got")


class Trouble(Exception):
    """There was no answer: the message says what came instead."""


class Unreachable(Trouble):
    """There was not even a connection."""


class Place(msgspec.Struct, frozen=True):
    """Where the API is. `base` is the path before `/chat/completions`, `tls` whether the connection is encrypted."""

    host: str
    port: int
    base: str
    tls: bool

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as it is shown."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.base}"


class Answer(msgspec.Struct, frozen=True):
    """What came back. Header names are lower case; `framing` is length, chunked, close or none.

    `arrivals` has for each piece of the body the seconds since the request was sent, and the length of the body so far.
    `interim` are the statuses below 200 before this one, `closing` says that the server announced to close.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    framing: str
    arrivals: tuple[tuple[float, int], ...] = ()
    interim: tuple[int, ...] = ()
    closing: bool = False

    def header(self, name: str) -> str | None:
        """The first value of that name."""
        return next((value for key, value in self.headers if key == name), None)


def parse_place(url: str) -> Place:
    """The base URL as it is given to an SDK; raises ValueError, which says what is wrong."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("it must begin with http:// or https://")
    if not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("the host is missing or is not a plain name")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("it must hold neither a user, nor a query, nor a fragment")
    tls = parts.scheme == "https"
    return Place(parts.hostname, parts.port or (443 if tls else 80), parts.path.rstrip("/"), tls)


class Connection:
    """One connection, as an async context manager."""

    def __init__(self, place: Place, patience: float) -> None:
        self._place = place
        self._patience = patience
        self._buffer = bytearray()
        self._ended = False
        self._sent_at = 0.0

    async def __aenter__(self) -> Connection:
        context = ssl.create_default_context() if self._place.tls else None
        name = self._place.host if self._place.tls else None
        try:
            async with asyncio.timeout(min(CONNECT_LIMIT, self._patience)):
                self._reader, self._writer = await asyncio.open_connection(
                    self._place.host, self._place.port, ssl=context, server_hostname=name
                )
        except TimeoutError:
            raise Unreachable(f"no connection to {self._place.authority} in time") from None
        except OSError as error:
            raise Unreachable(f"no connection to {self._place.authority}: {_reason(error)}") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not a polite close: nothing is owed to a server that may never read the rest.
        self._writer.transport.abort()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # it was gone before

    async def exchange(self, request: bytes, *, head_only: bool = False) -> Answer:
        """Send a request and read its whole answer; raises Trouble."""
        self._sent_at = time.monotonic()
        sending = asyncio.create_task(self._send(request))
        try:
            return await self.answer(head_only=head_only)
        finally:
            sending.cancel()

    async def send(self, data: bytes) -> None:
        """Send bytes, as many as the server takes; a broken connection is found by reading."""
        self._sent_at = time.monotonic()
        await self._bounded(lambda: self._send(data), "did not take what was sent")

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer on this connection; raises Trouble."""
        limit = self._patience * TOTAL_PATIENCES
        try:
            async with asyncio.timeout(limit):
                return await self._answer(head_only)
        except TimeoutError:
            raise Trouble(f"the answer had not ended after {limit:g} s") from None

    async def glance(self, request: bytes) -> Answer:
        """Send a request and read its answer; of a stream only what comes first. The caller then hangs up."""
        await self.send(request)
        status, _, headers = await self._head()
        kind = next((value for name, value in headers if name == "content-type"), "")
        if not kind.startswith("text/event-stream"):
            framing, arrivals, body = await self._body(status, headers, False)
            return Answer(status, tuple(headers), body, framing, arrivals)
        if not self._buffer:
            await self._fill()
        return Answer(status, tuple(headers), bytes(self._buffer), "begun")

    async def continues(self, limit: float) -> bool:
        """Whether an interim answer, or any other, begins within `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                return bool(self._buffer) or await self._fill()
        except TimeoutError:
            return False

    # Reading.

    async def _answer(self, head_only: bool) -> Answer:
        interim: list[int] = []
        while True:
            status, version, headers = await self._head()
            if status >= 200 or status == 101:
                break
            interim.append(status)
        framing, arrivals, body = await self._body(status, headers, head_only)
        connection = next((value.lower() for name, value in headers if name == "connection"), "")
        closing = framing == "close" or "close" in connection or (version == b"1.0" and "keep-alive" not in connection)
        return Answer(status, tuple(headers), body, framing, arrivals, tuple(interim), closing)

    async def _body(
        self, status: int, headers: list[tuple[str, str]], head_only: bool
    ) -> tuple[str, tuple[tuple[float, int], ...], bytes]:
        named = {name: value.lower() for name, value in headers}
        arrivals: list[tuple[float, int]] = []
        if head_only or status in (101, 204, 304):
            return "none", (), b""
        if "chunked" in named.get("transfer-encoding", ""):
            body, framing = await self._chunks(arrivals), "chunked"
        elif "content-length" in named:
            body, framing = await self._length(named["content-length"], arrivals), "length"
        else:
            body, framing = await self._until_end(arrivals), "close"
        return framing, tuple(arrivals), body

    async def _head(self) -> tuple[int, bytes, list[tuple[str, str]]]:
        head = await self._line_block()
        first, *lines = head.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            raise Trouble(f"the answer is not HTTP/1.1: it begins with {bytes(first[:60])!r}")
        headers = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise Trouble(f"a header line is broken: {bytes(line[:60])!r}")
            headers.append((name.decode("latin-1").lower(), value.strip().decode("latin-1")))
        return int(match[1]), bytes(first[5:8]), headers

    async def _line_block(self) -> bytes:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise Trouble("the head of the answer does not end")
            if not await self._fill():
                came = f" after {bytes(self._buffer[:60])!r}" if self._buffer else " without an answer"
                raise Trouble(f"the connection was closed{came}")
        return self._take(end + 4)[:-4]

    async def _length(self, value: str, arrivals: list[tuple[float, int]]) -> bytes:
        if not value.isascii() or not value.isdigit():
            raise Trouble(f"content-length is {value!r}")
        size = int(value)
        if size > BODY_LIMIT:
            raise Trouble(f"the body has {size} bytes; this check takes {BODY_LIMIT}")
        while len(self._buffer) < size:
            self._note(arrivals, len(self._buffer))
            if not await self._fill():
                raise Trouble(f"the connection was closed after {len(self._buffer)} of {size} bytes of the body")
        self._note(arrivals, size)
        return self._take(size)

    async def _chunks(self, arrivals: list[tuple[float, int]]) -> bytes:
        body = bytearray()
        while True:
            line = await self._line()
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise Trouble(f"a chunk has no size: {line[:60]!r}")
            size = int(match[1], 16)
            if size == 0:
                break
            if len(body) + size > BODY_LIMIT:
                raise Trouble(f"the body goes on after {BODY_LIMIT} bytes")
            while len(self._buffer) < size + 2:
                if not await self._fill():
                    raise Trouble("the connection was closed inside a chunk of the body")
            body += self._take(size + 2)[:-2]
            self._note(arrivals, len(body))
        while await self._line():
            pass  # trailers
        return bytes(body)

    async def _until_end(self, arrivals: list[tuple[float, int]]) -> bytes:
        while await self._fill():
            self._note(arrivals, len(self._buffer))
            if len(self._buffer) > BODY_LIMIT:
                raise Trouble(f"the body goes on after {BODY_LIMIT} bytes")
        return self._take(len(self._buffer))

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise Trouble("a line of the framing does not end")
            if not await self._fill():
                raise Trouble("the connection was closed before the body's last chunk")
        return self._take(end + 2)[:-2]

    def _note(self, arrivals: list[tuple[float, int]], size: int) -> None:
        if size and (not arrivals or arrivals[-1][1] != size):
            arrivals.append((time.monotonic() - self._sent_at, size))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _fill(self) -> bool:
        """Read what there is; False at the end."""
        if not self._ended:
            data = await self._bounded(lambda: self._reader.read(65536), "sent nothing")
            self._ended = not data
            self._buffer += data
        return not self._ended

    async def _send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            pass  # it may have answered before it closed

    async def _bounded(self, act: Callable[[], Awaitable[_Got]], what: str) -> _Got:
        try:
            return await asyncio.wait_for(act(), self._patience)
        except TimeoutError:
            raise Trouble(f"the server {what} within {self._patience:g} s") from None
        except OSError as error:
            raise Trouble(f"the connection broke: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    return error.strerror or str(error) or type(error).__name__
