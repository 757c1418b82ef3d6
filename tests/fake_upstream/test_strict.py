"""The strict profile refuses what OpenAI refuses of gpt-5.4, in OpenAI's words, and lets the rest pass."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.fake_upstream.strict import HEADERS, PROFILES, Refused, check, check_key

PROFILE = PROFILES["gpt-5.4"]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


HEARD = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}


def strict_format(**members: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {}, **members}
    return {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hello."}], **fields}).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "gpt-5.4-2026-03-05"},
        {"temperature": 0.3, "top_p": 0.5, "presence_penalty": 1, "logprobs": True, "top_logprobs": 3},
        {"temperature": 0.3, "reasoning_effort": "none"},
        {"temperature": 1.0, "top_p": 1, "frequency_penalty": 0, "logprobs": False, "reasoning_effort": "high"},
        {"reasoning_effort": "xhigh", "max_completion_tokens": 128_000},
        {"tools": [TOOL]},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"modalities": ["text"], "response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}, "messages": [{"role": "system", "content": "Answer in JSON."}]},
        {"response_format": strict_format(additionalProperties=False)},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
        {"max_tokens": None, "stop": None, "stream_options": None, "temperature": None},
    ],
)
def test_what_openai_accepts_passes(fields: dict[str, Any]) -> None:
    check(PROFILE, body(**fields))


@pytest.mark.parametrize(
    ("fields", "param", "code", "message"),
    [
        ({"max_tokens": 400}, "max_tokens", "unsupported_parameter", "Use 'max_completion_tokens' instead."),
        ({"stop": "x"}, "stop", "unsupported_parameter", "'stop' is not supported with this model."),
        ({"stop": []}, "stop", "unsupported_parameter", "'stop' is not supported with this model."),
        ({"logit_bias": {"1": 1}}, "logit_bias", "unsupported_parameter", "not supported with this model."),
        (
            {"temperature": 0.3, "reasoning_effort": "low"},
            "temperature",
            "unsupported_value",
            "'temperature' does not support 0.3 with this model. Only the default (1) value is supported.",
        ),
        ({"top_p": 0.3, "reasoning_effort": "low"}, "top_p", "unsupported_parameter", "'top_p' is not supported"),
        ({"presence_penalty": 1, "reasoning_effort": "low"}, "presence_penalty", "unsupported_parameter", "not supp"),
        ({"frequency_penalty": 1, "reasoning_effort": "low"}, "frequency_penalty", "unsupported_parameter", "not s"),
        ({"logprobs": True, "reasoning_effort": "low"}, "logprobs", "unsupported_parameter", "not supported"),
        (
            {"reasoning_effort": "minimal"},
            "reasoning_effort",
            "unsupported_value",
            "Supported values are: 'none', 'low', 'medium', 'high', and 'xhigh'.",
        ),
        (
            {"tools": [TOOL], "reasoning_effort": "low"},
            "reasoning_effort",
            None,
            "Function tools with reasoning_effort are not supported for gpt-5.4 in /v1/chat/completions.",
        ),
        (
            {"modalities": ["text", "audio"], "audio": {"voice": "x", "format": "wav"}},
            "modalities",
            "unsupported_value",
            "'audio'",
        ),
        (
            {"messages": [{"role": "user", "content": [HEARD]}]},
            "messages[0].content[0].type",
            None,
            "input_audio is only supported by certain models.",
        ),
        ({"response_format": {"type": "json_object"}}, "messages", None, "must contain the word 'json'"),
        ({"response_format": strict_format()}, "response_format", None, "Invalid schema for response_format 'n'"),
        ({"tools": []}, "tools", "empty_array", "Invalid 'tools': empty array."),
        ({"foo": 1}, None, None, "Unrecognized request argument supplied: foo"),
        ({"foo": 1, "top_k": 2}, None, None, "Unrecognized request arguments supplied: foo, top_k"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None, "only allowed when 'stream' is enabled"),
        ({"max_completion_tokens": 128_001}, "max_completion_tokens", "invalid_value", "at most 128000 completion"),
    ],
)
def test_what_openai_refuses_is_refused_in_its_words(
    fields: dict[str, Any], param: str | None, code: str | None, message: str
) -> None:
    with pytest.raises(Refused) as caught:
        check(PROFILE, body(**fields))
    fault = caught.value.fault
    assert caught.value.status == 400
    assert fault.type == "invalid_request_error"
    assert (fault.param, fault.code) == (param, code)
    assert message in fault.message


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (b'{"model":', None),
        (b"[1]", None),
        (b'{"model": "gpt-5.4"}', "messages"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (body(temperature=3), "temperature"),
        (body(messages=[]), "messages"),
        (body(messages=[{"role": "banana", "content": "x"}]), "messages[0].role"),
    ],
)
def test_requests_that_break_the_document_are_refused(data: bytes, param: str | None) -> None:
    with pytest.raises(Refused) as caught:
        check(PROFILE, data)
    assert (caught.value.status, caught.value.fault.param) == (400, param)


@pytest.mark.parametrize("model", ["gpt-5.5", "gpt-5.4-mini", "gpt-5.4-2026", "fake-status-429"])
def test_another_model_does_not_exist(model: str) -> None:
    with pytest.raises(Refused) as caught:
        check(PROFILE, body(model=model))
    assert (caught.value.status, caught.value.fault.code) == (404, "model_not_found")
    assert caught.value.fault.message == f"The model `{model}` does not exist or you do not have access to it."


def test_a_prompt_above_the_context_is_refused_by_estimate() -> None:
    check(PROFILE, body(messages=[{"role": "user", "content": "x" * 4_199_000}]))
    with pytest.raises(Refused) as caught:
        check(PROFILE, body(messages=[{"role": "user", "content": [{"type": "text", "text": "é" * 2_100_002}]}]))
    assert (caught.value.fault.param, caught.value.fault.code) == ("messages", "context_length_exceeded")
    assert "maximum context length is 1050000 tokens" in caught.value.fault.message


@pytest.mark.parametrize("authorization", [None, "", "Basic x", "Bearer", "Bearer  ", "sk-right"])
def test_a_missing_key_is_told_how_to_be_given(authorization: str | None) -> None:
    with pytest.raises(Refused, match="You didn't provide an API key") as caught:
        check_key(authorization, ("sk-right",))
    assert caught.value.status == 401


def test_a_wrong_key_is_refused_without_being_shown() -> None:
    with pytest.raises(Refused) as caught:
        check_key("Bearer sk-wrong-0123456789", ("sk-right",))
    assert caught.value.fault.code == "invalid_api_key"
    assert caught.value.fault.message == "Incorrect API key provided: ***6789."
    check_key("bearer sk-right", ("sk-right",))
    check_key("Bearer anything", ())


def test_answers_carry_openais_headers() -> None:
    assert HEADERS["openai-version"] == "2020-10-01"
    assert {
        f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
    } <= (HEADERS.keys())


def of(model: str, **fields: Any) -> bytes:
    return body(**{"model": model, **fields})


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("o3", {"max_completion_tokens": 5, "reasoning_effort": "low", "tools": [TOOL]}),
        ("o3", {"messages": [{"role": "developer", "content": "x"}], "temperature": 1}),
        ("deepseek-chat", {"max_tokens": 5, "stop": "x", "temperature": 0.3, "tools": [TOOL]}),
    ],
)
def test_other_models_have_rules_of_their_own(model: str, fields: dict[str, Any]) -> None:
    check(PROFILES[model], of(model, **fields))


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("o3", {"stop": "x"}, "'stop' is not supported with this model."),
        ("o3", {"temperature": 0.3}, "Only the default (1) value is supported."),
        ("o3", {"reasoning_effort": "none"}, "Supported values are: 'low', 'medium', and 'high'."),
        ("deepseek-chat", {"messages": [{"role": "developer", "content": "x"}]}, "unknown variant `developer`"),
        ("deepseek-chat", {"reasoning_effort": "low"}, "Unrecognized request argument supplied: reasoning_effort"),
        ("deepseek-chat", {"max_completion_tokens": 5}, "'max_completion_tokens' is not supported"),
    ],
)
def test_other_models_refuse_other_things(model: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        check(PROFILES[model], of(model, **fields))
    assert message in caught.value.fault.message
