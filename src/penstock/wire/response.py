"""What Penstock reads in a response (the object of /v1/responses) and in the typed events that one is streamed as.

A stream ends in one of three events, each with the whole response in it, and has no ``[DONE]``. An error may come as
an event of its own instead, whose members stand at its top; some servers nest them under `error`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from penstock.errors import Refusal
from penstock.types import Usage
from penstock.wire.sse import event
from penstock.wire.usage import usage_of

# Said before there is anything of an answer.
OPENING = frozenset(("response.created", "response.queued", "response.in_progress"))
TERMINAL = frozenset(("response.completed", "response.incomplete", "response.failed"))
FAILED = "response.failed"
ERROR = "error"

NULL = msgspec.Raw(b"null")

_TYPE = re.compile(r"[A-Za-z0-9_.-]+")

_encode = msgspec.json.Encoder().encode


class ResponseEvent(msgspec.Struct, gc=False):
    """One event. `response` is not decoded, since every change of state repeats the whole of it."""

    type: Any = None
    sequence_number: Any = None
    response: msgspec.Raw = NULL
    error: Any = None
    message: Any = None
    code: Any = None
    param: Any = None


class Response(msgspec.Struct, gc=False):
    """A response, or the error object that came in its place."""

    output: msgspec.Raw = NULL
    status: Any = None
    usage: Any = None
    error: Any = None


decode_event = msgspec.json.Decoder(ResponseEvent).decode
decode_response = msgspec.json.Decoder(Response | None).decode


def response_usage(found: Any) -> Usage | None:
    """The usage that a response reports, or None: other names for what a chat completion counts."""
    if not isinstance(found, dict):
        return None
    return usage_of(
        {
            "prompt_tokens": found.get("input_tokens"),
            "completion_tokens": found.get("output_tokens"),
            "prompt_tokens_details": found.get("input_tokens_details"),
            "completion_tokens_details": found.get("output_tokens_details"),
        }
    )


def typed_event(kind: str | None, data: bytes) -> bytes:
    """An event under the name of its type, which its data repeats; unnamed where the type is no name."""
    if kind is None or _TYPE.fullmatch(kind) is None:
        return event(data)
    return b"event: %b\n%b" % (kind.encode(), event(data))


def typed_error(refusal: Refusal, sequence_number: int) -> bytes:
    """A refusal as an event of a stream of typed events."""
    found = {
        "type": ERROR,
        "code": refusal.code,
        "message": refusal.message,
        "param": refusal.param,
        "sequence_number": sequence_number,
    }
    return typed_event(ERROR, _encode(found))
