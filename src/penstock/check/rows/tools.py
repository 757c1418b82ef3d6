"""G: tools."""

from __future__ import annotations

import json
from typing import Any

from penstock.check.ask import Ask, Members, user
from penstock.check.row import Row, outcome, refuses, tells
from penstock.check.rows.messages import CALL, TOOL_RESULT, calling, talk
from penstock.check.schema import complaint
from penstock.check.verdict import (
    Failed,
    Skipped,
    Verdict,
    expect,
    first_choice,
    message_of,
    quote,
    refuse_lack,
    refused,
    served,
    show,
    summary,
    supported,
)

ROOM = 96  # tokens for a call

SCHEMA: Members = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
_UNICODE = "Zürich 漢 \U0001f30d"


def function(name: str = "weather", **members: Any) -> Members:
    """A declared function."""
    whole = {"name": name, "description": "The weather in a city.", "parameters": SCHEMA, **members}
    return {"type": "function", "function": {key: value for key, value in whole.items() if value is not None}}


WEATHER = function()
ASKED = user("Call the function to find out the weather in Paris.")
FORCED: Members = {"tools": [WEATHER], "tool_choice": "required", "messages": ASKED}


def named(name: str) -> Members:
    """The choice of one function."""
    return {"type": "function", "function": {"name": name}}


def calls_of(body: Members, missing: type[Verdict] = Skipped) -> list[Members]:
    """The calls of a completion; that there are none is the failure of the row about it, and others cannot look."""
    message = message_of(body)
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        raise missing(f"no call came: content {quote(str(message.get('content')))}, tool_calls {show(calls)}")
    return calls


def arguments_of(call: Members) -> Any:
    """The arguments of a call, decoded; they must be a string of JSON."""
    arguments = call["function"].get("arguments")
    if not isinstance(arguments, str):
        raise Failed(f"arguments is {show(arguments)}: no string")
    try:
        return json.loads(arguments)
    except ValueError:
        raise Failed(f"arguments is not JSON: {show(arguments)}") from None


async def _required(ask: Ask) -> None:
    body = supported(await ask.chat(tokens=ROOM, **FORCED))
    for call in calls_of(body, Failed):
        expect(isinstance(call.get("id"), str) and call["id"], f"id is {show(call.get('id'))}")
        expect(call.get("type") == "function", f"type is {show(call.get('type'))}")
        expect(call["function"].get("name") == "weather", f"it calls {show(call['function'].get('name'))}")
        arguments_of(call)
    finish = first_choice(body).get("finish_reason")
    expect(finish == "tool_calls", f"finish_reason is {show(finish)}")


async def _named(ask: Ask) -> str:
    members: Members = {**FORCED, "tools": [WEATHER, function("other")], "tool_choice": named("other")}
    body = supported(await ask.chat(tokens=ROOM, **members))
    names = [call["function"].get("name") for call in calls_of(body)]
    return f"calls {', '.join(map(str, names))}, finish_reason {show(first_choice(body).get('finish_reason'))}"


async def _auto(ask: Ask) -> None:
    body = supported(await ask.chat(tokens=ROOM, tools=[WEATHER], tool_choice="auto", messages=ASKED))
    choice = first_choice(body)
    if not message_of(body).get("tool_calls"):
        raise Skipped("the model chose not to call the function")
    expect(choice.get("finish_reason") == "tool_calls", f"finish_reason is {show(choice.get('finish_reason'))}")


async def _none(ask: Ask) -> None:
    message = message_of(supported(await ask.chat(tools=[WEATHER], tool_choice="none", messages=ASKED)))
    expect(not message.get("tool_calls"), f"tool_calls is {show(message.get('tool_calls'))}")


async def _one_at_a_time(ask: Ask) -> None:
    calls = calls_of(supported(await ask.chat(tokens=ROOM, parallel_tool_calls=False, **FORCED)))
    expect(len(calls) == 1, f"{len(calls)} calls")


async def _ids(ask: Ask) -> None:
    body = supported(await ask.chat(tokens=ROOM, **FORCED))
    calls = calls_of(body)
    ids = [call.get("id") for call in calls]
    expect(all(ids) and len(set(ids)) == len(ids), f"the ids are {show(ids)}")
    results = [{"role": "tool", "tool_call_id": one, "content": "Sunny."} for one in ids]
    message = {"role": "assistant", "content": message_of(body).get("content"), "tool_calls": calls}
    served(await ask.chat(messages=[*ASKED, message, *results], tools=[WEATHER]), "sent back")


