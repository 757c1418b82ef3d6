"""OpenAI's own shapes: completions, chunks, model lists and errors, as bytes, from an answer and what was asked.

Written apart from the gateway's own shapes on purpose: an error in one must not hide in the other. A body is a
sequence of pieces, each with the wait before it: one piece for a JSON body, one per event for a stream, made as they
are asked for, so that a long stream takes no memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Any

import msgspec

from penstock.fake_upstream.faults import break_stream, break_whole
from penstock.fake_upstream.pieces import Piece, event
from penstock.fake_upstream.script import Answer, Chunk, Fault, Tokens, ToolCall

SENTENCE = "This is the fake upstream of Penstock: every question gets this sentence as its answer."
JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream; charset=utf-8"
MAX_CHOICES = 128
CALL_LETTERS = 8  # of a tool call's arguments, in one delta

# What a kind of call names its arguments.
_ARGUMENTS = {"function": "arguments", "custom": "input", "legacy": "arguments"}

_encode = msgspec.json.Encoder().encode
_word = re.compile(r"\s*\S+\s*")

# What OpenAI says with a status; any other one is named by its reason phrase.
FAULTS = {
    401: Fault("Incorrect API key provided.", code="invalid_api_key"),
    403: Fault("You are not allowed to do this.", type="permission_error"),
    404: Fault("The model does not exist or you do not have access to it.", code="model_not_found"),
    429: Fault("Rate limit reached for requests.", type="requests", code="rate_limit_exceeded"),
    500: Fault("The server had an error while processing your request. Sorry about that!", type="server_error"),
    503: Fault("The engine is currently overloaded, please try again later.", type="server_error"),
}


class Asked(msgspec.Struct, frozen=True):
    """What a chat request asks for, as far as an answer depends on it.

    `limit`: of output tokens, None for none. `tools`: the names of its functions. `logprobs`: how many alternatives to
    each token, None for no log probabilities at all.
    """

    model: str = ""
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    limit: int | None = None
    prompt_words: int = 0
    tools: tuple[str, ...] = ()
    logprobs: int | None = None


class Reply(msgspec.Struct, frozen=True):
    """How the answer's objects are named: `model` is the answering one, `created` in Unix seconds."""

    id: str
    model: str
    created: int


def asked(body: bytes) -> Asked | None:
    """Read a chat request leniently, as servers do that check nothing; None when it is no JSON object."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    options = data.get("stream_options")
    limit = data.get("max_completion_tokens", data.get("max_tokens"))
    n = data.get("n")
    return Asked(
        model=data["model"] if isinstance(data.get("model"), str) else "",
        stream=data.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        n=n if isinstance(n, int) and 1 <= n <= MAX_CHOICES else 1,
        limit=limit if isinstance(limit, int) and limit >= 1 else None,
        prompt_words=count_words(data.get("messages")),
        tools=tuple(_tool_names(data.get("tools"))),
        logprobs=_alternatives(data) if data.get("logprobs") is True else None,
    )


def _alternatives(data: dict[str, Any]) -> int:
    count = data.get("top_logprobs")
    return count if isinstance(count, int) else 0


def _tool_names(tools: Any) -> Iterator[str]:
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str):
            yield name


def count_words(messages: Any) -> int:
    """Words of all texts in `messages`, contents and their parts alike."""
    if not isinstance(messages, list):
        return 0
    return sum(len(text.split()) for text in texts(messages))


def texts(messages: Iterable[Any]) -> Iterator[str]:
    """Every text of the messages' contents."""
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else (content,):
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                yield text


def envelope(fault: Fault) -> bytes:
    """The error body."""
    return _encode({"error": msgspec.structs.asdict(fault)})


def fault(status: int) -> Fault:
    """What OpenAI says with this status."""
    if status in FAULTS:
        return FAULTS[status]
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = f"Status {status}"
    return Fault(f"{phrase}.", type="server_error" if status >= 500 else "invalid_request_error")


