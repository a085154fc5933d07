"""pydantic-ai: streamed text, a tool, a structured answer; OpenAI's two APIs and Anthropic's."""

# requires: pydantic-ai-slim[openai,anthropic]
import asyncio
import json
import os

import pydantic
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class City(pydantic.BaseModel):
    """A city and its temperature."""

    city: str
    degrees: int


async def main() -> None:
    url = os.environ["QWQ_URL"]
    openai = OpenAIProvider(base_url=url + "/v1", api_key="none")
    anthropic = AnthropicProvider(api_key="none", base_url=url)
    models = [
        OpenAIChatModel("puppet", provider=openai),
        OpenAIResponsesModel("puppet", provider=openai),
        AnthropicModel("puppet", provider=anthropic),
    ]
    found = []
    for model in models:
        async with Agent(model).run_stream("Say something.") as run:
            streamed = await run.get_output()
        agent = Agent(model, instructions="Be brief.")

        @agent.tool_plain
        def get_weather(city: str) -> str:
            """Weather of a city."""
            return f"sunny in {city}"

        tool = (await agent.run("Weather in Oslo?")).output
        city = (await Agent(model, output_type=City).run("Oslo?")).output
        assert city.degrees == 21
        found.append({"streamed": streamed, "tool": tool})
    assert found[0] == found[1] == found[2], found
    print(json.dumps(found[0]))


asyncio.run(main())
