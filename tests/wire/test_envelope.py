"""Refusals reach the client in OpenAI's envelope, whole or as an event of a stream."""

from __future__ import annotations

import json

from penstock.errors import InvalidRequest, ModelNotFound, RateLimited, UpstreamFailed
from penstock.wire.envelope import envelope, error_event


def test_the_envelope_has_all_four_members() -> None:
    caught = InvalidRequest("Wrong.", param="messages[0].role", code="invalid_value")
    assert json.loads(envelope(caught)) == {
        "error": {
            "message": "Wrong.",
            "type": "invalid_request_error",
            "param": "messages[0].role",
            "code": "invalid_value",
        }
    }


def test_members_that_do_not_apply_are_null() -> None:
    assert json.loads(envelope(InvalidRequest("Wrong."))) == {
        "error": {"message": "Wrong.", "type": "invalid_request_error", "param": None, "code": None}
    }


def test_type_and_code_are_those_of_the_kind_of_refusal() -> None:
    found = [json.loads(envelope(kind("x")))["error"] for kind in (ModelNotFound, RateLimited, UpstreamFailed)]
    assert [(error["type"], error["code"]) for error in found] == [
        ("invalid_request_error", "model_not_found"),
        ("rate_limit_error", "rate_limit_exceeded"),
        ("server_error", "upstream_failed"),
    ]


def test_an_event_is_one_line_of_data_and_a_blank_line() -> None:
    event = error_event(UpstreamFailed('line one\r\nline two\n\ndata: {"x"} é'))
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event[6:])["error"]["message"].startswith("line one\r\nline two")
