// The AI SDK: streamed text, thinking and a tool loop, by three of its providers.
// requires: ai @ai-sdk/openai @ai-sdk/openai-compatible @ai-sdk/anthropic zod@^4
import assert from "node:assert";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = `${process.env.QWQ_URL}/v1`;
const apiKey = "none";
const models = [
  createOpenAICompatible({ name: "qwq", baseURL, apiKey })("puppet"),
  createOpenAI({ baseURL, apiKey }).responses("puppet"),
  createAnthropic({ baseURL, apiKey })("puppet"),
];
const weather = tool({
  description: "Weather of a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});

const found = [];
for (const model of models) {
  const stream = streamText({ model, prompt: "Say something." });
  let streamed = "";
  for await (const text of stream.textStream) streamed += text;
  const tools = { get_weather: weather };
  const stopWhen = stepCountIs(4);
  const whole = await generateText({ model, prompt: "Weather in Oslo?", tools, stopWhen });
  const looped = streamText({ model, prompt: "Weather in Oslo?", tools, stopWhen });
  assert.equal(await looped.text, whole.text);
  found.push({ streamed, tool: whole.text });
}
assert.deepEqual(found[0], found[1]);
assert.deepEqual(found[0], found[2]);
console.log(JSON.stringify(found[0]));
