"""The routes of the data plane and the error envelope: what the edge calls for each request.

A route is denied unless it stands in the table. Its head is judged first: path, method, key. Only then is the body
read, so that nobody without a key can make us hold one.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from penstock.errors import (
    AuthenticationFailed,
    MethodNotAllowed,
    NotFound,
    PermissionDenied,
    Refusal,
    ServerFault,
)
from penstock.gateway import accounting, heads
from penstock.gateway.auth import Auth
from penstock.gateway.complete import Decode, Gateway, complete
from penstock.gateway.exchange import Exchange
from penstock.gateway.explain import explain
from penstock.gateway.idempotency import HEADER, Idempotency, answer_again, once
from penstock.gateway.keeping import scope_of
from penstock.gateway.refusals import UpstreamRefusal, blamed
from penstock.gateway.routing import not_found
from penstock.gateway.stored import MESSAGES, Stored, answer_id_of
from penstock.gateway.stored import PATH as STORED
from penstock.gateway.telemetry import log
from penstock.gateway.usage import PATH as USAGE
from penstock.gateway.usage import Usage
from penstock.http.request import Request
from penstock.types import JSON, Principal
from penstock.wire.chat import decode_chat
from penstock.wire.envelope import envelope
from penstock.wire.neighbours import DECODERS, Endpoint

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MODELS = b"/v1/models/"
CHAT = "chat.completions"  # as records and keys name it
PROBES = frozenset((b"/health", b"/ready"))  # probes: no key, no record

_encode = msgspec.json.encode
_Handler = Callable[[Request, Exchange], Awaitable[None]]
_Methods = dict[bytes, _Handler]


class Kept(NamedTuple):
    """What was answered before: chat completions to be fetched, and answers for repeats."""

    stored: Stored
    runs: Idempotency


class _Caller(msgspec.Struct, frozen=True, gc=False):
    """What was found of a head, in an epoch of keys and with certain proxies: it holds for one that is the same."""

    epoch: int
    proxies: tuple[_Network, ...]
    client: str
    client_request_id: str | None
    principal: Principal


class Api:
    """The application of a worker. `store_ok`: whether the key store answered when the parent last looked."""

    def __init__(
        self,
        gateway: Gateway,
        auth: Auth,
        ids: heads.RequestIds,
        trusted_proxies: tuple[str, ...],
        kept: Kept,
        usage: Usage,
    ) -> None:
        self.gateway = gateway
        self._kept = kept
        self._usage = usage
        self.auth = auth
        self.store_ok = True
        self._ids = ids
        self.trust(trusted_proxies)
        self._created = int(time.time())
        self._routes: dict[bytes, _Methods] = {
            b"/v1/chat/completions": _methods(post=self._chat, get=self._list_stored),
            b"/v1/models": _methods(get=self._list_models),
            **{b"/v1/%b" % name.encode(): _methods(post=self._neighbour(name)) for name in DECODERS},
            b"/v1/penstock/explain": _methods(post=self._explain),
            USAGE: _methods(get=self._own_usage),
            b"/health": _methods(get=self._health),
            b"/ready": _methods(get=self._ready),
        }
        self._model_methods = _methods(get=self._get_model)
        self._stored_methods = _methods(get=self._get_stored, post=self._edit_stored, delete=self._drop_stored)
        self._messages_methods = _methods(get=self._list_messages)

    def trust(self, proxies: Sequence[str]) -> None:
        """Believe the x-forwarded-for of these addresses and networks, and of no others."""
        self._proxies = tuple(ipaddress.ip_network(proxy, strict=False) for proxy in proxies)

    # -- called by the edge

    def admit(self, request: Request) -> Awaitable[object] | None:
        exchange = self._ids.open(request)
        known = request.known
        if isinstance(known, _Caller) and known.epoch == self.auth.epoch and known.proxies is self._proxies:
            if known.principal.expires_at is not None:
                self.auth.check_expiry(known.principal.expires_at)
            exchange.client, exchange.client_request_id = known.client, known.client_request_id
            exchange.principal = known.principal
            return None
        exchange.client = request.peer if not self._proxies else self._client(request)
        methods = self._route(request.path)
        if request.method not in methods:
            allowed = [method for method in methods if method != b"HEAD"]
            raise MethodNotAllowed(
                f"{_shown(request.path)} does not accept {_shown(request.method)}; "
                f"use {b' or '.join(allowed).decode()}.",
                code="method_not_allowed",
                headers=((b"Allow", b", ".join(methods)),),
            )
        if request.path in PROBES:
            return None
        fields = request.headers
        mark = fields.get(b"x-client-request-id")
        if mark is not None and len(mark) <= 512 and mark.isascii():
            exchange.client_request_id = mark.decode()
        principal = self.auth.identify(fields.get(b"authorization"), exchange.client)
        if isinstance(principal, Principal):
            exchange.principal = principal
            request.known = _Caller(
                self.auth.epoch, self._proxies, exchange.client, exchange.client_request_id, principal
            )
            return None
        identified = asyncio.ensure_future(principal)
        identified.add_done_callback(functools.partial(_admit, exchange))  # before the edge learns of it
        return identified

    async def answer(self, request: Request) -> None:
        exchange = _exchange(request)
        try:
            await self._route(request.path)[request.method](request, exchange)
        except Refusal as refusal:
            exchange.ended = blamed(refusal)
            self._refuse(request, refusal)
            self._note(exchange)
        except asyncio.CancelledError:  # while it waited for the parent: what waits for an upstream ends by itself
            if request.stopped is not None:
                exchange.ended = "revoked" if isinstance(request.stopped, AuthenticationFailed) else "drained"
                self._refuse(request, request.stopped)
            else:
                exchange.ended, exchange.status = "hangup", 0
            self._note(exchange)
        except Exception:  # noqa: BLE001  # the top edge: our fault must end in an answer
            log(f"request {exchange.request_id} failed:\n{traceback.format_exc()}")
            if not request.started:
                self._refuse(request, ServerFault("The gateway failed on this request; its log says why."))
        finally:
            request.ensure_ended()

    def refuse(self, request: Request | None, refusal: Refusal) -> tuple[bytes, bytes]:
        """For what the edge itself refuses: its record is made here."""
        if request is not None and request.context is not None:
            exchange = _exchange(request)
        else:  # refused before `admit` saw it
            exchange = self._ids.exchange(time.monotonic())
            exchange.client = request.peer if request is not None else ""
        rendered = self._render(exchange, refusal)
        exchange.ended = blamed(refusal)
        self._note(exchange)
        return rendered

    # -- routes

    def _route(self, path: bytes) -> _Methods:
        methods = self._routes.get(path)
        if methods is not None:
            return methods
        if path.startswith(MODELS):
            return self._model_methods
        if path.startswith(STORED):
            name = path[len(STORED) :].removesuffix(MESSAGES)
            if name and b"/" not in name:
                return self._messages_methods if path.endswith(MESSAGES) else self._stored_methods
        hint = ""
        if any(path.endswith(known.removeprefix(b"/v1")) for known in self._routes if known.startswith(b"/v1")):
            hint = " The base URL of this API ends in /v1, and clients add the rest."
        raise NotFound(f"Unknown route: {_shown(path)}.{hint}", code="unknown_url")

    def _chat(self, request: Request, exchange: Exchange) -> Awaitable[None]:
        exchange.endpoint = CHAT
        if HEADER in request.headers:
            return self._once(request, exchange, decode_chat)
        return complete(self.gateway, request, exchange, self._refuse, decode_chat)

    def _neighbour(self, endpoint: Endpoint) -> _Handler:
        decode = DECODERS[endpoint]

        def answer(request: Request, exchange: Exchange) -> Awaitable[None]:
            exchange.endpoint = endpoint
            if HEADER in request.headers:
                return self._once(request, exchange, decode)
            return complete(self.gateway, request, exchange, self._refuse, decode)

        return answer

    async def _once(self, request: Request, exchange: Exchange, decode: Decode) -> None:
        """Run a request that has an idempotency key, or give it the answer that it had."""
        replay = await once(self.gateway, request, exchange, self._refuse, decode, self._kept.runs)
        if replay is not None:
            exchange.endpoint, exchange.stream = "", replay.stream  # no upstream was to be asked
            exchange.status, exchange.ended = 200, "ok"
            self._note(exchange)
            answer_again(request, exchange, replay)

    async def _list_stored(self, request: Request, exchange: Exchange) -> None:
        self._respond(request, exchange, await self._kept.stored.list(_scope(exchange), request.query))

    async def _get_stored(self, request: Request, exchange: Exchange) -> None:
        scope, answer_id = _scope(exchange), answer_id_of(request.path)
        self._respond(request, exchange, await self._kept.stored.retrieve(scope, answer_id))

    async def _list_messages(self, request: Request, exchange: Exchange) -> None:
        scope, answer_id = _scope(exchange), answer_id_of(request.path)
        self._respond(request, exchange, await self._kept.stored.messages(scope, answer_id, request.query))

    async def _edit_stored(self, request: Request, exchange: Exchange) -> None:
        scope, answer_id = _scope(exchange), answer_id_of(request.path)
        self._respond(request, exchange, await self._kept.stored.edit(scope, answer_id, request.body))

    async def _drop_stored(self, request: Request, exchange: Exchange) -> None:
        scope, answer_id = _scope(exchange), answer_id_of(request.path)
        self._respond(request, exchange, await self._kept.stored.drop(scope, answer_id))

    async def _list_models(self, request: Request, exchange: Exchange) -> None:
        names = self.gateway.routes.names(_principal(exchange))
        self._respond(request, exchange, {"object": "list", "data": [self._model(name) for name in names]})

    async def _get_model(self, request: Request, exchange: Exchange) -> None:
        name = unquote_to_bytes(request.path[len(MODELS) :]).decode("utf-8", "replace")
        if not name or self.gateway.routes.find(name, _principal(exchange)) is None:
            refusal = not_found(name)
            refusal.param = "model"
            raise refusal
        self._respond(request, exchange, self._model(name))

    def _model(self, name: str) -> JSON:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "penstock"}

    async def _explain(self, request: Request, exchange: Exchange) -> None:
        self._respond(request, exchange, explain(self.gateway, _principal(exchange), request.body))

    async def _own_usage(self, request: Request, exchange: Exchange) -> None:
        self._respond(request, exchange, await self._usage.own(_principal(exchange).key_id, request.query))

    async def _health(self, request: Request, exchange: Exchange) -> None:
        self._respond(request, exchange, {"status": "ok"}, record=False)

    async def _ready(self, request: Request, exchange: Exchange) -> None:
        """200 when the key store answers and at least one model has a target that can be used; else 503 and why."""
        gateway = self.gateway
        down = gateway.down
        usable = gateway.routes.usable(down)
        ready = self.store_ok and usable
        report = {
            "status": "ready" if ready else "not ready",
            "store": self.store_ok,
            "targets": usable,
            "down": sorted(down),
        }
        self._respond(request, exchange, report, status=200 if ready else 503, record=False)

    # -- inside

    def _respond(
        self, request: Request, exchange: Exchange, body: JSON | bytes, *, status: int = 200, record: bool = True
    ) -> None:
        exchange.status, exchange.ended = status, "ok"
        if record:
            self._note(exchange)
        data = body if isinstance(body, bytes) else _encode(body)
        request.respond(status, heads.lines(exchange, time.monotonic(), heads.JSON_LINES), data)

    def _refuse(self, request: Request, refusal: Refusal) -> None:
        headers, body = self._render(_exchange(request), refusal)
        request.respond(refusal.status, headers, body)

    def _render(self, exchange: Exchange, refusal: Refusal) -> tuple[bytes, bytes]:
        exchange.status, exchange.code = refusal.status, refusal.code
        body = refusal.body if isinstance(refusal, UpstreamRefusal) else None
        headers = heads.lines(exchange, time.monotonic(), heads.JSON_LINES, exchange.target)
        extra = b"".join(b"%s: %s\r\n" % pair for pair in refusal.headers)
        return headers + extra, body if body is not None else envelope(refusal)

    def _note(self, exchange: Exchange) -> None:
        self.gateway.telemetry.note(accounting.record(exchange, time.monotonic()))

    def _client(self, request: Request) -> str:
        """The client's address: the last one in x-forwarded-for that is not a proxy of ours, where a proxy tells."""
        if not self._trusted(request.peer):
            return request.peer
        forwarded = request.headers.get(b"x-forwarded-for", b"").decode("ascii", "replace")
        for address in reversed([part.strip() for part in forwarded.split(",")]):
            if not _is_address(address):
                break
            if not self._trusted(address):
                return address
        return request.peer

    def _trusted(self, address: str) -> bool:
        """A unix socket's peer (no address) is a proxy on this host, and trusted once any proxy is."""
        if not address:
            return True
        found = ipaddress.ip_address(address)
        mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None  # a dual-stack listener's peer
        return any((mapped or found) in network for network in self._proxies)


