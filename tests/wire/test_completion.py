"""A whole answer holds what typed clients need, and what was not at fault keeps its bytes."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from openai.types.chat import ChatCompletion

from penstock.wire.completion import decode_completion, mend
from penstock.wire.sound import read
from support.chat_bodies import ABSENT

NOW = 1_760_000_123.75
MESSAGE = {"role": "assistant", "content": "Paris.", "refusal": None}
CHOICE = {"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop"}
FIGURES = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
WHOLE = {
    "id": "chatcmpl-9f2b",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "gpt-5.4-2026-03-05",
    "choices": [CHOICE],
    "usage": FIGURES,
}
FUNCTION = {"name": "f", "arguments": '{"a":1}'}
CALL = {"id": "call_1", "type": "function", "function": FUNCTION}


def varied(whole: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {name: value for name, value in {**whole, **members}.items() if value is not ABSENT}


def mended(answer: dict[str, Any]) -> Any:
    """What becomes of an answer, which must not be sound; nothing is left to mend in it, and the SDK's types hold."""
    body = json.dumps(answer).encode()
    found = decode_completion(body)
    assert read(body) is None
    out = mend(body, found, "gpt-5.4", NOW)
    assert read(out) is not None
    ChatCompletion.model_validate(json.loads(out), strict=True)
    return json.loads(out)


def with_choice(**members: Any) -> dict[str, Any]:
    return {**WHOLE, "choices": [varied(CHOICE, **members)]}


def with_message(**members: Any) -> dict[str, Any]:
    return with_choice(message=varied(MESSAGE, **members))


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        varied(WHOLE, usage=ABSENT),
        varied(WHOLE, usage=None),
        varied(WHOLE, system_fingerprint=None, service_tier="default"),
        with_choice(finish_reason="tool_calls", message=varied(MESSAGE, content=None, tool_calls=[CALL])),
        with_choice(finish_reason="function_call", message=varied(MESSAGE, content=None, function_call=FUNCTION)),
        with_choice(logprobs={"content": [{"token": "P", "logprob": -0.1, "bytes": [80], "top_logprobs": []}]}),
        with_message(content=None, refusal="I will not."),
        with_message(reasoning="hm", reasoning_content="hm"),
        with_choice(
            finish_reason="tool_calls",
            message=varied(
                MESSAGE,
                content=None,
                tool_calls=[{"id": "c", "type": "custom", "custom": {"name": "t", "input": "text"}}],
            ),
        ),
        varied(WHOLE, choices=[CHOICE, {**CHOICE, "index": 1}]),
    ],
)
def test_an_answer_as_openai_gives_it_is_sound(answer: dict[str, Any]) -> None:
    assert read(json.dumps(answer).encode()) is not None


