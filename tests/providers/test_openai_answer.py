"""Recorded answers in, events and bodies out: what is relayed, mended, withheld and refused."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from penstock.errors import Failure, FailureKind, ProviderFault
from penstock.providers.openai_answer import MAX_STRAY_BYTES, BodyReader, StreamReader
from penstock.types import Usage
from penstock.wire.naming import Naming
from penstock.wire.sse import event

HEAD = (
    b'{"id":"chatcmpl-9f2b","object":"chat.completion.chunk","created":1760000000,"model":"gpt-5.4",'
    b'"system_fingerprint":"fp_44709d6fcb"'
)
DONE = b"data: [DONE]\n\n"


def choices(*found: bytes, more: bytes = b"") -> bytes:
    return event(HEAD + b',"choices":[' + b",".join(found) + b"]" + more + b"}")


def step(delta: bytes, finish: bytes = b"null", index: int = 0) -> bytes:
    return b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}' % (index, delta, finish)


ROLE = choices(step(b'{"role":"assistant","content":""}'))
TEXT = choices(step(b'{"content":"Par\xc3\xads"}'))
STOP = choices(step(b"{}", b'"stop"'))
USAGE_NULL = choices(step(b'{"content":"x"}'), more=b',"usage":null')
FIGURES = (
    b'{"prompt_tokens":87,"completion_tokens":100,"total_tokens":187,"prompt_tokens_details":{"cached_tokens":64},'
    b'"completion_tokens_details":{"reasoning_tokens":20}}'
)
USAGE = choices(more=b',"usage":' + FIGURES)
COUNTED = Usage(87, 100, 64, 20)


def null_usage(*chunks: bytes) -> bytes:
    return b"".join(chunk.removesuffix(b"}\n\n") + b',"usage":null}\n\n' for chunk in chunks)


def stream_reader(usage_asked: bool = False, n: int = 1) -> StreamReader:
    return StreamReader("acme", usage_asked, n, Naming("gpt-5.4", lambda: 1_760_000_000.5))


def relay(*pieces: bytes, usage_asked: bool = False, n: int = 1) -> bytes:
    reader = stream_reader(usage_asked, n)
    return b"".join([reader.feed(piece) for piece in pieces]) + reader.close()


def fault_of(*pieces: bytes, usage_asked: bool = False) -> Failure:
    with pytest.raises(ProviderFault) as fault:
        relay(*pieces, usage_asked=usage_asked)
    return fault.value.failure


def deltas(sent: bytes) -> list[dict[str, Any]]:
    """Every choice of every chunk in what the client gets, in order."""
    events = sent.removesuffix(b"\n\n").split(b"\n\n")
    assert events[-1] == b"data: [DONE]"
    return [choice for one in events[:-1] for choice in json.loads(one[6:])["choices"]]


def test_events_in_order_go_out_as_the_very_bytes_that_came_in() -> None:
    reader = stream_reader()
    assert reader.feed(ROLE) == ROLE
    assert reader.feed(TEXT) is TEXT
    assert reader.feed(USAGE_NULL + TEXT) == USAGE_NULL + TEXT
    assert reader.feed(STOP) is STOP
    assert reader.feed(DONE) == b""
    assert reader.done
    assert reader.close() == DONE


@pytest.mark.parametrize(
    "delta",
    [
        b'{"content":"a"}',
        b'{"refusal":"no"}',
        b'{"reasoning_content":"hm"}',
        b'{"reasoning":"hm"}',
        b'{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":""}}]}',
        b'{"function_call":{"name":"f","arguments":""}}',
    ],
)
def test_the_first_event_that_says_something_commits_the_answer(delta: bytes) -> None:
    reader = stream_reader()
    assert reader.feed(b": hello\n\n") == b""
    assert reader.feed(ROLE) == ROLE
    assert not reader.committed
    reader.feed(choices(step(delta)))
    assert reader.committed


def test_a_finish_alone_commits_an_empty_answer() -> None:
    reader = stream_reader()
    reader.feed(ROLE)
    reader.feed(STOP)
    assert reader.committed
    assert reader.close() == DONE


def test_usage_that_was_not_asked_for_is_noted_and_dropped() -> None:
    reader = stream_reader()
    sent = reader.feed(ROLE + TEXT + STOP + USAGE + DONE) + reader.close()
    assert sent == ROLE + TEXT + STOP + DONE
    assert reader.usage == COUNTED


def test_usage_that_is_reported_in_groqs_own_member_is_noted() -> None:
    reader = stream_reader()
    usage = b'"usage":' + USAGE.partition(b'"usage":')[2].rpartition(b"}")[0]
    reader.feed(ROLE + TEXT + STOP.replace(b'"choices"', b'"x_groq":{"id":"r",' + usage + b'},"choices"') + DONE)
    assert reader.usage == COUNTED


def test_usage_that_was_asked_for_is_the_last_chunk_whatever_came_after_it() -> None:
    reader = stream_reader(usage_asked=True)
    sent = reader.feed(null_usage(ROLE, TEXT) + USAGE + null_usage(STOP) + DONE) + reader.close()
    assert sent == null_usage(ROLE, TEXT, STOP) + USAGE + DONE
    assert reader.usage == COUNTED


def test_every_other_chunk_says_that_it_has_no_usage_where_usage_was_asked_for() -> None:
    told = choices(more=b',"prompt_filter_results":[]')
    bare = choices(step(b'{"content":"a"}'))  # needs a role as well
    sent = relay(told, bare, TEXT, STOP, USAGE, DONE, usage_asked=True)
    assert [json.loads(one[6:]).get("usage", "absent") for one in sent.split(b"\n\n")[:-3]] == [None] * 4
    assert sent.endswith(null_usage(TEXT, STOP) + USAGE + DONE)
    assert b"usage" not in relay(ROLE, bare, TEXT, STOP, USAGE, DONE)


def test_a_usage_chunk_without_choices_gets_them() -> None:
    lacking = event(HEAD + b',"usage":' + FIGURES + b"}")
    assert (
        relay(ROLE, STOP, lacking, usage_asked=True)
        == null_usage(ROLE, STOP) + event(HEAD + b',"usage":' + FIGURES + b',"choices":[]}') + DONE
    )


def test_usage_beside_a_choice_is_nulled_where_it_was_not_asked_for() -> None:
    both = choices(step(b"{}", b'"stop"'), more=b',"usage":' + FIGURES)
    reader = stream_reader()
    sent = reader.feed(ROLE + both + DONE) + reader.close()
    assert sent == ROLE + choices(step(b"{}", b'"stop"'), more=b',"usage":null') + DONE
    assert reader.usage == COUNTED


def test_usage_beside_a_choice_gets_a_chunk_of_its_own_where_it_was_asked_for() -> None:
    both = choices(step(b"{}", b'"stop"'), more=b',"usage":' + FIGURES)
    nulled = choices(step(b"{}", b'"stop"'), more=b',"usage":null')
    assert relay(ROLE, both, DONE, usage_asked=True) == null_usage(ROLE) + nulled + USAGE + DONE
    assert relay(ROLE, both, USAGE, usage_asked=True) == null_usage(ROLE) + nulled + USAGE + DONE


def test_of_running_totals_only_the_last_is_given_and_noted() -> None:
    early = choices(step(b'{"content":"x"}'), more=b',"usage":{"prompt_tokens":87,"completion_tokens":1}')
    late = choices(step(b"{}", b'"stop"'), more=b',"usage":' + FIGURES)
    reader = stream_reader(usage_asked=True)
    sent = reader.feed(early + late + DONE) + reader.close()
    *chunks, last = [json.loads(one[6:]) for one in sent.split(b"\n\n")[:-2]]
    assert [chunk["usage"] for chunk in chunks] == [None, None]
    assert (last["choices"], last["usage"]) == ([], json.loads(FIGURES))
    assert reader.usage == COUNTED


def test_chunks_without_a_choice_reach_only_callers_that_asked_for_usage() -> None:
    notice = choices(more=b',"prompt_filter_results":[]')
    assert relay(notice, ROLE, STOP) == ROLE + STOP + DONE
    assert relay(notice, ROLE, STOP, usage_asked=True) == null_usage(notice, ROLE, STOP) + DONE


def test_comments_fields_and_line_ends_are_brought_to_the_plain_form() -> None:
    odd = b": hi\r\nid: 1\r\nevent: message\r\n" + ROLE.replace(b"\n", b"\r\n") + b"data:\n\n" + TEXT + STOP
    assert relay(odd) == ROLE + TEXT + STOP + DONE


def test_all_after_the_end_is_ignored() -> None:
    reader = stream_reader()
    assert reader.feed(ROLE + STOP + DONE + b"data: garbage\n\n") == ROLE + STOP
    assert reader.feed(TEXT) == b""
    assert reader.close() == DONE


@pytest.mark.parametrize("ending", [b"", b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE] \r\n\r\n", b"data: [DO"])
def test_an_answer_whose_choices_are_finished_is_whole_however_it_ends(ending: bytes) -> None:
    assert relay(ROLE + TEXT + STOP + ending) == ROLE + TEXT + STOP + DONE


def test_a_last_event_that_lacks_its_blank_line_is_delivered_with_it() -> None:
    assert relay(ROLE, TEXT, STOP[:-2]) == ROLE + TEXT + STOP + DONE


@pytest.mark.parametrize("ending", [b"", DONE, TEXT[:-20], TEXT[:-1]])
def test_an_answer_without_a_finish_reason_is_incomplete(ending: bytes) -> None:
    failure = fault_of(ROLE, TEXT, ending)
    assert failure.kind is FailureKind.INCOMPLETE
    assert failure.message == "The provider 'acme' ended its answer without a finish_reason."


def test_every_choice_seen_has_to_finish() -> None:
    first, second = choices(step(b'{"role":"assistant"}')), choices(step(b'{"role":"assistant"}', index=1))
    with pytest.raises(ProviderFault):
        relay(first, second, STOP, DONE, n=2)
    last = choices(step(b"{}", b'"length"', index=1))
    assert relay(first, second, STOP, last, DONE, n=2) == first + second + STOP + last + DONE


def test_a_missing_role_is_put_in_and_a_repeated_one_taken_out() -> None:
    bare = choices(step(b'{"content":"a"}'))
    repeated = choices(step(b'{"role":"assistant","content":"b"}'))
    empty = choices(step(b'{"role":"","content":"c"}'))
    sent = relay(bare, repeated, empty, STOP)
    assert [choice["delta"] for choice in deltas(sent)] == [
        {"role": "assistant", "content": "a"},
        {"content": "b"},
        {"content": "c"},
        {},
    ]


def test_a_null_or_missing_delta_becomes_an_empty_one() -> None:
    sent = relay(ROLE, choices(step(b"null")), choices(b'{"index":0,"finish_reason":"stop"}'))
    assert [choice["delta"] for choice in deltas(sent)[1:]] == [{}, {}]


def test_a_second_or_empty_finish_reason_becomes_null() -> None:
    sent = relay(ROLE, choices(step(b'{"content":"a"}', b'""')), STOP, STOP)
    assert [choice["finish_reason"] for choice in deltas(sent)] == [None, None, "stop", None]


@pytest.mark.parametrize(
    ("found", "documented"),
    [(b"eos", b"stop"), (b"MAX_TOKENS", b"length"), (b"tool_use", b"tool_calls"), (b"SAFETY", b"content_filter")],
)
def test_an_end_in_a_servers_own_words_is_given_in_the_documented_ones(found: bytes, documented: bytes) -> None:
    ending = choices(step(b"{}", b'"%b"' % found))
    assert relay(ROLE, TEXT, ending, DONE) == ROLE + TEXT + choices(step(b"{}", b'"%b"' % documented)) + DONE


@pytest.mark.parametrize("reason", [b"abort", b"error", b"Cancelled"])
def test_an_answer_that_its_server_gave_up_is_incomplete(reason: bytes) -> None:
    failure = fault_of(ROLE, TEXT, choices(step(b"{}", b'"%b"' % reason)), DONE)
    assert failure.kind is FailureKind.INCOMPLETE
    assert "gave its answer up" in failure.message
    with pytest.raises(ProviderFault) as fault:
        whole(BODY.replace(b'"stop"', b'"%b"' % reason))
    assert fault.value.failure.kind is FailureKind.INCOMPLETE


def test_choices_are_begun_in_the_order_of_their_indexes() -> None:
    second = choices(step(b'{"role":"assistant","content":"b"}', index=1))
    sent = relay(second, ROLE, STOP, choices(step(b"{}", b'"stop"', index=1)), n=2)
    found = deltas(sent)
    assert [choice["index"] for choice in found] == [0, 1, 0, 0, 1]
    assert [choice["delta"].get("role") for choice in found] == ["assistant", "assistant", None, None, None]


@pytest.mark.parametrize("index", [-1, 1, 10**12])
def test_a_choice_that_was_not_asked_for_is_refused(index: int) -> None:
    assert fault_of(choices(step(b'{"content":"a"}', index=index))).kind is FailureKind.MALFORMED


def test_choices_without_an_index_get_their_place() -> None:
    bare = [
        step(b'{"role":"assistant","content":"a"}').replace(b'"index":0,', member) for member in (b"", b'"index":null,')
    ]
    sent = relay(choices(bare[0]), STOP)
    assert [(choice["index"], choice["delta"]["content"]) for choice in deltas(sent)[:1]] == [(0, "a")]
    ends = step(b"{}", b'"stop"').replace(b'"index":0,', b"")
    sent = relay(choices(*bare), choices(ends, ends), n=2)
    assert [choice["index"] for choice in deltas(sent)] == [0, 1, 0, 1]


def test_content_in_parts_is_joined_and_thinking_becomes_reasoning() -> None:
    parts = (
        b'{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"\xc3\xa9"}]}'
    )
    sent = relay(ROLE, choices(step(parts)), STOP)
    assert deltas(sent)[1]["delta"] == {"content": "\u00e9", "reasoning_content": "hm"}


@pytest.mark.parametrize("parts", [b'[{"type":"image"}]', b'["x"]', b'[{"type":"text","text":1}]', b'[{"type":"text"'])
def test_content_in_parts_that_nobody_knows_is_malformed(parts: bytes) -> None:
    assert fault_of(ROLE, choices(step(b'{"content":%b}' % parts))).kind is FailureKind.MALFORMED


def test_calls_that_were_free_end_as_calls_and_named_ones_as_the_server_says() -> None:
    assert deltas(relay(ROLE, first_call(), more_of_call(), STOP))[-1]["finish_reason"] == "tool_calls"
    reader = StreamReader("acme", False, 1, Naming("gpt-5.4", lambda: 0), bound=True)
    sent = reader.feed(ROLE + first_call() + more_of_call() + STOP) + reader.close()
    assert deltas(sent)[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(("end", "more"), [(b"tool_calls", {"arguments": "{}"}), (b"length", None)])
def test_a_call_without_arguments_gets_an_empty_object_unless_it_was_cut_off(end: bytes, more: Any) -> None:
    last = deltas(relay(ROLE, first_call(), choices(step(b"{}", b'"%b"' % end))))[-1]["delta"]
    assert last == ({} if more is None else {"tool_calls": [{"index": 0, "function": more}]})


def test_nothing_of_a_call_is_sent_before_it_has_a_name() -> None:
    nameless = choices(step(b'{"tool_calls":[{"index":0,"id":"a","function":{"arguments":"{"}}]}'))
    named = choices(step(b'{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"}"}}]}'))
    held, begun, _ = (choice["delta"] for choice in deltas(relay(ROLE, nameless, named, CALLED))[1:])
    assert held == {}
    (call,) = begun["tool_calls"]
    assert (call["id"], call["function"]) == ("a", {"name": "f", "arguments": "{}"})


def test_a_call_that_never_gets_a_name_is_a_fault() -> None:
    failure = fault_of(ROLE, TEXT, more_of_call(), CALLED)
    assert (failure.kind, failure.message) == (
        FailureKind.MALFORMED,
        "The provider 'acme' called a tool without naming it.",
    )


def test_reasoning_is_relayed_under_the_name_that_clients_know() -> None:
    sent = relay(ROLE, choices(step(b'{"content":"","reasoning":"hm"}')), STOP)
    assert deltas(sent)[1]["delta"] == {"content": "", "reasoning": "hm", "reasoning_content": "hm"}


def first_call(members: bytes = b'"index":0,', call_id: bytes = b"a", name: bytes = b"f") -> bytes:
    call = b'{%b"id":"%b","type":"function","function":{"name":"%b","arguments":""}}' % (members, call_id, name)
    return choices(step(b'{"tool_calls":[%b]}' % call))


def more_of_call(members: bytes = b'"index":0,', arguments: bytes = b'"{}"') -> bytes:
    return choices(step(b'{"tool_calls":[{%b"function":{"arguments":%b}}]}' % (members, arguments)))


CALLED = choices(step(b"{}", b'"tool_calls"'))
INDEX_1 = b'"index":1,'


@pytest.mark.parametrize(
    "events",
    [
        [first_call(), more_of_call(), first_call(INDEX_1, b"b", b"g"), more_of_call(INDEX_1)],
        [first_call(b""), more_of_call(b""), first_call(b"", b"b", b"g"), more_of_call(b"")],
        [
            first_call(INDEX_1),
            more_of_call(INDEX_1),
            first_call(b'"index":2,', b"b", b"g"),
            more_of_call(b'"index":2,'),
        ],
        [first_call(), more_of_call(), first_call(b'"index":0,', b"b", b"g"), more_of_call()],
        [
            first_call(),
            first_call(),
            more_of_call(),
            first_call(INDEX_1, b"b", b"g"),
            more_of_call(INDEX_1),
            first_call(),
        ],
        [
            first_call(),
            more_of_call(b'"index":0,', b"{}"),
            first_call(INDEX_1, b"b", b"g"),
            more_of_call(INDEX_1, b"{ }"),
        ],
    ],
    ids=[
        "in order",
        "no index",
        "index from 1",
        "one index for both",
        "id and name repeated",
        "arguments as an object",
    ],
)
def test_tool_calls_reach_the_official_client_whole(events: list[bytes]) -> None:
    state = ChatCompletionStreamState()
    sent = relay(ROLE, *events, CALLED)
    for one in sent.split(b"\n\n")[:-2]:
        state.handle_chunk(ChatCompletionChunk.model_validate_json(one[6:]))
    calls = state.get_final_completion().choices[0].message.tool_calls or []
    assert [(call.id, call.type, call.function.name) for call in calls] == [
        ("a", "function", "f"),
        ("b", "function", "g"),
    ]
    assert [json.loads(call.function.arguments) for call in calls] == [{}, {}]


def test_tool_calls_in_order_go_out_as_the_very_bytes_that_came_in() -> None:
    reader = stream_reader()
    reader.feed(ROLE)
    for one in (first_call(), more_of_call(), first_call(INDEX_1, b"b", b"g"), more_of_call(INDEX_1), CALLED):
        assert reader.feed(one) == one


@pytest.mark.parametrize(
    "calls", [b'{"a":1}', b"[1]", b'"x"', b"[[]]", b"[%b]" % b",".join(b'{"index":%d}' % at for at in range(2000))]
)
def test_tool_calls_that_are_none_or_too_many_are_refused(calls: bytes) -> None:
    assert fault_of(ROLE, choices(step(b'{"tool_calls":%b}' % calls)), STOP).kind is FailureKind.MALFORMED


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (b'{"error":{"message":"m","type":"server_error","code":null}}', FailureKind.UNAVAILABLE),
        (b'{"error":{"message":"m","code":429}}', FailureKind.RATE_LIMITED),
        (b'{"error":{"message":"m","type":"tokens","code":"rate_limit_exceeded"}}', FailureKind.RATE_LIMITED),
        (b'{"error":{"message":"m","type":"invalid_request_error","code":"invalid_api_key"}}', FailureKind.REFUSED_US),
        (b'{"error":{"message":"m","type":"BadRequestError","code":400}}', FailureKind.INVALID),
        (b'{"object":"error","message":"m","type":"BadRequestError","code":400}', FailureKind.INVALID),
        (b'{"error":"overloaded"}', FailureKind.UNAVAILABLE),
        (b'{"message":"m","type":"rate_limit_error","param":null,"code":null}', FailureKind.RATE_LIMITED),
        (b'{"type":"error","code":"server_error"}', FailureKind.UNAVAILABLE),
    ],
)
def test_an_error_in_the_answer_ends_it_by_what_it_says(error: bytes, kind: FailureKind) -> None:
    for pieces in (
        (event(error),),
        (ROLE, event(error)),
        (ROLE + TEXT, event(error)),
        (error,),
        (ROLE + event(error),),
    ):
        assert fault_of(*pieces).kind is kind


def test_an_invalid_request_in_the_answer_carries_the_upstreams_own_envelope() -> None:
    error = b'{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}'
    failure = fault_of(event(error))
    assert failure.status == 400
    assert failure.body == error


def test_an_error_before_the_commit_point_takes_back_what_came_with_it() -> None:
    reader = stream_reader()
    reader.feed(ROLE)
    with pytest.raises(ProviderFault):
        reader.feed(TEXT + event(b'{"error":{"message":"m"}}'))
    assert not reader.committed


def test_an_error_after_the_commit_point_leaves_the_client_what_came_with_it() -> None:
    reader = stream_reader()
    reader.feed(ROLE + TEXT)
    assert reader.feed(TEXT + event(b'{"error":{"message":"m"}}') + STOP) == TEXT
    assert reader.done
    with pytest.raises(ProviderFault):
        reader.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>secret</html>", "answered with HTML"),
        (b"\r\n <!doctype html>", "answered with HTML"),
        (b'{"id":"secret"}', "with a JSON body"),
        (b'{"choices":[{"message":{"content":"secret"},"finish_reason":"stop"}]}', "with a JSON body"),
        (b"{" + b" " * MAX_STRAY_BYTES, "with a JSON body"),
        (b"", "without any event"),
        (b": ping\n\n", "without any event"),
        (b"data: [DONE]\n\n", "without any event"),
        (b"secret", "without any event"),
        (b"data: secret\n\n", "not a chunk"),
        (b"data: [1]\n\n", "not a chunk"),
        (b'data: {"choices":[{"delta":{"content":["secret"]}}]}\n\n', "not a chunk"),
        (b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', "not a chunk"),
        (b'data: {"x":"\xff","choices":[{"delta":{"content":""}}]}\n\n', "not a chunk"),
        (b"data: " + b"[" * 200_000 + b"\n\n", "not a chunk"),
        (b'data: {"x":' + b"[" * 200_000 + b"\n\n", "not a chunk"),
    ],
)
def test_an_answer_that_is_no_stream_is_malformed_and_not_echoed(answer: bytes, words: str) -> None:
    failure = fault_of(answer)
    assert failure.kind is FailureKind.MALFORMED
    assert words in failure.message
    assert "'acme'" in failure.message
    assert "secret" not in failure.message


def test_an_event_that_is_too_large_is_malformed() -> None:
    reader = stream_reader()
    reader.feed(ROLE + TEXT)
    assert reader.feed(TEXT + b"data: " + b"x" * (17 * 1024 * 1024)) == TEXT
    with pytest.raises(ProviderFault, match="too large"):
        reader.close()


RECORDING = (
    b"\xef\xbb\xbf: OPENROUTER PROCESSING\n\n"
    + ROLE
    + TEXT
    + choices(step(b'{"role":"assistant","reasoning":"hm","content":"\xf0\x9f\x8c\x8d"}')).replace(b"\n", b"\r\n")
    + USAGE_NULL.replace(b"\n", b"\r")
    + STOP
    + USAGE
    + DONE
)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


@pytest.mark.parametrize("usage_asked", [False, True])
def test_every_cut_in_two_of_a_stream_gives_the_same_output(usage_asked: bool) -> None:
    whole = relay(RECORDING, usage_asked=usage_asked)
    for place in range(len(RECORDING)):
        assert relay(RECORDING[:place], RECORDING[place:], usage_asked=usage_asked) == whole
    assert relay(*(RECORDING[i : i + 1] for i in range(len(RECORDING))), usage_asked=usage_asked) == whole


@given(st.lists(st.integers(0, 5000), max_size=20), st.booleans())
def test_every_cut_of_a_stream_gives_the_same_output(places: list[int], usage_asked: bool) -> None:
    assert relay(*cut(RECORDING, places), usage_asked=usage_asked) == relay(RECORDING, usage_asked=usage_asked)


FRAGMENTS = st.sampled_from(
    [b"", b"\n", b"\r\n", b"data: ", b"null", b"[]", b"{}", b'"', b"\xff", b"\\ud800", b"-1", b"1e999", b"}", b",",
     b'"error":{}', b'"role":1', b'"\\ud800":1', b'"delta":null', b'"choices":[{}],', b'"usage":[],', b"[" * 2000,
     b'"tool_calls":[{}],', b'"tool_calls":[{"id":"\\ud800","function":{"arguments":{}}}],']
)  # fmt: skip


ODD = [
    choices(step(b'{"content":"a"}', index=1)),
    choices(step(b'{"content":"a"}'), more=b',"usage":' + FIGURES),
    choices(step(b'{"content":"a","role":"assistant"}')),
    choices(step(b'{"reasoning":"a"}')),
    choices(step(b'{"reasoning_content":"a"}')),
    choices(step(b'{"content":"a"}')).replace(b"9f2b", b"9f2c"),
    choices(step(b'{"content":"a"}'), more=b',"obfuscation":"b"'),
    choices(step(b'{"content":"a"}'), more=b" "),
    choices(step(b'{"content":"b"}'), more=b',"x_groq":{"usage":' + FIGURES + b"}"),
    b": a comment\n\n",
    USAGE_NULL,
    STOP,
    USAGE,
    event(b'{"error":{"message":"content"},"content":"x"}'),
    b"data: {\n\n",
    DONE,
]
TEXTS = [choices(step(b'{"content":"%b"}' % text)) for text in (b"a", b"", b"b\\n", b"\xc3\xad", b"\xff", b"\\x", b'"')]


@given(
    st.lists(st.sampled_from([*TEXTS, *TEXTS, *ODD]), max_size=12),
    st.booleans(),
    st.integers(1, 2),
    st.lists(st.integers(0, 12), max_size=2),
)
def test_events_are_passed_on_by_their_form_as_if_each_were_decoded(
    events: list[bytes], usage_asked: bool, n: int, joined: list[int]
) -> None:
    pieces = [ROLE, TEXT, *events]
    for place in joined:
        pieces[place : place + 2] = [b"".join(pieces[place : place + 2])]
    outcomes = []
    for looks in (0, 8):  # the second looks at every event
        reader = stream_reader(usage_asked, n)
        reader._looks = looks
        sent: list[object] = []
        try:
            for piece in pieces:
                sent += [reader.feed(piece), reader.committed, reader.done, reader.whole, reader.usage, reader.finish]
            sent.append(reader.close())
        except ProviderFault as fault:
            sent.append(fault.failure)
        outcomes.append(sent)
    assert outcomes[0] == outcomes[1]


@st.composite
def mutated(draw: st.DrawFn, source: bytes) -> bytes:
    data = source
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        data = (
            data[:start] + draw(st.one_of(FRAGMENTS, st.binary(max_size=4))) + data[start + draw(st.integers(0, 6)) :]
        )
    return data


@given(mutated(RECORDING), st.lists(st.integers(0, 5000), max_size=6), st.booleans(), st.integers(1, 3))
def test_mutated_streams_give_events_or_a_provider_fault(
    data: bytes, places: list[int], usage_asked: bool, n: int
) -> None:
    try:
        sent = relay(*cut(data, places), usage_asked=usage_asked, n=n)
    except ProviderFault:
        return
    assert sent.endswith(DONE)
    for choice in deltas(sent):
        assert isinstance(choice["delta"], dict)


BODY = (
    b'{"id":"chatcmpl-9f2b","object":"chat.completion","created":1760000000,"model":"gpt-5.4","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Par\xc3\xads","refusal":null},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":' + FIGURES + b"}"
)


NOW = 1_760_000_123.5


def whole(*pieces: bytes) -> bytes:
    reader = BodyReader("acme", "gpt-5.4", lambda: NOW)
    assert b"".join([reader.feed(piece) for piece in pieces]) == b""
    return reader.close()


def test_a_whole_answer_goes_out_unchanged_and_its_usage_is_noted() -> None:
    reader = BodyReader("acme", "gpt-5.4", lambda: NOW)
    reader.feed(BODY[:100])
    reader.feed(BODY[100:])
    assert reader.close() == BODY
    assert reader.usage == COUNTED
    assert whole(BODY) is BODY


def test_reasoning_of_a_whole_answer_gets_the_name_that_clients_know() -> None:
    sent = json.loads(whole(BODY.replace(b'"refusal":null', b'"reasoning":"hm"')))
    assert sent["choices"][0]["message"]["reasoning_content"] == "hm"
    assert sent["usage"]["total_tokens"] == 187


def test_a_whole_answer_that_lacks_what_clients_need_is_made_whole() -> None:
    choice = b'{"message":{"content":[{"type":"text","text":"Par\xc3\xads"}]},"finish_reason":"eos"}'
    sent = json.loads(whole(b'{"choices":[' + choice + b'],"usage":{"prompt_tokens":87,"completion_tokens":100}}'))
    assert sent.pop("id").startswith("chatcmpl-")
    assert sent == {
        "object": "chat.completion",
        "created": int(NOW),
        "model": "gpt-5.4",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Par\u00eds", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 87, "completion_tokens": 100, "total_tokens": 187},
    }


@pytest.mark.parametrize("calls", [b"[]", b"[ ]", b"null"])
def test_an_empty_list_of_tool_calls_is_left_out_of_a_whole_answer(calls: bytes) -> None:
    body = BODY.replace(b'"refusal":null', b'"refusal":null,"tool_calls":%b' % calls)
    assert whole(body) == BODY


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"", FailureKind.MALFORMED, "empty"),
        (b" \n", FailureKind.MALFORMED, "empty"),
        (b"<html>secret</html>", FailureKind.MALFORMED, "HTML"),
        (BODY[:-1], FailureKind.MALFORMED, "cut short"),
        (BODY + b"x", FailureKind.MALFORMED, "cut short or is not"),
        (b"secret", FailureKind.MALFORMED, "not JSON"),
        (ROLE + STOP, FailureKind.MALFORMED, "event stream"),
        (b"[]", FailureKind.MALFORMED, "not JSON"),
        (b"{}", FailureKind.MALFORMED, "without choices"),
        (b'{"choices":[]}', FailureKind.MALFORMED, "without choices"),
        (b'{"choices":null}', FailureKind.MALFORMED, "without choices"),
        (b'{"choices":[{"finish_reason":"stop"}]}', FailureKind.MALFORMED, "no message"),
        (b'{"choices":[{"message":{"content":"secret"}}]}', FailureKind.INCOMPLETE, "without a finish_reason"),
        (BODY.replace(b'"Par\xc3\xads"', b'["secret"]'), FailureKind.MALFORMED, "not a chat completion"),
        (BODY.replace(b"\xc3\xad", b"\xff"), FailureKind.MALFORMED, "not a chat completion"),
        (BODY.replace(b"chatcmpl", b"\xff"), FailureKind.MALFORMED, "not a chat completion"),
        (b'{"x":' + b"[" * 200_000, FailureKind.MALFORMED, "not a chat completion"),
        (b'{"error":{"message":"m"}}', FailureKind.UNAVAILABLE, "reported an error"),
        (b'{"error":{"message":"m","code":402},"choices":null}', FailureKind.REFUSED_US, "refused us"),
    ],
)
def test_a_whole_answer_that_cannot_be_used_is_a_fault_that_echoes_nothing(
    body: bytes, kind: FailureKind, words: str
) -> None:
    with pytest.raises(ProviderFault) as fault:
        whole(body)
    assert fault.value.failure.kind is kind
    assert words in fault.value.failure.message
    assert "secret" not in fault.value.failure.message


@given(mutated(BODY.replace(b'"refusal":null', b'"reasoning":"hm"')))
def test_mutated_whole_answers_give_a_body_or_a_provider_fault(body: bytes) -> None:
    try:
        sent = whole(body)
    except ProviderFault:
        return
    assert json.loads(sent)["choices"]


GARBAGE = event(b'{"choices":[{"index":0,"delta":{"content":"lo')


def test_an_answer_is_whole_with_the_last_finish_reason() -> None:
    reader = stream_reader(n=2)
    assert not reader.whole
    for piece, whole in ((ROLE + TEXT, False), (STOP, False), (choices(step(b'{"content":"x"}', index=1)), False)):
        reader.feed(piece)
        assert reader.whole == whole
    reader.feed(choices(step(b"{}", b'"length"', 1)))
    assert reader.whole


def test_an_event_that_cannot_be_read_is_left_out_where_that_is_configured() -> None:
    reader = StreamReader("acme", False, 1, Naming("gpt-5.4", lambda: 1.0), skips=True)
    bad = [GARBAGE, event(b"\xff"), event(b"[]"), event(b'{"choices":[{"index":0,"delta":7}]}')]
    out = reader.feed(bad[0] + ROLE) + b"".join(reader.feed(one + TEXT) for one in bad)
    assert out + reader.feed(STOP) + reader.close() == ROLE + TEXT * len(bad) + STOP + DONE


def test_it_is_left_out_of_a_read_that_has_others_as_well() -> None:
    reader = StreamReader("acme", False, 1, Naming("gpt-5.4", lambda: 1.0), skips=True)
    assert reader.feed(ROLE + TEXT + GARBAGE + TEXT + STOP + DONE) == ROLE + TEXT + TEXT + STOP
    assert reader.close() == DONE


def test_an_error_is_no_event_that_cannot_be_read() -> None:
    reader = StreamReader("acme", False, 1, Naming("gpt-5.4", lambda: 1.0), skips=True)
    assert reader.feed(ROLE + TEXT) == ROLE + TEXT
    reader.feed(event(b'{"error":{"message":"lost","type":"server_error"}}'))
    with pytest.raises(ProviderFault):
        reader.close()


def test_nothing_but_events_that_cannot_be_read_is_no_answer() -> None:
    reader = StreamReader("acme", False, 1, Naming("gpt-5.4", lambda: 1.0), skips=True)
    assert reader.feed(GARBAGE + GARBAGE + DONE) == b""
    with pytest.raises(ProviderFault, match="finish_reason"):
        reader.close()


def test_an_answer_in_very_many_pieces_costs_little_more_than_its_bytes() -> None:
    one = BodyReader("acme", "m", lambda: 1.0)
    pieces = [b"%02d" % (number % 100) for number in range(300_000)]
    tracemalloc.start()
    for piece in pieces:
        one.feed(bytes(bytearray(piece)))  # each an object of its own, as off a connection
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3_000_000


@pytest.mark.parametrize(
    "last",
    [
        step(b'{"tool_calls":[{"index":0,"function":{"arguments":"x"}}]}', b'"tool_calls"'),
        step(b"{}", b'"stop"') + b"," + step(b'{"content":"x"}', index=7),
        step(b"{}", b'"stop"') + b"," + step(b'{"tool_calls":5}'),
    ],
)
def test_a_finish_in_a_last_event_that_is_broken_does_not_make_an_answer_whole(last: bytes) -> None:
    one = StreamReader("acme", False, 1, Naming("m", lambda: 1.0))
    assert one.feed(ROLE + TEXT)
    one.feed(choices(last)[:-1])  # an event that lacks its blank line
    with pytest.raises(ProviderFault) as caught:
        one.close()
    assert caught.value.failure.kind is FailureKind.INCOMPLETE
