"""What a caller is told of its limits: the words, and the header lines."""

from __future__ import annotations

import math

import pytest

from penstock import link
from penstock.errors import Refusal
from penstock.gateway.limited import Gauges, duration, refusal
from penstock.limits import NANOS

NOW = 1000.0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, b"0ms"),
        (-5.0, b"0ms"),
        (0.0121, b"13ms"),
        (0.9999, b"1s"),
        (1.01, b"1.1s"),
        (59.95, b"1m0s"),
        (60.5, b"1m0.5s"),
        (360.0, b"6m0s"),
        (86_399.91, b"24h0m0s"),
    ],
)
def test_a_duration_is_written_as_go_writes_it_and_never_too_short(seconds: float, said: bytes) -> None:
    assert duration(seconds) == said


def told(lines: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in lines.decode().splitlines())


def test_of_several_limits_the_one_is_told_of_which_least_is_left() -> None:
    board = [100, 1_060_000, 7, 1_500_000, -3, 1_060_500, 1]
    rows = (link.Row(0, 600, False), link.Row(1, 10, False), link.Row(2, 9000, True))
    gauges = Gauges(rows, board)
    assert told(gauges.lines(2, 0, NOW)) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "8m20s",
        "x-ratelimit-limit-tokens": "9000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m0.5s",
    }
    unmetered = told(gauges.lines(math.inf, math.inf, NOW))
    assert unmetered["x-ratelimit-remaining-requests"] == "7", "what nothing meters adds none"
    board[2], board[-1] = 700, 2
    assert told(gauges.lines(0, 0, NOW))["x-ratelimit-limit-requests"] == "600"
    assert "x-ratelimit-limit-tokens" not in told(Gauges(rows[:2], board).lines(0, 0, NOW))
    assert Gauges().lines(0, 0, NOW) == b""


def test_a_reset_is_never_told_too_early_while_time_passes_and_more_is_taken() -> None:
    board = [5, 1_060_000, 0]
    gauges = Gauges((link.Row(0, 600, False),), board)
    for step in range(200):
        now = NOW + step * 0.03
        board[1], board[-1] = 1_060_000 + 250 * (step // 10), step // 10
        reset = told(gauges.lines(0, 0, now))["x-ratelimit-reset-requests"]
        minutes, _, seconds = reset.removesuffix("s").rpartition("m")
        promised = now + 60 * int(minutes or 0) + float(seconds)
        assert board[1] / 1000 <= promised + 1e-6 <= board[1] / 1000 + 0.21


def denied(**fields: object) -> Refusal:
    given = {"scope": "key", "meter": "rpm", "model": "", "amount": 60, "wait": 1.2, "needs": 1, **fields}
    return refusal(link.Denied(1, **given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "The limit of this key is reached: 60 requests per minute. Try again in 1.2 s."),
        (
            {"scope": "project", "model": "gpt-*", "wait": 400.0},
            "60 requests per minute for models 'gpt-*'. Try",
        ),
        ({"meter": "concurrency", "wait": None}, "60 requests at once. Try again when one of them has ended."),
        (
            {"meter": "usd_per_month", "amount": 25 * NANOS // 2, "wait": 1e6},
            "12.5 US dollars per month. Try",
        ),
        (
            {"meter": "usd_total", "amount": NANOS, "wait": math.inf},
            "is spent: 1 US dollars in all.",
        ),
        (
            {"meter": "tpm", "wait": math.inf, "needs": 1234},
            "may need 1,234 tokens, more than the limit",
        ),
    ],
)
def test_a_refusal_names_the_limit_and_says_what_to_do(fields: dict[str, object], words: str) -> None:
    assert words in denied(**fields).message


def test_a_quota_is_no_rate() -> None:
    assert (denied().code, denied(meter="requests_per_day").code) == ("rate_limit_exceeded", "insufficient_quota")
    hints = dict(denied(meter="requests_per_day", wait=5000.2).headers)
    assert (hints[b"Retry-After"], hints[b"x-should-retry"]) == (b"5001", b"false")