@pytest.mark.parametrize("lost", [ABSENT, None, "", 7])
def test_an_answer_without_an_id_gets_one_of_its_own(lost: Any) -> None:
    ids = {mended(varied(WHOLE, id=lost))["id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(identity.startswith("chatcmpl-") for identity in ids)


@pytest.mark.parametrize(
    ("created", "seconds"),
    [
        (1_760_000_000.9, 1_760_000_000),
        (ABSENT, int(NOW)),
        (None, int(NOW)),
        ("2026-01-01", int(NOW)),
        (1e300, int(NOW)),
    ],
)
def test_created_is_whole_seconds(created: Any, seconds: int) -> None:
    found = mended(varied(WHOLE, created=created))["created"]
    assert (type(found), found) == (int, seconds)


@pytest.mark.parametrize("lost", [ABSENT, None, ""])
def test_an_answer_without_a_model_names_the_one_that_was_asked(lost: Any) -> None:
    assert mended(varied(WHOLE, model=lost))["model"] == "gpt-5.4"


@pytest.mark.parametrize("lost", [ABSENT, None, "chat.completion.chunk"])
def test_the_object_is_named(lost: Any) -> None:
    assert mended(varied(WHOLE, object=lost)) == WHOLE


@pytest.mark.parametrize("error", [None, {}, ""])
def test_an_error_that_is_none_is_left_out(error: Any) -> None:
    assert mended(varied(WHOLE, error=error)) == WHOLE


@pytest.mark.parametrize("indexes", [(0, 0), (ABSENT, ABSENT), (1, 2), ("0", "1"), (None, 0), (False, True)])
def test_choices_are_numbered_from_0(indexes: tuple[Any, Any]) -> None:
    choices = [varied(CHOICE, index=index) for index in indexes]
    assert [choice["index"] for choice in mended(varied(WHOLE, choices=choices))["choices"]] == [0, 1]


def test_choices_come_in_the_order_of_their_numbers() -> None:
    second = {**CHOICE, "index": 1, "message": {**MESSAGE, "content": "second"}}
    assert mended(varied(WHOLE, choices=[second, CHOICE]))["choices"] == [CHOICE, second]


def test_what_a_choice_and_its_message_lack_is_put_in() -> None:
    assert mended(with_choice(logprobs=ABSENT)) == WHOLE
    assert mended(with_message(refusal=ABSENT)) == WHOLE
    for role in ABSENT, None, "", "model":
        assert mended(with_message(role=role)) == WHOLE
    answer = with_message(content=ABSENT, refusal=ABSENT, role=ABSENT)
    assert mended(answer)["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": None}


def test_content_in_parts_becomes_their_text() -> None:
    parts = [{"type": "text", "text": "Par"}, {"type": "text", "text": "is."}]
    assert mended(with_message(content=parts)) == WHOLE


def test_thinking_parts_become_reasoning() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "France"}, {"type": "text", "text": "?"}]}
    parts = [thinking, {"type": "text", "text": "Paris."}]
    message = mended(with_message(content=parts))["choices"][0]["message"]
    assert message == {**MESSAGE, "reasoning_content": "France?"}


def test_parts_that_nobody_knows_are_not_mended() -> None:
    with pytest.raises(ValueError, match="neither text nor reasoning"):
        mended(with_message(content=[{"type": "image", "image": "x"}]))


def test_calls_that_were_free_end_as_calls() -> None:
    called = with_message(content=None, tool_calls=[CALL])
    assert mended(called)["choices"][0]["finish_reason"] == "tool_calls"
    assert read(json.dumps(called).encode(), bound=True) is not None


