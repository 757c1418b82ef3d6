"""`on_hangup = "drain"`: an answer whose client has gone is read to its end for the usage, without the client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from scene import Idle, deadlines

from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.script import Cut, Tokens
from penstock.types import Record, Usage
from support.gateway import Running, chat, gateway, request, run, until, upstream
from support.raw import raw_client

BILL = Tokens(prompt=85, completion=210)
BILLED = Usage(85, 210)
HELD = Answer(chunks=("one", Chunk(text="two", wait="gate")), usage=BILL)
BOTH = pytest.mark.parametrize("stream", [False, True])


async def leave(running: Running, fake: FakeUpstream, read: bytes, stream: bool) -> Idle:
    """Ask, wait until the upstream is at its gate (and for what is to be read), and hang up; it is then over."""
    idle = Idle(running)
    async with raw_client(running.address) as client:
        await client.send(chat(stream=stream))
        await fake.reached("gate")
        if read:
            await client.read_until(read)
    await idle.alone()
    return idle


def left(script: Answer, read: bytes = b"", stream: bool = True, **settings: Any) -> tuple[Record, bool]:
    """The record of a request whose client left at the gate, and whether its upstream was hung up on."""
    found: list[tuple[Record, bool]] = []

    async def main() -> None:
        provider_settings = {"on_hangup": "drain", "deadlines": deadlines(), **settings}
        async with FakeUpstream(script) as fake, gateway(upstream(fake.base_url, **provider_settings)) as running:
            idle = await leave(running, fake, read, stream)
            assert running.telemetry.metrics.in_flight == 1  # the upstream still works for it
            assert (running.recorder.records, fake.seen[0].ended) == ([], None)
            fake.open("gate")
            record = await running.record()
            await idle.again(fake)
            assert len(running.recorder.records) == 1
            found.append((record, fake.seen[0].hung_up))

    run(main())
    return found[0]


def test_a_stream_is_read_to_its_end_for_the_bill() -> None:
    record, hung_up = left(HELD, b'"one"')
    assert not hung_up
    assert (record.ended, record.status, record.usage) == ("hangup", 200, BILLED)
    assert [attempt.outcome for attempt in record.attempts] == ["ok"]


def test_a_stream_that_has_not_reached_its_first_event_is_read_on_too() -> None:
    record, hung_up = left(Answer(wait_first="gate", usage=BILL))
    assert not hung_up
    assert (record.ended, record.status, record.usage, record.first_event_ms) == ("hangup", 0, BILLED, None)


@BOTH
def test_a_call_that_is_not_answered_yet_is_read_on_too(stream: bool) -> None:
    record, hung_up = left(Answer(wait="gate", usage=BILL), stream=stream)
    assert not hung_up
    assert (record.ended, record.status, record.usage) == ("hangup", 0, BILLED)


def test_what_is_read_on_keeps_to_the_deadlines_of_its_provider() -> None:
    stalls = Answer(chunks=("one", Chunk(text="two", wait="gate"), Chunk(text="three", wait="forever")))
    record, hung_up = left(stalls, b'"one"', deadlines=deadlines(idle=0.1))
    assert hung_up
    assert (record.ended, record.attempts[0].outcome) == ("hangup", "timeout_idle")


def test_the_first_event_ends_its_deadline_though_nobody_reads_it() -> None:
    slow = Answer(wait_first="gate", chunks=tuple(Chunk(text="x", wait=0.01) for _ in range(40)), usage=BILL)
    record, hung_up = left(slow, deadlines=deadlines(first_event=0.3))
    assert not hung_up
    assert (record.ended, record.usage) == ("hangup", BILLED)


def test_what_is_read_on_has_a_bound() -> None:
    endless = Answer(chunks=("one", Chunk(text="two", wait="gate"), *("x" * 10_000,) * 1000), usage=BILL)
    record, hung_up = left(endless, b'"one"', max_answer_bytes=100_000)
    assert hung_up
    assert (record.ended, record.attempts[0].outcome) == ("hangup", "too_large")


def test_what_breaks_while_it_is_read_on_is_on_record() -> None:
    breaks = Answer(chunks=("one", Chunk(text="two", wait="gate"), "three"), cut=Cut(after_events=3, how="reset"))
    record, _ = left(breaks, b'"one"')
    assert (record.ended, record.attempts[0].outcome) == ("hangup", "reset")


def test_the_patience_of_a_client_goes_with_it() -> None:
    async def main() -> None:
        settings: dict[str, Any] = {"on_hangup": "drain", "deadlines": deadlines()}
        slow = Answer(wait=0.6, usage=BILL)
        async with FakeUpstream(slow) as fake, gateway(upstream(fake.base_url, **settings)) as running:
            body = json.dumps({"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hello"}]}).encode()
            async with raw_client(running.address) as client:
                await client.send(request("POST", "/v1/chat/completions", body=body, x_stainless_read_timeout="0.3"))
                await fake.request()
            record = await running.record()
            assert (record.ended, record.usage) == ("hangup", BILLED)

    run(main())


def test_a_slow_reader_that_leaves_does_not_leave_the_upstream_paused() -> None:
    async def main() -> None:
        long = Answer(chunks=("x" * 65_536,) * 200, usage=BILL)
        settings: dict[str, Any] = {"on_hangup": "drain", "deadlines": deadlines()}
        async with FakeUpstream(long) as fake, gateway(upstream(fake.base_url, **settings)) as running:
            idle = Idle(running)
            async with raw_client(running.address) as client:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await client.send(chat(stream=True))
                await until(lambda: any(one._paused for one in running.pools["fake"].connections))
                client.writer.transport.abort()
            record = await running.record()
            assert (record.ended, record.usage) == ("hangup", BILLED)
            await idle.again(fake)

    run(main())


def test_a_call_that_was_never_sent_is_not_waited_for() -> None:
    async def main() -> None:
        one = Answer(wait="gate")
        settings: dict[str, Any] = {"on_hangup": "drain", "max_connections": 1}
        async with FakeUpstream(one) as fake, gateway(upstream(fake.base_url, **settings)) as running:
            idle = Idle(running)
            first = asyncio.create_task(running.chat())
            await fake.reached("gate")
            async with raw_client(running.address) as client:
                await client.send(chat())
                await until(lambda: running.pools["fake"].waiting)
            record = await running.record()
            assert (record.ended, record.attempts[0].outcome) == ("hangup", "cancelled")
            fake.open("gate")
            assert (await first).status == 200
            await idle.again(fake)
            assert len(fake.seen) == 1

    run(main())


def test_a_server_that_stops_does_not_wait_for_it_and_records_it() -> None:
    async def main() -> None:
        settings: dict[str, Any] = {"on_hangup": "drain", "deadlines": deadlines()}
        async with FakeUpstream(HELD) as fake:
            async with gateway(upstream(fake.base_url, **settings)) as running:
                await leave(running, fake, b'"one"', stream=True)
            running.telemetry.notify()
            (record,) = running.recorder.records
            assert record.ended == "hangup"
            assert (await fake.ended()).hung_up

    run(main())


def test_a_stream_that_a_stopping_server_ends_is_not_read_on() -> None:
    async def main() -> None:
        settings: dict[str, Any] = {"on_hangup": "drain", "deadlines": deadlines()}
        async with FakeUpstream(HELD) as fake:
            async with gateway(upstream(fake.base_url, **settings)) as running:
                asking = asyncio.create_task(running.chat(stream=True))
                await fake.reached("gate")
            assert b"server_shutting_down" in (await asking).body
            running.telemetry.notify()
            (record,) = running.recorder.records
            assert record.ended == "drained"
            assert (await fake.ended()).hung_up

    run(main())
