"""The routes beside chat: models, health, readiness, and what every answer of any route carries."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from penstock.config import Config, Limits, Server
from penstock.fake_upstream import FakeUpstream
from penstock.types import Principal
from support.gateway import KEY, Running, gateway, read_answer, request, run, to

MODELS = {"gpt-5.4": to("fake"), "org/name": to("fake"), "org/name:7b": to("fake"), "gpt-*": to("fake")}


def with_gateway(test: Any, **settings: Any) -> None:
    async def main() -> None:
        async with FakeUpstream() as upstream, gateway(upstream.base_url, **{"models": MODELS, **settings}) as running:
            await test(running)

    run(main())


def test_models_are_listed_as_openai_lists_them() -> None:
    async def test(running: Running) -> None:
        answer = await running.ask(request("GET", "/v1/models"))
        assert answer.status == 200
        body = answer.json()
        assert list(body) == ["object", "data"]
        assert body["object"] == "list"
        assert [model["id"] for model in body["data"]] == ["gpt-5.4", "org/name", "org/name:7b"]
        for model in body["data"]:
            assert sorted(model) == ["created", "id", "object", "owned_by"]
            assert model["object"] == "model"
            assert type(model["created"]) is int
            assert type(model["owned_by"]) is str

    with_gateway(test)


def test_a_key_sees_its_own_models_alone() -> None:
    async def test(running: Running) -> None:
        body = (await running.ask(request("GET", "/v1/models"))).json()
        assert [model["id"] for model in body["data"]] == ["org/name"]
        assert (await running.ask(request("GET", "/v1/models/org/name"))).status == 200
        assert (await running.ask(request("GET", "/v1/models/gpt-5.4"))).status == 404

    with_gateway(test, keys={KEY: Principal("key_few", "few", ("org/name",))})


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("gpt-5.4", "gpt-5.4"),
        ("org/name", "org/name"),
        ("org%2Fname", "org/name"),
        ("org%2fname%3A7b", "org/name:7b"),
        ("gpt-4o", "gpt-4o"),
    ],
)
def test_one_model_is_found_by_its_name_however_it_is_encoded(path: str, name: str) -> None:
    async def test(running: Running) -> None:
        answer = await running.ask(request("GET", f"/v1/models/{path}"))
        assert (answer.status, answer.json()["id"]) == (200, name)

    with_gateway(test)


@pytest.mark.parametrize("path", ["nope", "", "org", "%ff%fe", "gpt", "n" * 5000, "org/name/"])
def test_a_model_that_is_not_there_is_a_404_that_names_the_parameter(path: str) -> None:
    async def test(running: Running) -> None:
        answer = await running.ask(request("GET", f"/v1/models/{path}"))
        assert answer.status == 404
        assert (answer.error["type"], answer.error["param"], answer.error["code"]) == (
            "invalid_request_error",
            "model",
            "model_not_found",
        )
        assert "does not exist or you do not have access to it" in answer.error["message"]
        record = await running.record()
        assert (record.status, record.ended, record.code) == (404, "refused", "model_not_found")

    with_gateway(test)


def test_no_model_has_an_empty_name_even_where_every_name_is_served() -> None:
    async def test(running: Running) -> None:
        assert (await running.ask(request("GET", "/v1/models/"))).status == 404

    with_gateway(test, models={"*": to("fake")})


def test_a_chat_with_an_unknown_model_is_told_in_openais_words() -> None:
    async def test(running: Running) -> None:
        for stream in (False, True):
            answer = await running.chat(model="nope", stream=stream)
            assert answer.status == 404
            assert answer.error == {
                "message": "The model `nope` does not exist or you do not have access to it.",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            }

    with_gateway(test)


def test_health_needs_no_key_and_leaves_no_record() -> None:
    async def test(running: Running) -> None:
        for method in ("GET", "HEAD"):
            answer = await running.ask(request(method, "/health", None))
            assert answer.status == 200
        running.telemetry.notify()
        assert running.recorder.records == []

    with_gateway(test)


def test_readiness_follows_the_key_store_and_the_targets() -> None:
    async def test(running: Running) -> None:
        async def ready() -> tuple[int, Any]:
            answer = await running.ask(request("GET", "/ready", None))
            return answer.status, answer.json()

        assert await ready() == (200, {"status": "ready", "store": True, "targets": True, "down": []})
        running.api.gateway.down = {"fake": "its engine is loading /srv/weights.gguf"}
        assert await ready() == (503, {"status": "not ready", "store": True, "targets": False, "down": ["fake"]})
        chat = await running.chat()
        assert (chat.status, chat.error["type"]) == (503, "server_error")
        assert "/srv" not in chat.error["message"]
        running.api.gateway.down = {}
        running.api.store_ok = False
        assert (await ready())[0] == 503
        running.api.store_ok = True
        assert (await ready())[0] == 200

    with_gateway(test)


@pytest.mark.parametrize(
    "path", ["/v1/nope", "/", "/v1", "/v1/chat/completions/", "/V1/models", "/metrics", "/v1//models"]
)
def test_a_route_that_is_not_there_is_a_404_in_the_envelope(path: str) -> None:
    async def test(running: Running) -> None:
        for key in (KEY, None):
            answer = await running.ask(request("GET", path, key))
            assert (answer.status, answer.error["code"]) == (404, "unknown_url")
            assert answer.error["type"] == "invalid_request_error"

    with_gateway(test)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", True),
        ("/v1/v1/chat/completions", True),
        ("/v1/chat/completions/chat/completions", True),
        ("/models", True),
        ("/v1/nope", False),
        ("/", False),
    ],
)
def test_a_base_url_that_is_almost_right_is_told_what_it_ends_in(path: str, hint: bool) -> None:
    async def test(running: Running) -> None:
        message = (await running.ask(request("POST", path))).error["message"]
        assert ("The base URL of this API ends in /v1" in message) is hint

    with_gateway(test)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/chat/completions", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/chat/completions", "GET, HEAD, POST"),
        ("PUT", "/v1/chat/completions/chatcmpl-1", "GET, HEAD, POST, DELETE"),
        ("POST", "/v1/chat/completions/chatcmpl-1/messages", "GET, HEAD"),
        ("GET", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/gpt-5.4", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("PATCH", "/ready", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_served_is_a_405_that_names_those_that_are(method: str, path: str, allow: str) -> None:
    async def test(running: Running) -> None:
        answer = await running.ask(request(method, path))
        assert answer.status == 405
        assert answer.headers["allow"] == allow
        if method != "HEAD":
            assert answer.error["code"] == "method_not_allowed"

    with_gateway(test)


def test_head_gives_the_head_of_get_and_the_connection_goes_on() -> None:
    async def test(running: Running) -> None:
        async with running.client() as client:
            for path in ("/v1/models", "/v1/models/gpt-5.4", "/v1/models/nope", "/health"):
                await client.send(request("HEAD", path))
                head = await read_answer(client, head_only=True)
                await client.send(request("GET", path))
                whole = await read_answer(client)
                assert head.status == whole.status
                assert head.headers["content-length"] == whole.headers["content-length"] == str(len(whole.body))

    with_gateway(test)


def test_every_answer_carries_openais_headers_and_an_id_of_its_own_that_sorts_by_time() -> None:
    now = 1_800_000_000.0

    @dataclasses.dataclass
    class Clock:
        now: float

        def __call__(self) -> float:
            self.now += 0.0004  # several in a millisecond
            return self.now

    async def test(running: Running) -> None:
        requests = [
            request("GET", "/health", None),
            request("GET", "/ready", None),
            request("GET", "/v1/models"),
            request("GET", "/v1/models/nope"),
            request("GET", "/nope"),
            request("PUT", "/health"),
            request("GET", "/v1/models", None),
            b"GET /health HTTP/1.1\r\n\r\n",
            b"nonsense\r\n\r\n",
            request("GET", "/health", None, content_length="1, 2"),
        ]
        answers = [await running.ask(each) for each in requests for _ in range(2)]
        answers += [
            await running.chat(stream=stream, model=m) for stream in (False, True) for m in ("gpt-5.4", "nope", 1)
        ]
        assert {answer.status for answer in answers} == {200, 400, 401, 404, 405}
        ids = [answer.headers["x-request-id"] for answer in answers]
        assert ids == sorted(set(ids))
        for answer in answers:
            assert answer.headers["openai-version"] == "2020-10-01"
            assert answer.headers["openai-processing-ms"].isdecimal()
            assert answer.headers["date"].endswith(" GMT")

    with_gateway(test, wall_clock=Clock(now))


def test_what_the_edge_has_no_room_for_is_told_as_everything_else() -> None:
    """A connection beyond the last, bodies beyond what all may take together: 503s that the edge gives by itself."""

    async def test(running: Running) -> None:
        async with running.client() as one:
            await one.send(request("GET", "/health"))
            assert (await read_answer(one)).status == 200
            found = [await running.ask(request("GET", "/health"))]
            await one.send(request("POST", "/v1/chat/completions", body=b"x" * 3000))
            found.append(await read_answer(one))
        for answer in found:
            assert (answer.status, answer.error["type"]) == (503, "server_error")
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["x-request-id"].startswith("req_")
            assert answer.headers["openai-version"] == "2020-10-01"
            assert answer.headers["openai-processing-ms"].isdecimal()

    with_gateway(test, config=Config(server=Server(limits=Limits(connections=1, buffered_bytes=2000))))


def test_an_id_of_the_clients_own_is_put_on_record_if_it_is_short_and_plain() -> None:
    async def test(running: Running) -> None:
        for mark in ("trace-7", "x" * 513):
            await running.ask(request("GET", "/v1/models", x_client_request_id=mark))
        records = await running.recorder.wait(2)
        assert [record.client_request_id for record in records] == ["trace-7", None]

    with_gateway(test)


def test_what_the_sdks_send_besides_is_taken() -> None:
    async def test(running: Running) -> None:
        fields: dict[str, Any] = {
            "x_stainless_lang": "python",
            "x_stainless_retry_count": "1",
            "openai_organization": "org-x",
            "openai_project": "proj-x",
            "openai_beta": "assistants=v2",
            "idempotency_key": "k",
            "accept_encoding": "gzip, deflate",
        }
        assert (await running.ask(request("GET", "/v1/models?limit=2", **fields))).status == 200

    with_gateway(test)
