"""openai: a streamed chat, a tool, a parsed answer, a stored response that is gone on from."""

# requires: openai
import json
import os

import openai
import pydantic

client = openai.OpenAI(base_url=os.environ["QWQ_URL"] + "/v1", api_key="none")
ask = [{"role": "user", "content": "Say something."}]
stream = client.chat.completions.create(model="puppet", messages=ask, stream=True)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)

parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
function = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": parameters,
}
tools = [{"type": "function", "function": function}]
ask = [{"role": "user", "content": "Weather in Oslo?"}]
first = client.chat.completions.create(model="puppet", messages=ask, tools=tools)
message = first.choices[0].message
(call,) = message.tool_calls
assert json.loads(call.function.arguments) == {"city": "Oslo"}
result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
last = client.chat.completions.create(
    model="puppet", messages=[*ask, message, result], tools=tools
)


class City(pydantic.BaseModel):
    """A city and its temperature."""

    city: str
    degrees: int


parsed = client.chat.completions.parse(
    model="puppet", messages=[{"role": "user", "content": "Oslo?"}], response_format=City
)
assert parsed.choices[0].message.parsed.degrees == 21

kept = client.responses.create(model="puppet", input="Say something.")
again = client.responses.create(model="puppet", input="More.", previous_response_id=kept.id)
assert again.output_text == streamed
print(json.dumps({"streamed": streamed, "tool": last.choices[0].message.content}))
