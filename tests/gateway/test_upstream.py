"""One attempt at one upstream: what each way of failing becomes, what is repeated, and what never shows."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from penstock.config import Deadlines
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.script import Cut, Fault
from penstock.fake_upstream.server import Scripted
from penstock.types import Record
from support.gateway import KEY, ORGANISATION, UPSTREAM_KEY, Answered, Running, chat, gateway, run, to, upstream

SECRETS = f"key {UPSTREAM_KEY} of {ORGANISATION}"
BOTH = pytest.mark.parametrize("stream", [False, True])


@asynccontextmanager
async def before(script: Scripted | None = None, **settings: Any) -> AsyncIterator[tuple[FakeUpstream, Running]]:
    """A gateway before a fake upstream; `settings` are the provider's."""
    async with FakeUpstream(script) as fake, gateway(upstream(fake.base_url, **settings)) as running:
        yield fake, running


def asked(script: Scripted | None = None, *, stream: bool = False, **settings: Any) -> tuple[Answered, Record]:
    """The answer to one request, and its record."""
    found: list[tuple[Answered, Record]] = []

    async def main() -> None:
        async with before(script, **settings) as (_, running):
            answer = await running.chat(stream=stream)
            found.append((answer, await running.record()))
            assert running.pools["fake"].open <= 1

    run(main())
    return found[0]


def own_headers(answer: Answered) -> None:
    """What every answer about an upstream carries."""
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-penstock-target"] == "fake/gpt-5.4"
    assert answer.headers["openai-version"] == "2020-10-01"
    assert answer.headers["openai-processing-ms"].isdecimal()
    assert "openai-organization" not in answer.headers


# -- statuses


@BOTH
@pytest.mark.parametrize(
    ("status", "ours", "kind", "code", "outcome"),
    [
        (300, 502, "server_error", "upstream_refused", "refused_us"),
        (401, 502, "server_error", "upstream_refused", "refused_us"),
        (402, 502, "server_error", "upstream_refused", "refused_us"),
        (403, 502, "server_error", "upstream_refused", "refused_us"),
        (404, 502, "server_error", "upstream_refused", "refused_us"),
        (408, 502, "server_error", "upstream_failed", "unavailable"),
        (409, 502, "server_error", "upstream_failed", "unavailable"),
        (429, 429, "rate_limit_error", "rate_limit_exceeded", "rate_limited"),
        (500, 502, "server_error", "upstream_failed", "unavailable"),
        (502, 502, "server_error", "upstream_failed", "unavailable"),
        (503, 503, "server_error", "upstream_overloaded", "unavailable"),
        (504, 502, "server_error", "upstream_failed", "unavailable"),
        (529, 503, "server_error", "upstream_overloaded", "unavailable"),
        (600, 502, "server_error", "upstream_failed", "malformed"),
    ],
)
def test_a_status_that_is_not_the_callers_fault_is_told_in_our_words(
    status: int, ours: int, kind: str, code: str, outcome: str, stream: bool
) -> None:
    headers = {"openai-organization": ORGANISATION, "set-cookie": "a=b", "x-should-retry": "true"}
    told = Answer(status=status, error=Fault(f"This names the {SECRETS}."), headers=headers)
    answer, record = asked(told, stream=stream)
    assert answer.status == ours
    assert (answer.error["type"], answer.error["code"], answer.error["param"]) == (kind, code, None)
    assert "'fake'" in answer.error["message"]
    everything = f"{answer.headers}{answer.body!r}{record}"
    assert UPSTREAM_KEY not in everything
    assert ORGANISATION not in everything
    assert "set-cookie" not in answer.headers
    refused_us = code == "upstream_refused"  # which no repeat of the caller's mends
    assert answer.headers.get("x-should-retry") == ("false" if refused_us else None)
    own_headers(answer)
    assert (record.status, record.code, record.ended) == (ours, code, "refused" if ours < 500 else "failed")
    (attempt,) = record.attempts
    assert (attempt.status, attempt.outcome) == (status, outcome)


