"""A whole chat.completion of an upstream: what is read in it, and how it comes to hold what OpenAI's document requires.

Servers leave out members that typed clients insist on, or write them in another type: no `id`, `created` as a decimal,
no `logprobs` or `refusal`, every choice numbered 0, content in parts, arguments as an object or as nothing, one id for
all calls, a sum that does not add up, an end in the engine's own words. Where `wire.sound` finds nothing to mend, the
bytes that came are the answer. Otherwise `mend` writes it anew around the members at fault; all others keep their
bytes, those that nobody here knows among them.

What cannot be made whole without inventing an answer is not mended: no choices, no message, no finish_reason, content
that is no text. The provider's reader refuses that.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from penstock.wire.answer import ErrorInPlace, RawObject, name_reasoning
from penstock.wire.finish import CUT, finish_reason
from penstock.wire.parts import join
from penstock.wire.usage import usage_of

_NULL = msgspec.Raw(b"null")

_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(RawObject).decode
_objects = msgspec.json.Decoder(list[RawObject]).decode
_anything = msgspec.json.Decoder().decode


class Message(msgspec.Struct, gc=False):
    """The message of a whole answer."""

    content: str | list[dict[str, Any]] | msgspec.UnsetType | None = msgspec.UNSET
    tool_calls: Any = msgspec.UNSET
    function_call: Any = None


class CompletionChoice(msgspec.Struct, gc=False):
    """One choice of a whole answer; None where the server left a required member out."""

    index: Any = None
    message: Message | None = None
    finish_reason: str | None = None


class Completion(ErrorInPlace, gc=False):
    """A chat.completion, or the error object that came in its place."""

    id: Any = None
    created: Any = None
    model: Any = None
    choices: list[CompletionChoice] | None = None
    usage: Any = None


decode_completion = msgspec.json.Decoder(Completion).decode


def mend(body: bytes, answer: Completion, model: str, now: float, bound: bool = False) -> bytes:
    """`body`, of which `answer` is the decoded form, made whole. `model` is the one asked for, `now` in Unix seconds.

    Each choice must have a message and a finish_reason that is not one of an answer given up. Raises what decoding
    raises where a member that nothing had looked into turns out to be broken, and ValueError for unknown parts.
    `bound`: see `wire.sound`.
    """
    found = _object(body)
    found.pop("error", None)  # null or empty, or it would have been an error
    choices = answer.choices or []
    raws = _objects(found["choices"])
    indexes = [choice.index for choice in choices]
    numbered = all(type(index) is int for index in indexes) and sorted(indexes) == list(range(len(indexes)))
    for place, (raw, choice) in enumerate(zip(raws, choices, strict=True)):
        if not numbered:
            raw["index"] = msgspec.Raw(b"%d" % place)
        _mend_choice(raw, choice, bound)
    if numbered:
        raws = [raw for _, raw in sorted(zip(indexes, raws, strict=True), key=lambda pair: pair[0])]
    found["choices"] = _raw(raws)
    if not _is_text(answer.id):
        found["id"] = _raw(f"chatcmpl-{secrets.token_hex(16)}")
    found["object"] = _raw("chat.completion")
    if type(answer.created) is not int:
        found["created"] = _raw(_seconds(answer.created, now))
    if not _is_text(answer.model):
        found["model"] = _raw(model)
    if not _adds_up(answer.usage):
        _mend_usage(found, answer.usage)
    return _encode(found)


def _mend_choice(raw: RawObject, choice: CompletionChoice, bound: bool) -> None:
    message = choice.message
    assert message is not None
    assert choice.finish_reason is not None
    reason = finish_reason(choice.finish_reason)
    if reason == "stop" and message.tool_calls and not bound:
        reason = "tool_calls"
    cut = reason in CUT
    raw.setdefault("logprobs", _NULL)
    raw["finish_reason"] = _raw(reason)
    members = _object(raw["message"])
    members["role"] = _raw("assistant")
    if isinstance(message.content, list):
        text, reasoning = join(message.content)
        members["content"] = _raw(text)
        if reasoning:
            members["reasoning_content"] = _raw(reasoning)
    members.setdefault("content", _NULL)
    members.setdefault("refusal", _NULL)
    name_reasoning(members)
    if not message.tool_calls:
        # Clients send messages back, and OpenAI refuses an empty list, which vLLM writes where no tool was called.
        members.pop("tool_calls", None)
    elif not _are_calls(message.tool_calls, cut):
        members["tool_calls"] = _raw(_mend_calls(_objects(members["tool_calls"]), cut))
    if message.function_call is not None and not _is_written(message.function_call, cut):
        members["function_call"] = _raw(_mend_function(members["function_call"], cut))
    raw["message"] = _raw(members)


def _mend_calls(calls: list[RawObject], cut: bool) -> list[RawObject]:
    seen = set()
    for call in calls:
        identity = _anything(call.get("id", _NULL))
        if not _is_text(identity) or identity in seen:
            call["id"] = _raw(f"call_{secrets.token_hex(12)}")
        else:
            seen.add(identity)
        if "custom" not in call:
            call["type"] = _raw("function")
            call["function"] = _raw(_mend_function(call.get("function", _NULL), cut))
    return calls


def _mend_function(function: msgspec.Raw, cut: bool) -> RawObject:
    """A called function with its arguments as a string of JSON; none are an empty object, unless they were cut off."""
    members = _object(function)
    arguments = bytes(members.get("arguments", _NULL))
    if arguments in (b"null", b'""'):
        members["arguments"] = _raw("" if cut else "{}")
    elif not arguments.startswith(b'"'):
        members["arguments"] = _raw(arguments.decode())
    return members


def _mend_usage(found: RawObject, usage: Any) -> None:
    counted = usage_of(usage)
    if counted is None:  # no figures at all, in some shape
        del found["usage"]
        return
    figures = {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.prompt_tokens + counted.completion_tokens,
    }
    found["usage"] = _raw(_object(found["usage"]) | {name: _raw(count) for name, count in figures.items()})


def _adds_up(usage: Any) -> bool:
    """Whether there is no usage, or whole numbers whose sum is right."""
    if usage is None:
        return True
    if type(usage) is not dict:
        return False
    get = usage.get
    prompt, completion, total = get("prompt_tokens"), get("completion_tokens"), get("total_tokens")
    return type(prompt) is int and type(completion) is int and type(total) is int and prompt + completion == total


def _seconds(created: Any, now: float) -> int:
    return int(created if type(created) is float and 0 < created < 2**53 else now)


def _are_calls(calls: Any, cut: bool) -> bool:
    """Whether these are calls with an id each; one whose answer was `cut` may have no arguments yet."""
    if type(calls) is not list or not calls or not all(_is_call(call, cut) for call in calls):
        return False
    return len(calls) == 1 or len({call["id"] for call in calls}) == len(calls)


def _is_call(call: Any, cut: bool) -> bool:
    if type(call) is not dict or not _is_text(call.get("id")):
        return False
    return "custom" in call or (call.get("type") == "function" and _is_written(call.get("function"), cut))


def _is_written(function: Any, cut: bool) -> bool:
    """Whether a called function's arguments are a string, and not an empty one, which is no JSON."""
    if type(function) is not dict or type(function.get("arguments")) is not str:
        return False
    return cut or bool(function["arguments"])


def _is_text(value: Any) -> bool:
    return type(value) is str and bool(value)


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))
