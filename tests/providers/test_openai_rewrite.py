"""Answers of targets that refuse `stop` or leave their tags in: bytes in, cut anywhere, and OpenAI's answer out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Upstream
from penstock.errors import FailureKind, ProviderFault
from penstock.providers import registry
from penstock.providers.base import Reader
from penstock.types import Target, Usage
from penstock.wire.chat import ChatRequest, decode_chat

GPT5 = Target("*", "acme", "gpt-5.4")
TAGGED = Target("*", "acme", "qwen3")


def chat(**members: Any) -> ChatRequest:
    return decode_chat(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **members}).encode())


def reader(asked: ChatRequest, kind: str = "openai") -> Reader:
    provider = registry.build(Upstream("acme", kind, settings={"base_url": "http://127.0.0.1:9/v1"}), None)
    return provider.reader(asked, GPT5 if kind == "openai" else TAGGED)


def chunk(index: int, delta: dict[str, Any], finish: str | None = None, **choice: Any) -> bytes:
    one = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, **choice}
    data = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [one]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def stream(texts: Sequence[Sequence[str]], finish: str = "length", usage: dict[str, Any] | None = None) -> bytes:
    """The events of a stream that gives each choice its pieces in turn."""
    events = [chunk(index, {"role": "assistant", "content": ""}) for index in range(len(texts))]
    for turn in range(max(map(len, texts))):
        events += [chunk(i, {"content": pieces[turn]}) for i, pieces in enumerate(texts) if turn < len(pieces)]
    events += [chunk(index, {}, finish) for index in range(len(texts))]
    if usage is not None:
        data = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}
        events.append(b"data: " + json.dumps({**data, "usage": usage}).encode() + b"\n\n")
    return b"".join(events) + b"data: [DONE]\n\n"


def fed(one: Reader, reads: Sequence[bytes]) -> bytes:
    """What comes out for these reads, and at the end."""
    out = b""
    for data in reads:
        out += one.feed(data)
        if one.done:
            break
    return out + one.close()


def events(out: bytes) -> list[dict[str, Any]]:
    assert out.endswith(b"data: [DONE]\n\n")
    found = [one.removeprefix(b"data: ") for one in out.split(b"\n\n")[:-2]]
    return [msgspec.json.decode(one) for one in found]


class Said(msgspec.Struct):
    """What a client makes of a stream's events, for one choice."""

    text: str = ""
    reasoning: str = ""
    finish: str | None = None


def said(out: bytes) -> list[Said]:
    choices: dict[int, Said] = {}
    for data in events(out):
        for choice in data["choices"]:
            one = choices.setdefault(choice["index"], Said())
            assert one.finish is None, "something comes after the finish"
            one.text += choice["delta"].get("content") or ""
            one.reasoning += choice["delta"].get("reasoning_content") or ""
            one.finish = choice["finish_reason"]
    return [choices[index] for index in sorted(choices)]


def cut(text: str, stops: Sequence[str]) -> str | None:
    """The text up to the stop string that is completed first, the longest if several are; None if there is none."""
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    return None if not ends else text[: min(ends)[0] + min(ends)[1]]


def pieces(text: str, data: st.DataObject) -> list[str]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


TEXT = st.text("ab 漢é🌍", max_size=20)
STOPS = st.lists(st.text("ab 漢🌍", min_size=1, max_size=4), min_size=1, max_size=4)


@given(st.lists(TEXT, min_size=1, max_size=3), STOPS, st.data())
def test_a_stream_is_cut_as_the_whole_text_would_be(texts: list[str], stops: list[str], data: st.DataObject) -> None:
    asked = chat(stream=True, stop=stops, n=len(texts))
    sent = stream([pieces(text, data) for text in texts])
    places = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    reads = [sent[a:b] for a, b in zip([0, *places], [*places, len(sent)], strict=True)]
    found = said(fed(reader(asked), [read for read in reads if read]))
    assert len(found) == len(texts)
    for one, text in zip(found, texts, strict=True):
        expected = cut(text, stops)
        assert (one.text, one.finish) == ((text, "length") if expected is None else (expected, "stop"))


