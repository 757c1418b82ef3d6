"""A whole gateway inside a test: the parts of a worker, wired as the worker wires them, on a free port of this loop.

Keys, clock and deadlines are the test's; the upstream is a real connection to wherever the test says.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvloop

from penstock import link
from penstock.config import AnswersConfig, Breaker, Config, Model, Retries, TargetConfig, Upstream
from penstock.control.answers import KeptAnswers
from penstock.control.runs import IdempotentRuns
from penstock.control.usage import OwnUsage
from penstock.gateway import heads
from penstock.gateway.admission import Admission
from penstock.gateway.api import Api, Kept
from penstock.gateway.auth import Auth
from penstock.gateway.complete import Gateway
from penstock.gateway.idempotency import Idempotency
from penstock.gateway.journal import Journal
from penstock.gateway.keeping import Keeper
from penstock.gateway.questions import Questions
from penstock.gateway.relay import Heartbeats
from penstock.gateway.routing import Routes
from penstock.gateway.stored import Stored
from penstock.gateway.telemetry import Metrics, Telemetry
from penstock.gateway.upstream import Entry, Lanes, Upstreams
from penstock.gateway.usage import Usage
from penstock.http.client import SWEEP, Pool
from penstock.http.server import Server
from penstock.link import KeyAnswer
from penstock.providers import registry
from penstock.stores.memory_answers import MemoryAnswers, MemoryRuns
from penstock.types import EngineAddress, Principal, Record, Run
from support.raw import PATIENCE, Raw, raw_client

KEY = "sk-the-callers-own-key-0123456789"
UPSTREAM_KEY = "sk-the-operators-own-key-9876543210"
ORGANISATION = "org-the-operators"
ALICE = Principal("key_alice", "alice")
ONCE = Retries(attempts=1)
LENIENT = Breaker(failures=1_000_000)


def run(main: Coroutine[Any, Any, Any]) -> None:
    """Run a test on the loop that workers use, within a bound; no task of the test's gateway may be left."""

    async def bounded() -> None:
        async with asyncio.timeout(30.0):
            await main

    uvloop.run(bounded())


def upstream(base_url: str, name: str = "fake", **settings: Any) -> Upstream:
    """A provider at `base_url`; `settings` are those of every provider, such as deadlines."""
    own = {"base_url": base_url, "api_key": UPSTREAM_KEY, "headers": {"openai-organization": ORGANISATION}}
    return Upstream(name, "openai", settings=own, **settings)


def to(*providers: str, model: str | None = None) -> Model:
    """A model whose targets are these providers."""
    return Model(tuple(TargetConfig(provider, model) for provider in providers))


class Keys:
    """The parent's side of the keys: answers lookups, counts them, and can be made to wait or to fail."""

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        self.principals = dict(principals)
        self.available = True
        self.lookups: list[bytes] = []
        self.asked = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Let no answer through until `release`."""
        self.asked.clear()
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def __call__(self, digest: bytes) -> KeyAnswer:
        self.lookups.append(digest)
        by_digest = {hashlib.sha256(key.encode()).digest(): who for key, who in self.principals.items()}
        answer = KeyAnswer(len(self.lookups), by_digest.get(digest), self.available)
        self.asked.set()
        await self._open.wait()
        return answer


class Kin:
    """The parent's side of what is kept, in memory; its messages take no time, but for the stores' own turns."""

    def __init__(self, config: AnswersConfig) -> None:
        self.answers = KeptAnswers(config)
        self.runs = IdempotentRuns()
        self.answers_store, self.runs_store = MemoryAnswers(), MemoryRuns()
        self._found: Questions[link.AnswersFound] = Questions(self.send)
        self._claimed: Questions[link.RunClaimed] = Questions(self.send)
        self._told: Questions[link.UsageAnswer] = Questions(self.send)
        self.kept = Kept(Stored(self._found.ask), Idempotency(self._claim, self.send))
        self.own_usage = OwnUsage(time.time)  # it knows nothing until it is given a ledger
        self.usage = Usage(self._told.ask)
        self._telling: set[asyncio.Task[None]] = set()

    def send(self, message: link.Message) -> bool:
        """Take a message of the worker's."""
        match message:
            case link.KeepAnswer() | link.FindAnswer() | link.ListAnswers() | link.EditAnswer() | link.DropAnswer():
                self.answers.receive(message, lambda found: self._found.answered(found.ref, found))
            case link.ClaimRun() | link.FinishRun() | link.ReleaseRun():
                self.runs.receive(0, message, lambda claimed: self._claimed.answered(claimed.ref, claimed))
            case link.UsageQuestion():
                task = asyncio.ensure_future(self._tell(message))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)
        return True

    async def _tell(self, question: link.UsageQuestion) -> None:
        self._told.answered(question.ref, await self.own_usage.answer(question))

    async def _claim(self, run: Run) -> link.RunClaimed | None:
        return await self._claimed.ask(lambda ref: link.ClaimRun(ref, run))

    async def run(self) -> None:
        await asyncio.gather(self.answers.run(self.answers_store), self.runs.run(self.runs_store))


