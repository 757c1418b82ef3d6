"""The most tokens that an answer may have, as its request says; and the same request with another such number."""

from __future__ import annotations

import msgspec

from penstock.wire.chat import decode_chat
from penstock.wire.neighbours import DECODERS, NeighbourRequest
from penstock.wire.patch import patch
from penstock.wire.request import ChatRequest
from penstock.wire.rules import INT32_MAX

_NOTHING = msgspec.Raw()


class _Ceiling(msgspec.Struct, frozen=True, gc=False):
    """Of the endpoints beside chat. What has another type is the upstream's to judge, and says nothing here."""

    max_tokens: msgspec.Raw = _NOTHING
    max_output_tokens: msgspec.Raw = _NOTHING
    n: msgspec.Raw = _NOTHING
    best_of: msgspec.Raw = _NOTHING


_CEILING = msgspec.json.Decoder(_Ceiling)
_NAMES = {"completions": "max_tokens", "responses": "max_output_tokens"}


def ceiling(asked: ChatRequest | NeighbourRequest) -> tuple[int | None, int]:
    """The most tokens of one choice, None where the request does not say, and how many choices there will be."""
    if isinstance(asked, ChatRequest):
        return asked.max_tokens, asked.n
    name = _NAMES.get(asked.endpoint)
    if name is None:
        return 0, 1
    found = _CEILING.decode(asked.body)
    tokens = _number(getattr(found, name))
    return tokens, max(_number(found.n) or 1, _number(found.best_of) or 1) if name == "max_tokens" else 1


def lowered(asked: ChatRequest | NeighbourRequest, tokens: int) -> ChatRequest | NeighbourRequest:
    """The same request, each of whose choices may have so many tokens and no more."""
    value = b"%d" % tokens
    if isinstance(asked, ChatRequest):
        given = [name for name in ("max_completion_tokens", "max_tokens") if name in asked.fields]
        return decode_chat(patch(asked.body, dict.fromkeys(given or ["max_completion_tokens"], value)))
    name = _NAMES.get(asked.endpoint)
    return asked if name is None else DECODERS[asked.endpoint](patch(asked.body, {name: value}))


def _number(given: msgspec.Raw) -> int | None:
    """A whole number, None of anything else; at most INT32_MAX, of which so many times as many still fit a claim."""
    text = bytes(given)
    if not text.isdigit():
        return None
    return int(text) if len(text) < 10 else INT32_MAX
