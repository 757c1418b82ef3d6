"""Every fault of a provider, in every phase: nothing hangs, lies or hammers, and each request is on record once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cells import NO_TLS, REFUSED, TEXT, UNANSWERED, Cell, cells, table
from scene import HUGE, Idle, deadlines, fakes, refusing, unanswered

from penstock.config import Deadlines, Retries
from penstock.fake_upstream import Answer, FakeUpstream
from penstock.types import Record
from support.gateway import Answered, gateway, run, to, upstream

RETRIES = Retries(attempts=3, first_wait=0.03, longest_wait=0.05, max_wait=HUGE, retry_after_cap=1.0)
WAITS = (0.03, 0.05)  # seconds before the second and the third attempt
# After a 429 the third attempt would wait for the target's pace, which takes longer than everything else here.
LIMITED = msgspec.structs.replace(RETRIES, attempts=2)
LATE = 0.15  # the deadline that passes
BOUND = 8.0  # seconds: above what any cell waits for, far below a deadline that is out of reach
GOOD = Answer(content=TEXT)

CELLS = [pytest.param(cell, stream, id=f"{cell.name}-{stream}") for cell in cells() for stream in cell.streams]


def rules(cell: Cell) -> Retries:
    """How often a cell's target may be asked."""
    return LIMITED if cell.fault == "429" else RETRIES


def play(cell: Cell, stream: bool, *, fallback: bool) -> None:
    """Ask once, and hold the answer, the attempts and the record to the cell."""

    async def main() -> None:
        script = cell.upstream if isinstance(cell.upstream, Answer) else GOOD
        with unanswered() as port:
            async with fakes(script, GOOD) as (bad, good):
                urls = {
                    REFUSED: f"http://127.0.0.1:{refusing()}/v1",
                    UNANSWERED: f"http://127.0.0.1:{port}/v1",
                    NO_TLS: f"https://127.0.0.1:{bad.port}/v1",
                }
                url = bad.base_url if isinstance(cell.upstream, Answer) else urls[cell.upstream]
                limits = deadlines(**{cell.deadline: LATE} if cell.deadline else {})
                providers = [upstream(url, "bad", deadlines=limits), upstream(good.base_url, "good", deadlines=limits)]
                models = {"*": to("bad", "good") if fallback else to("bad")}
                async with gateway(*providers, models=models, retries=rules(cell)) as running:
                    idle = Idle(running)
                    began = time.monotonic()
                    answered = await running.chat(stream=stream)
                    took = time.monotonic() - began
                    (record,) = await running.recorder.wait(1)
                    await idle.again(bad, good)
                    assert running.recorder.records == [record]
                    if fallback and cell.rescued:
                        check_rescued(cell, answered, record)
                    else:
                        check_alone(cell, answered, record, fallback)
                        check_pace(cell, record, bad, took)
                    check_honest(answered, stream)
                    check_upstreams(record, bad, good)
                    assert took < BOUND

    run(main())


def check_alone(cell: Cell, answered: Answered, record: Record, fallback: bool) -> None:
    """The client sees the fault as the cell says, after as many attempts."""
    attempts = rules(cell).attempts if cell.repeated else 1
    assert [attempt.outcome for attempt in record.attempts] == [cell.outcome] * attempts
    assert answered.status == cell.status
    assert (error_of(answered) or {}).get("code") == cell.code
    ended = (
        "ok" if cell.code is None else "cut" if cell.status == 200 else "failed" if cell.status >= 500 else "refused"
    )
    assert (record.ended, record.code, record.status) == (ended, cell.code, cell.status)
    if cell.repeated:
        assert answered.headers["x-should-retry"] == "false"
    if cell.status != 200 or cell.code is None:
        assert answered.headers["x-penstock-attempts"] == str(attempts)


def check_rescued(cell: Cell, answered: Answered, record: Record) -> None:
    """The fallback answers, at once, after one attempt at the first target."""
    assert answered.status == 200
    assert [(each.provider, each.outcome) for each in record.attempts] == [("bad", cell.outcome), ("good", "ok")]
    assert [attempt.wait_ms for attempt in record.attempts] == [0.0, 0.0]
    assert (record.ended, record.code, record.provider) == ("ok", None, "good")
    assert answered.headers["x-penstock-target"] == "good/gpt-5.4"
    assert answered.headers["x-penstock-attempts"] == "2"


