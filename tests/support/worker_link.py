"""A worker process, and the parent's part in what it is told and asked over the link."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from penstock import link
from penstock.config import Config, Server
from support.gateway import ALICE, KEY, Answered, Keys, read_answer, to, upstream
from support.raw import PATIENCE, raw_client

COMMAND = (sys.executable, "-P", "-m", "penstock.gateway.worker")
_T = TypeVar("_T")


class StandIn:
    """The parent's part: answers lookups from `keys` and keeps every other message."""

    def __init__(self, address: tuple[str, int], keys: Keys) -> None:
        self.address = address
        self.keys = keys
        self.messages: list[link.Message] = []
        self.closed = asyncio.Event()
        self._came = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()
        self.channel: link.Channel
        self.process: Process

    def on_message(self, message: link.Message) -> None:
        if isinstance(message, link.KeyLookup):
            task = asyncio.create_task(self._answer(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        else:
            self.messages.append(message)
            self._came.set()

    async def _answer(self, question: link.KeyLookup) -> None:
        answer = await self.keys(question.digest)
        self.channel.send(link.KeyAnswer(question.ref, answer.principal, answer.available))

    async def message(self, kind: type[_T], fits: Callable[[_T], bool] = lambda _: True) -> _T:
        """The next message of a kind that fits; it and those before it are not given again."""
        async with asyncio.timeout(PATIENCE):
            while True:
                while self.messages:
                    message = self.messages.pop(0)
                    if isinstance(message, kind) and fits(message):
                        return message
                self._came.clear()
                await self._came.wait()

    async def ask(self, raw: bytes) -> Answered:
        async with raw_client(self.address) as client:
            await client.send(raw)
            return await read_answer(client)

    async def ended(self) -> int:
        """The exit status, which must come soon."""
        return await asyncio.wait_for(self.process.wait(), 5)

    async def logged(self, part: str) -> str:
        """The next line on standard error that holds `part`."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            async for line in self.process.stderr:
                if part in line.decode():
                    return line.decode()
        raise AssertionError(f"standard error ended without {part!r}")


@asynccontextmanager
async def worker(base_url: str, stdout: int = PIPE, **server: Any) -> AsyncIterator[StandIn]:
    """A worker process that is ready, whose every model is answered at `base_url`."""
    config = Config(Server(**server), {"fake": upstream(base_url)}, {"*": to("fake"), "gpt-5.4": to("fake")})
    async with started(config, stdout=stdout) as parent:
        yield parent


@asynccontextmanager
async def started(config: Config, *more: link.Message, stdout: int = PIPE) -> AsyncIterator[StandIn]:
    """A worker process that is ready, and was told `more` in one breath with its start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        parent = StandIn(listener.getsockname(), Keys({KEY: ALICE}))
        ours, theirs = socket.socketpair()
        with theirs:
            parent.process = await asyncio.create_subprocess_exec(
                *COMMAND,
                str(theirs.fileno()),
                pass_fds=(listener.fileno(), theirs.fileno()),
                stdout=stdout,
                stderr=PIPE,
            )
        ours.setblocking(False)
        parent.channel = await link.connect(ours, parent.on_message, parent.closed.set)
        try:
            for message in (link.Start(0, config, (listener.fileno(),)), *more):
                parent.channel.send(message)
            await parent.message(link.Ready)
            yield parent
        finally:
            if parent.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    parent.process.kill()
            await parent.process.communicate()
            parent.channel.close()
