"""The provider for local models against a real engine, over the gateway's own client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from running import PATIENCE, Running, running
from tiny_gguf import STRICT_TEMPLATE, write_recital

from penstock.config import Deadlines, Upstream
from penstock.engine.spec import EngineSpec
from penstock.errors import FailureKind, InvalidRequest, ProviderFault
from penstock.http.client import ClientConnection, HeaderList, Pool
from penstock.http.connecting import connect
from penstock.providers.base import Call, Reader, Reply
from penstock.providers.llama import BUILTIN_FILE, Llama
from penstock.types import Target
from penstock.wire.chat import ChatRequest, decode_chat
from support.serving import serving

PIECES = [b"The", b" penstock", b" is", b" ", *(bytes([b]) for b in "é🌍漢".encode()), b" STO", b"P", b" he", b"re."]
TEXT = b"".join(PIECES).decode()
USER = [{"role": "user", "content": "hi"}]
FREE: dict[str, Any] = {"temperature": 2, "top_k": 0, "min_p": 0}  # every token may come
TARGET = Target("m", "local", "m")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def talk(models: Path) -> Iterator[Running]:
    with running(EngineSpec(str(write_recital(models / "talk.gguf", PIECES)), parallel=4), models / "talk") as run:
        yield run.until_ready()


@pytest.fixture(scope="module")
def endless(models: Path) -> Iterator[Running]:
    """A slow model that never comes to an end, with two slots."""
    path = write_recital(models / "endless.gguf", PIECES, loop=True, layers=4, feed_forward=1024, context=16384)
    with running(EngineSpec(str(path), parallel=2, context=16384), models / "endless") as run:
        yield run.until_ready()


class Answer:
    """The sink of one call, and what came of it."""

    def __init__(self, reader: Reader | None) -> None:
        self.reader = reader
        self.status = 0
        self.headers: HeaderList = []
        self.out = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.fault: FailureKind | None = None
        self.begun = asyncio.Event()

    def on_head(self, status: int, connection: ClientConnection) -> None:
        self.status, self.headers = status, connection.headers()

    def on_data(self, data: bytes) -> None:
        self.out += data if self.reader is None or self.status != 200 else self.reader.feed(data)
        self.begun.set()
        if self.reader is not None and self.reader.done and not self.ended.done():
            self.ended.set_result(None)

    def on_end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def on_fault(self, kind: FailureKind, message: str) -> None:
        self.fault = kind
        self.on_end()


class Client:
    """One provider and the pool of connections to its engine."""

    def __init__(self, run: Running) -> None:
        path = run.engine._spec.model_path
        config = Upstream("local", "llama", settings={"model": path, "parallel": run.engine._spec.parallel})
        self.provider = Llama(config, run.engine.address)
        self.pool = Pool(self.provider.origin, config)

    async def start(self, chat: ChatRequest) -> tuple[Answer, Any]:
        """Prepare the request and send it; the answer to come, and its connection."""
        steps = self.provider.prepare(chat, TARGET)
        call = next(steps)
        while True:
            asked, _ = await self.send(call, None)
            await asked.ended
            try:
                call = steps.send(Reply(asked.status, asked.headers, asked.out))
            except StopIteration as stop:
                return await self.send(stop.value, self.provider.reader(chat, TARGET))

    async def send(self, call: Call, reader: Reader | None) -> tuple[Answer, Any]:
        connection = self.pool.take() or await connect(self.pool)
        answer = Answer(reader)
        connection.send(call.head, call.body, answer, Deadlines())
        return answer, connection

    async def complete(self, chat: ChatRequest) -> bytes:
        answer, connection = await self.start(chat)
        await answer.ended
        connection.abort()
        if answer.status != 200:
            failure = self.provider.failure(answer.status, answer.headers, answer.out)
            raise ProviderFault(failure)
        assert answer.reader is not None
        return answer.out + answer.reader.close()


def request(messages: list[dict[str, Any]] | None = None, **params: Any) -> ChatRequest:
    return decode_chat(msgspec.json.encode({"model": "m", "messages": messages or USER, "temperature": 0} | params))


def ask(run: Running, messages: list[dict[str, Any]] | None = None, **params: Any) -> Any:
    """The whole answer; for a streamed request the list of its events."""

    async def go() -> bytes:
        client = Client(run)
        try:
            return await client.complete(request(messages, **params))
        finally:
            client.pool.close()

    out = asyncio.run(go())
    if not params.get("stream"):
        return json.loads(out)
    *events, nothing = out.split(b"\n\n")
    assert nothing == b""
    assert events.pop() == b"data: [DONE]"
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def content(answer: Any, index: int = 0) -> str:
    """The text of one choice, streamed or not."""
    if isinstance(answer, dict):
        return str(answer["choices"][index]["message"]["content"])
    deltas = [choice["delta"] for chunk in answer for choice in chunk["choices"] if choice["index"] == index]
    return "".join(delta.get("content", "") for delta in deltas)


def finishes(answer: Any) -> list[str]:
    if isinstance(answer, dict):
        return [choice["finish_reason"] for choice in answer["choices"]]
    return [choice["finish_reason"] for chunk in answer for choice in chunk["choices"] if choice["finish_reason"]]


def test_a_whole_answer_has_the_model_that_answered_and_the_engines_usage(talk: Running) -> None:
    answer = ask(talk)
    assert answer["model"] == "talk"
    assert content(answer) == TEXT
    assert finishes(answer) == ["stop"]
    assert answer["usage"]["completion_tokens"] == len(PIECES) + 1  # and the end of turn
    assert answer["usage"]["prompt_tokens"] > 10
    again = ask(talk)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == answer["usage"]["prompt_tokens"] - 1
    assert again["system_fingerprint"] == answer["system_fingerprint"]
    assert again["id"] != answer["id"]


def test_weights_that_the_command_line_names_are_served_under_any_name(models: Path) -> None:
    path = write_recital(models / "mine.gguf", PIECES)
    with serving(arguments=["--model", str(path)]) as served:
        served.wait_for("/ready")
        body = {"model": "gpt-5.4", "messages": USER}
        answer = httpx.post(f"{served.base_url}/chat/completions", json=body, headers=served.headers, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["model"], answer.json()["choices"][0]["message"]["content"]) == ("mine", TEXT)
        assert str(path) in served.output


def test_a_stream_says_the_same_as_a_whole_answer(talk: Running) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"max_tokens": 5},
        {"seed": 3, **FREE, "max_tokens": 20},
        {"n": 3, "seed": 3, **FREE},
    ]
    for params in variants:
        params = {"max_tokens": 40} | params
        whole, stream = ask(talk, **params), ask(talk, stream=True, **params)
        for index in range(params.get("n", 1)):
            assert content(stream, index) == content(whole, index)
        assert sorted(finishes(stream)) == sorted(finishes(whole))


def test_an_answer_that_broke_off_after_a_word_is_continued(models: Path) -> None:
    question = [{"role": "user", "content": "What is Penstock?"}]
    asked = {"stream": True, "continue_final_message": True, "add_generation_prompt": False}
    with running(EngineSpec(str(BUILTIN_FILE)), models / "demo") as demo:
        demo.until_ready()
        whole = content(ask(demo, question))
        for words in (1, 3, 5):
            begun = " ".join(whole.split(" ")[:words])
            rest = ask(demo, [*question, {"role": "assistant", "content": begun}], **asked)
            assert begun + content(rest) == whole


def test_no_limit_cuts_a_character_in_two(talk: Running) -> None:
    for limit in range(1, len(PIECES) + 1):
        answer = ask(talk, max_tokens=limit)
        assert content(answer) == b"".join(PIECES[:limit]).decode(errors="ignore")
        assert finishes(answer) == ["length"]
        assert answer["usage"]["completion_tokens"] == limit


def test_every_stop_string_cuts_exactly_and_is_never_seen(talk: Running) -> None:
    cuts = [TEXT[start:end] for start in range(len(TEXT)) for end in range(start + 1, len(TEXT) + 1, 3)]

    async def go() -> list[bytes]:
        client = Client(talk)
        outs = [await client.complete(request(stop=[stop], stream=True)) for stop in cuts]
        client.pool.close()
        return outs

    for stop, out in zip(cuts, asyncio.run(go()), strict=True):
        chunks = [json.loads(event.removeprefix(b"data: ")) for event in out.split(b"\n\n")[:-2]]
        assert content(chunks) == TEXT[: TEXT.index(stop)]
        assert finishes(chunks) == ["stop"]


def test_what_only_looked_like_a_stop_is_kept_whatever_ends_the_answer(talk: Running) -> None:
    assert content(ask(talk, stop=["here.!"])) == TEXT
    limit = PIECES.index(b" STO") + 1
    answer = ask(talk, stop=[" STOP it"], max_tokens=limit)
    assert content(answer) == b"".join(PIECES[:limit]).decode()
    assert finishes(answer) == ["length"]


def test_each_choice_is_what_its_own_seed_gives(talk: Running) -> None:
    answer = ask(talk, n=4, seed=7, max_tokens=12, **FREE)
    texts = [content(answer, index) for index in range(4)]
    assert texts == [content(ask(talk, seed=7 + index, max_tokens=12, **FREE)) for index in range(4)]
    assert len(set(texts)) == 4


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63), 2**32 - 1])
def test_every_seed_gives_the_same_answer_twice(talk: Running, seed: int) -> None:
    first, second = (content(ask(talk, seed=seed, max_tokens=12, **FREE)) for _ in range(2))
    assert first == second


def test_requests_without_a_seed_differ(talk: Running) -> None:
    assert len({content(ask(talk, max_tokens=12, **FREE)) for _ in range(4)}) > 1


def test_a_biased_token_does_not_come(talk: Running) -> None:
    the = talk.ask("POST", "/tokenize", {"content": "The"})[1]["tokens"]
    # The test model's vocabulary spells what it has no merges for: ask for the piece's own number.
    assert len(the) == 3
    numbers = range(259, 275)
    assert "penstock" not in content(ask(talk, logit_bias={str(number): -100 for number in numbers}, max_tokens=9))


@pytest.mark.parametrize("params", [{}, {"top_logprobs": 5}, {"top_logprobs": 20, "stop": "STO"}, {"n": 2, "seed": 1}])
def test_log_probabilities_are_those_of_the_text(talk: Running, params: dict[str, Any]) -> None:
    whole, stream = (ask(talk, logprobs=True, max_tokens=12, stream=streamed, **params) for streamed in (False, True))
    for index in range(params.get("n", 1)):
        entries = whole["choices"][index]["logprobs"]["content"]
        assert "".join(entry["token"] for entry in entries) == content(whole, index) != ""
        for entry in entries:
            assert entry["logprob"] <= 0
            assert bytes(entry["bytes"]).decode() == entry["token"]
            assert len(entry["top_logprobs"]) == params.get("top_logprobs", 0)
        parts = [choice["logprobs"] for chunk in stream for choice in chunk["choices"] if choice["index"] == index]
        assert [entry["token"] for part in parts if part for entry in part["content"]] == [e["token"] for e in entries]


def test_a_prompt_beyond_the_context_is_told_before_anything_is_generated(talk: Running) -> None:
    for stream in (False, True):
        with pytest.raises(ProviderFault) as told:
            ask(talk, [{"role": "user", "content": "x" * 5000}], stream=stream)
        failure = told.value.failure
        assert failure.kind is FailureKind.INVALID
        assert failure.status == 400
        error = json.loads(failure.body or b"")["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        assert "4096 tokens" in error["message"]


def test_more_tokens_than_the_context_has_left_end_in_length(talk: Running) -> None:
    answer = ask(talk, [{"role": "user", "content": "x" * 4060}], max_tokens=1_000_000, ignore_eos=True)
    assert finishes(answer) == ["length"]
    assert answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"] == 4096


def test_full_answers_side_by_side_do_not_break_each_other(models: Path) -> None:
    path = write_recital(models / "small.gguf", PIECES, loop=True, context=512)
    with running(EngineSpec(str(path), parallel=3), models / "small") as run:
        run.until_ready()
        answer = ask(run, n=3, max_tokens=10_000)
    assert finishes(answer) == ["length"] * 3
    per_choice = answer["usage"]["completion_tokens"] / 3
    assert answer["usage"]["prompt_tokens"] + per_choice == 512


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
HISTORIES = [
    [{"role": "developer", "content": "d"}, *USER],
    [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, *USER],
    [*USER, {"role": "system", "content": "late"}],
    [*USER, *USER],
    [{"role": "assistant", "content": "first"}, *USER],
    [*USER, {"role": "assistant", "content": "last"}],
    [{"role": "system", "content": "alone"}],
    [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
    ],
    [*USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": ""}],
    [
        *USER,
        {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "not JSON {{"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "r"}]},
    ],
    [
        *USER,
        {"role": "assistant", "tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "f", "input": "x"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
    ],
    [
        *USER,
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": None},
    ],
    [*USER, {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]}],
    [*USER, {"role": "assistant", "content": None, "refusal": "no"}, *USER],
    [{"role": "user", "content": "", "name": "ann"}],
    [{"role": "user", "content": "\0 \U0001f600 <|im_end|> <__media__> {{ x }}"}],
]


@pytest.fixture(scope="module")
def strict(models: Path) -> Iterator[Running]:
    path = write_recital(models / "strict.gguf", PIECES, template=STRICT_TEMPLATE)
    with running(EngineSpec(str(path)), models / "strict") as run:
        yield run.until_ready()


@pytest.fixture(scope="module")
def systemless(models: Path) -> Iterator[Running]:
    template = "{%- if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{%- endif %}"
    path = write_recital(models / "systemless.gguf", PIECES, template=template + STRICT_TEMPLATE)
    with running(EngineSpec(str(path)), models / "systemless") as run:
        yield run.until_ready()


@pytest.mark.parametrize("messages", HISTORIES)
def test_no_history_breaks_a_template(
    talk: Running, strict: Running, systemless: Running, messages: list[dict[str, Any]]
) -> None:
    for run in (talk, strict, systemless):
        assert content(ask(run, messages)) == TEXT


def test_a_template_that_refuses_all_is_told_as_the_requests_fault(models: Path) -> None:
    picky = "{%- if 'spam' in messages[-1].content %}{{ raise_exception('no spam') }}{%- endif %}"
    path = write_recital(models / "picky.gguf", PIECES, template=picky + STRICT_TEMPLATE)
    with running(EngineSpec(str(path)), models / "picky") as run:
        assert content(ask(run.until_ready())) == TEXT
        with pytest.raises(InvalidRequest, match="chat template refuses") as told:
            ask(run, [{"role": "user", "content": "spam"}])
    assert told.value.param == "messages"


async def until_free(run: Running, limit: float) -> None:
    async with asyncio.timeout(limit):
        while await asyncio.to_thread(run.busy_slots):
            pass


LONG = "x" * 12000


@pytest.mark.parametrize(
    ("params", "text"), [({}, ""), ({}, LONG), ({"n": 2, "stream": True}, ""), ({"stream": True}, LONG)]
)
def test_a_hang_up_frees_the_slot_in_generation_and_while_the_prompt_is_read(
    endless: Running, params: dict[str, Any], text: str
) -> None:
    async def go() -> None:
        client = Client(endless)
        # A text of its own, or it would be known from before.
        chat = request([{"role": "user", "content": f"{params}{os.urandom(8).hex()}{text}"}], **params)
        answer, connection = await client.start(chat)
        await answer.begun.wait()
        assert await asyncio.to_thread(endless.busy_slots)
        assert answer.reader is not None
        connection.abort()
        await until_free(endless, 1.0)
        client.pool.close()

    asyncio.run(go())


def test_a_hang_up_in_the_queue_leaves_nothing_behind(endless: Running) -> None:
    async def go() -> None:
        client = Client(endless)
        busy = [await client.start(request(seed=seed)) for seed in (1, 2)]
        for answer, _ in busy:
            await answer.begun.wait()
        waiting, connection = await client.start(request([{"role": "user", "content": LONG}]))
        connection.abort()
        for _, other in busy:
            other.abort()
        await until_free(endless, 2.0)
        assert waiting.status == 0
        client.pool.close()

    asyncio.run(go())


def test_an_engine_killed_while_answering_is_told_and_comes_back(models: Path) -> None:
    path = write_recital(models / "mortal.gguf", PIECES, loop=True)
    with running(EngineSpec(str(path)), models / "mortal") as run:
        run.until_ready()

        async def go() -> None:
            client = Client(run)
            answer, _ = await client.start(request(stream=True))
            await answer.begun.wait()
            assert run.engine.pid is not None
            os.kill(run.engine.pid, signal.SIGKILL)
            await answer.ended
            assert answer.fault is FailureKind.RESET
            assert answer.reader is not None
            with pytest.raises(ProviderFault, match="engine stopped while answering") as told:
                answer.reader.close()
            assert told.value.failure.kind is FailureKind.INCOMPLETE
            client.pool.close()

        asyncio.run(go())
        assert run.next_change() is not None
        assert run.next_change() is None
        assert content(ask(run, max_tokens=4)) == "The penstock is "


def test_idle_connections_of_the_gateway_make_nobody_wait(talk: Running) -> None:
    idle = [socket.socket(socket.AF_UNIX) for _ in range(200)]
    try:
        for connection in idle:
            connection.settimeout(PATIENCE)
            connection.connect(talk.engine.address.uds)
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: engine\r\n\r\n")
        for connection in idle:
            assert connection.recv(12) == b"HTTP/1.1 200"
        # The engine closes an idle connection after five seconds: within them, all its default threads are taken.
        assert content(ask(talk)) == TEXT
        assert idle[-1].send(b"G") == 1
    finally:
        for connection in idle:
            connection.close()
