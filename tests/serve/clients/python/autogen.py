"""autogen: an assistant that streams, and one with a tool."""

# requires: autogen-agentchat autogen-ext[openai]
import asyncio
import json
import os

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient


async def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


async def main() -> None:
    info = {"vision": False, "function_calling": True, "json_output": True}
    info |= {"family": "unknown", "structured_output": True}
    client = OpenAIChatCompletionClient(
        model="puppet",
        base_url=os.environ["QWQ_URL"] + "/v1",
        api_key="none",
        model_info=info,
    )
    plain = AssistantAgent("a", model_client=client, model_client_stream=True)
    streamed = (await plain.run(task="Say something.")).messages[-1].content
    agent = AssistantAgent(
        "b", model_client=client, tools=[get_weather], reflect_on_tool_use=True
    )
    tool = (await agent.run(task="Weather in Oslo?")).messages[-1].content
    await client.close()
    print(json.dumps({"streamed": streamed, "tool": tool}))


asyncio.run(main())