@given(st.lists(TEXT, min_size=1, max_size=3), STOPS)
def test_a_whole_answer_is_cut_as_a_stream_is(texts: list[str], stops: list[str]) -> None:
    one = reader(chat(stop=stops, n=len(texts)))
    one.feed(whole(texts))
    for choice, text in zip(msgspec.json.decode(one.close())["choices"], texts, strict=True):
        expected = cut(text, stops)
        found = choice["message"]["content"], choice["finish_reason"]
        assert found == ((text, "length") if expected is None else (expected, "stop"))


def whole(texts: Sequence[str], **message: Any) -> bytes:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None, **message},
            "logprobs": None,
            "finish_reason": "length",
        }
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    body = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
    return json.dumps(body).encode()


def test_the_upstream_is_aborted_when_every_choice_has_ended_and_not_before() -> None:
    one = reader(chat(stream=True, stop="END", n=2))
    for index in (0, 1):
        one.feed(chunk(index, {"role": "assistant", "content": ""}))
    out = one.feed(chunk(0, {"content": "one END more"}))
    assert b'"finish_reason":"stop"' in out
    assert not one.done
    assert one.feed(chunk(0, {"content": "more"})) == b""
    out = one.feed(chunk(1, {"content": "two"})) + one.feed(chunk(1, {}, "stop"))
    assert (one.done, one.aborts) == (True, True)
    assert one.close() == b"data: [DONE]\n\n"


def test_an_upstream_that_is_done_as_well_is_not_aborted() -> None:
    one = reader(chat(stream=True, stop="END"))
    usage = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    out = fed(one, [stream([["a END b"]], usage=usage)])
    assert said(out)[0].text == "a "
    assert not one.aborts
    assert one.usage == Usage(7, 9)


