"""The control plane's doors, driven over HTTP on a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from penstock.control.admin import application, serve
from penstock.link import SeriesValue

KEY = "sk-admin-key-for-tests"
Get = Callable[..., Awaitable[tuple[int, dict[str, str], bytes]]]


async def scrape() -> Sequence[SeriesValue]:
    return (SeriesValue("penstock_connections_open", (), 5),)


async def broken() -> Sequence[SeriesValue]:
    raise LookupError("a fault of ours, with details")


def run(
    scenario: Callable[[Get], Awaitable[None]],
    hosts: Sequence[str] = (),
    source: Callable[[], Awaitable[Sequence[SeriesValue]]] = scrape,
) -> None:
    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(application(source, KEY, hosts), [listening], stop))

        async def get(
            path: str,
            key: str | None = KEY,
            host: str | None = "localhost",
            method: str = "GET",
            scheme: str = "Bearer",
        ) -> tuple[int, dict[str, str], bytes]:
            head = [f"{method} {path} HTTP/1.1", "Connection: close"]
            head += [f"Host: {host}"] if host is not None else []
            head += [f"Authorization: {scheme} {key}"] if key is not None else []
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write("\r\n".join([*head, "", ""]).encode())
            answer, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
            first, *lines = answer.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            return int(first.split()[1]), headers, body

        await scenario(get)
        stop.set()
        await serving

    asyncio.run(main())


def error(body: bytes) -> dict[str, Any]:
    envelope = json.loads(body)
    assert envelope.keys() == {"error"}
    assert envelope["error"].keys() == {"message", "type", "param", "code"}
    found: dict[str, Any] = envelope["error"]
    return found


def test_metrics_are_served_to_who_has_the_admin_key() -> None:
    async def scenario(get: Get) -> None:
        status, headers, body = await get("/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
        assert b"penstock_connections_open 5.0" in body
        assert (await get("/metrics", scheme="bEARER"))[0] == 200

    run(scenario)


@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x", KEY[:-1]])
def test_whoever_has_no_admin_key_learns_nothing(key: str | None) -> None:
    async def scenario(get: Get) -> None:
        for path in ("/metrics", "/v1/admin/keys", "/nothing", "/health/"):
            status, headers, body = await get(path, key=key)
            assert status == 401
            assert headers["www-authenticate"] == "bearer"
            assert error(body)["type"] == "authentication_error"

    run(scenario)


def test_another_scheme_is_no_admin_key() -> None:
    async def scenario(get: Get) -> None:
        assert (await get("/metrics", scheme="Basic"))[0] == 401

    run(scenario)


def test_health_needs_no_key() -> None:
    async def scenario(get: Get) -> None:
        status, _, body = await get("/health", key=None)
        assert (status, json.loads(body)) == (200, {"status": "ok"})

    run(scenario)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8001", "127.0.0.1:9", "[::1]:8001", "ops.example.com:443"])
def test_a_host_of_ours_is_answered_whatever_the_port(host: str) -> None:
    async def scenario(get: Get) -> None:
        assert (await get("/health", host=host))[0] == 200

    run(scenario, hosts=["ops.example.com"])


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "evil.example:8001", "10.0.0.7"])
def test_a_host_that_is_none_of_ours_is_misdirected_with_or_without_the_key(host: str) -> None:
    async def scenario(get: Get) -> None:
        for key in (KEY, None):
            status, _, body = await get("/health", host=host, key=key)
            assert status == 421
            assert error(body)["code"] == "misdirected_request"

    run(scenario, hosts=["ops.example.com"])


@pytest.mark.parametrize("host", [None, "", "a b", "user@localhost", "localhost/x", "local*host"])
def test_a_host_that_is_no_host_is_a_bad_request(host: str | None) -> None:
    async def scenario(get: Get) -> None:
        status, _, _ = await get("/health", host=host)
        assert status == 400

    run(scenario)


def test_where_every_address_is_listened_on_any_address_in_numbers_is_a_host() -> None:
    async def scenario(get: Get) -> None:
        assert (await get("/health", host="10.0.0.7:8001"))[0] == 200
        assert (await get("/health", host="[fd00::7]"))[0] == 200
        assert (await get("/health", host="evil.example"))[0] == 421

    run(scenario, hosts=["*"])


def test_an_unknown_route_and_a_wrong_method_are_answered_in_the_envelope() -> None:
    async def scenario(get: Get) -> None:
        status, _, body = await get("/v1/admin/nothing")
        assert status == 404
        assert "/v1/admin/nothing" in error(body)["message"]
        status, headers, body = await get("/metrics", method="POST")
        assert status == 405
        assert headers["allow"] == "get, head"
        assert error(body)["type"] == "invalid_request_error"

    run(scenario)


def test_a_fault_of_ours_tells_no_details(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(get: Get) -> None:
        status, _, body = await get("/metrics")
        assert status == 500
        assert error(body)["type"] == "server_error"
        assert b"details" not in body

    run(scenario, source=broken)
