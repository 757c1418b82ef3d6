"""Streams on their way through: byte for byte, nothing before the commit point, no end before the record or forged."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config import Config, Deadlines, Limits, Server
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.script import Cut
from penstock.fake_upstream.server import Scripted
from penstock.gateway import accounting
from penstock.types import Record
from support.gateway import KEY, Answered, Running, chat, gateway, read_answer, run, upstream
from support.raw import PATIENCE

ASK_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
DONE = b"data: [DONE]\n\n"


def events(*, usage: bool = True) -> list[bytes]:
    """A stream as OpenAI sends it, in characters of one to four bytes."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5.4"}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        whole = {**base, "choices": [choice], **({"usage": None} if usage else {}), **more}
        return b"data: " + json.dumps(whole, ensure_ascii=False).encode() + b"\n\n"

    texts = ["Grüß ", "Gott, ", "🌍! ", "漢字\\n", 'he said "hi"\n\n', "x-unknown", "\u2028"]
    counted = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    return [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        *(chunk({"content": text}, obfuscation="aaa") for text in texts),
        chunk({}, "stop"),
        *([b"data: " + json.dumps({**base, "choices": [], "usage": counted}).encode() + b"\n\n"] if usage else []),
        DONE,
    ]


def verbatim(parts: list[bytes], **more: Any) -> Answer:
    """An answer of exactly these bytes."""
    return Answer(
        body_bytes=b"".join(parts), headers={"content-type": "text/event-stream"}, **{"framing": "chunked", **more}
    )


@asynccontextmanager
async def before(
    script: Scripted | None = None, limits: Limits | None = None, **provider: Any
) -> AsyncIterator[tuple[FakeUpstream, Running]]:
    """A gateway before a fake upstream."""
    config = Config(server=Server(limits=limits or Limits()))
    async with FakeUpstream(script) as fake, gateway(upstream(fake.base_url, **provider), config=config) as running:
        yield fake, running


def streamed(script: Scripted | None = None, **members: Any) -> tuple[Answered, Record]:
    """The answer to one streamed request, and its record."""
    found: list[tuple[Answered, Record]] = []

    async def main() -> None:
        async with before(script) as (_, running):
            answer = await running.chat(**{"stream": True, **members})
            found.append((answer, await running.record()))
            assert running.api.gateway.heartbeats._open == {}

    run(main())
    return found[0]


def data(answer: Answered) -> list[Any]:
    """The events of a stream, decoded; it consists of whole events alone."""
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.body.endswith(b"\n\n")
    parts = answer.body.removesuffix(b"\n\n").split(b"\n\n")
    assert all(part.startswith(b"data: ") for part in parts)
    return [part if part == b"data: [DONE]" else json.loads(part.removeprefix(b"data: ")) for part in parts]


# -- bytes


sizes = st.lists(st.integers(1, 200), max_size=5).map(tuple)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(sizes, sizes, st.sampled_from(["chunked", "length", "close"]), st.booleans())
def test_a_stream_comes_through_byte_for_byte_however_it_was_cut(
    write: tuple[int, ...], chunks: tuple[int, ...], framing: str, usage: bool
) -> None:
    parts = events(usage=usage)
    told = verbatim(parts, write=write or "events", chunk_sizes=chunks, framing=framing)
    answer, record = streamed(told, **(ASK_USAGE if usage else {}))
    assert answer.status == 200
    assert answer.body == b"".join(parts)
    assert record.ended == "ok"
    assert (record.usage is not None) == usage


def test_the_head_of_a_stream_says_that_it_is_one() -> None:
    answer, record = streamed()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-penstock-target"] == "fake/gpt-5.4"
    assert answer.headers["x-request-id"] == record.request_id
    assert "content-length" not in answer.headers
    assert answer.headers["transfer-encoding"] == "chunked"


def test_usage_is_on_record_and_reaches_only_who_asked_for_it() -> None:
    plain, unasked = streamed(Answer(chunks=("a ", "b")))
    wanted, asked = streamed(Answer(chunks=("a ", "b")), **ASK_USAGE)
    assert unasked.usage == asked.usage
    assert unasked.usage is not None
    assert unasked.usage.completion_tokens == 2
    assert all(event == b"data: [DONE]" or (event["choices"] and not event.get("usage")) for event in data(plain))
    usage, done = data(wanted)[-2:]
    assert (usage["choices"], usage["usage"]["completion_tokens"], done) == ([], 2, b"data: [DONE]")


