"""I: streamed answers."""

from __future__ import annotations

from typing import Any

from penstock.check.ask import CHAT, Ask, Members, user
from penstock.check.client import Answer, Connection, Trouble
from penstock.check.events import Stream, parse_stream
from penstock.check.row import Row
from penstock.check.rows.shape import check_usage, greedy
from penstock.check.rows.tools import FORCED, calls_of
from penstock.check.rows.tools import ROOM as ROOM_FOR_A_CALL
from penstock.check.verdict import (
    Failed,
    Skipped,
    content_of,
    expect,
    refuse_lack,
    refused,
    served,
    show,
    supported,
)

_LONG = 64  # tokens of an answer that is to take some time
_MEASURABLE = 0.1  # seconds that an answer must take for its flushes to be seen
_TRIES = 3
_USAGE: Members = {"stream_options": {"include_usage": True}}
_NO_OBFUSCATION: Members = {"stream_options": {"include_obfuscation": False}}


async def _head(ask: Ask) -> None:
    answer = (await ask.stream()).answer
    kind = (answer.header("content-type") or "none").split(";")[0].strip()
    expect(kind == "text/event-stream", f"content-type {kind}")
    expect(answer.framing != "length", "content-length on a stream")
    cache = answer.header("cache-control") or "none"
    expect("no-cache" in cache or "no-store" in cache, f"cache-control {cache}")


async def _framing(ask: Ask) -> None:
    stream = await ask.stream(**_USAGE)
    for event in stream.events:
        for name, value in event.fields:
            expect(name in ("data", ""), f"a field {name}: {show(value)}")
        expect(len(event.values("data")) <= 1, f"data over several lines: {show(event.data)}")
    expect(not stream.broken, f"data that is no JSON object: {show(stream.broken[:1])}")


async def _end(ask: Ask) -> None:
    stream = await ask.stream()
    expect(stream.done, f"no [DONE]; the last event is {show(stream.events[-1].data)}")
    last = stream.events[-1]
    expect(last.data == "[DONE]", f"after [DONE] came {show(last.data)}")
    expect(last.whole, "the last event lacks its blank line")


async def _chunks(ask: Ask) -> None:
    for chunk in (await ask.stream(**_USAGE)).chunks:
        for name, kind in (("id", str), ("object", str), ("created", int), ("model", str), ("choices", list)):
            expect(type(chunk.get(name)) is kind, f"{name} is {show(chunk.get(name))} in {show(chunk)}")
        expect(chunk["object"] == "chat.completion.chunk", f"object is {show(chunk['object'])}")
        for choice in chunk["choices"]:
            expect(type(choice.get("index")) is int, f"a choice without an index: {show(choice)}")


async def _same(ask: Ask) -> None:
    chunks = (await ask.stream(**_USAGE)).chunks
    for name in ("id", "created", "model"):
        seen = {show(chunk.get(name)) for chunk in chunks}
        expect(len(seen) == 1, f"{name} is {' and '.join(sorted(seen)[:3])}")


def _roles(stream: Stream) -> list[Any]:
    return [delta["role"] for delta in stream.deltas if "role" in delta]


async def _first_role(ask: Ask) -> None:
    first = (await ask.stream()).deltas[0]
    expect(first.get("role") == "assistant", f"the first delta is {show(first)}")
    expect(not first.get("content") or isinstance(first["content"], str), f"its content is {show(first['content'])}")


async def _role_once(ask: Ask) -> None:
    stream = await ask.stream()
    again = [delta for delta in stream.deltas[1:] if "role" in delta]
    expect(not again, f"role in {len(again)} later deltas: {show(again[:1])}")


async def _role_said(ask: Ask) -> None:
    roles = [role for role in _roles(await ask.stream()) if role != "assistant"]
    expect(not roles, f"a role is {show(roles[:1])}")


async def _delta(ask: Ask) -> None:
    for choice in (await ask.stream()).choices:
        expect(isinstance(choice.get("delta"), dict), f"a choice is {show(choice)}")


async def _finish(ask: Ask) -> None:
    stream = await ask.stream()
    expect(len(stream.finishes()) == 1, f"finish_reason came {len(stream.finishes())} times: {show(stream.finishes())}")
    last = stream.choices[-1]
    expect(last.get("finish_reason"), f"after it came {show(last)}")
    lacking = [choice for choice in stream.choices if "finish_reason" not in choice]
    expect(not lacking, f"a choice without finish_reason: {show(lacking[:1])}")


async def _same_text(ask: Ask) -> str | None:
    text, how = await greedy(ask)
    streamed = (await ask.stream(**how)).text()
    if streamed != text and not how:
        return "the server takes no temperature; the texts differ"
    expect(streamed == text, f"streamed {show(streamed)}, whole {show(text)}")
    return None


