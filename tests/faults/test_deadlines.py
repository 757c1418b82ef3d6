"""Each deadline is armed in its own phase: it alone ends the call, since all others are out of reach."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from scene import HUGE, Idle, deadlines, fakes, unanswered

from penstock.config import Retries
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.script import Cut
from penstock.types import Record
from support.gateway import KEY, Answered, gateway, request, run, to, until, upstream
from support.raw import chat_request

LATE = 0.15
BOUND = 10.0  # seconds: far above LATE, far below HUGE
BOTH = pytest.mark.parametrize("stream", [False, True])
PATIENT = Retries(attempts=5, first_wait=HUGE, longest_wait=HUGE, max_wait=HUGE, retry_after_cap=HUGE, patience=HUGE)

SILENT = Answer(wait="forever")
HEAD_ONLY = Answer(wait_first="forever")
ROLE_ONLY = Answer(chunks=("one",), cut=Cut(after_events=1, how="stall"))
BEGUN = Answer(chunks=("one", "two"), cut=Cut(after_events=2, how="stall"))
HALF = Answer(content="one two three", framing="chunked", cut=Cut(after_bytes=60, how="stall"))
DRIBBLE = Answer(chunks=tuple(Chunk(text="x", wait=0.01) for _ in range(5000)))
GOOD = Answer(content="Here.")


async def ask(running: Any, stream: bool, patience: float | None = None) -> Answered:
    body = chat_request(stream=stream).partition(b"\r\n\r\n")[2]
    headers = {} if patience is None else {"x_stainless_read_timeout": str(patience)}
    answered: Answered = await running.ask(request("POST", "/v1/chat/completions", KEY, body, **headers))
    return answered


def late(
    script: Answer | None,
    stream: bool,
    armed: str | None = None,
    *,
    patience: float | None = None,
    fallback: bool = False,
) -> tuple[Answered, Record]:
    """What becomes of a request whose upstream is late, after about LATE seconds. No script: it cannot be reached."""
    found: list[tuple[Answered, Record]] = []

    async def main() -> None:
        with unanswered() as port:
            async with fakes(script or GOOD, GOOD) as (slow, good):
                url = slow.base_url if script is not None else f"http://127.0.0.1:{port}/v1"
                providers = [
                    upstream(url, "slow", deadlines=deadlines(**{armed: LATE} if armed else {}), pool_wait=HUGE),
                    upstream(good.base_url, "good", deadlines=deadlines(), pool_wait=HUGE),
                ]
                models = {"*": to("slow", "good") if fallback else to("slow")}
                async with gateway(*providers, models=models, retries=PATIENT) as running:
                    idle = Idle(running)
                    began = time.monotonic()
                    answered = await ask(running, stream, patience)
                    assert LATE * 0.9 <= time.monotonic() - began < BOUND
                    record = await running.record()
                    await idle.again(slow, good)
                    if script is not None:
                        assert slow.seen[0].hung_up
                    assert len(slow.seen) == (script is not None)
                    found.append((answered, record))

    run(main())
    return found[0]


BEFORE = pytest.mark.parametrize(
    ("script", "armed", "outcome"),
    [
        pytest.param(None, "connect", "timeout_connect", id="connect"),
        pytest.param(SILENT, "headers", "timeout_headers", id="headers"),
        pytest.param(HEAD_ONLY, "first_event", "timeout_first_event", id="first event"),
    ],
)


@BOTH
@BEFORE
def test_a_deadline_before_the_first_event_is_a_504_and_the_target_is_not_asked_again(
    script: Answer | None, armed: str, outcome: str, stream: bool
) -> None:
    answered, record = late(script, stream, armed)
    assert (answered.status, answered.error["code"]) == (504, "upstream_timeout")
    assert [attempt.outcome for attempt in record.attempts] == [outcome]
    assert record.stopped == "targets"


@BOTH
@BEFORE
def test_a_deadline_before_the_first_event_fails_over_to_the_next_target(
    script: Answer | None, armed: str, outcome: str, stream: bool
) -> None:
    answered, record = late(script, stream, armed, fallback=True)
    assert answered.status == 200
    assert [(attempt.provider, attempt.outcome) for attempt in record.attempts] == [("slow", outcome), ("good", "ok")]


def test_a_role_is_no_first_event() -> None:
    answered, record = late(ROLE_ONLY, True, "first_event", fallback=True)
    assert answered.status == 200
    assert [attempt.outcome for attempt in record.attempts] == ["timeout_first_event", "ok"]


def test_a_body_that_stops_is_found_by_the_deadline_of_the_first_event() -> None:
    answered, record = late(HALF, False, "first_event", fallback=True)
    assert answered.status == 200
    assert [attempt.outcome for attempt in record.attempts] == ["timeout_first_event", "ok"]


def test_silence_between_events_is_a_stall() -> None:
    answered, record = late(BEGUN, True, "idle")
    assert answered.body.endswith(b'"code":"upstream_timeout"}}\n\n')
    assert (record.ended, record.attempts[0].outcome) == ("cut", "timeout_idle")


def test_a_stream_that_goes_on_is_not_idle() -> None:
    async def main() -> None:
        steady = Answer(chunks=tuple(Chunk(text="x", wait=0.02) for _ in range(40)))
        limits = deadlines(idle=0.4)
        async with FakeUpstream(steady) as fake, gateway(upstream(fake.base_url, deadlines=limits)) as running:
            answered = await ask(running, True)
            assert answered.body.endswith(b"data: [DONE]\n\n")

    run(main())


@BOTH
@pytest.mark.parametrize("script", [SILENT, HEAD_ONLY], ids=["headers", "first event"])
def test_the_total_runs_before_the_first_event_and_is_final(script: Answer, stream: bool) -> None:
    answered, record = late(script, stream, "total")
    assert (answered.status, answered.error["code"]) == (504, "upstream_timeout")
    assert [attempt.outcome for attempt in record.attempts] == ["timeout_total"]
    assert record.stopped == "final"


def test_the_total_runs_while_a_stream_does() -> None:
    answered, record = late(DRIBBLE, True, "total")
    assert answered.body.endswith(b'"code":"upstream_timeout"}}\n\n')
    assert (record.ended, record.attempts[0].outcome) == ("cut", "timeout_total")


# -- the caller's patience


@BOTH
@pytest.mark.parametrize("script", [None, SILENT, HEAD_ONLY], ids=["connect", "headers", "first event"])
def test_nothing_goes_on_once_the_callers_patience_is_at_its_end(script: Answer | None, stream: bool) -> None:
    answered, record = late(script, stream, patience=LATE, fallback=True)
    assert (answered.status, answered.error["code"]) == (504, "upstream_timeout")
    assert [attempt.outcome for attempt in record.attempts] == ["timeout_total"]  # which no breaker counts


def test_patience_with_a_body_that_is_not_streamed_ends_with_it() -> None:
    answered, record = late(HALF, False, patience=LATE)
    assert (answered.status, record.attempts[0].outcome) == (504, "timeout_total")


def test_patience_is_over_with_the_first_event() -> None:
    async def main() -> None:
        steady = Answer(chunks=("one", Chunk(text=" two", wait=0.5)))
        async with FakeUpstream(steady) as fake, gateway(upstream(fake.base_url, deadlines=deadlines())) as running:
            answered = await ask(running, True, patience=0.3)
            assert answered.body.endswith(b"data: [DONE]\n\n")

    run(main())


def test_patience_ends_the_wait_for_a_connection() -> None:
    async def main() -> None:
        async with FakeUpstream(Answer(wait="gate")) as fake:
            only = upstream(fake.base_url, deadlines=deadlines(), max_connections=1, pool_wait=HUGE)
            async with gateway(only, retries=PATIENT) as running:
                first = asyncio.create_task(running.chat())
                await fake.reached("gate")
                began = time.monotonic()
                answered = await ask(running, False, patience=LATE)
                assert LATE * 0.9 <= time.monotonic() - began < BOUND
                assert (answered.status, answered.error["code"]) == (504, "upstream_timeout")
                assert not running.pools["fake"].waiting
                fake.open("gate")
                assert (await first).status == 200

    run(main())


def test_no_wait_is_begun_that_patience_would_not_see_the_end_of() -> None:
    async def main() -> None:
        async with FakeUpstream(Answer(status=500)) as fake, gateway(fake.base_url, retries=PATIENT) as running:
            answered = await ask(running, False, patience=5.0)
            assert (answered.status, answered.error["code"]) == (502, "upstream_failed")
            record = await running.record()
            assert (len(record.attempts), record.stopped) == (1, "patience")

    run(main())


def test_no_place_in_line_is_taken_that_patience_would_not_see_the_end_of() -> None:
    async def main() -> None:
        script = (Answer(status=429, retry_after=60.0), GOOD)
        async with FakeUpstream(script) as fake:
            once = Retries(attempts=1, max_wait=HUGE)
            async with gateway(upstream(fake.base_url, deadlines=deadlines()), retries=once) as running:
                assert (await running.chat()).status == 429
                answered = await ask(running, False, patience=5.0)
                assert (answered.status, answered.error["code"]) == (429, "rate_limit_exceeded")
                assert [attempt.outcome for attempt in (await running.record(1)).attempts] == ["pressed"]
                assert len(fake.seen) == 1

    run(main())


def test_a_place_in_line_is_left_when_patience_is_at_its_end() -> None:
    async def main() -> None:
        script = (Answer(status=429), Answer(wait="gate"), GOOD)
        async with FakeUpstream(script) as fake:
            once = Retries(attempts=1, max_wait=HUGE)
            async with gateway(upstream(fake.base_url, deadlines=deadlines()), retries=once) as running:
                assert (await running.chat()).status == 429
                first = asyncio.create_task(running.chat())  # takes the one place that is left
                await fake.reached("gate")
                (lane,) = running.api.gateway.upstreams.lanes.all().values()
                lane.gate.next_at = 0.0  # the pace would allow it, and the limit does not
                asking = asyncio.create_task(ask(running, False, patience=1.0))
                await until(lambda: lane.gate._line)
                assert (await asking).status == 429
                assert not lane.gate._line
                fake.open("gate")
                assert (await first).status == 200

    run(main())


def test_the_words_of_an_error_are_not_waited_for_beyond_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.gateway.upstream.answer.ERROR_SECONDS", LATE)
    refuses = Answer(status=503, framing="chunked", cut=Cut(after_bytes=5, how="stall"))
    answered, record = late(refuses, False, fallback=True)
    assert answered.status == 200
    assert [attempt.outcome for attempt in record.attempts] == ["unavailable", "ok"]
