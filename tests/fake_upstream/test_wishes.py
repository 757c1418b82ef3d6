"""A plain answer does what a request forces, as little as possible, and only then."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from penstock.fake_upstream import Answer, FakeUpstream, Seen
from penstock.fake_upstream.wishes import answer, instance

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
OTHER = {"type": "function", "function": {"name": "other"}}
NOTE = {"type": "custom", "custom": {"name": "note"}}


def ask(strict: str | None = None, **members: Any) -> Any:
    """The answer of a fresh upstream; of a stream, its chunks."""

    async def main() -> Any:
        async with FakeUpstream(strict_profile=strict) as upstream, httpx.AsyncClient(trust_env=False) as client:
            body = {"model": "gpt-5.4", "messages": [{"role": "user", "content": "Hello"}], **members}
            response = await client.post(
                f"{upstream.base_url}/chat/completions", json=body, headers={"authorization": "Bearer sk-any"}
            )
        if members.get("stream"):
            lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
            return [json.loads(line) for line in lines]
        return response.json()

    return asyncio.run(main())


def choice(**members: Any) -> Any:
    return ask(**members)["choices"][0]


def test_a_required_call_is_made_with_the_least_arguments() -> None:
    made = choice(tools=[WEATHER, OTHER], tool_choice="required")
    assert made["finish_reason"] == "tool_calls"
    assert made["message"]["content"] is None
    (call,) = made["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}


@pytest.mark.parametrize(
    "tool_choice",
    [
        {"type": "function", "function": {"name": "other"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [OTHER]}},
    ],
)
def test_a_named_function_is_the_one_that_is_called(tool_choice: Any) -> None:
    (call,) = choice(tools=[WEATHER, OTHER], tool_choice=tool_choice)["message"]["tool_calls"]
    assert call["function"] == {"name": "other", "arguments": "{}"}


@pytest.mark.parametrize("tool_choice", ["auto", "none", None])
def test_what_a_model_may_choose_is_not_chosen(tool_choice: Any) -> None:
    made = choice(tools=[WEATHER], tool_choice=tool_choice)
    assert "tool_calls" not in made["message"]
    assert made["finish_reason"] == "stop"


def test_a_custom_tool_is_called_with_a_text() -> None:
    (call,) = choice(tools=[NOTE], tool_choice={"type": "custom", "custom": {"name": "note"}})["message"]["tool_calls"]
    assert (call["type"], call["custom"]) == ("custom", {"name": "note", "input": "text"})


def test_a_function_of_old_is_called_in_the_old_form() -> None:
    made = choice(functions=[WEATHER["function"]], function_call={"name": "weather"})
    assert made["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Rome"}'}
    assert made["finish_reason"] == "function_call"


def test_a_forced_call_is_streamed_in_pieces_that_make_it_up() -> None:
    chunks = ask(tools=[WEATHER], tool_choice="required", stream=True)
    pieces = [piece for chunk in chunks for piece in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert pieces[0]["function"]["name"] == "weather"
    assert "".join(piece["function"]["arguments"] for piece in pieces) == '{"city":"Rome"}'


def test_the_limit_cuts_a_call_and_says_so() -> None:
    made = choice(tools=[WEATHER], tool_choice="required", max_completion_tokens=2)
    assert made["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":'
    assert made["finish_reason"] == "length"


def test_a_format_gets_json_that_keeps_its_schema() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    assert json.loads(choice(response_format=wanted)["message"]["content"]) == {"city": "Rome"}
    cut = choice(response_format=wanted, max_completion_tokens=1)
    assert (cut["message"]["content"], cut["finish_reason"]) == ('{"city":', "length")
    assert json.loads(choice(response_format={"type": "json_object"})["message"]["content"]) == {"answer": "text"}


def test_the_least_value_of_a_schema_follows_its_references() -> None:
    root = {
        "$defs": {"name": {"type": "string", "minLength": 6}, "loop": {"$ref": "#/$defs/loop"}},
        "type": "object",
        "properties": {
            "name": {"$ref": "#/$defs/name"},
            "count": {"type": ["integer", "null"], "minimum": 2},
            "list": {"type": "array", "items": {"const": 1}, "minItems": 2},
            "either": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            "flag": {"type": "boolean"},
            "loop": {"$ref": "#/$defs/loop"},
        },
        "required": ["name", "count", "list", "either", "flag", "loop"],
    }
    least = {"name": "text  ", "count": 2, "list": [1, 1], "either": None, "flag": False, "loop": None}
    assert instance(root, root) == least


def test_a_script_of_its_own_is_not_touched() -> None:
    assert answer(b'{"tools": [], "messages": []}').content is None
    assert not answer(b'{"tools": [], "messages": []}').tool_calls


def test_log_probabilities_make_up_the_content_streamed_and_not() -> None:
    made = choice(logprobs=True, top_logprobs=1, max_completion_tokens=3)
    tokens = made["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == made["message"]["content"]
    assert [len(token["top_logprobs"]) for token in tokens] == [1, 1, 1]
    chunks = ask(logprobs=True, max_completion_tokens=3, stream=True)
    joined = ""
    for chunk in chunks:
        for token in (chunk["choices"][0]["logprobs"] or {"content": ()})["content"]:
            joined += token["token"]
            assert token["top_logprobs"] == []
    assert joined == made["message"]["content"]
    assert choice()["logprobs"] is None


def test_strict_refuses_images_that_are_none_and_schemas_that_are_not_strict() -> None:
    def image(url: str) -> Any:
        part = {"type": "image_url", "image_url": {"url": url}}
        return ask("gpt-5.4", messages=[{"role": "user", "content": [part]}])

    for url in ("data:image/png;base64,@@@", "data:text/plain;base64,aGVsbG8=", "data:image/png,x"):
        assert image(url)["error"]["param"] == "messages[0].content[0].image_url"
    assert "choices" in image("data:image/png;base64,iVBORw0KGgo=")
    loose = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}
    assert ask("gpt-5.4", tools=[loose])["error"]["code"] == "invalid_function_parameters"
    assert "choices" in ask("gpt-5.4", tools=[{**WEATHER, "function": {**WEATHER["function"], "strict": True}}])


@pytest.mark.parametrize(
    "members",
    [
        {"tools": ["one"], "tool_choice": "required"},
        {"functions": "many", "function_call": {"name": "one"}},
        {"response_format": {"type": "json_schema"}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"type": "object", "required": 1}},
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"type": "string", "minLength": "long"}},
            }
        },
    ],
)
def test_a_wish_that_makes_no_sense_is_not_obeyed(members: dict[str, Any]) -> None:
    assert answer(json.dumps(members).encode()) == Answer()


def test_no_schema_makes_an_answer_long() -> None:
    schema = {"type": "string", "minLength": 10**12}
    assert len(instance(schema, schema)) == 1000


def test_a_request_to_a_neighbour_is_asked_for_no_wishes() -> None:
    async def main() -> None:
        async with FakeUpstream() as upstream, httpx.AsyncClient(trust_env=False) as client:
            body = {"model": "gpt-5.4", "input": "", "tools": ["one"], "tool_choice": "required"}
            answered = await client.post(f"{upstream.base_url}/responses", json=body)
            assert answered.status_code == 200

    asyncio.run(main())


def test_a_fault_of_the_upstream_itself_ends_the_connection() -> None:
    def fails(seen: Seen) -> Answer:
        raise ZeroDivisionError

    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        async with FakeUpstream(fails) as upstream, httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(f"{upstream.base_url}/chat/completions", json={"model": "gpt-5.4", "messages": []})
        assert isinstance(told[0]["exception"], ZeroDivisionError)

    asyncio.run(main())
