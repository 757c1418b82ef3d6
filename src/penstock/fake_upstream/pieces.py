"""The pieces that a body is made of: bytes, and the wait before them."""

from __future__ import annotations

import msgspec

Wait = float | str


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Bytes of a body, sent after `wait`."""

    data: bytes
    wait: Wait = 0.0


def event(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + data + b"\n\n"
