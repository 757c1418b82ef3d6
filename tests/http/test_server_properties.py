"""However traffic is cut up, the answers are the same; however it is damaged, the connection ends in good order."""

from __future__ import annotations

import asyncio
import functools
import gzip
import itertools
import re
from collections.abc import Callable
from typing import Any, cast

import httptools
import msgspec
import pytest
from edge_app import EchoApp, chunked, get, post
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config import Limits
from penstock.http.connection import Connection, Edge

LIMITS = Limits(head_bytes=2_000, headers=20, body_bytes=5_000, buffered_bytes=20_000)
DATE = b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
PACKED = gzip.compress(b"packed " * 50, mtime=0)
UPGRADE = ("Connection: Upgrade", "Upgrade: h2c")

REQUESTS = [
    get("/echo"),
    post("/echo", b"hello"),
    post("/echo", b""),
    chunked("/echo", b"one,", b"two," * 10, b"three"),
    chunked("/echo", b"a", end=b"0\r\nX-Trailer: y\r\n\r\n"),
    chunked("/echo", *[b"z"] * 30),
    post("/echo", PACKED, "Content-Encoding: gzip"),
    chunked("/echo", PACKED[:9], PACKED[9:], fields="Content-Encoding: gzip\r\n"),
    post("/later", b"who is it?"),
    get("/later"),
    get("/stream"),
    post("/echo", b"GET /smuggled HTTP/1.1\r\n\r\n", *UPGRADE),
    chunked("/echo", b"upgraded", fields="Connection: upgrade\r\nUpgrade: websocket\r\n"),
    get("http://elsewhere/echo?q=1", "X-Empty:", "Accept: a", "Accept: b"),
    get("/echo", "Connection: keep-alive", version="1.0"),
]
LAST = [
    b"",
    get("/refused") + get("/echo"),
    get("/echo", "Connection: close") + get("/echo"),
    get("/echo", version="1.0"),
    b"\x00",
    post("/echo", b"x" * 6_000),
    chunked("/echo", b"x" * 6_000),
    get("/echo", "X: " + "y" * 4_200),  # twice the limit: what is cut off within a read may go uncounted
    get("/echo", *["X: y"] * 30),
    post("/echo", b"hello", "Content-Encoding: br"),
    post("/echo", b"hello", "Content-Encoding: gzip"),
]
INSERTED = [b"\r\n", b"\n", b"0\r\n\r\n", b"\0", b" ", b"Content-Length: 1\r\n", b"Upgrade: x\r\n", b"Host: b\r\n"]


class Wire:
    """The transport of one connection, in memory: `sent` is what the client would have received."""

    def __init__(self, edge: Edge) -> None:
        self.sent = b""
        self.closed = False
        self.reading = True
        self.waiting: list[bytes] = []
        self.connection = Connection(edge)
        self._loop = edge.loop
        self._ended = False
        self.connection.connection_made(cast("asyncio.Transport", self))

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def write(self, data: bytes) -> None:
        assert data, "nothing is written by an empty write"
        if not self.closed:
            assert not self._ended, "a write after the end"
            self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._ended = True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self._loop.call_soon(self._deliver)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self.connection.connection_lost, None)

    abort = close

    def feed(self, data: bytes) -> None:
        """What the client sends; held back while reading is paused, as the kernel does."""
        self.waiting.append(data)
        self._deliver()

    def _deliver(self) -> None:
        while self.waiting and self.reading and not self.closed:
            self.connection.data_received(self.waiting.pop(0))


class Answers:
    """Reads what was sent: whole answers, and nothing else."""

    def __init__(self, sent: bytes) -> None:
        self.statuses: list[int] = []
        self.ended = 0
        parser = httptools.HttpResponseParser(self)
        self._parser = parser
        parser.feed_data(sent)

    def on_headers_complete(self) -> None:
        self.statuses.append(self._parser.get_status_code())

    def on_message_complete(self) -> None:
        self.ended += 1


