"""What is gathered until the end of a turn: it leaves whole and in order, and nothing of it when it was given up."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Callable
from typing import Any

from client_calls import HEAD, OK, Told, keep_answering, upstreamed
from edge_app import run
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Limits
from penstock.errors import FailureKind, Refusal
from penstock.http.connection import Connection, Edge
from penstock.http.outbox import MOST_BYTES, GatheringTransport, Outbox
from penstock.http.request import Request


class Body:
    """What a call holds on to."""


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it, until it is closed."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = ""
        self.broken = broken
        self.size = 0
        self.on_write: Callable[[], object] = lambda: None

    def write(self, data: Any) -> None:
        if self.broken:
            raise RuntimeError("broken")
        self.writes.append(data)
        self.on_write()

    def is_closing(self) -> bool:
        return bool(self.closed)

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return self.size

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write_eof(self) -> None:
        self.writes.append(b"EOF")

    def close(self) -> None:
        self.closed = "close"

    def abort(self) -> None:
        self.closed = "abort"


def gathered() -> tuple[Wire, GatheringTransport]:
    """A client's transport, and what there is of it on the wire."""
    wire = Wire()
    return wire, GatheringTransport(wire, Outbox(asyncio.get_running_loop()))


async def end_of_turn() -> None:
    await asyncio.sleep(0)


async def heard(*steps: Callable[[], object]) -> None:
    """What a transport says in one turn, outside of any task."""

    def say() -> None:
        for step in steps:
            step()

    asyncio.get_running_loop().call_soon(say)
    await end_of_turn()


def test_the_pieces_of_a_turn_leave_as_one_when_it_ends() -> None:
    async def main() -> None:
        outbox, wires = Outbox(asyncio.get_running_loop()), [Wire(), Wire()]
        first, second = (GatheringTransport(wire, outbox) for wire in wires)
        for transport, piece in ((first, b"a"), (second, b"1"), (first, b"b"), (second, b"2"), (first, b"c")):
            transport.write(piece)
        assert [wire.writes for wire in wires] == [[], []]
        assert first.get_write_buffer_size() == 3
        await end_of_turn()
        assert [wire.writes for wire in wires] == [[b"abc"], [b"12"]]
        first.write(b"d")
        await end_of_turn()
        assert wires[0].writes == [b"abc", b"d"]
        assert first.get_write_buffer_size() == 0

    run(main)


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from(["turn", "flush"])), max_size=30))
def test_whatever_the_pieces_and_the_turns_the_bytes_are_the_same(steps: list[bytes | str]) -> None:
    async def main() -> None:
        wire, transport = gathered()
        for step in steps:
            if isinstance(step, bytes):
                transport.write(step)
            elif step == "turn":
                await end_of_turn()
            else:
                transport.flush()
        transport.close()
        assert b"".join(wire.writes) == b"".join(step for step in steps if isinstance(step, bytes))
        await end_of_turn()
        assert wire.closed == "close"

    run(main)


def test_what_is_much_is_written_at_once() -> None:
    async def main() -> None:
        wire, transport = gathered()
        transport.write(b"a")
        transport.write(b"b" * MOST_BYTES)
        assert wire.writes == [b"a" + b"b" * MOST_BYTES]
        await end_of_turn()
        assert len(wire.writes) == 1

    run(main)


def test_what_was_written_before_the_end_is_not_held_back_by_it() -> None:
    async def main() -> None:
        for end in ("close", "abort", "write_eof"):
            wire, transport = gathered()
            transport.write(b"last words")
            getattr(transport, end)()
            assert wire.writes == ([b"last words"] if end != "write_eof" else [b"last words", b"EOF"])

    run(main)


def test_what_comes_too_late_for_a_client_is_not_written() -> None:
    async def main() -> None:
        wire, transport = gathered()
        transport.write(b"a")
        wire.closed = "by the other side"
        await end_of_turn()
        assert wire.writes == []

    run(main)


def test_one_that_breaks_takes_nothing_from_those_behind_it() -> None:
    async def main() -> None:
        loop, complaints = asyncio.get_running_loop(), list[Any]()
        loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
        outbox, wires = Outbox(loop), [Wire(), Wire(broken=True), Wire()]
        for wire in wires:
            GatheringTransport(wire, outbox).write(b"a")
        await end_of_turn()
        await end_of_turn()
        assert [wire.writes for wire in wires] == [[b"a"], [], [b"a"]]
        assert [str(complaint) for complaint in complaints] == ["broken"]

    run(main)


# Connections.


