"""openai-node against a running Penstock: one script holds all conversations; what came of them is asserted here."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from sdk.conftest import NODE
from support.guide import GUIDE
from support.serving import Served


@pytest.fixture(scope="session")
def conversations() -> dict[str, Any]:
    """What each server answered, so that the script runs once for each."""
    return {}


@pytest.fixture
def results(packages: None, conversations: dict[str, Any], served: Served) -> Any:
    if served.url not in conversations:
        variables = {"BASE_URL": served.base_url, "API_KEY": served.key, "REQUEST": json.dumps(GUIDE)}
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | variables
        result = subprocess.run(
            ["node", str(NODE / "converse.mjs")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        conversations[served.url] = json.loads(result.stdout)
    return conversations[served.url]


def test_node_create_answers_the_guides_request(results: Any) -> None:
    answer = results["create"]["answer"]
    choice = answer["choices"][0]
    assert (answer["object"], choice["message"]["role"]) == ("chat.completion", "assistant")
    assert choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_node_reads_the_request_id_and_the_headers(results: Any) -> None:
    created = results["create"]
    assert created["requestId"] == created["headers"]["x-request-id"]
    assert int(created["headers"]["openai-processing-ms"]) >= 0
    assert created["headers"]["openai-version"] == "2020-10-01"
    assert created["headers"]["x-penstock-target"]


def test_node_create_streams_with_usage_last(results: Any) -> None:
    *chunks, usage = results["stream"]["chunks"]
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] > 0
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"]["role"] == "assistant"
    assert not any("role" in choice["delta"] for choice in choices[1:])
    assert "".join(choice["delta"].get("content") or "" for choice in choices)
    assert choices[-1]["finish_reason"] in ("stop", "length")


def test_nodes_stream_helper_assembles_the_answer(results: Any) -> None:
    helper = results["helper"]
    choice = helper["completion"]["choices"][0]
    assert choice["message"]["content"] == "".join(helper["contents"]) != ""
    assert choice["finish_reason"] in ("stop", "length")


def test_node_lists_the_models(results: Any) -> None:
    assert "gpt-5.4" in results["models"]


@pytest.mark.parametrize(
    ("case", "name", "status", "kind", "code", "param"),
    [
        ("unauthorized", "AuthenticationError", 401, "authentication_error", "invalid_api_key", None),
        ("unauthorizedStream", "AuthenticationError", 401, "authentication_error", "invalid_api_key", None),
        ("unknownModel", "NotFoundError", 404, "invalid_request_error", "model_not_found", None),
        ("badRequest", "BadRequestError", 400, "invalid_request_error", "decimal_above_max_value", "temperature"),
    ],
)
def test_node_raises_the_error_that_the_status_means(
    results: Any, case: str, name: str, status: int, kind: str, code: str, param: str | None
) -> None:
    error = results["errors"][case]
    assert error.pop("requestId")
    assert error == {"name": name, "status": status, "type": kind, "code": code, "param": param}
