"""The endpoints beside chat completions: embeddings, legacy completions and responses, as OpenAI shapes them.

They take the same scripts: what an answer says, when, and how it ends. A response that has no `finish_reason` ends
without its terminal event, since there is no ``[DONE]`` to leave out. Embeddings are made from the input's bytes, so
that the same input has the same one, and the same in both encodings.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from penstock.fake_upstream.pieces import Piece, event
from penstock.fake_upstream.script import Answer, Chunk
from penstock.fake_upstream.shapes import MAX_CHOICES, Asked, Reply, Saying, count_words, saying

EMBEDDINGS = "/v1/embeddings"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"

ID_PREFIXES = {EMBEDDINGS: "embd", COMPLETIONS: "cmpl", RESPONSES: "resp"}

DIMENSIONS = 8
MAX_DIMENSIONS = 4096

_encode = msgspec.json.Encoder().encode
_Object = dict[str, Any]


def pieces(path: str, answer: Answer, body: bytes, reply: Reply) -> tuple[Iterable[Piece], bool]:
    """The answer to a request for `path`, whose body is a JSON object, and whether it is a stream."""
    data: _Object = msgspec.json.decode(body)
    stream = data.get("stream") is True
    if path == EMBEDDINGS:
        return (Piece(_encode(_embeddings(data, answer, reply))),), False
    if path == COMPLETIONS:
        asked = _completion_asked(data)
        said = saying(answer, asked)
        if stream:
            return _text_events(answer, said, asked, reply), True
        return (Piece(_encode(_completion(answer, said, asked, reply))),), False
    said = saying(answer, _response_asked(data))
    if stream:
        return _response_events(answer, said, reply), True
    status = "incomplete" if said.finish_reason == "length" else "completed"
    return (Piece(_encode(_response(said, reply, status, _text(answer, said)))),), False


def _text(answer: Answer, said: Saying) -> str:
    return said.text("text") if answer.content is None else answer.content


def _limit(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 1 else None


# Embeddings.


def _embeddings(data: _Object, answer: Answer, reply: Reply) -> _Object:
    given = data.get("input")
    # A list of numbers is one text, already in tokens.
    inputs = given if isinstance(given, list) and not all(isinstance(item, int) for item in given) else [given]
    counted = sum(len(item) if isinstance(item, list) else len(str(item).split()) for item in inputs)
    tokens = counted if answer.usage is None else answer.usage.prompt
    dimensions = data.get("dimensions")
    if not isinstance(dimensions, int) or not 1 <= dimensions <= MAX_DIMENSIONS:
        dimensions = DIMENSIONS
    encoded = data.get("encoding_format") == "base64"
    made = (_vector(_encode(item), dimensions) for item in inputs)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if encoded else vector}
            for index, vector in enumerate(made)
        ],
        "model": reply.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(given: bytes, dimensions: int) -> list[float]:
    """Numbers that 32 bits hold exactly."""
    digest = hashlib.shake_128(given).digest(dimensions)
    return [byte / 128 - 1 for byte in digest]


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


# Legacy completions.


def _completion_asked(data: _Object) -> Asked:
    prompt = data.get("prompt")
    prompts = prompt if isinstance(prompt, list) and all(isinstance(one, str) for one in prompt) else [prompt]
    options = data.get("stream_options")
    n = data.get("n")
    n = len(prompts) * (n if isinstance(n, int) and n >= 1 else 1)
    return Asked(
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        n=min(max(n, 1), MAX_CHOICES),
        limit=_limit(data.get("max_tokens")),
        prompt_words=sum(len(str(one).split()) for one in prompts),
    )


def _choice(index: int, text: str, finish: str | None) -> _Object:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def _completion(answer: Answer, said: Saying, asked: Asked, reply: Reply) -> _Object:
    text = _text(answer, said)
    return {
        "id": reply.id,
        "object": "text_completion",
        "created": reply.created,
        "model": reply.model,
        "choices": [_choice(index, text, said.finish_reason) for index in range(asked.n)],
        "usage": said.usage,
    }


def _text_events(answer: Answer, said: Saying, asked: Asked, reply: Reply) -> Iterator[Piece]:
    reports = answer.report_usage == "always" or (answer.report_usage == "asked" and asked.include_usage)
    with_usage = said.usage is not None and reports
    base = {"id": reply.id, "object": "text_completion", "created": reply.created, "model": reply.model}
    trailer = {"usage": None} if with_usage else {}

    def chunk(index: int, text: str, finish: str | None = None) -> bytes:
        return event(_encode({**base, "choices": [_choice(index, text, finish)], **trailer}))

    for part, wait in _parts(answer, said):
        if part.text is None:
            yield _own(part, wait)
            continue
        for index in range(asked.n):
            yield Piece(chunk(index, part.text), wait if index == 0 else 0.0)
    for index in range(asked.n if said.finish_reason else 0):
        yield Piece(chunk(index, "", said.finish_reason))
    if with_usage:
        yield Piece(event(_encode({**base, "choices": [], "usage": said.usage})))
    if answer.done:
        yield Piece(event(b"[DONE]"))


def _parts(answer: Answer, said: Saying) -> Iterator[tuple[Chunk, float | str]]:
    """Each chunk of the script, and the wait before it. These endpoints have no place for reasoning text."""
    for number, item in enumerate(said.chunks):
        part = Chunk(text=item) if isinstance(item, str) else item
        if part.reasoning is None:
            yield part, part.wait or (answer.between if number else 0.0)


def _own(part: Chunk, wait: float | str) -> Piece:
    """Bytes of the script's own."""
    return Piece(event(part.data.encode()) if part.data is not None else (part.raw or "").encode(), wait)


