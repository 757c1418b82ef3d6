"""What becomes of a conversation that ends in the assistant's own words: their continuation, or a refusal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from penstock.fake_upstream.script import Answer, Chunk, Fault
from penstock.fake_upstream.shapes import SENTENCE, texts
from penstock.fake_upstream.strict import Refused


class _Message(msgspec.Struct):
    role: str = ""
    content: Any = None


class _Body(msgspec.Struct):
    messages: list[_Message] = []


_decode = msgspec.json.Decoder(_Body).decode


def obey(answer: Answer, body: bytes) -> Answer:
    """The answer, as its `prefix` says: without what the conversation already has of it. Raises Refused."""
    prefix = _prefix(body) if answer.prefix != "ignore" else None
    if prefix is None:
        return answer
    if answer.prefix == "refuse":
        raise Refused(400, Fault("The last message must not be the assistant's.", param="messages"))
    if answer.chunks is not None:
        return msgspec.structs.replace(answer, chunks=tuple(_after(answer.chunks, prefix)))
    content = SENTENCE if answer.content is None else answer.content
    return msgspec.structs.replace(answer, content=content.removeprefix(prefix))


def _prefix(body: bytes) -> str | None:
    """The text of the last message, where that is the assistant's."""
    try:
        messages = _decode(body).messages
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not messages or messages[-1].role != "assistant":
        return None
    return "".join(texts([{"content": messages[-1].content}]))


def _after(chunks: Sequence[str | Chunk], prefix: str) -> Iterator[str | Chunk]:
    """The chunks without the text that makes up the prefix; all of them, if they do not begin with it."""
    said = "".join((chunk if isinstance(chunk, str) else chunk.text) or "" for chunk in chunks)
    left = len(prefix) if said.startswith(prefix) else 0
    for chunk in chunks:
        part = Chunk(text=chunk) if isinstance(chunk, str) else chunk
        if part.text is None or not left:
            yield chunk
            continue
        rest, left = part.text[left:], max(0, left - len(part.text))
        if rest:
            yield msgspec.structs.replace(part, text=rest)
