"""Requests whose admission must be waited for: nothing is read meanwhile, whatever comes of it."""

from __future__ import annotations

import asyncio

import pytest
from edge_app import Running, edge, get, post, read_answer, run

from penstock.config import Limits
from penstock.errors import AuthenticationFailed


async def asked(running: Running) -> None:
    await running.until(lambda: running.app.admitted)


@pytest.mark.parametrize("held_back", [0, 5], ids=["body there already", "body to come"])
def test_an_admitted_request_is_answered(held_back: int) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            whole = post("/later", b"hello")
            await client.send(whole[: len(whole) - held_back])
            await asked(running)
            running.app.admission.set_result(None)
            await client.send(whole[len(whole) - held_back :])
            assert (await read_answer(client)).body == b"/later:hello"

    run(main)


@pytest.mark.parametrize("held_back", [0, 5], ids=["body there already", "body to come"])
def test_a_refusal_is_told_and_ends_the_connection(held_back: int) -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            whole = post("/later", b"hello") + get("/echo")
            await client.send(whole[: len(whole) - held_back])
            await asked(running)
            running.app.admission.set_exception(AuthenticationFailed("Unknown."))
            answer = await read_answer(client)
            assert (answer.status, answer.body) == (401, b"Unknown.")
            assert await client.read_all() == b""
            assert running.app.begun == []

    run(main)


def test_the_body_is_not_read_before_the_admission() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            body = b"z" * 8_000_000
            sending = asyncio.create_task(client.send(post("/later", body)))
            await asked(running)
            await asyncio.wait({sending}, timeout=0.2)  # long enough for all of it, if it were read
            assert running.edge.buffered < 1_000_000
            assert not sending.done()
            running.app.admission.set_result(None)
            assert len((await read_answer(client)).body) == len(b"/later:") + len(body)
            await sending

    run(main)


def test_a_hang_up_meanwhile_ends_the_request() -> None:
    async def main() -> None:
        async with edge() as running:
            async with running.client() as client:
                await client.send(post("/later", b"hello"))
                await asked(running)
            running.app.admission.set_result(None)
            await running.empty()
            assert running.edge.buffered == 0

    run(main)


def test_an_admission_may_take_longer_than_a_head_may() -> None:
    async def main() -> None:
        limits = Limits(header_timeout=0.2, body_timeout=0.2, idle_timeout=0.2)
        async with edge(limits) as running, running.client() as client:
            await client.send(get("/later"))
            await asked(running)
            await asyncio.sleep(0.5)  # every deadline of the client's has passed; the delay is ours
            running.app.admission.set_result(None)
            assert (await read_answer(client)).status == 200

    run(main)


def test_a_request_is_answered_although_the_next_is_malformed() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/later") + b"this is not HTTP\r\n\r\n")
            await asked(running)
            running.app.admission.set_result(None)
            assert [(await read_answer(client)).status for _ in range(2)] == [200, 400]
            assert await client.read_all() == b""

    run(main)


def test_a_request_in_flight_is_answered_although_the_next_is_malformed() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/gate") + get("/echo"))
            await running.until(lambda: running.app.begun)
            await client.send(b"this is not HTTP\r\n\r\n")
            await running.see(lambda: all(connection.closing for connection in running.edge.connections))
            running.app.gate.set()
            answers = [await read_answer(client) for _ in range(3)]
            assert [answer.status for answer in answers] == [200, 200, 400]
            assert [answer.fields.get("connection") for answer in answers] == [None, None, "close"]
            assert await client.read_all() == b""

    run(main)


def test_a_pipelined_request_waits_for_its_admission_and_its_turn() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/gate") + post("/later", b"hello") + get("/echo"))
            await running.until(lambda: len(running.app.admitted) == 3)
            running.app.gate.set()
            assert (await read_answer(client)).body == b"/gate:"
            running.app.admission.set_result(None)
            assert [(await read_answer(client)).body for _ in range(2)] == [b"/later:hello", b"/echo:"]

    run(main)


def test_a_refused_head_closes_without_its_body_being_read() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(post("/refused", b"hello")[:-5])
            assert (await read_answer(client)).status == 401
            assert running.app.begun == []

    run(main)


def test_a_fault_in_an_admission_is_ours() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            await client.send(get("/later"))
            await asked(running)
            running.app.admission.set_exception(RuntimeError("broken"))
            assert (await read_answer(client)).status == 500
            assert [fault["message"] for fault in running.faults] == ["admission failed"]
            running.faults.clear()

    run(main)
