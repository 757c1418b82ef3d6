"""What attackers send first, to the whole data path: each is told no, or closed, and harms nobody else."""

from __future__ import annotations

import gzip
import re

import msgspec
import pytest

from penstock.config import Config, Limits, Server
from penstock.fake_upstream import FakeUpstream
from support.gateway import KEY, gateway, request, run

LIMITS = Limits(header_timeout=0.3, body_timeout=0.3, idle_timeout=0.3, body_bytes=200_000)
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\n"
KEYED = b"Host: a\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
SAID = b'{"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hi."}]}'
LENGTH = b"Content-Length: %d\r\n" % len(SAID)
MODELS = b"GET /v1/models HTTP/1.1\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = b"GET /v1/models/smuggled HTTP/1.1\r\n" + KEYED + b"\r\n"
WHOLE = b"%x\r\n%s\r\n" % (len(SAID), SAID)
END = b"0\r\n\r\n"

# What is sent, and the statuses that come back before the connection closes.
ROWS: dict[str, tuple[bytes, list[int]]] = {
    # Where one request ends and the next begins.
    "length and chunks": (CHAT + KEYED + LENGTH + TE + b"\r\n" + END + SMUGGLED, [400]),
    "chunks and length": (CHAT + KEYED + TE + b"Content-Length: 5\r\n\r\n" + END + SMUGGLED, [400]),
    "two lengths": (CHAT + KEYED + LENGTH + b"Content-Length: 3\r\n\r\n" + SAID, [400]),
    "the same length twice": (CHAT + KEYED + LENGTH + LENGTH + b"\r\n" + SAID, [400]),
    "lengths in a list": (CHAT + KEYED + b"Content-Length: 5, 5\r\n\r\nhello", [400]),
    "a signed length": (CHAT + KEYED + b"Content-Length: +5\r\n\r\nhello", [400]),
    "a negative length": (CHAT + KEYED + b"Content-Length: -5\r\n\r\nhello", [400]),
    "a hexadecimal length": (CHAT + KEYED + b"Content-Length: 0x5\r\n\r\nhello", [400]),
    "a length in words": (CHAT + KEYED + b"Content-Length: five\r\n\r\nhello", [400]),
    "an empty length": (CHAT + KEYED + b"Content-Length:\r\n\r\nhello", [400]),
    "a length of 2^64": (CHAT + KEYED + b"Content-Length: 18446744073709551616\r\n\r\n", [400]),
    "a length of five thousand digits": (CHAT + KEYED + b"Content-Length: " + b"0" * 5000 + b"5\r\n\r\nhello", [400]),
    "a length above the limit": (CHAT + KEYED + b"Content-Length: 1000001\r\n\r\n", [413]),
    "chunked, twice": (CHAT + KEYED + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + WHOLE + END, [400]),
    "chunked in two fields": (CHAT + KEYED + TE + TE + b"\r\n" + WHOLE + END, [400]),
    "chunked, then identity": (CHAT + KEYED + TE + b"Transfer-Encoding: identity\r\n\r\n" + WHOLE + END, [400]),
    "identity, then chunked": (CHAT + KEYED + b"Transfer-Encoding: identity\r\n" + TE + b"\r\n" + WHOLE + END, [400]),
    "identity alone": (CHAT + KEYED + b"Transfer-Encoding: identity\r\n\r\n" + SMUGGLED, [400]),
    "gzip as transfer-coding": (CHAT + KEYED + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + END, [400]),
    "a coding almost chunked": (CHAT + KEYED + b"Transfer-Encoding: xchunked\r\n\r\n" + END + SMUGGLED, [400]),
    "chunked behind a vertical tab": (CHAT + KEYED + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + END, [400]),
    "space before the colon": (CHAT + KEYED + b"Transfer-Encoding : chunked\r\n\r\n" + END + SMUGGLED, [400]),
    "chunks in HTTP/1.0": (CHAT.replace(b"1.1", b"1.0") + KEYED + TE + b"\r\n" + WHOLE + END, [400]),
    "a folded field": (CHAT + KEYED + b"X: a\r\n b\r\n" + LENGTH + b"\r\n" + SAID, [400]),
    "a folded coding": (CHAT + KEYED + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + END + SMUGGLED, [400]),
    "bare line feeds": ((MODELS + KEYED + b"\r\n").replace(b"\r\n", b"\n"), [400]),
    "one bare line feed": (MODELS + KEYED + b"X: y\nTransfer-Encoding: chunked\r\n\r\n", [400]),
    "a bare carriage return": (MODELS + KEYED + b"X: y\rTransfer-Encoding: chunked\r\n\r\n", [400]),
    "a bare line feed after a chunk size": (CHAT + KEYED + TE + b"\r\n5\nhello\r\n" + END, [400]),
    "a chunk size that overflows": (CHAT + KEYED + TE + b"\r\nfffffffffffffffff\r\nhello\r\n", [400]),
    "a chunk size of 2^63": (CHAT + KEYED + TE + b"\r\n8000000000000000\r\nhello\r\n", [408]),
    "a negative chunk size": (CHAT + KEYED + TE + b"\r\n-5\r\nhello\r\n" + END, [400]),
    "a chunk size with 0x": (CHAT + KEYED + TE + b"\r\n0x5\r\nhello\r\n" + END, [400]),
    "a chunk longer than its size": (CHAT + KEYED + TE + b"\r\n3\r\nhello\r\n" + END, [400]),
    "an empty chunk size": (CHAT + KEYED + TE + b"\r\n\r\nhello\r\n" + END, [400]),
    "one huge chunk extension": (CHAT + KEYED + TE + b"\r\n1;" + b"x" * 200_000, [431]),
    "many chunk extensions": (CHAT + KEYED + TE + b"\r\n" + b"1;a=b;c=d;e=f\r\n \r\n" * 20_000, [431]),
    "many trailers": (CHAT + KEYED + TE + b"\r\n" + WHOLE + b"0\r\n" + b"X: y\r\n" * 20_000, [431]),
    "chunks of one byte without end": (CHAT + KEYED + TE + b"\r\n" + b"1\r\n \r\n" * 200_001, [413]),
    # Heads that no client of ours sends.
    "no host": (MODELS + KEYED.replace(b"Host: a\r\n", b"") + b"\r\n", [400]),
    "two hosts": (MODELS + KEYED + b"Host: b\r\n\r\n", [400]),
    "the same host twice": (MODELS + KEYED + b"Host: a\r\n\r\n", [400]),
    "a host with a comma": (MODELS + KEYED.replace(b"Host: a", b"Host: a, b") + b"\r\n", [400]),
    "a field without a colon": (MODELS + KEYED + b"whatever\r\n\r\n", [400]),
    "a field without a name": (MODELS + KEYED + b": y\r\n\r\n", [400]),
    "a name with a space": (MODELS + KEYED + b"X Y: z\r\n\r\n", [400]),
    "a NUL in a name": (MODELS + KEYED + b"X\0: y\r\n\r\n", [400]),
    "a NUL in a value": (MODELS + KEYED + b"X: y\0z\r\n\r\n", [400]),
    "a NUL in the target": (b"GET /v1/mod\0els HTTP/1.1\r\n" + KEYED + b"\r\n", [400]),
    "a space in the target": (b"GET /v1/mod els HTTP/1.1\r\n" + KEYED + b"\r\n", [400]),
    "a control byte in a value": (MODELS + KEYED + b"X: \x07\r\n\r\n", [400]),
    "a method in small letters": (b"get /v1/models HTTP/1.1\r\n" + KEYED + b"\r\n", [400]),
    "a method that is none": (b"BREW /v1/models HTTP/1.1\r\n" + KEYED + b"\r\n", [400]),
    "a wrong method": (b"DELETE /v1/models HTTP/1.1\r\n" + KEYED + b"\r\n", [405]),
    "a target of sixty kilobytes": (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n" + KEYED + b"\r\n", [431]),
    "a field of sixty kilobytes": (MODELS + KEYED + b"X: " + b"y" * 60_000 + b"\r\n\r\n", [431]),
    "a thousand fields": (MODELS + KEYED + b"X: y\r\n" * 1_000 + b"\r\n", [431]),
    "fields without end": (MODELS + KEYED + b"X: y\r\n" * 100_000, [431]),
    "half a head": (MODELS + KEYED, [408]),
    "half a body": (CHAT + KEYED + LENGTH + b"\r\n" + SAID[:-1], [408]),
    "nothing": (b"", []),
    "empty lines without end": (b"\r\n" * 100_000, [431]),
    "empty lines": (b"\r\n" * 10, [408]),
    # Other versions, other protocols, other servers' work.
    "HTTP/0.9": (b"GET /v1/models\r\n\r\n", [400]),
    "HTTP/1.2": (MODELS.replace(b"1.1", b"1.2") + KEYED + b"\r\n", [400]),
    "HTTP/2.0 in words": (MODELS.replace(b"1.1", b"2.0") + KEYED + b"\r\n", [400]),
    "HTTP/9.9": (MODELS.replace(b"1.1", b"9.9") + KEYED + b"\r\n", [400]),
    "HTTP/11": (MODELS.replace(b"1.1", b"11") + KEYED + b"\r\n", [400]),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), [400]),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), [400]),
    "SSH": (b"SSH-2.0-OpenSSH_9.9\r\n", [400]),
    "noise": (bytes(range(256)) * 4, [400]),
    "CONNECT": (b"CONNECT elsewhere:443 HTTP/1.1\r\n" + KEYED + b"\r\n" + SMUGGLED, [400]),
    "CONNECT to a path": (b"CONNECT /v1/models HTTP/1.1\r\n" + KEYED + b"\r\n" + SMUGGLED, [405]),
    "CONNECT to a URL": (b"CONNECT http://a/v1/models HTTP/1.1\r\n" + KEYED + b"\r\n" + SMUGGLED, [400]),
    "TRACE": (b"TRACE /v1/models HTTP/1.1\r\n" + KEYED + b"\r\n", [405]),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\n" + KEYED + b"\r\n", [404]),
    "a target that is no URL": (b"GET http:// HTTP/1.1\r\n" + KEYED + b"\r\n", [400]),
    "another server's target": (b"GET http://elsewhere/secrets HTTP/1.1\r\n" + KEYED + b"\r\n", [404]),
    "a path that climbs": (b"GET /v1/../../etc/passwd HTTP/1.1\r\n" + KEYED + b"\r\n", [404]),
    "no key, and a body": (CHAT + b"Host: a\r\nContent-Length: 150000\r\n\r\n" + b" " * 150_000, [401]),
    "a gzip bomb": (
        CHAT
        + KEYED
        + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(gzip.compress(bytes(30_000_000)))
        + gzip.compress(bytes(30_000_000)),
        [413],
    ),
    "a gzip body that is none": (CHAT + KEYED + b"Content-Encoding: gzip\r\n" + LENGTH + b"\r\n" + SAID, [400]),
    "brotli": (CHAT + KEYED + b"Content-Encoding: br\r\n" + LENGTH + b"\r\n" + SAID, [415]),
    "an expectation behind a bad key": (
        CHAT + b"Host: a\r\nAuthorization: Bearer no\r\nExpect: 100-continue\r\n" + LENGTH + b"\r\n",
        [401],
    ),
    # Good requests with something behind or beside them: the good one is answered.
    "more after connection: close": (MODELS + KEYED + b"Connection: close\r\n\r\n" + SMUGGLED, [200]),
    "noise behind a request": (MODELS + KEYED + b"\r\n\x00\x01\x02", [200, 400]),
    "a body longer than its length": (
        CHAT + KEYED + b"Content-Length: %d\r\n\r\n" % (len(SAID)) + SAID + b"{}" + b"\r\n\r\n",
        [200, 400],
    ),
    "a body on a GET": (MODELS + KEYED + LENGTH + b"\r\n" + SAID, [200]),
    "a request in a body that asks for h2c": (
        CHAT + KEYED + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        [400],  # the body, which is not JSON: one answer, to one request
    ),
    "a websocket": (
        MODELS + KEYED + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n",
        [200],
    ),
    "trailers that frame": (
        CHAT + KEYED + TE + b"\r\n" + WHOLE + b"0\r\nContent-Length: 500\r\nTransfer-Encoding: x\r\nHost: b\r\n\r\n",
        [400],
    ),
    "a trailer that brings the key": (
        CHAT + b"Host: a\r\n" + TE + b"\r\n" + WHOLE + b"0\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n",
        [401],
    ),
}

