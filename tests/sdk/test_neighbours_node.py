"""openai-node and Vercel's AI SDK, which asks for responses unless told otherwise, beside chat completions."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from sdk.conftest import NODE
from sdk.neighbours import relayed as relayed  # a fixture
from sdk.neighbours import upstream as upstream
from support.serving import Served
from support.upstreams import ThreadedUpstream


@pytest.fixture(scope="module")
def results(packages: None, relayed: Served) -> Any:
    variables = {"BASE_URL": relayed.base_url, "API_KEY": relayed.key}
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | variables
    result = subprocess.run(
        ["node", str(NODE / "neighbours.mjs")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_node_asks_for_embeddings_as_base64_and_decodes_them(results: Any, upstream: ThreadedUpstream) -> None:
    encoded, plain = results["encoded"], results["plain"]
    assert upstream.seen[0].json()["encoding_format"] == "base64"
    assert [one["embedding"] for one in encoded["data"]] == [one["embedding"] for one in plain["data"]]
    assert [one["index"] for one in encoded["data"]] == [0, 1]
    assert encoded["usage"]["total_tokens"] == 2


def test_node_reads_legacy_completions_whole_and_streamed(results: Any) -> None:
    choice = results["completion"]["choices"][0]
    assert (results["completion"]["object"], choice["finish_reason"]) == ("text_completion", "length")
    *chunks, usage = results["chunks"]
    assert (usage["choices"], chunks[-1]["choices"][0]["finish_reason"]) == ([], "stop")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks).startswith(choice["text"])


def test_node_reads_responses_whole_and_streamed(results: Any) -> None:
    text = results["response"]["output_text"]
    assert text
    assert results["events"][-1]["type"] == "response.completed"
    deltas = [event["delta"] for event in results["events"] if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == text
    assert results["helper"] == {"text": text, "outputText": text}


def test_vercels_sdk_reads_all_three(results: Any) -> None:
    found = results["vercel"]
    text = results["response"]["output_text"]
    assert (found["whole"], found["streamed"], found["finish"]) == (text, text, "stop")
    assert found["embeddings"] == [one["embedding"] for one in results["plain"]["data"]]
    assert (found["tokens"], found["completion"]) == (2, text)
    assert "error" in found["dead"]


@pytest.mark.parametrize(
    ("case", "name", "status", "code"),
    [
        ("empty", "BadRequestError", 400, "empty_string"),
        ("unknownModel", "NotFoundError", 404, "model_not_found"),
        ("limited", "RateLimitError", 429, "rate_limit_exceeded"),
        ("brokenResponse", "APIError", None, "upstream_failed"),
        ("brokenCompletion", "APIError", None, "upstream_failed"),
    ],
)
def test_node_raises_the_error_that_was_meant(results: Any, case: str, name: str, status: int, code: str) -> None:
    assert results["errors"][case] == {"name": name, "status": status, "code": code}