async def _names(ask: Ask) -> None:
    refuse_lack(await ask.chat(tools=[function("x" * 64)], messages=ASKED))
    served(await ask.chat(tools=[function("x" * 64)], messages=ASKED), "a name of 64 characters")
    for name in ("", "a b", "a.b", "x" * 65):
        refused(await ask.chat(tools=[function(name)], messages=ASKED), what=f'the name "{name[:20]}"')


async def _without_parameters(ask: Ask) -> None:
    members: Members = {**FORCED, "tools": [function(parameters=None)]}
    call = calls_of(supported(await ask.chat(tokens=ROOM, **members)))[0]
    arguments = arguments_of(call)
    expect(isinstance(arguments, dict), f"arguments is {show(arguments)}")


async def _strict(ask: Ask) -> None:
    members: Members = {**FORCED, "tools": [function(strict=True)]}
    for call in calls_of(supported(await ask.chat(tokens=ROOM, **members))):
        wrong = complaint(arguments_of(call), SCHEMA, where="arguments")
        expect(wrong is None, f"{wrong}: {show(call['function']['arguments'])}")


async def _loose_strict(ask: Ask) -> None:
    loose = {name: value for name, value in SCHEMA.items() if name != "additionalProperties"}
    answer = await ask.chat(tools=[function(strict=True, parameters=loose)], messages=ASKED)
    refuse_lack(answer)
    refused(answer, codes=("invalid_function_parameters",))


async def _wrong_schemas(ask: Ask) -> None:
    for schema in ({"type": 123}, {"type": "hiccup"}):
        refused(await ask.chat(tools=[function(parameters=schema)], messages=ASKED), what=show(schema))


async def _allowed(ask: Ask) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("other")]}}
    members: Members = {"tools": [WEATHER, function("other")], "tool_choice": choice, "messages": ASKED}
    for call in calls_of(supported(await ask.chat(tokens=ROOM, **members)), Failed):
        expect(call["function"].get("name") == "other", f"it calls {show(call['function'].get('name'))}")


async def _wrong_choices(ask: Ask) -> None:
    for choice in (named("missing"), "banana", {"type": "x"}):
        refused(await ask.chat(**{**FORCED, "tool_choice": choice}), what=show(choice))


async def _custom(ask: Ask) -> None:
    tool = {"type": "custom", "custom": {"name": "note", "description": "Takes a note.", "format": {"type": "text"}}}
    members: Members = {"tools": [tool], "tool_choice": {"type": "custom", "custom": {"name": "note"}}}
    for call in calls_of(supported(await ask.chat(tokens=ROOM, messages=user("Note: hello."), **members)), Failed):
        expect(call.get("type") == "custom", f"type is {show(call.get('type'))}")
        text = (call.get("custom") or {}).get("input")
        expect(isinstance(text, str), f"custom.input is {show(text)}")


async def _results(ask: Ask) -> None:
    second = {**CALL, "id": "call_2"}
    for what, content in (("a string", "42"), ("parts", [{"type": "text", "text": "42"}]), ("an empty string", "")):
        supported(await ask.chat(**talk(*ASKED, calling(), {**TOOL_RESULT, "content": content})), what)
    both_results = (TOOL_RESULT, {**TOOL_RESULT, "tool_call_id": "call_2"})
    supported(await ask.chat(**talk(*ASKED, calling(tool_calls=[CALL, second]), *both_results)), "two results")


async def _unicode(ask: Ask) -> None:
    schema = {**SCHEMA, "properties": {"city": {"type": "string", "enum": [_UNICODE]}}}
    members: Members = {
        "tools": [function(parameters=schema)],
        "tool_choice": "required",
        "messages": user(f"Call the function to find out the weather in {_UNICODE}."),
    }
    arguments = arguments_of(calls_of(supported(await ask.chat(tokens=ROOM, **members)))[0])
    city = arguments.get("city")
    expect(isinstance(city, str) and "�" not in city, f"city is {show(city)}")
    if city != _UNICODE:
        raise Skipped(f"the model asked for {show(city)}: that its text comes through was not seen")


async def _cut(ask: Ask) -> None:
    body = supported(await ask.chat(tokens=2, **FORCED))
    finish = first_choice(body).get("finish_reason")
    expect(finish == "length", f"finish_reason is {show(finish)}")


async def _many(ask: Ask) -> str:
    tools = [function(f"tool_{number}", parameters=None) for number in range(128)]
    answer = await ask.chat(tools=tools, tool_choice="none")
    if answer.status != 200:
        refuse_lack(answer)
        refused(answer)
    return outcome(answer)


async def _without_tools(ask: Ask) -> None:
    answer = await ask.chat(tool_choice="auto")
    expect(answer.status == 400, summary(answer))
    refused(answer)


