# pydantic-ai: an agent that calls a tool and answers with a validated object.
# pip install pydantic-ai; OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... python pydantic_ai_agent.py

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel


class Advice(BaseModel):
    umbrella: bool
    reason: str


# Reads OPENAI_BASE_URL and OPENAI_API_KEY. NativeOutput asks for a JSON schema; without it the agent uses a tool call.
agent = Agent(OpenAIChatModel("gpt-5.4"), output_type=NativeOutput(Advice), instructions="Advise on clothing.")


@agent.tool_plain
def get_weather(city: str) -> str:
    """The weather in a city now."""
    return f"7 degrees and rain in {city}"


result = agent.run_sync("Do I need an umbrella in Oslo?")
print("structured:", repr(result.output))
print("usage:", result.usage.total_tokens, "tokens in", result.usage.requests, "requests")