class Recorder:
    """Keeps every record, and wakes those who wait for them."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._more = asyncio.Event()

    def observe(self, records: Sequence[Record]) -> None:
        self.records += records
        self._more.set()

    def flush(self) -> None: ...

    async def wait(self, count: int) -> list[Record]:
        """All records, once there are so many."""
        async with asyncio.timeout(PATIENCE):
            while len(self.records) < count:
                self._more.clear()
                await self._more.wait()
        return self.records


class Answered(msgspec.Struct, frozen=True):
    """An answer as it came over the wire, its framing taken off. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The error in the envelope, which is all there is in the body."""
        assert self.headers["content-type"] == "application/json"
        body = self.json()
        assert list(body) == ["error"]
        assert list(body["error"]) == ["message", "type", "param", "code"]
        return body["error"]


class Running:
    """A gateway that listens at `address`, and what a test looks into it by."""

    def __init__(
        self, server: Server, api: Api, entries: dict[str, Entry], keys: Keys, recorder: Recorder, kin: Kin
    ) -> None:
        self.server = server
        self.kin = kin
        self.api = api
        self.auth = api.auth
        self.telemetry = api.gateway.telemetry
        self.pools = {name: entry.pool for name, entry in entries.items()}
        self.keys = keys
        self.recorder = recorder
        self.address = ("127.0.0.1", 0)

    async def record(self, number: int = 0) -> Record:
        """The record of that number, once it is made."""
        return (await self.recorder.wait(number + 1))[number]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Raw]:
        """A connection of a client's."""
        async with raw_client(self.address) as client:
            yield client

    async def ask(self, request: bytes) -> Answered:
        """Send one request on a connection of its own and take its answer."""
        async with self.client() as client:
            await client.send(request)
            return await read_answer(client, head_only=request.startswith(b"HEAD "))

    async def chat(self, key: str | None = KEY, **members: Any) -> Answered:
        """Ask for a chat completion."""
        return await self.ask(chat(key, **members))

    def series(self) -> dict[tuple[str, ...], float]:
        """The metrics now: value by name and labels."""
        self.telemetry.notify()
        return {(one.name, *one.labels): one.value for one in self.telemetry.metrics.series(0, 0)}


async def until(ready: Callable[[], object]) -> None:
    """Let the loop run until something that tells nobody has come about."""
    async with asyncio.timeout(PATIENCE):
        while not ready():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0)


async def read_answer(client: Raw, head_only: bool = False) -> Answered:
    """The next answer on a connection, whatever its framing."""
    head = (await client.read_until(b"\r\n\r\n")).decode("ascii")
    start, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    names = [line.partition(": ")[0].lower() for line in lines]
    assert len(set(names)) == len(names), f"a header twice: {head}"
    headers = dict(zip(names, (line.partition(": ")[2] for line in lines), strict=True))
    status = int(start.split(" ")[1])
    if head_only:
        return Answered(status, headers, b"")
    if "content-length" in headers:
        size = int(headers["content-length"])
        return Answered(status, headers, await asyncio.wait_for(client.reader.readexactly(size), PATIENCE))
    if headers.get("transfer-encoding") == "chunked":
        return Answered(status, headers, await read_chunks(client))
    return Answered(status, headers, await client.read_all())


