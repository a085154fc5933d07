"""litellm: streamed text and its tool loop, by OpenAI's and Anthropic's API."""

# requires: litellm
import json
import os

import litellm

url = os.environ["QWQ_URL"]
parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
function = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": parameters,
}
tools = [{"type": "function", "function": function}]
found = []
for model, base in (("openai/puppet", url + "/v1"), ("anthropic/puppet", url)):
    own = {"model": model, "api_base": base, "api_key": "none"}
    ask = [{"role": "user", "content": "Say something."}]
    chunks = litellm.completion(messages=ask, stream=True, **own)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    messages = [{"role": "user", "content": "Weather in Oslo?"}]
    first = litellm.completion(messages=messages, tools=tools, **own).choices[0].message
    (call,) = first.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    messages += [first, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    last = litellm.completion(messages=messages, tools=tools, **own).choices[0].message
    found.append({"streamed": streamed, "tool": last.content})
assert found[0] == found[1], found
print(json.dumps(found[0]))
