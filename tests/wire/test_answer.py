"""What Penstock writes has exactly OpenAI's members, and what it mends keeps every other byte."""

from __future__ import annotations

from typing import Any

import msgspec
import openai.types.chat as sdk
import pytest

from penstock.types import Usage
from penstock.wire.answer import (
    Choice,
    Mending,
    chunk,
    completion,
    mend_chunk,
    mend_completion,
    usage_chunk,
    usage_of,
)

USAGE = Usage(prompt_tokens=87, completion_tokens=34, cached_tokens=64, reasoning_tokens=12)


def payload(sent: bytes) -> Any:
    assert sent.startswith(b"data: ")
    assert sent.endswith(b"\n\n")
    assert sent.count(b"\n") == 2
    return msgspec.json.decode(sent[6:])


def test_a_chunk_has_the_members_that_openai_sends() -> None:
    sent = chunk("chatcmpl-1", 1760000000, "demo", 0, {"role": "assistant", "content": ""})
    assert payload(sent) == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": "demo",
        "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        ],
    }


def test_the_last_chunk_of_a_choice_has_an_empty_delta_and_the_finish_reason() -> None:
    found = payload(chunk("chatcmpl-1", 1760000000, "demo", 1, {}, "stop"))
    assert found["choices"] == [{"index": 1, "delta": {}, "logprobs": None, "finish_reason": "stop"}]


def test_chunks_say_that_usage_is_null_only_where_usage_was_asked_for() -> None:
    assert payload(chunk("c", 1, "m", 0, {"content": "x"}, usage_asked=True))["usage"] is None
    assert "usage" not in payload(chunk("c", 1, "m", 0, {"content": "x"}))


def test_the_usage_chunk_has_no_choice_and_adds_the_tokens_up() -> None:
    found = payload(usage_chunk("c", 1, "m", USAGE))
    assert found["choices"] == []
    assert found["usage"] == {
        "prompt_tokens": 87,
        "completion_tokens": 34,
        "total_tokens": 121,
        "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 12,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert usage_of(found["usage"]) == USAGE


def test_a_completion_has_the_members_that_openai_sends() -> None:
    sent = completion("chatcmpl-1", 1760000000, "demo", [Choice(0, "Paris", "stop")], USAGE)
    found = msgspec.json.decode(sent)
    assert found["object"] == "chat.completion"
    assert found["created"] == 1760000000
    assert found["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]


def test_reasoning_stands_beside_the_content_of_a_completion() -> None:
    found = msgspec.json.decode(completion("c", 1, "m", [Choice(0, "4", "stop", "2 + 2")], USAGE))
    assert found["choices"][0]["message"]["reasoning_content"] == "2 + 2"


def test_the_official_client_reads_what_we_write() -> None:
    whole = sdk.ChatCompletion.model_validate_json(
        completion("c", 1, "m", [Choice(0, "é🌍漢", "stop"), Choice(1, "", "length")], USAGE), strict=True
    )
    assert [choice.message.content for choice in whole.choices] == ["é🌍漢", ""]
    for sent in (
        chunk("c", 1, "m", 0, {"role": "assistant", "content": ""}, usage_asked=True),
        chunk("c", 1, "m", 0, {}, "stop"),
        usage_chunk("c", 1, "m", USAGE),
    ):
        sdk.ChatCompletionChunk.model_validate_json(sent[6:], strict=True)


@pytest.mark.parametrize(
    ("found", "usage"),
    [
        (None, None),
        ({}, None),
        ("many", None),
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(3, 4)),
        ({"prompt_tokens": 3, "completion_tokens": 4, "prompt_cache_hit_tokens": 2}, Usage(3, 4, 2)),
        ({"prompt_tokens": "3", "completion_tokens": -4, "prompt_tokens_details": [1]}, Usage(0, 0)),
        ({"prompt_tokens": True, "completion_tokens": 1.5}, Usage(0, 0)),
        ({"prompt_tokens": 2**80}, Usage(0, 0)),
    ],
)
def test_usage_is_read_from_whatever_shape_it_has(found: Any, usage: Usage | None) -> None:
    assert usage_of(found) == usage


def test_mending_keeps_the_bytes_of_what_is_not_at_fault() -> None:
    data = b'{"id": "a", "x": 1.50e2, "choices": [{"index":0, "logprobs":{"a": -0.10}, "delta":{"content":"\\u00e9"}}]}'
    assert mend_chunk(data, [Mending(role=True)]) == (
        b'{"id":"a","x":1.50e2,"choices":[{"index":0,"logprobs":{"a": -0.10},'
        b'"delta":{"role":"assistant","content":"\\u00e9"}}]}'
    )


def test_reasoning_of_a_completion_gets_its_name_and_keeps_the_one_it_had() -> None:
    body = b'{"id":"a","choices":[{"index":0,"message":{"role":"assistant","reasoning":"r","reasoning_content":null}}]}'
    message = msgspec.json.decode(mend_completion(body))["choices"][0]["message"]
    assert message == {"role": "assistant", "reasoning": "r", "reasoning_content": "r"}
