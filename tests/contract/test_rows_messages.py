"""Rows E: which conversations are taken and which are refused, and where, by a hosted and by a local model."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest

from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from support.callers import HELLO, Caller, error_of, text_of
from support.gateway import gateway, run
from support.upstreams import ThreadedUpstream

PNG = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CUSTOM = {"id": "call_2", "type": "custom", "custom": {"name": "t", "input": "x"}}
REPLY = {"role": "tool", "tool_call_id": "call_1", "content": "42"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def says(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def calls(*made: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(made), **more}


TEXTS = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([says("developer", "Be brief."), *HELLO], id="E05-developer"),
        pytest.param([says("system", "Be brief."), *HELLO], id="E05-system"),
        pytest.param([*HELLO, says("assistant", "Hi."), *HELLO], id="E05-assistant"),
        pytest.param([*HELLO, calls(CALL, content=None), REPLY], id="E05-tool"),
        pytest.param(
            [
                *HELLO,
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                says("function", "42", name="f"),
            ],
            id="E28-function",
        ),
        pytest.param([*HELLO, calls(CALL, content=None), REPLY, *HELLO], id="E09"),
        pytest.param([*HELLO, calls(CALL), REPLY], id="E10-absent"),
        pytest.param([*HELLO, calls(CALL, content=""), REPLY], id="E10-empty"),
        pytest.param([*HELLO, calls(CALL, content=[]), REPLY], id="E10-no-parts"),
        pytest.param([*HELLO, calls(CALL, CUSTOM), REPLY, {**REPLY, "tool_call_id": "call_2"}], id="G18-two"),
        pytest.param([says("user", "")], id="E12"),
        pytest.param([says("user", "Hello!", name="ann")], id="E18-user"),
        pytest.param([says("system", "Be brief.", name="ops"), *HELLO], id="E18-system"),
        pytest.param([*HELLO, says("assistant", "Hi.", name="bot"), *HELLO], id="E18-assistant"),
        pytest.param([*HELLO, {"role": "assistant", "content": "Hi.", "tool_calls": []}, *HELLO], id="E22"),
        pytest.param([*HELLO, {"role": "assistant", "content": "Hi.", "tool_calls": None}, *HELLO], id="E22-null"),
        pytest.param([says("system", "a"), says("system", "b"), *HELLO], id="E23-two-systems"),
        pytest.param([*HELLO, says("system", "late")], id="E23-late-system"),
        pytest.param([*HELLO, *HELLO], id="E23-two-users"),
        pytest.param([says("assistant", "Hi."), *HELLO], id="E23-assistant-first"),
        pytest.param([*HELLO, says("assistant", "Hi")], id="E23-assistant-last"),
        pytest.param([says("assistant", "a"), says("assistant", "b"), *HELLO], id="E23-two-assistants"),
        pytest.param([says("system", "alone")], id="E23-system-alone"),
        pytest.param(
            [*HELLO, says("assistant", [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]), *HELLO],
            id="E24",
        ),
        pytest.param([*HELLO, says("assistant", None, refusal="No."), *HELLO], id="E24-refusal"),
        pytest.param(
            [
                says("user", "Hello!", cache_control={"type": "ephemeral"}, x=[1]),
                says("assistant", "Hi.", reasoning_content="r"),
            ],
            id="E25",
        ),
    ],
)
def test_a_conversation_of_any_documented_form_is_answered(caller: Caller, messages: list[Any]) -> None:
    assert text_of(caller.answer(messages=messages, max_completion_tokens=8))
    assert text_of(caller.stream(messages=messages, max_completion_tokens=8))


@pytest.mark.parametrize("role", ["developer", "system", "user", "assistant", "tool", "function"])
def test_text_in_parts_is_taken_of_every_role(caller: Caller, role: str) -> None:
    histories = {
        "tool": [*HELLO, calls(CALL), {**REPLY, "content": TEXTS}],
        "function": [*HELLO, says("function", TEXTS, name="f")],
    }
    messages = histories.get(role, [says(role, TEXTS), *HELLO])
    assert text_of(caller.answer(messages=messages, max_completion_tokens=8))


def test_text_in_one_part_means_what_the_string_means(local: Caller) -> None:
    for role in "system", "developer", "user":
        plain = local.answer(messages=[says(role, "Count to five."), *HELLO], temperature=0)
        parts = local.answer(messages=[says(role, [{"type": "text", "text": "Count to five."}]), *HELLO], temperature=0)
        assert text_of(parts) == text_of(plain)
        assert parts["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def test_the_local_models_template_reads_a_developer_as_the_system(local: Caller) -> None:
    def likelihood(role: str) -> float:
        """How likely the first token of the answer was: each prompt has its own."""
        messages = [says(role, "Be brief."), *HELLO]
        answer = local.answer(messages=messages, temperature=0, logprobs=True, max_completion_tokens=1)
        return float(answer["choices"][0]["logprobs"]["content"][0]["logprob"])

    assert likelihood("developer") == pytest.approx(likelihood("system"), abs=0.001)
    assert likelihood("developer") != pytest.approx(likelihood("user"), abs=0.01)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        pytest.param([], "messages", "empty_array", id="E02"),
        pytest.param("x", "messages", "invalid_type", id="E03-string"),
        pytest.param(None, "messages", "invalid_type", id="E03-null"),
        pytest.param([123], "messages[0]", "invalid_type", id="E03-number"),
        pytest.param([{}], "messages[0].role", "missing_required_parameter", id="E03-empty"),
        pytest.param([{"role": 123}], "messages[0].role", "invalid_type", id="E03-role"),
        pytest.param([says("system", 123)], "messages[0].content", "invalid_type", id="E03-content"),
        pytest.param([says("banana", "x")], "messages[0].role", "invalid_value", id="E07"),
        pytest.param([*HELLO, says("", "x")], "messages[1].role", "invalid_value", id="E07-empty"),
        pytest.param([says("user", None)], "messages.[0].content", None, id="E11"),
        pytest.param([{"role": "user"}], "messages[0].content", "missing_required_parameter", id="E11-absent"),
        pytest.param(
            [says("user", [{"type": "banana", "text": "x"}])], "messages[0].content[0].type", "invalid_value", id="E13"
        ),
        pytest.param(
            [*HELLO, calls(CALL), {"role": "tool", "content": "42"}],
            "messages[2].tool_call_id",
            "missing_required_parameter",
            id="E19",
        ),
        pytest.param([*HELLO, REPLY], "messages.[1].role", None, id="E20"),
        pytest.param(
            [*HELLO, calls(CALL), {**REPLY, "tool_call_id": "call_9"}],
            "messages.[2].tool_call_id",
            None,
            id="E20-other",
        ),
        pytest.param([*HELLO, calls(CALL), *HELLO], "messages.[1].role", None, id="E21"),
        pytest.param([*HELLO, calls(CALL, CUSTOM), REPLY], "messages.[1].role", None, id="E21-one-of-two"),
    ],
)
def test_a_conversation_of_another_form_is_refused_at_its_place(
    caller: Caller, messages: Any, param: str, code: str | None, stream: bool
) -> None:
    error = error_of(caller.chat(messages=messages, stream=stream), 400)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


def test_calls_without_a_reply_are_listed(caller: Caller) -> None:
    error = caller.refusal(messages=[*HELLO, calls(CALL, CUSTOM), REPLY])
    assert "call_2" in error["message"]
    assert "call_1" not in error["message"]


def test_messages_and_model_are_required(caller: Caller) -> None:
    for name in "messages", "model":
        body = caller.body()
        del body[name]
        error = error_of(caller.post(json.dumps(body).encode()), 400)
        assert (error["param"], error["code"]) == (name, "missing_required_parameter")


MEDIA = [
    pytest.param({"type": "image_url", "image_url": {"url": PNG}}, id="E14"),
    pytest.param({"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}, id="E14-low"),
    pytest.param({"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}, id="E14-high"),
    pytest.param({"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}, id="E15"),
    pytest.param({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}, id="E17-wav"),
    pytest.param({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "mp3"}}, id="E17-mp3"),
    pytest.param({"type": "file", "file": {"file_data": "data:,x", "filename": "x.txt"}}, id="E17-file"),
    pytest.param({"type": "file", "file": {"file_id": "file-1"}}, id="E17-file-id"),
]


@pytest.mark.parametrize("part", MEDIA)
def test_what_is_no_text_reaches_the_provider_untouched(
    hosted: Caller, strict_upstream: ThreadedUpstream, part: dict[str, Any]
) -> None:
    mark = uuid.uuid4().hex
    body = hosted.body(messages=[says("user", [{"type": "text", "text": mark}, part])])
    sent = json.dumps(body).encode()
    assert hosted.post(sent).status_code == (400 if part["type"] == "input_audio" else 200)  # it reads no audio
    assert [seen.body for seen in strict_upstream.seen if mark.encode() in seen.body] == [sent]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("data", ["!", "", "aGVsbG8="])
def test_an_image_that_cannot_be_read_is_a_400_of_whoever_reads_it(caller: Caller, data: str, stream: bool) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    error = error_of(caller.chat(messages=[says("user", [part])], stream=stream), 400)
    assert error["type"] == "invalid_request_error"
    assert error["code"] == ("unsupported_parameter" if caller.is_local else "invalid_base64")


@pytest.mark.parametrize("part", MEDIA)
def test_what_is_no_text_is_refused_by_a_model_that_reads_text_alone(local: Caller, part: dict[str, Any]) -> None:
    error = local.refusal(messages=[says("user", [{"type": "text", "text": "Look!"}, part])])
    assert (error["param"], error["code"]) == ("messages.[0].content.[1].type", "unsupported_parameter")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": PNG},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "banana"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "ogg"}},
        {"type": "file"},
    ],
)
def test_media_of_another_form_is_a_400(caller: Caller, part: dict[str, Any]) -> None:
    error = caller.refusal(messages=[says("user", [part])])
    assert error["param"].startswith("messages[0].content[0].")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_above_the_context_is_refused_before_anything_is_streamed(caller: Caller, stream: bool) -> None:
    words = 3_000 if caller.is_local else 850_000  # 2,048 and 1,050,000 tokens are what the models take
    error = error_of(caller.chat(messages=[says("user", "hello " * words)], stream=stream), 400)
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        "messages",
        "context_length_exceeded",
    )


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([says("user" if turn % 2 else "assistant", "Yes.") for turn in range(10_000)], id="many"),
        pytest.param([says("user", "x" * 1_000_000)], id="long"),
    ],
)
def test_very_many_and_very_long_messages_take_bounded_time(caller: Caller, messages: list[Any]) -> None:
    before = time.monotonic()
    response = caller.chat(messages=messages)
    assert time.monotonic() - before < 10
    assert response.status_code == (400 if caller.is_local else 200)
    if caller.is_local:
        assert response.json()["error"]["code"] == "context_length_exceeded"
    assert caller.chat().status_code == 200


def test_functions_of_the_old_kind_are_answered_in_their_form() -> None:
    call = {"name": "f", "arguments": '{"a": 1}'}
    message = {"role": "assistant", "content": None, "refusal": None, "function_call": call}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "function_call"}
    whole = {"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    first, second, last = (
        json.dumps({"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [
            {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})
        for delta, finish in (
            ({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}, None),
            ({"function_call": {"arguments": '{"a": 1}'}}, None),
            ({}, "function_call"),
        )
    )  # fmt: skip
    script = [
        Answer(body=json.dumps(whole)),
        Answer(chunks=(Chunk(data=first), Chunk(data=second), Chunk(data=last)), role=False, finish_reason=""),
    ]
    asked: dict[str, Any] = {
        "functions": [{"name": "f", "parameters": {"type": "object"}}],
        "function_call": {"name": "f"},
    }

    async def main() -> None:
        async with FakeUpstream(script) as upstream, gateway(upstream.base_url) as running:
            answer = await running.chat(**asked)
            assert answer.json() == whole
            streamed = await running.chat(stream=True, **asked)
            assert streamed.body.decode() == "".join(f"data: {event}\n\n" for event in (first, second, last, "[DONE]"))
            for seen in upstream.seen:
                assert {name: json.loads(seen.body)[name] for name in asked} == asked

    run(main())


def test_functions_are_refused_by_a_model_that_cannot_call_them(local: Caller) -> None:
    for name, value in {"functions": [{"name": "f"}], "tools": TOOLS}.items():
        error = local.refusal(**{name: value})
        assert (error["param"], error["code"]) == (name, "unsupported_parameter")
