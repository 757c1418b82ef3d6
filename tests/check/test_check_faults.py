"""Each faulty behaviour is reported under the row that is about it: the check can fail, and for the right reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from check.checking import KEY, check, results
from penstock.fake_upstream import Answer, FakeUpstream
from penstock.fake_upstream.script import Chunk, Cut, Fault, Script, ToolCall

CHAT = "/v1/chat/completions"
CALL = (ToolCall(name="weather", arguments='{"city":"Paris"}'),)
HTML = Answer(status=404, body="<html>Not found</html>", headers={"content-type": "text/html"})

Scripted = Answer | Sequence[Answer]


def faulty(*names: str, **members: Any) -> Answer:
    return Answer(faults=names, **members)


def calling(*names: str) -> Answer:
    return Answer(tool_calls=CALL, faults=names)


def whole(**members: Any) -> Answer:
    """A completion of the test's own making."""
    message = {"role": "assistant", "content": "Hello.", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_800_000_000, "model": "gpt-5.4"}
    return Answer(body=json.dumps({**body, "choices": [choice], "usage": usage, **members}))


# The row that must report it, and what the server does to every answer.
ANSWERS: tuple[tuple[str, str, Scripted], ...] = (
    ("A01", "the type of a body is not JSON", Answer(headers={"content-type": "text/plain"})),
    ("A02", "one request id for all", Answer(headers={"x-request-id": "req_1"})),
    ("A02", "no request id", Answer(headers={"x-request-id": ""})),
    ("A03", "no debugging headers", Answer()),
    ("A09", "an emoji is refused", (Answer(), Answer(status=400))),
    ("A14", "compression is not understood", (Answer(), Answer(status=400))),
    ("A19", "the connection is dropped after each answer", Answer(end="drop")),
    ("A23", "the headers of SDKs are refused", (Answer(), Answer(status=400))),
    ("C05", "any model is served", Answer()),
    ("D01", "created has a fraction", faulty("created_float")),
    ("D01", "one id for all answers", Answer(id="chatcmpl-1")),
    ("D02", "a choice without an index", faulty("gaps")),
    ("D03", "a message without a role", faulty("role_missing")),
    ("D04", "an empty list of calls", faulty("calls_empty")),
    ("D05", "no usage", Answer(report_usage="never")),
    ("D05", "a sum that is wrong", whole(usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 9})),
    ("D07", "content in parts", faulty("content_parts")),
    ("D08", "n is ignored", whole()),
    ("D09", "the limit is ignored", Answer(content="It goes on and on.")),
    ("D10", "a stop is ignored", Answer(content="One two three four five six seven.")),
    ("D11", "a finish_reason of its own", faulty("finish_foreign")),
    ("D12", "no tier is named", whole()),
    ("D14", "an answer never comes twice", [Answer(content=f"Number {number}.") for number in range(9)]),
    ("D15", "a 200 that holds an error", whole(error={"message": "lost"})),
    ("E01", "a request without messages is served", whole()),
    ("E03", "a 500 for wrong types", (Answer(), Answer(status=500))),
    ("E06", "developer is an unknown role", (Answer(), Answer(status=400, error=Fault("Unknown role: developer.")))),
    ("E08", "content in parts is refused", (Answer(), Answer(status=400))),
    ("E09", "a history with calls is refused", (Answer(), Answer(status=500))),
    ("E23", "a template that raises", (Answer(), Answer(status=500))),
    ("F01", "null is refused", (Answer(), Answer(status=400, error=Fault("'temperature' must be a number.")))),
    ("F03", "a temperature out of range is taken", Answer()),
    ("F06", "n is clamped", Answer()),
    ("F12", "a fifth stop is taken", Answer()),
    ("F14", "a stop is streamed", Answer(content="One two three four five six seven.")),
    ("F15", "no log probabilities", whole()),
    ("F31", "stream as a string is taken", Answer()),
    ("G01", "a forced call is not made", Answer(content="It is sunny.")),
    ("G01", "arguments as an object", calling("call_arguments_object")),
    ("G01", "finish_reason stop after a call", calling("finish_of_text")),
    ("G05", "a choice without tools is taken", Answer()),
    ("G09", "calls without an id", calling("call_id_missing")),
    ("G12", "arguments that break the schema", Answer(tool_calls=(ToolCall(name="weather", arguments="{}"),))),
    ("G16", "a choice of a missing function is taken", calling()),
    ("G20", "half of a call as a whole one", calling()),
    ("H02", "prose instead of JSON", Answer(content="Here is your JSON.")),
    ("H04", "JSON that breaks the schema", Answer(content='{"title": "poem"}')),
    ("H05", "a schema without a name is taken", Answer(content="{}")),
    ("H08", "a stream that breaks the schema", Answer(content='{"title": "poem"}')),
    ("H09", "half an object as a whole one", Answer(content='{"title"')),
    ("I01", "a stream with content-length", Answer(framing="length", headers={"cache-control": "no-cache"})),
    ("I02", "ids and comments on events", faulty("event_ids")),
    ("I02", "names on events", faulty("event_names")),
    ("I03", "no [DONE]", Answer(done=False)),
    ("I03", "no blank line after the last event", Answer(final_blank_line=False)),
    ("I03", "an event after [DONE]", faulty("after_done")),
    ("I03", "a stream that is cut", Answer(cut=Cut(after_events=3))),
    ("I04", "a chunk without choices", faulty("choices_missing")),
    ("I04", "choices without an index", faulty("index_missing")),
    ("I05", "another id on every chunk", faulty("naming_varies")),
    ("I06", "no role on the first delta", faulty("role_missing")),
    ("I07", "the role on every delta", faulty("role_repeated")),
    ("I08", "an empty role", faulty("role_empty")),
    ("I09", "a null delta", faulty("delta_null")),
    ("I10", "no finish_reason", faulty("finish_missing")),
    ("I10", "finish_reason twice", faulty("finish_repeated")),
    ("I11", "a text that changes", [Answer(content=f"Number {number}.") for number in range(9)]),
    ("I12", "usage beside the finish_reason", faulty("usage_beside_finish")),
    ("I13", "usage unasked", Answer(report_usage="always")),
    ("I14", "usage before the finish_reason", faulty("usage_early")),
    ("I15", "the last choice first", faulty("choices_reversed")),
    ("I16", "the name on every piece of a call", calling("call_repeated")),
    ("I17", "calls without an index", calling("call_index_missing")),
    ("I17", "calls counted from 1", calling("call_index_from_1")),
    ("I18", "pieces without a function", calling("call_function_missing")),
    ("I18", "finish_reason stop after a call", calling("finish_of_text")),
    ("I19", "a broken character", Answer(chunks=("caf\ufffd", Chunk(text=".")))),
    (
        "I20",
        "a stream that is held back",
        (Answer(), Answer(), Answer(wait=0.3, write="whole")),
    ),
    ("I21", "events with empty data", faulty("event_empty")),
    ("I21", "pings as events", faulty("event_ping")),
    ("I23", "no log probabilities in the stream", Answer(chunks=(Chunk(data=whole().body),))),
    ("I24", "a mistake ends in a stream", Answer()),
    ("I26", "no stream for who accepts JSON", (Answer(), whole())),
    ("I27", "the connection is closed after a stream", Answer(end="close")),
)


