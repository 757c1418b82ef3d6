"""The edge answers in order, sees every hang-up, and speaks HTTP/1.1, HTTP/1.0 and TLS."""

from __future__ import annotations

import asyncio
import email.utils
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from edge_app import chunked, edge, get, post, read_answer, run

from penstock.config import Limits
from support.certificates import make_certificate
from support.raw import Raw, http_request


def test_a_connection_is_kept_between_requests() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            for number in range(3):
                await client.send(post("/echo", b"%d" % number))
                answer = await read_answer(client)
                assert (answer.status, answer.body) == (200, b"/echo:%d" % number)
                assert "connection" not in answer.fields
            assert len(running.edge.connections) == 1

    run(main)


def test_every_answer_is_dated() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/echo"))
            date = email.utils.parsedate_to_datetime((await read_answer(client)).fields["date"])
            assert abs(date.timestamp() - time.time()) < 3

    run(main)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/gate") + post("/echo", b"two") + chunked("/echo", b"thr", b"ee") + get("/stream"))
            await running.until(lambda: running.app.begun)
            assert running.app.begun == [b"/gate"]  # the next begins when this one has ended
            running.app.gate.set()
            bodies = [(await read_answer(client)).body for _ in range(4)]
            assert bodies == [b"/gate:", b"/echo:two", b"/echo:three", b"first,second,last"]

    run(main)


def test_many_small_pipelined_requests_are_all_answered() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/echo") * 1_000)
            for _ in range(1_000):
                assert (await read_answer(client)).status == 200

    run(main)


def test_a_client_may_go_on_pipelining_for_long() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(post("/echo", b"z" * 1_000) * 10)
            for _ in range(300):  # there are always ten on their way: three hundred kilobytes in the end
                await client.send(post("/echo", b"z" * 1_000))
                assert (await read_answer(client)).status == 200

    run(main)


@pytest.mark.parametrize(
    "behind", [get("/echo") * 3_000, post("/echo", b"z" * 70_000), chunked("/echo", *[b"z" * 1_000] * 70)]
)
def test_more_than_64_kib_behind_a_request_in_flight_close_the_connection(behind: bytes) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/gate"))
            await running.until(lambda: running.app.begun)
            client.writer.write(behind)
            await running.until(lambda: running.app.ended == [(b"/gate", "hangup")])

    run(main)


def test_requests_sent_in_one_piece_with_the_first_count_as_pipelined_too() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/gate") + get("/echo") * 3_000)
            await running.until(lambda: running.app.ended == [(b"/gate", "hangup")])

    run(main)


@pytest.mark.parametrize("path", ["/gate", "/stream"])
def test_a_client_that_closes_is_a_hang_up(path: str) -> None:
    async def main() -> None:
        async with edge() as running:
            async with running.client() as client:
                await client.send(post(path, b"some body"))
                await running.until(lambda: running.app.begun)
            await running.until(lambda: running.app.ended == [(path.encode(), "hangup")])

    run(main)


@pytest.mark.parametrize("path", ["/gate", "/stream"])
def test_a_client_that_half_closes_is_a_hang_up(path: str) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(post(path, b"some body"))
            await running.until(lambda: running.app.begun)
            client.writer.write_eof()
            await running.until(lambda: running.app.ended == [(path.encode(), "hangup")])
            assert running.edge.buffered == 0

    run(main)


def test_a_half_close_is_seen_while_the_client_does_not_read() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            client.writer.transport.pause_reading()
            await client.send(get(f"/flood?{1 << 30}"))
            await running.until(lambda: running.app.floods and running.app.floods[0].paused)
            client.writer.write_eof()
            await running.until(lambda: running.app.ended == [(b"/flood", "hangup")])
            await running.empty()

    run(main)


def test_what_was_pipelined_is_forgotten_with_a_hang_up() -> None:
    async def main() -> None:
        async with edge() as running:
            async with running.client() as client:
                await client.send(post("/gate", b"one") + post("/echo", b"two") + post("/echo", b"three")[:-2])
                await running.until(lambda: len(running.app.admitted) == 3)
            await running.until(lambda: running.app.ended == [(b"/gate", "hangup")])
            await running.empty()
            assert running.app.begun == [b"/gate"]
            assert running.edge.buffered == 0

    run(main)


def test_an_answer_that_is_never_ended_is_cut_so_that_the_client_sees_it() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/broken"))
            try:
                data = await client.read_all()
            except ConnectionResetError:
                return
            assert not data.endswith(b"0\r\n\r\n")

    run(main)


def test_connection_close_is_honoured() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/echo", "Connection: close"))
            answer = await client.read_all()
            assert b"Connection: close\r\n" in answer
            assert answer.endswith(b"/echo:")

    run(main)


def test_what_follows_connection_close_is_not_answered() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/echo", "Connection: close") + get("/echo"))
            assert (await client.read_all()).count(b"HTTP/1.1 ") == 1

    run(main)


