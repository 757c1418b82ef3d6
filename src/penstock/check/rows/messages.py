"""E: the messages of a request."""

from __future__ import annotations

from typing import Any

from penstock.check.ask import ABSENT, PROMPT, Ask, Members, user
from penstock.check.row import Check, Row, accepts, both, outcome, refuses, serves, tells
from penstock.check.verdict import (
    Failed,
    Skipped,
    Unsupported,
    expect,
    lacking,
    message_of,
    object_of,
    refused,
    served,
    show,
    supported,
)

# The smallest picture there is: one transparent pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
# A tenth of a second's worth of a WAV header, which says that no samples follow.
_SILENCE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
_PDF = "data:application/pdf;base64,JVBERi0xLjQKJSVFT0YK"

CALL: Members = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
TOOL_RESULT: Members = {"role": "tool", "tool_call_id": "call_1", "content": "42"}
_ASKED = {"role": "user", "content": PROMPT}
_LEGACY: Members = {"name": "look_up", "description": "Looks up.", "parameters": {"type": "object", "properties": {}}}


def calling(**members: Any) -> Members:
    """An assistant's message that called a function."""
    message = {"role": "assistant", "content": None, "tool_calls": [CALL], **members}
    return {name: value for name, value in message.items() if value is not ABSENT}


def talk(*messages: Any) -> Members:
    """A request of these messages."""
    return {"messages": list(messages)}


def _system(content: Any) -> Members:
    return {"role": "system", "content": content}


def _said(content: Any) -> Members:
    return {"role": "assistant", "content": content}


_TWO_PARTS = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]


def _part(kind: str, **members: Any) -> Members:
    return talk({"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": kind, **members}]})


def _image(url: str, **members: Any) -> Members:
    return _part("image_url", image_url={"url": url, **members})


def _served_or_refused(*variants: Members) -> Check:
    """Served, or a clean 400: then the server says that it lacks it."""

    async def check(ask: Ask) -> str:
        lacks = []
        for members in variants:
            answer = await ask.chat(**members)
            if answer.status == 200:
                served(answer)
                continue
            error = refused(answer, (400, 413, 415, 422))
            lacks.append(show(error["message"]))
        if len(lacks) == len(variants):
            raise Unsupported(lacks[0])
        return f"refused: {lacks[0]}" if lacks else "served"

    return check


async def _broken_images(ask: Ask) -> None:
    for url in ("data:image/png;base64,@@@", "data:text/plain;base64,aGVsbG8="):
        refused(await ask.chat(**_image(url)), (400, 413, 415, 422), what=url)


async def _reply_lists_missing(ask: Ask) -> None:
    answer = await ask.chat(**talk(_ASKED, calling(), _ASKED))
    error = refused(answer)
    expect("call_1" in error["message"], f"the message does not name call_1: {show(error['message'])}")


async def _context(ask: Ask) -> None:
    window = await _window(ask)
    if window is None:
        raise Skipped("this server does not list how long the model's context is")
    prompt = "word " * (window + window // 4)
    answer = await ask.chat(messages=user(prompt), stream=True)
    refused(answer, param="messages", codes=("context_length_exceeded",))


async def _window(ask: Ask) -> int | None:
    body = object_of(await ask.get("/models")) or {}
    for model in body.get("data") or ():
        if model.get("id") == ask.model:
            meta = model.get("meta") or {}
            for found in (model.get("max_model_len"), model.get("context_length"), meta.get("n_ctx")):
                if type(found) is int and found > 0:
                    return found
    return None


async def _many(ask: Ask) -> str:
    answer = await ask.chat(messages=[{"role": "user", "content": ""}] * 10_000)
    return outcome(answer)


async def _functions(ask: Ask) -> None:
    answer = await ask.chat(functions=[_LEGACY], function_call={"name": "look_up"}, tokens=64)
    body = supported(answer)
    message = message_of(body)
    call = message.get("function_call")
    if not isinstance(call, dict):
        raise Failed(f"function_call is {show(call)}")
    expect(call.get("name") == "look_up", f"it calls {show(call.get('name'))}")
    expect(isinstance(call.get("arguments"), str), f"arguments is {show(call.get('arguments'))}")
    finish = body["choices"][0].get("finish_reason")
    expect(finish in ("function_call", "stop"), f"finish_reason is {show(finish)}")


async def _legacy_history(ask: Ask) -> None:
    call = {"name": "look_up", "arguments": "{}"}
    history = talk(
        _ASKED,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "look_up", "content": "42"},
    )
    supported(await ask.chat(**history))


