"""What OpenAI refuses inside of messages and tools, whatever the model: what is no image, what is no strict schema.

Only what its document and its refusals leave no doubt about; an image is known by its first bytes, and is not decoded.
The rules stand beside those of `strict`, and are called like them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from penstock.fake_upstream.script import Fault

_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")


def images(profile: object, data: dict[str, Any]) -> Fault | None:
    """The fault of the first image that a data URL holds and that is none."""
    for place, url in _urls(data.get("messages") or ()):
        if url.startswith("data:") and not _is_image(url):
            message = "Invalid base64 image_url: the data is not a valid image in a supported format."
            return Fault(message, param=place, code="invalid_base64")
    return None


def _urls(messages: Any) -> Iterator[tuple[str, str]]:
    for number, message in enumerate(messages):
        content = message.get("content")
        for at, part in enumerate(content if isinstance(content, list) else ()):
            image = part.get("image_url")
            if isinstance(image, dict) and isinstance(image.get("url"), str):
                yield f"messages[{number}].content[{at}].image_url", image["url"]


def _is_image(url: str) -> bool:
    head, _, text = url.partition(",")
    try:
        return head.endswith(";base64") and base64.b64decode(text, validate=True).startswith(_IMAGES)
    except binascii.Error:
        return False


def strict_functions(profile: object, data: dict[str, Any]) -> Fault | None:
    """The fault of the first strict function whose parameters allow what they do not name."""
    for number, tool in enumerate(data.get("tools") or ()):
        function = tool.get("function")
        if not isinstance(function, dict) or function.get("strict") is not True:
            continue
        if (function.get("parameters") or {}).get("additionalProperties") is not False:
            message = (
                f"Invalid schema for function '{function.get('name')}': In context=(), 'additionalProperties' is "
                "required to be supplied and to be false."
            )
            return Fault(message, param=f"tools[{number}].function.parameters", code="invalid_function_parameters")
    return None
