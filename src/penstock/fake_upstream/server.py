"""The fake upstream itself: listens, decides what each request gets, plays it, and notes what it saw.

A request is decided in this order: an answer scripted for its path; the key; the model list; the limit on the rate; the
strict profile's rules for chat; the function that chooses; a directive (header or model name); an answer scripted for
its model; the plain answer.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from penstock.fake_upstream import directives, neighbours, prefixes, shapes, strict, wishes
from penstock.fake_upstream.connection import Connection, Request
from penstock.fake_upstream.pieces import Piece
from penstock.fake_upstream.play import Content, Player
from penstock.fake_upstream.rate import Allowance
from penstock.fake_upstream.script import ANY, Answer, Fault, Script
from penstock.fake_upstream.seen import HANGUP, STOPPED, Changes, Found, Gates, Seen

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
DIRECTIVE_HEADER = "x-fake-upstream"
BACKLOG = 1024  # connections that come at once; beyond it the kernel has a client try again after a second

Choose = Callable[[Seen], Answer]
Scripted = Script | Answer | Sequence[Answer] | Mapping[str, Sequence[Answer]] | Choose


class FakeUpstream:
    """An OpenAI-compatible upstream that does as told: ``async with FakeUpstream(Answer(status=429)) as upstream``.

    `script`: a Script, or in short one answer, or several in turn, for any model, or answers by model; or a function
    that chooses the answer for each request to a model.
    `listen` is HOST:PORT (port 0: a free one) or unix:/path. `strict` names a profile of `strict.PROFILES`.
    `keys`: the bearer tokens that are let in; none: any, and a strict upstream asks for one all the same.
    `on_end` is called with each request when it has ended; `remember` keeps them all in `seen`, bodies included.
    """

    def __init__(
        self,
        script: Scripted | None = None,
        *,
        listen: str = "127.0.0.1:0",
        strict_profile: str | None = None,
        keys: Sequence[str] = (),
        tls: ssl.SSLContext | None = None,
        on_end: Callable[[Seen], None] = lambda seen: None,
        remember: bool = True,
    ) -> None:
        self.seen: list[Seen] = []
        self.requests_seen = 0
        self.connections_made = 0
        self._choose = script if callable(script) else None
        self._script = Script() if callable(script) else to_script(script)
        rate = self._script.rate
        self._allowance = None if rate is None else Allowance(rate, time.monotonic())
        self._listen = listen
        self._profile = None if strict_profile is None else strict.PROFILES[strict_profile]
        self._keys = tuple(keys)
        self._tls = tls
        self._on_end = on_end
        self._remember = remember
        self._turns: Counter[str] = Counter()
        self._changes = Changes()
        self._gates = Gates(self._changes)
        self._connections: set[Connection] = set()

    # Life.

    async def __aenter__(self) -> FakeUpstream:
        loop = asyncio.get_running_loop()
        if self._listen.startswith("unix:"):
            self.uds: str | None = self._listen.removeprefix("unix:")
            self._server = await loop.create_unix_server(self._connection, self.uds, ssl=self._tls)
            place = "localhost"
        else:
            self.uds = None
            host, port = split_address(self._listen)
            self._server = await loop.create_server(self._connection, host, port, ssl=self._tls, backlog=BACKLOG)
            self.port: int = self._server.sockets[0].getsockname()[1]
            place = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"{'http' if self._tls is None else 'https'}://{place}"
        self.base_url = f"{self.url}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in tuple(self._connections):
            connection.abort()
        await self._changes.wait_for(lambda: not self._connections)
        self._remove_socket()

    def _remove_socket(self) -> None:
        if self.uds is not None:
            Path(self.uds).unlink(missing_ok=True)

    # What tests ask and tell.

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def wait_for(self, find: Callable[[], Found], timeout: float = 10.0) -> Found:  # noqa: ASYNC109
        """Wait until `find` returns something true, and return that; asked again whenever something changed.

        Raises TimeoutError, which tells what was seen, after `timeout` seconds.
        """
        try:
            return await asyncio.wait_for(self._changes.wait_for(find), timeout)
        except TimeoutError as error:
            raise TimeoutError(f"not within {timeout} s; connections: {self.open_connections}; {self.seen}") from error

    async def request(self, number: int = 0) -> Seen:
        """The request of that number, from 0, once it has come."""
        await self.wait_for(lambda: len(self.seen) > number)
        return self.seen[number]

    async def ended(self, number: int = 0) -> Seen:
        """The request of that number, once its answer has ended."""
        seen = await self.request(number)
        await self.wait_for(lambda: seen.ended)
        return seen

    async def reached(self, gate: str, count: int = 1) -> None:
        """Wait until so many answers wait at a gate (or "forever")."""
        await self.wait_for(lambda: self._gates.waiting(gate) >= count)

    def open(self, gate: str) -> None:
        """Let through all answers that wait at a gate, and all that come to it."""
        self._gates.open(gate)

    async def close_idle(self) -> None:
        """Close every connection on which nothing is being answered, as servers do after a while."""
        idle = {connection for connection in self._connections if connection.idle}
        for connection in idle:
            connection.close()
        await self.wait_for(lambda: not idle & self._connections)

    # Requests.

    def _connection(self) -> Connection:
        return Connection(self._respond, self._made, self._lost, self._abandoned)

    def _made(self, connection: Connection) -> int:
        self.connections_made += 1
        self._connections.add(connection)
        self._changes.notify()
        return self.connections_made - 1

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._changes.notify()

    def _see(self, connection: Connection, request: Request) -> Seen:
        seen = Seen(self.requests_seen, connection.number, request)
        self.requests_seen += 1
        if self._remember:
            self.seen.append(seen)
        self._changes.notify()
        return seen

    def _end(self, seen: Seen, ended: str) -> None:
        seen.ended, seen.ended_at = ended, time.monotonic()
        self._on_end(seen)
        self._changes.notify()

    def _abandoned(self, connection: Connection, request: Request) -> None:
        self._end(self._see(connection, request), HANGUP)

    async def _respond(self, connection: Connection, request: Request) -> bool:
        seen = self._see(connection, request)
        ended = HANGUP

        def on_sent(size: int) -> None:
            seen.sent_bytes += size
            self._changes.notify()

        try:
            answer, content = self._decide(seen, request)
            seen.status = answer.status
            ended, keep = await Player(connection, request, answer, self._gates.pause, on_sent).play(content)
        except asyncio.CancelledError:
            ended = STOPPED if connection.refused else HANGUP
            raise
        finally:
            self._end(seen, ended)
        return keep

    def _decide(self, seen: Seen, request: Request) -> tuple[Answer, Content]:
        asked = seen.asked or shapes.Asked()
        try:
            whole = self._models(seen, request)
            answer = Answer() if whole is not None else prefixes.obey(self._answer(seen, request), request.body)
        except strict.Refused as refusal:
            whole = shapes.envelope(refusal.fault)
            answer = Answer(status=refusal.status)
        reply = shapes.Reply(
            id=answer.id or f"{neighbours.ID_PREFIXES.get(seen.path, 'chatcmpl')}-fake-{seen.number:06d}",
            model=answer.model or (asked.model if self._profile is None else self._profile.snapshot),
            created=int(time.time()),
        )
        headers = {"x-request-id": f"req_fake_{seen.number:06d}", "content-type": shapes.JSON_TYPE}
        if self._profile is not None:
            headers.update(strict.HEADERS)
        if whole is None:
            whole = own_body(answer)
        if whole is None and seen.path in neighbours.ID_PREFIXES:
            body = b"{}" if seen.asked is None else request.body
            pieces, stream = neighbours.pieces(seen.path, answer, body, reply)
            headers["content-type"] = shapes.SSE_TYPE if stream else shapes.JSON_TYPE
            return answer, Content(headers, pieces, stream=stream)
        if whole is None and asked.stream:
            headers["content-type"] = shapes.SSE_TYPE
            return answer, Content(headers, shapes.events(answer, asked, reply), stream=True)
        body = shapes.completion(answer, asked, reply) if whole is None else whole
        return answer, Content(headers, (Piece(body),))

    def _models(self, seen: Seen, request: Request) -> bytes | None:
        """The body for a path that lists models, None for one that a model or a script answers; raises Refused."""
        if seen.path in self._script.paths:
            return None
        if self._keys or self._profile is not None:
            strict.check_key(request.header("authorization"), self._keys)
        answered = seen.path == CHAT or seen.path in neighbours.ID_PREFIXES
        if not (answered or seen.path == MODELS or seen.path.startswith(f"{MODELS}/")):
            raise strict.Refused(404, Fault(f"Invalid URL ({request.method} {seen.path})"))
        if request.method != ("POST" if answered else "GET"):
            raise strict.Refused(405, Fault(f"Not allowed to {request.method} on {seen.path}."))
        if seen.path == MODELS:
            return shapes.model_list(self._model_names())
        if seen.path.startswith(MODELS):
            return shapes.one_model(seen.path.removeprefix(f"{MODELS}/"))
        return None

    def _model_names(self) -> list[str]:
        if self._profile is not None:
            return [self._profile.name, self._profile.snapshot]
        return [name for name in self._script.models if name != ANY] or ["gpt-5.4"]

    def _answer(self, seen: Seen, request: Request) -> Answer:
        """The answer for a scripted path or a request to a model; raises Refused."""
        if seen.path in self._script.paths:
            return self._next(seen.path, self._script.paths[seen.path])
        if self._allowance is not None:
            return self._limited(self._allowance, seen, request)
        return self._told(seen, request)

    def _limited(self, allowance: Allowance, seen: Seen, request: Request) -> Answer:
        now = time.monotonic()
        back_in = allowance.take(now)
        headers = allowance.headers(now)
        if back_in:
            tells = self._script.rate is not None and self._script.rate.retry_after
            return Answer(status=429, retry_after=back_in if tells else None, headers=headers)
        answer = self._told(seen, request)
        return msgspec.structs.replace(answer, headers={**headers, **answer.headers})

    def _told(self, seen: Seen, request: Request) -> Answer:
        if self._profile is not None and seen.path == CHAT:
            strict.check(self._profile, request.body)
        elif seen.asked is None:
            raise strict.Refused(400, Fault("We could not parse the JSON body of your request."))
        if self._choose is not None:
            return self._choose(seen)
        try:
            told = directives.answer(request.header(DIRECTIVE_HEADER) or seen.model, Answer())
        except directives.DirectiveError as error:
            raise strict.Refused(400, Fault(f"{seen.model!r}: {error}.", param="model")) from error
        if told is not None:
            return told
        models = self._script.models
        name = seen.model if seen.model in models else ANY
        if name in models:
            return self._next(name, models[name])
        if models:
            message = f"The model `{seen.model}` does not exist or you do not have access to it."
            raise strict.Refused(404, Fault(message, code="model_not_found"))
        return wishes.answer(request.body) if seen.path == CHAT else Answer()

    def _next(self, name: str, answers: Sequence[Answer]) -> Answer:
        turn = self._turns[name]
        self._turns[name] += 1
        return answers[min(turn, len(answers) - 1)]


def own_body(answer: Answer) -> bytes | None:
    """The body that the answer brings itself: its bytes, or an error; None where a completion is to be made."""
    if answer.body is not None:
        return answer.body.encode()
    if answer.body_bytes is not None:
        return answer.body_bytes
    if answer.error is None and answer.status < 400:
        return None
    return shapes.envelope(answer.error or shapes.fault(answer.status))


def to_script(script: Script | Answer | Sequence[Answer] | Mapping[str, Sequence[Answer]] | None) -> Script:
    """The script that a shorter form means."""
    if isinstance(script, Script):
        return script
    if script is None:
        return Script()
    if isinstance(script, Answer):
        return Script(models={ANY: (script,)})
    if isinstance(script, Mapping):
        return Script(models={name: tuple(answers) for name, answers in script.items()})
    return Script(models={ANY: tuple(script)})


def split_address(listen: str) -> tuple[str, int]:
    """HOST and PORT of HOST:PORT, an IPv6 address being in brackets; raises ValueError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{listen!r} is not HOST:PORT or unix:/path")
    return host.removeprefix("[").removesuffix("]"), int(port)
