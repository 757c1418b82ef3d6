# OpenAI's Agents SDK: an agent with a tool, over chat completions, without sending traces to OpenAI.
# pip install openai-agents; OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... python openai_agents.py

from agents import Agent, Runner, function_tool, set_default_openai_api, set_tracing_disabled

set_default_openai_api("chat_completions")  # reads OPENAI_BASE_URL and OPENAI_API_KEY
set_tracing_disabled(True)  # traces would go to OpenAI's own address, with your gateway's key


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city now."""
    print("tool: get_weather", city)
    return f"7 degrees and rain in {city}"


agent = Agent(name="Weather", model="gpt-5.4", instructions="Advise on clothing.", tools=[get_weather])
result = Runner.run_sync(agent, "Do I need an umbrella in Oslo?")
print("agent:", result.final_output)
