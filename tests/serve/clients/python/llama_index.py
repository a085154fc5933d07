"""llama-index: streamed text, and a function agent."""

# requires: llama-index-llms-openai-like llama-index-core
import asyncio
import json
import os

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model="puppet",
    api_base=os.environ["QWQ_URL"] + "/v1",
    api_key="none",
    is_chat_model=True,
    is_function_calling_model=True,
)


def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


async def main() -> None:
    parts = llm.stream_chat([ChatMessage(role="user", content="Say something.")])
    streamed = "".join(part.delta or "" for part in parts)
    agent = FunctionAgent(tools=[get_weather], llm=llm)
    answer = await agent.run("Weather in Oslo?")
    print(json.dumps({"streamed": streamed, "tool": str(answer)}))


asyncio.run(main())
