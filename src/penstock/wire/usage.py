"""The tokens that an answer reports, whatever shape its server gave them."""

from __future__ import annotations

from typing import Any

from penstock.types import Usage

MOST = 2**53  # above it, not every JSON reader knows one number from the next


def usage_of(found: Any) -> Usage | None:
    """The usage that an upstream reported, or None where there is none to read. Figures of a strange type count 0."""
    if not isinstance(found, dict) or not found:
        return None
    prompt, completion = found.get("prompt_tokens_details"), found.get("completion_tokens_details")
    return Usage(
        _count(found.get("prompt_tokens")),
        _count(found.get("completion_tokens")),
        (_count(prompt.get("cached_tokens")) if type(prompt) is dict else 0)
        or _count(found.get("prompt_cache_hit_tokens")),
        _count(completion.get("reasoning_tokens")) if type(completion) is dict else 0,
    )


def _count(value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < MOST else 0


def total(one: Usage, other: Usage | None) -> Usage:
    """The usage of two attempts at one answer; what is not reported of both is estimated."""
    if other is None:
        return one
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
        one.reasoning_tokens + other.reasoning_tokens,
        one.source if one.source == other.source else "estimated",
    )


def usage_object(usage: Usage) -> dict[str, Any]:
    """Usage in OpenAI's form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