class Silent:
    """An app that answers everything at once, with as many bytes as the path says."""

    def admit(self, request: Request) -> None:
        return None

    async def answer(self, request: Request) -> None:
        request.respond(200, b"", b"x" * int(request.path[1:]))

    def refuse(self, request: Request | None, refusal: Refusal) -> tuple[bytes, bytes]:
        return b"", b""


def connected(edge: Edge, wire: Wire) -> Connection:
    connection = Connection(edge)
    connection.connection_made(wire)
    return connection


def asking(size: int, fields: bytes = b"") -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: a\r\n%s\r\n" % (size, fields)


def test_who_asks_and_hangs_up_in_one_turn_gets_the_answer_that_was_made() -> None:
    async def main() -> None:
        wire = Wire()
        connection = connected(Edge(Silent(), Limits()), wire)
        await heard(
            lambda: connection.data_received(asking(5)),
            connection.eof_received,
            lambda: setattr(wire, "closed", "by the other side"),  # as TLS does it, in the same read
        )
        await end_of_turn()
        assert [written.endswith(b"\r\n\r\nxxxxx") for written in wire.writes] == [True]

    run(main)


def test_a_reader_of_a_last_answer_has_the_time_of_a_slow_one_though_closing_found_it_slow() -> None:
    async def main() -> None:
        wire = Wire()
        connection = connected(Edge(Silent(), Limits()), wire)
        wire.on_write = connection.pause_writing
        wire.size = 70_000
        await heard(lambda: connection.data_received(asking(100, b"Connection: close\r\n")))
        assert (wire.closed, connection.unwritable) == ("close", True)
        connection.expire()
        assert wire.closed == "close"
        assert connection.deadline == connection.edge.now + Limits().idle_timeout
        connection.expire()
        assert wire.closed == "abort", "it took nothing meanwhile"

    run(main)


# Calls.


def test_a_call_begins_when_it_is_sent() -> None:
    async def main() -> None:
        async with upstreamed() as both:
            told, begun = Told(), list[str]()
            connection = await both.connection()
            connection.send(HEAD, b"{}", told, both.pool.deadlines, begins=lambda: begun.append("begun"))
            assert begun == []
            assert await told.ending() == "end"
            assert begun == ["begun"]

    run(main)


def test_a_call_that_is_given_up_in_its_turn_never_begins_and_nothing_of_it_is_sent() -> None:
    async def main() -> None:
        heard: list[bytes] = []

        async def listen(peer: Any) -> None:
            heard.append(await peer.reader.read())

        async with upstreamed(listen) as both:
            begun: list[str] = []
            connection = await both.connection()
            connection.send(HEAD, b"{}", Told(), both.pool.deadlines, begins=lambda: begun.append("begun"))
            connection.abort()
            await both.until(lambda: heard)
            assert (heard, begun) == ([b""], [])
            assert both.pool.open == 0

    run(main)


def test_what_an_upstream_says_before_a_call_is_sent_is_no_answer_to_it() -> None:
    async def main() -> None:
        async with upstreamed(keep_answering) as both:
            await both.ok()
            told, begun = Told(), list[str]()
            connection = await both.connection()
            connection.send(HEAD, b"{}", told, both.pool.deadlines, begins=lambda: begun.append("begun"))
            connection.data_received(OK)
            assert told.endings == [FailureKind.STALE]
            await end_of_turn()
            assert (begun, both.pool.open) == ([], 0)

    run(main)


def test_nothing_of_a_call_is_kept_once_it_is_sent() -> None:
    async def main() -> None:
        async with upstreamed() as both:
            told, connection = Told(), await both.connection()
            body = Body()
            gone = weakref.ref(body)
            connection.send(HEAD, b"{}", told, both.pool.deadlines, begins=functools.partial(bool, body))
            del body
            assert gone() is not None
            assert await told.ending() == "end"
            assert gone() is None

    run(main)


def test_whoever_waits_for_a_call_that_could_not_begin_is_told() -> None:
    async def main() -> None:
        async with upstreamed() as both:
            complaints: list[Any] = []
            handler = asyncio.get_running_loop().get_exception_handler()
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["exception"]))

            def begins() -> None:
                raise ValueError("no room")

            told = Told()
            (await both.connection()).send(HEAD, b"{}", told, both.pool.deadlines, begins=begins)
            assert await told.ending() is FailureKind.RESET
            assert told.message == "was not sent the call"
            assert [str(complaint) for complaint in complaints] == ["no room"]
            assert both.pool.open == 0
            asyncio.get_running_loop().set_exception_handler(handler)

    run(main)
