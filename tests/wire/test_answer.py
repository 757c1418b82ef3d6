"""Usage is read from any shape and written in one; what is mended keeps every other byte."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import CompletionUsage

from penstock.types import Usage
from penstock.wire.answer import Mending, mend_chunk
from penstock.wire.usage import usage_object, usage_of

USAGE = Usage(prompt_tokens=87, completion_tokens=34, cached_tokens=64, reasoning_tokens=12)


def test_usage_is_written_in_openais_form_and_adds_the_tokens_up() -> None:
    written = usage_object(USAGE)
    assert written == {
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
    assert usage_of(written) == USAGE
    CompletionUsage.model_validate(written, strict=True)


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
