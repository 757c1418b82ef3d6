"""What one worker takes from its clients: bytes, connections and time; and that refusals are heard."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from edge_app import chunked, edge, get, post, read_answer, run

from penstock.config import Limits

TEN_MEGABYTES = b"z" * 10_000_000


def test_a_body_above_the_limit_is_refused_by_its_length_before_it_is_read() -> None:
    async def main() -> None:
        async with edge(Limits(body_bytes=1_000)) as running, running.client() as client:
            await client.send(post("/echo", b"z" * 1_001)[:-1_001])
            assert (await read_answer(client)).status == 413
            assert running.app.admitted == []

    run(main)


def test_a_chunked_body_above_the_limit_is_refused_while_it_is_read() -> None:
    async def main() -> None:
        async with edge(Limits(body_bytes=1_000)) as running, running.client() as client:
            await client.send(chunked("/echo", *[b"z" * 100] * 11, end=b""))
            assert (await read_answer(client)).status == 413
            assert running.app.begun == []

    run(main)


def test_a_body_of_exactly_the_limit_is_served() -> None:
    async def main() -> None:
        async with edge(Limits(body_bytes=1_000)) as running, running.client() as client:
            body = b"z" * 1_000
            await client.send(
                post("/echo", body)
                + chunked("/echo", *[b"z"] * 1_000)
                + post("/echo", gzip.compress(body), "Content-Encoding: gzip")
            )
            for _ in range(3):
                assert len((await read_answer(client)).body) == 1_006

    run(main)


@pytest.mark.parametrize(
    "sent",
    [post("/refused", TEN_MEGABYTES), chunked("/echo", *[b"z" * 100_000] * 100), b"\0" + TEN_MEGABYTES],
    ids=["by its head", "in its middle", "no HTTP"],
)
def test_a_client_that_is_still_sending_receives_the_whole_refusal(sent: bytes) -> None:
    async def main() -> None:
        limits = Limits(body_bytes=50_000_000 if b"/refused" in sent else 1_000_000)
        async with edge(limits) as running, running.client() as client:
            await client.send(sent)  # all of it, before anything is read
            answer = await read_answer(client)
            assert answer.status in (400, 401, 413)
            assert answer.fields["connection"] == "close"
            assert await client.read_all() == b""

    run(main)


def test_bodies_share_a_budget_that_is_given_back() -> None:
    async def main() -> None:
        async with edge(Limits(buffered_bytes=100_000)) as running, running.client() as first:
            await first.send(post("/gate", b"z" * 60_000))
            await running.until(lambda: running.app.begun)
            async with running.client() as second:
                await second.send(post("/echo", b"z" * 60_000))
                answer = await read_answer(second)
                assert (answer.status, answer.fields["retry-after"]) == (503, "1")
            running.app.gate.set()
            assert (await read_answer(first)).status == 200
            assert running.edge.buffered == 0
            async with running.client() as third:
                await third.send(post("/echo", b"z" * 60_000))
                assert (await read_answer(third)).status == 200

    run(main)


@pytest.mark.parametrize("packed", [False, True])
def test_a_hang_up_in_the_middle_of_a_body_gives_its_bytes_back(packed: bool) -> None:
    async def main() -> None:
        async with edge() as running:
            async with running.client() as client:
                body = gzip.compress(b"z" * 10_000, 0) if packed else b"z" * 10_000
                fields = ["Content-Encoding: gzip"] if packed else []
                await client.send(post("/echo", body, *fields)[:-10])
                await running.see(lambda: running.edge.buffered >= 9_000)
            await running.empty()
            assert running.edge.buffered == 0

    run(main)


def test_connections_above_the_limit_are_refused() -> None:
    async def main() -> None:
        async with edge(Limits(connections=2)) as running:
            async with running.client() as first, running.client() as second:
                for client in (first, second):
                    await client.send(get("/echo"))
                    assert (await read_answer(client)).status == 200
                async with running.client() as third:
                    answer = await read_answer(third)
                    assert (answer.status, answer.fields["retry-after"]) == (503, "1")
                    assert await third.read_all() == b""
            await running.empty()
            async with running.client() as fourth:
                await fourth.send(get("/echo"))
                assert (await read_answer(fourth)).status == 200

    run(main)


async def dribble(client_writer: asyncio.StreamWriter, data: bytes) -> None:
    """A byte every few milliseconds, until nobody takes them any more."""
    try:
        for i in range(len(data)):
            client_writer.write(data[i : i + 1])
            await client_writer.drain()
            await asyncio.sleep(0.02)
    except ConnectionError:
        pass


@pytest.mark.parametrize("before", [b"", get("/echo")], ids=["first", "second"])
@pytest.mark.parametrize("sent", [get("/echo") * 20, post("/echo", b"z" * 500), chunked("/echo", *[b"z"] * 200)])
def test_a_dribbling_sender_is_told_that_it_took_too_long(before: bytes, sent: bytes) -> None:
    async def main() -> None:
        async with edge(Limits(header_timeout=0.2, body_timeout=0.2)) as running, running.client() as client:
            if before:
                await client.send(before)
                await read_answer(client)
            slowly = sent if sent.startswith(b"POST") else sent.replace(b"\r\n", b"", 1)
            head = slowly.index(b"\r\n\r\n") + 4 if slowly.startswith(b"POST") else 0
            await client.send(slowly[:head])
            sending = asyncio.create_task(dribble(client.writer, slowly[head:]))
            answer = await read_answer(client)
            sending.cancel()
            assert (answer.status, answer.fields["connection"]) == (408, "close")

    run(main)


def test_a_head_that_stops_after_half_is_told_so() -> None:
    async def main() -> None:
        async with edge(Limits(header_timeout=0.2)) as running, running.client() as client:
            await client.send(get("/echo")[:-2])
            assert (await read_answer(client)).status == 408

    run(main)


def test_half_a_head_behind_a_whole_request_is_told_so_too() -> None:
    async def main() -> None:
        async with edge(Limits(header_timeout=0.2)) as running, running.client() as client:
            await client.send(get("/echo") + get("/echo")[:-2])
            assert [(await read_answer(client)).status for _ in range(2)] == [200, 408]

    run(main)


def test_a_client_that_says_nothing_is_closed_without_a_word() -> None:
    async def main() -> None:
        async with edge(Limits(header_timeout=0.2)) as running, running.client() as client:
            assert await client.read_all() == b""

    run(main)


def test_an_idle_connection_is_closed_without_a_word() -> None:
    async def main() -> None:
        async with edge(Limits(idle_timeout=0.2)) as running, running.client() as client:
            await client.send(get("/echo"))
            await read_answer(client)
            assert await client.read_all() == b""

    run(main)


def test_no_deadline_of_the_clients_runs_while_it_waits_for_us() -> None:
    async def main() -> None:
        limits = Limits(header_timeout=0.2, body_timeout=0.2, idle_timeout=0.2)
        async with edge(limits) as running, running.client() as client:
            await client.send(get("/gate"))
            await running.until(lambda: running.app.begun)
            await asyncio.sleep(0.5)  # longer than all of them
            running.app.gate.set()
            assert (await read_answer(client)).status == 200

    run(main)


def test_a_slow_reader_pauses_its_stream_and_is_resumed() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            size = 30 << 20
            client.writer.transport.pause_reading()
            await client.send(get(f"/flood?{size}"))
            await running.until(lambda: running.app.floods and running.app.floods[0].paused)
            sent = running.app.floods[0].sent
            assert sent < size
            client.writer.transport.resume_reading()
            assert len((await read_answer(client)).body) == size
            assert running.app.ended == [(b"/flood", "ok")]

    run(main)


def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    async def main() -> None:
        async with edge(Limits(idle_timeout=0.3)) as running, running.client() as client:
            client.writer.transport.pause_reading()
            await client.send(get(f"/flood?{1 << 30}"))
            await running.until(lambda: running.app.ended == [(b"/flood", "hangup")])
            await running.empty()

    run(main)


@pytest.mark.parametrize("fields", [[], ["Connection: close"]], ids=["kept", "closing"])
def test_a_reader_that_takes_nothing_of_a_finished_answer_is_cut_off(fields: list[str]) -> None:
    async def main() -> None:
        async with edge(Limits(idle_timeout=0.2)) as running, running.client() as client:
            client.writer.transport.pause_reading()
            await client.send(get("/big?30000000", *fields))
            await running.until(lambda: running.app.ended == [(b"/big", "ok")])
            await running.empty()

    run(main)


def test_a_slow_reader_that_makes_progress_is_not_cut_off() -> None:
    async def main() -> None:
        async with edge(Limits(idle_timeout=0.3)) as running, running.client() as client:
            size = 20_000_000
            await client.send(get(f"/big?{size}", "Connection: close"))
            received = 0
            while piece := await client.reader.read(400_000):
                received += len(piece)
                await asyncio.sleep(0.02)  # a second in all: several idle timeouts
            assert received > size

    run(main)


def test_a_client_that_pipelines_and_never_reads_is_not_answered_without_end() -> None:
    async def main() -> None:
        async with edge(Limits(idle_timeout=0.3)) as running, running.client() as client:
            client.writer.transport.pause_reading()
            await client.send(get("/big?4000000") * 20)
            await running.until(lambda: running.app.ended)
            await running.empty()
            assert len(running.app.begun) < 10

    run(main)


def test_a_stream_behind_an_unread_answer_begins_when_that_was_read() -> None:
    async def main() -> None:
        async with edge() as running, running.client() as client:
            client.writer.transport.pause_reading()
            await client.send(get("/big?20000000") + get("/flood?20000000"))
            await running.until(lambda: running.app.ended == [(b"/big", "ok")])
            assert running.app.floods == []
            client.writer.transport.resume_reading()
            assert len((await read_answer(client)).body) == 20_000_000
            assert len((await read_answer(client)).body) >= 20_000_000

    run(main)
