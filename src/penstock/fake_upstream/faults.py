"""Faults by name: what servers that call themselves compatible do to an answer, and some client fails on.

A fault changes a right answer: a stream piece by piece, a whole answer as an object. Several may be combined; each sees
what the one before it left. A fault that has no meaning in the form that was asked for leaves the answer as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from penstock.fake_upstream.pieces import Piece, event

Pieces = Iterator[Piece]
Object = dict[str, Any]

_encode = msgspec.json.Encoder().encode


class NamedFault(msgspec.Struct, frozen=True):
    """One row: what goes wrong, in a stream, in a whole answer, or in both."""

    text: str
    stream: Callable[[Pieces], Pieces] | None = None
    whole: Callable[[Object], None] | None = None


def break_stream(pieces: Pieces, names: tuple[str, ...]) -> Pieces:
    """The stream with these faults."""
    for name in names:
        change = FAULTS[name].stream
        pieces = pieces if change is None else change(pieces)
    return pieces


def break_whole(answer: Object, names: tuple[str, ...]) -> Object:
    """The whole answer with these faults; it is changed in place."""
    for name in names:
        change = FAULTS[name].whole
        if change is not None:
            change(answer)
    return answer


# Ways through an answer.


def _chunk(piece: Piece) -> Object | None:
    """The chunk in a piece, or None where it is something else."""
    if not piece.data.startswith(b"data: {"):
        return None
    chunk = msgspec.json.decode(piece.data[6:])
    return chunk if "choices" in chunk else None


def _put(piece: Piece, chunk: Object) -> Piece:
    return Piece(event(_encode(chunk)), piece.wait)


def _chunks(change: Callable[[Object, int], None]) -> Callable[[Pieces], Pieces]:
    """Change every chunk, given its number."""

    def through(pieces: Pieces) -> Pieces:
        number = 0
        for piece in pieces:
            chunk = _chunk(piece)
            if chunk is None:
                yield piece
                continue
            change(chunk, number)
            number += 1
            yield _put(piece, chunk)

    return through


def _choices(change: Callable[[Object], None]) -> Callable[[Pieces], Pieces]:
    """Change every choice of every chunk."""

    def through(chunk: Object, number: int) -> None:
        for choice in chunk["choices"]:
            change(choice)

    return _chunks(through)


def _calls(change: Callable[[Object], None]) -> Callable[[Pieces], Pieces]:
    """Change every delta of a tool call."""

    def through(choice: Object) -> None:
        for call in choice["delta"].get("tool_calls", ()):
            change(call)

    return _choices(through)


def _messages(change: Callable[[Object], None]) -> Callable[[Object], None]:
    """Change every message of a whole answer."""

    def through(answer: Object) -> None:
        for choice in answer["choices"]:
            change(choice["message"])

    return through


def _both(change: Callable[[Object], None]) -> dict[str, Any]:
    """Change the members at the top of every chunk and of a whole answer."""
    return {"stream": _chunks(lambda chunk, number: change(chunk)), "whole": change}


def _bytes(change: Callable[[bytes, int], bytes]) -> Callable[[Pieces], Pieces]:
    """Change every event as it is written, given its number."""
    return lambda pieces: (Piece(change(piece.data, number), piece.wait) for number, piece in enumerate(pieces))


def _is_finish(piece: Piece) -> bool:
    chunk = _chunk(piece)
    return chunk is not None and any(choice["finish_reason"] for choice in chunk["choices"])


def _is_usage(piece: Piece) -> bool:
    chunk = _chunk(piece)
    return chunk is not None and bool(chunk.get("usage")) and not chunk["choices"]


# The faults themselves.


def _finish(name: str | None) -> dict[str, Any]:
    """Another finish_reason."""

    def change(choice: Object) -> None:
        if choice["finish_reason"]:
            choice["finish_reason"] = name

    def whole(answer: Object) -> None:
        for choice in answer["choices"]:
            change(choice)

    return {"stream": _choices(change), "whole": whole}


def _finish_empty(choice: Object) -> None:
    choice["finish_reason"] = choice["finish_reason"] or ""


def _finish_repeated(pieces: Pieces) -> Pieces:
    for piece in pieces:
        yield piece
        if _is_finish(piece):
            yield piece


def _end_with_the_text(pieces: Pieces) -> Pieces:
    """Hold each chunk until it is known whether the next one finishes it."""
    held: Piece | None = None
    for piece in pieces:
        if held is not None and _is_finish(piece):
            last, finish = _chunk(held), _chunk(piece)
            assert last is not None
            assert finish is not None
            last["choices"][0]["finish_reason"] = finish["choices"][0]["finish_reason"]
            held = _put(held, last)
            continue
        if held is not None:
            yield held
        held = piece
    if held is not None:
        yield held


def _role(role: str) -> Callable[[Pieces], Pieces]:
    """The role on every delta after the first."""

    def change(choice: Object) -> None:
        choice["delta"].setdefault("role", role)

    return _choices(change)


def _role_missing(choice: Object) -> None:
    choice["delta"].pop("role", None)


def _index_missing(choice: Object) -> None:
    del choice["index"]


def _delta_null(choice: Object) -> None:
    choice["delta"] = choice["delta"] or None


def _delta_missing(choice: Object) -> None:
    if not choice["delta"]:
        del choice["delta"]


def _deltas_null_between(pieces: Pieces) -> Pieces:
    """A chunk with a null delta after each text."""
    for piece in pieces:
        yield piece
        chunk = _chunk(piece)
        if chunk is not None and chunk["choices"] and not _is_finish(piece):
            for choice in chunk["choices"]:
                choice["delta"] = None
            yield _put(piece, chunk)


def _parts(text: Any) -> Any:
    return [{"type": "text", "text": text}] if isinstance(text, str) else text


def _content_parts(holder: Object) -> None:
    if "content" in holder:
        holder["content"] = _parts(holder["content"])


def _naming_varies(chunk: Object, number: int) -> None:
    chunk["id"] = f"{chunk['id']}-{number}"
    chunk["created"] += number
    chunk["model"] = f"{chunk['model']}-{number}"


def _naming_missing(holder: Object) -> None:
    for name in ("id", "object", "created", "model"):
        del holder[name]


def _created_float(holder: Object) -> None:
    holder["created"] += 0.25


def _choices_missing(pieces: Pieces) -> Pieces:
    """A chunk that lacks `choices` after the first one."""
    for number, piece in enumerate(pieces):
        yield piece
        chunk = _chunk(piece)
        if number == 0 and chunk is not None:
            del chunk["choices"]
            yield _put(piece, chunk)


def _usage_without_choices(chunk: Object, number: int) -> None:
    if chunk.get("usage"):
        del chunk["choices"]


def _usage_early(pieces: Pieces) -> Pieces:
    """The chunk that finishes comes after the usage."""
    held: list[Piece] = []
    for piece in pieces:
        if _is_finish(piece):
            held.append(piece)
            continue
        yield piece
        if _is_usage(piece):
            yield from held
            held.clear()
    yield from held


def _usage_beside_finish(pieces: Pieces) -> Pieces:
    """No chunk for usage alone: it stands beside the finish."""
    known = list(pieces)
    usage = next((_chunk(piece) for piece in known if _is_usage(piece)), None)
    for piece in known:
        chunk = _chunk(piece)
        if usage is None or not (_is_finish(piece) or _is_usage(piece)):
            yield piece
        elif chunk is not None and chunk["choices"]:
            yield _put(piece, {**chunk, "usage": usage["usage"]})


def _usage_on_every_chunk(pieces: Pieces) -> Pieces:
    """Running totals on every chunk, and once more at the end."""
    known = list(pieces)
    usage = next((_chunk(piece) for piece in known if _is_usage(piece)), None)
    for number, piece in enumerate(known, 1):
        chunk = _chunk(piece)
        if usage is None or chunk is None or not chunk["choices"]:
            yield piece
            continue
        said = usage["usage"]
        so_far = min(number, said["completion_tokens"])
        running = {**said, "completion_tokens": so_far, "total_tokens": said["prompt_tokens"] + so_far}
        yield _put(piece, {**chunk, "usage": running})


def _choices_reversed(pieces: Pieces) -> Pieces:
    """The last choice comes first in every round of them."""
    held: list[Piece] = []
    for piece in pieces:
        chunk = _chunk(piece)
        index = chunk["choices"][0]["index"] if chunk is not None and chunk["choices"] else None
        if index in (0, None):
            yield from reversed(held)
            held.clear()
        if index is None:
            yield piece
        else:
            held.append(piece)
    yield from reversed(held)


def _call_index_missing(call: Object) -> None:
    del call["index"]


def _call_index_from_1(call: Object) -> None:
    call["index"] += 1


def _call_index_shared(call: Object) -> None:
    call["index"] = 0


def _call_repeated(pieces: Pieces) -> Pieces:
    """The id, the type and the name on every delta of a call."""
    heads: dict[int, Object] = {}

    def change(call: Object) -> None:
        head = heads.setdefault(call["index"], call)
        call.update({"id": head["id"], "type": head["type"]})
        call["function"] = {"name": head["function"]["name"], **call["function"]}

    return _calls(change)(pieces)


def _call_function_missing(pieces: Pieces) -> Pieces:
    """A delta of a call that has no function, after each one that has."""
    for piece in pieces:
        yield piece
        chunk = _chunk(piece)
        for choice in () if chunk is None else chunk["choices"]:
            calls = choice["delta"].get("tool_calls")
            if calls:
                choice["delta"] = {"tool_calls": [{"index": call["index"]} for call in calls]}
                assert chunk is not None
                yield _put(piece, chunk)


def _call_id_missing(call: Object) -> None:
    call.pop("id", None)


def _call_id_empty(call: Object) -> None:
    call["id"] = ""


def _call_id_shared(call: Object) -> None:
    if "id" in call:
        call["id"] = "call_1"


def _call_type_missing(call: Object) -> None:
    call.pop("type", None)


def _call_type_empty(call: Object) -> None:
    call["type"] = call.get("type", "") and ""


def _call_arguments_null(call: Object) -> None:
    call["function"]["arguments"] = call["function"].get("arguments") or None


def _call_unmarked(pieces: Pieces) -> Pieces:
    """Each call whole in one delta, under index 0 and without an id, as Gemini sends them."""

    def change(call: Object) -> None:
        call["index"] = 0
        del call["id"]

    return _calls(change)(_calls_joined(pieces))


def _call_arguments_object(pieces: Pieces) -> Pieces:
    return _calls(_arguments_object)(_calls_joined(pieces))


def _calls_joined(pieces: Pieces) -> Pieces:
    """Each call whole in one delta, in place of its first one."""
    known = list(pieces)
    written: dict[tuple[int, int], str] = {}
    for piece in known:
        for choice, call in _called(piece):
            place = (choice["index"], call["index"])
            written[place] = written.get(place, "") + call["function"]["arguments"]
    for piece in known:
        chunk = _chunk(piece)
        called = list(_called(piece))
        if chunk is None or not called:
            yield piece
            continue
        for choice, call in called:
            if "id" in call:
                call["function"]["arguments"] = written[choice["index"], call["index"]]
                yield _put(piece, {**chunk, "choices": [{**choice, "delta": {"tool_calls": [call]}}]})


def _called(piece: Piece) -> Iterator[tuple[Object, Object]]:
    """Each delta of a call in a piece, with its choice."""
    chunk = _chunk(piece)
    for choice in () if chunk is None else chunk["choices"]:
        for call in choice["delta"].get("tool_calls", ()):
            yield choice, call


def _message_call(change: Callable[[Object], None]) -> Callable[[Object], None]:
    """Change every tool call of a whole answer."""

    def through(message: Object) -> None:
        for call in message.get("tool_calls", ()):
            change(call)

    return _messages(through)


def _arguments_object(call: Object) -> None:
    call["function"]["arguments"] = msgspec.json.decode(call["function"]["arguments"])


def _arguments_none(call: Object) -> None:
    call["function"]["arguments"] = ""


def _no_calls(holder: Object) -> None:
    holder.setdefault("tool_calls", [])


def _message_gaps(message: Object) -> None:
    del message["refusal"]
    if message["content"] is None:
        del message["content"]


def _choice_gaps(answer: Object) -> None:
    for choice in answer["choices"]:
        del choice["index"], choice["logprobs"]
        _message_gaps(choice["message"])


def _in_the_midst(data: bytes) -> Callable[[Pieces], Pieces]:
    """Bytes of their own after the third event; what follows is not sent if it is an error."""

    def through(pieces: Pieces) -> Pieces:
        for number, piece in enumerate(pieces):
            yield piece
            if number == 2:
                yield Piece(data)
                if b"error" in data:
                    return

    return through


def _after_done(pieces: Pieces) -> Pieces:
    yield from pieces
    yield Piece(event(b'{"status":"closed"}'))


_ERROR = {"message": "The model broke down.", "type": "server_error", "param": None, "code": None}

FAULTS: dict[str, NamedFault] = {
    "role_missing": NamedFault(
        "no role, on any delta or in the message",
        stream=_choices(_role_missing),
        whole=_messages(lambda message: message.pop("role")),
    ),
    "role_repeated": NamedFault("the role on every delta", stream=_role("assistant")),
    "role_empty": NamedFault("an empty role on every delta but the first", stream=_role("")),
    "finish_missing": NamedFault("no finish_reason", **_finish(None)),
    "finish_empty": NamedFault('`""` for no finish_reason yet', stream=_choices(_finish_empty)),
    "finish_repeated": NamedFault("the finish_reason twice", stream=_finish_repeated),
    "finish_with_text": NamedFault("the finish_reason beside the last text", stream=_end_with_the_text),
    "finish_foreign": NamedFault('a finish_reason of its own: `"eos"`', **_finish("eos")),
    "finish_error": NamedFault('the finish_reason `"error"`', **_finish("error")),
    "finish_of_text": NamedFault('the finish_reason `"stop"` after tool calls', **_finish("stop")),
    "delta_null": NamedFault("a null delta in the chunk that finishes", stream=_choices(_delta_null)),
    "delta_missing": NamedFault("no delta in the chunk that finishes", stream=_choices(_delta_missing)),
    "deltas_null": NamedFault("a chunk with a null delta after every other", stream=_deltas_null_between),
    "index_missing": NamedFault("choices without an index", stream=_choices(_index_missing)),
    "gaps": NamedFault("no index, logprobs and refusal, and no content where it is null", whole=_choice_gaps),
    "content_parts": NamedFault(
        "the content as an array of parts",
        stream=_choices(lambda choice: _content_parts(choice["delta"])),
        whole=_messages(_content_parts),
    ),
    "naming_varies": NamedFault("another id, created and model on every chunk", stream=_chunks(_naming_varies)),
    "naming_missing": NamedFault("no id, object, created and model", **_both(_naming_missing)),
    "created_float": NamedFault("`created` with a fraction", **_both(_created_float)),
    "choices_missing": NamedFault("a chunk without choices after the first one", stream=_choices_missing),
    "choices_reversed": NamedFault("the last of several choices first", stream=_choices_reversed),
    "usage_without_choices": NamedFault("no choices in the usage chunk", stream=_chunks(_usage_without_choices)),
    "usage_early": NamedFault("the usage chunk before the chunk that finishes", stream=_usage_early),
    "usage_beside_finish": NamedFault(
        "usage beside the finish_reason, in no chunk of its own", stream=_usage_beside_finish
    ),
    "usage_on_every_chunk": NamedFault("running totals of usage on every chunk", stream=_usage_on_every_chunk),
    "call_index_missing": NamedFault("tool calls without an index", stream=_calls(_call_index_missing)),
    "call_index_from_1": NamedFault("tool calls counted from 1", stream=_calls(_call_index_from_1)),
    "call_index_shared": NamedFault("all tool calls under index 0", stream=_calls(_call_index_shared)),
    "call_unmarked": NamedFault("whole tool calls under index 0, without an id", stream=_call_unmarked),
    "call_repeated": NamedFault("a tool call's id, type and name on each of its deltas", stream=_call_repeated),
    "call_function_missing": NamedFault("deltas of a tool call without a function", stream=_call_function_missing),
    "call_id_missing": NamedFault(
        "tool calls without an id", stream=_calls(_call_id_missing), whole=_message_call(_call_id_missing)
    ),
    "call_id_empty": NamedFault(
        "an empty id on every delta of a tool call", stream=_calls(_call_id_empty), whole=_message_call(_call_id_empty)
    ),
    "call_id_shared": NamedFault(
        "the same id for all tool calls", stream=_calls(_call_id_shared), whole=_message_call(_call_id_shared)
    ),
    "call_type_missing": NamedFault(
        "tool calls without a type", stream=_calls(_call_type_missing), whole=_message_call(_call_type_missing)
    ),
    "call_type_empty": NamedFault("an empty type on every delta of a tool call", stream=_calls(_call_type_empty)),
    "call_arguments_null": NamedFault("null for arguments that are empty", stream=_calls(_call_arguments_null)),
    "call_arguments_object": NamedFault(
        "a tool call's arguments as an object", stream=_call_arguments_object, whole=_message_call(_arguments_object)
    ),
    "call_arguments_none": NamedFault(
        "no arguments, where an empty object is meant",
        stream=_calls(_arguments_none),
        whole=_message_call(_arguments_none),
    ),
    "calls_empty": NamedFault(
        "an empty list of tool calls on every delta or in the message",
        stream=_choices(lambda choice: _no_calls(choice["delta"])),
        whole=_messages(_no_calls),
    ),
    "event_ids": NamedFault(
        "an id on every event and a comment after it",
        stream=_bytes(lambda data, number: b"id: %d\n" % number + data + b": note\n\n"),
    ),
    "event_names": NamedFault(
        "`event: message` on every event", stream=_bytes(lambda data, number: b"event: message\n" + data)
    ),
    "event_empty": NamedFault("an event with empty data", stream=_in_the_midst(b"data:\n\n")),
    "event_ping": NamedFault(
        "an `event: ping` with data", stream=_in_the_midst(b'event: ping\ndata: {"type":"ping"}\n\n')
    ),
    "crlf": NamedFault("lines that end in CR LF", stream=_bytes(lambda data, number: data.replace(b"\n", b"\r\n"))),
    "after_done": NamedFault("an event after [DONE]", stream=_after_done),
    "error_chunk": NamedFault("an error in place of the rest", stream=_in_the_midst(event(_encode({"error": _ERROR})))),
    "error_event": NamedFault(
        "a bare error under `event: error` in place of the rest",
        stream=_in_the_midst(b"event: error\n" + event(_encode(_ERROR))),
    ),
    "error_text": NamedFault(
        "an error that is a string in place of the rest", stream=_in_the_midst(event(b'{"error":"overloaded"}'))
    ),
}
