"""A local model through the gateway beside its engine by itself: how fast tokens come, and how much later the first.

Two engines of the same file run, one behind `penstock serve`, one that is asked past it by the very call that the
provider makes, its prompt ready. They are asked in turn, one request at a time, for streams of the same length. Nothing
is pinned to a core: the engine has one, and the gateway and this program share the other, as on any machine of two.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import servers
from penstock.config import Upstream
from penstock.engine.process import Engine
from penstock.engine.spec import EngineSpec
from penstock.providers.base import Call, Reply
from penstock.providers.llama import BUILTIN_FILE, Llama
from penstock.types import Target
from penstock.wire.chat import decode_chat

QUESTION = "What is a penstock?"
TOKENS, REQUESTS = 200, 10


class Stream(NamedTuple):
    """Of one answer: seconds to the first piece of text, and pieces a second from there on."""

    first: float
    rate: float


def chat() -> bytes:
    """The request; the model does not stop before so many tokens."""
    body = {"model": "gpt-5.4", "messages": [{"role": "user", "content": QUESTION}], "stream": True, "temperature": 0}
    return json.dumps({**body, "max_completion_tokens": TOKENS, "ignore_eos": True}).encode()


async def streamed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes, mark: bytes) -> Stream:
    """Send a request and read its events; those with `mark` in them have text."""
    began = time.perf_counter()
    writer.write(sent)
    times = []
    async with asyncio.timeout(60):
        while line := await reader.readline():
            if line.startswith(b"data: ") and mark in line:
                times.append(time.perf_counter())
            if line.startswith(b"data: [DONE]") or b'"stop":true' in line:
                break
    writer.close()
    assert len(times) > 1, "no text came"
    return Stream(times[0] - began, (len(times) - 1) / (times[-1] - times[0]))


def framed(call: Call) -> bytes:
    return call.head + b"Content-Length: %d\r\n\r\n" % len(call.body) + call.body


async def by_itself(engine: Engine, provider: Llama) -> Stream:
    """Ask the engine as the provider does, its prompt having been made before."""
    steps = provider.prepare(decode_chat(chat()), Target("m", "local", "m"))
    assert not isinstance(steps, Call)
    call = next(steps)
    while True:
        reader, writer = await asyncio.open_unix_connection(engine.address.uds)
        writer.write(framed(call))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        writer.close()
        try:
            call = steps.send(Reply(int(head.split()[1]), (), body))
        except StopIteration as stop:
            reader, writer = await asyncio.open_unix_connection(engine.address.uds)
            return await streamed(reader, writer, framed(stop.value), b'"content":"')


async def through_the_gateway(port: int) -> Stream:
    """Ask as a client does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = chat()
    head = (
        f"POST {servers.PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {servers.KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return await streamed(reader, writer, head.encode() + body, b'"content":"')


@contextlib.asynccontextmanager
async def running(model: Path, directory: Path) -> AsyncIterator[Engine]:
    ready = asyncio.Event()

    def changed() -> None:
        if engine.down is None:
            ready.set()

    engine = Engine("local", EngineSpec(str(model)), directory, changed)
    task = asyncio.ensure_future(engine.run())
    try:
        await asyncio.wait_for(ready.wait(), 60)
        yield engine
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _reading(directory: Path) -> tuple[float, float]:
    with servers.local_model(directory, BUILTIN_FILE) as gateway:
        async with running(BUILTIN_FILE, directory / "engine") as engine:
            provider = Llama(Upstream("local", "llama", settings={"model": str(BUILTIN_FILE)}), engine.address)
            direct, ours = [], []
            for number in range(1 + REQUESTS):
                one, other = await by_itself(engine, provider), await through_the_gateway(gateway.port)
                if number:  # the first ones warm up
                    direct.append(one)
                    ours.append(other)
    return median(ours).rate / median(direct).rate, 1000 * (median(ours).first - median(direct).first)


def median(streams: list[Stream]) -> Stream:
    return Stream(*(statistics.median(column) for column in zip(*streams, strict=True)))


def reading() -> tuple[float, float]:
    """What comes through the gateway of the engine's own tokens a second, and by how many ms its first is later."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_reading(Path(directory)))
