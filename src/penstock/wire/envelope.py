"""The error envelope: a refusal in the form that every OpenAI client reads."""

from __future__ import annotations

import msgspec

from penstock.errors import Refusal


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class _Envelope(msgspec.Struct):
    error: _Error


_ENCODER = msgspec.json.Encoder()


def envelope(refusal: Refusal) -> bytes:
    """The body of an error answer."""
    return _ENCODER.encode(_Envelope(_Error(refusal.message, refusal.type, refusal.param, refusal.code)))


def error_event(refusal: Refusal) -> bytes:
    """The same as an event of a stream. Under ``event: error`` the official SDKs would not see it."""
    return b"data: " + envelope(refusal) + b"\n\n"
