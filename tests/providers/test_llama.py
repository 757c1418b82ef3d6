"""The provider for local models: the engine's bytes in, OpenAI's out; no engine is run here."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.config import Upstream
from penstock.errors import FailureKind, InvalidRequest, ProviderFault
from penstock.providers import registry
from penstock.providers.base import Call, Reader, Reply
from penstock.providers.llama import Llama, LlamaSettings, model_file, model_name
from penstock.providers.llama_answer import STOPPED
from penstock.types import EngineAddress, Target
from penstock.wire.chat import ChatRequest, decode_chat

ADDRESS = EngineAddress("/run/engine.sock", "secret-token")
TARGET = Target("m", "local", "m")
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}


def provider(**settings: Any) -> Llama:
    return Llama(Upstream("local", "llama", settings={"model": "/models/tiny.gguf"} | settings), ADDRESS)


def request(**params: Any) -> ChatRequest:
    return decode_chat(msgspec.json.encode({"model": "m", "messages": [USER]} | params))


def reader(**params: Any) -> Reader:
    return provider().reader(request(**params), TARGET)


def token(text: str, predicted: int, index: int = 0) -> bytes:
    head = {"index": index, "content": text, "tokens": [7], "stop": False, "id_slot": -1}
    return sse(head | {"tokens_predicted": predicted, "tokens_evaluated": 21})


def end(stop_type: str, predicted: int, index: int = 0) -> bytes:
    head = {"index": index, "content": "", "stop": True, "stop_type": stop_type}
    return sse(head | {"tokens_predicted": predicted, "tokens_evaluated": 21})


def progress(index: int = 0, cache: int = 20) -> bytes:
    step = {"total": 21, "cache": cache, "processed": 21, "time_ms": 0}
    return sse({"index": index, "content": "", "stop": False, "tokens_evaluated": 21, "prompt_progress": step})


def sse(event: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


ANSWER = progress() + token("Hello", 1) + token("", 2) + token(" 🌍", 6) + token("", 7) + end("eos", 7)


def chunks(out: bytes) -> list[Any]:
    *events, nothing = out.split(b"\n\n")
    assert nothing == b""
    assert all(event.startswith(b"data: ") for event in events)
    return [json.loads(event[6:]) for event in events]


def drive(steps: Generator[Call, Reply, Call] | Call, *replies: Reply) -> tuple[list[Any], Any]:
    """The bodies of the preparatory calls, and the body of the last one."""
    assert not isinstance(steps, Call)
    asked = [next(steps)]
    for reply in replies:
        try:
            asked.append(steps.send(reply))
        except StopIteration as stop:
            return [json.loads(call.body) for call in asked], json.loads(stop.value.body)
    raise AssertionError("it asks for more")


def prompt(text: str = "PROMPT") -> Reply:
    return Reply(200, [], msgspec.json.encode({"prompt": text}))


def refusal(status: int = 400, message: str = "roles must alternate") -> Reply:
    return Reply(status, [], msgspec.json.encode({"error": {"code": status, "message": message, "type": "x"}}))


def test_a_request_becomes_a_template_and_a_completion() -> None:
    made = provider()
    steps = made.prepare(
        request(
            max_tokens=9, temperature=0.5, top_p=0.9, seed=-1, stop="x", presence_penalty=1, logit_bias={"5": -100}
        ),
        TARGET,
    )
    asked, body = drive(steps, prompt())
    assert asked == [
        {"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"enable_thinking": False}}
    ]
    assert 0 <= body.pop("seed") < 2**32 - 128
    assert body.pop("response_fields")
    assert body == {
        "prompt": "PROMPT",
        "stream": True,
        "return_progress": True,
        "cache_prompt": True,
        "n_predict": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 1,
        "logit_bias": {"5": -100},
    }


def test_a_message_to_be_continued_goes_behind_the_template() -> None:
    begun = {"messages": [USER, {"role": "assistant", "content": "Hel"}], "add_generation_prompt": False}
    asked, body = drive(provider().prepare(request(**begun, continue_final_message=True), TARGET), prompt())
    assert asked[0]["messages"] == [USER]
    assert body["prompt"] == "PROMPTHel"
    assert not body.keys() & {"continue_final_message", "add_generation_prompt"}
    asked, body = drive(provider().prepare(request(**begun, continue_final_message=False), TARGET), prompt())
    assert len(asked[0]["messages"]) == 2
    assert body["prompt"] == "PROMPT"


@pytest.mark.parametrize("last", [USER, {"role": "assistant", "content": None, "refusal": "No."}])
def test_only_text_of_the_assistants_is_continued(last: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="continue_final_message"):
        next(provider().prepare(request(messages=[USER, last], continue_final_message=True), TARGET))


def test_absent_parameters_have_openais_defaults() -> None:
    _, body = drive(provider().prepare(request(), TARGET), prompt())
    assert (body["temperature"], body["top_p"], body["n_predict"]) == (1.0, 1.0, -1)
    assert "seed" not in body


def test_calls_carry_the_token_in_the_head_and_go_to_the_engines_socket() -> None:
    made = provider()
    call = next(made.prepare(request(), TARGET))
    assert call.head.startswith(b"POST /apply-template HTTP/1.1\r\nHost: engine\r\n")
    assert b"\r\nAuthorization: Bearer secret-token\r\n" in call.head
    assert made.origin.uds == "/run/engine.sock"


def test_a_template_that_refuses_is_asked_in_plainer_forms() -> None:
    messages = [
        {"role": "system", "content": "S1"},
        {"role": "assistant", "content": "A"},
        {"role": "developer", "content": "S2"},
        USER,
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    asked, body = drive(
        provider().prepare(request(messages=messages), TARGET), refusal(400), refusal(500), prompt("plain")
    )
    assert body["prompt"] == "plain"
    assert asked[0]["messages"][2] == {"role": "system", "content": "S2"}
    assert asked[1]["messages"] == [
        {"role": "system", "content": "S1\n\nS2"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "hi\n\na\nb"},
    ]
    assert asked[2]["messages"][0] == {"role": "user", "content": "S1\n\nS2\n\n"}
    assert asked[2]["messages"][1:] == asked[1]["messages"][2:]


def test_calls_and_results_stay_in_every_form() -> None:
    arguments = '{"city": "Bergen"}'
    messages = [
        USER,
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}},
                {"id": "c2", "type": "custom", "custom": {"name": "shell", "input": "ls"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "a.txt"},
        {"role": "assistant", "function_call": {"name": "old", "arguments": "{}"}},
        {"role": "function", "name": "old", "content": "done"},
    ]
    asked, _ = drive(provider().prepare(request(messages=messages), TARGET), refusal(), prompt())
    faithful, plain = (form["messages"] for form in asked)
    assert [turn["role"] for turn in faithful] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert faithful[1]["tool_calls"][1]["function"] == {"name": "shell", "arguments": '{"input":"ls"}'}
    assert faithful[5]["tool_call_id"] == "old"
    assert [turn["role"] for turn in plain] == ["user", "assistant", "user", "assistant", "user"]
    said = " ".join(turn["content"] for turn in plain)
    for part in ("let me see", "weather", arguments, "shell", "ls", "rain", "a.txt", "old", "done"):
        assert part in said


def test_a_template_that_refuses_every_form_is_the_requests_fault() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate") as told:
        drive(provider().prepare(request(), TARGET), refusal(), refusal(), refusal())
    assert told.value.param == "messages"


def test_an_engine_that_cannot_answer_now_is_not_asked_again() -> None:
    loading = Reply(503, [], b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')
    with pytest.raises(ProviderFault, match="being loaded") as told:
        drive(provider().prepare(request(), TARGET), loading)
    assert told.value.failure.kind is FailureKind.UNAVAILABLE


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}}, "response_format"),
        ({"modalities": ["text", "audio"], "audio": {"format": "wav", "voice": "x"}}, "modalities"),
        ({"audio": {"format": "wav", "voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"moderation": {"model": "x"}}, "moderation"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            "messages.[0].content.[0].type",
        ),
        (
            {
                "messages": [
                    USER,
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "x"},
                            {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
                        ],
                    },
                ]
            },
            "messages.[1].content.[1].type",
        ),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_name(params: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        provider().prepare(request(**params), TARGET)
    assert (told.value.status, told.value.param, told.value.code) == (400, param, "unsupported_parameter")


@pytest.mark.parametrize("effort", ["minimal", "low", "medium", "high", "xhigh", "max"])
def test_an_effort_that_the_model_lacks_is_refused_with_those_that_it_has(effort: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Supported values are: 'none'\.") as told:
        provider().prepare(request(reasoning_effort=effort), TARGET)
    assert (told.value.status, told.value.param, told.value.code) == (400, "reasoning_effort", "unsupported_value")


@pytest.mark.parametrize(
    "params",
    [
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": []},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"response_format": {"type": "text"}},
        {"logprobs": False},
        {"prediction": {"type": "content", "content": "x"}},
        {"modalities": ["text"]},
        {"reasoning_effort": "none"},
        {"store": True, "metadata": {"a": "b"}, "user": "u", "service_tier": "auto", "verbosity": "low"},
        {"safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        {"audio": None, "prediction": None, "moderation": None, "web_search_options": None},
    ],
)
def test_what_changes_nothing_here_is_accepted(params: dict[str, Any]) -> None:
    drive(provider().prepare(request(**params), TARGET), prompt())


def test_more_choices_than_run_at_once_are_refused() -> None:
    drive(provider(parallel=3).prepare(request(n=3), TARGET), prompt())
    with pytest.raises(InvalidRequest, match="at most 3") as told:
        provider(parallel=3).prepare(request(n=4), TARGET)
    assert told.value.param == "n"


def test_documented_sampling_names_reach_the_engine() -> None:
    params = {"top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1, "mirostat": 2, "ignore_eos": True, "typical_p": None}
    _, body = drive(provider().prepare(request(**params), TARGET), prompt())
    assert {name: body.get(name) for name in params} == params


@pytest.mark.parametrize(
    "params",
    [{"top_k": -1}, {"top_k": "x"}, {"top_k": 2**40}, {"min_p": 2}, {"repeat_penalty": 0}, {"mirostat": 3}],
)
def test_sampling_values_without_meaning_are_refused_by_name(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as told:
        provider().prepare(request(**params), TARGET)
    assert [told.value.param] == list(params)


@pytest.mark.parametrize("name", ["foo", "grammar", "json_schema", "id_slot", "prompt", "n_predict", "lora"])
def test_other_names_are_refused_in_openais_words(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Unrecognized request argument supplied: {name}"):
        provider().prepare(request(**{name: 1}), TARGET)


def test_a_stream_has_openais_chunks() -> None:
    made = reader(stream=True, stream_options={"include_usage": True})
    out = made.feed(ANSWER)
    assert made.committed
    assert made.done
    out += made.close()
    assert out.endswith(b"data: [DONE]\n\n")
    events = chunks(out.removesuffix(b"data: [DONE]\n\n"))
    assert [event["choices"] for event in events[:-1]] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        for delta, finish in [
            ({"role": "assistant", "content": ""}, None),
            ({"content": "Hello"}, None),
            ({"content": " 🌍"}, None),
            ({}, "stop"),
        ]
    ]
    assert events[-1]["choices"] == []
    assert [event["usage"] for event in events[:-1]] == [None] * 4
    usage = events[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (21, 7, 28)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 20
    for name in ("id", "created", "model", "system_fingerprint", "object"):
        assert len({event[name] for event in events}) == 1
    assert events[0]["object"] == "chat.completion.chunk"
    assert events[0]["model"] == "tiny"
    assert type(events[0]["created"]) is int
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24,}", events[0]["id"])


def test_usage_that_was_not_asked_for_is_not_in_the_stream() -> None:
    made = reader(stream=True)
    out = made.feed(ANSWER) + made.close()
    assert b"usage" not in out
    assert made.usage is not None
    assert made.usage.completion_tokens == 7


def test_a_whole_answer_has_all_members() -> None:
    made = reader(store=True, metadata={"a": "b"}, service_tier="auto")
    assert made.feed(ANSWER) == b""
    assert not made.committed
    answer = json.loads(made.close())
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello 🌍", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"]["total_tokens"] == 28
    assert answer["metadata"] == {"a": "b"}
    assert answer["service_tier"] == "default"
    assert "metadata" not in json.loads(finished(reader(metadata={"a": "b"})))


def finished(made: Reader) -> bytes:
    return made.feed(ANSWER) + made.close()


@pytest.mark.parametrize("params", [{}, {"stop": ["lo 🌍", "zz"]}, {"stop": ["llo!"]}])
def test_where_the_bytes_are_cut_makes_no_difference(params: dict[str, Any]) -> None:
    def text(out: bytes) -> str:
        events = chunks(out.removesuffix(b"data: [DONE]\n\n"))
        return "".join(event["choices"][0]["delta"].get("content", "") for event in events)

    whole = finished(reader(stream=True, **params))
    for at in range(len(ANSWER)):
        made = reader(stream=True, **params)
        out = made.feed(ANSWER[:at]) + made.feed(ANSWER[at:]) + made.close()
        assert text(out) == text(whole)
    made = reader(stream=True, **params)
    out = b"".join(made.feed(ANSWER[at : at + 1]) for at in range(len(ANSWER))) + made.close()
    assert text(out) == text(whole)


def test_choices_begin_in_order_however_they_come() -> None:
    made = reader(stream=True, n=3)
    out = made.feed(progress(2, 0) + progress(0, 20) + token("c", 1, 2) + token("a", 1, 0) + end("limit", 1, 2))
    assert not made.done
    out += made.feed(token("b", 1, 1) + end("eos", 2, 1) + end("eos", 2, 0))
    assert made.done
    out += made.close()
    choices = [event["choices"][0] for event in chunks(out.removesuffix(b"data: [DONE]\n\n"))]
    assert [choice["index"] for choice in choices[:3]] == [0, 1, 2]
    assert [choice["delta"].get("role") for choice in choices] == ["assistant"] * 3 + [None] * 6
    assert {choice["index"]: choice["finish_reason"] for choice in choices if choice["finish_reason"]} == {
        0: "stop",
        1: "stop",
        2: "length",
    }
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.cached_tokens) == (21, 5, 20)


def test_an_empty_answer_has_a_role_and_a_finish() -> None:
    made = reader(stream=True)
    out = made.feed(progress() + token("", 1) + end("eos", 1)) + made.close()
    deltas = [event["choices"][0] for event in chunks(out.removesuffix(b"data: [DONE]\n\n"))]
    assert [choice["delta"] for choice in deltas] == [{"role": "assistant", "content": ""}, {}]
    assert deltas[1]["finish_reason"] == "stop"


def test_progress_alone_commits_to_nothing() -> None:
    made = reader(stream=True)
    assert made.feed(progress() + token("", 1)) == b""
    assert not made.committed


def test_a_cut_answer_is_done_at_once_and_counts_what_was_generated() -> None:
    made = reader(stream=True, stop=["ell"])
    out = made.feed(progress() + token("Hello", 1))
    assert made.done
    assert made.aborts
    assert made.feed(token(" more", 2)) == b""
    out += made.close()
    assert b"ell" not in out
    assert made.usage is not None
    assert made.usage.completion_tokens == 1


def test_an_engine_that_has_ended_its_answer_is_not_cut_off() -> None:
    made = reader(stream=True, stop=["never"])
    made.feed(ANSWER)
    assert made.done
    assert not made.aborts


def test_a_stream_that_breaks_off_is_told_as_a_stopped_engine() -> None:
    for stream in (True, False):
        made = reader(stream=stream)
        made.feed(progress() + token("Hello", 1))
        with pytest.raises(ProviderFault, match=re.escape(STOPPED)) as told:
            made.close()
        assert told.value.failure.kind is FailureKind.INCOMPLETE


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (sse({"error": {"code": 500, "message": "Context size", "type": "server_error"}}), FailureKind.UNAVAILABLE),
        (b"data: {broken\n\n", FailureKind.MALFORMED),
        (b"data: []\n\n", FailureKind.MALFORMED),
        (token("x", 1, index=1), FailureKind.MALFORMED),
        (token("x", 1, index=-1), FailureKind.MALFORMED),
        (end("none", 1), FailureKind.INCOMPLETE),
    ],
)
def test_a_broken_event_ends_the_answer_and_keeps_what_came_before(event: bytes, kind: FailureKind) -> None:
    made = reader(stream=True)
    with pytest.raises(ProviderFault) as told:
        made.feed(progress() + event)
    assert told.value.failure.kind is kind
    made = reader(stream=True)
    assert b"Hello" in made.feed(progress() + token("Hello", 1) + event)
    assert made.done
    with pytest.raises(ProviderFault) as told:
        made.close()
    assert told.value.failure.kind is kind
    with pytest.raises(ProviderFault):
        reader().feed(token("Hello", 1) + event)


def test_comments_of_the_engine_are_passed_over() -> None:
    made = reader(stream=True)
    out = made.feed(b":\n\n: ping\n\n" + ANSWER) + made.close()
    assert b"Hello" in out
    assert b"ping" not in out


def test_failures_say_whose_fault_they_are() -> None:
    made = provider()
    long = {"code": 400, "message": "m", "type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096}
    failure = made.failure(400, [], msgspec.json.encode({"error": long}))
    assert failure.kind is FailureKind.INVALID
    assert json.loads(failure.body or b"")["error"] == {
        "message": "This model's maximum context length is 4096 tokens. However, your messages resulted in "
        "5000 tokens. Please reduce the length of the messages.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    assert made.failure(400, [], refusal().body).kind is FailureKind.INVALID
    assert made.failure(401, [], b"{}").kind is FailureKind.UNAVAILABLE
    for body in (b"", b"<html>", b"[]", b'{"error":"x"}', b"\xff", b'{"error":{"message":"\xff"}}'):
        assert made.failure(500, [], body).kind is FailureKind.UNAVAILABLE


def test_the_model_is_named_after_its_file() -> None:
    assert model_name(LlamaSettings("/models/tiny.Q4.gguf")) == "tiny.Q4"
    assert model_name(LlamaSettings("/models/tiny.gguf", name="mine")) == "mine"
    assert model_name(LlamaSettings()) == "penstock-demo"
    assert model_file(LlamaSettings("~/x.gguf")) == Path.home() / "x.gguf"


def test_the_fingerprint_follows_the_file(tmp_path: Path) -> None:
    def fingerprint(path: Path) -> str:
        made = provider(model=str(path)).reader(request(), TARGET)
        return str(json.loads(finished(made))["system_fingerprint"])

    first, same, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for path, content in ((first, b"x" * 99), (same, b"x" * 99), (other, b"x" * 98)):
        path.write_bytes(content)
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)
    assert fingerprint(tmp_path / "absent") == fingerprint(tmp_path / "absent")


def test_it_is_a_row_of_the_registry() -> None:
    config = Upstream("local", "llama", settings={"model": "/models/tiny.gguf"})
    assert isinstance(registry.build(config, ADDRESS), Llama)
    with pytest.raises(ValueError, match="no address"):
        registry.build(config, None)


def likely(text: str, logprob: float = -0.5, others: int = 0) -> dict[str, Any]:
    top = [{"id": 1, "token": f"t{n}", "bytes": [116, 48 + n], "logprob": -1.0 - n} for n in range(others)]
    return {"id": 7, "token": text, "bytes": list(text.encode()), "logprob": logprob, "top_logprobs": top}


def weighed(*texts: str) -> bytes:
    """An answer whose every token comes with its log probability, and the end of turn that has no text."""
    out = b""
    for place, text in enumerate((*texts, "")):
        head = {"index": 0, "content": text, "stop": False, "tokens_predicted": place + 1, "tokens_evaluated": 21}
        out += sse(head | {"completion_probabilities": [likely(text, others=1)]})
    return out + end("eos", len(texts) + 1)


def entries(found: list[Any]) -> list[Any]:
    """The entries of log probabilities of the first choice, from chunks or a whole answer."""
    choices = [choice for each in found for choice in each["choices"]]
    return [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]


@pytest.mark.parametrize(("top", "asked"), [(None, 1), (0, 1), (5, 5), (20, 20)])
def test_as_many_alternatives_are_asked_for_as_the_caller_wants(top: int | None, asked: int) -> None:
    _, body = drive(provider().prepare(request(logprobs=True, top_logprobs=top), TARGET), prompt())
    assert body["n_probs"] == asked
    _, body = drive(provider().prepare(request(), TARGET), prompt())
    assert "n_probs" not in body


def test_log_probabilities_have_openais_form() -> None:
    step = {"index": 0, "content": "Hé", "stop": False, "tokens_predicted": 1, "tokens_evaluated": 21}
    answer = sse(step | {"completion_probabilities": [likely("Hé", others=3)]}) + end("eos", 2)
    made = reader(logprobs=True, top_logprobs=2)
    made.feed(answer)
    (choice,) = json.loads(made.close())["choices"]
    top = [{"token": f"t{n}", "logprob": -1.0 - n, "bytes": [116, 48 + n]} for n in range(2)]
    entry = {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169], "top_logprobs": top}
    assert choice["logprobs"] == {"content": [entry], "refusal": None}
    made = reader(logprobs=True)
    made.feed(answer)
    assert json.loads(made.close())["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_in_a_stream_they_stand_beside_their_text() -> None:
    made = reader(logprobs=True, stream=True)
    found = chunks(made.feed(weighed("Hel", "lo")))
    assert [(c["choices"][0]["delta"].get("content"), [e["token"] for e in entries([c])]) for c in found] == [
        ("", []),
        ("Hel", ["Hel"]),
        ("lo", ["lo"]),
        (None, []),
    ]
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in (found[0], found[-1]))


@pytest.mark.parametrize("stop", ["STOP", "O", "opS", "aS", "is", "later", ["Sx", "TO"], "ST", "never"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_tokens_of_log_probabilities_are_the_content_wherever_it_is_cut(stop: Any, stream: bool) -> None:
    made = reader(logprobs=True, stop=stop, stream=stream)
    out = made.feed(weighed("This", " is aS", "T", "AY, loopST", "OP and", " later"))
    found = chunks(out) if stream else [json.loads(made.close())]
    texts = [choice.get("delta", choice.get("message"))["content"] for c in found for choice in c["choices"][:1]
             if choice.get("delta", choice.get("message"))]  # fmt: skip
    assert "".join(entry["token"] for entry in entries(found)) == "".join(texts)
    assert all(bytes(entry["bytes"]).decode() == entry["token"] for entry in entries(found))


@pytest.mark.parametrize(("said", "told"), [(0.0001, 0.0), (-3.4e38, -9999.0), (-2.5, -2.5)])
def test_a_log_probability_is_never_above_0_nor_without_bound(said: float, told: float) -> None:
    step = {"index": 0, "content": "a", "stop": False, "completion_probabilities": [likely("a", said)]}
    made = reader(logprobs=True)
    made.feed(sse(step) + end("eos", 1))
    assert entries([json.loads(made.close())])[0]["logprob"] == told
