"""What one request, and one streamed chunk, costs our own code: counted in instructions, inside one process.

A worker is wired as it wires itself and given transports of memory instead of sockets, so that neither the kernel nor
the load has a part in it: some clients send the request of `run.py` in turn, and an upstream answers as
`mock_upstream.c` does, each read in a callback of its own, as from a socket. The same commit gives the same count to
a thousandth, however busy the machine is, which CPU time does not.

With --source it measures other sources than those beside it, such as those of an older commit.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from penstock import link, types
from penstock.config import Config, load
from penstock.gateway import worker as worker_module
from penstock.http import connecting, server
from penstock.http.client import ClientConnection, Pool
from penstock.http.connection import Connection, Edge
from penstock.providers.registry import SETTINGS
from run import BODIES

HERE = Path(__file__).resolve().parent
CLIENTS = 16
WARM_UP = 64
KEY = "sk-bench-0123456789abcdef"
LIMITED = "limited"  # the plain body, of a key with limits of every kind, two of each
CASES = {"request": ("plain", 1000), "alias": ("alias", 1000), "64k": ("64k", 200), "stream": ("stream-usage", 4000)}
CASES["stream, usage not asked for"] = ("stream", 4000)
CASES["limits"] = (LIMITED, 1000)
MUCH = 1_000_000_000
PRICES = (1250.0, 10_000.0)  # nano-dollars for a token
MIN_INSTRUCTIONS = 2000  # fewer for a request than any can have: it was not answered

# Nothing that sources from before do not know.
CONFIGURATION = """
[server]
access_log = false

[providers.mock]
type = "openai"
base_url = "http://127.0.0.1:8002/v1"
api_key = "sk-upstream"

[models."mock-model"]
targets = [{ provider = "mock", model = "mock-model" }]

[models."mock-alias"]
targets = [{ provider = "mock", model = "mock-model" }]
"""

ANSWER = (
    b'{"id":"chatcmpl-9f2b7c3a8d4e4f6aB1c2D3e4F5g6H","object":"chat.completion","created":1760000000,"model":"mock-model",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"The capital of France is Paris. It lies on the '
    b"river Seine, in the north of the country, and has been its capital for most of the last thousand years."
    b'","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":87,"completion_tokens":34,'
    b'"total_tokens":121,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},'
    b'"service_tier":"default","system_fingerprint":"fp_44709d6fcb"}'
)
WHOLE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_mock\r\nContent-Length: %d\r\n\r\n%s"
    % (len(ANSWER), ANSWER)
)
SSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"x-request-id: req_mock\r\nTransfer-Encoding: chunked\r\n\r\n"
)
META = (
    b'{"id":"chatcmpl-9f2b7c3a8d4e4f6aB1c2D3e4F5g6H","object":"chat.completion.chunk","created":1760000000,'
    b'"model":"mock-model","system_fingerprint":"fp_44709d6fcb","choices":'
)


def framed(choices: bytes) -> bytes:
    """One event of the stream, in a chunk of its own."""
    event = b"data: %s%s}\n\n" % (META, choices)
    return b"%x\r\n%s\r\n" % (len(event), event)


def choice(delta: bytes, finish: bytes) -> bytes:
    return framed(b'[{"index":0,"delta":{%s},"logprobs":null,"finish_reason":%s}]' % (delta, finish))


FIRST = SSE + choice(b'"role":"assistant","content":""', b"null")
CHUNK = choice(b'"content":"@0000000000000000 "', b"null")
FINISH = choice(b"", b'"stop"')
USAGE = framed(b'[],"usage":{"prompt_tokens":87,"completion_tokens":100,"total_tokens":187}')
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Memory(asyncio.Transport):
    """A transport that hands what is written to a function."""

    def __init__(self, on_write: Callable[[bytes], None]) -> None:
        super().__init__()
        self.write = on_write  # type: ignore[method-assign, assignment]  # without a call between

    def writelines(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(pieces))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40000) if name == "peername" else default

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


class Upstream:
    """Answers each call on a connection as the mock does; `chunks`: of a stream."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()

    async def connect(self, pool: Pool) -> ClientConnection:
        connection = ClientConnection(pool)
        if self._chunks:
            connection.connection_made(Memory(lambda sent: self._stream(connection)))
        else:
            connection.connection_made(Memory(lambda sent: self._answer(connection)))
        return connection

    def _answer(self, connection: ClientConnection) -> None:
        self._loop.call_soon(connection.data_received, WHOLE)

    def _stream(self, connection: ClientConnection) -> None:
        self._loop.call_soon(self._feed, connection.data_received, self._parts())

    def _feed(self, received: Callable[[bytes], None], parts: Iterator[bytes]) -> None:
        part = next(parts, None)
        if part is not None:
            received(part)
            self._loop.call_soon(self._feed, received, parts)

    def _parts(self) -> Iterator[bytes]:
        yield FIRST
        for _ in range(self._chunks):
            yield CHUNK
        yield FINISH
        yield USAGE
        yield DONE


