"""The messages of a conversation: their shapes by role, and the order that tool calls impose on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import msgspec

from penstock.errors import InvalidRequest


class Text(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="text"):
    """A piece of text; the pieces of one message read as one text."""

    text: str


class ImageLocation(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`url` is an http(s) or a data: URL."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class Image(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="image_url"):
    """A picture to look at."""

    image_url: ImageLocation


class Recording(msgspec.Struct, frozen=True, gc=False):
    """`data` is base64."""

    data: str
    format: Literal["wav", "mp3"]


class Audio(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="input_audio"):
    """Sound to listen to."""

    input_audio: Recording


class FileContent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`file_data` is base64 or a data: URL; `file_id` names an uploaded file."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class File(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="file"):
    """A document to read."""

    file: FileContent


class Declined(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="refusal"):
    """What the model said when it refused."""

    refusal: str


Part = Text | Image | Audio | File | Declined
Content = str | tuple[Part, ...]


class CalledFunction(msgspec.Struct, frozen=True, gc=False):
    """`arguments` is a string of JSON, as the model wrote it: perhaps not valid JSON."""

    name: str
    arguments: str


class CalledCustom(msgspec.Struct, frozen=True, gc=False):
    """`input` is free text."""

    name: str
    input: str


class FunctionCall(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="function"):
    """The model called a function."""

    id: str
    function: CalledFunction


class CustomCall(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="custom"):
    """The model called a custom tool."""

    id: str
    custom: CalledCustom


ToolCall = FunctionCall | CustomCall


class Message(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What every role has. A name that no role documents is not kept here: the original bytes carry it on.

    Encoded again, a message is in OpenAI's form, with its role and without what is null.
    """

    role: ClassVar[str]

    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None


class Developer(Message, frozen=True, gc=False, kw_only=True, tag_field="role", tag="developer"):
    """Instructions of the application; what newer models have in place of system."""

    role: ClassVar[str] = "developer"
    content: Content


class System(Message, frozen=True, gc=False, kw_only=True, tag_field="role", tag="system"):
    """Instructions of the application."""

    role: ClassVar[str] = "system"
    content: Content


class User(Message, frozen=True, gc=False, kw_only=True, tag_field="role", tag="user"):
    """What the end user says."""

    role: ClassVar[str] = "user"
    content: Content


class Assistant(Message, frozen=True, gc=False, kw_only=True, tag_field="role", tag="assistant"):
    """What the model said. Its content may be null: tool calls, audio, reasoning or a refusal stand for it."""

    role: ClassVar[str] = "assistant"


class Tool(Message, frozen=True, gc=False, kw_only=True, tag_field="role", tag="tool"):
    """The result of one tool call."""

    role: ClassVar[str] = "tool"
    content: Content
    tool_call_id: str


class Function(Message, frozen=True, gc=False, kw_only=True, tag_field="role", tag="function"):
    """The result of a deprecated function call."""

    role: ClassVar[str] = "function"
    name: str


AnyMessage = Developer | System | User | Assistant | Tool | Function


def check_order(messages: Sequence[Message]) -> None:
    """Refuse a tool's reply to no call, and calls that no reply follows.

    The replies to an assistant message's calls are the tool messages right after it, in any order.
    """
    unanswered: dict[str, None] = {}
    called: frozenset[str] = frozenset()
    caller = 0
    for index, message in enumerate(messages):
        if message.role == "tool":
            _check_reply(message, index, called)
            unanswered.pop(message.tool_call_id or "", None)
            continue
        if unanswered:
            break
        called = frozenset()
        if message.tool_calls and message.role == "assistant":
            unanswered = dict.fromkeys(call.id for call in message.tool_calls)
            called = frozenset(unanswered)
            caller = index
    if unanswered:
        raise InvalidRequest(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {_listed(unanswered)}",
            param=f"messages.[{caller}].role",
        )


def _check_reply(message: Message, index: int, called: frozenset[str]) -> None:
    if not called:
        raise InvalidRequest(
            # "preceeding" is how the hosted API spells it, and clients look for its text.
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
            "with 'tool_calls'.",
            param=f"messages.[{index}].role",
        )
    if message.tool_call_id not in called:
        raise InvalidRequest(
            "Invalid parameter: 'tool_call_id' does not match any 'tool_calls' of the preceding assistant message.",
            param=f"messages.[{index}].tool_call_id",
        )


def _listed(ids: dict[str, None], most: int = 8) -> str:
    """At most `most` ids, each cut to 64 characters: they are the caller's text."""
    shown = ", ".join(one[:64] for one in list(ids)[:most])
    return shown if len(ids) <= most else f"{shown} and {len(ids) - most} more"
