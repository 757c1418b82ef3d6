"""A head that comes again on its connection: what is recognised, what is not, and that both are answered alike."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import pytest
from edge_app import EchoApp, edge, get, post, read_answer, run
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Limits
from penstock.errors import AuthenticationFailed
from penstock.http import repeats
from penstock.http.repeats import Repeats
from penstock.http.request import Request
from penstock.http.rules import shut_down


class Witness(EchoApp):
    """An EchoApp that notes of each request what it was given, and whether it was recognised."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[dict[bytes, bytes]] = []
        self.recognised: list[bool] = []
        self.refuses = False

    def admit(self, request: Request) -> Awaitable[None] | None:
        self.fields.append(dict(request.headers))
        self.recognised.append(request.known is not None)
        request.known = "found"
        if self.refuses:
            raise AuthenticationFailed("Not any more.")
        return super().admit(request)


def told(*requests: bytes, limits: Limits | None = None) -> tuple[Witness, list[tuple[int, bytes]]]:
    """Send each when the one before has been answered, on one connection: what the app saw, and the answers."""

    async def main() -> tuple[Witness, list[tuple[int, bytes]]]:
        answers = []
        async with edge(limits) as running, running.client() as client:
            running.edge.app = app = Witness()
            for request in requests:
                await client.send(request)
                answer = await read_answer(client)
                answers.append((answer.status, answer.body))
        return app, answers

    return run(main)


def test_a_head_that_comes_again_is_recognised_with_a_body_of_any_length() -> None:
    bodies = [b"one", b"two", b"three", b"", b"x" * 5000, b"four"]
    app, answers = told(*(post("/echo?q", body, "X-Mark: y") for body in bodies))
    assert answers == [(200, b"/echo:" + body) for body in bodies]
    assert app.recognised == [False, True, True, True, True, True]
    for fields, body in zip(app.fields, bodies, strict=True):
        assert fields == {b"host": b"test", b"content-length": b"%d" % len(body), b"x-mark": b"y"}
    assert {(request.method, request.path, request.query) for request in app.requests} == {(b"POST", b"/echo", b"q")}


def told_in_pieces(*sent: bytes) -> Witness:
    """Send each when all before has been answered, to an edge that reads pieces of 200 bytes; the last request of each
    is for /gate, whose answer waits until it was read whole."""

    async def main() -> Witness:
        async with edge(Limits(head_bytes=200)) as running, running.client() as client:
            running.edge.app = app = Witness()
            for data in sent:
                await client.send(data)
                await app.changes.wait_for(lambda: b"/gate" in app.begun)
                app.gate.set()
                for _ in app.begun:
                    assert (await read_answer(client)).status == 200
                app.gate.clear()
                app.begun.clear()
        return app

    return run(main)


def test_a_large_request_is_recognised_although_it_is_read_by_pieces() -> None:
    app = told_in_pieces(post("/gate", b"a" * 1000), post("/gate", b"b" * 3000), post("/gate", b"c"))
    assert app.recognised == [False, True, True]


def test_requests_that_come_together_are_never_taken_for_one() -> None:
    """The first is answered before the second is whole, so that in the end the second is the only one there is."""
    app = told_in_pieces(*[get("/first") + post("/gate", b"x" * 1000)] * 3)
    assert [request.path for request in app.requests] == [b"/first", b"/gate"] * 3
    assert app.recognised == [False] * 6


@pytest.mark.parametrize(
    "other",
    [
        post("/echo", b"one", "X-Mark: z"),
        post("/echo", b"one", "x-mark: y"),
        post("/echo2", b"one", "X-Mark: y"),
        post("/echo", b"one", "X-Mark: y", "X-More: y"),
        post("/echo", b"one", "X-Mark: y").replace(b"HTTP/1.1", b"HTTP/1.0"),
        get("/echo"),
    ],
)
def test_a_head_that_differs_is_not_recognised(other: bytes) -> None:
    first = post("/echo", b"one", "X-Mark: y")
    app, answers = told(first, other)
    assert app.recognised == [False, False]
    assert [status for status, _ in answers] == [200, 200]


