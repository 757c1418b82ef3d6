"""The upstream client against scripted servers: every deadline, and how every ending of an answer is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from client_calls import OK, Peer, Told, hold, hold_after, keep_answering, sends, told_of, upstreamed
from edge_app import run

from penstock.config import Deadlines
from penstock.errors import FailureKind
from penstock.http import client

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("deadline", "sent", "kind"),
    [
        ("headers", b"", FailureKind.TIMEOUT_HEADERS),
        ("headers", b"HTTP/1.1 200 OK\r\nContent-", FailureKind.TIMEOUT_HEADERS),
        ("headers", b"HTTP/1.1 100 Continue\r\n\r\n", FailureKind.TIMEOUT_HEADERS),
        ("first_event", CHUNKED, FailureKind.TIMEOUT_FIRST_EVENT),
        ("first_event", CHUNKED + b"1\r\n:\r\n", FailureKind.TIMEOUT_FIRST_EVENT),
        ("total", CHUNKED + b"1\r\n:\r\n", FailureKind.TIMEOUT_TOTAL),
    ],
)
def test_each_deadline_ends_a_call_alone(deadline: str, sent: bytes, kind: FailureKind) -> None:
    async def say(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        await peer.gone()

    async def main() -> None:
        async with upstreamed(say) as both:
            _, told = await both.call(Deadlines(**{deadline: 0.15}))
            if deadline == "first_event":  # armed from the pool's own settings
                both.pool.deadlines = Deadlines(first_event=0.15)
            assert await told.ending() is kind
            assert both.pool.open == 0

    run(main)


class Broken(Told):
    """A sink that fails at a fault."""

    def on_fault(self, kind: FailureKind, message: str) -> None:
        super().on_fault(kind, message)
        raise ZeroDivisionError


def test_a_sink_that_fails_at_a_deadline_does_not_stop_the_deadlines_of_others() -> None:
    async def main() -> None:
        async with upstreamed(hold) as both:
            logged: list[Any] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["exception"]))
            broken = Broken()
            connection = await both.connection()
            connection.send(b"POST / HTTP/1.1\r\nHost: upstream\r\n", b"{}", broken, Deadlines(headers=0.05))
            _, told = await both.call(Deadlines(headers=0.4))
            assert await broken.ending() is FailureKind.TIMEOUT_HEADERS
            assert await told.ending() is FailureKind.TIMEOUT_HEADERS
            assert [type(error) for error in logged] == [ZeroDivisionError]

    run(main)


def test_silence_in_the_middle_of_an_answer_ends_it() -> None:
    async def fall_silent(peer: Peer) -> None:
        await peer.answer(CHUNKED + b"1\r\na\r\n")
        await peer.gone()

    async def main() -> None:
        async with upstreamed(fall_silent, deadlines={"idle": 0.15}) as both:
            connection, told = await both.call()
            await told.until(lambda: told.body)
            connection.first_event_seen()
            assert await told.ending() is FailureKind.TIMEOUT_IDLE

    run(main)


def test_an_answer_that_keeps_coming_is_never_idle() -> None:
    async def main() -> None:
        async def trickle(peer: Peer) -> None:
            await peer.answer(CHUNKED)
            for _ in range(12):
                await peer.send(b"1\r\na\r\n")
                await asyncio.sleep(0.05)
            await peer.send(b"0\r\n\r\n")
            await peer.gone()

        async with upstreamed(trickle, deadlines={"idle": 0.3}) as both:
            connection, told = await both.call()
            await told.until(lambda: told.body)
            connection.first_event_seen()
            assert await told.ending() == "end"
            assert told.body == b"a" * 12

    run(main)


def test_silence_is_not_counted_while_reading_is_paused() -> None:
    async def main() -> None:
        async with upstreamed(hold_after(CHUNKED + b"1\r\na\r\n"), deadlines={"idle": 0.15}) as both:
            connection, told = await both.call()
            await told.until(lambda: told.body)
            connection.first_event_seen()
            connection.pause()
            await asyncio.sleep(0.5)  # longer than the deadline
            assert told.endings == []
            connection.resume()
            assert await told.ending() is FailureKind.TIMEOUT_IDLE

    run(main)


def test_nothing_is_read_while_reading_is_paused() -> None:
    async def main() -> None:
        size = 20_000_000
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        async with upstreamed(sends(answer)) as both:
            connection, told = await both.call()
            await told.until(lambda: told.body)
            connection.pause()
            taken = len(told.body)
            await asyncio.sleep(0.1)
            assert len(told.body) == taken < size
            connection.resume()
            assert await told.ending() == "end"
            assert len(told.body) == size

    run(main)


# Endings.


def test_a_reused_connection_that_closes_before_it_answers_is_stale() -> None:
    async def answer_once(peer: Peer) -> None:
        await peer.answer()
        await peer.request()  # and closes without a word

    async def main() -> None:
        async with upstreamed(answer_once) as both:
            await both.ok()
            _, told = await both.call()
            assert await told.ending() is FailureKind.STALE
            assert both.pool.open == 0

    run(main)


def test_a_new_connection_that_closes_before_it_answers_is_not_stale() -> None:
    async def take_one(peer: Peer) -> None:
        await peer.request()

    async def main() -> None:
        async with upstreamed(take_one) as both:
            _, told = await both.call()
            assert await told.ending() is FailureKind.RESET

    run(main)


def test_a_reused_connection_that_breaks_after_a_byte_is_not_stale() -> None:
    async def main() -> None:
        async with upstreamed(sends(OK, b"HTTP/1.1 2")) as both:
            await both.ok()
            _, told = await both.call()
            assert await told.ending() is FailureKind.RESET

    run(main)


@pytest.mark.parametrize(
    ("answer", "status", "body", "kept"),
    [
        (OK, 200, b"ok", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", 1),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", 304, b"", 1),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok", 1),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK, 200, b"ok", 1),
        (CHUNKED + b"2\r\nok\r\n0\r\nX-Trailer: y\r\n\r\n", 200, b"ok", 1),
        (b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", 1),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", 0),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", 0),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", 1),
        (OK + b"GARBAGE", 200, b"ok", 0),
        (OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 200, b"ok", 0),
    ],
)
def test_an_answer_is_read_to_its_end(answer: bytes, status: int, body: bytes, kept: int) -> None:
    async def main() -> None:
        told, ending, open_connections = await told_of(answer)
        assert (ending, told.status, told.body, open_connections) == ("end", status, body, kept)

    run(main)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n"])
@pytest.mark.parametrize("body", [b"", b"all there is"])
def test_an_answer_may_end_with_its_connection(head: bytes, body: bytes) -> None:
    async def main() -> None:
        told, ending, kept = await told_of(head + body, close=True)
        assert (ending, told.status, told.body, kept) == ("end", 200, body, 0)

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        CHUNKED + b"2\r\nok\r\n",
        CHUNKED + b"5\r\nok",
        CHUNKED + b"2\r\nok\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_an_answer_cut_short_is_a_fault(answer: bytes) -> None:
    async def main() -> None:
        _, ending, kept = await told_of(answer, close=True)
        assert (ending, kept) == (FailureKind.RESET, 0)

    run(main)


def test_a_reset_in_the_middle_of_an_answer_is_a_fault() -> None:
    async def reset(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\n\r\npart of it")
        await asyncio.sleep(0.05)  # so that the part arrives before the reset destroys it
        peer.writer.transport.abort()

    async def main() -> None:
        async with upstreamed(reset) as both:
            _, told = await both.call(body=b"z" * 100)
            await told.until(lambda: told.body)
            assert await told.ending() in (FailureKind.RESET, "end")  # abort() may close in order: nothing was unread

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>hello</html>\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"xyz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nwhatever",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        CHUNKED + b"2\r\nok\r\n0\r\nX: " + b"y" * 400_000,  # whose parser would join it anew at every read
        CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 70_000,
        CHUNKED + b"2;" + b"x" * 400_000,
    ],
)
def test_what_is_not_an_answer_is_a_fault(answer: bytes) -> None:
    async def main() -> None:
        _, ending, kept = await told_of(answer)
        assert (ending, kept) == (FailureKind.MALFORMED, 0)

    run(main)


@pytest.mark.parametrize(
    "extra", [b"x", b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", OK, b"HTTP/1.1 408 Timeout\r\n"]
)
@pytest.mark.parametrize("together", [True, False])
def test_bytes_nobody_asked_for_never_reach_the_next_caller(extra: bytes, together: bool) -> None:
    async def main() -> None:
        send_extra = asyncio.Event()

        async def say_more(peer: Peer) -> None:
            await peer.answer(OK + extra if together else OK)
            if not together:
                await send_extra.wait()
                await peer.send(extra)
            await peer.gone()

        async with upstreamed(say_more, keep_answering) as both:
            await both.ok()
            if not together:
                assert both.pool.open == 1
                send_extra.set()
            await both.until(lambda: both.open == 0)
            assert both.pool.open == 0
            await both.ok()
            assert len(both.peers) == 2

    run(main)


def test_a_waiting_caller_is_not_given_a_connection_with_bytes_nobody_asked_for() -> None:
    async def main() -> None:
        async def say_more(peer: Peer) -> None:
            await peer.answer(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            await peer.gone()

        async with upstreamed(say_more, keep_answering, max_connections=1) as both:
            _, told = await both.call()
            waiting = asyncio.create_task(both.ok())
            assert await told.ending() == "end"
            await waiting
            assert len(both.peers) == 2

    run(main)


def test_an_idle_connection_that_the_server_closes_is_forgotten() -> None:
    async def main() -> None:
        async with upstreamed(sends(OK), keep_answering) as both:
            await both.ok()
            await both.until(lambda: both.open == 0)
            await asyncio.sleep(0.01)
            assert both.pool.open == 0
            await both.ok()

    run(main)


def test_an_aborted_call_hears_no_more_and_its_connection_is_closed() -> None:
    async def main() -> None:
        async with upstreamed(hold_after(CHUNKED + b"1\r\na\r\n")) as both:
            connection, told = await both.call()
            await told.until(lambda: told.body)
            connection.abort()
            await both.until(lambda: both.open == 0)
            assert told.endings == []
            assert both.pool.open == 0

    run(main)


def test_aborting_after_the_end_does_nothing() -> None:
    async def main() -> None:
        async with upstreamed() as both:
            connection = await both.ok()
            connection.abort()
            assert await both.ok() is connection

    run(main)


# An answer whose rest does not matter.


def test_a_detached_connection_is_kept_when_its_answer_ends_soon() -> None:
    async def main() -> None:
        finish = asyncio.Event()

        async def end_later(peer: Peer) -> None:
            await peer.answer(CHUNKED + b"1\r\na\r\n")
            await finish.wait()
            await peer.send(b"1\r\nb\r\n0\r\n\r\n")
            await keep_answering(peer)

        async with upstreamed(end_later) as both:
            connection, told = await both.call()
            await told.until(lambda: told.body)
            assert connection.detach(), "a rest is to come"
            assert both.pool.take() is None
            finish.set()
            async with asyncio.timeout(5):
                while (again := both.pool.take()) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            assert again is connection
            assert not again.detach(), "nothing is"
            both.pool.give_back(again)
            assert await both.ok() is connection
            assert (told.body, told.endings) == (b"a", [])

    run(main)


def test_a_detached_connection_is_closed_when_its_answer_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "DRAIN_SECONDS", 0.1)

    async def main() -> None:
        async with upstreamed(hold_after(CHUNKED + b"1\r\na\r\n")) as both:
            connection, told = await both.call()
            await told.until(lambda: told.body)
            connection.pause()
            connection.detach()
            await both.until(lambda: both.open == 0)
            assert both.pool.open == 0
            assert told.endings == []

    run(main)