ROWS = (
    Row(
        "G01",
        "M",
        "a function, tool_choice required",
        "tool_calls with id, type, name and arguments as a string of JSON; finish_reason tool_calls",
        "agents act on nothing else",
        "LangChain and Vercel's AI SDK fail on arguments that are an object",
        _required,
    ),
    Row(
        "G02",
        "P",
        "tool_choice that names one of two functions",
        "that function is called; finish_reason stop or tool_calls",
        "OpenAI says stop here, agents want tool_calls",
        "instructor, agents that look at finish_reason",
        _named,
    ),
    Row(
        "G03",
        "M",
        "tool_choice auto",
        "finish_reason tool_calls when the model calls",
        "agents stop at stop",
        "agents: the call is never made",
        _auto,
    ),
    Row(
        "G04",
        "S",
        "tool_choice none",
        "no call",
        "the last turn of an agent wants words",
        "agents that sum up",
        _none,
    ),
    Row(
        "G05",
        "O",
        "tool_choice without tools",
        "400",
        "the tools were lost on the way",
        "agents that filter their tools to none",
        _without_tools,
    ),
    Row(
        "G06",
        "O",
        "parallel_tool_calls without tools",
        "400",
        "the tools were lost on the way",
        "swarm-like frameworks that always send it",
        refuses({"parallel_tool_calls": True}),
    ),
    Row(
        "G07",
        "P",
        "tools: []",
        "as if absent, or 400",
        "frameworks send an empty list when there is none",
        "agent frameworks whose tools are optional",
        tells({"tools": []}, {"tools": [], "tool_choice": "auto"}, {"tools": [], "tool_choice": "required"}),
    ),
    Row(
        "G08",
        "S",
        "parallel_tool_calls: false",
        "one call",
        "some tools must not run beside others",
        "agents that edit files",
        _one_at_a_time,
    ),
    Row(
        "G09",
        "M",
        "the ids of calls, and the calls sent back with a result",
        "ids are there and differ; the history is accepted",
        "results are matched to calls by id",
        "every agent: the second turn fails",
        _ids,
    ),
    Row(
        "G10",
        "O",
        'functions named "", "a b", "a.b" and by 65 characters; by 64',
        "400; 200",
        "what one server takes the next refuses, in the middle of a conversation",
        "Home Assistant, Vercel's AI SDK, MCP clients with long names",
        _names,
    ),
    Row(
        "G11",
        "M",
        "a function without parameters",
        "arguments that are a JSON object",
        "clients parse the arguments of every call",
        "LangChain: JSON error on an empty string",
        _without_parameters,
    ),
    Row(
        "G12",
        "S",
        "a function with strict: true",
        "arguments that keep the schema",
        "applications rely on it without a check of their own",
        "openai-python's pydantic_function_tool",
        _strict,
    ),
    Row(
        "G13",
        "O",
        "strict: true without additionalProperties: false",
        "400, code invalid_function_parameters",
        "strict promises what such a schema does not say",
        "tools that are developed against one server and run on another",
        _loose_strict,
    ),
    Row(
        "G14",
        "M",
        'parameters of {"type": 123} and {"type": "hiccup"}',
        "400",
        "a 5xx for a caller's mistake is repeated by every SDK",
        "all SDKs retry a 5xx",
        _wrong_schemas,
    ),
    Row(
        "G15",
        "S",
        "tool_choice allowed_tools",
        "only those are called",
        "the list of tools stays the same for the cache, the choice changes",
        "agents with many tools",
        _allowed,
    ),
    Row(
        "G16",
        "O",
        'tool_choice of a function that is not there, "banana", {"type": "x"}',
        "400",
        "a choice that is dropped silently ends in words instead of a call",
        "LangChain",
        _wrong_choices,
    ),
    Row(
        "G17",
        "S",
        "a custom tool",
        "a call of type custom with an input",
        "tools that take text instead of JSON",
        "Codex-like agents that send patches",
        _custom,
    ),
    Row(
        "G18",
        "S",
        "results as a string, as parts, empty, two of them",
        "200",
        "a tool may have nothing to say",
        "LangChain, MCP clients (parts)",
        _results,
    ),
    Row(
        "G19",
        "M",
        f"a function for the city {_UNICODE}",
        "the city comes through in the arguments",
        "a broken character breaks the JSON around it",
        "LangChain, everyone outside of English",
        _unicode,
    ),
    Row(
        "G20",
        "M",
        "a call that the limit of output cuts",
        "finish_reason length",
        "half of a call must not be made",
        "agents: JSON errors, or a command cut in half",
        _cut,
    ),
    Row(
        "G21",
        "S",
        "128 functions",
        "200, or 400 with the limit",
        "the document's limit",
        "MCP clients with many servers",
        _many,
        heavy=True,
    ),
)
