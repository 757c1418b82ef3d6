"""What OpenAI refuses inside of messages, tools and formats, whatever the model: what is no image, no strict schema.

Only what its document and its refusals leave no doubt about; an image is known by its first bytes, and is not decoded.
The rules stand beside those of `strict`, and are called like them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from penstock.fake_upstream.script import Fault
from penstock.fake_upstream.shapes import texts

_OPEN = "In context=(), 'additionalProperties' is required to be supplied and to be false."
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


def audio(profile: object, data: dict[str, Any]) -> Fault | None:
    """The fault of audio that is asked for or given: these models read text and images, and write text."""
    if "audio" in (data.get("modalities") or ()):
        message = "Unsupported value: 'modalities' does not support 'audio' with this model."
        return Fault(message, param="modalities", code="unsupported_value")
    for number, message in enumerate(data.get("messages") or ()):
        content = message.get("content")
        for at, part in enumerate(content if isinstance(content, list) else ()):
            if part.get("type") == "input_audio":
                words = "Invalid content type. input_audio is only supported by certain models."
                return Fault(words, param=f"messages[{number}].content[{at}].type")
    return None


def json_mode(profile: object, data: dict[str, Any]) -> Fault | None:
    """The fault of a conversation that is to be answered in JSON and does not say so."""
    if (data.get("response_format") or {}).get("type") != "json_object":
        return None
    if any("json" in text.lower() for text in texts(data["messages"])):
        return None
    message = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
    return Fault(message, param="messages")


def strict_format(profile: object, data: dict[str, Any]) -> Fault | None:
    """The fault of a strict format whose schema allows what it does not name."""
    wanted = (data.get("response_format") or {}).get("json_schema")
    if not wanted or wanted.get("strict") is not True or _is_closed(wanted.get("schema")):
        return None
    return Fault(f"Invalid schema for response_format '{wanted.get('name')}': {_OPEN}", param="response_format")


def strict_functions(profile: object, data: dict[str, Any]) -> Fault | None:
    """The fault of the first strict function whose parameters allow what they do not name."""
    for number, tool in enumerate(data.get("tools") or ()):
        function = tool.get("function")
        if not isinstance(function, dict) or function.get("strict") is not True:
            continue
        if not _is_closed(function.get("parameters")):
            message = f"Invalid schema for function '{function.get('name')}': {_OPEN}"
            return Fault(message, param=f"tools[{number}].function.parameters", code="invalid_function_parameters")
    return None


def _is_closed(schema: dict[str, Any] | None) -> bool:
    return (schema or {}).get("additionalProperties") is False
