"""The most tokens that an answer may have, as its request says, at each endpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.wire.ceiling import ceiling, lowered
from penstock.wire.chat import decode_chat
from penstock.wire.neighbours import DECODERS, Endpoint
from penstock.wire.rules import INT32_MAX

BODIES: dict[str, dict[str, Any]] = {
    "completions": {"model": "m", "prompt": "x"},
    "responses": {"model": "m", "input": "x"},
    "embeddings": {"model": "m", "input": "x"},
}


@pytest.mark.parametrize(
    ("endpoint", "members", "found"),
    [
        ("completions", {}, (None, 1)),
        ("completions", {"max_tokens": 99}, (99, 1)),
        ("completions", {"max_tokens": 99, "n": 9}, (99, 9)),
        ("completions", {"max_tokens": 99, "n": 2, "best_of": 3}, (99, 3)),
        ("completions", {"max_tokens": None, "n": None}, (None, 1)),
        ("completions", {"max_tokens": "99", "n": 2.5}, (None, 1)),
        ("completions", {"max_tokens": 10**15, "n": 10**15}, (INT32_MAX, INT32_MAX)),
        ("completions", {"max_tokens": -1, "max_output_tokens": 5}, (None, 1)),
        ("responses", {"max_output_tokens": 7}, (7, 1)),
        ("responses", {"max_tokens": 7, "n": 3}, (None, 1)),
        ("embeddings", {"max_tokens": 7}, (0, 1)),
    ],
)
def test_what_a_request_says_of_its_tokens(
    endpoint: Endpoint, members: dict[str, Any], found: tuple[int | None, int]
) -> None:
    assert ceiling(DECODERS[endpoint](json.dumps({**BODIES[endpoint], **members}).encode())) == found
    assert INT32_MAX * INT32_MAX < 2**63


def test_a_chat_says_it_by_either_name() -> None:
    chat: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    assert ceiling(decode_chat(json.dumps({**chat, "max_tokens": 5, "n": 2}).encode())) == (5, 2)
    assert ceiling(decode_chat(json.dumps({**chat, "max_completion_tokens": 6}).encode())) == (6, 1)


@pytest.mark.parametrize(("endpoint", "name"), [("completions", "max_tokens"), ("responses", "max_output_tokens")])
def test_a_request_is_lowered_where_its_endpoint_has_a_name_for_it(endpoint: Endpoint, name: str) -> None:
    asked = DECODERS[endpoint](json.dumps({**BODIES[endpoint], name: 500}).encode())
    assert ceiling(lowered(asked, 20)) == (20, 1)
    plain = DECODERS["embeddings"](json.dumps(BODIES["embeddings"]).encode())
    assert lowered(plain, 20) is plain