def test_each_event_is_passed_on_at_once() -> None:
    async def main() -> None:
        told = Answer(chunks=("one", Chunk(text="two", wait="second"), Chunk(text="three", wait="third")))
        async with before(told) as (fake, running), running.client() as client:
            await client.send(chat(stream=True))
            await client.read_until(b'"one"')
            await fake.reached("second")
            fake.open("second")
            await client.read_until(b'"two"')
            fake.open("third")
            await client.read_until(b"0\r\n\r\n")

    run(main())


def test_the_connection_serves_on_after_a_stream() -> None:
    async def main() -> None:
        async with before() as (_, running), running.client() as client:
            for _ in range(3):
                await client.send(chat(stream=True))
                answer = await read_answer(client)
                assert answer.body.endswith(DONE)

    run(main())


def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_its_connection() -> None:
    async def main() -> None:
        async with before(verbatim(events())) as (_, running):
            answer = await running.ask(chat(**ASK_USAGE).replace(b" HTTP/1.1", b" HTTP/1.0"))
            assert "transfer-encoding" not in answer.headers
            assert answer.headers["connection"] == "close"
            assert answer.body == b"".join(events())

    run(main())


# -- before the commit point


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        (Answer(chunks=(), cut=Cut(after_events=1)), 502, "upstream_failed"),
        (Answer(chunks=(Chunk(raw=": ping\n\n" * 10),), cut=Cut(after_events=2, how="reset")), 502, "upstream_failed"),
        (Answer(chunks=("",) * 5, cut=Cut(after_events=6)), 502, "upstream_failed"),
        (
            Answer(chunks=(Chunk(data='{"error":{"message":"x","code":"rate_limit_exceeded"}}'),)),
            429,
            "rate_limit_exceeded",
        ),
        (Answer(chunks=(Chunk(data="not json"),)), 502, "upstream_failed"),
        (Answer(chunks=(), finish_reason=""), 502, "upstream_failed"),
        (Answer(body="data: [DONE]\n\n"), 502, "upstream_failed"),
    ],
)
def test_an_error_before_the_first_event_is_an_ordinary_answer(told: Answer, status: int, code: str) -> None:
    answer, record = streamed(told)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert "connection" not in answer.headers
    assert record.first_event_ms is None
    assert record.ended == ("failed" if status >= 500 else "refused")


def test_an_answer_of_nothing_but_an_end_is_an_answer() -> None:
    answer, record = streamed(Answer(chunks=()))
    role, finish, done = data(answer)
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert (finish["choices"][0]["finish_reason"], done) == ("stop", b"data: [DONE]")
    assert record.ended == "ok"


def test_what_is_held_back_before_the_first_event_is_bounded() -> None:
    async def main() -> None:
        told = Answer(chunks=(Chunk(data=_empty_delta("x" * 1000)),) * 100 + (Chunk(text="never", wait="forever"),))
        async with before(told) as (_, running), running.client() as client:
            await client.send(chat(stream=True))
            assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

    run(main())


def _empty_delta(note: str) -> str:
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "note": note} | _NONE)


_NONE: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": None}]}


# -- the end


def test_the_end_is_withheld_until_the_record_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = accounting.record
    calls = []

    def fails_once(exchange: Any, now: float) -> Record:
        calls.append(exchange)
        if len(calls) == 1:
            raise MemoryError
        return made(exchange, now)

    async def main() -> None:
        async with before() as (_, running):
            with monkeypatch.context() as patch:
                patch.setattr(accounting, "record", fails_once)
                async with running.client() as client:
                    await client.send(chat(stream=True))
                    got = await client.read_all()
                assert b'"answer."' in got
                assert b"[DONE]" not in got
                assert not got.endswith(b"0\r\n\r\n")
                calls.clear()
                assert (await running.chat()).status == 500

    run(main())


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("usage", [False, True])
def test_a_death_in_the_middle_is_told_in_the_stream_and_no_finish_is_forged(how: Any, usage: bool) -> None:
    async def main() -> None:
        told = Answer(chunks=("one", "two", "three"), cut=Cut(after_events=3, how=how, wait="die"))
        async with before(told) as (fake, running), running.client() as client:
            await client.send(chat(stream=True, stream_options={"include_usage": usage}))
            await client.read_until(b'"two"')
            fake.open("die")
            rest = await client.read_all()
            assert rest.endswith(b"0\r\n\r\n"), "it ends in form, and then the connection closes"
            assert b"[DONE]" not in rest
            assert b'"stop"' not in rest
            last = rest.removesuffix(b"\r\n0\r\n\r\n").removesuffix(b"\n\n").rpartition(b"data: ")[2]
            error = json.loads(last)["error"]
            assert list(error) == ["message", "type", "param", "code"]
            assert (error["type"], error["code"]) == ("server_error", "upstream_failed")
            record = await running.record()
            assert (record.status, record.ended, record.code) == (200, "cut", "upstream_failed")
            assert [attempt.outcome for attempt in record.attempts] == ["reset"]
            assert running.pools["fake"].open == 0

    run(main())


