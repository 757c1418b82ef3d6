"""A: what HTTP itself carries, and the envelope of errors."""

from __future__ import annotations

import gzip

from penstock.check.ask import CHAT, Ask, Headers, user
from penstock.check.client import Answer, Connection
from penstock.check.row import Check, Row, outcome
from penstock.check.verdict import (
    Failed,
    expect,
    is_json,
    refused,
    served,
    show,
    summary,
)

_OVERSIZE = 64 * 1024 * 1024 + 1
_DEPTH = 100_000
CONTINUE_LIMIT = 1.0
_SDK_HEADERS: Headers = {
    "x-stainless-lang": "python",
    "x-stainless-package-version": "3.54.0",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
    "openai-organization": "org-none",
    "openai-project": "proj-none",
    "openai-beta": "none",
    "idempotency-key": "penstock-check-1",
}


async def _minimal(ask: Ask) -> None:
    answer = await ask.chat()
    served(answer)
    kind = answer.header("content-type") or "none"
    expect(is_json(kind), f"content-type {kind}")


async def _request_ids(ask: Ask) -> None:
    answers = {
        "200": await ask.chat(fresh=True),
        "200 again": await ask.chat(fresh=True),
        "the 404 of a wrong path": await ask.get("/nope"),
        "the 400 of broken JSON": await ask.post(b'{"model":'),
    }
    ids = {what: answer.header("x-request-id") for what, answer in answers.items()}
    lacking = [what for what, one in ids.items() if not one]
    expect(not lacking, f"no x-request-id on {', '.join(lacking)}")
    expect(len(set(ids.values())) == len(ids), f"an id twice: {show(ids)}")


async def _service_headers(ask: Ask) -> None:
    answer = await ask.chat()
    duration, version = answer.header("openai-processing-ms"), answer.header("openai-version")
    expect(duration is not None and duration.isdigit(), f"openai-processing-ms is {show(duration)}")
    expect(version == "2020-10-01", f"openai-version is {show(version)}")


async def _truncated(ask: Ask) -> None:
    answer = await ask.post(b'{"model":')
    error = refused(answer)
    expect(error.get("type") == "invalid_request_error", f"type is {show(error.get('type'))}")
    lacking = [name for name in ("message", "type", "param", "code") if name not in error]
    expect(not lacking, f"the error has no {', '.join(lacking)}: {show(error)}")
    code = error["code"]
    expect(code is None or isinstance(code, str), f"code is {show(code)}, which is neither a string nor null")


def _bodies(*bodies: bytes) -> Check:
    """Each of these bodies must be a 400 in the envelope."""

    async def check(ask: Ask) -> None:
        for body in bodies:
            refused(await ask.post(body), what=show(body.decode("utf-8", "replace")) or "an empty body")

    return check


async def _not_utf8(ask: Ask) -> None:
    whole = ask.body()
    for body, what in (
        (b"\xff\xfe" + whole, "FF FE first"),
        (whole.replace(b"hello", b"\xff\xfe"), "FF FE in a string"),
    ):
        refused(await ask.post(body), what=what)


async def _lone_surrogate(ask: Ask) -> str:
    answer = await ask.chat(messages=user("emoji \ud83d"))
    if answer.status != 200:
        refused(answer)
    return outcome(answer)


async def _characters(ask: Ask) -> None:
    emoji = "\U0001f600"
    served(await ask.chat(messages=user(f"Say {emoji}.")), "an emoji as two \\u escapes")
    raw = ask.body().replace(b"Say hello.", f"Say {emoji} 漢.".encode())
    served(await ask.post(raw), "an emoji in UTF-8")
    served(await ask.chat(messages=user("Say\x00 hello.")), "NUL as \\u0000")


def _told(*bodies: tuple[str, bytes, bytes]) -> Check:
    """What becomes of the plain body with one part replaced."""

    async def check(ask: Ask) -> str:
        said = []
        for what, old, new in bodies:
            answer = await ask.post(ask.body(stream=False).replace(old, new, 1))
            said.append(f"{what}: {outcome(answer)}")
        return "; ".join(said)

    return check


async def _nested(ask: Ask) -> str:
    answer = await ask.post(b"[" * _DEPTH, worst=0)  # which no model gets to see
    served(await ask.chat(fresh=True), "the next request")
    return outcome(answer)


async def _oversize(ask: Ask) -> str | None:
    answer = await ask.post(b" " * _OVERSIZE + ask.body())
    if answer.status == 200:
        return "this server takes 64 MiB and more"
    refused(answer, (400, 413))
    served(await ask.chat(fresh=True), "the next request")
    return None