def test_http_1_0_closes_after_its_answer() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(b"GET /echo HTTP/1.0\r\n\r\n")
            answer = await client.read_all()
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Connection: close\r\n" in answer

    run(main)


def test_http_1_0_may_ask_to_be_kept() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            for _ in range(2):
                await client.send(get("/echo", "Connection: keep-alive", version="1.0"))
                assert (await read_answer(client)).fields["connection"] == "keep-alive"

    run(main)


def test_http_1_0_gets_a_stream_that_ends_with_the_connection() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            running.app.gate.set()
            await client.send(get("/stream", "Connection: keep-alive", version="1.0"))
            head, _, body = (await client.read_all()).partition(b"\r\n\r\n")
            assert b"Transfer-Encoding" not in head
            assert b"Connection: close" in head
            assert body == b"first,second,last"

    run(main)


def test_head_is_answered_without_a_body() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(http_request("HEAD", "/echo") + get("/echo"))
            assert (await read_answer(client, "HEAD")).fields["content-length"] == "6"
            assert (await read_answer(client)).body == b"/echo:"

    run(main)


def test_the_absolute_form_of_a_target_is_understood() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("http://elsewhere/echo?q=1"))
            assert (await read_answer(client)).body == b"/echo:"

    run(main)


def test_a_unix_socket_is_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with edge(uds=tmp_path / "edge.sock") as running, running.client() as client:
            await client.send(post("/echo", b"local"))
            assert (await read_answer(client)).body == b"/echo:local"
            assert running.app.requests[0].peer == ""

    run(main)


def test_tls_is_served(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    async def main() -> None:
        async with (
            edge(tls=certificate.server_context()) as running,
            running.client(certificate.client_context()) as client,
        ):
            running.app.gate.set()
            await client.send(post("/echo", b"secret") + get("/stream"))
            assert (await read_answer(client)).body == b"/echo:secret"
            assert (await read_answer(client)).body == b"first,second,last"
            assert running.app.requests[0].peer == "127.0.0.1"

    run(main)


def test_a_hang_up_over_tls_is_seen(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    async def main() -> None:
        async with edge(tls=certificate.server_context()) as running:
            async with running.client(certificate.client_context()) as client:
                await client.send(get("/gate"))
                await running.until(lambda: running.app.begun)
            await running.until(lambda: running.app.ended == [(b"/gate", "hangup")])

    run(main)


def test_a_client_that_never_finishes_its_tls_handshake_is_dropped(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    async def main() -> None:
        async with (
            edge(Limits(header_timeout=0.2), tls=certificate.server_context()) as running,
            running.client() as client,
        ):
            await client.send(b"\x16\x03\x01")  # the first bytes of a handshake
            try:
                assert await client.read_all() == b""
            except ConnectionResetError:
                pass

    run(main)


async def closed(client: Raw) -> None:
    """Wait until the other side has closed without a word."""
    try:
        assert await client.read_all() == b""
    except ConnectionResetError:
        pass


def test_clients_that_are_about_to_agree_on_tls_are_bounded_and_give_their_places_back(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    async def main() -> None:
        async with edge(Limits(connections=2), tls=certificate.server_context()) as running:
            for _ in range(3):  # more than there are places, one after the other
                async with running.client() as one, running.client() as other:
                    for client in (one, other):
                        await client.send(b"\x16\x03\x01")  # the first bytes of a handshake
                    async with running.client() as third:
                        await closed(third)
                    await one.send(b"nonsense")
                    await closed(one)
                async with running.client(certificate.client_context()) as client:
                    await client.send(get("/echo"))
                    assert (await read_answer(client)).status == 200

    run(main)


def test_who_has_not_agreed_on_tls_when_all_else_has_ended_is_closed(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            async with edge(tls=certificate.server_context()) as running:
                client = await stack.enter_async_context(running.client())
                await client.send(b"\x16\x03\x01")
                async with running.client(certificate.client_context()) as another:  # so that the first was accepted
                    await another.send(get("/echo"))
                    await read_answer(another)
            await closed(client)

    run(main)


def test_plain_http_to_a_tls_port_harms_nothing(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    async def main() -> None:
        async with edge(tls=certificate.server_context()) as running:
            async with running.client() as client:
                await client.send(get("/echo"))
                try:
                    assert b"HTTP/1.1" not in await client.read_all()
                except ConnectionResetError:
                    pass
            async with running.client(certificate.client_context()) as client:
                await client.send(get("/echo"))
                assert (await read_answer(client)).status == 200

    run(main)


def test_a_request_cancelled_before_its_task_began_leaves_no_body_behind() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(post("/gate", b"first") + post("/echo", b"second"))
            await running.until(lambda: len(running.app.admitted) == 2)
            (connection,) = running.edge.connections
            first = connection.active
            assert first is not None
            first.respond(200, b"", b"")  # the second's task is made now, and cancelled before its first step
            connection.connection_lost(None)
            await asyncio.sleep(0)
            assert running.app.begun == [b"/gate"]
            assert running.edge.buffered == 0

    run(main)