@pytest.mark.parametrize(("row", "what", "answers"), ANSWERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_fault_is_reported_under_its_row(row: str, what: str, answers: Scripted) -> None:
    report = check(FakeUpstream(answers), row)
    assert results(report) == {row: "failed"}, (what, report.findings)
    assert report.exit_status == 1
    assert report.findings[0].got


# What the server does on one path.
PATHS: tuple[tuple[str, str, str, tuple[Answer, ...]], ...] = (
    ("A04", "an envelope without param", CHAT, (Answer(), Answer(status=400, body='{"error": {"message": "x"}}'))),
    ("A05", "a 500 for a caller's mistake", CHAT, (Answer(), Answer(status=500))),
    ("A06", "a page for an empty body", CHAT, (Answer(), HTML)),
    ("A07", "bytes that are not UTF-8 are taken", CHAT, (Answer(), whole())),
    ("A13", "the connection breaks over a large body", CHAT, (Answer(), Answer(raw="", end="reset"))),
    ("A16", "a page instead of an error", "/v1/nope", (HTML,)),
    ("A17", "PUT is taken", CHAT, (Answer(),)),
    ("A21", "no health", "/health", (HTML,)),
    ("C01", "models without an object", "/v1/models", (Answer(body='{"data": [{"id": "gpt-5.4"}]}'),)),
    ("C02", "no such model", "/v1/models/gpt-5.4", (HTML,)),
    ("C04", "a model that does not exist is shown", "/v1/models/penstock-check-no-such-model", (Answer(body="{}"),)),
)


@pytest.mark.parametrize(("row", "what", "path", "answers"), PATHS)
def test_a_fault_on_a_path_is_reported_under_its_row(
    row: str, what: str, path: str, answers: tuple[Answer, ...]
) -> None:
    report = check(FakeUpstream(Script(paths={path: answers})), row, heavy=True)
    assert results(report) == {row: "failed"}, (what, report.findings)


@pytest.mark.parametrize("row", ["B01", "B02", "B03", "B05"])
def test_a_server_that_takes_any_key_is_reported(row: str) -> None:
    assert results(check(FakeUpstream(), row)) == {row: "failed"}


def test_a_key_that_a_message_repeats_is_reported() -> None:
    told = Answer(
        status=401, error=Fault("Incorrect API key: sk-penstock-check-wrong-0123456789", code="invalid_api_key")
    )
    report = check(FakeUpstream((Answer(), told)), "B02")
    assert "repeats the whole key" in (report.findings[0].got or "")


@pytest.mark.parametrize("key", ["x", "exist", "id"])
def test_a_key_that_is_a_word_leaves_the_answers_as_they_are(key: str) -> None:
    report = check(FakeUpstream(strict_profile="gpt-5.4"), "C05", key=key)
    assert results(report) == {"C05": "passed"}


def test_what_a_right_server_does_passes() -> None:
    about = {row for row, _, _ in ANSWERS} - {"A03", "A14", "A19", "I01"}
    report = check(FakeUpstream(strict_profile="gpt-5.4", keys=[KEY]), *sorted(about))
    wrong = {finding.row.id: finding.got for finding in report.findings if finding.result == "failed"}
    assert wrong == {}