def check_pace(cell: Cell, record: Record, bad: FakeUpstream, took: float) -> None:
    """No attempt comes before its wait is over, by the record and as the upstream saw it."""
    waits = [max(wait, cell.ask) for wait in WAITS[: rules(cell).attempts - 1]] if cell.repeated else []
    assert all(attempt.wait_ms >= wait * 990 for attempt, wait in zip(record.attempts[1:], waits, strict=True))
    least = sum(waits) + (LATE * len(record.attempts) if cell.deadline else 0.0)
    assert took >= least * 0.9  # deadlines and timers are exact to some milliseconds
    if isinstance(cell.upstream, Answer):
        for before, after, wait in zip(bad.seen, bad.seen[1:], waits, strict=False):
            assert before.ended_at is not None
            assert after.started_at - before.started_at >= wait * 0.9


def check_honest(answered: Answered, stream: bool) -> None:
    """A success is the whole answer; what is not whole says so, in a form that clients raise."""
    error = error_of(answered)
    if answered.status != 200:
        assert error is not None
        return
    if not stream:
        (choice,) = answered.json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (TEXT, "stop")
        return
    events = events_of(answered)
    said = "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ()))
    finishes = [choice["finish_reason"] for event in events for choice in event.get("choices", ())]
    if error is None:
        assert answered.body.endswith(b"data: [DONE]\n\n")
        assert (said, finishes[-1]) == (TEXT, "stop")
    else:
        assert b"[DONE]" not in answered.body
        assert TEXT.startswith(said)
        assert not any(finishes)
        assert events[-1] == {"error": error}


def check_upstreams(record: Record, bad: FakeUpstream, good: FakeUpstream) -> None:
    """What the record says was called is what the upstreams saw."""
    called = {"bad": 0, "good": 0}
    for attempt in record.attempts:
        called[attempt.provider] += attempt.outcome not in ("connect", "timeout_connect")
    assert {"bad": len(bad.seen), "good": len(good.seen)} == called


def error_of(answered: Answered) -> Any:
    """The error that the client sees, in whatever form; None if none."""
    if answered.headers["content-type"] == "application/json":
        return answered.json().get("error")
    return next((event["error"] for event in events_of(answered) if "error" in event), None)


def events_of(answered: Answered) -> list[Any]:
    *events, rest = answered.body.split(b"\n\n")
    assert rest == b""
    return [json.loads(event.removeprefix(b"data: ")) for event in events if event != b"data: [DONE]"]


@pytest.mark.parametrize(("cell", "stream"), CELLS)
def test_a_single_target_at_fault_is_asked_no_more_than_is_allowed_and_its_client_is_told(
    cell: Cell, stream: bool
) -> None:
    play(cell, stream, fallback=False)


@pytest.mark.parametrize(("cell", "stream"), CELLS)
def test_a_fallback_answers_where_nothing_has_been_said(cell: Cell, stream: bool) -> None:
    play(cell, stream, fallback=True)


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "resilience.md").read_text("utf-8")
    assert table() in page, f"docs/resilience.md must have this table:\n{table()}"


def test_every_phase_meets_every_fault_that_makes_sense_there() -> None:
    met = {(cell.phase, cell.fault) for cell in cells()}
    faults = {"reset", "stall", "malformed", "slow", "429", "5xx", "HTML"}
    senseless = {("connect", fault) for fault in ("slow", "429", "5xx", "HTML")}  # nothing is said there, by anybody
    senseless |= {("end", fault) for fault in ("429", "5xx", "HTML")}  # what comes after the end is not read
    assert {(phase, fault) for phase in {cell.phase for cell in cells()} for fault in faults} - met == senseless


def test_only_the_deadline_that_is_to_pass_is_within_reach() -> None:
    assert deadlines(idle=LATE) == Deadlines(HUGE, HUGE, HUGE, LATE, HUGE)
