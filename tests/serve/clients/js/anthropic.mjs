// @anthropic-ai/sdk: a streamed message with thinking, and a tool.
// requires: @anthropic-ai/sdk
import assert from "node:assert";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.QWQ_URL, apiKey: "none" });
const common = { model: "puppet", max_tokens: 2048 };
const stream = client.messages.stream({
  ...common,
  messages: [{ role: "user", content: "Say something." }],
  thinking: { type: "enabled", budget_tokens: 1024 },
});
const message = await stream.finalMessage();
assert.deepEqual(message.content.map((block) => block.type), ["thinking", "text"]);

const input_schema = { type: "object", properties: { city: { type: "string" } } };
const tools = [{ name: "get_weather", description: "Weather of a city", input_schema }];
const messages = [{ role: "user", content: "Weather in Oslo?" }];
const first = await client.messages.create({ ...common, messages, tools });
const use = first.content.find((block) => block.type === "tool_use");
assert.deepEqual(use.input, { city: "Oslo" });
const result = { type: "tool_result", tool_use_id: use.id, content: "sunny" };
messages.push({ role: "assistant", content: first.content }, { role: "user", content: [result] });
const last = await client.messages.create({ ...common, messages, tools });
console.log(JSON.stringify({ streamed: message.content[1].text, tool: last.content[0].text }));
