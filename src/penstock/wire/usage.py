"""The tokens that an answer reports, whatever shape its server gave them."""

from __future__ import annotations

from typing import Any

from penstock.types import Usage


def usage_of(found: Any) -> Usage | None:
    """The usage that an upstream reported, or None where there is none to read. Figures of a strange type count 0."""
    if not isinstance(found, dict) or not found:
        return None
    cached = _count(found.get("prompt_tokens_details"), "cached_tokens") or _count(found, "prompt_cache_hit_tokens")
    return Usage(
        prompt_tokens=_count(found, "prompt_tokens"),
        completion_tokens=_count(found, "completion_tokens"),
        cached_tokens=cached,
        reasoning_tokens=_count(found.get("completion_tokens_details"), "reasoning_tokens"),
    )


def _count(found: Any, name: str) -> int:
    value = found.get(name) if isinstance(found, dict) else None
    return value if type(value) is int and 0 <= value < 2**53 else 0


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