def test_a_missing_done_after_every_finish_completes_the_answer() -> None:
    answer, record = streamed(Answer(chunks=("a",), done=False))
    assert data(answer)[-1] == b"data: [DONE]"
    assert record.ended == "ok"


def test_a_last_event_without_its_blank_line_is_made_whole() -> None:
    answer, record = streamed(Answer(chunks=("a",), done=False, final_blank_line=False))
    assert data(answer)[-2]["choices"][0]["finish_reason"] == "stop"
    assert data(answer)[-1] == b"data: [DONE]"
    assert record.ended == "ok"


@pytest.mark.parametrize("done", [False, True])
def test_an_answer_without_a_finish_ends_in_an_error(done: bool) -> None:
    answer, record = streamed(Answer(chunks=("a", "b"), finish_reason="", done=done))
    assert data(answer)[-1]["error"]["code"] == "upstream_failed"
    assert answer.body.count(b'"finish_reason":') == answer.body.count(b'"finish_reason":null')
    assert (record.ended, record.attempts[0].outcome) == ("cut", "incomplete")


def test_an_error_in_the_middle_comes_through_as_an_error_in_our_words() -> None:
    lost = Chunk(data='{"error": {"message": "org-secret is over its limit", "code": "rate_limit_exceeded"}}')
    answer, record = streamed(Answer(chunks=("a", lost, "b")))
    error = data(answer)[-1]["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert b"org-secret" not in answer.body
    assert b'"b"' not in answer.body
    assert (record.ended, record.code) == ("cut", "rate_limit_exceeded")


def test_what_an_upstream_sends_after_its_end_reaches_nobody() -> None:
    parts = [*events(usage=False), b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n"]
    answer, _ = streamed(verbatim(parts))
    assert answer.body == b"".join(events(usage=False))


def test_an_upstream_that_keeps_its_answer_open_after_the_end_delays_nobody() -> None:
    async def main() -> None:
        told = verbatim(events(), cut=Cut(after_bytes=1 << 20, how="stall"))
        async with before(told) as (fake, running):
            answer = await running.chat(**ASK_USAGE)
            assert answer.body == b"".join(events())
            await fake.wait_for(lambda: fake.open_connections == 0), "given up after a moment"

    run(main())


# -- silence


def test_silence_is_broken_by_comments_after_the_first_event_and_never_before() -> None:
    async def main() -> None:
        told = Answer(wait_first=0.15, chunks=("one", Chunk(text="two", wait="gate")))
        async with before(told, Limits(heartbeat=0.03)) as (fake, running), running.client() as client:
            await client.send(chat(stream=True))
            start = await client.read_until(b'"one"')
            assert b": ping" not in start
            for _ in range(3):
                await client.read_until(b"8\r\n: ping\n\n\r\n")
            fake.open("gate")
            await client.read_until(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert running.api.gateway.heartbeats._open == {}

    run(main())


def test_a_busy_stream_has_no_comments() -> None:
    async def main() -> None:
        told = Answer(chunks=("word ",) * 40, between=0.01)
        async with before(told, Limits(heartbeat=0.2)) as (_, running):
            assert b"ping" not in (await running.chat(stream=True)).body

    run(main())


# -- slow readers


class SlowClient:
    """A client that reads when it is told to, through the smallest buffer that it can have."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._sock.setblocking(False)
        self._address = address
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> SlowClient:
        await self._loop.sock_connect(self._sock, self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sock.close()

    async def send(self, request: bytes) -> None:
        await self._loop.sock_sendall(self._sock, request)

    async def count_until(self, end: bytes) -> int:
        """Read up to `end`; how many bytes that was."""
        count, tail = 0, b""
        async with asyncio.timeout(PATIENCE):
            while end not in tail:
                got = await self._loop.sock_recv(self._sock, 1 << 20)
                assert got, "closed early"
                count += len(got)
                tail = tail[-len(end) :] + got
        return count


PIECE = "x" * 65_536
LONG = Answer(chunks=(PIECE,) * 800)
WHOLE = 800 * 65_536


async def stuck(fake: FakeUpstream, running: Running, number: int = 0) -> int:
    """What the upstream of a slow client could send, once it can send no more, while others are served all along."""
    seen = await fake.request(number)
    sent = -1
    while seen.sent_bytes != sent:
        sent = seen.sent_bytes
        for _ in range(20):
            assert (await running.chat(model="other")).status == 200
    assert seen.ended is None
    return sent


def held(running: Running) -> int:
    """What the gateway holds for clients that do not read."""
    return sum(one.transport.get_write_buffer_size() for one in running.server.edge.connections)


def test_a_slow_reader_pauses_its_upstream_and_nobody_else() -> None:
    async def main() -> None:
        script = {"gpt-5.4": (LONG,), "other": (Answer(),)}
        async with before(script) as (fake, running), SlowClient(running.address) as slow:
            await slow.send(chat(stream=True))
            assert await stuck(fake, running) < WHOLE // 2
            assert held(running) < 1_000_000
            assert await slow.count_until(b"[DONE]") > WHOLE
            assert (await fake.ended()).ended == "complete"
            assert (await running.recorder.wait(21))[-1].ended == "ok"

    run(main())


def test_a_first_read_that_fills_the_clients_buffer_pauses_the_upstream_already() -> None:
    async def main() -> None:
        first = Answer(chunks=(Chunk(text="x" * 8_000_000), *(PIECE,) * 800))
        script = {"gpt-5.4": (first,), "other": (Answer(),)}
        async with before(script) as (fake, running), SlowClient(running.address) as slow:
            await slow.send(chat(stream=True))
            assert await stuck(fake, running) < WHOLE // 2
            assert held(running) < 10_000_000

    run(main())


def test_a_client_that_has_not_read_its_last_answer_gets_no_more_than_that_of_the_next() -> None:
    async def main() -> None:
        script = {"gpt-5.4": (LONG,), "large": (Answer(content="x" * 8_000_000),), "other": (Answer(),)}
        async with before(script) as (fake, running), SlowClient(running.address) as slow:
            await slow.send(chat(model="large") + chat(stream=True))
            await fake.ended()
            for _ in range(40):
                assert (await running.chat(model="other")).status == 200
            streams = [seen for seen in fake.seen if seen.stream]
            assert sum(seen.sent_bytes for seen in streams) < WHOLE // 2
            assert held(running) < 10_000_000
            await slow.count_until(b"[DONE]")

    run(main())


def test_while_a_slow_reader_holds_it_up_the_upstream_is_not_called_idle() -> None:
    async def main() -> None:
        script = {"gpt-5.4": (LONG,), "other": (Answer(between=0.01),)}
        patient = Deadlines(idle=0.05)
        async with before(script, deadlines=patient) as (fake, running), SlowClient(running.address) as slow:
            await slow.send(chat(stream=True))
            await stuck(fake, running)
            assert (await running.chat(model="other", stream=True)).status == 200
            assert await slow.count_until(b"[DONE]") > WHOLE

    run(main())


def test_streams_do_not_mix() -> None:
    async def main() -> None:
        async with before() as (_, running):

            async def one(number: int) -> None:
                told = f"fake-chunks-{number}"
                words = [f"word{n} " for n in range(1, number + 1)]
                answer = await running.chat(model=told, stream=True)
                assert [_content(event) for event in data(answer)[1:-2]] == words

            await asyncio.gather(*[one(1 + number % 30) for number in range(100)])
            assert len(await running.recorder.wait(100)) == 100

    run(main())


def _content(event: Any) -> str:
    content = event["choices"][0]["delta"]["content"]
    assert isinstance(content, str)
    return content


def test_the_key_of_a_stream_is_not_in_it() -> None:
    answer, _ = streamed()
    assert KEY.encode() not in answer.body
