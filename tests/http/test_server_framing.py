"""Bodies and their framing: chunks, gzip, Expect, upgrades that are not made, and the bounds on what is not body."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
from edge_app import chunked, edge, get, post, read_answer, run

from penstock.config import Limits

PLAIN = b"The pipe feeds the turbine. " * 100
GZIP = "Content-Encoding: gzip"
UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


def test_a_chunked_body_is_put_together() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(chunked("/echo", b"a", b"bc", b"def" * 5_000, end=b"0\r\nX-Trailer: 1\r\n\r\n"))
            assert (await read_answer(client)).body == b"/echo:abc" + b"def" * 5_000
            await client.send(get("/echo"))
            assert (await read_answer(client)).body == b"/echo:"

    run(main)


def test_a_trailer_never_becomes_a_field() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(
                chunked("/echo", b"a", end=b"0\r\nAuthorization: Bearer x\r\nHost: b\r\n\r\n") + get("/echo")
            )
            await read_answer(client)
            await read_answer(client)
            assert [request.headers.get(b"authorization") for request in running.app.requests] == [None, None]
            assert [request.headers[b"host"] for request in running.app.requests] == [b"test", b"test"]

    run(main)


def test_a_body_in_chunks_of_one_byte_is_served() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            body = b"z" * 100_000
            await client.send(chunked("/echo", *[b"z"] * len(body)) + get("/echo"))
            answer = await read_answer(client)
            assert (answer.status, len(answer.body)) == (200, len(b"/echo:") + len(body))
            assert (await read_answer(client)).body == b"/echo:"

    run(main)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
def test_a_gzip_body_is_inflated(coding: str) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(post("/echo", gzip.compress(PLAIN), f"Content-Encoding: {coding}"))
            assert (await read_answer(client)).body == b"/echo:" + PLAIN

    run(main)


def test_a_gzip_body_may_come_byte_by_byte() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            packed = gzip.compress(PLAIN)
            await client.send(
                chunked("/echo", *[packed[i : i + 1] for i in range(len(packed))], fields=GZIP + "\r\n") + get("/echo")
            )
            assert (await read_answer(client)).body == b"/echo:" + PLAIN
            assert (await read_answer(client)).body == b"/echo:"

    run(main)


def test_a_gzip_bomb_is_refused_and_never_inflated_whole() -> None:
    bomb = gzip.compress(bytes(64 << 20))

    async def main() -> None:
        async with edge(Limits(body_bytes=100_000)) as running, running.client() as client:
            tracemalloc.start()
            await client.send(post("/echo", bomb, GZIP))
            assert (await read_answer(client)).status == 413
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 4 << 20
            assert running.edge.buffered == 0

    run(main)


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(PLAIN)[:-9],
        gzip.compress(PLAIN)[:-1],
        gzip.compress(PLAIN)[:5],
        b"",
        gzip.compress(PLAIN) + b"x",
        gzip.compress(PLAIN) * 2,
        b"not gzip at all",
        gzip.compress(PLAIN)[:-8] + bytes(8),
    ],
    ids=["cut", "cut by one", "cut in its head", "empty", "a byte more", "two members", "no gzip", "wrong checksum"],
)
@pytest.mark.parametrize("split", [False, True])
def test_a_gzip_body_that_is_not_one_whole_stream_is_refused(packed: bytes, split: bool) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            pieces = [packed[i : i + 1] for i in range(len(packed))]
            sent = chunked("/echo", *pieces, fields=GZIP + "\r\n") if split else post("/echo", packed, GZIP)
            await client.send(sent)
            assert (await read_answer(client)).status == 400
            assert running.app.begun == []

    run(main)


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "identity, gzip"])
def test_other_encodings_are_refused(coding: str) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(post("/echo", b"x", f"Content-Encoding: {coding}"))
            assert (await read_answer(client)).status == 415
            assert running.app.admitted == []

    run(main)


def test_the_body_is_asked_for_once_its_head_was_admitted() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            whole = post("/echo", b"hello", "Expect: 100-continue")
            await client.send(whole[:-5])
            assert (await read_answer(client)).status == 100
            await client.send(b"hello")
            answer = await read_answer(client)
            assert (answer.status, answer.body) == (200, b"/echo:hello")

    run(main)


@pytest.mark.parametrize(
    ("path", "field", "status"),
    [("/refused", "X: y", 401), ("/echo", "Content-Encoding: br", 415), ("/echo", "Host: b", 400)],
)
def test_a_refused_head_never_asks_for_its_body(path: str, field: str, status: int) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(post(path, b"hello", "Expect: 100-continue", field)[:-5])
            assert (await read_answer(client)).status == status
            assert await client.read_all() == b""

    run(main)


def test_the_body_behind_another_answer_is_asked_for_in_its_turn() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/gate") + post("/echo", b"hello", "Expect: 100-continue")[:-5])
            await running.until(lambda: len(running.app.admitted) == 2)
            running.app.gate.set()
            assert [(await read_answer(client)).status for _ in range(2)] == [200, 100]
            await client.send(b"hello")
            assert (await read_answer(client)).body == b"/echo:hello"

    run(main)


def test_http_1_0_is_never_sent_an_interim_answer() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(b"POST /echo HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
            assert (await client.read_all()).startswith(b"HTTP/1.1 200 OK\r\n")

    run(main)


@pytest.mark.parametrize("body", [b"", b"hello", b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"])
@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_wish_to_upgrade_is_ignored_and_the_body_stays_the_body(body: bytes, in_chunks: bool) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            fields = "".join(f"{line}\r\n" for line in UPGRADE)
            chunks = [body] if body else []
            whole = chunked("/echo", *chunks, fields=fields) if in_chunks else post("/echo", body, *UPGRADE)
            await client.send(whole + get("/echo"))
            assert (await read_answer(client)).body == b"/echo:" + body
            assert (await read_answer(client)).body == b"/echo:"
            assert running.app.admitted == [b"/echo", b"/echo"]

    run(main)


def test_a_wish_to_upgrade_that_comes_byte_by_byte_is_ignored_too() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            whole = post("/echo", b"hello", *UPGRADE)
            running_connection = None
            await client.send(get("/echo"))
            await read_answer(client)
            (running_connection,) = running.edge.connections
            for i in range(len(whole)):
                running_connection.data_received(whole[i : i + 1])
            assert (await read_answer(client)).body == b"/echo:hello"

    run(main)


def test_connect_is_refused_even_where_its_target_is_a_path() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(b"CONNECT /echo HTTP/1.1\r\nHost: test\r\n\r\n" + get("/echo"))
            assert (await read_answer(client)).status == 400
            assert await client.read_all() == b""
            assert running.app.begun == []

    run(main)


def test_hundreds_of_wishes_to_upgrade_are_all_answered() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/echo", "Connection: upgrade", "Upgrade: x") * 600)
            for _ in range(600):
                assert (await read_answer(client)).status == 200

    run(main)


@pytest.mark.parametrize("size", [40_000, 70_000, 300_000])
def test_a_head_above_the_limit_is_refused_with_one_answer(size: int) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/echo", "X: " + "y" * size))
            assert (await read_answer(client)).status == 431
            assert await client.read_all() == b""
            assert running.app.admitted == []

    run(main)


def test_a_head_just_below_the_limit_is_served() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/echo", "X: " + "y" * 32_000) * 3)
            assert [(await read_answer(client)).status for _ in range(3)] == [200] * 3

    run(main)


def test_too_many_fields_are_refused() -> None:
    async def main() -> None:
        async with edge(Limits(headers=10)) as running, running.client() as client:
            await client.send(get("/echo", *[f"X-{i}: y" for i in range(9)]))
            assert (await read_answer(client)).status == 200
            await client.send(get("/echo", *["X: y"] * 10))
            assert (await read_answer(client)).status == 431

    run(main)


@pytest.mark.parametrize(
    "flood",
    [
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;"
        + b"e" * 100_000
        + b"\r\nx\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"1;" + b"e" * 90 + b"\r\nx\r\n") * 2_000,
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /echo HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"GET /" + b"a" * 100_000,
    ],
    ids=["one extension", "many extensions", "one trailer", "many trailers", "fields", "target"],
)
def test_framing_without_end_is_refused(flood: bytes) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(flood)
            assert (await read_answer(client)).status == 431
            assert await client.read_all() == b""

    run(main)
