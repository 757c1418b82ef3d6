"""A relay that also keeps the answer: for a caller who wants to fetch it later, and for a repeat of the same request.

Only requests that ask for either go through it; all others have the plain relay, and no chunk of theirs costs more.
What is kept is what went out: of a stream, the completion that its chunks make (`wire.assembly`), or its bytes. It is
handed over before the end of the answer is written, so that whoever has the end finds the answer kept; and it is handed
over without waiting. An answer that broke off, or whose client left, is not kept.

What it refuses: `store: true` where the operator has switched storing off. What is above a bound is answered and not
kept, and counted.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from penstock.config import AnswersConfig
from penstock.errors import InvalidRequest
from penstock.gateway import heads
from penstock.gateway.exchange import Exchange
from penstock.gateway.relay import PING, Heartbeats, Relay
from penstock.gateway.upstream import Answer
from penstock.http.request import Request
from penstock.link import KeepAnswer
from penstock.providers.base import AnyRequest
from penstock.types import Principal
from penstock.wire.assembly import Assembly
from penstock.wire.chat import ChatRequest
from penstock.wire.members import join, split

REPLAY_BYTES = 8 * 1024 * 1024  # the largest answer that a repeat is given again


class Keeper:
    """Keeps chat completions by one configuration. `send` hands one over, or says that it could not be; `count` is told
    of those that are not handed over."""

    def __init__(self, config: AnswersConfig, send: Callable[[KeepAnswer], bool], count: Callable[[str], None]) -> None:
        self._config = config
        self._send = send
        self._count = count

    def wants(self, asked: AnyRequest, principal: Principal) -> bool:
        """Whether the answer is to be kept. Raises InvalidRequest where it shall and cannot be."""
        if not isinstance(asked, ChatRequest):
            return False  # `store` of a response is its provider's matter
        if asked.store and not self._config.store:
            raise InvalidRequest(
                "Unsupported value: 'store' does not support true with this gateway, which keeps no answers. "
                "Leave it out.",
                param="store",
                code="unsupported_value",
            )
        return asked.store or (principal.keeps_content and self._config.store)

    def assembly(self) -> Assembly:
        """What puts an answer together that is streamed."""
        return Assembly(self._config.max_bytes)

    def keep(self, principal: Principal, asked: AnyRequest, body: bytes | None) -> None:
        """Have an answer kept; `body` is None where it was too large to be put together."""
        assert isinstance(asked, ChatRequest)
        messages = bytes(split(asked.body)["messages"])
        if body is None or len(body) + len(messages) > self._config.max_bytes:
            self._count("too_large")
        elif not self._send(KeepAnswer(scope_of(principal), body, messages, asked.metadata or {})):
            self._count("dropped")


class KeepingRelay(Relay):
    """See `gateway.relay.Relay`. `keeper`: None where the answer is not stored."""

    __slots__ = ("_asked", "_assembly", "_keeper", "_parts", "_size")

    def __init__(
        self, request: Request, exchange: Exchange, heartbeats: Heartbeats, asked: AnyRequest, keeper: Keeper | None
    ) -> None:
        super().__init__(request, exchange, heartbeats)
        self._asked = asked
        self._keeper = keeper
        self._assembly = keeper.assembly() if keeper is not None and asked.stream else None
        self._parts: list[bytes] | None = [] if exchange.on_whole is not None else None
        self._size = 0

    def commit(self, answer: Answer, data: bytes) -> None:
        self._note(data)
        super().commit(answer, data)

    def write(self, data: bytes) -> None:
        if data is not PING:
            self._note(data)
        super().write(data)

    def finish(self, answer: Answer) -> None:
        if self._keeper is not None and not answer.committed:
            answer.tail = with_metadata(answer.tail, self._asked)
        self._note(answer.tail)
        exchange = self._exchange
        if self._keeper is not None:
            assert exchange.principal is not None
            assembly = self._assembly
            if assembly is None:
                body: bytes | None = answer.tail
            else:
                body = None if assembly.failed else assembly.body(exchange.usage)
            self._keeper.keep(exchange.principal, self._asked, body)
        if exchange.on_whole is not None:
            begun = self._answer if answer.committed else answer
            parts = self._parts
            exchange.on_whole(
                None if parts is None else heads.replay(exchange, begun.target, begun.reader.head, b"".join(parts))
            )
        super().finish(answer)

    def _note(self, data: bytes) -> None:
        if self._assembly is not None:
            self._assembly.note(data)
        if self._parts is not None:
            self._size += len(data)
            self._parts.append(data)
            if self._size > REPLAY_BYTES:
                self._parts = None


def kept(relay: Relay, request: Request, exchange: Exchange, asked: AnyRequest, keeper: Keeper) -> Relay:
    """The relay for this request: one that keeps, where anything is to be kept. Raises InvalidRequest."""
    assert exchange.principal is not None
    wanted = keeper.wants(asked, exchange.principal)
    if not wanted and exchange.on_whole is None:
        return relay
    return KeepingRelay(request, exchange, relay.heartbeats, asked, keeper if wanted else None)


def with_metadata(body: bytes, asked: AnyRequest) -> bytes:
    """A whole answer that is stored, with the metadata of its request, as OpenAI answers: upstream it was not told."""
    assert isinstance(asked, ChatRequest)
    if not asked.metadata or not asked.store:
        return body
    members = split(body)
    if bytes(members.get("metadata", b"null")) != b"null":
        return body
    return join({**members, "metadata": msgspec.Raw(msgspec.json.encode(asked.metadata))})


def scope_of(principal: Principal) -> str:
    """Whose answers a caller's are: its project's, or, without one, its key's own."""
    return f"project:{principal.project_id}" if principal.project_id else f"key:{principal.key_id}"
