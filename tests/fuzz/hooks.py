"""What schemathesis holds every answer to beside the document: OpenAI's envelope on errors, streams that end.

It runs in the frameworks' environment, where schemathesis is, and imports nothing of Penstock's. FUZZ_MODEL is set
where only that model is there to answer; FUZZ_OWN where the document is ours, and says exactly what is accepted.
"""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis

MODEL = os.environ.get("FUZZ_MODEL", "")
OWN = "FUZZ_OWN" in os.environ
MEMBERS = {"message", "type", "param", "code"}
TYPES = {"invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"}
TOKENS, CHOICES = 16, 4
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed", "error")
# Valid only beside other parameters, which the document says in words: a refusal for their sake contradicts nothing.
CONDITIONAL = {"stream_options", "top_logprobs", "tool_choice", "parallel_tool_calls", "function_call", "audio"}


def map_body(context: Any, body: Any) -> Any:
    """Ask for the model that is there, for few tokens and choices: what is to be fuzzed is not the model's speed."""
    if not isinstance(body, dict) or not MODEL:
        return body
    bounded = {**body, "model": MODEL if isinstance(body.get("model"), str) else body.get("model")}
    for limit in LIMITS:
        if _is_number(bounded.get(limit)):
            bounded[limit] = min(bounded[limit], TOKENS)
    if "messages" in bounded and not any(limit in bounded for limit in LIMITS):
        bounded["max_tokens"] = TOKENS
    if _is_number(bounded.get("n")) and bounded["n"] <= 128:
        bounded["n"] = min(bounded["n"], CHOICES)
    return bounded


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def errors_have_the_envelope(context: Any, response: Any, case: Any) -> None:
    """Every status from 400 on comes in OpenAI's envelope, and every answer with a request id."""
    assert response.headers.get("x-request-id"), "no x-request-id"
    if response.status_code < 400 or case.method.upper() == "HEAD" or case.path == "/ready":
        return
    assert response.headers["content-type"] == ["application/json"], "an error that is not JSON"
    body = json.loads(response.content)
    assert body.keys() == {"error"}, f"not the envelope: {body}"
    assert body["error"].keys() == MEMBERS, f"not the envelope: {body}"
    assert body["error"]["message"], f"an error without words: {body}"
    assert body["error"]["type"] in TYPES, f"an error of an unknown type: {body}"


def streams_end(context: Any, response: Any, case: Any) -> None:
    """A stream ends with [DONE], with an error, or with the event that ends a response."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return
    assert response.content.endswith(b"\n\n"), "a stream whose last event is not whole"
    last = response.content.rstrip(b"\n").rpartition(b"\n\n")[2].decode()
    ended = last == "data: [DONE]" or last.startswith('data: {"error"')
    ended = ended or last.startswith(tuple(f"event: {name}\n" for name in LAST_EVENTS))
    assert ended, f"a stream that ends with {last[:200]!r}"


def what_is_documented_is_accepted(context: Any, response: Any, case: Any) -> None:
    """A request that our own document allows is refused only for the sake of a condition that it says in words."""
    valid = case.meta is not None and case.meta.generation.mode.is_positive
    if not OWN or not valid or response.status_code not in (400, 413, 415, 422):
        return
    error = json.loads(response.content)["error"]
    param = error["param"] or ""
    assert param in CONDITIONAL or param.startswith("messages.["), f"documented, but refused: {error}"


schemathesis.hook(map_body)
for check in (errors_have_the_envelope, streams_end, what_is_documented_is_accepted):
    schemathesis.check(check)
