"""The limit on the rate: what it lets through, what it says, and what a server with one answers."""

from __future__ import annotations

import asyncio

import pytest

from penstock.fake_upstream import Answer, FakeUpstream, Rate, Script
from penstock.fake_upstream.rate import Allowance
from support.raw import chat_request, raw_client


def taken(allowance: Allowance, *times: float) -> list[bool]:
    return [allowance.take(now) == 0.0 for now in times]


def test_a_steady_rate_lets_a_burst_through_and_then_one_at_a_time() -> None:
    allowance = Allowance(Rate(10, burst=2), 100.0)
    assert taken(allowance, 100.0, 100.0, 100.0) == [True, True, False]
    assert allowance.take(100.0) == pytest.approx(0.1)
    assert taken(allowance, 100.1, 100.15, 100.2) == [True, False, True]
    assert taken(allowance, 200.0, 200.0, 200.0) == [True, True, False]


def test_a_window_is_whole_again_at_its_end() -> None:
    allowance = Allowance(Rate(10, refill="window"), 100.0)
    assert taken(allowance, *[100.5] * 11) == [True] * 10 + [False]
    assert allowance.take(100.75) == pytest.approx(0.25)
    assert taken(allowance, 100.99, 101.0) == [False, True]
    assert taken(allowance, *[105.9] * 10) == [True] * 10
    assert taken(allowance, 105.95, 106.0) == [False, True]


def test_a_rate_below_one_a_second_lets_one_through_at_a_time() -> None:
    allowance = Allowance(Rate(0.5), 100.0)
    assert taken(allowance, 100.0, 101.0, 102.0) == [True, False, True]


def test_what_is_left_is_said_as_openai_says_it() -> None:
    allowance = Allowance(Rate(10, burst=20), 100.0)
    for _ in range(4):
        allowance.take(100.0)
    assert allowance.headers(100.0) == {
        "x-ratelimit-limit-requests": "20",
        "x-ratelimit-remaining-requests": "16",
        "x-ratelimit-reset-requests": "400ms",
    }
    for _ in range(16):
        allowance.take(100.0)
    assert allowance.headers(100.0)["x-ratelimit-reset-requests"] == "2s"
    assert Allowance(Rate(10, headers=False), 100.0).headers(100.0) == {}


@pytest.mark.parametrize("told", [True, False], ids=["with words", "without"])
def test_a_server_answers_429_beyond_its_rate(told: bool) -> None:
    script = Script(models={"*": (Answer(content="Hello."),)}, rate=Rate(0.01, retry_after=told, headers=told))

    async def main() -> None:
        async with FakeUpstream(script) as upstream, raw_client(("127.0.0.1", upstream.port)) as client:
            await client.send(chat_request() * 2)
            await upstream.ended(1)
            assert [seen.status for seen in upstream.seen] == [200, 429]
            head = (await client.read_until(b"\r\n\r\n")).decode()
            assert ("x-ratelimit-remaining-requests: 0" in head) is told
            refusal = (await client.read_until(b"rate_limit_exceeded")).decode()
            assert ("x-ratelimit-limit-requests: 1" in refusal) is told
            assert ("retry-after: 100" in refusal) is told

    asyncio.run(main())


def test_a_function_chooses_the_answer_for_each_request() -> None:
    async def main() -> None:
        upstream = FakeUpstream(lambda seen: Answer(content=f"You are number {seen.number}."))
        async with upstream, raw_client(("127.0.0.1", upstream.port)) as client:
            await client.send(chat_request() * 2)
            await client.read_until(b"You are number 0.")
            await client.read_until(b"You are number 1.")

    asyncio.run(main())