@pytest.mark.parametrize(
    "request_",
    [
        get("/echo"),
        post("/echo", gzip.compress(b"packed"), "Content-Encoding: gzip"),
        post("/echo", b"one", "Expect: 200-ok"),
        post("/echo", b"one", "Connection: Upgrade", "Upgrade: h2c"),
        post("/echo", b"one", "X: " + "y" * repeats.MAX_HEAD),
        b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n",
        post("/echo", b"one", "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_a_head_that_is_not_plain_is_never_recognised(request_: bytes) -> None:
    app, answers = told(request_, request_, request_)
    assert app.recognised == [False] * 3
    assert [status for status, _ in answers] == [200] * 3


def test_a_body_that_is_too_large_is_refused_though_its_head_is_known() -> None:
    limits = Limits(body_bytes=10)
    _, answers = told(post("/echo", b"one"), post("/echo", b"two"), post("/echo", b"x" * 11), limits=limits)
    assert [status for status, _ in answers] == [200, 200, 413]


def test_what_is_recognised_is_judged_by_the_app_all_the_same() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            running.edge.app = app = Witness()
            for status in (200, 200, 401):
                app.refuses = status == 401
                await client.send(post("/echo", b"hello"))
                answer = await read_answer(client)
                assert answer.status == status
            assert (answer.fields["connection"], await client.read_all()) == ("close", b"")
            assert app.recognised == [False, True, True]
            assert running.edge.buffered == 0

    run(main)


def test_a_recognised_request_waits_for_its_admission_and_for_those_before_it() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            running.edge.app = app = Witness()
            app.admission.set_result(None)
            await client.send(post("/later", b"one"))
            await read_answer(client)
            app.admission = running.edge.loop.create_future()
            await client.send(post("/later", b"two"))
            await app.changes.wait_for(lambda: len(app.admitted) == 2)
            await client.send(post("/later", b"three") * 2)
            app.admission.set_result(None)
            assert [(await read_answer(client)).body for _ in range(3)] == [b"/later:two", *[b"/later:three"] * 2]
            assert app.recognised == [False, True, False, False]

    run(main)


def test_while_draining_nothing_is_recognised() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(post("/gate", b"one"))
            await running.until(lambda: running.app.begun)
            running.app.gate.set()
            await read_answer(client)
            running.edge.draining = True
            await client.send(post("/gate", b"two"))
            assert (await read_answer(client)).status == 503
            running.app.requests[0].stop(shut_down())

    run(main)


def request_of(head: bytes, body: bytes) -> Request:
    """What the parser makes of a request, as far as it matters here."""
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:] if line]
    way: Any = SimpleNamespace(fields={name.lower(): value for name, _, value in lines})
    request = Request(way, b"POST", b"/", b"")
    request.body = body
    return request


HEAD = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\nX-A: b\r\n\r\n"


@given(st.binary(max_size=40), st.integers(0, 120), st.integers(0, 2**70), st.binary(max_size=3))
def test_nothing_is_recognised_but_the_head_its_length_and_so_many_bytes(
    body: bytes, cut: int, length: int, more: bytes
) -> None:
    known = Repeats()
    known.remember(HEAD % 3 + b"one", request_of(HEAD % 3, b"one"))
    whole = HEAD % len(body) + body
    assert known.body(whole) == body
    assert known.body(whole[:cut]) == (body if cut >= len(whole) else None)
    assert known.body(whole + more) == (None if more else body)
    assert known.body(HEAD % length + body) == (body if length == len(body) else None)
    for wrong in (b"+%d", b"-%d", b" %d", b"%d ", b"0x%d", b"%d,1", b"%d\n", b""):
        assert known.body(HEAD.replace(b"%d", wrong % len(body) if wrong else b"") + body) is None


def test_who_never_repeats_a_head_is_not_remembered_for_ever() -> None:
    known = Repeats()
    for number in range(repeats.PATIENCE + 1):
        head = HEAD.replace(b"X-A: b", b"X-A: %d" % number)
        known.remember(head % 3 + b"one", request_of(head % 3, b"one"))
    assert known.body(head % 3 + b"two") is None
