"""Only an answer in which there is nothing to mend is sound, and its usage is the one that the closer look reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.types import Usage
from penstock.wire.sound import read
from penstock.wire.usage import usage_of

MESSAGE = {"role": "assistant", "content": "Paris.", "refusal": None}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {**MESSAGE, "content": None, "tool_calls": [CALL]}
FIGURES = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def answer(message: Any = MESSAGE, finish: str = "stop", usage: Any = FIGURES, **members: Any) -> bytes:
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps({**whole, **members}, ensure_ascii=False).encode()


def test_the_usage_and_the_end_of_a_sound_answer_are_given_or_that_there_is_no_usage() -> None:
    assert read(answer()) == (Usage(7, 2), "stop")
    assert read(answer(finish="length", usage=None)) == (None, "length")


@pytest.mark.parametrize(
    ("message", "finish", "bound", "sound"),
    [
        (CALLED, "tool_calls", False, True),
        (CALLED, "stop", False, False),
        (CALLED, "stop", True, True),
        ({**CALLED, "tool_calls": []}, "stop", True, False),
        ({**CALLED, "tool_calls": [CALL, CALL]}, "tool_calls", False, False),
        ({**CALLED, "tool_calls": [{**CALL, "id": ""}]}, "tool_calls", False, False),
        ({**CALLED, "tool_calls": [{**CALL, "function": None}]}, "tool_calls", False, False),
        ({**CALLED, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": ""}}]}, "tool_calls", False, False),
        ({**CALLED, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": ""}}]}, "length", False, True),
        ({**MESSAGE, "function_call": {"name": "f", "arguments": ""}}, "function_call", False, False),
        ({**MESSAGE, "function_call": {"name": "f", "arguments": "{}"}}, "function_call", False, True),
        ({**MESSAGE, "reasoning": "hm"}, "stop", False, False),
        ({**MESSAGE, "reasoning": "hm", "reasoning_content": "hm"}, "stop", False, True),
    ],
)
def test_a_message_is_sound_or_not(message: Any, finish: str, bound: bool, sound: bool) -> None:
    assert (read(answer(message, finish), bound) is not None) == sound


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        answer()[:-1],
        answer().replace(b'"m"', b'"\xff"'),
        answer(x="y").replace(b'"y"', b'"\xff"'),
        answer(error=None),
        answer(choices=[]),
        answer(id=""),
        answer(created=1.5),
        answer(created=1.0),
        b'{"x":' + b"[" * 200_000,
    ],
)
def test_what_is_broken_or_lacks_something_is_not_sound(body: bytes) -> None:
    assert read(body) is None


NUMBERS = st.one_of(st.none(), st.integers(-2, 9), st.just(2**53), st.just(1.0), st.booleans())
USAGES = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(-1, 9), "completion_tokens": st.integers(0, 9), "total_tokens": st.integers(0, 18)},
    optional={
        "prompt_tokens_details": st.one_of(st.none(), st.fixed_dictionaries({}, optional={"cached_tokens": NUMBERS})),
        "completion_tokens_details": st.one_of(
            st.none(), st.fixed_dictionaries({}, optional={"reasoning_tokens": NUMBERS})
        ),
        "prompt_cache_hit_tokens": NUMBERS,
    },
)


@given(USAGES, st.booleans())
def test_the_usage_of_a_sound_answer_is_what_the_closer_look_reads(usage: dict[str, Any], right: bool) -> None:
    if right:
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    found = read(answer(usage=usage))
    assert found in (None, (usage_of(usage), "stop"))
    if usage["prompt_tokens"] + usage["completion_tokens"] != usage["total_tokens"]:
        assert found is None
