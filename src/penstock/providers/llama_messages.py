"""Messages of any history in forms that chat templates accept, from the most faithful to the most modest.

Templates in the field raise on what they do not know: a second system message, two turns of one role in a row, an
answer at the start, a tool's result. No list of templates would ever be whole, so the forms are tried in order until
the model's own template takes one. Nothing the caller wrote is dropped in any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from penstock.errors import InvalidRequest
from penstock.wire.chat import ChatRequest
from penstock.wire.messages import CustomCall, Declined, Message, Text

CONTINUING = ("continue_final_message", "add_generation_prompt")

Turn = dict[str, Any]
Form = Callable[[Sequence[Message]], list[Turn]]

_ROLES = {"developer": "system", "function": "tool"}


class _Continuing(msgspec.Struct):
    continue_final_message: Any = None


_decode_continuing = msgspec.json.Decoder(_Continuing).decode


def begun(chat: ChatRequest) -> str | None:
    """The text that the answer is to go on from, None where it is a new one; raises InvalidRequest where it cannot.

    `add_generation_prompt`, which vLLM wants to be false beside it, is not looked at.
    """
    if "continue_final_message" not in chat.unknown or not _decode_continuing(chat.body).continue_final_message:
        return None
    last = chat.messages()[-1]
    if last.role != "assistant" or not isinstance(last.content, str) or _calls(last):
        raise InvalidRequest(
            "'continue_final_message' takes a last message of the assistant's, with text and nothing else.",
            param="messages",
        )
    return last.content


def refuse_media(messages: Sequence[Message]) -> None:
    """Raise InvalidRequest for the first part that is not text: this engine reads nothing else."""
    for at, message in enumerate(messages):
        if message.content is None or isinstance(message.content, str):
            continue
        for place, part in enumerate(message.content):
            if not isinstance(part, Text | Declined):
                raise InvalidRequest(
                    f"This model reads text only: content of type '{part.__struct_config__.tag}' is not supported.",
                    param=f"messages.[{at}].content.[{place}].type",
                    code="unsupported_parameter",
                )


def as_sent(messages: Sequence[Message]) -> list[Turn]:
    """Each message by itself: parts joined, and newer and deprecated names made into those that templates know."""
    turns: list[Turn] = []
    for message in messages:
        turn: Turn = {"role": _ROLES.get(message.role, message.role), "content": _text(message)}
        if calls := _calls(message):
            turn["tool_calls"] = calls
        if turn["role"] == "tool":
            turn["tool_call_id"] = message.tool_call_id or message.name
        if message.name:
            turn["name"] = message.name
        turns.append(turn)
    return turns


def alternating(messages: Sequence[Message]) -> list[Turn]:
    """One system message at most and first, then user and assistant in turn; calls and results as text."""
    system: list[str] = []
    turns: list[Turn] = []
    spoken: list[str] = []
    for message in messages:
        role = _ROLES.get(message.role, message.role)
        text = _text(message)
        if role == "system":
            system.append(text)
            continue
        if role == "tool":
            role, text = "user", f"<tool_response>\n{text}\n</tool_response>"
        text = "\n".join(filter(None, [text, *map(_call_text, _calls(message))]))
        if not turns or turns[-1]["role"] != role:
            spoken = []
            turns.append({"role": role, "content": spoken})
        spoken.append(text)
    for turn in turns:
        turn["content"] = "\n\n".join(turn["content"])
    if not turns or turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": ""})
    return [{"role": "system", "content": "\n\n".join(system)}, *turns] if system else turns


def alternating_without_system(messages: Sequence[Message]) -> list[Turn]:
    """The same with the system message at the head of the first user turn, for templates that have no such role."""
    turns = alternating(messages)
    if turns[0]["role"] != "system":
        return turns
    system, first, *rest = turns
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


FORMS: tuple[Form, ...] = (as_sent, alternating, alternating_without_system)


def _text(message: Message) -> str:
    content = message.content
    if content is None or isinstance(content, str):
        return content or message.refusal or ""
    texts = [
        part.refusal if isinstance(part, Declined) else part.text
        for part in content
        if isinstance(part, Text | Declined)
    ]
    return "\n".join(texts)


def _calls(message: Message) -> list[Turn]:
    """The calls of an assistant's message, all as function calls: the text of a custom one is its only argument."""
    calls: list[Turn] = []
    for call in message.tool_calls or ():
        if isinstance(call, CustomCall):
            arguments = msgspec.json.encode({"input": call.custom.input}).decode()
            calls.append(_call(call.id, call.custom.name, arguments))
        else:
            calls.append(_call(call.id, call.function.name, call.function.arguments))
    if called := message.function_call:
        calls.append(_call(called.name, called.name, called.arguments))
    return calls


def _call(call_id: str, name: str, arguments: str) -> Turn:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _call_text(call: Turn) -> str:
    name = msgspec.json.encode(call["function"]["name"]).decode()
    return f'<tool_call>\n{{"name": {name}, "arguments": {call["function"]["arguments"]}}}\n</tool_call>'