def model_object(name: str) -> dict[str, Any]:
    """One model as ``GET /v1/models/{id}`` shows it."""
    return {"id": name, "object": "model", "created": 1_772_668_800, "owned_by": "penstock-fake-upstream"}


def model_list(names: Iterable[str]) -> bytes:
    """``GET /v1/models``."""
    return _encode({"object": "list", "data": [model_object(name) for name in names]})


def one_model(name: str) -> bytes:
    """``GET /v1/models/{id}``."""
    return _encode(model_object(name))


class Saying(msgspec.Struct, frozen=True):
    """What an answer says, once lengths and counts are known."""

    chunks: tuple[str | Chunk, ...]
    calls: tuple[dict[str, Any], ...]
    finish_reason: str | None
    usage: dict[str, Any] | None

    def texts(self) -> list[str]:
        """The pieces of the content."""
        said = (chunk if isinstance(chunk, str) else chunk.text for chunk in self.chunks)
        return [text for text in said if text]

    def text(self, kind: str) -> str:
        """All deltas of a kind, text or reasoning, joined."""
        said = (Chunk(text=chunk) if isinstance(chunk, str) else chunk for chunk in self.chunks)
        return "".join(getattr(chunk, kind) or "" for chunk in said)


def saying(answer: Answer, request: Asked) -> Saying:
    """Decide chunks, finish reason and usage; only an answer without a text of its own obeys the token limit."""
    finish = answer.finish_reason
    calls = tuple(_calls(answer.tool_calls, request.tools))
    if calls and finish == "stop":
        finish = "function_call" if "function_call" in calls[0] else "tool_calls"
    if answer.chunks is not None:
        chunks = answer.chunks
    elif calls and answer.content is None:
        chunks = ()
    else:
        chunks = tuple(_word.findall(SENTENCE if answer.content is None else answer.content))
        if answer.content is None and request.limit is not None and request.limit < len(chunks):
            chunks, finish = chunks[: request.limit], "length"
    partial = Saying(chunks, calls, finish or None, None)
    if answer.report_usage == "never":
        return partial
    reasoning = len(partial.text("reasoning").split())
    called = sum(len(_arguments(call).split()) for call in calls)
    words = (len(partial.text("text").split()) + called) * request.n
    counted = Tokens(prompt=request.prompt_words, completion=words + reasoning, reasoning=reasoning)
    return Saying(chunks, calls, finish or None, _usage(answer.usage or counted))


