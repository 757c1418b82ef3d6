# LangChain's ChatOpenAI: a streamed answer, a tool that is bound to the model, and structured output.
# pip install langchain-openai; OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... python langchain_chat.py

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

# Reads OPENAI_BASE_URL and OPENAI_API_KEY. It asks for usage by itself only at OpenAI's own address.
model = ChatOpenAI(model="gpt-5.4", stream_usage=True)


@tool
def get_weather(city: str) -> str:
    """The weather in a city now."""
    return f"7 degrees and rain in {city}"


class Recipe(BaseModel):
    """A recipe."""

    title: str
    minutes: int


print("streamed:", end=" ")
for chunk in model.stream("Count to five."):
    print(chunk.text, end="", flush=True)
    if chunk.usage_metadata:
        print(f" [{chunk.usage_metadata['total_tokens']} tokens]")

with_weather = model.bind_tools([get_weather])
messages: list[BaseMessage] = [HumanMessage("Do I need an umbrella in Oslo?")]
answer = with_weather.invoke(messages)
messages.append(answer)
for call in answer.tool_calls:
    result = get_weather.invoke(call)
    print("tool:", result.content)
    messages.append(result)
print("tool:", with_weather.invoke(messages).text)

print("structured:", model.with_structured_output(Recipe).invoke("A quick pasta."))
