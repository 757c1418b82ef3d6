"""Messages of every documented shape are taken, and what is wrong with others is said by place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.wire.chat import decode_chat
from penstock.wire.messages import Image, Message, Text
from support.chat_bodies import USER, body, refusal, user

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
PNG = "data:image/png;base64,iVBORw0KGgo="


def call(identity: str, name: str = "f", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def assistant(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls), **more}


def reply(identity: str, content: Any = "done") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content}


def decoded(messages: list[dict[str, Any]]) -> tuple[Message, ...]:
    return decode_chat(body(messages=messages)).messages()


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([{"role": "developer", "content": "x"}], id="E05-developer"),
        pytest.param([{"role": "system", "content": "x"}], id="E05-system"),
        pytest.param([{"role": "user", "content": "x"}], id="E05-user"),
        pytest.param([{"role": "assistant", "content": "x"}], id="E05-assistant"),
        pytest.param([assistant(call("c")), reply("c")], id="E05-tool"),
        pytest.param([{"role": "function", "name": "f", "content": "x"}], id="E05-function"),
        pytest.param([{"role": "developer", "content": "x"}, USER], id="E06"),
        pytest.param([{"role": "developer", "content": PARTS}], id="E08-developer"),
        pytest.param([{"role": "system", "content": PARTS}], id="E08-system"),
        pytest.param([{"role": "user", "content": PARTS}], id="E08-user"),
        pytest.param([{"role": "assistant", "content": PARTS}], id="E08-assistant"),
        pytest.param([assistant(call("c")), reply("c", PARTS)], id="E08-tool"),
        pytest.param([{"role": "function", "name": "f", "content": PARTS}], id="E08-function"),
        pytest.param([USER, assistant(call("c"), content=None), reply("c")], id="E09"),
        pytest.param([assistant(call("c")), reply("c")], id="E10-absent"),
        pytest.param([assistant(call("c"), content=""), reply("c")], id="E10-empty-string"),
        pytest.param([assistant(call("c"), content=[]), reply("c")], id="E10-empty-array"),
        pytest.param(user(""), id="E12"),
        pytest.param(user([{"type": "image_url", "image_url": {"url": PNG}}]), id="E14"),
        pytest.param(user([{"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}]), id="E14-detail"),
        pytest.param(user([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}}]), id="E15"),
        pytest.param(user([{"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}}]), id="E17-audio"),
        pytest.param(user([{"type": "file", "file": {"file_data": "AA==", "filename": "a.pdf"}}]), id="E17-file"),
        pytest.param(user([{"type": "file", "file": {"file_id": "file-1"}}]), id="E17-file-id"),
        pytest.param([USER | {"name": "ann"}], id="E18-user"),
        pytest.param([{"role": "system", "content": "x", "name": "ann"}], id="E18-system"),
        pytest.param([{"role": "assistant", "content": "x", "name": "ann"}], id="E18-assistant"),
        pytest.param([{"role": "assistant", "content": "x", "tool_calls": []}], id="E22"),
        pytest.param([{"role": "assistant", "content": "x", "tool_calls": None}], id="E22-null"),
        pytest.param([{"role": "system", "content": "x"}, {"role": "system", "content": "y"}, USER], id="E23-system"),
        pytest.param([USER, {"role": "system", "content": "x"}], id="E23-system-last"),
        pytest.param([USER, USER], id="E23-two-users"),
        pytest.param([{"role": "assistant", "content": "x"}, USER], id="E23-assistant-first"),
        pytest.param([USER, {"role": "assistant", "content": "x"}], id="E23-assistant-last"),
        pytest.param(
            [{"role": "assistant", "content": [PARTS[0], {"type": "refusal", "refusal": "no"}]}, USER], id="E24"
        ),
        pytest.param([{"role": "assistant", "content": None, "reasoning_content": "so"}, USER], id="E25-reasoning"),
        pytest.param([USER | {"cache_control": {"type": "ephemeral"}}], id="E25-in-a-message"),
        pytest.param(user([PARTS[0] | {"cache_control": {"type": "ephemeral"}}]), id="E25-in-a-part"),
        pytest.param(
            [
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": None},
            ],
            id="E28",
        ),
        pytest.param([assistant(call("c")), reply("c", "")], id="G18-empty-string"),
        pytest.param([assistant(call("c"), call("d")), reply("d"), reply("c")], id="G18-two-results"),
        pytest.param([assistant(call("c"), call("d")), reply("c"), reply("c"), reply("d")], id="G18-one-comes-twice"),
        pytest.param([assistant(call("c")), reply("c"), assistant(call("c")), reply("c")], id="G18-same-id-later"),
        pytest.param([assistant(call("call:ö/1")), reply("call:ö/1")], id="G09"),
        pytest.param([assistant(call("c", arguments='{"city": "Zürich \\u00e9"}')), reply("c")], id="G19"),
        pytest.param([assistant(call("c", arguments="not json")), reply("c")], id="G19-arguments-are-any-text"),
        pytest.param(
            [assistant({"id": "c", "type": "custom", "custom": {"name": "t", "input": "x"}}), reply("c")], id="G17"
        ),
    ],
)
def test_documented_messages_are_accepted(messages: list[dict[str, Any]]) -> None:
    assert [message.role for message in decoded(messages)] == [message["role"] for message in messages]


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        pytest.param([], "messages", "empty_array", id="E02"),
        pytest.param("x", "messages", "invalid_type", id="E03-string"),
        pytest.param(None, "messages", "invalid_type", id="E03-null"),
        pytest.param([123], "messages[0]", "invalid_type", id="E03-number"),
        pytest.param([{}], "messages[0].role", "missing_required_parameter", id="E03-empty"),
        pytest.param([{"role": 123}], "messages[0].role", "invalid_type", id="E03-role"),
        pytest.param([{"role": "system", "content": 123}], "messages[0].content", "invalid_type", id="E03-content"),
        pytest.param([{"role": "user"}], "messages[0].content", "missing_required_parameter", id="E03-no-content"),
        pytest.param([USER, {"role": "banana", "content": "x"}], "messages[1].role", "invalid_value", id="E07"),
        pytest.param([{"role": "banana", "content": "x"}], "messages[0].role", "invalid_value", id="E07-first"),
        pytest.param(user(None), "messages.[0].content", None, id="E11"),
        pytest.param([USER, {"role": "system", "content": None}], "messages.[1].content", None, id="E11-system"),
        pytest.param(user([{"type": "banana"}]), "messages[0].content[0].type", "invalid_value", id="E13"),
        pytest.param(user([{"text": "x"}]), "messages[0].content[0].type", "missing_required_parameter", id="E13-none"),
        pytest.param(user([PARTS[0], "x"]), "messages[0].content[1]", "invalid_type", id="E13-string"),
        pytest.param(user([{"type": "text", "text": 1}]), "messages[0].content[0].text", "invalid_type", id="E13-text"),
        pytest.param(
            user([{"type": "image_url", "image_url": {"url": PNG, "detail": "max"}}]),
            "messages[0].content[0].image_url.detail",
            "invalid_value",
            id="E14-detail",
        ),
        pytest.param(
            user([{"type": "image_url", "image_url": PNG}]),
            "messages[0].content[0].image_url",
            "invalid_type",
            id="E16",
        ),
        pytest.param(
            user([{"type": "input_audio", "input_audio": {"data": "AA==", "format": "ogg"}}]),
            "messages[0].content[0].input_audio.format",
            "invalid_value",
            id="E17",
        ),
        pytest.param([USER | {"name": 5}], "messages[0].name", "invalid_type", id="E18"),
        pytest.param(
            [assistant(call("c")), {"role": "tool", "content": "x"}],
            "messages[1].tool_call_id",
            "missing_required_parameter",
            id="E19",
        ),
        pytest.param([reply("c")], "messages.[0].role", None, id="E20-first"),
        pytest.param([USER, reply("c")], "messages.[1].role", None, id="E20-after-user"),
        pytest.param(
            [USER, assistant(call("c")), reply("c"), USER, reply("c")], "messages.[4].role", None, id="E20-too-late"
        ),
        pytest.param([{"role": "assistant", "content": "x"}, reply("c")], "messages.[1].role", None, id="E20-no-calls"),
        pytest.param(
            [USER | {"tool_calls": [call("c")]}, reply("c")], "messages.[1].role", None, id="E20-calls-of-a-user"
        ),
        pytest.param([assistant(call("c")), reply("d")], "messages.[1].tool_call_id", None, id="E20-other-id"),
        pytest.param([USER, assistant(call("c"))], "messages.[1].role", None, id="E21-at-the-end"),
        pytest.param([USER, assistant(call("c")), USER], "messages.[1].role", None, id="E21-user-follows"),
        pytest.param([assistant(call("c"), call("d")), reply("c")], "messages.[0].role", None, id="E21-one-of-two"),
        pytest.param(
            [assistant(call("c")), assistant(call("d")), reply("d")], "messages.[0].role", None, id="E21-two-in-a-row"
        ),
        pytest.param(
            [{"role": "function", "content": "x"}], "messages[0].name", "missing_required_parameter", id="E28"
        ),
        pytest.param(
            [assistant(call("c", arguments={"a": 1})), reply("c")],
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
            id="G01-arguments-as-an-object",
        ),
        pytest.param(
            [assistant({"id": "c", "type": "x"}), reply("c")],
            "messages[0].tool_calls[0].type",
            "invalid_value",
            id="G17-other-type",
        ),
    ],
)
def test_other_messages_are_refused_by_place(messages: Any, param: str, code: str | None) -> None:
    caught = refusal(body(messages=messages))
    assert (caught.param, caught.code) == (param, code)


def test_the_ids_without_a_reply_are_listed() -> None:
    calls = [call(f"call_{number}") for number in range(4)]
    caught = refusal(body(messages=[assistant(*calls), reply("call_1")]))
    assert caught.message.endswith("did not have response messages: call_0, call_2, call_3")


def test_an_unsupported_role_is_answered_with_those_supported() -> None:
    caught = refusal(body(messages=[{"role": "banana", "content": "x"}]))
    assert caught.message == (
        "Invalid value: 'banana'. Supported values are: "
        "'developer', 'system', 'user', 'assistant', 'tool', and 'function'."
    )


def test_what_a_template_needs_is_decoded() -> None:
    messages = decoded(
        [
            {"content": [PARTS[0], {"type": "image_url", "image_url": {"url": PNG}}], "role": "user", "name": "ann"},
            assistant(call("c", "weather", '{"a":1}'), content=None),
            reply("c", "sunny"),
        ]
    )
    assert isinstance(messages[0].content, tuple)
    assert isinstance(messages[0].content[0], Text)
    assert isinstance(messages[0].content[1], Image)
    assert messages[0].name == "ann"
    assert messages[1].content is None
    assert messages[1].tool_calls is not None
    assert messages[1].tool_calls[0].id == "c"
    assert (messages[2].role, messages[2].tool_call_id, messages[2].content) == ("tool", "c", "sunny")


def test_a_message_encodes_to_its_wire_form() -> None:
    sent = [assistant(call("c")), reply("c"), USER]
    assert msgspec.json.decode(msgspec.json.encode(decoded(sent))) == sent
