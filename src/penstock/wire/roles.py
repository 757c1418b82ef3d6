"""Gives messages another role while all else keeps its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from penstock.wire.messages import Message

_list = msgspec.json.Decoder(list[msgspec.Raw])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def rename_roles(raw: msgspec.Raw, messages: Sequence[Message], roles: Mapping[str, str]) -> bytes:
    """The list `raw`, whose messages were decoded as `messages`, with each role that `roles` names replaced.

    A message that keeps its role keeps its bytes; of one that does not, every other member does.
    """
    found = _list.decode(raw)
    for place, message in enumerate(messages):
        role = roles.get(message.role)
        if role is not None:
            members = _members.decode(found[place])
            members["role"] = msgspec.Raw(_encode(role))
            found[place] = msgspec.Raw(_encode(members))
    return _encode(found)
