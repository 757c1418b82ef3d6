"""Rows F: every parameter at its documented values and beyond them, for a hosted and for a local model."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from penstock.fake_upstream import FakeUpstream
from support.callers import HELLO, Caller, error_of, text_of
from support.gateway import gateway, run
from support.upstreams import ThreadedUpstream

NULLABLE = (
    *("audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens"),
    *("max_tokens", "metadata", "modalities", "moderation", "n", "parallel_tool_calls", "prediction"),
    *("presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort"),
    *("response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options"),
    *("temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options"),
)
COUNT = [{"role": "user", "content": "Count to five."}]


@pytest.mark.parametrize("name", NULLABLE)
def test_null_is_the_same_as_nothing(caller: Caller, name: str) -> None:
    settings = {"temperature": 0, "max_completion_tokens": 8}
    absent = {key: value for key, value in settings.items() if key != name}
    null = caller.answer(**{**absent, name: None})
    without = caller.answer(**absent)
    assert null.keys() == without.keys()
    if name != "temperature":  # which then is chance
        assert text_of(null) == text_of(without)


def test_all_of_them_may_be_null_at_once(caller: Caller) -> None:
    assert text_of(caller.answer(**dict.fromkeys(NULLABLE)))


@pytest.mark.parametrize(
    "members",
    [
        *(pytest.param({"temperature": value}, id=f"F02-{value}") for value in (0, 0.0, 0.3, 1, 2)),
        *(pytest.param({"top_p": value}, id=f"F04-{value}") for value in (0, 0.5, 1)),
        *(pytest.param({"presence_penalty": value}, id=f"F05-presence-{value}") for value in (-2, 2)),
        *(pytest.param({"frequency_penalty": value}, id=f"F05-frequency-{value}") for value in (-2, 2)),
        *(pytest.param({"n": value}, id=f"F06-{value}") for value in (1, 4)),
        pytest.param({"max_tokens": 10.0}, id="F09-10.0"),
        pytest.param({"max_tokens": 5, "max_completion_tokens": 7}, id="F10"),
        pytest.param({"stop": []}, id="F13-array"),
        pytest.param({"stop": ""}, id="F13-string"),
        pytest.param({"stop": [""]}, id="F13-array-of-nothing"),
        pytest.param({"logprobs": False}, id="F15-off"),
        pytest.param({"seed": 2**63 - 1}, id="F19-max"),
        pytest.param({"seed": -(2**63)}, id="F19-min"),
        pytest.param(
            {"metadata": {"k" * 63 + str(n % 10) if n < 10 else str(n): "v" * 512 for n in range(16)}}, id="F20"
        ),
        pytest.param({"store": True}, id="F21-true"),
        pytest.param({"store": False}, id="F21-false"),
        *(
            pytest.param({"service_tier": tier}, id=f"F22-{tier}")
            for tier in ("auto", "default", "flex", "scale", "priority", "fast")
        ),
        pytest.param({"reasoning_effort": "none"}, id="F23"),
        *(pytest.param({"verbosity": value}, id=f"F24-{value}") for value in ("low", "medium", "high")),
        pytest.param({"modalities": ["text"]}, id="F25"),
        pytest.param({"prediction": {"type": "content", "content": "Hello"}}, id="F26"),
        pytest.param(
            {"prediction": {"type": "content", "content": [{"type": "text", "text": "Hello"}]}}, id="F26-parts"
        ),
        pytest.param({"safety_identifier": "x" * 64}, id="F27-safety"),
        pytest.param({"prompt_cache_key": "k", "user": "u"}, id="F27-key"),
        pytest.param({"prompt_cache_retention": "in_memory"}, id="F27-memory"),
        pytest.param({"prompt_cache_retention": "24h"}, id="F27-24h"),
        pytest.param({"prompt_cache_options": {"mode": "implicit", "ttl": "30m"}}, id="F27-options"),
    ],
)
def test_a_documented_value_is_taken(caller: Caller, members: dict[str, Any]) -> None:
    settings = {} if "max_tokens" in members else {"max_completion_tokens": 8}
    answer = caller.answer(**settings, **members)
    assert all(choice["message"]["content"] for choice in answer["choices"])
    assert len(answer["choices"]) == members.get("n", 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        pytest.param({"temperature": -0.1}, "temperature", "decimal_below_min_value", id="F03-low"),
        pytest.param({"temperature": 2.1}, "temperature", "decimal_above_max_value", id="F03-high"),
        pytest.param({"temperature": "1"}, "temperature", "invalid_type", id="F03-string"),
        pytest.param({"temperature": True}, "temperature", "invalid_type", id="F03-boolean"),
        pytest.param({"top_p": -0.1}, "top_p", "decimal_below_min_value", id="F04-low"),
        pytest.param({"top_p": 1.1}, "top_p", "decimal_above_max_value", id="F04-high"),
        pytest.param({"presence_penalty": 2.1}, "presence_penalty", "decimal_above_max_value", id="F05-presence"),
        pytest.param({"frequency_penalty": -2.1}, "frequency_penalty", "decimal_below_min_value", id="F05-frequency"),
        pytest.param({"n": 0}, "n", "integer_below_min_value", id="F06-0"),
        pytest.param({"n": -1}, "n", "integer_below_min_value", id="F06-negative"),
        pytest.param({"n": 129}, "n", "integer_above_max_value", id="F06-129"),
        pytest.param({"n": 1.5}, "n", "invalid_type", id="F06-decimal"),
        pytest.param({"max_tokens": 0}, "max_tokens", "integer_below_min_value", id="F08-0"),
        pytest.param({"max_tokens": -1}, "max_tokens", "integer_below_min_value", id="F08-negative"),
        pytest.param({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value", id="F08-newer"),
        pytest.param({"max_tokens": "10"}, "max_tokens", "invalid_type", id="F09"),
        pytest.param({"stop": list("abcde")}, "stop", "array_above_max_length", id="F12"),
        pytest.param({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value", id="F17-21"),
        pytest.param({"top_logprobs": 5}, "top_logprobs", None, id="F17-alone"),
        pytest.param({"logit_bias": {"5": 101}}, "logit_bias.5", "decimal_above_max_value", id="F18-high"),
        pytest.param({"logit_bias": {"5": -101}}, "logit_bias.5", "decimal_below_min_value", id="F18-low"),
        pytest.param({"logit_bias": {"cat": 1}}, "logit_bias", "invalid_value", id="F18-key"),
        pytest.param({"logit_bias": "x"}, "logit_bias", "invalid_type", id="F18-string"),
        pytest.param({"seed": 2**63}, "seed", "integer_above_max_value", id="F19"),
        pytest.param(
            {"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties", id="F20-17"
        ),
        pytest.param({"metadata": {"k" * 65: ""}}, "metadata", "property_name_above_max_length", id="F20-65"),
        pytest.param({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length", id="F20-513"),
        pytest.param({"metadata": {"k": 5}}, "metadata", "invalid_type", id="F20-number"),
        pytest.param({"service_tier": "x"}, "service_tier", "invalid_value", id="F22"),
        pytest.param({"reasoning_effort": "x"}, "reasoning_effort", "invalid_value", id="F23"),
        pytest.param({"verbosity": "x"}, "verbosity", "invalid_value", id="F24"),
        pytest.param({"modalities": ["audio"]}, "audio", "missing_required_parameter", id="F25"),
        pytest.param({"prediction": {"type": "x"}}, "prediction.type", "invalid_value", id="F26"),
        pytest.param({"safety_identifier": "x" * 65}, "safety_identifier", "string_above_max_length", id="F27"),
    ],
)
def test_any_other_value_is_refused_in_json_before_anything_is_spent(
    caller: Caller,
    strict_upstream: ThreadedUpstream,
    members: dict[str, Any],
    param: str,
    code: str | None,
    stream: bool,
) -> None:
    before = len(strict_upstream.seen)
    error = error_of(caller.chat(stream=stream, **members), 400)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert len(strict_upstream.seen) == before


def test_a_limit_below_1_is_told_in_openais_words(caller: Caller) -> None:
    for name in "max_tokens", "max_completion_tokens":
        message = caller.refusal(**{name: 0})["message"]
        assert message == f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got 0 instead."


@pytest.mark.parametrize("stream", ["true", 1])
def test_stream_is_a_boolean(caller: Caller, stream: Any) -> None:
    assert caller.refusal(stream=stream)["param"] == "stream"


@pytest.mark.parametrize("members", [{}, {"stream": False}, {"stream": None}])
def test_options_of_a_stream_without_a_stream_are_refused(caller: Caller, members: dict[str, Any]) -> None:
    assert caller.refusal(stream_options={"include_usage": True}, **members)["param"] == "stream_options"


def test_of_two_limits_the_newer_name_is_in_force(caller: Caller) -> None:
    answer = caller.answer(messages=COUNT, max_tokens=2, max_completion_tokens=4)
    assert answer["usage"]["completion_tokens"] == 4
    answer = caller.answer(messages=COUNT, max_tokens=4, max_completion_tokens=2)
    assert answer["usage"]["completion_tokens"] == 2


def test_the_provider_is_sent_the_one_limit_that_its_model_understands(
    hosted: Caller, strict_upstream: ThreadedUpstream
) -> None:
    for members in {"max_tokens": 5}, {"max_tokens": 9, "max_completion_tokens": 5}, {"max_completion_tokens": 5}:
        mark = uuid.uuid4().hex
        hosted.answer(user=mark, **members)
        (sent,) = (json.loads(seen.body) for seen in strict_upstream.seen if mark.encode() in seen.body)
        assert sent["max_completion_tokens"] == 5
        assert "max_tokens" not in sent


def test_a_limit_far_above_the_models_is_clamped_or_its_own_400(hosted: Caller, local: Caller) -> None:
    assert text_of(local.answer(max_tokens=1_000_000_000))
    assert "at most 128000 completion tokens" in hosted.refusal(max_tokens=1_000_000_000)["message"]


def test_more_choices_than_the_local_model_gives_at_once_are_refused(local: Caller, hosted: Caller) -> None:
    assert len(hosted.answer(n=128, max_completion_tokens=1)["choices"]) == 128
    for stream in (False, True):
        error = error_of(local.chat(n=5, stream=stream), 400)
        assert (error["param"], error["code"]) == ("n", "integer_above_max_value")


@pytest.mark.parametrize("stop", ["never", ["never", "nowhere", "nobody", "\n\n\n"], [], "", [""]])
def test_a_stop_may_be_one_or_up_to_four_or_none(caller: Caller, stop: Any) -> None:
    settings = {"temperature": 0, "max_completion_tokens": 24}
    whole = caller.answer(**settings)
    for answer in caller.answer(stop=stop, **settings), caller.stream(stop=stop, **settings):
        assert text_of(answer) == text_of(whole)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_stop_is_found_wherever_tokens_and_chunks_end(caller: Caller, length: int) -> None:
    settings = {"messages": COUNT, "temperature": 0, "max_completion_tokens": 24}
    whole = text_of(caller.answer(**settings))
    for start in range(0, len(whole) - length + 1, 2):
        stop = whole[start : start + length]
        expected = whole.partition(stop)[0]
        assert text_of(caller.stream(stop=stop, **settings)) == expected
        assert text_of(caller.answer(stop=[stop], **settings)) == expected


@pytest.mark.parametrize("top", [None, 0, 5, 20])
def test_log_probabilities_are_those_of_the_content(local: Caller, top: int | None) -> None:
    settings: dict[str, Any] = {"logprobs": True, "temperature": 0, "max_completion_tokens": 9}
    if top is not None:
        settings["top_logprobs"] = top
    (choice,) = local.answer(messages=COUNT, **settings)["choices"]
    assert choice["logprobs"].keys() == {"content", "refusal"}
    assert choice["logprobs"]["refusal"] is None
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"] != ""
    for entry in entries:
        assert entry.keys() == {"token", "logprob", "bytes", "top_logprobs"}
        assert type(entry["logprob"]) is float
        assert entry["logprob"] <= 0
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == (top or 0)
        assert all(other.keys() == {"token", "logprob", "bytes"} for other in entry["top_logprobs"])
    assert local.answer(messages=COUNT, temperature=0)["choices"][0]["logprobs"] is None


def test_a_bias_keeps_a_token_away(local: Caller) -> None:
    plain = local.answer(messages=COUNT, temperature=0)
    biased = local.answer(messages=COUNT, temperature=0, logit_bias={str(token): -100 for token in range(15, 30)})
    assert text_of(biased) != text_of(plain)


@pytest.mark.parametrize("effort", ["low", "medium", "high", "xhigh"])
def test_an_effort_is_the_models_own_matter(hosted: Caller, local: Caller, effort: str) -> None:
    assert text_of(hosted.answer(reasoning_effort=effort))
    error = local.refusal(reasoning_effort=effort)
    assert (error["param"], error["code"]) == ("reasoning_effort", "unsupported_value")
    assert "Supported values are: 'none'." in error["message"]


@pytest.mark.parametrize("effort", ["minimal", "max"])
def test_an_effort_that_a_model_lacks_is_refused_with_those_that_it_has(caller: Caller, effort: str) -> None:
    error = caller.refusal(reasoning_effort=effort)
    assert (error["param"], error["code"]) == ("reasoning_effort", "unsupported_value")
    assert "Supported values are: 'none'" in error["message"]


LACKING = {
    "web_search_options": {},
    "moderation": {"model": "omni-moderation-latest"},
    "audio": {"format": "wav", "voice": "alloy"},
}


@pytest.mark.parametrize("name", LACKING)
def test_what_a_model_lacks_is_refused_by_name(local: Caller, name: str) -> None:
    error = local.refusal(**{name: LACKING[name]})
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_parameter_is_the_models_to_refuse(
    caller: Caller, strict_upstream: ThreadedUpstream, stream: bool
) -> None:
    mark = uuid.uuid4().hex
    error = error_of(caller.chat(foo=mark, stream=stream), 400)
    assert error["message"] == "Unrecognized request argument supplied: foo"
    assert sum(mark.encode() in seen.body for seen in strict_upstream.seen) == (0 if caller.is_local else 1)


EVERYTHING: dict[str, Any] = {
    "frequency_penalty": -2,
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 8,
    "max_tokens": 8,
    "metadata": {"purpose": "test"},
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": "a text"},
    "presence_penalty": -2,
    "prompt_cache_key": "key-1234",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "prompt_cache_retention": "in_memory",
    "reasoning_effort": "none",
    "response_format": {"type": "text"},
    "safety_identifier": "safety-1234",
    "seed": -9007199254740991,
    "service_tier": "auto",
    "stop": "\n\n\n",
    "store": True,
    "temperature": 1,
    "tool_choice": "none",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
    "functions": [{"name": "f", "parameters": {"type": "object"}}],
    "function_call": "none",
    "top_logprobs": 0,
    "top_p": 1,
    "user": "user-1234",
    "verbosity": "low",
}


def test_all_that_the_local_model_knows_may_be_sent_at_once(local: Caller) -> None:
    settings = {name: value for name, value in EVERYTHING.items() if name != "logit_bias"}
    assert text_of(local.answer(**settings, logit_bias={"7": -100}))
    assert text_of(local.stream(**settings, stream_options={"include_usage": True, "include_obfuscation": False}))


@pytest.mark.parametrize("stream", [False, True])
def test_all_documented_parameters_at_once_reach_a_provider(stream: bool) -> None:
    asked = {**EVERYTHING, **LACKING, "messages": HELLO}
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}

    async def main() -> None:
        async with FakeUpstream() as upstream, gateway(upstream.base_url) as running:
            answer = await running.chat(**asked)
            assert answer.status == 200
            (seen,) = upstream.seen
            sent = json.loads(seen.body)
            limits = {"max_tokens", "max_completion_tokens", "stop"}
            ours = {"store", "metadata"}  # what is stored is stored here
            assert {name: sent.get(name) for name in asked.keys() - limits} == {
                name: None if name in ours else value for name, value in asked.items() if name not in limits
            }
            assert sent["max_completion_tokens"] == 8

    run(main())
