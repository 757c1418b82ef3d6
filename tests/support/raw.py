"""A client of sockets, for tests that look at the bytes themselves."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

PATIENCE = 10.0


class Raw:
    """One connection: `send` bytes, `read` until they hold something or the end comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write it all."""
        self.writer.write(data)
        await self.writer.drain()

    async def read_until(self, part: bytes) -> bytes:
        """All bytes up to and with `part`."""
        return await asyncio.wait_for(self.reader.readuntil(part), PATIENCE)

    async def read_all(self) -> bytes:
        """All bytes until the peer closes; a reset raises ConnectionResetError."""
        return await asyncio.wait_for(self.reader.read(), PATIENCE)

    async def read_some(self) -> bytes:
        """The next bytes, or b"" at the end."""
        return await asyncio.wait_for(self.reader.read(65536), PATIENCE)

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        try:
            await asyncio.wait_for(self.writer.wait_closed(), PATIENCE)
        except (ConnectionError, ssl.SSLError):
            pass


@asynccontextmanager
async def raw_client(address: tuple[str, int] | str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Raw]:
    """A connection to HOST and PORT, or to the unix socket of a path; closed at the end."""
    if isinstance(address, str):
        streams = await asyncio.open_unix_connection(address, limit=1 << 26)
    else:
        name = None if tls is None else "localhost"
        streams = await asyncio.open_connection(*address, ssl=tls, server_hostname=name, limit=1 << 26)
    client = Raw(*streams)
    try:
        yield client
    finally:
        await client.close()


def http_request(method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    """A whole HTTP/1.1 request; header names are given with underscores."""
    lines = {"host": "test", "content-length": str(len(body))}
    lines.update((name.replace("_", "-"), value) for name, value in headers.items())
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body


def chat_request(*, key: str = "sk-upstream", **fields: Any) -> bytes:
    """A chat completion request with a user message, `fields` added to its body."""
    data = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Say hello."}], **fields}
    return http_request(
        "POST",
        "/v1/chat/completions",
        msgspec.json.encode(data),
        authorization=f"Bearer {key}",
        content_type="application/json",
    )