@pytest.mark.parametrize("content", [["Paris."], 7, {"text": "Paris."}])
def test_content_that_is_no_text_is_not_read(content: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_completion(json.dumps(with_message(content=content)).encode())


def test_a_finish_reason_of_the_servers_own_becomes_a_documented_one() -> None:
    assert mended(with_choice(finish_reason="eos")) == WHOLE
    assert mended(with_choice(finish_reason="MAX_TOKENS"))["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("calls", [[], None, ""])
def test_tool_calls_that_are_none_are_left_out(calls: Any) -> None:
    assert mended(with_message(tool_calls=calls)) == WHOLE


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (varied(CALL, type=ABSENT), FUNCTION["arguments"]),
        (varied(CALL, function={"name": "f", "arguments": {"a": "é"}}), '{"a": "\\u00e9"}'),
        (varied(CALL, function={"name": "f", "arguments": None}), "{}"),
        (varied(CALL, function={"name": "f"}), "{}"),
        (varied(CALL, function={"name": "f", "arguments": ""}), "{}"),
    ],
)
def test_a_call_has_its_type_and_its_arguments_as_a_string(call: dict[str, Any], arguments: str) -> None:
    (found,) = mended(with_message(tool_calls=[call]))["choices"][0]["message"]["tool_calls"]
    assert found == {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize("lost", [ABSENT, None, ""])
def test_calls_without_an_id_get_different_ones(lost: Any) -> None:
    calls = mended(with_message(tool_calls=[varied(CALL, id=lost)] * 2))["choices"][0]["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == 2
    assert all(call["id"].startswith("call_") for call in calls)


def test_calls_that_share_an_id_get_different_ones() -> None:
    calls = mended(with_message(tool_calls=[CALL, CALL]))["choices"][0]["message"]["tool_calls"]
    assert calls[0] == CALL
    assert calls[1] == {**CALL, "id": calls[1]["id"]}
    assert calls[1]["id"].startswith("call_")
    assert calls[1]["id"] != "call_1"


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_no_arguments_are_made_for_a_call_that_was_cut(reason: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": ""}}
    answer = with_choice(finish_reason=reason, message=varied(MESSAGE, content=None, tool_calls=[call]))
    assert read(json.dumps(answer).encode()) is not None
    call = {**CALL, "function": {"name": "f"}}
    found = mended(with_choice(finish_reason=reason, message=varied(MESSAGE, content=None, tool_calls=[call])))
    assert found["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": ""}


@pytest.mark.parametrize("calls", [[1], {"a": 1}, "x", [{"id": "c"}], [{"id": "c", "function": "f"}]])
def test_calls_that_are_none_cannot_be_mended(calls: Any) -> None:
    body = json.dumps(with_message(tool_calls=calls)).encode()
    found = decode_completion(body)
    assert read(body) is None
    with pytest.raises(msgspec.ValidationError):
        mend(body, found, "gpt-5.4", NOW)


def test_the_deprecated_call_has_its_arguments_as_a_string() -> None:
    answer = with_message(content=None, function_call={"name": "f", "arguments": {"a": 1}})
    found = mended(answer)["choices"][0]["message"]["function_call"]
    assert found == {"name": "f", "arguments": '{"a": 1}'}


def test_reasoning_gets_the_name_that_clients_know_and_keeps_the_one_it_had() -> None:
    message = mended(with_message(reasoning="hm", reasoning_content=None))["choices"][0]["message"]
    assert message == {**MESSAGE, "reasoning": "hm", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    "usage",
    [
        varied(FIGURES, total_tokens=ABSENT),
        varied(FIGURES, total_tokens=12),
        {"prompt_tokens": 7.0, "completion_tokens": 2.0, "total_tokens": 9.0},
        varied(FIGURES, total_tokens=None, x=1),
    ],
)
def test_figures_are_whole_and_add_up(usage: dict[str, Any]) -> None:
    found = mended(varied(WHOLE, usage=usage))["usage"]
    assert found == {**usage, **FIGURES}
    assert {type(found[name]) for name in FIGURES} == {int}


@pytest.mark.parametrize("usage", [{}, "much", [], 9])
def test_usage_without_figures_is_left_out(usage: Any) -> None:
    assert mended(varied(WHOLE, usage=usage)) == varied(WHOLE, usage=ABSENT)


def test_what_is_not_at_fault_keeps_its_bytes() -> None:
    body = (
        b'{"id":"a","object":"chat.completion","x": 1.50e2 ,"model":"m","created":1.5,"choices":[{"index":0,'
        b'"logprobs":{"a": -0.10},"finish_reason":"stop","message":{"role":"assistant","refusal":null,'
        b'"content":"\\u00e9","audio":{"expires_at": 1.0}}}]}'
    )
    assert mend(body, decode_completion(body), "m", NOW) == (
        b'{"id":"a","object":"chat.completion","x":1.50e2,"model":"m","created":1,"choices":[{"index":0,'
        b'"logprobs":{"a": -0.10},"finish_reason":"stop","message":{"role":"assistant","refusal":null,'
        b'"content":"\\u00e9","audio":{"expires_at": 1.0}}}]}'
    )


def test_very_many_choices_are_put_in_order_in_a_moment() -> None:
    choices = [{**CHOICE, "index": index} for index in reversed(range(100_000))]
    body = json.dumps({**WHOLE, "id": "", "choices": choices}).encode()
    answer = decode_completion(body)
    began = time.process_time()
    found = json.loads(mend(body, answer, "gpt-5.4", NOW))["choices"]
    assert time.process_time() - began < 10.0
    assert [choice["index"] for choice in found] == list(range(100_000))
