// @openai/agents: a run with a tool, whole and streamed, by both of OpenAI's APIs.
// requires: @openai/agents zod@^4
import assert from "node:assert";
import { Agent, run, setDefaultOpenAIClient, setOpenAIAPI, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";

setTracingDisabled(true);
setDefaultOpenAIClient(new OpenAI({ baseURL: `${process.env.QWQ_URL}/v1`, apiKey: "none" }));
const weather = tool({
  name: "get_weather",
  description: "Weather of a city",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
});

const found = [];
for (const api of ["chat_completions", "responses"]) {
  setOpenAIAPI(api);
  const plain = await run(new Agent({ name: "a", model: "puppet" }), "Say something.", { stream: true });
  let streamed = "";
  for await (const text of plain.toTextStream()) streamed += text;
  await plain.completed;
  const agent = new Agent({ name: "b", model: "puppet", tools: [weather] });
  const whole = await run(agent, "Weather in Oslo?");
  found.push({ streamed, tool: whole.finalOutput });
}
assert.deepEqual(found[0], found[1]);
console.log(JSON.stringify(found[0]));