def test_usage_that_nobody_reports_is_estimated_and_says_so() -> None:
    asked = chat(stream=True, stop="END", stream_options={"include_usage": True})
    one = reader(asked)
    out = one.feed(chunk(0, {"role": "assistant", "content": ""}) + chunk(0, {"content": "12345678END"}))
    last = events(out + one.close())[-1]
    assert one.usage == Usage(-(-len(asked.body) // 4), 3, source="estimated")
    assert (last["id"], last["choices"]) == ("c-1", [])
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 3


def test_usage_that_came_with_the_chunks_is_kept_and_marked() -> None:
    one = reader(chat(stream=True, stop="END"))
    data = json.loads(chunk(0, {"role": "assistant", "content": "aEND"}).removeprefix(b"data: "))
    data["usage"] = {"prompt_tokens": 50, "completion_tokens": 2, "total_tokens": 52}
    one.feed(b"data: " + json.dumps(data).encode() + b"\n\n")
    one.close()
    assert one.usage == Usage(50, 2, source="estimated")


def test_a_whole_answer_that_is_cut_keeps_the_usage_of_its_upstream() -> None:
    one = reader(chat(stop="END"))
    one.feed(whole(["a END b"]))
    assert msgspec.json.decode(one.close())["usage"]["completion_tokens"] == 9
    assert one.usage == Usage(7, 9)


def test_what_may_begin_a_stop_string_is_held_back_and_nothing_else() -> None:
    one = reader(chat(stream=True, stop="STOP"))
    one.feed(chunk(0, {"role": "assistant", "content": ""}))
    assert not one.committed
    assert one.feed(chunk(0, {"content": "ST"})) == b""
    assert not one.committed
    assert said(one.feed(chunk(0, {"content": "AY S"})) + b"data: [DONE]\n\n")[0].text == "STAY "
    assert one.committed
    out = one.feed(chunk(0, {}, "length") + b"data: [DONE]\n\n") + one.close()
    assert [(found["choices"][0]["delta"], found["choices"][0]["finish_reason"]) for found in events(out)] == [
        ({"content": "S"}, None),
        ({}, "length"),
    ]


def test_a_stream_without_a_stop_string_in_sight_keeps_its_bytes() -> None:
    one = reader(chat(stream=True, stop="STOP"))
    first = chunk(0, {"role": "assistant", "content": ""})
    one.feed(first)
    text = chunk(0, {"content": "plain"}).replace(b'"model"', b'"x_own":1.50,"model"')
    assert one.feed(text) == text


def test_an_error_after_the_cut_is_nobodys_business() -> None:
    one = reader(chat(stream=True, stop="END"))
    one.feed(chunk(0, {"role": "assistant", "content": "so"}))
    out = one.feed(chunk(0, {"content": "END"}) + b'data: {"error": {"message": "lost"}}\n\n')
    assert said(out + one.close())[0].finish == "stop"
    assert one.usage is not None
    assert one.usage.source == "estimated"


def test_an_error_before_every_choice_has_ended_is_one() -> None:
    one = reader(chat(stream=True, stop="END", n=2))
    one.feed(chunk(0, {"role": "assistant", "content": "aEND"}) + chunk(1, {"role": "assistant", "content": "b"}))
    with pytest.raises(ProviderFault) as caught:
        one.close()
    assert caught.value.failure.kind is FailureKind.INCOMPLETE


def test_a_model_that_stops_has_called_no_tool() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    one = reader(chat(stop="END"))
    one.feed(whole(["a END"], tool_calls=calls))
    choice = msgspec.json.decode(one.close())["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "a ", "refusal": None}
    assert choice["finish_reason"] == "stop"


def test_reasoning_is_not_searched_for_stop_strings() -> None:
    one = reader(chat(stream=True, stop="END"))
    out = one.feed(chunk(0, {"role": "assistant", "reasoning_content": "the END"}) + chunk(0, {"content": "a"}))
    found = said(out + b"data: [DONE]\n\n")[0]
    assert (found.reasoning, found.text, found.finish) == ("the END", "a", None)


def entry(token: str, number: int) -> dict[str, Any]:
    return {"token": token, "logprob": -number, "bytes": list(token.encode()), "top_logprobs": []}


@pytest.mark.parametrize(
    "tokens", [["a", "bS", "T", "cd"], ["é", "S", "漢"], ["x", "S", "S", "S", "y"], ["S", "T", "OP"], ["abST", "OP"]]
)
def test_log_probabilities_follow_their_text(tokens: list[str]) -> None:
    one = reader(chat(stream=True, stop="STOP", logprobs=True))
    reads = [chunk(0, {"role": "assistant", "content": ""})]
    reads += [
        chunk(0, {"content": token}, logprobs={"content": [entry(token, number)], "refusal": None})
        for number, token in enumerate(tokens)
    ]
    text = ""
    found: list[dict[str, Any]] = []
    for data in events(fed(one, [*reads, chunk(0, {}, "stop"), b"data: [DONE]\n\n"])):
        for choice in data["choices"]:
            text += choice["delta"].get("content") or ""
            found += (choice["logprobs"] or {}).get("content") or []
            assert text.startswith("".join(each["token"] for each in found))
    whole = "".join(tokens)
    assert text == whole.partition("STOP")[0]
    kept = [number for number in range(len(tokens)) if len("".join(tokens[: number + 1])) <= len(text)]
    assert found == [entry(tokens[number], number) for number in kept]


# -- think tags


@given(TEXT, TEXT, st.data())
def test_reasoning_between_tags_is_reasoning_content(reasoning: str, answer: str, data: st.DataObject) -> None:
    text = f"<think>{reasoning}</think>{answer}"
    sent = stream([pieces(text, data)], finish="stop")
    place = data.draw(st.integers(0, len(sent)))
    one = reader(chat(stream=True), "vllm")
    found = said(fed(one, [read for read in (sent[:place], sent[place:]) if read]))[0]
    assert found == Said(answer.lstrip(), reasoning.lstrip(), "stop")
    body = reader(chat(), "vllm")
    body.feed(whole([text]))
    message = msgspec.json.decode(body.close())["choices"][0]["message"]
    assert (message["content"], message.get("reasoning_content", "")) == (answer.lstrip(), reasoning.lstrip())


def test_an_answer_without_tags_comes_through_byte_for_byte() -> None:
    sent = stream([["Hel", "lo <think> is a tag"]], finish="stop")
    one = reader(chat(stream=True), "vllm")
    assert fed(one, [sent[:30], sent[30:]]) == sent
    body = reader(chat(), "vllm")
    body.feed(whole(["I think so."]))
    assert body.close() == whole(["I think so."])


def test_tags_behind_reasoning_that_the_server_has_named_are_text() -> None:
    one = reader(chat(stream=True), "vllm")
    sent = chunk(0, {"role": "assistant", "reasoning_content": "hm"}) + chunk(0, {"content": "<think>"})
    assert said(one.feed(sent) + b"data: [DONE]\n\n")[0] == Said("<think>", "hm")


def test_reasoning_between_tags_commits_the_answer_and_a_tag_alone_does_not() -> None:
    one = reader(chat(stream=True), "vllm")
    one.feed(chunk(0, {"role": "assistant", "content": "<think>"}))
    assert not one.committed
    one.feed(chunk(0, {"content": "hm"}))
    assert one.committed


def test_escaped_tags_of_a_whole_answer_are_tags() -> None:
    one = reader(chat(), "ollama")
    one.feed(whole(["<think>hm</think>Yes."]).replace(b"<", b"\\u003c").replace(b">", b"\\u003e"))
    assert msgspec.json.decode(one.close())["choices"][0]["message"]["reasoning_content"] == "hm"


def test_a_service_that_never_sends_tags_has_its_answers_left_alone() -> None:
    sent = stream([["<think>x</think>y"]], finish="stop")
    assert fed(reader(chat(stream=True)), [sent]) == sent


def test_log_probabilities_of_half_a_million_tokens_are_cut_with_their_text() -> None:
    tokens = [{"token": "a", "logprob": -1.0}] * 500_000
    choice = {"index": 0, "message": {"role": "assistant", "content": "a" * 400_000 + "END" + "a" * 99_997}}
    body = {"choices": [{**choice, "logprobs": {"content": tokens}, "finish_reason": "stop"}]}
    one = reader(chat(stop=["END"]))
    one.feed(msgspec.json.encode(body))
    began = time.process_time()
    cut = msgspec.json.decode(one.close())["choices"][0]
    assert len(cut["logprobs"]["content"]) == len(cut["message"]["content"]) == 400_000
    assert time.process_time() - began < 10.0  # taking them from the front of a list took a minute


@pytest.mark.parametrize(
    "logprobs", [5, {"content": 5}, {"content": [5]}, {"content": [{"token": 5}]}, {"content": [{"bytes": "x"}]}]
)
def test_log_probabilities_that_cannot_be_read_are_the_providers_fault(logprobs: Any) -> None:
    streamed = reader(chat(stop=["END"], stream=True))
    with pytest.raises(ProviderFault, match="log probabilities") as caught:
        streamed.feed(chunk(0, {"role": "assistant", "content": "aE"}, logprobs=logprobs))
    assert caught.value.failure.kind is FailureKind.MALFORMED
    choice = {"message": {"role": "assistant", "content": "aEND"}, "logprobs": logprobs, "finish_reason": "stop"}
    whole = reader(chat(stop=["END"]))
    whole.feed(msgspec.json.encode({"choices": [choice]}))
    with pytest.raises(ProviderFault, match="log probabilities"):
        whole.close()


def test_log_probabilities_whose_text_never_comes_are_not_kept_without_end() -> None:
    one = reader(chat(stop=["END"], stream=True))
    tokens = {"content": [{"token": "a" * 100_000}] * 10}
    reads = [chunk(0, {"role": "assistant", "content": "E"}, logprobs=tokens), *[chunk(0, {}, logprobs=tokens)] * 20]
    with pytest.raises(ProviderFault, match="log probabilities"):
        fed(one, reads)


def test_a_chunk_that_names_its_choice_often_does_not_multiply() -> None:
    one = reader(chat(stop=["END"], stream=True))
    one.feed(chunk(0, {"role": "assistant", "content": "a"}))
    choices = [{"index": 0, "delta": {"content": "aE"}}] * 1000
    data = b"data: " + json.dumps({"id": "c-1", "choices": choices, "pad": "x" * 10_000}).encode() + b"\n\n"
    assert len(one.feed(data)) < 4 * len(data)
