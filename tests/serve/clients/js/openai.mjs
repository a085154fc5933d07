// openai: a streamed chat and a tool, by both of its APIs.
// requires: openai@^6
import assert from "node:assert";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.QWQ_URL}/v1`, apiKey: "none" });
const model = "puppet";
const parameters = { type: "object", properties: { city: { type: "string" } } };
const described = { name: "get_weather", description: "Weather of a city", parameters };

const ask = [{ role: "user", content: "Say something." }];
let streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages: ask, stream: true })) {
  streamed += chunk.choices[0]?.delta.content ?? "";
}

const tools = [{ type: "function", function: described }];
const messages = [{ role: "user", content: "Weather in Oslo?" }];
const first = (await client.chat.completions.create({ model, messages, tools })).choices[0].message;
const [call] = first.tool_calls;
assert.deepEqual(JSON.parse(call.function.arguments), { city: "Oslo" });
messages.push(first, { role: "tool", tool_call_id: call.id, content: "sunny" });
const last = (await client.chat.completions.create({ model, messages, tools })).choices[0].message;

const flat = [{ type: "function", strict: false, ...described }];
const response = await client.responses.create({ model, input: "Weather in Oslo?", tools: flat });
const wanted = response.output.find((item) => item.type === "function_call");
const output = { type: "function_call_output", call_id: wanted.call_id, output: "sunny" };
const previous_response_id = response.id;
const again = await client.responses.create({ model, input: [output], tools: flat, previous_response_id });
assert.equal(again.output_text, last.content);
console.log(JSON.stringify({ streamed, tool: last.content }));
