"""Draining: nothing new is accepted, what is in flight ends within the limit, and nothing hangs."""

from __future__ import annotations

import asyncio

import pytest
from edge_app import EchoApp, Running, edge, get, post, read_answer, run

from penstock.http import rules
from penstock.http.request import Request


async def draining(running: Running, limit: float) -> asyncio.Task[None]:
    """Begin to drain."""
    task = asyncio.create_task(running.server.drain(limit))
    await running.see(lambda: running.edge.draining)
    return task


def test_idle_connections_are_closed_at_once() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as used, running.client() as fresh:
            await used.send(get("/echo"))
            await read_answer(used)
            await running.see(lambda: len(running.edge.connections) == 2)
            await running.server.drain(20)
            assert await used.read_all() == b""
            assert await fresh.read_all() == b""

    run(main)


def test_no_more_connections_are_accepted() -> None:
    async def main() -> None:
        async with edge() as running:
            await running.server.drain(1)
            with pytest.raises(ConnectionRefusedError):
                async with running.client():
                    pass

    run(main)


@pytest.mark.parametrize(("path", "body"), [("/gate", b"/gate:"), ("/stream", b"first,second,last")])
def test_what_is_in_flight_ends_well_and_is_its_connections_last(path: str, body: bytes) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get(path))
            await running.until(lambda: running.app.begun)
            task = await draining(running, 20)
            running.app.gate.set()
            answer = await read_answer(client)
            assert (answer.status, answer.body) == (200, body)
            assert await client.read_all() == b""
            await task
            assert running.app.ended == [(path.encode(), "ok")]

    run(main)


def test_a_body_that_is_still_coming_is_waited_for() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            whole = post("/echo", b"hello")
            await client.send(whole[:-3])
            await running.until(lambda: running.app.admitted)
            task = await draining(running, 20)
            await client.send(whole[-3:])
            answer = await read_answer(client)
            assert (answer.status, answer.fields["connection"], answer.body) == (200, "close", b"/echo:hello")
            await task

    run(main)


def test_an_admission_that_is_still_waited_for_is_honoured() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/later"))
            await running.until(lambda: running.app.admitted)
            task = await draining(running, 20)
            running.app.admission.set_result(None)
            assert (await read_answer(client)).status == 200
            await task

    run(main)


def test_a_request_whose_head_ends_while_draining_is_refused() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            whole = get("/echo")
            await client.send(whole[:-2])
            await running.see(lambda: any(connection.framing for connection in running.edge.connections))
            task = await draining(running, 20)
            await client.send(whole[-2:])
            answer = await read_answer(client)
            assert (answer.status, answer.fields["connection"], answer.fields["retry-after"]) == (503, "close", "1")
            assert running.app.admitted == []
            await client.close()
            await task

    run(main)


@pytest.mark.parametrize(("path", "body"), [("/gate", b"cut short"), ("/stream", b"first,cut short")])
def test_what_outlasts_the_limit_is_told_so(path: str, body: bytes) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(post(path, b"some body"))
            await running.until(lambda: running.app.begun)
            await running.server.drain(0.05)
            assert running.app.ended == [(path.encode(), "drained")]
            assert (await read_answer(client)).body == body

    run(main)


def test_what_is_stopped_in_the_moment_in_which_it_arrives_is_told_so() -> None:
    async def main() -> None:
        class Hasty(EchoApp):
            def admit(self, request: Request) -> None:
                running.edge.loop.call_soon(request.stop, rules.shut_down())

        async with edge() as running, running.client() as client:
            running.edge.app = Hasty()
            await client.send(post("/gate", b"some body"))
            assert (await read_answer(client)).body == b"cut short"

    run(main)


@pytest.mark.parametrize("sent", [post("/echo", b"hello")[:-1], get("/later")], ids=["half a body", "not admitted yet"])
def test_what_did_not_get_so_far_is_refused_at_the_limit(sent: bytes) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(sent)
            await running.until(lambda: running.app.admitted)
            task = await draining(running, 0.05)
            assert (await read_answer(client)).status == 503
            await client.close()
            await task
            assert running.app.begun == []

    run(main)


def test_a_client_that_reads_nothing_does_not_hold_up_the_end() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            client.writer.transport.pause_reading()
            await client.send(get("/big?30000000"))
            await running.until(lambda: running.app.ended)
            async with asyncio.timeout(5):
                await running.server.drain(0.05)
            await running.empty()

    run(main)