async def _gzipped(ask: Ask) -> str:
    answer = await ask.post(gzip.compress(ask.body(), mtime=0), {"content-encoding": "gzip"})
    if answer.status == 200:
        served(answer)
        return "decoded"
    refused(answer, (415,))
    return "refused with 415"


async def _text_plain(ask: Ask) -> str:
    return outcome(await ask.post(ask.body(), {"content-type": "text/plain"}))


async def _no_such_path(ask: Ask) -> None:
    refused(await ask.get("/nope"), (404,))


async def _wrong_method(ask: Ask) -> None:
    answer = await ask.send(ask.request("PUT", CHAT, ask.body()), worst=16)
    refused(answer, (405,))
    expect(answer.header("allow"), "405 without Allow")


async def _trailing_slash(ask: Ask) -> str:
    answer = await ask.post(ask.body(), path=CHAT + "/")
    location = answer.header("location")
    return f"{answer.status} to {location}" if location else outcome(answer)


async def _connection_uses(ask: Ask) -> None:
    plain = ask.request("POST", CHAT, ask.body())

    async def in_turn(line: Connection) -> list[Answer]:
        first = await line.exchange(plain)
        if first.closing:
            raise Failed("a second request on the connection: the server closes it after the first")
        return [first, await line.exchange(plain)]

    async def pipelined(line: Connection) -> list[Answer]:
        await line.send(plain + plain)
        return [await line.answer(), await line.answer()]

    body = ask.body()
    waits = ask.request("POST", CHAT, b"", {"content-length": str(len(body)), "expect": "100-continue"})

    async def expecting(line: Connection) -> list[Answer]:
        await line.send(waits)
        await line.continues(CONTINUE_LIMIT)  # as curl does: without an interim answer the body is sent all the same
        return [await line.exchange(body)]

    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    head = ask.request("POST", CHAT, b"", {"content-length": None, "transfer-encoding": "chunked"})

    async def chunked(line: Connection) -> list[Answer]:
        return [await line.exchange(head + chunks)]

    for what, requests, act in (
        ("a second request on the connection", [plain, plain], in_turn),
        ("two requests at once on the connection", [plain, plain], pipelined),
        ("Expect: 100-continue", [waits + body], expecting),
        ("a chunked request body", [head + chunks], chunked),
    ):
        for answer in await ask.together(requests, act):
            served(answer, what)


async def _preflight(ask: Ask) -> str:
    headers: Headers = {
        "origin": "https://app.invalid",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
        "authorization": None,
    }
    answer = await ask.send(ask.request("OPTIONS", CHAT, headers=headers), worst=0)
    allowed = answer.header("access-control-allow-origin")
    return f"{answer.status}, access-control-allow-origin {allowed}" if allowed else f"{answer.status}, no CORS"


async def _health(ask: Ask) -> None:
    base = ask.settings.place.base.removesuffix("/v1")
    answer = await ask.get(f"/{base}/health", {"authorization": None})
    expect(answer.status == 200, summary(answer))


def _headers(headers: Headers) -> Check:
    """A request with these headers is served."""

    async def check(ask: Ask) -> None:
        served(await ask.post(ask.body(), headers), ", ".join(headers))

    return check


