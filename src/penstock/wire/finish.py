"""Why an answer ended: OpenAI's five reasons, and what other servers call them."""

from __future__ import annotations

DOCUMENTED = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
CUT = frozenset({"length", "content_filter"})  # what was being written is not whole

# The engines' own words, in lower case. Sources: text-generation-inference's FinishReason, Anthropic's stop_reason,
# Gemini's and Cohere's finish reasons, llama.cpp's stop_type, Mistral's `model_length`.
_MEANT = {
    "length": "length",
    "limit": "length",
    "max_length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_call": "tool_calls",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "refusal": "content_filter",
    "error_toxic": "content_filter",
    "function_call": "function_call",
}

# An answer that ended like this was given up. Sources: vLLM's and SGLang's `abort`, DeepSeek's
# `insufficient_system_resource`, OpenRouter's and Mistral's `error`.
_GIVEN_UP = frozenset(
    {
        "abort",
        "aborted",
        "cancel",
        "cancelled",
        "canceled",
        "error",
        "failed",
        "timeout",
        "insufficient_system_resource",
    }
)


def finish_reason(found: str) -> str | None:
    """The documented reason that a server's own one means, or None where it says that the answer is not whole.

    A word that nobody knows is taken for a natural end (`eos`, `end_turn` and the like): the server did end the answer.
    """
    if found in DOCUMENTED:
        return found
    word = found.lower()
    return None if word in _GIVEN_UP else _MEANT.get(word, "stop")
