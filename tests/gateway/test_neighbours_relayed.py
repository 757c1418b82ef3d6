"""Chat's neighbours through a whole gateway: same keys, routes, errors, records and ends as a chat completion."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock.config import Breaker, Config, Limits, Server, Upstream
from penstock.fake_upstream import Answer, Chunk, FakeUpstream
from penstock.fake_upstream.script import Cut, Fault, Script, Tokens
from penstock.fake_upstream.server import Scripted
from penstock.types import EngineAddress, Principal, Record, Usage
from support.gateway import KEY, ORGANISATION, UPSTREAM_KEY, Answered, Running, gateway, request, run, to, upstream

LEAST: dict[str, dict[str, Any]] = {
    "embeddings": {"model": "m", "input": "Hello there"},
    "completions": {"model": "m", "prompt": "Hello there"},
    "responses": {"model": "m", "input": "Hello there"},
}
EACH = pytest.mark.parametrize("endpoint", LEAST)
STREAMED = pytest.mark.parametrize("endpoint", ["completions", "responses"])
FORMS = pytest.mark.parametrize(
    ("endpoint", "stream"),
    [(endpoint, stream) for endpoint in LEAST for stream in (False, True) if endpoint != "embeddings" or not stream],
)
DONE = b"data: [DONE]\n\n"


def asking(endpoint: str, key: str | None = KEY, **members: Any) -> bytes:
    return request("POST", f"/v1/{endpoint}", key, json.dumps({**LEAST[endpoint], **members}).encode())


@asynccontextmanager
async def before(
    script: Scripted | None = None, limits: Limits | None = None, **settings: Any
) -> AsyncIterator[tuple[FakeUpstream, Running]]:
    """A gateway before a fake upstream."""
    config = Config(server=Server(limits=limits or Limits()))
    async with (
        FakeUpstream(script, keys=[UPSTREAM_KEY]) as fake,
        gateway(upstream(fake.base_url), config=config, **settings) as running,
    ):
        yield fake, running


class Told:
    """What came of one request: the answer, its record, and the body that the provider was sent, if it was called."""

    def __init__(self, answer: Answered, record: Record, sent: bytes | None, series: dict[tuple[str, ...], float]):
        self.answer = answer
        self.record = record
        self.sent = sent
        self.series = series


def told(endpoint: str, script: Scripted | None = None, sending: bytes | None = None, **members: Any) -> Told:
    """Ask once."""
    found: list[Told] = []

    async def main() -> None:
        async with before(script, models={"m": to("fake"), "alias": to("fake", model="real")}) as (fake, running):
            answer = await running.ask(sending or asking(endpoint, **members))
            record = await running.record()
            found.append(Told(answer, record, fake.seen[-1].body if fake.seen else None, running.series()))

    run(main())
    return found[0]


def events(answer: Answered) -> list[Any]:
    """The events of a stream of responses, decoded; each is named by its type."""
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    found = []
    for part in answer.body.removesuffix(b"\n\n").split(b"\n\n"):
        name, _, data = part.partition(b"\n")
        found.append(json.loads(data.removeprefix(b"data: ")))
        assert name == b"event: %b" % found[-1]["type"].encode()
    return found


# -- what goes out and what comes back


@FORMS
def test_the_body_goes_out_as_it_came(endpoint: str, stream: bool) -> None:
    asked = {"stream_options": {"include_usage": True}} if stream and endpoint == "completions" else {}
    body = json.dumps({**LEAST[endpoint], "stream": stream, **asked, "foo": [1.50]}, indent=3)
    body = body.replace("1.5", "1.50").replace("Hello", "H\\u00e9llo")
    found = told(endpoint, sending=request("POST", f"/v1/{endpoint}", body=body.encode()))
    assert found.answer.status == 200
    assert found.sent == body.encode()


@FORMS
def test_an_alias_is_patched_into_the_bytes(endpoint: str, stream: bool) -> None:
    found = told(endpoint, model="alias", foo=1.5, stream=stream)
    assert found.answer.status == 200
    sent = json.loads(found.sent or b"")
    assert (sent["model"], sent["foo"]) == ("real", 1.5)
    assert (found.record.route, found.record.model) == ("alias", "real")
    assert found.answer.headers["x-penstock-target"] == "fake/real"


@EACH
def test_a_whole_answer_comes_back_byte_for_byte(endpoint: str) -> None:
    bodies = {
        "embeddings": '{ "data":[{"embedding":"AAAA","index":0}], "usage":{"prompt_tokens":3,"total_tokens":3}}',
        "completions": '{ "choices":[{"text":"é","finish_reason":"stop"}], "usage":{"prompt_tokens":3}}',
        "responses": '{ "output":[ ], "status":"completed", "usage":{"input_tokens":3}}',
    }
    found = told(endpoint, Answer(body=bodies[endpoint]))
    assert (found.answer.status, found.answer.body) == (200, bodies[endpoint].encode())
    assert found.answer.headers["content-type"] == "application/json"
    assert found.record.usage == Usage(prompt_tokens=3)


@FORMS
def test_usage_is_on_record_in_the_metrics_and_the_endpoint_in_the_record(endpoint: str, stream: bool) -> None:
    counted = Tokens(prompt=85, completion=210, cached=64, reasoning=32)
    found = told(endpoint, Answer(usage=counted), stream=stream)
    usage = Usage(85) if endpoint == "embeddings" else Usage(85, 210, 64, 32)
    record = found.record
    assert (record.usage, record.endpoint, record.stream) == (usage, endpoint, stream)
    assert (record.ended, record.status, record.attempts[0].outcome) == ("ok", 200, "ok")
    assert (record.first_event_ms is not None) == stream
    assert found.series["penstock_tokens_total", "m", "fake", "prompt"] == 85
    assert found.series["penstock_tokens_total", "m", "fake", "completion"] == usage.completion_tokens
    assert found.series["penstock_requests_total", "m", "fake", "200", "ok"] == 1


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
def test_usage_of_a_streamed_completion_is_asked_for_and_kept_from_who_did_not_ask(options: Any) -> None:
    found = told("completions", Answer(chunks=("a ", "b")), stream=True, stream_options=options)
    assert json.loads(found.sent or b"")["stream_options"]["include_usage"] is True
    assert found.record.usage is not None
    assert found.record.usage.completion_tokens == 2
    assert b'"choices":[]' not in found.answer.body
    assert found.answer.body.endswith(DONE)


def test_usage_of_a_streamed_completion_reaches_who_asked() -> None:
    found = told("completions", Answer(chunks=("a ", "b")), stream=True, stream_options={"include_usage": True})
    *_, usage, done, nothing = found.answer.body.split(b"\n\n")
    last = json.loads(usage.removeprefix(b"data: "))
    assert (last["object"], last["choices"], last["usage"]["completion_tokens"]) == ("text_completion", [], 2)
    assert (done, nothing) == (b"data: [DONE]", b"")


def test_a_streamed_response_is_typed_events_in_order_without_done() -> None:
    found = events(told("responses", Answer(chunks=("a ", "b")), stream=True).answer)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert found[0]["type"] == "response.created"
    assert found[-1]["type"] == "response.completed"
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == "a b"


def test_a_response_that_is_cut_by_its_limit_ends_as_incomplete() -> None:
    found = told("responses", stream=True, max_output_tokens=2)
    assert events(found.answer)[-1]["type"] == "response.incomplete"
    assert found.record.ended == "ok"


# -- keys, routes and refusals


@FORMS
def test_nobody_gets_in_without_a_key(endpoint: str, stream: bool) -> None:
    for key in (None, "sk-wrong-0123456789"):
        found = told(endpoint, sending=asking(endpoint, key, stream=stream))
        assert (found.answer.status, found.answer.error["code"]) == (401, "invalid_api_key")
        assert found.sent is None


@EACH
def test_a_key_reaches_only_its_models(endpoint: str) -> None:
    async def main() -> None:
        keys = {KEY: Principal("key_bob", "bob", ("gpt-*",))}
        async with before(keys=keys) as (fake, running):
            refused = await running.ask(asking(endpoint))
            assert (refused.status, refused.error["code"]) == (404, "model_not_found")
            assert (await running.ask(asking(endpoint, model="gpt-5.4"))).status == 200
            assert [seen.path for seen in fake.seen] == [f"/v1/{endpoint}"]

    run(main())


@FORMS
def test_an_unknown_model_is_a_404_before_anything_is_sent(endpoint: str, stream: bool) -> None:
    found = told(endpoint, model="nope", stream=stream)
    assert (found.answer.status, found.answer.error["code"]) == (404, "model_not_found")
    assert (found.sent, found.record.ended, found.record.endpoint) == (None, "refused", endpoint)


@FORMS
def test_a_bad_request_is_a_400_before_anything_is_sent(endpoint: str, stream: bool) -> None:
    found = told(endpoint, model=7, stream=stream)
    assert (found.answer.status, found.answer.error["param"]) == (400, "model")
    assert (found.sent, found.record.ended) == (None, "refused")


@EACH
def test_another_method_is_a_405(endpoint: str) -> None:
    found = told(endpoint, sending=request("GET", f"/v1/{endpoint}"))
    assert (found.answer.status, found.answer.headers["allow"]) == (405, "POST")
    assert found.answer.error["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1/input_items"),
        ("POST", "/v1/responses/input_tokens"),
        ("POST", "/v1/embeddings/"),
        ("POST", "/v1/engines/m/embeddings"),
        ("POST", "/v1/files"),
        ("POST", "/v1/batches"),
        ("POST", "/v1/audio/transcriptions"),
        ("POST", "/v1/images/generations"),
        ("POST", "/v1/moderations"),
        ("POST", "/v1/rerank"),
        ("GET", "/v1"),
        ("GET", "/v1/"),
        ("POST", "/embeddings"),
    ],
)
def test_every_other_route_is_denied(method: str, path: str) -> None:
    found = told("", sending=request(method, path, body=b'{"model":"m"}' if method == "POST" else b""))
    assert (found.answer.status, found.answer.error["code"]) == (404, "unknown_url")
    assert found.answer.error["type"] == "invalid_request_error"
    assert (found.sent, found.record.endpoint) == (None, "")


@EACH
def test_the_local_engine_says_that_it_answers_chat_alone(endpoint: str) -> None:
    async def main() -> None:
        local = Upstream("local", "llama")
        engine = EngineAddress("/nowhere", "token")
        async with gateway(local, models={"m": to("local")}, engine=engine) as running:
            answer = await running.ask(asking(endpoint))
            assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
            assert (answer.error["param"], answer.error["code"]) == ("model", "unsupported_endpoint")
            assert f"/v1/{endpoint}" in answer.error["message"]
            assert (await running.record()).ended == "refused"
            lanes = running.api.gateway.upstreams.lanes.all().values()
            assert {lane.health.outstanding for lane in lanes} == {0}

    run(main())


@EACH
def test_a_model_of_the_local_engine_and_a_provider_is_answered_by_the_provider(endpoint: str) -> None:
    async def main() -> None:
        engine = EngineAddress("/nowhere", "token")
        async with FakeUpstream() as fake:
            both = (Upstream("local", "llama"), upstream(fake.base_url))
            async with gateway(*both, models={"m": to("local", "fake")}, engine=engine) as running:
                answer = await running.ask(asking(endpoint))
                assert (answer.status, answer.headers["x-penstock-target"]) == (200, "fake/m")

    run(main())


@EACH
def test_a_model_whose_provider_is_down_is_a_503(endpoint: str) -> None:
    async def main() -> None:
        async with before() as (_, running):
            running.api.gateway.down = {"fake": "restarting"}
            answer = await running.ask(asking(endpoint))
            assert (answer.status, answer.error["code"]) == (503, "overloaded")

    run(main())


# -- errors of the upstream


@FORMS
@pytest.mark.parametrize(
    ("status", "ours", "code"),
    [
        (401, 502, "upstream_refused"),
        (404, 502, "upstream_refused"),
        (405, 502, "upstream_refused"),
        (501, 502, "upstream_refused"),
        (429, 429, "rate_limit_exceeded"),
        (500, 502, "upstream_failed"),
        (503, 503, "upstream_overloaded"),
    ],
)
def test_a_status_of_the_upstream_is_told_as_for_chat(
    endpoint: str, stream: bool, status: int, ours: int, code: str
) -> None:
    script = Answer(status=status, error=Fault(f"Of {ORGANISATION} and {UPSTREAM_KEY}."))
    found = told(endpoint, script, stream=stream)
    assert (found.answer.status, found.answer.error["code"]) == (ours, code)
    assert ORGANISATION not in f"{found.answer}"
    assert UPSTREAM_KEY not in f"{found.answer}"
    assert (found.record.status, found.record.attempts[0].status) == (ours, status)


@FORMS
def test_a_400_of_the_upstream_passes_unchanged(endpoint: str, stream: bool) -> None:
    body = '{ "error" : {"message":"né","type":"odd","param":"input","code":"x","y":1}}'
    found = told(endpoint, Answer(status=400, body=body), stream=stream)
    assert (found.answer.status, found.answer.body) == (400, body.encode())


@FORMS
@pytest.mark.parametrize("body", ["<html>Hi</html>", "", "null", '{"object":"list"}'])
def test_what_is_no_answer_is_a_502(endpoint: str, stream: bool, body: str) -> None:
    found = told(endpoint, Answer(body=body), stream=stream)
    assert (found.answer.status, found.answer.error["code"]) == (502, "upstream_failed")
    assert found.record.attempts[0].outcome == "malformed"


@EACH
def test_an_endpoint_that_fails_leaves_chat_alone(endpoint: str) -> None:
    async def main() -> None:
        script = Script(paths={f"/v1/{endpoint}": (Answer(status=501),)})
        async with before(script, breaker=Breaker(failures=2, probe_interval=60.0)) as (fake, running):
            statuses = [(await running.ask(asking(endpoint))).status for _ in range(4)]
            assert statuses == [502, 502, 503, 503]
            assert len(fake.seen) == 2
            assert (await running.chat(model="m")).status == 200

    run(main())


def test_a_provider_that_does_not_know_the_endpoint_is_named() -> None:
    missing = Answer(status=404, body='{"detail":"Not Found"}')
    message = told("responses", missing).answer.error["message"]
    assert "'fake'" in message
    assert "endpoint" in message


# -- the end of a stream


@STREAMED
@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_upstream_that_dies_before_the_first_event_is_a_502(endpoint: str, how: Any) -> None:
    found = told(endpoint, Answer(cut=Cut(after_events=0, how=how)), stream=True)
    assert (found.answer.status, found.answer.error["type"]) == (502, "server_error")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_completion_that_breaks_off_ends_in_an_error_for_the_client(how: Any) -> None:
    found = told("completions", Answer(chunks=("a ", "b"), cut=Cut(after_events=2, how=how)), stream=True)
    *_, last, nothing = found.answer.body.split(b"\n\n")
    assert list(json.loads(last.removeprefix(b"data: "))) == ["error"]
    assert nothing == b""
    assert DONE not in found.answer.body
    assert (found.record.ended, found.record.status) == ("cut", 200)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_response_that_breaks_off_ends_in_an_error_event(how: Any) -> None:
    found = told("responses", Answer(chunks=("a ", "b"), cut=Cut(after_events=5, how=how)), stream=True)
    *_, delta, last = events(found.answer)
    assert (delta["type"], delta["sequence_number"]) == ("response.output_text.delta", 4)
    assert list(last) == ["type", "code", "message", "param", "sequence_number"]
    assert (last["type"], last["param"], last["sequence_number"]) == ("error", None, 5)
    assert last["code"].startswith("upstream")
    assert "'fake'" in last["message"]
    assert (found.record.ended, found.record.code) == ("cut", last["code"])


def test_a_response_cut_off_in_the_middle_of_an_event_ends_in_a_whole_one() -> None:
    whole = told("responses", Answer(chunks=("a ", "b"), id="resp_1"), stream=True).answer.body
    cut = Cut(after_bytes=whole.index(b"response.output_item.added") + 40)
    found = told("responses", Answer(chunks=("a ", "b"), id="resp_1", cut=cut), stream=True)
    # No item of the output had begun: it is still an ordinary error.
    assert (found.answer.status, found.answer.error["code"]) == (502, "upstream_failed")
    cut = Cut(after_bytes=whole.index(b'"delta":"b"'))
    found = told("responses", Answer(chunks=("a ", "b"), id="resp_1", cut=cut), stream=True)
    assert [event["type"] for event in events(found.answer)[-2:]] == ["response.output_text.delta", "error"]


def test_a_response_without_its_terminal_event_is_never_silent() -> None:
    found = told("responses", Answer(chunks=("a ", "b"), finish_reason=""), stream=True)
    last = events(found.answer)[-1]
    assert (last["type"], last["code"]) == ("error", "upstream_failed")
    assert found.record.attempts[0].outcome == "incomplete"


def test_an_error_event_of_the_upstream_is_told_in_our_words() -> None:
    error = {"type": "error", "code": "server_error", "message": ORGANISATION, "param": None, "sequence_number": 7}
    chunks = ("a ", Chunk(raw=f"event: error\ndata: {json.dumps(error)}\n\n"), "never")
    found = told("responses", Answer(chunks=chunks), stream=True)
    last = events(found.answer)[-1]
    assert (last["type"], last["sequence_number"]) == ("error", 8)
    assert ORGANISATION not in found.answer.body.decode()
    assert b"never" not in found.answer.body


def test_a_response_that_failed_is_told_by_the_upstreams_own_event() -> None:
    failed = {
        "type": "response.failed",
        "sequence_number": 5,
        "response": {
            "id": "resp_1",
            "status": "failed",
            "error": {"code": "server_error", "message": ORGANISATION},
            "usage": {"input_tokens": 3, "output_tokens": 4},
        },
    }
    chunks = ("a ", Chunk(raw=f"event: response.failed\ndata: {json.dumps(failed)}\n\n"))
    found = told("responses", Answer(chunks=chunks), stream=True)
    last = events(found.answer)[-1]
    assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
    assert ORGANISATION not in found.answer.body.decode()
    assert (found.record.ended, found.record.usage) == ("cut", Usage(3, 4))


# -- the client leaves, or we do


@FORMS
def test_a_client_that_hangs_up_frees_the_upstream(endpoint: str, stream: bool) -> None:
    async def main() -> None:
        script = Answer(chunks=("a ", Chunk(text="b", wait="never"))) if stream else Answer(wait="never")
        async with before(script) as (fake, running):
            async with running.client() as client:
                await client.send(asking(endpoint, stream=stream))
                await fake.reached("never")
                if stream:
                    await client.read_until(b'"a "')
            assert (await fake.ended()).hung_up
            record = await running.record()
            assert (record.ended, record.attempts[0].outcome) == ("hangup", "cancelled")

    run(main())


@STREAMED
def test_a_stream_that_outlives_the_drain_ends_in_an_error_of_its_form(endpoint: str) -> None:
    async def main() -> None:
        script = Answer(chunks=("a ", Chunk(text="b", wait="never")))
        async with before(script) as (fake, running), running.client() as client:
            await client.send(asking(endpoint, stream=True))
            await client.read_until(b'"a "')
            await fake.reached("never")
            await running.server.drain(0)
            rest = await client.read_until(b"0\r\n\r\n")
            assert b'"code":"server_shutting_down"' in rest
            assert (b"event: error\n" in rest) == (endpoint == "responses")
            assert (b'data: {"error":' in rest) == (endpoint == "completions")
            assert (await running.record()).ended == "drained"

    run(main())


def test_a_silent_stream_of_responses_is_kept_alive_by_comments() -> None:
    async def main() -> None:
        script = Answer(chunks=("a ", Chunk(text="b", wait="ping")))
        async with before(script, Limits(heartbeat=0.01)) as (fake, running), running.client() as client:
            await client.send(asking("responses", stream=True))
            await client.read_until(b": ping\n\n")
            fake.open("ping")
            await client.read_until(b"event: response.completed\n")

    run(main())
