"""Requests to chat's neighbours: what is read, what is refused before anything is spent, and that the rest is kept."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidRequest
from penstock.wire.chat import TOP_LEVEL_NAMES
from penstock.wire.neighbours import DECODERS, Endpoint, NeighbourRequest
from penstock.wire.rules import MODEL_LENGTH

LEAST: dict[Endpoint, dict[str, Any]] = {
    "embeddings": {"model": "m", "input": "x"},
    "completions": {"model": "m", "prompt": "x"},
    "responses": {"model": "m", "input": "x"},
}
EACH = pytest.mark.parametrize("endpoint", DECODERS)


def decoded(endpoint: Endpoint, **members: Any) -> NeighbourRequest:
    return DECODERS[endpoint](json.dumps({**LEAST[endpoint], **members}).encode())


def refusal(endpoint: Endpoint, body: bytes) -> tuple[str | None, str | None]:
    """`param` and `code` of how a body is refused: always a 400."""
    with pytest.raises(InvalidRequest) as caught:
        DECODERS[endpoint](body)
    assert caught.value.status == 400
    return caught.value.param, caught.value.code


def refused(endpoint: Endpoint, **members: Any) -> tuple[str | None, str | None]:
    return refusal(endpoint, json.dumps({**LEAST[endpoint], **members}).encode())


@EACH
def test_the_least_request_is_read_and_its_body_kept(endpoint: Endpoint) -> None:
    body = json.dumps(LEAST[endpoint], indent=2).encode()
    found = DECODERS[endpoint](body)
    assert (found.endpoint, found.model, found.stream, found.include_usage) == (endpoint, "m", False, False)
    assert found.body is body
    assert found.fields == LEAST[endpoint].keys()


@EACH
def test_what_the_gateway_does_not_act_on_is_not_judged(endpoint: Endpoint) -> None:
    found = decoded(endpoint, temperature="hot", n=-3, dimensions=[], max_tokens="x", tools=7, foo={"bar": None})
    assert {"temperature", "n", "dimensions", "max_tokens", "tools", "foo"} < found.fields


@EACH
def test_null_is_the_same_as_absent(endpoint: Endpoint) -> None:
    found = decoded(endpoint, stream=None, stream_options=None, background=None, user=None)
    assert not found.stream
    assert found.fields == LEAST[endpoint].keys()


@EACH
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"model": NaN}'])
def test_what_is_no_object_of_json_is_refused(endpoint: Endpoint, body: bytes) -> None:
    refusal(endpoint, body)


@EACH
def test_bytes_that_are_not_utf8_are_refused_wherever_they_stand(endpoint: Endpoint) -> None:
    body = json.dumps({**LEAST[endpoint], "user": "?"}).encode()
    refusal(endpoint, body.replace(b'"?"', b'"\xff"'))


@EACH
def test_the_model_must_be_named(endpoint: Endpoint) -> None:
    without = {name: value for name, value in LEAST[endpoint].items() if name != "model"}
    assert refusal(endpoint, json.dumps(without).encode()) == ("model", "missing_required_parameter")
    assert refused(endpoint, model=7) == ("model", "invalid_type")
    assert refused(endpoint, model=None) == ("model", "invalid_type")
    assert refused(endpoint, model="") == ("model", "empty_string")
    assert refused(endpoint, model="m" * (MODEL_LENGTH + 1)) == ("model", "string_above_max_length")


@EACH
def test_a_second_model_or_one_in_capitals_is_refused(endpoint: Endpoint) -> None:
    body = json.dumps(LEAST[endpoint]).encode()
    assert refusal(endpoint, body[:-1] + b', "model": "other"}') == ("model", None)
    assert refused(endpoint, Model="other") == ("Model", None)


@EACH
def test_names_without_end_are_refused(endpoint: Endpoint) -> None:
    refused(endpoint, **{f"x{number}": 1 for number in range(TOP_LEVEL_NAMES)})


@EACH
@given(st.binary(max_size=60))
def test_nothing_but_a_refusal_comes_of_any_bytes(endpoint: Endpoint, body: bytes) -> None:
    try:
        DECODERS[endpoint](body)
    except InvalidRequest:
        pass


# -- embeddings


@pytest.mark.parametrize("given", ["x", ["x"], ["x", ""], [1, 2], [[1, 2], [3]], ["x"] * 2048])
def test_texts_and_tokens_are_inputs(given: Any) -> None:
    assert decoded("embeddings", input=given).fields == {"model", "input"}


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ("", "input", "empty_string"),
        ([], "input", "empty_array"),
        (["x"] * 2049, "input", "array_above_max_length"),
        ([1] * 2049, "input", "array_above_max_length"),
        (None, "input", "invalid_type"),
        (7, "input", "invalid_type"),
        ({}, "input", "invalid_type"),
        (["x", None], "input[1]", "invalid_type"),
        ([{"text": "x"}], "input[0]", "invalid_type"),
        ([True], "input[0]", "invalid_type"),
    ],
)
def test_nothing_too_much_and_anything_else_is_refused(given: Any, param: str, code: str) -> None:
    assert refused("embeddings", input=given) == (param, code)


def test_an_array_of_millions_is_refused_at_the_cost_of_its_bytes() -> None:
    body = b'{"model":"m","input":[' + b"1," * 1_000_000 + b"1]}"
    tracemalloc.start()
    try:
        assert refusal("embeddings", body) == ("input", "array_above_max_length")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(body)


def test_an_embedding_needs_an_input() -> None:
    assert refusal("embeddings", b'{"model":"m"}') == ("input", "missing_required_parameter")


def test_embeddings_do_not_stream() -> None:
    assert not decoded("embeddings", stream=True).stream


# -- completions


def test_a_completion_may_stream_and_ask_for_usage() -> None:
    assert decoded("completions", stream=True).stream
    found = decoded("completions", stream=True, stream_options={"include_usage": True})
    assert found.include_usage
    assert not decoded("completions", stream=True, stream_options={"include_usage": False}).include_usage


@pytest.mark.parametrize("endpoint", ["completions", "responses"])
@pytest.mark.parametrize("given", ["true", 1, []])
def test_stream_is_a_boolean(endpoint: Endpoint, given: Any) -> None:
    assert refused(endpoint, stream=given) == ("stream", "invalid_type")


def test_stream_options_of_a_completion_need_a_stream_and_are_read_once() -> None:
    assert refused("completions", stream_options={}) == ("stream_options", None)
    assert refused("completions", stream=True, stream_options=7) == ("stream_options", "invalid_type")
    assert refused("completions", stream=True, stream_options={"include_usage": 1}) == (
        "stream_options.include_usage",
        "invalid_type",
    )
    twice = b'{"model":"m","stream":true,"stream_options":{"include_usage":false,"include_usage":true}}'
    assert refusal("completions", twice) == ("stream_options.include_usage", None)
    assert refused("completions", stream=True, stream_options={"Include_Usage": True}) == ("Include_Usage", None)


# -- responses


def test_a_response_may_stream_with_options_that_are_the_upstreams() -> None:
    found = decoded("responses", stream=True, stream_options={"include_obfuscation": False}, input=[{"role": "user"}])
    assert (found.stream, found.include_usage) == (True, False)


def test_a_response_in_the_background_is_refused() -> None:
    assert refused("responses", background=True) == ("background", "unsupported_parameter")
    assert refused("responses", background=True, stream=True) == ("background", "unsupported_parameter")
    assert decoded("responses", background=False).model == "m"
