"""anthropic: a streamed message with thinking, a tool, a count."""

# requires: anthropic
import json
import os

import anthropic

client = anthropic.Anthropic(base_url=os.environ["QWQ_URL"], api_key="none")
ask = [{"role": "user", "content": "Say something."}]
thinking = {"type": "enabled", "budget_tokens": 1024}
with client.messages.stream(
    model="puppet", max_tokens=2048, messages=ask, thinking=thinking
) as stream:
    streamed = "".join(stream.text_stream)
    kinds = [block.type for block in stream.get_final_message().content]
assert kinds == ["thinking", "text"], kinds

schema = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
tools = [
    {"name": "get_weather", "description": "Weather of a city", "input_schema": schema}
]
ask = [{"role": "user", "content": "Weather in Oslo?"}]
first = client.messages.create(model="puppet", max_tokens=2048, messages=ask, tools=tools)
assert first.stop_reason == "tool_use"
use = first.content[-1]
assert use.input == {"city": "Oslo"}
result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
history = [
    *ask,
    {"role": "assistant", "content": first.content},
    {"role": "user", "content": [result]},
]
last = client.messages.create(
    model="puppet", max_tokens=2048, messages=history, tools=tools
)
count = client.messages.count_tokens(model="puppet", messages=history, tools=tools)
assert count.input_tokens == last.usage.input_tokens
assert client.models.list().data[0].id == "puppet"
print(json.dumps({"streamed": streamed, "tool": last.content[0].text}))