def _methods(get: _Handler | None = None, post: _Handler | None = None, delete: _Handler | None = None) -> _Methods:
    """The handlers of one path by method; what may be fetched may be asked for its head alone."""
    given = ((b"GET", get), (b"HEAD", get), (b"POST", post), (b"DELETE", delete))
    return {method: handler for method, handler in given if handler is not None}


def _admit(exchange: Exchange, identified: asyncio.Future[Principal]) -> None:
    if not identified.cancelled() and identified.exception() is None:
        exchange.principal = identified.result()


def _exchange(request: Request) -> Exchange:
    assert isinstance(request.context, Exchange)
    return request.context


def _principal(exchange: Exchange) -> Principal:
    assert exchange.principal is not None
    return exchange.principal


def _scope(exchange: Exchange) -> str:
    """Whose kept chat completions the caller may reach. Raises PermissionDenied where it may not chat at all."""
    principal = _principal(exchange)
    if principal.endpoints and CHAT not in principal.endpoints:
        raise PermissionDenied(f"This API key may not use {CHAT}; ask whoever runs this gateway.")
    return scope_of(principal)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _shown(text: bytes) -> str:
    """A client's own words, fit to be shown back to it."""
    shown = text[:64].decode("ascii", "replace")
    return shown if shown.isprintable() else "?"
