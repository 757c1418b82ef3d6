"""The short form of `make chaos`, and that its books would find out a gateway that lied, lost or leaked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chaos.books import Books, judge
from chaos.caller import Got, Wish
from chaos.chaos_run import chaos
from chaos.plan import FAULTS, LIMITED, Plan, is_part, is_whole, words

SEED = 20
STREAM, WHOLE = Wish("c000-000001", "m", stream=True), Wish("c000-000002", "m", stream=False)
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "x-request-id": "req_1"}
JSON = {"content-type": "application/json", "x-request-id": "req_1"}


def test_ten_seconds_of_chaos_leave_nothing_behind_and_every_request_is_accounted_for_once() -> None:
    told: list[str] = []
    outcome = chaos(10.0, SEED, clients=40, tell=told.append)
    assert outcome.wrong == (), outcome.told()
    assert outcome.figures["requests"]


def test_the_seed_makes_the_plan() -> None:
    def planned(seed: int) -> list[object]:
        plan = Plan(seed)
        wishes = plan.wishes(7)
        answers = [plan.answer(upstream, "c007-000000", 0) for upstream in range(5)]
        return [next(wishes) for _ in range(20)] + answers + [next(plan.absences(1))]

    assert planned(1) == planned(1) != planned(2)


def test_every_fault_is_in_the_plan() -> None:
    plan = Plan(SEED)
    random, said = plan._random("x"), words(plan._random("y"))
    assert all(make(random, said) for make, _ in LIMITED)
    assert len({make for make, _ in LIMITED}) == len(FAULTS) + 1 == 17


@pytest.mark.parametrize(
    ("text", "whole", "part"),
    [
        ("1/3 2/3 3/3 ", True, True),
        ("1/3 2/3", False, True),
        ("1/3 2/", False, True),
        ("", False, True),
        ("2/3 3/3", False, False),
        ("1/3 1/3 2/3 3/3", False, False),
    ],
)
def test_an_answer_tells_whether_it_is_whole(text: str, whole: bool, part: bool) -> None:
    assert (is_whole(text), is_part(text)) == (whole, part)


def event(text: str | None = None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


END = b"data: [DONE]\n\n"
ERROR = b'data: {"error": {"message": "It broke off."}}\n\n'


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (event("1/2 ") + event("2/2 ") + event(finish="stop") + END, "ok"),
        (event("1/2 ") + ERROR, "cut"),
        (event("1/2 ") + event(finish="stop") + END, "a stream dressed as success"),
        (event("1/1 ") + END, "a stream dressed as success"),
        (event("1/1 ") + event(finish="stop"), "a stream dressed as success"),
        (event("1/1 ") + event(finish="stop") + event(finish="stop") + END, "a stream dressed as success"),
        (event("1/1 ") + event(finish="stop") + END + event("2/2 "), "an event after the end"),
        (event("2/2 ") + ERROR, "an error after"),
        (event("1/1 ") + b'data: {"cho\n\n', "an event that is not JSON"),
        (event("1/1 ") + b'data: {"cho', "a stream that ends within an event"),
    ],
)
def test_a_client_tells_a_whole_stream_from_one_that_only_looks_so(body: bytes, outcome: str) -> None:
    got = Got(200, EVENTS, bytearray(body), "whole")
    assert judge(STREAM, got).startswith(outcome)
    assert judge(STREAM, Got(200, EVENTS, bytearray(body), "broken")).startswith("an answer that was broken")


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome"),
    [
        (502, JSON, b'{"error": {"message": "It failed."}}', "error"),
        (502, JSON, b"<html>", "status 502 without the envelope"),
        (502, JSON, b'{"error": {"message": ""}}', "status 502 with an envelope that lacks something"),
        (200, JSON, b'{"choices": [{"message": {"content": "1/1"}, "finish_reason": "stop"}]}', "ok"),
        (200, JSON, b'{"choices": [{"message": {"content": "1/2"}, "finish_reason": "stop"}]}', "an answer that lacks"),
        (200, JSON, b"<html>", "an answer that is none"),
        (200, EVENTS, END, "a content-type"),
        (200, {}, b"", "an answer without an x-request-id"),
    ],
)
def test_a_client_tells_an_answer_from_an_error(status: int, headers: Any, body: bytes, outcome: str) -> None:
    assert judge(WHOLE, Got(status, headers, bytearray(body), "whole")).startswith(outcome)


def line(**members: Any) -> str:
    """The record of a stream that u0 answered."""
    record = {"request_id": "req_1", "client_request_id": STREAM.marker, "status": 200, "ended": "ok"}
    return json.dumps({**record, "attempts": [{"provider": "u0", "outcome": "ok", "status": 200}], **members})


def differences(*lines: str, calls: tuple[int, ...] = (200,), ended: Any = "whole") -> list[str]:
    books = Books()
    body = event("1/1 ") + event(finish="stop") + END
    books.note(STREAM, Got(200, EVENTS, bytearray(body), ended))
    for status in calls:
        books.saw("u0", STREAM.marker, status)
    return books.differences(lines)[0]


def test_books_that_agree_are_left_alone() -> None:
    assert differences(line()) == []
    reset = {"provider": "u0", "outcome": "reset", "status": 0}
    ok = {"provider": "u0", "outcome": "ok", "status": 200}
    assert differences(line(attempts=[reset, ok])) == []
    assert differences(line(attempts=[reset, ok]), calls=(0, 200)) == []


@pytest.mark.parametrize(
    ("lines", "calls", "ended", "found"),
    [
        ([], (200,), "whole", "is not on record"),
        ([line(), line()], (200,), "whole", "is on record twice"),
        ([line()], (), "partial", "though it was never whole"),
        ([line(request_id="req_2")], (200,), "whole", "the client was told req_1"),
        ([line(ended="hangup")], (200,), "whole", "the client got ok with 200"),
        ([line()], (200, 200), "whole", "u0 saw 2 calls"),
        ([line()], (), "whole", "u0 saw 0 calls"),
        ([line(attempts=[])], (200,), "whole", "u0 saw 1 calls"),
        ([line(attempts=[{"provider": "u0", "outcome": "connect", "status": 0}])], (200,), "whole", "u0 saw 1 calls"),
        ([line(attempts=[{"provider": "u0", "outcome": "unavailable", "status": 500}])], (503,), "whole", "[503]"),
        ([line(), "Traceback (most recent call last):"], (200,), "whole", "the gateway says"),
        ([line(), '{"dropped_access_lines": 3}'], (200,), "whole", "a line of no request"),
    ],
)
def test_whatever_is_not_accounted_for_once_is_found_out(
    lines: list[str], calls: tuple[int, ...], ended: str, found: str
) -> None:
    wrong = differences(*lines, calls=calls, ended=ended)
    assert any(found in what for what in wrong), wrong
