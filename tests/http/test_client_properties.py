"""A call that is given up at any moment leaves nothing: no connection, no place taken, no future waited for."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from client_calls import HEAD, Peer, Told, Upstreamed, keep_answering, resolve_to, upstreamed
from edge_app import run

from support.certificates import Certificate, make_certificate

STEPS = 200  # more than any of these calls takes


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def cancelled_after(steps: int, task: asyncio.Task[None]) -> bool:
    """Let the loop turn so often, then cancel; whether the task was cancelled rather than through."""
    for _ in range(steps):
        if task.done():
            break
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()  # a cancellation must not come out as another exception
    return task.cancelled()


async def one_call(both: Upstreamed) -> None:
    """What a request does with a pool: the connection is aborted if it is given up."""
    connection = await both.connection()
    told = Told()
    connection.send(HEAD, b"{}", told, both.pool.deadlines)
    try:
        assert await told.ending() == "end", told.message
    finally:
        if not told.endings:  # else it may be another's call by now
            connection.abort()


Place = Callable[[], AbstractAsyncContextManager[Upstreamed]]


async def give_up_everywhere(place: Place) -> None:
    """Cancel a call after each number of turns, until it is through before that."""
    for steps in range(STEPS):
        async with place() as both:
            was_cancelled = await cancelled_after(steps, asyncio.create_task(one_call(both)))
            await both.until(lambda: both.open <= both.pool.open)
            both.consistent()
            assert both.pool.open <= 1
            await both.ok()  # and the pool works on
        if not was_cancelled:
            assert steps > 3
            return
    raise AssertionError("the call was never through")


def test_giving_up_a_fresh_connection_leaves_nothing() -> None:
    run(lambda: give_up_everywhere(upstreamed))


def test_giving_up_a_tls_connection_leaves_nothing(certificate: Certificate) -> None:
    run(lambda: give_up_everywhere(lambda: upstreamed(tls=certificate.server_context(), ca_file=str(certificate.cert))))


def test_giving_up_a_unix_connection_leaves_nothing(tmp_path: Path) -> None:
    run(lambda: give_up_everywhere(lambda: upstreamed(uds=tmp_path / "upstream.sock")))


def test_giving_up_among_several_addresses_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # nobody listens: it refuses

            resolve_to(monkeypatch, closed.getsockname(), None)
            await give_up_everywhere(upstreamed)

    run(main)


def test_giving_up_waiting_for_a_place_leaves_nothing() -> None:
    """The pool is full; its one connection is given back while the waiting call is given up."""

    async def main() -> None:
        through = 0
        for steps in range(40):
            for release in range(20):
                through += await waiting_call(steps, release)
        assert 0 < through < 800  # both happened

    async def waiting_call(steps: int, release: int) -> bool:
        gate = asyncio.Event()

        async def answer_late(peer: Peer) -> None:
            await peer.request()
            await gate.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await keep_answering(peer)

        async with upstreamed(answer_late, keep_answering, max_connections=1) as both:
            first, told = await both.call()
            waiting = asyncio.create_task(one_call(both))
            cancelling = asyncio.create_task(cancelled_after(steps, waiting))
            for _ in range(release):
                await asyncio.sleep(0)
            if release % 2:
                gate.set()
                assert await told.ending() == "end"
            else:
                first.abort()
                gate.set()
            was_cancelled = await cancelling
            await both.until(lambda: both.open <= both.pool.open)
            both.consistent()
            assert both.pool.open <= 1
            await both.ok()
            return not was_cancelled

    run(main)


def test_a_pool_closed_at_any_moment_of_a_connect_leaves_nothing() -> None:
    async def main() -> None:
        for steps in range(30):
            async with upstreamed(max_connections=1) as both:
                calls = [asyncio.create_task(one_call(both)) for _ in range(3)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                both.pool.close()
                await asyncio.wait(calls)
                for call in calls:
                    call.exception()  # a PoolError or an AssertionError that names the fault: either was told
                assert both.pool.open == 0

    run(main)


def test_no_socket_is_left_to_the_garbage_collector(certificate: Certificate) -> None:
    """ResourceWarnings are errors here, but raised in __del__ they are only printed: so they are looked for."""

    async def main() -> None:
        for steps in range(12):
            async with upstreamed(tls=certificate.server_context(), ca_file=str(certificate.cert)) as both:
                await cancelled_after(steps, asyncio.create_task(one_call(both)))

    run(main)
    gc.collect()
