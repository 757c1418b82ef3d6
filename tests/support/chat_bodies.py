"""Request bodies for the tests of the wire: a minimal valid one, varied member by member."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.errors import InvalidRequest
from penstock.wire.chat import decode_chat

ABSENT = object()
USER = {"role": "user", "content": "Name the largest moon of Saturn."}


def body(**members: Any) -> bytes:
    """A valid body with `members` set over it; ABSENT takes one out."""
    whole = {"model": "gpt-5.4", "messages": [USER], **members}
    return json.dumps({name: value for name, value in whole.items() if value is not ABSENT}).encode()


def user(content: Any) -> list[dict[str, Any]]:
    """A conversation of one user message."""
    return [{"role": "user", "content": content}]


def function_tool(name: str = "f", **more: Any) -> dict[str, Any]:
    """A declared function."""
    return {"type": "function", "function": {"name": name, **more}}


def refusal(sent: bytes) -> InvalidRequest:
    """How `sent` is refused: always a 400."""
    with pytest.raises(InvalidRequest) as caught:
        decode_chat(sent)
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    return caught.value
