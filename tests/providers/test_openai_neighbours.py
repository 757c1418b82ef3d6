"""Recorded answers of chat's neighbours in, events and bodies out: what is passed on, withheld and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import FailureKind, ProviderFault, UpstreamFailed
from penstock.providers.base import Reader
from penstock.providers.openai_neighbours import MAX_CHOICES, MAX_STRAY_BYTES, neighbour_reader
from penstock.types import Usage
from penstock.wire.neighbours import Endpoint, NeighbourRequest
from penstock.wire.sse import DONE, MAX_EVENT_BYTES

ORGANISATION = "org-the-operators"


def reader(endpoint: Endpoint, stream: bool = False, usage_asked: bool = False) -> Reader:
    return neighbour_reader("acme", NeighbourRequest(endpoint, b"", "m", frozenset(), stream, usage_asked))


def faulted(read: Reader, *pieces: bytes) -> ProviderFault:
    """How an answer is refused, before anything of it was committed."""
    with pytest.raises(ProviderFault) as caught:
        relayed(read, *pieces)
    assert not read.committed
    return caught.value


def relayed(read: Reader, *pieces: bytes) -> bytes:
    """All that a client gets of an answer that came in these pieces."""
    return b"".join([read.feed(piece) for piece in pieces]) + read.close()


# -- whole answers

EMBEDDINGS = (
    b'{ "object": "list", "data": [{"object":"embedding","index":0,"embedding":[0.1,-2e-3]}], "model":"m\xc3\xa9", \
"usage":{"prompt_tokens":8,"total_tokens":8}, "x": 1.50 }'
)
TEXT = b'{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"text":"Hi","index":0,\
"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}'
FIGURES: dict[str, Any] = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 16},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 123,
}


def response(status: str = "completed", **members: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": status, "error": None, "output": [], **members}


WHOLE = pytest.mark.parametrize(
    ("endpoint", "body", "usage"),
    [
        ("embeddings", EMBEDDINGS, Usage(8, 0)),
        ("completions", TEXT, Usage(5, 7)),
        ("responses", json.dumps(response(usage=FIGURES)).encode(), Usage(36, 87, 16, 64)),
        ("responses", json.dumps(response("incomplete", usage=FIGURES)).encode(), Usage(36, 87, 16, 64)),
        ("responses", json.dumps(response(usage=None)).encode(), None),
    ],
)


@WHOLE
def test_a_whole_answer_goes_out_byte_for_byte_and_its_usage_is_read(
    endpoint: Endpoint, body: bytes, usage: Usage | None
) -> None:
    read = reader(endpoint)
    for at in range(0, len(body), 7):
        assert read.feed(body[at : at + 7]) == b""
    assert read.close() == body
    assert read.usage == usage


@WHOLE
def test_a_whole_answer_that_is_cut_short_is_refused(endpoint: Endpoint, body: bytes, usage: Usage | None) -> None:
    assert faulted(reader(endpoint), body[:-1]).failure.kind is FailureKind.MALFORMED


@pytest.mark.parametrize("endpoint", ["embeddings", "completions", "responses"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"null",
        b"[]",
        b"{}",
        b'{"data":[],"choices":[],"output":null}',
        b'{"data":7,"choices":7}',
    ],
)
def test_what_is_no_answer_is_refused(endpoint: Endpoint, body: bytes) -> None:
    assert faulted(reader(endpoint), body).failure.kind is FailureKind.MALFORMED


@pytest.mark.parametrize("endpoint", ["embeddings", "completions", "responses"])
def test_an_error_with_status_200_is_an_error(endpoint: Endpoint) -> None:
    body = json.dumps({"error": {"message": f"Limit of {ORGANISATION}", "code": "rate_limit_exceeded"}}).encode()
    failure = faulted(reader(endpoint), body).failure
    assert failure.kind is FailureKind.RATE_LIMITED
    assert ORGANISATION not in failure.message


def test_a_completion_that_does_not_say_how_it_ended_is_refused() -> None:
    body = TEXT.replace(b'"length"', b"null")
    assert faulted(reader("completions"), body).failure.kind is FailureKind.INCOMPLETE


def test_a_response_that_failed_is_an_error() -> None:
    body = json.dumps(response("failed", error={"code": "server_error", "message": ORGANISATION})).encode()
    failure = faulted(reader("responses"), body).failure
    assert failure.kind is FailureKind.UNAVAILABLE
    assert ORGANISATION not in failure.message


def test_a_response_that_failed_by_the_callers_fault_is_told_in_the_envelope() -> None:
    body = json.dumps(response("failed", error={"code": "invalid_prompt", "message": "Not that."})).encode()
    failure = faulted(reader("responses"), body).failure
    assert failure.kind is FailureKind.INVALID
    assert json.loads(failure.body or b"") == {
        "error": {"message": "Not that.", "type": "invalid_request_error", "param": None, "code": "invalid_prompt"}
    }


# -- completions, streamed


def chunk(text: str = "", finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
    return frame({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], **more})


def frame(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


USAGE = frame({"id": "cmpl-1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}})
TEXTS = [chunk("Gr"), chunk("üße"), chunk("", "stop")]


@given(st.integers(1, 400))
def test_a_streamed_completion_comes_out_the_same_however_it_was_cut(size: int) -> None:
    sent = b"".join([*TEXTS, USAGE, DONE])
    read = reader("completions", stream=True, usage_asked=True)
    assert relayed(read, *(sent[at : at + size] for at in range(0, len(sent), size))) == sent
    assert read.usage == Usage(5, 7)


def test_usage_that_was_not_asked_for_is_read_and_kept_back() -> None:
    counted = chunk("", "stop", usage={"prompt_tokens": 5, "completion_tokens": 7})
    read = reader("completions", stream=True)
    out = relayed(read, chunk("Hi"), counted, USAGE, DONE)
    assert read.usage == Usage(5, 7)
    assert [json.loads(part[6:])["usage"] for part in out.split(b"\n\n")[1:2]] == [None]
    assert out.count(b'"choices": []') == 0
    assert out.endswith(DONE)


def test_usage_that_is_reported_choice_by_choice_is_added_up() -> None:
    # As llama.cpp answers two prompts, null included.
    ends = [chunk("", "length", index, usage={"prompt_tokens": 2 - index, "completion_tokens": 3}) for index in (1, 0)]
    read = reader("completions", stream=True, usage_asked=True)
    sent = [chunk(" and", index=1), chunk(" of"), *ends, DONE]
    assert relayed(read, b"data: null\n\n", *sent) == b"".join(sent)
    assert read.usage == Usage(3, 6)


def test_usage_that_runs_along_is_no_sum() -> None:
    running = [chunk("a", usage={"prompt_tokens": 5, "completion_tokens": count}) for count in (1, 2)]
    read = reader("completions", stream=True)
    relayed(read, *running, chunk("", "stop"))
    assert read.usage == Usage(5, 2)
    read = reader("completions", stream=True)
    relayed(read, *running, chunk("", "stop"), USAGE, DONE)
    assert read.usage == Usage(5, 7)


def test_usage_goes_out_only_at_the_end() -> None:
    read = reader("completions", stream=True, usage_asked=True)
    out = b"".join(read.feed(piece) for piece in (chunk("Hi"), USAGE, chunk("", "stop"), DONE))
    assert out == chunk("Hi") + chunk("", "stop")
    assert read.done
    assert read.close() == USAGE + DONE


def test_text_or_a_finish_commits_and_nothing_else_does() -> None:
    read = reader("completions", stream=True)
    assert read.feed(chunk("")) == chunk("")
    assert not read.committed
    read.feed(chunk("x"))
    assert read.committed


@pytest.mark.parametrize("ends", [[], [chunk("x")], [chunk("x"), DONE], [chunk("x", "stop"), chunk("y", index=1)]])
def test_a_completion_that_stops_without_its_finish_is_incomplete(ends: list[bytes]) -> None:
    read = reader("completions", stream=True)
    for piece in ends:
        read.feed(piece)
    with pytest.raises(ProviderFault) as caught:
        read.close()
    assert caught.value.failure.kind in (FailureKind.INCOMPLETE, FailureKind.MALFORMED)


def test_the_end_may_lack_its_blank_line_or_be_missing() -> None:
    assert relayed(reader("completions", stream=True), b"".join(TEXTS)) == b"".join(TEXTS) + DONE
    assert relayed(reader("completions", stream=True), b"".join(TEXTS)[:-2]) == b"".join(TEXTS) + DONE


def test_an_event_that_was_cut_off_after_the_finish_is_no_fault() -> None:
    assert relayed(reader("completions", stream=True), *TEXTS, USAGE[:20]) == b"".join(TEXTS) + DONE


# -- responses, streamed


def typed(kind: str, number: int, **members: Any) -> bytes:
    data = json.dumps({"type": kind, "sequence_number": number, **members}, ensure_ascii=False).encode()
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


CREATED = typed("response.created", 0, response=response("in_progress"))
PROGRESS = typed("response.in_progress", 1, response=response("in_progress"))
DELTA = typed("response.output_text.delta", 2, delta="Grüße\n\ndata: x", item_id="msg_1")


def ending(status: str = "completed", number: int = 3, **members: Any) -> bytes:
    return typed(f"response.{status}", number, response=response(status, **{"usage": FIGURES, **members}))


@given(st.integers(1, 600), st.sampled_from(["completed", "incomplete"]))
def test_a_streamed_response_comes_out_the_same_however_it_was_cut(size: int, status: str) -> None:
    sent = b"".join([CREATED, PROGRESS, DELTA, ending(status)])
    read = reader("responses", stream=True)
    assert relayed(read, *(sent[at : at + size] for at in range(0, len(sent), size))) == sent
    assert read.usage == Usage(36, 87, 16, 64)


def test_the_terminal_event_is_withheld_and_what_comes_after_it_dropped() -> None:
    read = reader("responses", stream=True)
    assert read.feed(CREATED + DELTA + ending() + DELTA + DONE) == CREATED + DELTA
    assert read.done
    assert read.feed(DELTA) == b""
    assert read.close() == ending()


def test_what_is_said_before_the_answer_does_not_commit() -> None:
    read = reader("responses", stream=True)
    queued = typed("response.queued", 1, response=response("queued"))
    assert read.feed(CREATED + queued + PROGRESS) == CREATED + queued + PROGRESS
    assert not read.committed
    read.feed(typed("response.output_item.added", 2, item={}))
    assert read.committed


def test_framing_of_other_kinds_becomes_the_plain_one() -> None:
    odd = CREATED.replace(b"\n", b"\r\n") + b": ping\n\nid: 7\n" + DELTA.split(b"\n", 1)[1] + ending()
    assert relayed(reader("responses", stream=True), b"\xef\xbb\xbf" + odd) == CREATED + DELTA + ending()


def test_an_event_whose_type_is_no_name_goes_without_one() -> None:
    odd = [frame({"type": "a\nevent: b", "n": 1}), frame({"type": ["x"]}), frame({"delta": "x"})]
    assert relayed(reader("responses", stream=True), *odd, ending()) == b"".join(odd) + ending()


@pytest.mark.parametrize("tail", [b"", DONE, DELTA[:-20], ending()[:-20]])
def test_a_response_that_stops_without_a_terminal_event_is_incomplete(tail: bytes) -> None:
    read = reader("responses", stream=True)
    assert read.feed(CREATED + DELTA + tail) == CREATED + DELTA
    with pytest.raises(ProviderFault) as caught:
        read.close()
    assert caught.value.failure.kind is FailureKind.INCOMPLETE


def test_the_terminal_event_may_lack_its_blank_line() -> None:
    assert relayed(reader("responses", stream=True), DELTA, ending()[:-2]) == DELTA + ending()


@pytest.mark.parametrize("nested", [False, True])
def test_an_error_event_before_the_answer_is_an_error(nested: bool) -> None:
    told = {"code": "rate_limit_exceeded", "message": ORGANISATION, "param": None}
    failure = faulted(
        reader("responses", stream=True), CREATED + typed("error", 1, **({"error": told} if nested else told))
    ).failure
    assert failure.kind is FailureKind.RATE_LIMITED
    assert ORGANISATION not in failure.message


def test_an_error_event_after_the_answer_began_comes_after_what_came_before_it() -> None:
    read = reader("responses", stream=True)
    read.feed(CREATED + DELTA)
    assert read.feed(DELTA + typed("error", 3, code="server_error", message=ORGANISATION)) == DELTA
    assert read.done
    with pytest.raises(ProviderFault) as caught:
        read.close()
    assert caught.value.failure.kind is FailureKind.UNAVAILABLE


def test_an_error_of_ours_is_a_typed_event_with_the_next_number() -> None:
    read = reader("responses", stream=True)
    read.feed(CREATED + PROGRESS + DELTA)
    out = read.error_event(UpstreamFailed("It broke."))
    name, _, rest = out.partition(b"\n")
    assert name == b"event: error"
    assert rest.endswith(b"\n\n")
    assert json.loads(rest.removeprefix(b"data: ")) == {
        "type": "error",
        "code": "upstream_failed",
        "message": "It broke.",
        "param": None,
        "sequence_number": 3,
    }


def test_a_number_that_is_none_does_not_break_the_count() -> None:
    read = reader("responses", stream=True)
    read.feed(typed("response.created", "x", response={}) + typed("y", -5) + typed("z", 2**70))  # type: ignore[arg-type]
    assert b'"sequence_number":3}' in read.error_event(UpstreamFailed("It broke."))


def test_a_response_that_failed_midway_ends_in_the_upstreams_event_without_its_words() -> None:
    read = reader("responses", stream=True)
    failed = ending("failed", error={"code": "rate_limit_exceeded", "message": f"Limit of {ORGANISATION}."})
    assert read.feed(DELTA) == DELTA
    assert read.feed(failed) == b""
    with pytest.raises(ProviderFault) as caught:
        read.close()
    assert caught.value.failure.kind is FailureKind.RATE_LIMITED
    assert read.usage == Usage(36, 87, 16, 64)
    name, _, rest = read.error_event(UpstreamFailed("It broke.")).partition(b"\n")
    assert name == b"event: response.failed"
    told = json.loads(rest.removeprefix(b"data: "))
    assert (told["type"], told["sequence_number"], told["response"]["status"]) == ("response.failed", 3, "failed")
    assert told["response"]["error"] == {"code": "rate_limit_exceeded", "message": caught.value.failure.message}
    assert ORGANISATION not in rest.decode()


def test_a_response_that_failed_midway_by_the_callers_fault_keeps_its_words() -> None:
    read = reader("responses", stream=True)
    failed = ending("failed", error={"code": "invalid_prompt", "message": "Not that."})
    read.feed(DELTA)
    read.feed(failed)
    assert read.error_event(UpstreamFailed("It broke.")) == failed


def test_a_response_that_failed_at_once_is_an_error() -> None:
    failed = ending("failed", error={"code": "server_error", "message": ORGANISATION})
    assert faulted(reader("responses", stream=True), CREATED + failed).failure.kind is FailureKind.UNAVAILABLE
    without = typed("response.failed", 1, response=None)
    assert faulted(reader("responses", stream=True), without).failure.kind is FailureKind.UNAVAILABLE


# -- both


BOTH = pytest.mark.parametrize("endpoint", ["completions", "responses"])


@BOTH
@pytest.mark.parametrize("body", [b"", b"<html>", b": ping\n\n", b'{"object":"list"}', b"x" * (2 * MAX_STRAY_BYTES)])
def test_an_answer_without_events_is_refused(endpoint: Endpoint, body: bytes) -> None:
    assert faulted(reader(endpoint, stream=True), body).failure.kind is FailureKind.MALFORMED


@BOTH
def test_an_error_as_a_body_is_an_error(endpoint: Endpoint) -> None:
    body = json.dumps({"error": {"message": "m", "code": "rate_limit_exceeded"}}, indent=1).encode()
    assert faulted(reader(endpoint, stream=True), body[:9], body[9:]).failure.kind is FailureKind.RATE_LIMITED


@BOTH
@pytest.mark.parametrize("data", [b"[1]", b"7", b"{", b'{"x":"\xff"}', b'"\xed\xa0\x80"', b"[" * 5000])
def test_an_event_that_cannot_be_read_is_refused(endpoint: Endpoint, data: bytes) -> None:
    failure = faulted(reader(endpoint, stream=True), b"data: %b\n\n" % data).failure
    assert failure.kind is FailureKind.MALFORMED


@BOTH
def test_an_event_without_end_is_refused(endpoint: Endpoint) -> None:
    read = reader(endpoint, stream=True)
    failure = faulted(read, b"data: ", *[b"x" * (1 << 20)] * (MAX_EVENT_BYTES // (1 << 20) + 1)).failure
    assert failure.kind is FailureKind.MALFORMED


@BOTH
@given(pieces=st.lists(st.binary(max_size=40), max_size=6))
def test_nothing_but_a_provider_fault_comes_of_any_bytes(endpoint: Endpoint, pieces: list[bytes]) -> None:
    read = reader(endpoint, stream=True)
    try:
        for piece in pieces:
            read.feed(b"data: " + piece + b"\n\n")
        read.close()
    except ProviderFault:
        pass


@pytest.mark.parametrize("reason", ["abort", "error", "cancelled"])
def test_a_completion_that_was_given_up_is_an_error(reason: str) -> None:
    body = json.dumps({"choices": [{"text": "Hi", "index": 0, "finish_reason": reason}]}).encode()
    assert faulted(reader("completions"), body).failure.kind is FailureKind.INCOMPLETE
    fault = faulted(reader("completions", stream=True), b"data: " + body + b"\n\ndata: [DONE]\n\n")
    assert (fault.failure.kind, reason in fault.failure.message) == (FailureKind.INCOMPLETE, True)


def test_choices_without_end_are_not_remembered() -> None:
    read = reader("completions", stream=True)
    one = b'data: {"choices":[{"text":"","index":%d}],"usage":{"prompt_tokens":1}}\n\n'
    read.feed(b"".join(one % index for index in range(MAX_CHOICES)))
    with pytest.raises(ProviderFault, match="more choices"):
        read.feed(one % MAX_CHOICES)
    assert read.usage == Usage(MAX_CHOICES + 1)
