"""Rows N: what a reasoning model takes, from a provider that enforces OpenAI's published rules for gpt-5.4."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.fake_upstream import Answer, Chunk
from penstock.fake_upstream.script import Tokens
from support.callers import Caller, text_of
from support.chat_bodies import function_tool
from support.relaying import relayed
from support.upstreams import ThreadedUpstream


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("limits", [{"max_tokens": 3}, {"max_tokens": 99, "max_completion_tokens": 3}])
def test_max_tokens_is_sent_under_the_name_that_the_model_takes(
    hosted: Caller, strict_upstream: ThreadedUpstream, limits: dict[str, int], stream: bool
) -> None:
    found = hosted.stream(**limits) if stream else hosted.answer(**limits)
    assert len(text_of(found).split()) == 3
    sent = strict_upstream.seen[-1].json()
    assert {name: value for name, value in sent.items() if name.startswith("max_")} == {"max_completion_tokens": 3}


@pytest.mark.parametrize(
    ("members", "param", "code", "words"),
    [
        pytest.param(
            {"temperature": 0.3, "reasoning_effort": "low"},
            "temperature",
            "unsupported_value",
            "'temperature' does not support 0.3 with this model. Only the default (1) value is supported.",
            id="N02",
        ),
        pytest.param(
            {"top_p": 0.5, "reasoning_effort": "high"}, "top_p", "unsupported_parameter", "'top_p'", id="N02-top-p"
        ),
        pytest.param(
            {"logprobs": True, "reasoning_effort": "low"}, "logprobs", "unsupported_parameter", "'logprobs'", id="N03"
        ),
        pytest.param(
            {"reasoning_effort": "minimal"},
            "reasoning_effort",
            "unsupported_value",
            "Supported values are: 'none', 'low', 'medium', 'high', and 'xhigh'.",
            id="N04",
        ),
        pytest.param(
            {"tools": [function_tool()], "reasoning_effort": "medium"},
            "reasoning_effort",
            None,
            "not supported for gpt-5.4 in /v1/chat/completions",
            id="N05",
        ),
        pytest.param(
            {"presence_penalty": 1, "reasoning_effort": "low"},
            "presence_penalty",
            "unsupported_parameter",
            "'presence_penalty'",
            id="N08-presence",
        ),
        pytest.param(
            {"frequency_penalty": 1, "reasoning_effort": "low"},
            "frequency_penalty",
            "unsupported_parameter",
            "'frequency_penalty'",
            id="N08-frequency",
        ),
        pytest.param(
            {"logit_bias": {"50256": -100}}, "logit_bias", "unsupported_parameter", "'logit_bias'", id="N08-bias"
        ),
    ],
)
def test_what_the_model_refuses_is_told_in_the_providers_own_words(
    hosted: Caller, strict_upstream: ThreadedUpstream, members: dict[str, Any], param: str, code: str, words: str
) -> None:
    for stream in (False, True):
        error = hosted.refusal(**members, stream=stream)
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
        assert words in error["message"]
        sent = strict_upstream.seen[-1]
        assert sent.status == 400
        assert {name: sent.json()[name] for name in members} == members


@pytest.mark.parametrize("effort", [{}, {"reasoning_effort": "none"}])
@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.3, "top_p": 0.5},
        {"logprobs": True, "top_logprobs": 2},
        {"presence_penalty": 1, "frequency_penalty": -1},
        {"tools": [function_tool()]},
    ],
)
def test_what_a_model_takes_only_without_reasoning_reaches_it_then(
    hosted: Caller, strict_upstream: ThreadedUpstream, sampling: dict[str, Any], effort: dict[str, Any]
) -> None:
    hosted.answer(**sampling, **effort)
    assert strict_upstream.seen[-1].json() == hosted.body(**sampling, **effort)


@pytest.mark.parametrize("stream", [False, True])
def test_a_budget_spent_on_reasoning_is_an_answer_without_text(stream: bool) -> None:
    told = Answer(
        chunks=(Chunk(reasoning="Hm, let me think."),),
        finish_reason="length",
        usage=Tokens(prompt=7, completion=64, reasoning=64),
    )
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    found = relayed(told, "gpt-5.4", reasoning_effort="high", max_completion_tokens=64, **options)
    if stream:
        usage = found.chunks[-1]["usage"]
        assert text_of(found.chunks) == ""
        assert [choice["finish_reason"] for choice in found.choices if choice["finish_reason"]] == ["length"]
    else:
        usage = found.answer["usage"]
        assert found.message["content"] == ""
        assert found.answer["choices"][0]["finish_reason"] == "length"
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 64
    assert found.record.usage is not None
    assert (found.record.usage.completion_tokens, found.record.usage.reasoning_tokens) == (64, 64)


@pytest.mark.parametrize("role", ["developer", "system"])
def test_instructions_are_taken_in_either_role(caller: Caller, strict_upstream: ThreadedUpstream, role: str) -> None:
    messages = [{"role": role, "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
    assert text_of(caller.answer(messages=messages))
    if not caller.is_local:
        assert strict_upstream.seen[-1].json()["messages"] == messages


@pytest.mark.parametrize("stop", ["fake", ["nothing like it", "Penstock"], ["every question gets th"]])
@pytest.mark.parametrize("stream", [False, True])
def test_stop_works_although_the_model_refuses_it(
    hosted: Caller, strict_upstream: ThreadedUpstream, stop: Any, stream: bool
) -> None:
    said = text_of(hosted.answer())
    first = next(one for one in ([stop] if isinstance(stop, str) else stop) if one in said)
    found = hosted.stream(stop=stop) if stream else [hosted.answer(stop=stop)]
    assert text_of(found if stream else found[0]) == said[: said.index(first)]
    assert [choice["finish_reason"] for choice in found[-1]["choices"]] == ["stop"]
    assert "stop" not in strict_upstream.seen[-1].json()
