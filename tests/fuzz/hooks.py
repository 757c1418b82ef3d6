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
# Valid only beside another parameter, which the document says in words: a refusal for its sake contradicts nothing.
CONDITIONAL = {
    "stream_options": "stream",
    "top_logprobs": "logprobs",
    "tool_choice": "tools",
    "parallel_tool_calls": "tools",
    "function_call": "functions",
    "modalities": "audio",
}


def map_case(context: Any, case: Any) -> Any:
    """Bound every request, and let the valid ones keep the conditions that a schema does not say."""
    body = case.body
    if isinstance(body, dict):
        if MODEL:
            bound(body)
        if _is_valid(case):
            reconcile(body)
    return case


def bound(body: dict[str, Any]) -> None:
    """Ask for the model that is there, for few tokens and choices: what is to be fuzzed is not the model's speed."""
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    for limit in LIMITS:
        if _is_number(body.get(limit)):
            body[limit] = min(body[limit], TOKENS)
    if "messages" in body and not any(limit in body for limit in LIMITS):
        body["max_tokens"] = TOKENS
    if _is_number(body.get("n")) and body["n"] <= 128:
        body["n"] = min(body["n"], CHOICES)


def reconcile(body: dict[str, Any]) -> None:
    """Drop what is only allowed beside something that is not there and, in every other one, calls without an answer."""
    if body.get("model") == "":  # a string by OpenAI's document, and the name of no model
        body["model"] = "gpt-5.4"
    for name, needed in CONDITIONAL.items():
        if not body.get(needed):
            body.pop(name, None)
    for name in ("tool_choice", "function_call"):
        if isinstance(body.get(name), dict):  # it names a tool, and hardly ever one that was declared
            del body[name]
    if len(body.get("messages", ())) % 2:
        user = {"role": "user", "content": "Hello"}
        body["messages"] = [user if message["role"] == "tool" else message for message in body["messages"]]
        for message in body["messages"]:
            message.pop("tool_calls", None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_valid(case: Any) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


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
    if not OWN or not _is_valid(case) or response.status_code not in (400, 413, 415, 422):
        return
    error = json.loads(response.content)["error"]
    param = error["param"] or ""
    assert param in CONDITIONAL or param.startswith("messages.["), f"documented, but refused: {error}"


schemathesis.hook(map_case)
for check in (errors_have_the_envelope, streams_end, what_is_documented_is_accepted):
    schemathesis.check(check)