def in_memory(test: Callable[[Edge, EchoApp], Any], limits: Limits = LIMITS) -> Any:
    """Run `test` on a loop, with an edge; nothing may reach the loop's handler, nothing may be left."""

    async def main() -> Any:
        faults: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        app = EchoApp()
        app.gate.set()
        app.admission.set_result(None)
        edge = Edge(app, limits)
        edge.date = DATE
        result = await test(edge, app)
        assert edge.buffered == 0
        assert faults == []
        return result

    return asyncio.run(main())


async def settle() -> None:
    """Let everything happen that can happen without time passing."""
    for _ in range(40):
        await asyncio.sleep(0)


async def let_time_pass(edge: Edge, wire: Wire) -> None:
    """Every deadline passes, one after another, until the connection is gone."""
    for _ in range(6):
        await settle()
        if wire.closed:
            break
        edge.now += 1_000
        for connection in [late for late in edge.connections if late.deadline < edge.now]:
            connection.expire()
    await settle()
    assert wire.closed
    assert not edge.connections


def answers_to(pieces: list[tuple[bytes, bool]]) -> bytes:
    """All that is answered to these pieces; after some of them the loop turns."""

    async def test(edge: Edge, app: EchoApp) -> bytes:
        wire = Wire(edge)
        for piece, turn in pieces:
            wire.feed(piece)
            if turn:
                await settle()
        await settle()
        sent = wire.sent
        await let_time_pass(edge, wire)
        return sent

    return cast("bytes", in_memory(test))


@functools.cache
def answer_alone(request: bytes) -> bytes:
    return answers_to([(request, True)])


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[tuple[bytes, bool]]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    edges = [0, *cuts, len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges) if start < end]
    return [(piece, draw(st.booleans())) for piece in pieces]


@given(st.data(), st.lists(st.sampled_from(REQUESTS), max_size=5), st.sampled_from(LAST))
@settings(max_examples=200, deadline=None)
def test_any_split_of_pipelined_traffic_is_answered_alike(
    data: st.DataObject, requests: list[bytes], last: bytes
) -> None:
    traffic = b"".join(requests) + last
    expected = b"".join(answer_alone(each) for each in requests)
    whole = answers_to([(traffic, True)])
    assert whole.startswith(expected)  # each is answered as if it stood alone
    assert answers_to(data.draw(splits(traffic))) == whole
    assert answers_to([(traffic[i : i + 1], False) for i in range(len(traffic))]) == whole


PLAIN = post("/gate", b"hello")
REPEATED = [
    PLAIN,
    get("/echo"),
    post("/gate", b"X" + PLAIN),
    post("/gate", b"X" + post("/echo?other", b"hello") + b"more"),
    chunked("/gate", b"X" + PLAIN),
]


@st.composite
def telling_splits(draw: st.DrawFn, requests: list[bytes]) -> list[tuple[bytes, bool]]:
    """Cuts where a request, or what looks like the head of one, begins or ends; what is waited for is answered after
    some of them."""
    traffic = b"".join(requests)
    ends = {*itertools.accumulate(map(len, requests)), *(found.end() for found in re.finditer(b"\r\n\r\n|X", traffic))}
    places = sorted(ends & set(range(1, len(traffic))))
    cuts = sorted(draw(st.sets(st.sampled_from(places), max_size=6)))
    pieces = [traffic[start:end] for start, end in itertools.pairwise([0, *cuts, len(traffic)])]
    return [(piece, draw(st.booleans())) for piece in pieces]


def gated_answers_to(pieces: list[tuple[bytes, bool]], limits: Limits) -> bytes:
    """All that is answered to these pieces, of which each is taken before the next; what waits for /gate is answered
    after some of them, and in the end."""

    async def test(edge: Edge, app: EchoApp) -> bytes:
        wire = Wire(edge)
        for piece, answered in [*pieces, (b"", True)]:
            app.gate.clear()
            if piece:
                wire.feed(piece)
            await settle()
            if answered:
                app.gate.set()
                await settle()
        sent = wire.sent
        await let_time_pass(edge, wire)
        return sent

    return cast("bytes", in_memory(test, limits))


