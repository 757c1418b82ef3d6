"""Any body becomes a request or a 400, and a request says what was asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

from penstock.errors import InvalidRequest
from penstock.wire.chat import ChatRequest, decode_chat
from penstock.wire.envelope import envelope
from penstock.wire.params import FunctionTool, Params
from support.chat_bodies import ABSENT, USER, body, function_tool, refusal, user

# Every optional parameter of openai-python's CompletionCreateParams, at a valid value.
EVERYTHING: dict[str, Any] = {
    "audio": {"format": "wav", "voice": "alloy"},
    "frequency_penalty": -2,
    "function_call": "none",
    "functions": [{"name": "weather", "description": "Tells it", "parameters": {"type": "object"}}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 64,
    "max_tokens": 32,
    "metadata": {"purpose": "test"},
    "modalities": ["text"],
    "moderation": {"model": "omni-moderation-latest", "policy": {"input": {"mode": "score"}}},
    "n": 1,
    "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": "a text"},
    "presence_penalty": -2,
    "prompt_cache_key": "key-1234",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "prompt_cache_retention": "in_memory",
    "reasoning_effort": "none",
    "response_format": {"type": "text"},
    "safety_identifier": "safety-1234",
    "seed": -9007199254740991,
    "service_tier": "auto",
    "stop": "\n",
    "store": True,
    "stream": True,
    "stream_options": {"include_obfuscation": True, "include_usage": True},
    "temperature": 1,
    "tool_choice": "none",
    "tools": [
        {
            "type": "function",
            "function": {"name": "name", "description": "d", "parameters": {"type": "object"}, "strict": True},
        }
    ],
    "top_logprobs": 0,
    "top_p": 1,
    "user": "user-1234",
    "verbosity": "low",
    "web_search_options": {
        "search_context_size": "low",
        "user_location": {"type": "approximate", "approximate": {"city": "Paris", "country": "FR"}},
    },
}


def decoded(**members: Any) -> ChatRequest:
    return decode_chat(body(**members))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b'{"model":', id="A04"),
        pytest.param(b'{"model":"m","messages":[{"role":"user","content":"x"}]', id="A04-one-brace-short"),
        pytest.param(body() + b"x", id="A04-something-after"),
        pytest.param(b'"str"', id="A05-string"),
        pytest.param(b"[1]", id="A05-array"),
        pytest.param(b"42", id="A05-number"),
        pytest.param(b"null", id="A05-null"),
        pytest.param(b"true", id="A05-true"),
        pytest.param(b"", id="A06"),
        pytest.param(b" \r\n", id="A06-white-space"),
        pytest.param(b'\xff\xfe{"model":"m"}', id="A07-no-utf8"),
        pytest.param(body(messages=user("caf?")).replace(b"?", b"\xe9"), id="A07-in-content"),
        pytest.param(body(top_k="?").replace(b"?", b"\xe9"), id="A07-in-an-unknown-parameter"),
        pytest.param(body(messages=[USER | {"x": "?"}]).replace(b"?", b"\xc3"), id="A07-in-a-key-not-decoded"),
        pytest.param(body(**{"?": 1}).replace(b'"?"', b'"\xff"'), id="A07-in-a-name"),
        pytest.param(body(messages=user("emoji \ud83d")), id="A08-lone-high-surrogate"),
        pytest.param(body(messages=user("emoji \ude00 x")), id="A08-lone-low-surrogate"),
        pytest.param(body(top_k="\ud83d"), id="A08-in-an-unknown-parameter"),
        pytest.param(b"\xef\xbb\xbf" + body(), id="A10"),
        pytest.param(body(temperature=float("nan")), id="A11-nan"),
        pytest.param(body(temperature=float("inf")), id="A11-infinity"),
        pytest.param(body(top_k=float("nan")), id="A11-nan-in-an-unknown-parameter"),
        pytest.param(b'{"model":"a",' + body()[1:], id="A11-repeated-name"),
        pytest.param(b"[" * 100_000, id="A12-only-brackets"),
        pytest.param(body(top_k="?").replace(b'"?"', b"[" * 100_000 + b"]" * 100_000), id="A12-unknown-parameter"),
        pytest.param(body(messages=user("?")).replace(b'"?"', b"[" * 100_000 + b"]" * 100_000), id="A12-content"),
        pytest.param(body(top_k="?").replace(b'"?"', b'{"a":' * 100_000 + b"1" + b"}" * 100_000), id="A12-objects"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(sent: bytes) -> None:
    refusal(sent)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(rb'"\ud83d\ude00"', "\U0001f600", id="A09-paired-surrogates"),
        pytest.param('"\U0001f600"'.encode(), "\U0001f600", id="A09-four-bytes"),
        pytest.param(rb'"a\u0000b"', "a\0b", id="A09-nul"),
    ],
)
def test_text_arrives_intact(content: bytes, text: str) -> None:
    sent = body(messages=user("?")).replace(b'"?"', content)
    chat = decode_chat(sent)
    assert chat.messages()[0].content == text
    assert chat.body is sent


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        pytest.param(b'{"model":"a","model":"b","messages":[%s]}', "model", id="next-to-each-other"),
        pytest.param(b'{"model":"a","messages":[%s],"model":"a"}', "model", id="same-value"),
        pytest.param(b'{"model":"a","messages":[%s],"mod\\u0065l":"b"}', "model", id="spelled-with-an-escape"),
        pytest.param(b'{"model":"a","messages":[%s],"n":1,"n":12}', "n", id="a-number-that-begins-alike"),
        pytest.param(b'{ "model" : "a" ,\n"messages":[%s], "x":[], "x" : [ ] }', "x", id="spaced"),
        pytest.param(b'{"model":"a","y":[1,2],"messages":[%s],"y":1}', "y", id="different-lengths"),
        pytest.param(b'{"n":"x","a":1,"n":1234,"model":"a","messages":[%s]}', "n", id="covers-its-neighbour"),
        pytest.param(
            b'{"model":"a","messages":[%s],"stream":true,"stream_options":{"include_usage":false,"include_usage":true}}',
            "stream_options.include_usage",
            id="inside-stream-options",
        ),
    ],
)
def test_a_name_that_is_given_twice_is_refused(sent: bytes, param: str) -> None:
    assert refusal(sent % json.dumps(USER).encode()).param == param


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n\t", " :\r ")])
def test_white_space_makes_no_repetition(separators: tuple[str, str]) -> None:
    sent = json.dumps({"model": "m", "messages": [USER], 'q"\\u': {}, "é\n": [1, 2]}, separators=separators)
    chat = decode_chat(f" {sent}\n".encode())
    assert chat.unknown == ('q"\\u', "é\n")


def test_a_body_made_of_names_is_refused() -> None:
    refusal(body(**{f"x{number}": 0 for number in range(1000)}))


@pytest.mark.parametrize(
    ("sent", "param", "code"),
    [
        pytest.param(body(messages=ABSENT), "messages", "missing_required_parameter", id="E01"),
        pytest.param(body(model=ABSENT), "model", "missing_required_parameter", id="E04"),
        pytest.param(body(model=None), "model", "invalid_type", id="E04-null"),
        pytest.param(body(model=7), "model", "invalid_type", id="E04-number"),
        pytest.param(body(model=""), "model", "empty_string", id="E04-empty"),
        pytest.param(body(model="m" * 257), "model", "string_above_max_length", id="E04-long"),
    ],
)
def test_model_and_messages_are_required(sent: bytes, param: str, code: str) -> None:
    caught = refusal(sent)
    assert (caught.param, caught.code) == (param, code)


def test_what_was_not_asked_has_the_defaults() -> None:
    chat = decoded()
    assert (chat.model, chat.stream, chat.include_usage, chat.n, chat.stop) == ("gpt-5.4", False, False, 1, ())
    assert (chat.max_tokens, chat.temperature, chat.seed, chat.tools, chat.logprobs) == (None, None, None, (), False)
    assert chat.fields == {"model", "messages"}
    assert chat.unknown == ()


@pytest.mark.parametrize("name", [pytest.param(name, id=f"F01-{name}") for name in EVERYTHING])
def test_null_is_the_same_as_absent(name: str) -> None:
    absent, null = decoded(), decoded(**{name: None})
    assert {field: getattr(null, field) for field in null.__struct_fields__ if field != "body"} == {
        field: getattr(absent, field) for field in absent.__struct_fields__ if field != "body"
    }


@pytest.mark.parametrize(
    ("members", "limit"),
    [
        pytest.param({"max_tokens": 7}, 7, id="F08"),
        pytest.param({"max_tokens": 10.0}, 10, id="F09-integral-decimal"),
        pytest.param({"max_tokens": 1e9}, 10**9, id="F09-large"),
        pytest.param({"max_tokens": 7, "max_completion_tokens": 5}, 5, id="F10"),
        pytest.param({"max_completion_tokens": 9, "max_tokens": 7}, 9, id="F10-other-order"),
        pytest.param({"max_tokens": 7, "max_completion_tokens": None}, 7, id="F10-one-is-null"),
    ],
)
def test_the_limit_in_force_is_max_completion_tokens_then_max_tokens(members: dict[str, Any], limit: int) -> None:
    chat = decoded(**members)
    assert chat.max_tokens == limit
    assert type(chat.max_tokens) is int


@pytest.mark.parametrize(
    ("stop", "texts"),
    [
        pytest.param("x", ("x",), id="F11-string"),
        pytest.param(["a", "b", "c", "d"], ("a", "b", "c", "d"), id="F11-four"),
        pytest.param([], (), id="F13-empty-array"),
        pytest.param("", (), id="F13-empty-string"),
        pytest.param([""], (), id="F13-empty-string-in-array"),
        pytest.param(["", "a"], ("a",), id="F13-one-of-them-empty"),
    ],
)
def test_stop_is_its_texts_that_are_not_empty(stop: Any, texts: tuple[str, ...]) -> None:
    assert decoded(stop=stop).stop == texts


def test_usage_is_asked_for_only_by_a_true_include_usage() -> None:
    for options, asked in ({"include_usage": True}, True), ({"include_usage": False}, False), ({}, False):
        assert decoded(stream=True, stream_options=options).include_usage is asked
    assert decoded(stream=True, stream_options={"include_usage": None}).include_usage is False


def test_unknown_parameters_are_named_and_not_refused() -> None:
    chat = decoded(foo={"bar": 1}, top_k=40, nothing=None)  # F29
    assert chat.unknown == ("foo", "top_k", "nothing")
    assert chat.fields == {"model", "messages", "foo", "top_k"}


@pytest.mark.parametrize("name", ["Model", "MAX_TOKENS", "\u017ftream", "Stream_Options"])
def test_a_name_that_some_servers_would_take_for_a_documented_one_is_refused(name: str) -> None:
    assert refusal(body(**{name: 1})).param == name
    options = {"include_usage": True, "INCLUDE_USAGE": False}
    assert refusal(body(stream=True, stream_options=options)).param == "INCLUDE_USAGE"


def test_an_integer_that_no_number_type_holds_is_refused() -> None:
    caught = refusal(body(n="?").replace(b'"?"', b"9" * 5000))
    assert (caught.param, caught.code) == ("n", "invalid_value")


def test_a_parameter_named_like_a_field_of_ours_is_unknown() -> None:
    chat = decoded(body="x", fields=["y"], unknown=1, include_usage=True)
    assert chat.unknown == ("body", "fields", "unknown", "include_usage")
    assert chat.include_usage is False


def test_every_documented_parameter_at_once_is_accepted() -> None:
    chat = decoded(**EVERYTHING)  # F32
    assert chat.fields == set(EVERYTHING) | {"model", "messages"}
    assert chat.unknown == ()
    assert (chat.n, chat.max_tokens, chat.seed, chat.top_logprobs) == (1, 64, -9007199254740991, 0)
    assert (chat.temperature, chat.top_p, chat.presence_penalty, chat.frequency_penalty) == (1, 1, -2, -2)
    assert (chat.stream, chat.include_usage, chat.logprobs, chat.parallel_tool_calls) == (True, True, True, True)
    assert (chat.stop, chat.logit_bias, chat.metadata) == (("\n",), {"50256": -100}, {"purpose": "test"})
    assert (chat.reasoning_effort, chat.verbosity, chat.service_tier, chat.user) == ("none", "low", "auto", "user-1234")
    assert (chat.tool_choice, chat.function_call, chat.modalities) == ("none", "none", ("text",))
    assert [tool.function.name for tool in chat.tools if isinstance(tool, FunctionTool)] == ["name"]
    assert [function.name for function in chat.functions] == ["weather"]
    assert type(chat.response_format).__name__ == "TextFormat"


def test_every_documented_parameter_is_one_that_the_sdk_sends() -> None:
    sent = set(CompletionCreateParamsStreaming.__annotations__)
    assert sent == set(EVERYTHING) | {"model", "messages"} == set(Params.__struct_fields__)


def test_a_long_value_is_not_echoed_whole() -> None:
    long = "secret-" * 10_000
    for members in (
        {"service_tier": long},
        {"messages": [{"role": long, "content": "x"}]},
        {"metadata": {long: long}},
        {"logit_bias": {long: 1}},
        {"tool_choice": {"type": "function", "function": {"name": long}}, "tools": [function_tool()]},
        {"n": 10**4000},
        {"messages": [{"role": "assistant", "tool_calls": [_call(long)]}]},
    ):
        caught = refusal(body(**members))
        assert len(caught.message) < 500
        assert len(caught.param or "") < 100


def _call(identity: str) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def many(count: int) -> list[dict[str, Any]]:
    return [{"role": "user" if turn % 2 else "assistant", "content": "Yes."} for turn in range(count)]


def calls_in_turn(count: int) -> list[dict[str, Any]]:
    call = {"role": "assistant", "tool_calls": [_call("c")]}
    return [call if turn % 2 == 0 else {"role": "tool", "tool_call_id": "c", "content": ""} for turn in range(count)]


def calls_at_once(count: int) -> list[dict[str, Any]]:
    replies = [{"role": "tool", "tool_call_id": str(call), "content": ""} for call in reversed(range(count))]
    return [{"role": "assistant", "tool_calls": [_call(str(call)) for call in range(count)]}, *replies]


@pytest.mark.parametrize("conversation", [many, calls_in_turn, calls_at_once])
def test_the_work_on_a_long_body_grows_as_the_body(conversation: Callable[[int], list[dict[str, Any]]]) -> None:
    """E27. Counted in calls of functions, Python's and C's, since the time depends on what else is going on."""

    def work(count: int) -> int:
        messages = conversation(count)
        sent = body(messages=messages)
        seen = []
        sys.setprofile(lambda _frame, event, _argument: seen.append(event))
        try:
            chat = decode_chat(sent)
        finally:
            sys.setprofile(None)
        assert len(chat.messages()) == len(messages)
        return len(seen)

    assert work(10_000) < 2.2 * work(5_000)


def test_a_message_of_a_million_characters_is_taken() -> None:
    assert decode_chat(body(messages=user("x" * 1_000_000))).messages()[0].content == "x" * 1_000_000


def outcome(sent: bytes) -> ChatRequest | InvalidRequest:
    try:
        return decode_chat(sent)
    except InvalidRequest as caught:
        return caught


def decodes_or_refuses(sent: bytes) -> None:
    found = outcome(sent)
    if isinstance(found, InvalidRequest):
        assert found.status == 400
        assert json.loads(envelope(found))["error"]["message"]
    else:
        assert set(found.unknown) <= set(json.loads(sent))


@given(st.binary())
def test_any_bytes_are_decoded_or_refused(sent: bytes) -> None:
    decodes_or_refuses(sent)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(EVERYTHING)) | st.text(), ANYTHING, max_size=4))
def test_any_value_of_any_parameter_is_decoded_or_refused(members: dict[str, Any]) -> None:
    decodes_or_refuses(json.dumps({"model": "m", "messages": [USER], **members}).encode())


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "role": st.sampled_from(["user", "tool", "assistant"]),
                "content": ANYTHING,
                "tool_calls": ANYTHING,
            },
        )
    )
)
def test_any_messages_are_decoded_or_refused(messages: list[dict[str, Any]]) -> None:
    decodes_or_refuses(json.dumps({"model": "m", "messages": messages}).encode())


@given(st.data())
def test_a_mutated_body_is_decoded_or_refused(data: st.DataObject) -> None:
    sent = bytearray(body(**EVERYTHING))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sent) - 1))
        sent[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"]"])
        )
        if not sent:
            break
    decodes_or_refuses(bytes(sent))
