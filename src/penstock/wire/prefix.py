"""The request for the rest of an answer: the original one with what was said so far as its last message.

Every other value keeps its bytes. How a server is told that it is to go on with that message, and not to answer it,
differs: for some it is enough that the message is the assistant's, some want it marked, some want to be told beside it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.wire.chat import decode_chat
from penstock.wire.members import split
from penstock.wire.patch import patch
from penstock.wire.request import ChatRequest

MOST_STOP = 1000  # characters of a stop string; longer ones are not looked for at a seam

_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode

_MARKED = frozenset({"prefix", "echoed_prefix"})  # DeepSeek (beta) and Mistral
_TOLD_BESIDE = "continue_final_message"  # vLLM and SGLang


def continued(asked: ChatRequest, text: str, how: str, left: int | None) -> ChatRequest:
    """The request that goes on from `text`. `how`: as a target's `continues`; `left`: tokens that may be generated.

    Raises InvalidRequest where that is no valid request, such as one that has grown too large.
    """
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if how in _MARKED:
        message["prefix"] = True
    messages = [*_list(split(asked.body)["messages"]), msgspec.Raw(_encode(message))]
    put = {"messages": _encode(messages)}
    if left is not None:
        put |= {name: b"%d" % left for name in ("max_completion_tokens", "max_tokens") if name in asked.fields}
    if how == _TOLD_BESIDE:
        put |= {_TOLD_BESIDE: b"true", "add_generation_prompt": b"false"}
    return decode_chat(patch(asked.body, put))


def may_end_in_a_stop(text: str, stops: tuple[str, ...]) -> bool:
    """Whether a stop string may have begun in `text`, so that nobody would see it whole."""
    return any(
        len(stop) > MOST_STOP or any(text.endswith(stop[:size]) for size in range(1, len(stop))) for stop in stops
    )
