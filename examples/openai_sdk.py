# OpenAI's Python SDK: a plain answer, a streamed one, a tool, and structured output.
# pip install openai; OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... python openai_sdk.py

import json

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY


def plain() -> None:
    answer = client.chat.completions.create(
        model="gpt-5.4", messages=[{"role": "user", "content": "When does backoff need jitter?"}]
    )
    print("plain:", answer.choices[0].message.content)


def streamed() -> None:
    stream = client.chat.completions.create(
        model="gpt-5.4",
        messages=[{"role": "user", "content": "Count to five."}],
        stream=True,
        stream_options={"include_usage": True},
    )
    print("streamed:", end=" ")
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage:
            print(f" [{chunk.usage.total_tokens} tokens]")


def get_weather(city: str) -> str:
    return f"7 degrees and rain in {city}"


WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def tool() -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Do I need an umbrella in Oslo?"}]
    answer = client.chat.completions.create(model="gpt-5.4", messages=messages, tools=[WEATHER])
    message = answer.choices[0].message
    messages.append(message)
    for call in message.tool_calls or []:
        result = get_weather(**json.loads(call.function.arguments))
        print("tool:", call.function.name, call.function.arguments, "->", result)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = client.chat.completions.create(model="gpt-5.4", messages=messages, tools=[WEATHER])
    print("tool:", answer.choices[0].message.content)


class Recipe(BaseModel):
    title: str
    minutes: int


def structured() -> None:
    answer = client.chat.completions.parse(
        model="gpt-5.4", messages=[{"role": "user", "content": "A quick pasta."}], response_format=Recipe
    )
    print("structured:", answer.choices[0].message.parsed)


if __name__ == "__main__":
    plain()
    streamed()
    tool()
    structured()
