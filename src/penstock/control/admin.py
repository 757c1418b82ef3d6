"""The control plane over HTTP: metrics, and whether the parent lives; later rooms of the management API move in here.

A request passes two doors before any route: its Host must be one of ours, because a web page may make a browser
connect here under a name of the page's own (DNS rebinding); and it must carry the admin key, but for `/health`. So
a route that somebody adds is closed until the key opens it. Every refusal is the JSON envelope that the API uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.control.exposition import CONTENT_TYPE, expose
from penstock.errors import AuthenticationFailed, InvalidRequest, MethodNotAllowed, NotFound, Refusal, ServerFault
from penstock.link import SeriesValue
from penstock.ticks import next_tick
from penstock.wire.envelope import envelope

OPEN = frozenset({"/health"})
LOCAL = ("localhost", "127.0.0.1", "::1")
STOP_LIMIT = 2

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class Misdirected(InvalidRequest):
    """The Host is none of ours (RFC 9110, section 15.5.20)."""

    status = 421
    default_code = "misdirected_request"


def application(
    scrape: Callable[[], Awaitable[Sequence[SeriesValue]]], admin_key: str, hosts: Collection[str]
) -> Starlette:
    """`scrape` gives the metrics. `hosts`: the names that Host may have, without ports; "*" stands for any
    address written in numbers, which no page can claim as its own."""

    async def metrics(_request: Request) -> Response:
        return Response(expose(await scrape()), headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[Route("/metrics", metrics, methods=["GET"]), Route("/health", health, methods=["GET"])],
        middleware=[Middleware(Doors, admin_key=admin_key, hosts=hosts)],
        exception_handlers={HTTPException: _http_exception, Exception: _fault},
    )


class Doors:
    """Answers what may not pass; knows no routes."""

    def __init__(self, app: ASGIApp, admin_key: str, hosts: Collection[str]) -> None:
        self._app = app
        self._digest = hashlib.sha256(admin_key.encode()).digest()
        self._hosts = frozenset(host.lower() for host in (*hosts, *LOCAL))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            self._check_host([value for name, value in scope["headers"] if name == b"host"])
            if scope["path"] not in OPEN:
                self._check_key([value for name, value in scope["headers"] if name == b"authorization"])
        except Refusal as refusal:
            await _refused(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, values: list[bytes]) -> None:
        match = _HOST.fullmatch(values[0].decode("latin-1")) if len(values) == 1 else None
        if match is None:
            raise InvalidRequest("One Host header with a name or an address is required.")
        host = match.group(1).strip("[]").lower()
        if host not in self._hosts and not ("*" in self._hosts and _is_address(host)):
            raise Misdirected("The control plane does not answer to this Host; name it in server.admin_hosts.")

    def _check_key(self, values: list[bytes]) -> None:
        scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        given = hashlib.sha256(token).digest()
        if not hmac.compare_digest(given, self._digest) or scheme.lower() != b"bearer":
            raise AuthenticationFailed(
                "The control plane needs the admin key: send 'Authorization: Bearer KEY' with the key from "
                "PENSTOCK_ADMIN_KEY or from the file admin-key in the data directory.",
                headers=((b"www-authenticate", b"Bearer"),),
            )


async def serve(app: Starlette, listening: list[socket.socket], stop: asyncio.Event) -> None:
    """Answer on the sockets, which must listen already, until `stop` is set."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=100,
        timeout_graceful_shutdown=STOP_LIMIT,
    )
    server = _Quiet(config)
    serving = asyncio.create_task(server.serve(sockets=listening))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        server.stop()
        await asyncio.shield(serving)


class _Quiet(uvicorn.Server):
    """uvicorn without its signal handlers, the parent having its own, and without looking ten times a second whether
    it is to end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        clock = asyncio.get_running_loop().time
        while not await self.on_tick(0):  # which renews the Date
            now = clock()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), next_tick(now, 1.0) - now)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refused(refusal: Refusal) -> Response:
    headers = {name.decode(): value.decode() for name, value in refusal.headers}
    return Response(envelope(refusal), refusal.status, headers, "application/json")


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        message = f"{request.method} is not allowed here; allowed: {allow}."
        return _refused(MethodNotAllowed(message, headers=((b"allow", allow.encode()),)))
    return _refused(NotFound(f"There is no {request.method} {request.url.path} on the control plane."))


async def _fault(_request: Request, _error: Exception) -> Response:
    return _refused(ServerFault("The control plane failed; its log says more."))
