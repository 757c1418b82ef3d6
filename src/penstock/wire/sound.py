"""The whole answer in which there is nothing to mend, as types: most are, and this is the quick way to know it.

An answer that decodes as `Sound` and passes a few comparisons has all that OpenAI's document requires, in the form that
typed clients insist on. Of any other nothing is known, not even that it is JSON: `wire.completion` looks closer.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from penstock.types import Usage
from penstock.wire.answer import BROKEN, misnamed_reasoning
from penstock.wire.finish import CUT
from penstock.wire.usage import MOST

_ABSENT = msgspec.UNSET


class Function(msgspec.Struct, gc=False):
    """A called function; its arguments are JSON in a string."""

    name: str
    arguments: str


class Call(msgspec.Struct, gc=False):
    """One tool call."""

    id: str
    type: Literal["function", "custom"]
    function: Function | None = None


class Message(msgspec.Struct, gc=False):
    """The message of a choice."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[Call] | msgspec.UnsetType = _ABSENT
    function_call: Function | None = None


class Choice(msgspec.Struct, gc=False):
    """One choice."""

    index: int
    message: Message
    logprobs: msgspec.Raw
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class PromptDetails(msgspec.Struct, gc=False):
    """What the prompt's tokens were."""

    cached_tokens: int | None = 0


class CompletionDetails(msgspec.Struct, gc=False):
    """What the answer's tokens were."""

    reasoning_tokens: int | None = 0


class Figures(msgspec.Struct, gc=False):
    """Usage. `prompt_cache_hit_tokens` is DeepSeek's name for cached ones."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = 0


class Sound(msgspec.Struct, gc=False):
    """A chat.completion as it should be, but for what `read` compares."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Figures | None = None
    error: Any = _ABSENT


_decode = msgspec.json.Decoder(Sound).decode


def read(body: bytes, bound: bool = False) -> tuple[Usage | None, str] | None:
    """What the answer cost and how its last choice ended, if there is nothing to mend in it; None where it has to be
    looked at closely.

    `bound`: the caller named a tool to call, and "stop" is then a right end of the call.
    """
    try:
        answer = _decode(body)
        if not body.isascii():
            body.decode()
    except BROKEN:
        return None
    if not (answer.id and answer.model and answer.choices and answer.error is _ABSENT):
        return None
    for place, choice in enumerate(answer.choices):
        if choice.index != place or not _is_sound(choice, bound):
            return None
    if answer.usage is None:
        return None, answer.choices[-1].finish_reason
    usage = _counted(answer.usage)
    return None if usage is None else (usage, answer.choices[-1].finish_reason)


def _is_sound(choice: Choice, bound: bool) -> bool:
    message = choice.message
    calls = message.tool_calls
    if message.reasoning and misnamed_reasoning(message):
        return False
    if calls is _ABSENT and message.function_call is None:
        return True
    cut = choice.finish_reason in CUT
    if message.function_call is not None and not (cut or message.function_call.arguments):
        return False
    if calls is _ABSENT:
        return True
    if not calls or (choice.finish_reason == "stop" and not bound):
        return False
    ids = {call.id for call in calls}
    return len(ids) == len(calls) and "" not in ids and all(_is_whole(call, cut) for call in calls)


def _is_whole(call: Call, cut: bool) -> bool:
    if call.type == "custom":
        return call.function is None
    return call.function is not None and (cut or bool(call.function.arguments))


def _counted(figures: Figures) -> Usage | None:
    """The figures where none is negative and their sum is right."""
    prompt, completion, total = figures.prompt_tokens, figures.completion_tokens, figures.total_tokens
    details, more = figures.prompt_tokens_details, figures.completion_tokens_details
    cached = (details.cached_tokens if details is not None else 0) or figures.prompt_cache_hit_tokens or 0
    reasoning = (more.reasoning_tokens if more is not None else 0) or 0
    if prompt + completion != total or total >= MOST or prompt < 0 or completion < 0:
        return None
    return Usage(prompt, completion, cached, reasoning) if 0 <= cached < MOST and 0 <= reasoning < MOST else None
