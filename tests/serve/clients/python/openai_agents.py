"""openai-agents: a run with a tool, whole and streamed, by both of OpenAI's APIs."""

# requires: openai-agents
import asyncio
import json
import os

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)


@function_tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


async def main() -> None:
    client = AsyncOpenAI(base_url=os.environ["QWQ_URL"] + "/v1", api_key="none")
    found = []
    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        model = kind(model="puppet", openai_client=client)
        plain = Agent(name="a", instructions="Be brief.", model=model)
        run = Runner.run_streamed(plain, "Say something.")
        async for _ in run.stream_events():
            pass
        agent = Agent(name="b", instructions="Be brief.", model=model, tools=[get_weather])
        whole = await Runner.run(agent, "Weather in Oslo?")
        streamed = Runner.run_streamed(agent, "Weather in Oslo?")
        async for _ in streamed.stream_events():
            pass
        assert streamed.final_output == whole.final_output
        found.append({"streamed": run.final_output, "tool": whole.final_output})
    assert found[0] == found[1], found
    print(json.dumps(found[0]))


asyncio.run(main())
