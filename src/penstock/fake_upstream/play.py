"""Plays one answer onto a connection: waits, head, body, framing, cuts, and the end that the script asks for.

Bytes pass three stages. The body's pieces (events) are counted against the cut; they are framed, as HTTP chunks where
the answer is chunked; and the framed bytes are cut into writes. A stage that holds bytes back for a size gives them
up when the answer waits, so that a client has seen all that came before a wait.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from http import HTTPStatus
from itertools import islice

import msgspec

from penstock.fake_upstream.connection import Connection, Request
from penstock.fake_upstream.pieces import Piece, Wait
from penstock.fake_upstream.script import FOREVER, Answer, Cut, Sizes
from penstock.fake_upstream.seen import COMPLETE, CUT


class Content(msgspec.Struct, frozen=True):
    """What is to be said, made by the caller: `headers` are the server's own, which the answer's replace."""

    headers: dict[str, str]
    pieces: Iterable[Piece]
    stream: bool = False


class Slicer:
    """Gives bytes back in pieces of given sizes, the last size repeating; without sizes, as they came."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._turn = 0
        self._held = bytearray()

    def push(self, data: bytes) -> Iterator[bytes]:
        """The pieces that are full now."""
        if not self._sizes:
            yield data
            return
        self._held += data
        while len(self._held) >= (size := self._sizes[min(self._turn, len(self._sizes) - 1)]):
            self._turn += 1
            yield bytes(self._held[:size])
            del self._held[:size]

    def flush(self) -> bytes:
        """What is held, full or not."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


class Player:
    """Plays one answer, once. `pause` lets a wait pass; `on_sent` is told of body bytes that the kernel took."""

    def __init__(
        self,
        connection: Connection,
        request: Request,
        answer: Answer,
        pause: Callable[[Wait], Awaitable[None]],
        on_sent: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._answer = answer
        self._pause_for = pause
        self._on_sent = on_sent
        self._client_keeps = request.keep_alive
        self._whole = bytearray() if answer.write == "whole" else None
        self._writes = Slicer(answer.write if isinstance(answer.write, tuple) else ())
        self._chunks = Slicer(answer.chunk_sizes)
        self._framing = answer.framing
        if self._framing == "auto" and "1.0" in (answer.http, request.http):
            self._framing = "close"

    async def play(self, content: Content) -> tuple[str, bool]:
        """Give the answer; returns how it ended and whether the connection can go on."""
        answer = self._answer
        await self._pause(answer.wait)
        if answer.raw is not None or answer.raw_bytes is not None:
            raw = answer.raw_bytes if answer.raw is None else answer.raw.encode()
            await self._write(raw)
            self._on_sent(len(raw or b""))
            return COMPLETE, await self._end()
        if self._framing == "auto":
            self._framing = "chunked" if content.stream else "length"
        pieces: Iterable[Piece] = content.pieces
        if self._framing == "length":
            pieces = tuple(pieces)
        await self._write(self._head(content, pieces))
        await self._pause(answer.wait_first)
        if answer.cut is not None:
            await self._body(cut_pieces(pieces, answer.cut))
            await self._break_off(answer.cut)
            return CUT, False
        await self._body(pieces)
        await self._flush_chunks()
        if self._framing == "chunked":
            await self._write(b"0\r\n\r\n")
        return COMPLETE, await self._end()

    def _head(self, content: Content, pieces: Iterable[Piece]) -> bytes:
        answer = self._answer
        headers = dict(content.headers)
        if self._framing == "chunked":
            headers["transfer-encoding"] = "chunked"
        elif self._framing == "length":
            headers["content-length"] = str(sum(len(piece.data) for piece in pieces))
        if answer.end == "close" or self._framing == "close" or not self._client_keeps:
            headers["connection"] = "close"
        if answer.retry_after is not None:
            headers["retry-after"] = str(math.ceil(answer.retry_after))
            headers["retry-after-ms"] = str(round(answer.retry_after * 1000))
        headers.update((name.lower(), value) for name, value in answer.headers.items())
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
        return f"HTTP/{answer.http} {answer.status} {_phrase(answer.status)}\r\n{lines}\r\n".encode()

    async def _body(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            await self._pause(piece.wait)
            for data in self._chunks.push(piece.data):
                await self._frame(data)
            self._on_sent(len(piece.data))

    async def _frame(self, data: bytes) -> None:
        if data:
            await self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._framing == "chunked" else data)

    async def _write(self, data: bytes | None) -> None:
        if not data:
            return
        if self._whole is not None:
            self._whole += data
            return
        for write in self._writes.push(data):
            await self._connection.send(write)

    async def _pause(self, wait: Wait) -> None:
        if not wait:
            return
        if self._whole is None:
            await self._flush_chunks()
            await self._connection.send(self._writes.flush())
        await self._pause_for(wait)

    async def _flush_chunks(self) -> None:
        await self._frame(self._chunks.flush())

    async def _flush(self) -> None:
        await self._flush_chunks()
        await self._connection.send(self._writes.flush() if self._whole is None else bytes(self._whole))

    async def _end(self) -> bool:
        await self._flush()
        if self._answer.end == "reset":
            self._connection.reset()
        return self._answer.end == "keep" and self._framing != "close" and self._client_keeps

    async def _break_off(self, cut: Cut) -> None:
        await self._flush()
        if cut.wait:
            await self._pause_for(cut.wait)
        if cut.how == "reset":
            self._connection.reset()
        elif cut.how == "stall":
            await self._pause_for(FOREVER)


def cut_pieces(pieces: Iterable[Piece], cut: Cut) -> Iterator[Piece]:
    """The pieces up to the cut."""
    if cut.after_bytes is None:
        yield from islice(pieces, cut.after_events)
        return
    left = cut.after_bytes
    for piece in pieces:
        if not left:
            return
        yield Piece(piece.data[:left], piece.wait)
        left -= min(left, len(piece.data))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
