"""Gives messages another role while all else keeps its bytes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class _Message(msgspec.Struct, frozen=True, gc=False):
    role: str


_roles = msgspec.json.Decoder(list[_Message])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def may_have(body: bytes, roles: Mapping[str, str]) -> bool:
    """Whether a message of the request may have one of these roles: what of it is seen without decoding anything."""
    return b"\\u" in body or any(role.encode() in body for role in roles)


def rename_roles(raw: msgspec.Raw, roles: Mapping[str, str]) -> bytes | None:
    """The list of messages with each role that `roles` names replaced, None where no message has one of these.

    A message that keeps its role keeps its bytes; of one that does not, every other member does.
    """
    messages = _roles.decode(raw)
    if roles.keys().isdisjoint(message.role for message in messages):
        return None
    found = _list.decode(raw)
    for place, message in enumerate(messages):
        role = roles.get(message.role)
        if role is not None:
            members = _members.decode(found[place])
            members["role"] = msgspec.Raw(_encode(role))
            found[place] = msgspec.Raw(_encode(members))
    return _encode(found)
