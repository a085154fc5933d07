"""smolagents: streamed text, and a tool-calling agent."""

# requires: smolagents[openai]
import json
import os

from smolagents import OpenAIServerModel, ToolCallingAgent, tool


@tool
def get_weather(city: str) -> str:
    """Weather of a city.

    Args:
        city: its name
    """
    return f"sunny in {city}"


model = OpenAIServerModel("puppet", api_base=os.environ["QWQ_URL"] + "/v1", api_key="none")
ask = [{"role": "user", "content": [{"type": "text", "text": "Say something."}]}]
streamed = "".join(delta.content or "" for delta in model.generate_stream(ask))
agent = ToolCallingAgent([get_weather], model, verbosity_level=0)
print(json.dumps({"streamed": streamed, "tool": agent.run("Weather in Oslo?")}))
