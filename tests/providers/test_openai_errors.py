"""Error answers in, failures out: whose fault it was, when to come back, and what the caller may read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import Failure, FailureKind
from penstock.providers.openai_errors import failure_in_band, failure_of

NOW = 1_760_000_000.0  # Thu, 09 Oct 2025 08:53:20 GMT


def failure(status: int, body: bytes = b"", **fields: str) -> Failure:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return failure_of("acme", status, headers, body, NOW)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, FailureKind.REFUSED_US),
        (400, FailureKind.INVALID),
        (401, FailureKind.REFUSED_US),
        (402, FailureKind.REFUSED_US),
        (403, FailureKind.REFUSED_US),
        (404, FailureKind.REFUSED_US),
        (405, FailureKind.REFUSED_US),
        (408, FailureKind.UNAVAILABLE),
        (409, FailureKind.UNAVAILABLE),
        (413, FailureKind.INVALID),
        (415, FailureKind.INVALID),
        (422, FailureKind.INVALID),
        (429, FailureKind.RATE_LIMITED),
        (500, FailureKind.UNAVAILABLE),
        (502, FailureKind.UNAVAILABLE),
        (503, FailureKind.UNAVAILABLE),
        (529, FailureKind.UNAVAILABLE),
        (700, FailureKind.MALFORMED),
    ],
)
def test_a_status_says_whose_fault_it_was(status: int, kind: FailureKind) -> None:
    found = failure(status, b"<html>")
    assert found.kind is kind
    assert found.status == status
    assert "'acme'" in found.message


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_the_callers_fault_is_told_in_the_upstreams_own_body(status: int) -> None:
    body = b'{ "error": {"message": "Bad \xc3\xa9", "type": "invalid_request_error", "param": "x", "code": null} }'
    assert failure(status, body).body == body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "(status 400)."),
        (b"<html>no</html>", "(status 400)."),
        (b"[1]", "(status 400)."),
        (b'{"error":"top_k is unknown"}', "(status 400): top_k is unknown"),
        (b'{"object":"error","message":"too\\n\\u0007 long","code":400}', "(status 400): too long"),
        (b'{"detail":[{"loc":["n"]}]}', '(status 400): [{"loc":["n"]}]'),
        (b'{"message":"%b"}' % (b"x" * 1000), "x" * 300 + "..."),
    ],
)
def test_a_refusal_in_another_shape_becomes_a_message_of_ours(body: bytes, words: str) -> None:
    found = failure(400, body)
    assert found.body is None
    assert found.message.endswith(words)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 429, 500])
def test_the_upstreams_words_about_the_operator_are_not_repeated(status: int) -> None:
    found = failure(status, b'{"error":{"message":"org-secret is out of luck","code":"org-secret"}}')
    assert found.body is None
    assert "secret" not in found.message


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"The model `x` does not exist or you may not use it.","code":"model_not_found"}}',
        b'{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","code":404}',
        b'{"error":{"message":"model \\"x\\" not found, try pulling it first","type":"api_error","code":null}}',
        b'{"error":"model \'x\' not found"}',
        b'{"error":{"message":"models/x is not found for API version v1beta","code":404,"status":"NOT_FOUND"}}',
        b'{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}',
    ],
)
def test_a_404_for_the_model_is_told_from_a_404_for_the_path(body: bytes) -> None:
    assert failure(404, body).model_missing
    assert not failure(404, b'{"detail":"Not Found"}').model_missing
    assert failure(403, body).model_missing, "as OpenAI tells a project that may not use a model"
    assert not failure(401, body).model_missing


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (429, "Request too large for gpt-4o in organization org-secret on tokens per min (TPM): Limit 30000."),
        (413, "Request too large for model `x` in organization `org-secret` service tier `on_demand`."),
    ],
)
def test_one_request_above_the_tokens_of_a_minute_is_no_limit_on_our_rate(status: int, words: str) -> None:
    error = {"message": words, "type": "tokens", "param": None, "code": "rate_limit_exceeded"}
    found = failure(status, json.dumps({"error": error}).encode(), retry_after="20")
    assert (found.kind, found.status, found.too_long) == (FailureKind.INVALID, 413, True)
    assert found.body is None
    assert found.retry_after is None
    assert "secret" not in found.message


def test_a_spent_quota_is_told_from_a_rate() -> None:
    error = {
        "message": "org-secret has no quota",
        "type": "insufficient_quota",
        "code": "insufficient_quota",
    }
    for found in (failure(429, json.dumps({"error": error}).encode(), retry_after="7"), failure_in_band("acme", error)):
        assert found.kind is FailureKind.RATE_LIMITED
        assert found.quota_spent
        assert found.retry_after is None
        assert "secret" not in found.message
    assert not failure(429, b'{"error":{"message":"m","code":"rate_limit_exceeded"}}').quota_spent


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after": "7", "retry_after_ms": "1500"}, 1.5),
        ({"retry_after": "7", "retry_after_ms": "soon"}, 7.0),
        ({"retry_after": "Thu, 09 Oct 2025 08:53:50 GMT"}, 30.0),
        ({"retry_after": "Thu, 09 Oct 2025 08:53:00 GMT"}, 0.0),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "1e999"}, None),
        ({"retry_after": "Thu, 99 Oct 2025"}, None),
        ({"retry_after": "tomorrow"}, None),
    ],
)
def test_the_time_to_come_back_is_read_in_each_of_its_forms(fields: dict[str, str], seconds: float | None) -> None:
    assert failure(429, b"", **fields).retry_after == seconds
    assert failure(503, b"", **fields).retry_after == seconds
    assert failure(400, b"", **fields).retry_after is None


@given(
    st.integers(300, 999),
    st.binary(max_size=60),
    st.binary(max_size=30),
    st.sampled_from([b"retry-after", b"retry-after-ms"]),
)
def test_any_error_answer_is_classified(status: int, body: bytes, value: bytes, name: bytes) -> None:
    found = failure_of("acme", status, [(name, value)], body, NOW)
    assert found.status == status
    assert found.retry_after is None or found.retry_after >= 0
