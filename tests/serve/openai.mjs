// npm's `openai` client against our server: URL and model of a scripted and of a random model.
//   node openai.mjs SCRIPTED_URL TINY_URL   (NODE_PATH or a node_modules above names `openai`)
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";

const require = createRequire(`${process.env.OPENAI_HOME ?? process.cwd()}/x.js`);
const { OpenAI } = require("openai");
const [scriptedUrl, tinyUrl] = process.argv.slice(2);
const scripted = new OpenAI({ baseURL: `${scriptedUrl}/v1`, apiKey: "key", maxRetries: 0 });
const tiny = new OpenAI({ baseURL: `${tinyUrl}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "the quick brown fox" }];
const weather = {
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { city: { type: "string" } } },
  },
};

test("a reply has its thinking and counts", async () => {
  const got = await scripted.chat.completions.create({ model: "scripted", messages });
  assert.equal(got.choices[0].message.reasoning_content, "I ask");
  assert.ok(got.usage.completion_tokens_details.reasoning_tokens > 0);
});

test("the stream helper folds calls to the whole reply", async () => {
  const stream = scripted.chat.completions.stream({
    model: "scripted",
    messages,
    tools: [weather],
    stream_options: { include_usage: true },
  });
  const got = await stream.finalChatCompletion();
  assert.equal(got.choices[0].finish_reason, "tool_calls");
  assert.equal(got.choices[0].message.content, "Look:");
  const call = got.choices[0].message.tool_calls[0].function;
  assert.deepEqual([call.name, JSON.parse(call.arguments)], ["weather", { city: "Oslo" }]);
  assert.ok(got.usage.total_tokens > 0);
});

test("runTools answers a call and reads on", async () => {
  const asked = [];
  const run = scripted.chat.completions.runTools(
    {
      model: "scripted",
      messages,
      tools: [
        {
          type: "function",
          function: {
            ...weather.function,
            parse: JSON.parse,
            function: (given) => (asked.push(given.city), "rain"),
          },
        },
      ],
    },
    { maxChatCompletions: 2 },
  );
  await run.done();
  assert.equal(asked[0], "Oslo");
});

test("structured output on a random model", async () => {
  const schema = {
    type: "object",
    properties: { good: { type: "boolean" } },
    required: ["good"],
    additionalProperties: false,
  };
  const got = await tiny.chat.completions.create({
    model: "tiny",
    messages,
    reasoning_effort: "none",
    seed: 1,
    response_format: { type: "json_schema", json_schema: { name: "x", schema } },
  });
  assert.equal(typeof JSON.parse(got.choices[0].message.content).good, "boolean");
});

test("many requests at once, each the same again by its seed", async () => {
  const ask = async (seed) => {
    const stream = await tiny.chat.completions.create({
      model: "tiny",
      messages,
      seed,
      max_tokens: 20,
      stream: true,
    });
    const text = { reasoning_content: "", content: "" };
    for await (const { choices: [{ delta }] } of stream)
      for (const key of Object.keys(text)) text[key] += delta[key] ?? "";
    assert.notEqual(text.reasoning_content + text.content, "");
    return text;
  };
  const all = () => Promise.all([...Array(8).keys()].map(ask));
  assert.deepEqual(await all(), await all());
});

test("an aborted stream ends without an error at the server", async () => {
  const stream = await tiny.chat.completions.create({
    model: "tiny",
    messages,
    max_tokens: 400,
    stream: true,
    stop_loops: false,
  });
  for await (const _ of stream) break;
  assert.equal((await fetch(`${tinyUrl}/health`)).status, 200);
});

test("the responses API", async () => {
  const kinds = [];
  const stream = await scripted.responses.create({
    model: "scripted",
    input: "weather?",
    tools: [{ type: "function", strict: false, ...weather.function }],
    stream: true,
  });
  let last;
  for await (const event of stream) kinds.push((last = event).type);
  assert.equal(kinds.at(-1), "response.completed");
  assert.deepEqual(
    last.response.output.map((item) => item.type),
    ["reasoning", "message", "function_call"],
  );
});

test("mistakes are the client's own errors", async () => {
  const wrong = { model: "tiny", messages, frequency_penalty: 9 };
  await assert.rejects(tiny.chat.completions.create(wrong), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    return error.param === "frequency_penalty";
  });
  await assert.rejects(
    tiny.chat.completions.create({ model: "gpt-4", messages }),
    OpenAI.NotFoundError,
  );
  const stranger = scripted.withOptions({ apiKey: "wrong" });
  await assert.rejects(async () => await stranger.models.list(), OpenAI.AuthenticationError);
});