async def _developer(ask: Ask) -> None:
    answer = await ask.chat(**talk({"role": "developer", "content": "Be brief."}, _ASKED))
    if lacking(answer):
        raise Failed(f"the role is refused: {show((object_of(answer) or {}).get('error'))}")
    served(answer)


ROWS = (
    Row(
        "E01",
        "S",
        "no messages",
        "400, param messages",
        "the error must say what is missing",
        "everyone who writes a first request",
        refuses({"messages": ABSENT}, param="messages"),
    ),
    Row(
        "E02",
        "O",
        "messages: []",
        "400, param messages",
        "an empty prompt makes a model invent one",
        "applications that trim their history too far",
        refuses(talk(), param="messages"),
    ),
    Row(
        "E03",
        "M",
        'messages of "x", [123], [{}], a role of 123, a content of 123',
        "400 each",
        "a 5xx for a caller's mistake is repeated by every SDK",
        "all SDKs retry a 5xx",
        refuses(
            {"messages": "x"},
            talk(123),
            talk({}),
            talk({"role": 123, "content": "x"}),
            talk({"role": "system", "content": 123}),
        ),
    ),
    Row(
        "E04",
        "S",
        "no model",
        "400",
        "a default that nobody chose answers instead, and is billed",
        "everyone who misspells the member",
        refuses({"model": ABSENT}),
    ),
    Row(
        "E05",
        "S",
        "the roles system, user, assistant, tool and, of old, function",
        "200",
        "histories hold all of them",
        "agents: every turn after the first",
        both(
            serves(talk(_system("Be brief."), _ASKED), talk(_ASKED, _said("Hello."), _ASKED)),
            accepts(talk(_ASKED, calling(), TOOL_RESULT)),
            _legacy_history,
        ),
    ),
    Row(
        "E06",
        "M",
        "a developer message, then a user's",
        "200, the developer's taken as a system message",
        "newer SDKs and agents send developer where system was",
        "Vercel's AI SDK and others, for reasoning models",
        _developer,
    ),
    Row(
        "E07",
        "O",
        "the role banana",
        "400, param messages[0].role",
        "a message that is dropped silently is worse than one that is refused",
        "everyone who misspells a role",
        refuses(talk({"role": "banana", "content": "x"}), param="messages[0].role"),
    ),
    Row(
        "E08",
        "M",
        "content as two text parts, for every role",
        "200, as if it were one string",
        "SDKs and IDEs send parts for plain text, too",
        "IDE agents, and every client that also sends images",
        serves(
            talk({"role": "user", "content": _TWO_PARTS}),
            talk(_system(_TWO_PARTS), _ASKED),
            talk(_ASKED, _said(_TWO_PARTS), _ASKED),
            talk(_ASKED, calling(), {**TOOL_RESULT, "content": _TWO_PARTS}),
        ),
    ),
    Row(
        "E09",
        "M",
        "an assistant with content null and tool_calls, then the tool's message",
        "200",
        "it is what a client sends back after every tool call",
        "LangChain and every agent: the second turn fails",
        serves(talk(_ASKED, calling(), TOOL_RESULT)),
    ),
    Row(
        "E10",
        "S",
        "an assistant with tool_calls and no content, or an empty one",
        "200",
        "content is not required beside tool_calls",
        "clients that leave out what is null",
        serves(talk(_ASKED, calling(content=ABSENT), TOOL_RESULT), talk(_ASKED, calling(content=""), TOOL_RESULT)),
    ),
    Row(
        "E11",
        "O",
        "a user's content of null",
        "400",
        "templates print it as None",
        "applications with an empty form",
        refuses(talk({"role": "user", "content": None})),
    ),
    Row(
        "E12",
        "O",
        "a user's content of an empty string",
        "200",
        "people press Enter",
        "chat windows",
        serves(talk({"role": "user", "content": ""})),
    ),
    Row(
        "E13",
        "S",
        "a part of the type banana",
        "400",
        "a part that is dropped silently is missed by nobody but the user",
        "clients that send a newer kind of part",
        refuses(_part("banana", banana="x")),
    ),
    Row(
        "E14",
        "S",
        "an image as a data URL, detail auto, low and high",
        "200 by a model that sees, a clean 400 by one that does not",
        "an image that is dropped silently is answered by invention",
        "everyone who sends a screenshot to a text model",
        _served_or_refused(
            *(_image(f"data:image/png;base64,{PIXEL}", detail=detail) for detail in ("auto", "low", "high"))
        ),
    ),
    Row(
        "E15",
        "P",
        "an image by an http URL (of a host that cannot exist)",
        "fetched under a policy, or 400",
        "a server that fetches any URL can be sent into its own network",
        "clients that pass links",
        tells(_image("http://image.invalid/x.png")),
    ),
    Row(
        "E16",
        "O",
        "an image of broken base64, and one that is text",
        "400",
        "a 5xx is repeated with all its bytes",
        "all SDKs retry a 5xx",
        _broken_images,
    ),
    Row(
        "E17",
        "S",
        "an input_audio part, a file part",
        "served, or a clean 400",
        "a part that is dropped silently is answered by invention",
        "voice applications, document readers",
        _served_or_refused(
            _part("input_audio", input_audio={"data": _SILENCE, "format": "wav"}),
            _part("file", file={"filename": "a.pdf", "file_data": _PDF}),
        ),
    ),
    Row(
        "E18",
        "S",
        "name on system, user and assistant messages",
        "200",
        "conversations of several speakers use it",
        "AutoGen, LangChain",
        serves(
            talk(
                {**_system("Be brief."), "name": "boss"},
                {**_ASKED, "name": "ann"},
                {**_said("Hello."), "name": "bob"},
                {**_ASKED, "name": "ann"},
            )
        ),
    ),
    Row(
        "E19",
        "S",
        "a tool message without tool_call_id",
        "400",
        "the result belongs to no call",
        "agents with a broken history: wrong answers instead of an error",
        refuses(talk(_ASKED, calling(), {"role": "tool", "content": "42"})),
    ),
    Row(
        "E20",
        "O",
        "a tool message that no call came before",
        "400",
        "the model would see a result out of nowhere",
        "agents that cut their history in the wrong place",
        refuses(talk(_ASKED, TOOL_RESULT)),
    ),
    Row(
        "E21",
        "O",
        "a tool call without its result",
        "400 that names the missing id",
        "the model would wait for it, or invent it",
        "agents that cut their history in the wrong place",
        _reply_lists_missing,
    ),
    Row(
        "E22",
        "P",
        "tool_calls: [] in the history",
        "400 as at OpenAI, or ignored",
        "clients send back what a server once answered",
        "Home Assistant, openai-node",
        tells(talk(_ASKED, {**_said("Hello."), "tool_calls": []}, _ASKED)),
    ),
    Row(
        "E23",
        "M",
        "two system messages, system last, two users in a row, assistant first, assistant last",
        "200 each",
        "chat templates raise on orders that they did not foresee",
        "LangChain, agents: a 500 in the middle of a conversation",
        serves(
            talk(_system("Be brief."), _system("Be kind."), _ASKED),
            talk(_ASKED, _system("Be brief.")),
            talk(_ASKED, _ASKED),
            talk(_said("Hello."), _ASKED),
            talk(_ASKED, _said("Hello.")),
        ),
    ),
    Row(
        "E24",
        "S",
        "an assistant's content as text and refusal parts",
        "200",
        "the document allows both in a history",
        "clients that send a refusal back",
        serves(talk(_ASKED, _said([{"type": "text", "text": "Hm."}, {"type": "refusal", "refusal": "No."}]), _ASKED)),
    ),
    Row(
        "E25",
        "P",
        "members that the document does not know: reasoning_content, cache_control",
        "ignored, passed on or 400",
        "clients send back reasoning and hints of other services",
        "clients that talk to several services",
        tells(
            talk(_ASKED, {**_said("Hello."), "reasoning_content": "Hm."}, _ASKED),
            talk({**_ASKED, "cache_control": {"type": "ephemeral"}}),
        ),
    ),
    Row(
        "E26",
        "O",
        "a prompt beyond the context, streamed",
        "400 before the stream, param messages, code context_length_exceeded",
        "agents compact their history by this code",
        "crewAI and other agents: a cut answer, or nothing",
        _context,
        heavy=True,
    ),
    Row(
        "E27",
        "P",
        "10,000 messages",
        "200, 400 or 413 in a bounded time",
        "what costs the square of its length stops a server",
        "everyone who is being served at that time",
        _many,
        heavy=True,
    ),
    Row(
        "E28",
        "S",
        "functions and function_call, of old",
        "message.function_call with a name and arguments as a string",
        "older applications are still there",
        "applications written before there were tools",
        _functions,
    ),
)
