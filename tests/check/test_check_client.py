"""The check's client sees framing as it is, and says in words what is no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.check.client import Answer, Connection, Place, Trouble, Unreachable, parse_place
from penstock.check.events import parse_events, parse_stream

GET = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"


def talk(act: Callable[[Connection], Awaitable[Any]], *writes: bytes, patience: float = 10.0) -> Any:
    """Connect to a server that sends these bytes once it was sent something, and closes."""

    async def main() -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            for data in writes:
                writer.write(data)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        place = Place("127.0.0.1", server.sockets[0].getsockname()[1], "/v1", tls=False)
        async with server, Connection(place, patience) as line:
            return await act(line)

    return asyncio.run(main())


def answer(*writes: bytes) -> Answer:
    got = talk(lambda line: line.exchange(GET), *writes)
    assert isinstance(got, Answer)
    return got


def trouble(*writes: bytes) -> str:
    with pytest.raises(Trouble) as caught:
        answer(*writes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wire", "framing", "closing"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "length", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi", "length", True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", "length", True),
        (b"HTTP/1.1 200 OK\r\n\r\nhi", "close", True),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\nt: x\r\n\r\n",
            "chunked",
            False,
        ),
    ],
)
def test_each_framing_is_read_and_named(wire: bytes, framing: str, closing: bool) -> None:
    got = answer(wire)
    assert (got.status, got.body, got.framing, got.closing) == (200, b"hi", framing, closing)


def test_interim_answers_are_noted() -> None:
    got = answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    assert (got.interim, got.status, got.framing) == ((100,), 204, "none")


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200", "closed after b'HTTP/1.1 200'"),
        (b"<html>\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n", "a header line is broken"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi", "after 2 of 5 bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "content-length is 'x'"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n", "this check takes"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", "a chunk has no size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffff\r\n", "goes on after"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhi", "closed inside a chunk"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n", "before the body's last chunk"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 80_000, "does not end"),
    ],
)
def test_what_is_no_answer_is_told_in_words(wire: bytes, said: str) -> None:
    assert said in trouble(wire)


def test_a_body_without_an_end_is_not_read_for_ever() -> None:
    assert "goes on after" in trouble(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * (9 * 1024 * 1024))


def test_silence_is_borne_for_its_time_only() -> None:
    async def silent() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        place = Place("127.0.0.1", server.sockets[0].getsockname()[1], "", tls=False)
        async with server, Connection(place, 0.05) as line:
            await line.exchange(GET)

    with pytest.raises(Trouble, match=r"sent nothing within 0\.05 s"):
        asyncio.run(silent())


def test_where_nothing_listens_the_server_is_unreachable() -> None:
    async def connect() -> None:
        async with Connection(Place("127.0.0.1", 1, "", tls=False), 5):
            raise AssertionError

    with pytest.raises(Unreachable, match="no connection"):
        asyncio.run(connect())


def test_a_glance_reads_only_what_comes_first_of_a_stream() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    got = talk(lambda line: line.glance(GET), head + b"data: 1\n\n")
    assert (got.status, got.framing, got.body) == (200, "begun", b"data: 1\n\n")
    whole = talk(lambda line: line.glance(GET), b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\n{}")
    assert (whole.status, whole.framing, whole.body) == (400, "length", b"{}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("https://llm.example.com/v1/", "https://llm.example.com/v1"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_a_base_url_is_read_as_sdks_take_it(url: str, shown: str) -> None:
    assert parse_place(url).url == shown


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://x/v1", "http://", "http://u:p@x/v1", "http://x/v1?a", "http://x:99999", "http://x/é"],
)
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"it must|the host|[Pp]ort"):
        parse_place(url)


def test_events_keep_what_a_lenient_parser_forgives() -> None:
    body = b": hi\nid: 7\ndata: a\ndata: b\n\nevent: ping\r\n\r\ndata\n\ndata: [DONE]"
    first, second, third, last = parse_events(body)
    assert first.fields == (("", "hi"), ("id", "7"), ("data", "a"), ("data", "b"))
    assert (first.data, second.data, third.data) == ("a\nb", None, "")
    assert (second.values("event"), last.whole, first.whole) == (["ping"], False, True)


def test_a_stream_is_its_chunks_up_to_done() -> None:
    body = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\ndata: x\n\ndata: [DONE]\n\ndata: {}\n\n'
    stream = parse_stream(Answer(200, (), body, "close"))
    assert (len(stream.chunks), stream.broken, stream.done, stream.text()) == (1, ("x",), True, "a")
    assert len(stream.events) == 4


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser_of_streams(body: bytes) -> None:
    stream = parse_stream(Answer(200, (), body, "close"))
    assert stream.text() is not None
    assert sum(not event.whole for event in stream.events) <= 1