# Responses.


def _response_asked(data: _Object) -> Asked:
    given = data.get("input")
    words = len(given.split()) if isinstance(given, str) else count_words(given)
    return Asked(limit=_limit(data.get("max_output_tokens")), prompt_words=words)


def _response(said: Saying, reply: Reply, status: str, text: str | None) -> _Object:
    """The response in this state; `text` is None while there is no output."""
    usage = said.usage if status in ("completed", "incomplete") else None
    return {
        "id": reply.id,
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "model": reply.model,
        "output": [] if text is None else [_message(reply, status, text)],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None
        if usage is None
        else {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {
                "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
                "cache_write_tokens": 0,
            },
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"]},
            "total_tokens": usage["total_tokens"],
        },
    }


def _message(reply: Reply, status: str, text: str | None) -> _Object:
    content = [] if text is None else [_output(text)]
    return {"id": f"msg_{reply.id}", "type": "message", "status": status, "role": "assistant", "content": content}


def _output(text: str) -> _Object:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response_events(answer: Answer, said: Saying, reply: Reply) -> Iterator[Piece]:
    number = 0

    def typed(kind: str, **members: Any) -> bytes:
        nonlocal number
        data = _encode({"type": kind, "sequence_number": number, **members})
        number += 1
        return f"event: {kind}\n".encode() + event(data)

    begun = _response(said, reply, "in_progress", None)
    item: _Object = {"output_index": 0}
    place: _Object = {"item_id": f"msg_{reply.id}", "content_index": 0, **item}
    yield Piece(typed("response.created", response=begun))
    yield Piece(typed("response.in_progress", response=begun))
    yield Piece(typed("response.output_item.added", item=_message(reply, "in_progress", None), **item))
    yield Piece(typed("response.content_part.added", part=_output(""), **place))
    for part, wait in _parts(answer, said):
        if part.text is None:
            yield _own(part, wait)
        else:
            yield Piece(typed("response.output_text.delta", delta=part.text, logprobs=[], **place), wait)
    if not said.finish_reason:
        return
    text = _text(answer, said)
    status = "incomplete" if said.finish_reason == "length" else "completed"
    yield Piece(typed("response.output_text.done", text=text, logprobs=[], **place))
    yield Piece(typed("response.content_part.done", part=_output(text), **place))
    yield Piece(typed("response.output_item.done", item=_message(reply, status, text), **item))
    yield Piece(typed(f"response.{status}", response=_response(said, reply, status, text)))