async def _usage_asked(ask: Ask) -> None:
    chunks = (await ask.stream(**_USAGE)).chunks
    with_usage = [chunk for chunk in chunks if chunk.get("usage") is not None]
    expect(len(with_usage) == 1, f"{len(with_usage)} chunks with usage")
    expect(with_usage[0].get("choices") == [], f"the usage chunk has choices {show(with_usage[0].get('choices'))}")
    check_usage(with_usage[0]["usage"])
    without = [chunk for chunk in chunks if "usage" not in chunk]
    expect(not without, f"{len(without)} chunks without `usage: null`")


async def _usage_unasked(ask: Ask) -> None:
    unasked: tuple[Members, ...] = ({}, {"stream_options": {"include_usage": False}})
    for options in unasked:
        for chunk in (await ask.stream(**options)).chunks:
            expect(chunk.get("usage") is None, f"usage came unasked: {show(chunk)}")
            expect(chunk.get("choices"), f"a chunk without choices: {show(chunk)}")


async def _usage_last(ask: Ask) -> None:
    chunks = (await ask.stream(**_USAGE)).chunks
    expect(chunks[-1].get("usage") is not None, f"the last chunk is {show(chunks[-1])}")


async def _two(ask: Ask) -> None:
    stream = await ask.stream(n=2, **_USAGE)
    order = list(dict.fromkeys(choice.get("index") for choice in stream.choices))
    expect(order == [0, 1], f"the indexes come as {order}")
    for index in (0, 1):
        expect(len(stream.finishes(index)) == 1, f"choice {index} finished {len(stream.finishes(index))} times")
    count = sum(chunk.get("usage") is not None for chunk in stream.chunks)
    expect(count == 1, f"{count} chunks with usage")


async def _call(ask: Ask) -> tuple[Stream, list[Members]]:
    """A stream that must hold a call, and the pieces of its calls."""
    stream = await ask.stream(tokens=ROOM_FOR_A_CALL, **FORCED)
    pieces = [piece for delta in stream.deltas for piece in delta.get("tool_calls") or ()]
    if not pieces:
        calls_of(supported(await ask.chat(tokens=ROOM_FOR_A_CALL, **FORCED)))
        raise Failed(f"a call comes without streaming, and none in the stream: {show(stream.text())}")
    return stream, pieces


async def _call_pieces(ask: Ask) -> None:
    known: set[Any] = set()
    for piece in (await _call(ask))[1]:
        index, called = piece.get("index"), piece.get("function") or {}
        if index not in known:
            known.add(index)
            fine = piece.get("id") and piece.get("type") == "function" and called.get("name")
            expect(fine, f"a call begins as {show(piece)}")
        else:
            again = [name for name, found in (("id", piece.get("id")), ("name", called.get("name"))) if found]
            expect(not again, f"{' and '.join(again)} repeated: {show(piece)}")


async def _call_index(ask: Ask) -> None:
    indexes = [piece.get("index") for piece in (await _call(ask))[1]]
    order = list(dict.fromkeys(indexes))
    expect(order == list(range(len(order))), f"the indexes are {show(indexes)}")


async def _call_end(ask: Ask) -> None:
    stream, pieces = await _call(ask)
    for piece in pieces:
        expect(isinstance(piece.get("function"), dict), f"a piece without function: {show(piece)}")
        arguments = piece["function"].get("arguments")
        expect(arguments is None or isinstance(arguments, str), f"arguments is {show(arguments)}")
    expect(stream.finishes() == ["tool_calls"], f"finish_reason is {show(stream.finishes())}")


async def _characters(ask: Ask) -> None:
    for tokens in (3, 16):
        stream = await ask.stream(tokens=tokens, messages=user("Repeat: é 漢 \U0001f30d é 漢 \U0001f30d"))
        expect("�" not in stream.text(), f"a broken character: {show(stream.text())}")


async def _flushed(ask: Ask) -> str:
    """Whether the time that the later tokens take lies between the first bytes and the last.

    Asked again before it is called a failure, since a busy server may pause anywhere.
    """
    begins = _times(await ask.chat(tokens=1, fresh=True))[1]
    said = ""
    for _ in range(_TRIES):
        first, last = _times((await ask.stream(tokens=_LONG, fresh=True)).answer)
        said = f"the first bytes after {first * 1000:.0f} ms, the last after {last * 1000:.0f} ms"
        if last - begins < _MEASURABLE:
            return f"{said}: too quick to see more"
        if first < last - (last - begins) / 4:
            return said
    raise Failed(said)


def _times(answer: Answer) -> tuple[float, float]:
    """When the body began to come, and when it had come."""
    return (answer.arrivals[0][0], answer.arrivals[-1][0]) if answer.arrivals else (0.0, 0.0)