ERROR_TYPES = {
    401: "authentication_error",
    **dict.fromkeys((400, 404, 405, 408, 413, 415, 431), "invalid_request_error"),
}


@pytest.mark.parametrize(("sent", "expected"), ROWS.values(), ids=ROWS)
def test_a_hostile_request_is_told_no_and_harms_nobody(sent: bytes, expected: list[int]) -> None:
    async def main() -> None:
        config = Config(server=Server(limits=LIMITS))
        async with FakeUpstream() as upstream, gateway(upstream.base_url, config=config) as running:
            async with running.client() as client:
                client.writer.write(sent)
                answers = await client.read_all()  # everything ends within its deadline, by our closing
            heads = list(re.finditer(rb"HTTP/1\.1 (\d{3}) [^\0]*?\r\n\r\n", answers))
            assert [int(head[1]) for head in heads] == expected
            for head in heads:
                for own in (rb"x-request-id: req_\w+", rb"openai-version: [\d-]+", rb"openai-processing-ms: \d+"):
                    assert int(head[1]) < 200 or re.search(rb"\r\n%s\r\n" % own, head[0], re.IGNORECASE)
            if expected and expected[-1] >= 400:
                assert b"\r\nConnection: close\r\n" in heads[-1][0] or sent.endswith(SMUGGLED)
                assert msgspec.json.decode(answers[heads[-1].end() :])["error"]["type"] == ERROR_TYPES[expected[-1]]
            assert running.server.edge.buffered == 0
            assert (await running.ask(request("GET", "/v1/models"))).status == 200
            assert [seen.path for seen in upstream.seen if "smuggled" in seen.path] == []

    run(main())