ROWS = (
    Row(
        "A01",
        "M",
        "the plainest request",
        "200, content-type application/json, a JSON object",
        "SDKs parse a body as JSON only when its type says so",
        "openai-node hands out the body as text",
        _minimal,
    ),
    Row(
        "A02",
        "M",
        "any request, answered 200, 400 or 404",
        "x-request-id on each, and never the same twice",
        "it is what a user sends to support, and what finds the request in the logs",
        "openai-python e.request_id, openai-node err.requestID are empty",
        _request_ids,
    ),
    Row(
        "A03",
        "O",
        "the plainest request",
        "openai-processing-ms is an integer, openai-version is 2020-10-01",
        "dashboards split the server's time from the network's by it",
        "tools that read OpenAI's debugging headers",
        _service_headers,
    ),
    Row(
        "A04",
        "O",
        'the body {"model":',
        "400; error with message, type invalid_request_error, param and code, both string or null",
        "typed clients decode the whole envelope; a 5xx would be repeated",
        "typed SDKs (Rust, Go, Java) fail on an envelope of another shape",
        _truncated,
    ),
    Row(
        "A05",
        "M",
        'the bodies "str", [1], 42, null and true',
        "400 in the envelope",
        "a 5xx for a caller's mistake is repeated by every SDK, and pages the operator",
        "all SDKs retry a 5xx",
        _bodies(b'"str"', b"[1]", b"42", b"null", b"true"),
    ),
    Row(
        "A06",
        "O",
        "an empty body",
        "400 in the envelope",
        "a proxy that lost the body must be seen as what it is",
        "all SDKs retry a 5xx",
        _bodies(b""),
    ),
    Row(
        "A07",
        "M",
        "bytes that are not UTF-8, before the object and inside a string",
        "400 in the envelope",
        "one bad character in a pasted text must not look like an outage",
        "all SDKs retry a 5xx",
        _not_utf8,
    ),
    Row(
        "A08",
        "M",
        "half of a surrogate pair in a text",
        "200 or 400, never a 5xx",
        "JavaScript cuts strings inside an emoji, so clients do send it",
        "openai-node, browsers: endless retries",
        _lone_surrogate,
    ),
    Row(
        "A09",
        "S",
        "an emoji as two escapes and in UTF-8, and \\u0000",
        "200",
        "all of them are valid JSON",
        "chats in any language, tools that paste binary output",
        _characters,
    ),
    Row(
        "A10",
        "P",
        "a byte order mark before the object",
        "200 or 400",
        "files saved on Windows begin with one",
        "scripts that send files",
        _told(("a byte order mark", b"{", b"\xef\xbb\xbf{")),
    ),
    Row(
        "A11",
        "P",
        "a key twice, NaN, Infinity",
        "400, or the last one wins; 400 for NaN",
        "parsers differ, and what a filter saw must be what the model gets",
        "gateways in a row that read the same body differently",
        _told(
            ("a key twice", b"{", b'{"temperature": 1, "temperature": 1, '),
            ("NaN", b"{", b'{"temperature": NaN, '),
            ("Infinity", b"{", b'{"temperature": Infinity, '),
        ),
    ),
    Row(
        "A12",
        "P",
        "100,000 nested arrays",
        "400 or 413, and the server lives on",
        "a recursive parser dies of it, and takes every stream with it",
        "everyone who is being served at that time",
        _nested,
        heavy=True,
    ),
    Row(
        "A13",
        "M",
        "a body of 64 MiB and a byte, most of it white space",
        "413 in the envelope, then the next request is served",
        "a connection that breaks is repeated, the same 64 MiB again",
        "all SDKs repeat a broken connection, and report it as an outage",
        _oversize,
        heavy=True,
    ),
    Row(
        "A14",
        "M",
        "a body that is compressed with gzip",
        "decoded and served, or 415 in the envelope",
        "a server that ignores content-encoding says that the model is missing",
        "clients with compression: a misleading 400",
        _gzipped,
    ),
    Row(
        "A15",
        "P",
        "JSON as text/plain",
        "200 or 415",
        "curl -d without a header sends a form's type",
        "shell scripts",
        _text_plain,
    ),
    Row(
        "A16",
        "M",
        "GET on a path that does not exist",
        "404 in the envelope, as JSON",
        "an HTML page ends as an unreadable error in the user's face",
        "all SDKs show the page's source",
        _no_such_path,
    ),
    Row(
        "A17",
        "O",
        "PUT on /chat/completions",
        "405 in the envelope, with Allow",
        "RFC 9110 wants Allow; it tells a caller what was meant",
        "hand-written clients",
        _wrong_method,
    ),
    Row(
        "A18",
        "P",
        "a slash after /chat/completions",
        "200, or 404 in the envelope; no redirect",
        "a redirect makes clients drop the body or the key",
        "clients that join URLs carelessly",
        _trailing_slash,
    ),
    Row(
        "A19",
        "M",
        "two requests in turn and at once on a connection, Expect: 100-continue, a chunked body",
        "all are served",
        "SDKs reuse connections, curl waits for 100, streaming uploads are chunked",
        "openai-python and openai-node (pools), curl, Go's http",
        _connection_uses,
    ),
    Row(
        "A20",
        "P",
        "a browser's preflight",
        "CORS headers, or none at all",
        "it decides whether a page can call the server",
        "applications in the browser",
        _preflight,
    ),
    Row(
        "A21",
        "M",
        "GET /health without a key",
        "200",
        "load balancers and benchmarks wait for it before they begin",
        "guidellm gives up, Kubernetes restarts the pod",
        _health,
    ),
    Row(
        "A22",
        "O",
        "x-client-request-id: abc",
        "200",
        "callers mark their requests with it",
        "applications that trace their calls",
        _headers({"x-client-request-id": "abc"}),
    ),
    Row(
        "A23",
        "M",
        "the headers that SDKs send: x-stainless-*, openai-organization, idempotency-key",
        "200",
        "they come with every call of every official SDK",
        "all official SDKs",
        _headers(_SDK_HEADERS),
    ),
)
