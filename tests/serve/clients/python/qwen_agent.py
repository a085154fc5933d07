"""qwen-agent: its assistant with a tool, which it writes into the prompt itself and parses."""

# requires: qwen-agent[mcp,python_executor] numpy soundfile python-dateutil tqdm
import json
import os

from qwen_agent.agents import Assistant
from qwen_agent.tools.base import BaseTool, register_tool


@register_tool("get_weather")
class Weather(BaseTool):
    """The weather of a city."""

    description = "Weather of a city"
    parameters = [  # noqa: RUF012
        {"name": "city", "type": "string", "description": "a city", "required": True}
    ]

    def call(self, params: str, **_: object) -> str:
        return "sunny"


llm = {
    "model": "puppet",
    "model_type": "oai",
    "model_server": os.environ["QWQ_URL"] + "/v1",
    "api_key": "none",
}


def run(question: str, tools: list[str]) -> str:
    """What the assistant says last."""
    assistant = Assistant(llm=llm, function_list=tools)
    *_, last = assistant.run([{"role": "user", "content": question}])
    return last[-1]["content"]


found = {
    "streamed": run("Say something.", []),
    "tool": run("Weather in Oslo?", ["get_weather"]),
}
print(json.dumps(found))