async def _pings(ask: Ask) -> str:
    stream = await ask.stream(tokens=_LONG)
    comments = 0
    for event in stream.events:
        comments += len(event.values(""))
        expect(not event.values("id"), f"id: {show(event.values('id'))}")
        expect("ping" not in event.values("event"), "event: ping")
        expect(event.data is None or event.data.strip(), "an event with empty data")
    return f"{comments} comments"


async def _obfuscation(ask: Ask) -> None:
    stream = await ask.stream(**_NO_OBFUSCATION)
    for chunk in stream.chunks:
        expect("obfuscation" not in chunk, f"obfuscation was refused and came: {show(chunk)}")


async def _logprobs(ask: Ask) -> None:
    stream = await ask.stream(logprobs=True)
    tokens: list[Members] = []
    for choice in stream.choices:
        tokens += (choice.get("logprobs") or {}).get("content") or []
    joined = "".join(token["token"] for token in tokens)
    expect(tokens, "no log probabilities in the stream")
    expect(joined == stream.text(), f"the tokens are {show(joined)}, the text {show(stream.text())}")


async def _refused(ask: Ask) -> None:
    refused(await ask.chat(stream=True, messages="x"))


async def _accept(ask: Ask) -> None:
    answer = await ask.post(ask.body(stream=True), {"accept": "application/json"})
    kind = (answer.header("content-type") or "none").split(";")[0]
    expect(answer.status == 200 and kind == "text/event-stream", f"{answer.status} {kind}")


async def _reused(ask: Ask) -> None:
    streamed, plain = ask.request("POST", CHAT, ask.body(stream=True)), ask.request("POST", CHAT, ask.body())

    async def in_turn(line: Connection) -> list[Answer]:
        first = await line.exchange(streamed)
        if first.closing:
            raise Failed("the server closes the connection after a stream")
        try:
            return [first, await line.exchange(plain)]
        except Trouble as trouble:
            raise Failed(f"a request after the stream, on a connection that was to stay: {trouble}") from None

    answers = await ask.together([streamed, plain], in_turn)
    served(answers[1], "the request after the stream")
    old = streamed.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
    answer = await ask.send(old, worst=16)
    refuse_lack(answer)
    expect(answer.framing != "chunked", "a chunked answer to an HTTP/1.0 client")
    expect(parse_stream(answer).done, "no [DONE] for an HTTP/1.0 client")


async def _reasoning(ask: Ask) -> str:
    names = {name for delta in (await ask.stream()).deltas for name in delta if "reasoning" in name}
    if "<think>" in (await ask.stream()).text():
        return "reasoning is in the content, between tags"
    return f"in {', '.join(sorted(names))}" if names else "none came"


async def _empty(ask: Ask) -> None:
    text, how = await greedy(ask)
    if not text:
        raise Skipped("the model said nothing")
    stream = await ask.stream(**how, stop=text[0])
    if stream.text():
        raise Skipped("no empty answer could be provoked")
    expect(_roles(stream) == ["assistant"], f"the roles are {show(_roles(stream))}")
    expect(stream.finishes() == ["stop"], f"finish_reason is {show(stream.finishes())}")
    expect(stream.done, "no [DONE]")
    served_whole = content_of(served(await ask.chat(**how, stop=text[0])))
    expect(served_whole == "", f"not streamed, it is {show(served_whole)}")


