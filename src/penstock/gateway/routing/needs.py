"""What a request needs of whoever answers it, and why a target may not do."""

from __future__ import annotations

from penstock.providers.base import AnyRequest
from penstock.types import Target
from penstock.wire.chat import ChatRequest
from penstock.wire.estimate import BYTES_PER_TOKEN
from penstock.wire.messages import Audio, File, Image
from penstock.wire.params import JSONObjectFormat, JSONSchemaFormat

_MEDIA = {Image: "images", Audio: "audio", File: "files"}


def needs(asked: AnyRequest) -> frozenset[str]:
    """The abilities that the request takes, by the names that a target's `lacks` uses."""
    if not isinstance(asked, ChatRequest):
        return frozenset((asked.endpoint,))
    found = {"tools"} if asked.tools or asked.functions else set()
    if isinstance(asked.response_format, JSONSchemaFormat):
        found.add("schema")
    elif isinstance(asked.response_format, JSONObjectFormat):
        found.add("json")
    for message in asked.messages():
        if isinstance(message.content, tuple):
            found.update(_MEDIA[type(part)] for part in message.content if type(part) in _MEDIA)
    return frozenset(found)


def unsuited(asked: AnyRequest, needed: frozenset[str], target: Target) -> str:
    """Why the target cannot answer this; empty if it can, as far as is known."""
    lacking = needed.intersection(target.lacks)
    if lacking:
        return f"it lacks {', '.join(sorted(lacking))}"
    # Half of the usual guess: a request must not be kept from a target that could have held it.
    least = len(asked.body) // (2 * BYTES_PER_TOKEN)
    if target.context is not None and least > target.context:
        return f"it holds {target.context} tokens, the request is at least {least}"
    return ""
