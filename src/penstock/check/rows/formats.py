"""H: structured output."""

from __future__ import annotations

import json
from typing import Any

from penstock.check.ask import Ask, Members, user
from penstock.check.row import Row, outcome, refuses, values
from penstock.check.rows.tools import WEATHER
from penstock.check.schema import complaint
from penstock.check.verdict import (
    Failed,
    content_of,
    expect,
    first_choice,
    message_of,
    refuse_lack,
    refused,
    served,
    show,
    supported,
)

ROOM = 240

SCHEMA: Members = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "enum": ["report", "note"]},
        "author": {"$ref": "#/$defs/person"},
        "parent": {"anyOf": [{"$ref": "#/$defs/person"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["red", "blue"]}},
        "draft": {"type": "boolean"},
    },
    "required": ["title", "author", "parent", "tags", "draft"],
    "additionalProperties": False,
    "$defs": {
        "person": {
            "type": "object",
            "properties": {"name": {"type": "string", "enum": ["Ann", "Bob"]}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}
_ASKED = user("Describe a short report by Ann as JSON.")


def schema_format(schema: Members = SCHEMA, **members: Any) -> Members:
    """A response_format of a schema."""
    return {"type": "json_schema", "json_schema": {"name": "report", "strict": True, "schema": schema, **members}}


def parsed(text: str) -> Any:
    """JSON that a model wrote."""
    try:
        return json.loads(text)
    except ValueError:
        raise Failed(f"the content is not JSON: {show(text)}") from None


def _keeps(text: str) -> None:
    wrong = complaint(parsed(text), SCHEMA)
    expect(wrong is None, f"{wrong}: {show(text)}")


async def _object(ask: Ask) -> None:
    body = supported(await ask.chat(tokens=ROOM, response_format={"type": "json_object"}, messages=_ASKED))
    finish = first_choice(body).get("finish_reason")
    if finish == "length":
        return
    value = parsed(content_of(body))
    expect(isinstance(value, dict), f"the content is {show(value)}")


async def _unsaid(ask: Ask) -> str:
    return outcome(await ask.chat(response_format={"type": "json_object"}))


async def _schema(ask: Ask) -> None:
    _keeps(content_of(supported(await ask.chat(tokens=ROOM, response_format=schema_format(), messages=_ASKED))))


async def _wrong_formats(ask: Ask) -> None:
    refuse_lack(await ask.chat(tokens=ROOM, response_format=schema_format(), messages=_ASKED))
    nameless = {"schema": SCHEMA, "strict": True}
    for wanted in (
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": nameless},
        schema_format(name="x" * 65),
        schema_format(name="a b"),
    ):
        refused(await ask.chat(response_format=wanted, messages=_ASKED), what=show(wanted)[:80])


async def _loose(ask: Ask) -> str:
    loose = {"type": "object", "properties": {"title": {"type": "string"}}}
    return outcome(await ask.chat(response_format=schema_format(loose), messages=_ASKED))


async def _streamed(ask: Ask) -> None:
    stream = await ask.stream(tokens=ROOM, response_format=schema_format(), messages=_ASKED)
    _keeps(stream.text())
    expect(stream.finishes() == ["stop"], f"finish_reason is {show(stream.finishes())}")


async def _cut(ask: Ask) -> None:
    body = supported(await ask.chat(tokens=3, response_format=schema_format(), messages=_ASKED))
    finish = first_choice(body).get("finish_reason")
    expect(finish == "length", f"finish_reason is {show(finish)}")


async def _with_tools(ask: Ask) -> None:
    members: Members = {"response_format": schema_format(), "tools": [WEATHER], "messages": _ASKED}
    body = supported(await ask.chat(tokens=ROOM, **members))
    message = message_of(body)
    if message.get("tool_calls"):
        for call in message["tool_calls"]:
            parsed(call["function"]["arguments"])
    elif first_choice(body).get("finish_reason") != "length":
        _keeps(content_of(body))


async def _text(ask: Ask) -> None:
    served(await ask.chat(response_format={"type": "text"}))


ROWS = (
    Row(
        "H01",
        "S",
        "response_format text",
        "200",
        "it is the default, and SDKs send it",
        "typed SDKs",
        _text,
    ),
    Row(
        "H02",
        "S",
        "response_format json_object",
        "content that parses to an object",
        "applications parse without a look",
        "LangChain's JSON mode",
        _object,
    ),
    Row(
        "H03",
        "P",
        'json_object without the word "json" in a message',
        "400 as at OpenAI, or accepted",
        "OpenAI asks for the word so that the model does not write white space for ever",
        "applications that are moved from one server to another",
        _unsaid,
    ),
    Row(
        "H04",
        "S",
        "json_schema, strict: nested, enum, $ref, anyOf with null, an array",
        "content that keeps the schema",
        "applications decode into types",
        "openai-python's and openai-node's parse, Vercel's generateObject",
        _schema,
    ),
    Row(
        "H05",
        "S",
        "json_schema without json_schema, without a name, with a name of 65 characters or a space",
        "400",
        "a 5xx would be repeated; what is accepted here fails elsewhere",
        "all SDKs retry a 5xx",
        _wrong_formats,
    ),
    Row(
        "H06",
        "P",
        "a strict schema without additionalProperties: false",
        "400 as at OpenAI, or accepted",
        "strict promises what such a schema does not say",
        "pydantic models that are sent as they are",
        _loose,
    ),
    Row(
        "H07",
        "O",
        'response_format of type "object" and "sound", and as a string',
        "400",
        "a format that is dropped silently gives prose",
        "applications with a misspelt format",
        refuses(*values("response_format", {"type": "object"}, {"type": "sound"}, "json_object")),
    ),
    Row(
        "H08",
        "S",
        "json_schema, streamed",
        "deltas that make up what keeps the schema; finish_reason stop",
        "user interfaces fill in while it comes",
        "Vercel's streamObject",
        _streamed,
    ),
    Row(
        "H09",
        "M",
        "json_schema, cut by the limit",
        "finish_reason length",
        "half an object must be known as one",
        "openai-python's parse raises LengthFinishReasonError by it",
        _cut,
    ),
    Row(
        "H10",
        "S",
        "json_schema and tools",
        "a call, or content that keeps the schema",
        "agents with a typed final answer send both",
        "pydantic-ai, openai-agents",
        _with_tools,
    ),
)