ROWS = (
    Row(
        "I01",
        "S",
        "stream: true",
        "200, text/event-stream, no content-length, cache-control no-cache",
        "proxies buffer and cache what does not say so",
        "browsers' EventSource, nginx, CDNs",
        _head,
    ),
    Row(
        "I02",
        "M",
        "the stream's framing",
        "each event is data: and one JSON object; no id:, no event:",
        "SDKs' parsers know no more",
        "openai-python fails on id: with a comment",
        _framing,
    ),
    Row(
        "I03",
        "M",
        "the stream's end",
        "data: [DONE], a blank line, nothing after",
        "without it an end and a broken connection are the same",
        "openai-python and Vercel's AI SDK drop the last event without its blank line",
        _end,
    ),
    Row(
        "I04",
        "M",
        "every chunk, that of usage as well",
        "id, object chat.completion.chunk, created (an integer), model, choices",
        "clients read them from any chunk",
        "openai-python, openai-node, Vercel's AI SDK: TypeError without choices",
        _chunks,
    ),
    Row(
        "I05",
        "S",
        "id, created and model of all chunks",
        "the same",
        "clients put chunks together by id",
        "open-webui",
        _same,
    ),
    Row(
        "I06",
        "M",
        "the first delta",
        'role "assistant"',
        "the message is made from it",
        'openai-node stream(): "missing role for choice 0"',
        _first_role,
    ),
    Row(
        "I07",
        "M",
        "the later deltas",
        "no role",
        "deltas are concatenated",
        'openai-python stream(): "assistantassistantassistant"',
        _role_once,
    ),
    Row(
        "I08",
        "M",
        "the roles of deltas",
        'never ""',
        "an empty role is no role",
        "clients that know the roles there are",
        _role_said,
    ),
    Row(
        "I09",
        "M",
        "the deltas",
        "always objects, never null or absent",
        "clients look into them unasked",
        "openai-python: AttributeError",
        _delta,
    ),
    Row(
        "I10",
        "M",
        "finish_reason",
        "null on every choice but the last, which has one",
        "a stream without one was cut",
        "openai-node and Vercel's AI SDK raise, openai-python is silent",
        _finish,
    ),
    Row(
        "I11",
        "S",
        "the same request streamed and not, temperature 0 and a seed",
        "the same text",
        "a piece that is lost in between is noticed by nobody",
        "everyone",
        _same_text,
    ),
    Row(
        "I12",
        "S",
        "include_usage: true",
        "one chunk more with usage and choices [], `usage: null` on all others",
        "bills are made of it",
        "every accounting, where usage is missing; strict decoders, where the null is",
        _usage_asked,
    ),
    Row(
        "I13",
        "M",
        "include_usage false or absent",
        "no usage, no chunk without choices",
        "clients take choices[0] of every chunk",
        "LangChain and hand-written loops: IndexError",
        _usage_unasked,
    ),
    Row(
        "I14",
        "M",
        "the chunk with usage",
        "is the very last",
        "a later chunk sets usage to null again",
        "openai-python stream(): usage is lost",
        _usage_last,
    ),
    Row(
        "I15",
        "M",
        "n: 2, streamed",
        "index 0 appears before 1, one finish_reason each, one usage",
        "choices are kept in a list",
        "openai-python stream(): IndexError",
        _two,
    ),
    Row(
        "I16",
        "M",
        "a call, streamed",
        "id, type and name in its first delta only",
        "deltas are concatenated",
        'openai-python stream() and LangChain: the name becomes "fff"',
        _call_pieces,
    ),
    Row(
        "I17",
        "M",
        "the index of calls, streamed",
        "on every delta, from 0, one more for each call",
        "calls are kept in a list",
        "openai-python: TypeError or IndexError; openai-node: error",
        _call_index,
    ),
    Row(
        "I18",
        "M",
        "the deltas of a call",
        "each has function; finish_reason tool_calls",
        "agents stop at stop",
        "openai-python stream(): AssertionError",
        _call_end,
    ),
    Row(
        "I19",
        "M",
        "letters beyond ASCII in an answer that is cut",
        "no U+FFFD",
        "a token may end inside a character",
        "everyone outside of English",
        _characters,
    ),
    Row(
        "I20",
        "M",
        "the time of the first bytes",
        "long before the last",
        "it is what streaming is for",
        "chat windows that stand still, idle timeouts",
        _flushed,
    ),
    Row(
        "I21",
        "M",
        "what is not data, in a longer stream",
        "comments at most: no id:, no event: ping, no empty data",
        "a sign of life must not look like a chunk",
        "openai-python, openai-node, Vercel's AI SDK: JSON error on empty data",
        _pings,
    ),
    Row(
        "I22",
        "S",
        "include_obfuscation: false",
        "no obfuscation",
        "it costs bandwidth",
        "clients on slow lines",
        _obfuscation,
    ),
    Row(
        "I23",
        "S",
        "logprobs: true, streamed",
        "log probabilities whose tokens make up the text",
        "confidence is shown while it comes",
        "evaluation tools",
        _logprobs,
    ),
    Row(
        "I24",
        "M",
        "a mistake with stream: true",
        "400 as JSON, no stream",
        "SDKs look at the status before they read a stream",
        "openai-python, openai-node: an empty stream instead of an error",
        _refused,
    ),
    Row(
        "I25",
        "M",
        "an empty answer (a stop at its first letter), streamed",
        "role, finish_reason, [DONE]",
        "a stream of nothing still has a beginning and an end",
        "openai-node stream(): missing role",
        _empty,
    ),
    Row(
        "I26",
        "M",
        "accept: application/json with stream: true",
        "a stream",
        "both official SDKs send it",
        "openai-python, openai-node",
        _accept,
    ),
    Row(
        "I27",
        "M",
        "the connection after a stream; a stream for HTTP/1.0",
        "is used again; ends without chunked framing",
        "a new connection for each answer costs two round trips and more",
        "openai-python's and openai-node's pools, old proxies",
        _reused,
    ),
    Row(
        "I28",
        "P",
        "reasoning text",
        "in reasoning_content or reasoning, never in content",
        "thinking in the content is shown to users and sent back",
        "chat windows",
        _reasoning,
    ),
)