class Clients:
    """Keep `CLIENTS` requests in flight until so many have been answered."""

    def __init__(self, edge: Edge, request: bytes, end: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._end = end
        self._left = self._open = 0
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._connections = [Connection(edge) for _ in range(CLIENTS)]
        for connection in self._connections:
            connection.connection_made(Memory(lambda got, connection=connection: self._got(connection, got)))  # type: ignore[misc]

    async def ask(self, count: int) -> None:
        self._left, self._over = count, self._loop.create_future()
        for connection in self._connections:
            self._send(connection)
        await self._over

    def _send(self, connection: Connection) -> None:
        if self._left:
            self._left -= 1
            self._open += 1
            self._loop.call_soon(connection.data_received, self._request)
        elif not self._open and not self._over.done():
            self._over.set_result(None)

    def _got(self, connection: Connection, got: bytes) -> None:
        if got.endswith(self._end):
            self._open -= 1
            self._send(connection)


class Parent:
    """The other end of the worker's link: knows one key, which has no limits or plenty of everything."""

    unsent = 0

    def __init__(self, worker: worker_module.Worker, limited: bool) -> None:
        self._worker, self._limited = worker, limited
        self._key = types.Principal("key_bench", "bench")
        if limited:
            self._key = msgspec.structs.replace(self._key, limited=True)

    def send(self, message: link.Message) -> None:
        if isinstance(message, link.KeyLookup):
            self._worker.on_message(link.KeyAnswer(message.ref, self._key))
        elif self._limited and isinstance(message, link.Lease):
            claim = types.Claim(1, message.prompt_tokens + message.completion_tokens, 1, 1)
            rows = tuple(link.Row(row, MUCH, row > 3) for row in range(8))
            spare, until = (MUCH, MUCH * 10**3, MUCH * 10**9, MUCH), time.monotonic() + MUCH
            leased = link.Leased(message.ref, "lease", claim, MUCH, spare, until, until, prices=PRICES, rows=rows)
            asyncio.get_running_loop().call_soon(self._worker.on_message, leased)


def configuration() -> Config:
    """What the worker is given of it."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "penstock.toml"
        file.write_text(CONFIGURATION)
        return load(file, {}, SETTINGS)


def journaled(directory: str) -> dict[str, Any]:
    """How a worker is told to keep a journal there; not at all by sources from before there were journals."""
    if "journal" not in link.Start.__struct_fields__:
        return {}
    prefix = os.path.join(directory, "0")
    Path(importlib.import_module("penstock.journal").lock_path(prefix)).touch()
    return {"journal": prefix}


async def serve(body_name: str, count: int, rounds: int, directory: str) -> list[float]:
    """Answer requests, `count` of them or one stream of so many chunks, in each round; microseconds for each one."""
    streamed = body_name.startswith("stream")
    never = 1e6
    for timed in (worker_module, server):
        setattr(timed, "SWEEP", never)  # noqa: B010  # what goes by the time would not be the same each time
    upstream = Upstream(count if streamed else 0)
    setattr(connecting, "establish", upstream.connect)  # noqa: B010  # there is nobody to connect to
    worker = worker_module.Worker()
    limited = body_name == LIMITED
    worker.channel = Parent(worker, limited)  # type: ignore[assignment]
    more = journaled(directory)
    if limited:
        more["board_fd"] = os.memfd_create("board")
        os.ftruncate(more["board_fd"], 4096)
    serving = asyncio.ensure_future(worker.run(link.Start(0, configuration(), (), **more)))
    while worker._server is None:  # noqa: ASYNC110  # it tells nobody
        await asyncio.sleep(0)
    body = BODIES["plain" if limited else body_name]
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s" % (KEY.encode(), len(body), body)
    )
    clients = Clients(worker._server.edge, request, b"0\r\n\r\n" if streamed else ANSWER)
    took = []
    await clients.ask(0 if streamed else WARM_UP)
    for _ in range(rounds):
        began = time.perf_counter()
        await clients.ask(1 if streamed else count)
        assert worker._telemetry is not None
        worker._telemetry.notify()
        took.append((time.perf_counter() - began) / count * 1e6)
    worker.on_closed()
    await serving
    return took


def collected(command: list[str], source: Path) -> int:
    """The instructions that a Python program executes, with these sources."""
    valgrind = shutil.which("valgrind")
    assert valgrind is not None, "valgrind is needed to count instructions: apt-get install valgrind"
    counting = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", *command]
    ran = subprocess.run(counting, env=environment(source), capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", ran.stderr)
    assert found is not None, ran.stdout + ran.stderr
    assert ran.returncode == 0, ran.stderr
    return int(found[1])


def environment(source: Path) -> dict[str, str]:
    path = os.pathsep.join((str(source), str(HERE)))
    return {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def count_all(arguments: argparse.Namespace) -> None:
    """Print the instructions that one request, or one chunk, takes."""
    with ThreadPoolExecutor(arguments.jobs) as jobs:
        for case in arguments.only:
            body_name, count = CASES[case]
            commands = ([sys.executable, __file__, "--run", body_name, str(each)] for each in (count, 2 * count))
            few, many = jobs.map(collected, commands, itertools.repeat(arguments.source))
            each = (many - few) / count
            assert each > MIN_INSTRUCTIONS, f"{case}: {each} instructions"
            print(f"{case:30} {each:10.0f} instructions", flush=True)


def time_all(arguments: argparse.Namespace) -> None:
    """Print the microseconds that one request, or one chunk, takes: quick, and only roughly the same each time."""
    for case in arguments.only:
        body_name, count = CASES[case]
        command = [sys.executable, __file__, "--run", body_name, str(count), "--rounds", "15"]
        ran = subprocess.run(command, env=environment(arguments.source), capture_output=True, text=True, check=True)
        took = sorted(map(float, ran.stdout.split()))
        print(f"{case:30} {took[0]:10.2f} us at best, {statistics.median(took):.2f} in the middle", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=lambda text: text.split(";"), default=list(CASES), help=";".join(CASES))
    parser.add_argument("--source", type=Path, default=HERE.parent / "src")
    parser.add_argument("--time", action="store_true", help="microseconds instead of instructions")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        with tempfile.TemporaryDirectory() as directory:
            print(*uvloop.run(serve(arguments.run[0], int(arguments.run[1]), arguments.rounds, directory)))
    elif arguments.time:
        time_all(arguments)
    else:
        count_all(arguments)


if __name__ == "__main__":
    main()