async def read_chunks(client: Raw) -> bytes:
    """A chunked body, whole."""
    parts = []
    while size := int(await client.read_until(b"\r\n"), 16):
        parts.append(await asyncio.wait_for(client.reader.readexactly(size + 2), PATIENCE))
    assert await client.read_until(b"\r\n") == b"\r\n"
    return b"".join(part[:-2] for part in parts)


def request(method: str, path: str, key: str | None = KEY, body: bytes = b"", **headers: str) -> bytes:
    """A whole request; header names are given with underscores."""
    fields = {"host": "gateway.test"} | ({"authorization": f"Bearer {key}"} if key is not None else {})
    fields |= {"content-length": str(len(body))} if body or method == "POST" else {}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def chat(key: str | None = KEY, **members: Any) -> bytes:
    """A request for a chat completion."""
    body = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Say hello."}], **members}
    return request("POST", "/v1/chat/completions", key, json.dumps(body).encode())


@asynccontextmanager
async def gateway(  # noqa: PLR0913  # each has a default, and is given by name
    *upstreams: Upstream | str,
    models: Mapping[str, Model] | None = None,
    keys: Mapping[str, Principal] | None = None,
    clock: Callable[[], float] | None = None,
    config: Config | None = None,
    wall_clock: Callable[[], float] = time.time,
    engine: EngineAddress | None = None,
    retries: Retries = ONCE,
    breaker: Breaker = LENIENT,
    journal: Journal | None = None,
) -> AsyncIterator[Running]:
    """A gateway before these upstreams (a string is a base URL), the first of which answers every model.

    `config` gives what concerns the server; `clock` is the one that throttling goes by; `engine` is where the local
    engine listens that an upstream of type llama calls. A failure is final, and no target is left alone, unless
    `retries` and `breaker` say otherwise; no wait is jittered. There is no `journal` but the one that is given.
    """
    server_config = (config or Config()).server
    providers = [upstream(each) if isinstance(each, str) else each for each in upstreams]
    entries = {}
    for each in providers:
        provider = registry.build(each, engine)
        entries[each.name] = Entry(provider, Pool(provider.origin, each), each)
    lookup = Keys({KEY: ALICE} if keys is None else keys)
    recorder = Recorder()
    telemetry = Telemetry(Metrics(), (recorder,))
    heartbeats = Heartbeats(server_config.limits.heartbeat)
    lacks = {name: entry.provider.lacks for name, entry in entries.items()}
    routes = Routes({"*": to(providers[0].name)} if models is None else models, lacks)
    lanes = Lanes(entries, retries, breaker)
    kin = Kin((config or Config()).answers)
    keeper = Keeper((config or Config()).answers, kin.send, telemetry.metrics.not_kept)
    admission = Admission(lambda message: None)
    upstreams_ = Upstreams(lanes, retries, lambda: 0.0, journal)
    stages = Gateway(routes, admission, upstreams_, telemetry, heartbeats, keeper, journal)
    now = clock or asyncio.get_running_loop().time
    auth = Auth(lookup, now, server_config.auth_failures, telemetry.metrics.auth_failed)
    api = Api(stages, auth, heads.RequestIds(wall_clock), server_config.trusted_proxies, kin.kept, kin.usage)
    server = Server(api, server_config.limits, wall_clock)
    running = Running(server, api, entries, lookup, recorder, kin)
    sock = socket.create_server(("127.0.0.1", 0))
    running.address = ("127.0.0.1", sock.getsockname()[1])
    await server.listen(sock, None)
    sweeping = asyncio.create_task(_sweep(entries, heartbeats, telemetry))
    keeping = asyncio.create_task(kin.run())
    for _ in range(3):  # a task that it starts, and one that this starts: all there before a test counts tasks
        await asyncio.sleep(0)
    try:
        yield running
        assert not sweeping.done()
        assert not keeping.done()
    finally:
        await server.drain(0)
        sweeping.cancel()
        keeping.cancel()
        for entry in entries.values():
            entry.pool.close()


async def _sweep(entries: dict[str, Entry], heartbeats: Heartbeats, telemetry: Telemetry) -> None:
    while True:
        telemetry.notify()
        for entry in entries.values():
            entry.pool.sweep()
        heartbeats.sweep(time.monotonic())
        await asyncio.sleep(SWEEP / 10)
