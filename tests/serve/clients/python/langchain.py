"""langchain and langgraph: streamed text, an agent with a tool; OpenAI's and Anthropic's API."""

# requires: langchain langchain-openai langchain-anthropic langgraph
import json
import os

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


def text(message) -> str:
    """The text of a message, whatever its content's form."""
    return message.text if isinstance(message.text, str) else message.text()


url = os.environ["QWQ_URL"]
models = [
    ChatOpenAI(model="puppet", base_url=url + "/v1", api_key="none"),
    ChatOpenAI(
        model="puppet", base_url=url + "/v1", api_key="none", use_responses_api=True
    ),
    ChatAnthropic(model="puppet", base_url=url, api_key="none"),
]
found = []
for model in models:
    streamed = "".join(text(chunk) for chunk in model.stream("Say something."))
    agent = create_agent(model, [get_weather])
    state = agent.invoke({"messages": [{"role": "user", "content": "Weather in Oslo?"}]})
    found.append({"streamed": streamed, "tool": text(state["messages"][-1])})
    for _ in agent.stream({"messages": [{"role": "user", "content": "Weather in Oslo?"}]}):
        pass
assert found[0] == found[1] == found[2], found
print(json.dumps(found[0]))