def _calls(calls: Iterable[ToolCall], tools: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The calls as a message has them."""
    for number, call in enumerate(calls):
        name = call.name or (tools[number % len(tools)] if tools else "lookup")
        given = {"name": name, _ARGUMENTS[call.kind]: call.arguments}
        if call.kind == "legacy":
            yield {"function_call": given}
        else:
            yield {"id": call.id or f"call_fake_{number}", "type": call.kind, call.kind: given}


def _of_call(call: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a call is named in a message, and its name and arguments."""
    for kind in _ARGUMENTS:
        if kind in call:
            return kind, call[kind]
    return "function_call", call["function_call"]


def _arguments(call: dict[str, Any]) -> str:
    given = _of_call(call)[1]
    return str(given.get("arguments", given.get("input")))


def _logprobs(texts: Iterable[str], alternatives: int) -> dict[str, Any]:
    """Log probabilities of a text: each piece is a token, and its only alternative itself."""
    tokens = []
    for text in texts:
        token = {"token": text, "logprob": -0.25, "bytes": list(text.encode("utf-8", "replace"))}
        tokens.append({**token, "top_logprobs": [token][:alternatives]})
    return {"content": tokens, "refusal": None}


def _usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
        "prompt_tokens_details": {"cached_tokens": tokens.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion(answer: Answer, request: Asked, reply: Reply) -> bytes:
    """The whole answer of a request that does not stream."""
    said = saying(answer, request)
    content: str | None = said.text("text") if answer.content is None else answer.content
    if said.calls and not content:
        content = None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    if not answer.role:
        del message["role"]
    if reasoning := said.text("reasoning"):
        message["reasoning_content"] = reasoning
    if said.calls and "function_call" in said.calls[0]:
        message |= said.calls[0]
    elif said.calls:
        message["tool_calls"] = said.calls
    logprobs = None if request.logprobs is None else _logprobs(said.texts(), request.logprobs)
    data: dict[str, Any] = {
        "id": reply.id,
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model,
        "choices": [
            {"index": index, "message": message, "logprobs": logprobs, "finish_reason": said.finish_reason}
            for index in range(request.n)
        ],
        "usage": said.usage,
        "service_tier": "default",
        "system_fingerprint": None,
    }
    if said.usage is None:
        del data["usage"]
    if answer.faults:  # which change what each choice holds, so that each needs its own
        data = break_whole(msgspec.json.decode(_encode(data)), answer.faults)
    return _encode(data)


def events(answer: Answer, request: Asked, reply: Reply) -> Iterator[Piece]:
    """The stream of a request, event by event."""
    held: Piece | None = None
    for piece in break_stream(_all_events(answer, request, reply), answer.faults):
        if held is not None:
            yield held
        held = piece
    if held is not None:
        yield held if answer.final_blank_line else Piece(held.data.removesuffix(b"\n"), held.wait)


def _all_events(answer: Answer, request: Asked, reply: Reply) -> Iterator[Piece]:
    said = saying(answer, request)
    with_usage = said.usage is not None and (
        answer.report_usage == "always" or (answer.report_usage == "asked" and request.include_usage)
    )
    base: dict[str, Any] = {
        "id": reply.id,
        "object": "chat.completion.chunk",
        "created": reply.created,
        "model": reply.model,
        "service_tier": "default",
        "system_fingerprint": None,
    }
    trailer = {"usage": None} if with_usage else {}

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        text = delta.get("content")
        logprobs = _logprobs((text,), request.logprobs) if text and request.logprobs is not None else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event(_encode({**base, "choices": [choice], **trailer}))

    for index in range(request.n if answer.role else 0):
        yield Piece(chunk(index, {"role": "assistant", "content": None if said.calls else "", "refusal": None}))
    for number, item in enumerate(said.chunks):
        part = Chunk(text=item) if isinstance(item, str) else item
        wait = part.wait or (answer.between if number else 0.0)
        if part.data is not None:
            yield Piece(event(part.data.encode()), wait)
        elif part.raw is not None:
            yield Piece(part.raw.encode(), wait)
        else:
            delta = {"content": part.text} if part.reasoning is None else {"reasoning_content": part.reasoning}
            for index in range(request.n):
                yield Piece(chunk(index, delta), wait if index == 0 else 0.0)
    for delta in _call_deltas(said.calls):
        for index in range(request.n):
            yield Piece(chunk(index, delta))
    for index in range(request.n if said.finish_reason else 0):
        yield Piece(chunk(index, {}, said.finish_reason))
    if with_usage:
        yield Piece(event(_encode({**base, "choices": [], "usage": said.usage})))
    if answer.done:
        yield Piece(event(b"[DONE]"))


def _call_deltas(calls: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each call as OpenAI streams it: all but its arguments, then these a few letters at a time."""
    for index, call in enumerate(calls):
        arguments = _arguments(call)
        kind, given = _of_call(call)
        field = _ARGUMENTS.get(kind, "arguments")
        pieces = [arguments[start : start + CALL_LETTERS] for start in range(0, len(arguments), CALL_LETTERS)]
        if kind == "function_call":
            yield {kind: {**given, field: ""}}
            yield from ({kind: {field: piece}} for piece in pieces)
            continue
        yield {"tool_calls": [{"index": index, **call, kind: {**given, field: ""}}]}
        yield from ({"tool_calls": [{"index": index, kind: {field: piece}}]} for piece in pieces)