@given(st.data(), st.lists(st.sampled_from(REPEATED), min_size=2, max_size=4), st.sampled_from([100, 2_000]))
@settings(max_examples=400, deadline=None)
def test_what_looks_like_a_head_that_comes_again_is_one_only_where_a_request_begins(
    data: st.DataObject, requests: list[bytes], head_bytes: int
) -> None:
    limits = msgspec.structs.replace(LIMITS, head_bytes=head_bytes)
    assert gated_answers_to(data.draw(telling_splits(requests)), limits) == b"".join(map(answer_alone, requests))


FALSE_HEAD = post("/gate", b"").replace(b"Host: test\r\n", b"")


@pytest.mark.parametrize(
    ("before", "body", "after"),
    [
        # The first is known, and in flight; what is left of the body is the first again.
        (PLAIN, PLAIN, b""),
        # What is left of the body is shorter than the body, so that a head in front of it would end before its end;
        # it comes again as a request, without a Host, which is to be refused.
        (b"", FALSE_HEAD + b"z", FALSE_HEAD),
        (b"", b"y" * 200 + FALSE_HEAD + b"z", b"y" * 200 + FALSE_HEAD),
    ],
    ids=["known and in flight", "shorter than its body", "read by pieces"],
)
def test_a_body_of_which_one_byte_came_with_its_head_is_no_request(before: bytes, body: bytes, after: bytes) -> None:
    first, second = get("/echo"), post("/gate", b"X" + body)
    pieces = [(before, False), ((first + second).removesuffix(body), True), (body, True), (after, True)]
    sent = gated_answers_to(pieces, msgspec.structs.replace(LIMITS, head_bytes=150))
    assert sent == b"".join(answer_alone(request) for request in (before, first, second, after) if request)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Valid traffic with a few bytes flipped, deleted, inserted, doubled or moved."""
    traffic = bytearray(b"".join(draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4))))
    traffic += draw(st.sampled_from(LAST))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(traffic) - 1))
        size = draw(st.integers(1, 8))
        match draw(st.sampled_from(["flip", "set", "delete", "insert", "double", "move"])):
            case "flip":
                traffic[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                traffic[at] = draw(st.sampled_from(b"\r\n\0 :;,0159afx\xff"))
            case "delete":
                del traffic[at : at + size]
            case "insert":
                traffic[at:at] = draw(st.sampled_from(INSERTED))
            case "double":
                traffic[at:at] = traffic[at : at + 20 * size]
            case "move":
                part = traffic[at : at + size]
                del traffic[at : at + size]
                traffic += part
        if not traffic:
            return b"x"
    return bytes(traffic)


@given(st.data(), damaged())
@settings(max_examples=500, deadline=None)
def test_damaged_traffic_is_answered_or_closed_and_never_harms_us(data: st.DataObject, traffic: bytes) -> None:
    async def test(edge: Edge, app: EchoApp) -> None:
        wire = Wire(edge)
        for piece, turn in data.draw(splits(traffic)):
            wire.feed(piece)
            if turn:
                await settle()
        await let_time_pass(edge, wire)
        answers = Answers(wire.sent.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))
        assert all(status == 200 or 400 <= status < 500 for status in answers.statuses)

    in_memory(test)


@given(st.data(), damaged())
@settings(max_examples=200, deadline=None)
def test_a_hang_up_anywhere_in_damaged_traffic_leaves_nothing(data: st.DataObject, traffic: bytes) -> None:
    async def test(edge: Edge, app: EchoApp) -> None:
        if data.draw(st.booleans()):
            app.gate.clear()  # streams are caught in their middle
        wire = Wire(edge)
        for piece, turn in data.draw(splits(traffic[: data.draw(st.integers(0, len(traffic)))])):
            wire.feed(piece)
            if turn:
                await settle()
        if not wire.closed:
            wire.connection.eof_received()
            wire.close()
        await settle()
        assert not edge.connections

    in_memory(test)
