"""A message whose role is replaced keeps everything else, and the others keep every byte."""

from __future__ import annotations

import msgspec

from penstock.wire.chat import decode_chat
from penstock.wire.members import split
from penstock.wire.roles import rename_roles

MESSAGES = (
    b'[ {"role": "developer", "content": "caf\\u00e9 1.50", "x_extra": [1.50e2, {"role":"developer"}]},'
    b' { "content" :"\\u00e9", "role":"user"} , {"role":"system","content":"s"}]'
)


def renamed(roles: dict[str, str]) -> bytes:
    body = b'{"model":"m","messages":' + MESSAGES + b"}"
    decode_chat(body)
    renamed = rename_roles(split(body)["messages"], roles)
    assert renamed is not None
    return renamed


def test_only_the_role_changes() -> None:
    before, after = msgspec.json.decode(MESSAGES), msgspec.json.decode(renamed({"developer": "system"}))
    assert [message.pop("role") for message in after] == ["system", "user", "system"]
    for message in before:
        del message["role"]
    assert after == before


def test_values_and_other_messages_keep_their_bytes() -> None:
    found = renamed({"developer": "system"})
    assert b'"caf\\u00e9 1.50"' in found
    assert b'[1.50e2, {"role":"developer"}]' in found
    assert b'{ "content" :"\\u00e9", "role":"user"}' in found


def test_several_roles_may_be_replaced_by_one() -> None:
    found = msgspec.json.decode(renamed({"developer": "user", "system": "user"}))
    assert {message["role"] for message in found} == {"user"}
