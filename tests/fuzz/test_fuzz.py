"""The short form of fuzzing, on the OpenAPI document that Penstock publishes; `make fuzz` is the long one."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from fuzz.running import OWN, OWN_CHECKS, fuzz, schemathesis, served_document
from penstock.fake_upstream import Answer
from penstock.fake_upstream.script import Script
from penstock.wire.neighbours import DECODERS
from penstock.wire.params import Params
from support.serving import serving
from support.upstreams import threaded_upstream

REPEATABLE = ("--generation-deterministic", "--seed", "1")


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(served_document(OWN))


def test_the_document_says_of_valid_and_of_invalid_requests_what_the_gateway_does() -> None:
    ran = fuzz(OWN, "provider", "--max-examples", "10", *REPEATABLE)
    assert ran.status == 0, ran.report
    assert "Traceback" not in ran.log, ran.log


def test_the_built_in_model_withstands_what_the_document_allows() -> None:
    chat = ("--include-path", "/v1/chat/completions", "--phases", "examples,coverage,fuzzing")
    ran = fuzz(OWN, "local", "--max-examples", "10", *chat, *REPEATABLE)
    assert ran.status == 0, ran.report
    assert "Traceback" not in ran.log, ran.log


def test_a_server_without_the_envelope_is_found_out(document: Any) -> None:
    page = Answer(status=502, body="<html>Bad gateway</html>", headers={"content-type": "text/html"})
    with threaded_upstream(Script(paths={"/v1/models": (page,)})) as upstream:
        ran = schemathesis(
            json.dumps(document), upstream.url, {}, "--checks", OWN_CHECKS, "--include-path", "/v1/models", *REPEATABLE
        )
    assert ran.returncode == 1, ran.stdout
    assert "errors_have_the_envelope" in ran.stdout
    assert "Server error" in ran.stdout


def test_the_document_has_every_parameter_of_a_chat_completion(document: Any) -> None:
    assert document["components"]["schemas"]["ChatRequest"]["properties"].keys() == set(Params.__struct_fields__)


def test_the_document_has_every_route_and_each_is_served(document: Any) -> None:
    neighbours = {f"/v1/{name}" for name in DECODERS}
    own = {"/v1/penstock/explain", "/health", "/ready"}
    kept = {"/v1/chat/completions/{completion}", "/v1/chat/completions/{completion}/messages"}
    others = {"/v1/chat/completions", "/v1/models", "/v1/models/{model}"} | own | kept
    assert document["paths"].keys() == neighbours | others
    with serving() as served, httpx.Client(base_url=served.url, headers=served.headers, trust_env=False) as client:
        for path, item in document["paths"].items():
            for method in item.keys() - {"parameters"}:
                answer = client.request(method, path.replace("{model}", "gpt-5.4"))
                assert answer.status_code not in (401, 405), (method, path)
                assert answer.status_code != 404 or answer.json()["error"]["code"] == "not_found", (method, path)
