"""What is whole ends whole, whatever becomes of its connection; and events that cannot be read, by policy."""

from __future__ import annotations

import time
from typing import Any, Literal

import pytest

from penstock.config import Model, TargetConfig
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.script import Cut, Tokens
from penstock.types import Record, Usage
from support.gateway import Answered, gateway, run, upstream
from support.relaying import FIGURES, step, streamed

DONE = b"data: [DONE]\n\n"
PIECES = ("Hello, ", "world.")
FINISHED = 1 + len(PIECES) + 1  # events: the role, the pieces, the finish_reason
BROKEN = Chunk(data='{"choices": [{"index": 0, "delta": {"cont')


def asked(script: Answer, model: Model | None = None, **members: Any) -> tuple[Answered, Record]:
    found: list[tuple[Answered, Record]] = []

    async def main() -> None:
        models = {"*": model or Model((TargetConfig("fake"),))}
        async with FakeUpstream(script) as fake, gateway(upstream(fake.base_url), models=models) as running:
            answered = await running.chat(stream=True, **members)
            found.append((answered, await running.record()))

    run(main())
    return found[0]


def test_an_answer_after_which_nothing_comes_ends_within_a_second_or_two() -> None:
    began = time.monotonic()
    answered, record = asked(Answer(chunks=PIECES, cut=Cut(after_events=FINISHED, how="stall")))
    assert answered.body.endswith(DONE)
    assert (record.ended, record.attempts[0].outcome) == ("ok", "ok")
    assert time.monotonic() - began < 10.0  # and not the minute of silence that a deadline allows


def test_usage_that_comes_after_it_is_still_told() -> None:
    silent = Answer(chunks=PIECES, usage=Tokens(3, 2), cut=Cut(after_events=FINISHED + 1, how="stall"))
    answered, record = asked(silent, stream_options={"include_usage": True})
    assert b'"prompt_tokens":3' in answered.body
    assert answered.body.endswith(DONE)
    assert record.usage == Usage(3, 2)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_connection_that_breaks_after_the_end_harms_nobody(
    how: Literal["close", "reset"], framing: Literal["chunked", "close"]
) -> None:
    answered, record = asked(Answer(chunks=PIECES, framing=framing, cut=Cut(after_events=FINISHED, how=how)))
    assert answered.body.endswith(DONE)
    assert record.ended == "ok"


def test_one_choice_of_two_is_not_the_whole() -> None:
    script = streamed(step({"role": "assistant", "content": "x"}), step({}, "stop"), usage=FIGURES)
    broken = Answer(chunks=script.chunks, role=False, finish_reason="", cut=Cut(after_events=2, how="reset"))
    answered, record = asked(broken, n=2)
    assert b'"error"' in answered.body
    assert (record.ended, record.attempts[0].outcome) == ("cut", "reset")


def test_an_event_that_cannot_be_read_ends_the_answer_by_default() -> None:
    answered, record = asked(Answer(chunks=(PIECES[0], BROKEN, PIECES[1])))
    assert b"Hello" in answered.body
    assert b"world" not in answered.body
    assert b'"error"' in answered.body
    assert (record.ended, record.attempts[0].outcome) == ("cut", "malformed")


def test_an_event_that_cannot_be_read_is_left_out_where_the_model_says_so() -> None:
    skipping = Model((TargetConfig("fake"),), malformed_events="skip")
    answered, record = asked(Answer(chunks=(PIECES[0], BROKEN, PIECES[1])), skipping)
    assert b"Hello" in answered.body
    assert b"world" in answered.body
    assert b"cont" not in answered.body.replace(b"content", b"")
    assert answered.body.endswith(DONE)
    assert record.ended == "ok"
