"""Rows A to C: bodies, encodings, routes, keys and models, whichever model is asked."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import uuid
from typing import Any

import httpx
import pytest

from penstock.fake_upstream import FakeUpstream
from penstock.types import Principal
from support.callers import DEMO, HELLO, HOSTED, Caller, error_of
from support.gateway import KEY, Answered, gateway, read_answer, run
from support.raw import raw_client
from support.upstreams import ThreadedUpstream

GZIP = {"content_encoding": "gzip"}


def sends(caller: Caller, *requests: bytes) -> list[Answered]:
    """The answers on one connection, to requests that are all sent before the first answer is read."""

    async def main() -> list[Answered]:
        port = int(caller.served.url.rpartition(":")[2])
        async with raw_client(("127.0.0.1", port)) as client:
            await client.send(b"".join(requests))
            return [await read_answer(client) for _ in requests]

    return asyncio.run(main())


def head(caller: Caller, *lines: str) -> bytes:
    fields = ["POST /v1/chat/completions HTTP/1.1", "host: test", f"authorization: Bearer {caller.served.key}", *lines]
    return "".join(f"{line}\r\n" for line in fields).encode() + b"\r\n"


# -- A


def test_an_answer_is_json_and_says_so(caller: Caller) -> None:
    response = caller.chat()
    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == "application/json"
    assert type(response.json()) is dict


def test_every_answer_has_openais_headers_and_an_id_that_no_other_has(caller: Caller) -> None:
    responses = [
        caller.chat(),
        caller.chat(stream=True),
        caller.chat(temperature=3),
        caller.chat(stream=True, temperature=3),
        caller.chat(model="nope"),
        caller.post(b"{"),
        caller.post(b"{}", authorization="Bearer wrong"),
        caller.http.get("/v1/nope"),
        caller.http.put("/v1/chat/completions"),
        caller.http.get("/v1/models"),
    ]
    assert [response.status_code for response in responses] == [200, 200, 400, 400, 404, 400, 401, 404, 405, 200]
    assert len({response.headers["x-request-id"] for response in responses}) == len(responses)
    for response in responses:
        assert response.headers["x-request-id"]
        assert response.headers["openai-processing-ms"].isdecimal()
        assert response.headers["openai-version"] == "2020-10-01"


MINIMAL = b'{"model":"gpt-5.4","messages":[{"role":"user","content":"?"}]}'


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"model":', id="A04"),
        *(pytest.param(body, id=f"A05-{body.decode()}") for body in (b'"str"', b"[1]", b"42", b"null", b"true")),
        pytest.param(b"", id="A06"),
        pytest.param(b'\xff\xfe{"model":"gpt-5.4"}', id="A07-in-front"),
        pytest.param(MINIMAL.replace(b"?", b"caf\xe9"), id="A07-in-content"),
        pytest.param(MINIMAL.replace(b'"?"', b'"?","x":"\xc3"'), id="A07-in-a-member-nobody-reads"),
        pytest.param(MINIMAL.replace(b"?", rb"emoji \ud83d"), id="A08"),
        pytest.param(b"\xef\xbb\xbf" + MINIMAL, id="A10"),
        pytest.param(b'{"model":"demo",' + MINIMAL[1:], id="A11-twice"),
        pytest.param(MINIMAL[:-1] + b',"temperature":NaN}', id="A11-nan"),
        pytest.param(MINIMAL[:-1] + b',"top_k":Infinity}', id="A11-infinity"),
        pytest.param(b"[" * 100_000, id="A12-array"),
        pytest.param(MINIMAL[:-1] + b',"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, id="A12-objects"),
    ],
)
def test_a_body_that_is_no_request_is_a_400_at_once_and_harms_nobody(caller: Caller, body: bytes) -> None:
    before = time.monotonic()
    error = error_of(caller.post(body), 400)
    assert time.monotonic() - before < 2
    assert error["type"] == "invalid_request_error"
    assert caller.chat().status_code == 200


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(rb'"\ud83d\ude00"', "\U0001f600", id="escapes"),
        pytest.param('"\U0001f600"'.encode(), "\U0001f600", id="bytes"),
        pytest.param(rb'"a\u0000b"', "a\0b", id="nul"),
    ],
)
def test_text_of_any_kind_is_taken(caller: Caller, content: bytes, text: str) -> None:
    body = json.dumps(caller.body()).encode().replace(b'"Hello!"', content)
    assert caller.post(body).status_code == 200


def test_text_of_any_kind_reaches_the_provider_as_it_was_sent(
    hosted: Caller, strict_upstream: ThreadedUpstream
) -> None:
    mark = uuid.uuid4().hex
    body = MINIMAL.replace(b"?", b"\xf0\x9f\x98\x80 " + rb"\ud83d\ude00 a\u0000b \u00e9 " + mark.encode())
    assert hosted.post(body).status_code == 200
    assert [seen.body for seen in strict_upstream.seen if mark.encode() in seen.body] == [body]


def test_a_compressed_body_is_the_body(caller: Caller) -> None:
    whole = json.dumps(caller.body()).encode()
    assert caller.post(gzip.compress(whole), **GZIP).status_code == 200
    assert error_of(caller.post(gzip.compress(b"{}"), **GZIP), 400)["param"] == "model"
    assert error_of(caller.post(gzip.compress(whole)[:-9], **GZIP), 400)["type"] == "invalid_request_error"


@pytest.mark.parametrize("encoding", ["zstd", "br", "deflate", "gzip, gzip", "nonsense"])
def test_a_body_in_another_encoding_is_a_415_and_no_missing_model(caller: Caller, encoding: str) -> None:
    error = error_of(caller.post(b"\x28\xb5\x2f\xfd", content_encoding=encoding), 415)
    assert error["type"] == "invalid_request_error"
    assert "encoding" in error["message"].lower()


def test_a_body_that_inflates_beyond_the_limit_is_a_413_and_the_gateway_goes_on(hosted: Caller) -> None:
    bomb = gzip.compress(b" " * (33 * 1024 * 1024))
    assert error_of(hosted.post(bomb, **GZIP), 413)["code"] == "request_too_large"
    assert hosted.chat().status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "nonsense"])
def test_json_is_json_whatever_its_type_is_called(caller: Caller, kind: str) -> None:
    assert caller.post(json.dumps(caller.body()).encode(), content_type=kind).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/nope", "/v1/chat/completions/", "/chat/completions", "/v1/assistants", "/"])
def test_a_route_that_is_not_there_is_a_404_in_json_and_no_redirect(caller: Caller, method: str, path: str) -> None:
    response = caller.http.request(method, path, json=caller.body() if method == "POST" else None)
    error = error_of(response, 404)
    assert (error["type"], error["code"]) == ("invalid_request_error", "unknown_url")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_method_that_is_not_served_is_a_405_that_says_which_is(caller: Caller, method: str) -> None:
    response = caller.http.request(method, "/v1/chat/completions")
    assert response.headers["allow"] == "GET, HEAD, POST"
    assert error_of(response, 405)["code"] == "method_not_allowed"


def test_a_browsers_preflight_is_refused_and_nothing_speaks_of_origins(caller: Caller) -> None:
    asks = {"origin": "https://example.com", "access-control-request-method": "POST"}
    responses = [
        caller.http.request("OPTIONS", "/v1/chat/completions", headers=asks),
        caller.post(json.dumps(caller.body()).encode(), origin="https://example.com"),
    ]
    assert [response.status_code for response in responses] == [405, 200]
    for response in responses:
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_requests_that_share_a_connection_are_answered_in_turn(caller: Caller) -> None:
    body = json.dumps(caller.body(temperature=0)).encode()
    plain = head(caller, f"content-length: {len(body)}") + body
    bad = head(caller, "content-length: 2") + b"{}"
    streamed = json.dumps(caller.body(stream=True)).encode()
    stream = head(caller, f"content-length: {len(streamed)}") + streamed
    answers = sends(caller, plain, stream, bad, plain)
    assert [answer.status for answer in answers] == [200, 200, 400, 200]
    assert answers[1].body.endswith(b"data: [DONE]\n\n")
    assert answers[0].json()["choices"] == answers[3].json()["choices"]


def test_a_body_may_come_in_chunks_and_may_wait_to_be_asked_for(caller: Caller) -> None:
    body = json.dumps(caller.body()).encode()
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"

    async def main() -> None:
        port = int(caller.served.url.rpartition(":")[2])
        async with raw_client(("127.0.0.1", port)) as client:
            await client.send(head(caller, "transfer-encoding: chunked", "expect: 100-continue"))
            assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(pieces)
            assert (await read_answer(client)).status == 200

    asyncio.run(main())


def test_what_sdks_and_proxies_add_to_a_request_is_taken(caller: Caller) -> None:
    fields = {
        "x_stainless_lang": "python",
        "x_stainless_retry_count": "1",
        "x_stainless_read_timeout": "600",
        "openai_organization": "org-x",
        "openai_project": "proj-x",
        "openai_beta": "assistants=v2",
        "idempotency_key": caller.model,  # each model's own
        "accept": "application/json",
        "accept_encoding": "gzip, deflate",
        "x_client_request_id": "trace-7",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "cookie": "a=b",
    }
    assert caller.post(json.dumps(caller.body()).encode(), **fields).status_code == 200


def test_health_needs_no_key(caller: Caller) -> None:
    assert httpx.get(f"{caller.served.url}/health", trust_env=False).status_code == 200


# -- B


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("authorization", "says"),
    [
        pytest.param(None, "No API key was provided", id="B01"),
        pytest.param("Bearer sk-nobody-knows-this-key", "sk-n***-key", id="B02"),
        pytest.param("Basic dXNlcjpwYXNz", "malformed", id="B03-scheme"),
        pytest.param("Bearer  {key}", "malformed", id="B03-two-spaces"),
    ],
)
def test_without_a_good_key_there_is_a_401_in_json(
    caller: Caller, authorization: str | None, says: str, stream: bool
) -> None:
    fields = {} if authorization is None else {"authorization": authorization.format(key=caller.served.key)}
    url = f"{caller.served.url}/v1/chat/completions"
    error = error_of(httpx.post(url, json=caller.body(stream=stream), headers=fields, trust_env=False), 401)
    assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)
    assert says in error["message"]
    assert "nobody" not in error["message"]
    assert caller.served.key not in error["message"]


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_scheme_may_be_written_in_any_case(caller: Caller, scheme: str) -> None:
    body = json.dumps(caller.body()).encode()
    assert caller.post(body, authorization=f"{scheme} {caller.served.key}").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_a_key_may_not_use_is_told_like_one_that_does_not_exist(stream: bool) -> None:
    async def main() -> None:
        keys = {KEY: Principal("key_few", "few", ("allowed",))}
        async with FakeUpstream() as upstream, gateway(upstream.base_url, keys=keys) as running:
            assert (await running.chat(model="allowed", stream=stream)).status == 200
            answer = await running.chat(model="secret", stream=stream)
            assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", None)
            assert answer.error["message"] == "The model `secret` does not exist or you do not have access to it."
            assert len(upstream.seen) == 1

    run(main())


# -- C


def test_both_models_are_listed_and_found(caller: Caller) -> None:
    listed = caller.http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [HOSTED, DEMO]
    found: dict[str, Any] = caller.http.get(f"/v1/models/{caller.model}").json()
    assert found in listed["data"]
    assert (found["object"], type(found["created"]), type(found["owned_by"])) == ("model", int, str)


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_nobody_knows_is_a_404_in_openais_words(hosted: Caller, stream: bool) -> None:
    assert error_of(hosted.chat(model="nope", messages=HELLO, stream=stream), 404) == {
        "message": "The model `nope` does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": None,
        "code": "model_not_found",
    }
