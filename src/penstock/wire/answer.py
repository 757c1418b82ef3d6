"""What Penstock reads in the chunks of a chat completion, and what it mends there; for whole answers see `completion`.

Reading: the views name only the members that decide something (has the answer begun, is it whole, what did it cost, is
it an error). Members whose shape differs between servers are taken as they come, and `wire.usage` makes the best of
what it finds, so that a stray type in a figure never breaks an answer.

Mending: some servers send shapes that the official clients fail on: no role on a choice's first delta or a role on each
of them, a null delta, a second finish_reason or one in words of their own, tool calls without an index, reasoning under
another name. `mend_chunk` rewrites such an event; members that are not at fault keep their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from penstock.wire.parts import join
from penstock.wire.tool_calls import CallMending, mend_calls, without_arguments

RawObject = dict[str, msgspec.Raw]

_NULL = msgspec.Raw(b"null")

_json = msgspec.json.Encoder()
_raw_object = msgspec.json.Decoder(RawObject)
_raw_objects = msgspec.json.Decoder(list[RawObject])

# What decoding foreign bytes may raise: bad JSON or types, bad UTF-8, nesting without end.
BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Delta(msgspec.Struct, gc=False):
    """One step of a choice in a stream."""

    role: str | None = None
    content: str | None = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    function_call: Any = None


class ChunkChoice(msgspec.Struct, gc=False):
    """One choice in a chunk. `index` and `delta` are None when the server sent null or nothing."""

    index: int | None = None
    delta: Delta | None = None
    finish_reason: str | None = None


class ErrorInPlace(msgspec.Struct, gc=False):
    """What an error that came in an answer's place is known by.

    The members from `object` on are read for servers whose error is ``{"object": "error", "message": ...}``.
    """

    error: Any = msgspec.UNSET
    object: Any = None
    message: Any = None
    type: Any = None
    code: Any = None


class Chunk(msgspec.Struct, gc=False):
    """A chat.completion.chunk, or what came in its place. `x_groq` is where Groq put its usage first."""

    choices: list[ChunkChoice] | None = None
    usage: Any = msgspec.UNSET
    error: Any = None
    x_groq: Any = None


decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_error = msgspec.json.Decoder(ErrorInPlace).decode
decode_any = msgspec.json.Decoder().decode


def error_of(answer: ErrorInPlace, alone: bool) -> Any:
    """The error in an answer, or None: a member `error`, or the answer itself where it says that it is one.

    `alone`: there are no choices beside it, so that a `message` is an error's: servers that name an event `error` put
    just this in it.
    """
    if answer.error:
        return answer.error
    if "error" in (answer.object, answer.type) or (alone and isinstance(answer.message, str)):
        return {"message": answer.message, "type": answer.type, "code": answer.code}
    return None


class Mending(msgspec.Struct, frozen=True):
    """What is wrong with one choice of a chunk: `role` True adds it, False drops it; `finish` drops a finish_reason.

    `index`: the one in place of none. `reason`: the finish_reason in place of the server's own. `calls`: what is wrong
    with its tool calls, if anything. `bare`: those, by index, that get an empty object for arguments.
    """

    role: bool | None = None
    finish: bool = False
    index: int | None = None
    reason: str | None = None
    calls: tuple[CallMending, ...] | None = None
    bare: tuple[int, ...] = ()


def mend_chunk(
    data: bytes, mendings: Sequence[Mending] = (), openings: Sequence[int] = (), drop_usage: bool = False
) -> bytes:
    """The chunk with a list of choices, each mended as told, and its usage nulled if `drop_usage`.

    `mendings` is empty or has one for each choice, in order. `openings` are indexes of choices that are to be begun
    in front of the chunk's own, because clients need them in order.
    """
    chunk = _raw_object.decode(data)
    if mendings:
        choices = _raw_objects.decode(chunk["choices"])
        for choice, mending in zip(choices, mendings, strict=True):
            _mend_choice(choice, mending)
        opened = [_raw_object.decode(_json.encode(_opening(index))) for index in openings]
        chunk["choices"] = msgspec.Raw(_json.encode(opened + choices))
    elif chunk.get("choices", _NULL) == _NULL:
        chunk["choices"] = msgspec.Raw(b"[]")
    if drop_usage:
        chunk["usage"] = _NULL
    return _json.encode(chunk)


def _mend_choice(choice: RawObject, mending: Mending) -> None:
    delta = _raw_object.decode(choice["delta"]) if choice.get("delta", _NULL) != _NULL else {}
    if mending.index is not None:
        choice["index"] = msgspec.Raw(b"%d" % mending.index)
    if mending.role is not None:
        delta.pop("role", None)
    if mending.role:
        delta = {"role": msgspec.Raw(b'"assistant"'), **delta}
    if mending.calls is not None or mending.bare:
        calls = mend_calls(bytes(delta.pop("tool_calls", _NULL)), mending.calls) + without_arguments(mending.bare)
        if calls:
            delta["tool_calls"] = msgspec.Raw(_json.encode(calls))
    name_reasoning(delta)
    choice["delta"] = msgspec.Raw(_json.encode(delta))
    if mending.finish:
        choice["finish_reason"] = _NULL
    elif mending.reason is not None:
        choice["finish_reason"] = msgspec.Raw(_json.encode(mending.reason))


def join_content(data: bytes) -> bytes:
    """A chunk whose deltas have their content in parts, with each joined. Raises ValueError where it is none."""
    chunk = _raw_object.decode(data)
    choices = _raw_objects.decode(chunk.get("choices", _NULL))
    for choice in choices:
        delta = _raw_object.decode(choice.get("delta", _NULL))
        if bytes(delta.get("content", _NULL))[:1] != b"[":
            continue
        text, reasoning = join(decode_any(delta["content"]))
        delta["content"] = msgspec.Raw(_json.encode(text))
        if reasoning:
            delta["reasoning_content"] = msgspec.Raw(_json.encode(reasoning))
        choice["delta"] = msgspec.Raw(_json.encode(delta))
    chunk["choices"] = msgspec.Raw(_json.encode(choices))
    return _json.encode(chunk)


def usage_chunk(data: bytes) -> bytes:
    """The chunk without its choices: the last one, for its usage alone."""
    return _json.encode({**_raw_object.decode(data), "choices": msgspec.Raw(b"[]")})


def _opening(index: int) -> dict[str, Any]:
    return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}


class Reasoned(Protocol):
    """A delta or a message, which may hold reasoning."""

    reasoning: Any
    reasoning_content: Any


def misnamed_reasoning(part: Reasoned) -> bool:
    """Whether reasoning text stands under `reasoning` alone, as several servers send it."""
    return bool(part.reasoning) and isinstance(part.reasoning, str) and not part.reasoning_content


def name_reasoning(part: RawObject) -> None:
    """Give reasoning text under `reasoning` the name that clients know as well."""
    reasoning = part.get("reasoning", _NULL)
    if bytes(reasoning)[:1] == b'"' and bytes(part.get("reasoning_content", _NULL)) in (b"null", b'""'):
        part["reasoning_content"] = reasoning