@BOTH
@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_verdict_on_the_callers_request_passes_unchanged(status: int, stream: bool) -> None:
    body = '{ "error" : {"message":"né","type":"odd","param":"messages","code":"context_length_exceeded","x":[1.0]}}'
    answer, record = asked(Answer(status=status, body=body), stream=stream)
    assert (answer.status, answer.body) == (status, body.encode())
    assert answer.headers["content-type"] == "application/json"
    own_headers(answer)
    assert (record.status, record.ended, record.attempts[0].outcome) == (status, "refused", "invalid")


@pytest.mark.parametrize("body", ["<html>400</html>", "", "[1]", '{"error": "plain"}'])
def test_a_verdict_without_an_envelope_gets_one(body: str) -> None:
    answer, _ = asked(Answer(status=400, body=body))
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert "<html>" not in answer.error["message"]


@pytest.mark.parametrize(
    ("told", "seconds", "milliseconds"),
    [
        ({"retry_after": 2.0}, "2", "2000"),
        ({"retry_after": 0.25}, "1", "250"),
        ({"headers": {"retry-after": "0"}}, "1", "1"),
        ({"headers": {"retry-after": "60"}}, "60", "60000"),
        ({"headers": {"retry-after": "61"}}, "61", "61000"),
        ({"headers": {"retry-after": "1e300"}}, "86400", "86400000"),
        ({"headers": {"retry-after": "-5"}}, None, None),
        ({"headers": {"retry-after": "soon"}}, None, None),
        ({}, None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_hint_when_to_come_back_is_passed_on_in_both_forms_and_bounded(
    told: dict[str, Any], seconds: str | None, milliseconds: str | None, status: int
) -> None:
    answer, _ = asked(Answer(status=status, **told))
    assert (answer.headers.get("retry-after"), answer.headers.get("retry-after-ms")) == (seconds, milliseconds)
    vain = seconds is not None and int(seconds) > 60  # longer than the SDKs wait
    assert answer.headers.get("x-should-retry") == ("false" if vain else None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "hint", ["Thu, 09 Oct 2025 08:53:20 +99999999999999999999", "Thu, 09 Oct 99999999999999999999 08:53:20 GMT"]
)
def test_a_hint_beyond_all_numbers_is_none(hint: str, stream: bool) -> None:
    answer, record = asked(Answer(status=503, headers={"retry-after": hint}, body="{}"), stream=stream)
    assert (answer.status, answer.error["code"]) == (503, "upstream_overloaded")
    assert [attempt.outcome for attempt in record.attempts] == ["unavailable"]


def test_a_spent_quota_is_not_worth_another_try() -> None:
    answer, _ = asked(Answer(status=429, error=Fault("no more", type="insufficient_quota", code="insufficient_quota")))
    assert (answer.status, answer.error["code"]) == (429, "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"


@BOTH
def test_a_model_that_the_upstream_lacks_is_the_callers_404_only_under_a_wildcard(stream: bool) -> None:
    async def main() -> None:
        gone = Answer(status=404)
        models = {"*": to("fake"), "fixed": to("fake", model="gone")}
        async with FakeUpstream(gone) as fake, gateway(fake.base_url, models=models) as running:
            answer = await running.chat(model="any", stream=stream)
            assert (answer.status, answer.error["code"]) == (404, "model_not_found")
            assert answer.error["message"] == "The model `any` does not exist or you do not have access to it."
            answer = await running.chat(model="fixed", stream=stream)
            assert (answer.status, answer.error["code"]) == (502, "upstream_refused")

    run(main())


# -- answers that are none


@BOTH
@pytest.mark.parametrize(
    "told",
    [
        Answer(body="<html>welcome</html>", headers={"content-type": "text/html"}),
        Answer(body=""),
        Answer(body="   "),
        Answer(body="null"),
        Answer(body="[]"),
        Answer(body='{"id":"x","choices":[]}'),
        Answer(body='{"id":"x","choi', framing="close"),
        Answer(body="not json"),
        Answer(body_bytes=b'{"choices":[{"index":0,"message":{"content":"\xff"}}]}'),
        Answer(status=204, body="", headers={"content-length": ""}, framing="length"),
        Answer(raw="HTTP/1.1 200 OK\r\nbroken head\r\n\r\n"),
        Answer(raw="SSH-2.0-OpenSSH_9.6\r\n"),
        Answer(raw="HTTP/1.1 200 OK\r\nx: " + "y" * 700_000),
        Answer(raw="", end="drop"),
        Answer(raw="HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{", end="drop"),
        Answer(raw="HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", end="drop"),
        Answer(cut=Cut(after_bytes=0)),
        Answer(end="reset", raw=""),
    ],
)
def test_an_answer_that_cannot_be_used_is_a_502_in_the_envelope(told: Answer, stream: bool) -> None:
    answer, record = asked(told, stream=stream)
    assert answer.status == 502
    assert (answer.error["type"], answer.error["code"]) == ("server_error", "upstream_failed")
    assert "'fake'" in answer.error["message"]
    own_headers(answer)
    assert (record.ended, len(record.attempts)) == ("failed", 1)
    assert record.attempts[0].outcome in ("malformed", "reset", "incomplete")


@BOTH
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ('{"message":"lost","type":"server_error"}', 502, "upstream_failed"),
        ('{"message":"slow down","code":"rate_limit_exceeded"}', 429, "rate_limit_exceeded"),
        ('{"message":"who?","code":"invalid_api_key"}', 502, "upstream_refused"),
        ('{"message":"too long","code":"context_length_exceeded"}', 400, "context_length_exceeded"),
        ('"just words"', 502, "upstream_failed"),
    ],
)
def test_an_error_with_status_200_is_an_error(error: str, status: int, code: str, stream: bool) -> None:
    body = f'{{"error": {error}}}'
    answer, record = asked(Answer(body=f"data: {body}\n\n" if stream else body), stream=stream)
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert record.ended == ("refused" if status < 500 else "failed")


@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_answer_above_the_bound_is_cut_off(status: int) -> None:
    async def main() -> None:
        huge = Answer(status=status, body="x" * 2_000_000, framing="chunked", write=(65536,))
        async with before(huge, max_answer_bytes=100_000) as (fake, running):
            answer = await running.chat()
            assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
            assert "too large" in answer.error["message"]
            assert len(fake.seen) == 1 or status == 500, "an answer that is too long is paid for once"
            await fake.wait_for(lambda: fake.open_connections == 0)
            assert running.pools["fake"].open == 0

    run(main())


def test_a_long_answer_within_the_bound_passes_whole() -> None:
    answer, record = asked(Answer(content="x" * 3_000_000, write=(65536,)))
    assert answer.status == 200
    assert len(answer.json()["choices"][0]["message"]["content"]) == 3_000_000
    assert record.ended == "ok"


# -- what is repeated


async def _warm(fake: FakeUpstream, running: Running) -> None:
    assert (await running.chat()).status == 200
    assert (fake.open_connections, fake.connections_made) == (1, 1)


STALE = Answer(raw="", end="drop")


@BOTH
def test_a_reused_connection_that_closes_at_once_is_repeated_once_on_a_new_one(stream: bool) -> None:
    async def main() -> None:
        async with before((Answer(), STALE, Answer())) as (fake, running):
            await _warm(fake, running)
            answer = await running.chat(stream=stream)
            assert answer.status == 200
            record = await running.record(1)
            assert [(attempt.outcome, attempt.status) for attempt in record.attempts] == [("stale", 0), ("ok", 200)]
            assert [seen.connection for seen in fake.seen] == [0, 0, 1]
            assert fake.seen[1].body == fake.seen[2].body
            assert running.series()["penstock_attempts_total", "fake", "stale"] == 1

    run(main())


def test_a_repeat_is_never_repeated() -> None:
    async def main() -> None:
        async with before((Answer(), STALE, STALE, Answer())) as (fake, running):
            await _warm(fake, running)
            answer = await running.chat()
            assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
            assert [a.outcome for a in (await running.record(1)).attempts] == ["stale", "reset"]
            assert len(fake.seen) == 3

    run(main())


def test_a_repeat_does_not_take_another_connection_that_may_be_as_stale() -> None:
    async def main() -> None:
        held = Answer(wait="both")
        async with before((held, held, STALE, Answer())) as (fake, running):
            asking = [asyncio.create_task(running.chat()) for _ in range(2)]
            await fake.reached("both", 2)
            fake.open("both")
            assert [answer.status for answer in await asyncio.gather(*asking)] == [200, 200]
            assert (await running.chat()).status == 200
            assert fake.connections_made == 3

    run(main())


def test_a_first_connection_that_closes_at_once_is_not_repeated() -> None:
    async def main() -> None:
        async with before(STALE) as (fake, running):
            assert (await running.chat()).status == 502
            assert len(fake.seen) == 1

    run(main())


@pytest.mark.parametrize("told", [Answer(status=500), Answer(status=429), Answer(cut=Cut(after_bytes=5))])
def test_nothing_else_is_repeated(told: Answer) -> None:
    async def main() -> None:
        async with before((Answer(), told)) as (fake, running):
            await _warm(fake, running)
            assert (await running.chat()).status in (429, 502)
            assert len(fake.seen) == 2

    run(main())


# -- deadlines


def _late(**deadlines: float) -> Deadlines:
    return msgspec.structs.replace(Deadlines(), **deadlines)


@BOTH
@pytest.mark.parametrize(
    ("told", "deadlines", "outcome"),
    [
        (Answer(wait="forever"), _late(headers=0.05), "timeout_headers"),
        (Answer(wait_first="forever"), _late(first_event=0.05), "timeout_first_event"),
        (Answer(wait_first="forever"), _late(total=0.05), "timeout_total"),
        (Answer(wait="forever"), _late(total=0.05), "timeout_total"),
    ],
)
def test_a_deadline_before_the_first_event_is_a_504_and_ends_the_call(
    told: Answer, deadlines: Deadlines, outcome: str, stream: bool
) -> None:
    async def main() -> None:
        async with before(told, deadlines=deadlines) as (fake, running):
            answer = await running.chat(stream=stream)
            assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
            assert (await running.record()).attempts[0].outcome == outcome
            assert (await fake.ended()).hung_up
            assert running.pools["fake"].open == 0

    run(main())


def test_comments_and_roles_are_no_first_event() -> None:
    chunks = tuple(Chunk(raw=": keep-alive\n\n", wait=0.01) for _ in range(1000))
    answer, record = asked(Answer(chunks=chunks), stream=True, deadlines=_late(first_event=0.05))
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert record.attempts[0].outcome == "timeout_first_event"


@pytest.mark.parametrize(
    ("deadlines", "outcome"), [(_late(idle=0.05), "timeout_idle"), (_late(total=0.05), "timeout_total")]
)
def test_a_deadline_after_the_first_event_is_told_in_the_stream(deadlines: Deadlines, outcome: str) -> None:
    told = Answer(chunks=("one", Chunk(text="two", wait="forever")))
    answer, record = asked(told, stream=True, deadlines=deadlines)
    assert answer.status == 200
    last = answer.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    assert msgspec.json.decode(last.removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"
    assert (record.ended, record.code, record.status) == ("cut", "upstream_timeout", 200)
    assert record.attempts[0].outcome == outcome


def test_a_refused_connection_is_a_502_that_names_no_address() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
        async with gateway(f"http://127.0.0.1:{port}/v1") as running:
            answer = await running.chat(stream=True)
            assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
            assert str(port) not in answer.error["message"]
            assert (await running.record()).attempts[0].outcome == "connect"
            assert running.pools["fake"].open == 0

    run(main())


@asynccontextmanager
async def full_backlog() -> AsyncIterator[int]:
    """A port on which connections are neither accepted nor refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        try:
            yield address[1]
        finally:
            for filler in fillers:
                filler.close()


def test_a_connection_that_does_not_come_about_is_a_504() -> None:
    async def main() -> None:
        async with full_backlog() as port:
            slow = upstream(f"http://127.0.0.1:{port}/v1", deadlines=_late(connect=0.05))
            async with gateway(slow) as running:
                answer = await running.chat()
                assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
                assert (await running.record()).attempts[0].outcome == "timeout_connect"
                assert running.pools["fake"].open == 0

    run(main())


def test_a_full_pool_is_a_503_that_says_when_to_come_back_and_harms_nobody() -> None:
    async def main() -> None:
        async with before(Answer(wait="gate"), max_connections=1, pool_wait=0.05) as (fake, running):
            first = asyncio.create_task(running.chat())
            await fake.reached("gate")
            answer = await running.chat()
            assert (answer.status, answer.error["code"]) == (503, "upstream_overloaded")
            assert answer.headers["retry-after"] == "1"
            assert (await running.record()).attempts[0].outcome == "timeout_pool"
            fake.open("gate")
            assert (await first).status == 200
            assert running.pools["fake"].open == 1

    run(main())


# -- faults of our own


class Breaking(Exception):
    """What a faulty reader raises."""


@BOTH
def test_a_reader_that_breaks_ends_its_request_and_no_other(
    stream: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        committed = done = False
        usage = None
        finish = ""

        def feed(self, data: bytes) -> bytes:
            raise Breaking

        def close(self) -> bytes:
            raise Breaking

    async def main() -> None:
        logged: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["exception"]))
        async with before() as (fake, running):
            entry = running.api.gateway.upstreams.lanes.entries["fake"]
            with monkeypatch.context() as patch:
                patch.setattr(entry.provider, "reader", lambda chat, target: Broken())
                answer = await running.chat(stream=stream)
            assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
            assert (await running.record()).ended == "failed"
            await fake.wait_for(lambda: fake.open_connections == 0)
            assert running.pools["fake"].open == 0
            assert [type(error) for error in logged] == [Breaking]
            assert (await running.chat()).status == 200

    run(main())


@pytest.mark.parametrize("method", ["commit", "write"])
def test_an_output_that_breaks_ends_its_request_and_no_other(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> None:
        raise Breaking

    async def main() -> None:
        logged: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["exception"]))
        told = Answer(chunks=("one", Chunk(text=" two", wait=0.01), Chunk(text=" three", wait="forever")))
        async with before((told, Answer())) as (fake, running):
            with monkeypatch.context() as patch:
                patch.setattr(f"penstock.gateway.relay.Relay.{method}", breaks)
                async with running.client() as client:
                    await client.send(chat(stream=True))
                    await client.read_until(b'"upstream_failed"')
            assert (await fake.ended()).hung_up
            assert (await running.record()).ended in ("cut", "failed")
            assert [type(error) for error in logged] == [Breaking]
            assert running.pools["fake"].open == 0
            assert (await running.chat()).status == 200

    run(main())


def test_a_fault_of_ours_is_a_500_on_record_and_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("penstock.gateway.api.log", lines.append)

    def breaks(chat: Any, target: Any) -> Any:
        raise Breaking

    async def main() -> None:
        async with before() as (_, running):
            entry = running.api.gateway.upstreams.lanes.entries["fake"]
            with monkeypatch.context() as patch:
                patch.setattr(entry.provider, "prepare", breaks)
                answer = await running.chat()
            assert (answer.status, answer.error["type"]) == (500, "server_error")
            assert "Breaking" not in answer.error["message"]
            record = await running.record()
            assert (record.status, record.ended) == (500, "failed")
            assert record.request_id == answer.headers["x-request-id"]
            assert record.request_id in lines[0]
            assert "Breaking" in lines[0]
            assert running.telemetry.metrics.in_flight == 0
            assert (await running.chat()).status == 200

    run(main())


# -- what goes out


def test_the_body_goes_out_as_it_came_and_the_head_is_our_own() -> None:
    async def main() -> None:
        async with before() as (fake, running):
            raw = chat(KEY, temperature=0.3, unheard_of={"a": [1, 2.50]})
            assert (await running.ask(raw)).status == 200
            seen = await fake.ended()
            assert seen.body == raw.partition(b"\r\n\r\n")[2]
            assert {name for name, _ in seen.headers} == {
                "host",
                "authorization",
                "openai-organization",
                "user-agent",
                "content-type",
                "accept",
                "content-length",
            }

    run(main())


def test_requests_one_after_another_share_a_connection() -> None:
    async def main() -> None:
        async with before() as (fake, running):
            for number in range(6):
                assert (await running.chat(stream=bool(number % 2))).status == 200
            assert fake.connections_made == 1

    run(main())
