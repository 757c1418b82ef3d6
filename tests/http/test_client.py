"""The upstream client against scripted servers: how connections are made, reused, waited for and closed."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from client_calls import HEAD, OK, Peer, hold, keep_answering, outcome, refused, resolve_to, settings, upstreamed
from edge_app import run

from penstock.errors import FailureKind
from penstock.http import client
from penstock.http.client import JOINED, Pool
from penstock.http.connecting import connect
from penstock.types import Origin
from support.certificates import Certificate, make_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


# Reuse and the cap.


def test_a_connection_is_reused() -> None:
    async def main() -> None:
        async with upstreamed() as both:
            first = await both.ok()
            assert [await both.ok() for _ in range(3)] == [first] * 3
            assert len(both.peers) == 1

    run(main)


@pytest.mark.parametrize("size", [0, JOINED, JOINED + 1, 3_000_000])
@pytest.mark.parametrize("secure", [False, True])
def test_a_call_arrives_whole_whatever_its_size(size: int, secure: bool, certificate: Certificate) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    arrived = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            arrived.append(await peer.request())
            await peer.send(OK)

    async def main() -> None:
        context = certificate.server_context() if secure else None
        async with upstreamed(script, tls=context, ca_file=str(certificate.cert) if secure else None) as both:
            for _ in range(2):
                _, told = await both.call(body=body)
                assert await told.ending() == "end", told.message

    run(main)
    assert arrived == [HEAD + b"Content-Length: %d\r\n\r\n%s" % (size, body)] * 2


def test_the_connection_used_last_is_taken_first() -> None:
    async def main() -> None:
        async with upstreamed() as both:
            (first, one), (second, two) = await both.call(), await both.call()
            assert [await one.ending(), await two.ending()] == ["end", "end"]
            assert both.pool.take() is second
            assert both.pool.take() is first
            assert both.pool.take() is None

    run(main)


def test_a_full_pool_is_waited_for_at_most_so_long() -> None:
    async def main() -> None:
        async with upstreamed(hold, max_connections=2, pool_wait=0.1) as both:
            await both.call()
            await both.call()
            assert (await refused(both.connection()))[0] is FailureKind.TIMEOUT_POOL
            assert both.pool.open == 2

    run(main)


def test_who_waits_first_is_served_first() -> None:
    async def main() -> None:
        async with upstreamed(max_connections=1) as both:
            connection = await both.connection()
            order: list[int] = []

            async def wait(number: int) -> None:
                await both.ok()
                order.append(number)

            waiting = [asyncio.create_task(wait(number)) for number in range(5)]
            await asyncio.sleep(0)
            both.pool.give_back(connection)
            await asyncio.gather(*waiting)
            assert order == [0, 1, 2, 3, 4]
            assert len(both.peers) == 1

    run(main)


def test_a_place_that_is_freed_goes_to_who_waits() -> None:
    async def main() -> None:
        async with upstreamed(hold, keep_answering, max_connections=1) as both:
            first, _ = await both.call()
            waiting = asyncio.create_task(both.ok())
            await both.until(lambda: both.open == 1)
            first.abort()
            await waiting
            assert both.pool.open == 1

    run(main)


def test_a_waiter_whose_connection_dies_on_its_way_gets_another() -> None:
    async def main() -> None:
        async with upstreamed(max_connections=1) as both:
            connection = await both.connection()
            waiting = asyncio.create_task(both.ok())
            await asyncio.sleep(0)
            both.pool.give_back(connection)
            connection.close()  # in the same moment
            assert await waiting is not connection
            both.consistent()

    run(main)


# Connecting.


def test_a_refused_connection_is_told_as_such_and_takes_no_place() -> None:
    async def main() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            pool = Pool(Origin("http", "127.0.0.1", closed.getsockname()[1]), settings())
            assert await refused(connect(pool)) == (
                FailureKind.CONNECT,
                "could not be reached (connection refused)",
            )
            assert pool.open == 0

    run(main)


@pytest.mark.parametrize("name", ["nowhere.invalid", "a" * 64 + ".example", "two..dots"])
def test_a_name_that_leads_nowhere_is_told_as_such(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host: str, port: int, **more: object) -> object:
            host.encode("idna")  # as the system's resolver does first
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo, raising=False)
        pool = Pool(Origin("http", name, 80), settings())
        kind, message = await refused(connect(pool))
        assert kind is FailureKind.CONNECT
        assert "its name" in message
        assert pool.open == 0

    run(main)


def test_a_connect_that_hangs_is_given_up() -> None:
    async def main() -> None:
        with socket.socket() as full, socket.socket() as filler:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())  # the queue is full: the next gets no answer
            fillers = [socket.socket() for _ in range(3)]
            for more in fillers:
                more.setblocking(False)
                more.connect_ex(full.getsockname())
            pool = Pool(Origin("http", "127.0.0.1", full.getsockname()[1]), settings(deadlines={"connect": 0.2}))
            assert (await refused(connect(pool)))[0] is FailureKind.TIMEOUT_CONNECT
            assert pool.open == 0
            for more in fillers:
                more.close()

    run(main)


def test_the_second_address_answers_where_the_first_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            async with upstreamed() as both:
                resolve_to(monkeypatch, closed.getsockname(), None)
                await both.ok()
                assert both.pool.open == 1

    run(main)


def test_an_address_that_hangs_leaves_the_next_its_share(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate
) -> None:
    async def main() -> None:
        with socket.socket() as silent:  # it takes connections and never says a word: the handshake hangs
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            async with upstreamed(
                tls=certificate.server_context(), ca_file=str(certificate.cert), deadlines={"connect": 1.0}
            ) as both:
                resolve_to(monkeypatch, silent.getsockname(), None)
                started = asyncio.get_running_loop().time()
                first = await both.ok()
                assert 0.4 < asyncio.get_running_loop().time() - started < 0.9
                first.close()
                started = asyncio.get_running_loop().time()
                await both.ok()  # the address that answered is tried first from now on
                assert asyncio.get_running_loop().time() - started < 0.4

    run(main)


def test_addresses_that_all_hang_end_at_the_deadline(monkeypatch: pytest.MonkeyPatch, certificate: Certificate) -> None:
    async def main() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            resolve_to(monkeypatch, silent.getsockname(), silent.getsockname())
            pool = Pool(Origin("https", "localhost", 1), settings(deadlines={"connect": 0.3}))
            started = asyncio.get_running_loop().time()
            assert (await refused(connect(pool)))[0] is FailureKind.TIMEOUT_CONNECT
            assert asyncio.get_running_loop().time() - started < 0.6
            assert pool.open == 0

    run(main)


def test_a_server_that_closes_as_it_accepts_takes_no_place() -> None:
    async def close_at_once(peer: Peer) -> None:
        peer.writer.transport.abort()

    async def main() -> None:
        async with upstreamed(close_at_once) as both:
            for _ in range(20):
                assert await outcome(both) in (FailureKind.CONNECT, FailureKind.RESET)
            assert both.pool.open == 0

    run(main)


def test_a_unix_socket_is_called(tmp_path: Path) -> None:
    async def main() -> None:
        async with upstreamed(uds=tmp_path / "upstream.sock") as both:
            await both.ok()

    run(main)


def test_a_unix_socket_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        pool = Pool(Origin("http", "localhost", 80, str(tmp_path / "none.sock")), settings())
        assert await refused(connect(pool)) == (FailureKind.CONNECT, "could not be reached (connection refused)")
        assert pool.open == 0

    run(main)


# TLS.


def test_a_certificate_of_ones_own_authority_is_trusted(certificate: Certificate) -> None:
    async def main() -> None:
        async with upstreamed(tls=certificate.server_context(), ca_file=str(certificate.cert)) as both:
            first = await both.ok()
            assert await both.ok() is first

    run(main)


@pytest.mark.parametrize(("name", "trusted"), [("localhost", False), ("somewhere.example", True)])
def test_a_certificate_that_does_not_vouch_for_the_server_is_refused(
    certificate: Certificate, name: str, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        resolve = loop.getaddrinfo
        monkeypatch.setattr(
            loop, "getaddrinfo", lambda host, *a, **more: resolve("127.0.0.1", *a, **more), raising=False
        )
        ca_file = str(certificate.cert) if trusted else None
        async with upstreamed(tls=certificate.server_context(), name=name, ca_file=ca_file) as both:
            assert await refused(both.connection()) == (
                FailureKind.CONNECT,
                "could not be reached (its TLS certificate is not trusted)",
            )
            assert both.pool.open == 0

    run(main)


def test_a_client_certificate_is_shown_where_it_is_required(certificate: Certificate, tmp_path: Path) -> None:
    own = make_certificate(tmp_path, "client")
    context = certificate.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(own.cert)

    async def main() -> None:
        async with upstreamed(
            tls=context, ca_file=str(certificate.cert), client_cert=str(own.cert), client_key=str(own.key)
        ) as both:
            await both.ok()

    run(main)


def test_a_missing_client_certificate_is_a_failure_and_not_a_hang(certificate: Certificate) -> None:
    context = certificate.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate.cert)

    async def main() -> None:
        async with upstreamed(tls=context, ca_file=str(certificate.cert)) as both:
            # TLS 1.3 tells the client only after its handshake.
            assert await outcome(both) in (FailureKind.CONNECT, FailureKind.RESET)
            assert both.pool.open == 0

    run(main)


# The end of it all.


def test_connections_that_are_idle_for_long_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "KEEP_IDLE", 0.2)

    async def main() -> None:
        async with upstreamed() as both:
            await both.ok()
            assert both.pool.open == 1
            await both.until(lambda: both.open == 0)
            assert both.pool.open == 0

    run(main)


def test_closing_the_pool_ends_everything() -> None:
    async def main() -> None:
        async with upstreamed(keep_answering, hold, max_connections=2) as both:
            (idle, one), (_, two) = await both.call(), await both.call()
            assert await one.ending() == "end"
            busy_again = both.pool.take()
            assert busy_again is idle
            waiting = asyncio.create_task(refused(both.connection()))
            await asyncio.sleep(0)
            both.pool.close()
            assert await two.ending() is FailureKind.RESET
            assert (await waiting)[0] is FailureKind.CONNECT
            assert (await refused(both.connection()))[0] is FailureKind.CONNECT
            assert both.pool.open == 0

    run(main)
