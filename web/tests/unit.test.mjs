/** The parts without a page: event streams, thinking tags, branches, half-written Markdown. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { bundled, seeded } from "./sources.mjs";

const chat = await bundled(
  "sse",
  "think",
  "tree",
  "reply",
  "api",
  "problems",
  "drafts",
  "markdown/source",
  "markdown/parser",
);

function streamOf(bytes, size) {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) controller.close();
      else controller.enqueue(bytes.slice(at, (at += size)));
    },
  });
}

test("events are the same for every cut of the stream", async () => {
  const text =
    ': note\r\ndata: {"a": "é😀"}\r\n\r\nevent: x\ndata:two\ndata: lines\n\ndata: [DONE]\n\n';
  const bytes = new TextEncoder().encode(text);
  for (let size = 1; size <= bytes.length; size++) {
    const events = [];
    for await (const data of chat.readEvents(streamOf(bytes, size))) events.push(data);
    assert.deepEqual(events, ['{"a": "é😀"}', "two\nlines", "[DONE]"], `cut every ${size} bytes`);
  }
});

/** Thinking and text of a reply whose content comes in pieces of `size`. */
function fold(content, size, reasoning = null) {
  const turn = chat.assistantTurn("p", "m");
  const folder = new chat.ReplyFolder(turn, 0);
  if (reasoning) folder.push({ choices: [{ delta: { reasoning } }] }, 10);
  for (let at = 0; at < content.length; at += size) {
    folder.push({ choices: [{ delta: { content: content.slice(at, at + size) } }] }, 2000);
  }
  folder.end(3000);
  return turn.steps.map(({ kind, text }) => [kind, text.trim()]);
}

const SPLITS = [
  ["<think>\na < b\n</think>\n\nSo </think> is a tag.", ["a < b", "So </think> is a tag."]],
  ["\n <think>a</think>b", ["a", "b"]],
  ["a\nb\n</think>\n\nc", ["a\nb", "c"]],
  ["The tag `</think>` and <think> stay.", [null, "The tag `</think>` and <think> stay."]],
  ["```\n</think>\n```\nstays", [null, "```\n</think>\n```\nstays"]],
  ["<thin ice>", [null, "<thin ice>"]],
  ["<think>never closed", ["never closed", null]],
];
for (const [content, [thought, answer]] of SPLITS) {
  test(`thinking is split alike for every cut: ${JSON.stringify(content)}`, () => {
    const expected = [];
    if (thought) expected.push(["thinking", thought]);
    if (answer) expected.push(["text", answer]);
    for (let size = 1; size <= content.length; size++) {
      assert.deepEqual(fold(content, size), expected, `cut every ${size}`);
    }
  });
}

test("a server that tells thinking apart keeps its content as it is", () => {
  const steps = fold("a\n</think>\nb", 2, "thought");
  assert.deepEqual(steps, [
    ["thinking", "thought"],
    ["text", "a\n</think>\nb"],
  ]);
});

test("parallel calls are put together by index, and only answered ones are sent back", () => {
  const turn = chat.assistantTurn("u", "m");
  const folder = new chat.ReplyFolder(turn, 0);
  const call = (index, id, name, args) => ({ index, id, function: { name, arguments: args } });
  for (const delta of [
    call(0, "a", "f", ""),
    call(1, "b", "g", ""),
    call(0, null, null, '{"x":'),
    call(1, null, null, "{}"),
    call(0, null, null, "1}"),
  ]) {
    folder.push({ choices: [{ delta: { tool_calls: [delta] } }] }, 0);
  }
  const [first, second] = turn.steps;
  assert.deepEqual([first.name, first.arguments], ["f", '{"x":1}']);
  assert.deepEqual([second.name, second.arguments], ["g", "{}"]);
  first.result = "one";
  const messages = chat.toMessages([chat.userTurn(null, "hi"), turn], "system text");
  assert.deepEqual(
    messages.map(({ role }) => role),
    ["system", "user", "assistant", "tool"],
  );
  assert.equal(messages[2].tool_calls.length, 1);
});

test("thinking is timed apart from the tool between", () => {
  const turn = chat.assistantTurn("u", "m");
  const folder = new chat.ReplyFolder(turn, 0);
  const step = { id: "s", name: "python", arguments: { code: "1" }, error: false, seconds: 5 };
  folder.push({ choices: [{ delta: { reasoning_content: "a" } }] }, 1000);
  folder.push({ choices: [{ delta: { tool_steps: [{ ...step, result: null }] } }] }, 2000);
  folder.push({ choices: [{ delta: { tool_steps: [{ ...step, result: "1" }] } }] }, 7000);
  folder.push({ choices: [{ delta: { reasoning_content: "b" } }] }, 8000);
  folder.push({ choices: [{ delta: { content: "c" }, finish_reason: "stop" }] }, 9000);
  folder.end(9000);
  assert.deepEqual(
    turn.steps.map(({ kind, seconds }) => [kind, seconds]),
    [
      ["thinking", 1],
      ["tool", 5],
      ["thinking", 1],
      ["text", undefined],
    ],
  );
});

test("the shown path follows the chosen branch", () => {
  const conversation = chat.newConversation({});
  const root = chat.addTurn(conversation, chat.userTurn(null, "one"));
  const old = chat.addTurn(conversation, chat.assistantTurn(root.id, "m"));
  const fresh = chat.addTurn(conversation, chat.assistantTurn(root.id, "m"));
  assert.deepEqual(chat.shownPath(conversation), [root, fresh]);
  conversation.chosen[root.id] = old.id;
  assert.deepEqual(chat.shownPath(conversation), [root, old]);
  assert.deepEqual(chat.pathTo(conversation, fresh.id), [root, fresh]);
});

test("half-written Markdown is finished or held back", () => {
  for (const [source, shown] of [
    ["a **bo", "a **bo**"],
    ["a **", "a "],
    ["run `ls", "run `ls`"],
    ["see [here](https://ex", "see here"],
    ["text\n-", "text\n"],
    ["text\n| a | b |\n", "text\n"],
    ["| a | b |\n|---|---|\n", "| a | b |\n|---|---|\n"],
    ["is \\(x^", "is "],
    ["is \\(x\\) and $$y", "is \\(x\\) and "],
    ["`$$` costs", "`$$` costs"],
    ["done **bold** and `code`", "done **bold** and `code`"],
  ]) {
    assert.equal(chat.finishUp(source), shown, JSON.stringify(source));
  }
});

test("a fence ends only at its own kind and length", () => {
  const fence = chat.openingFence("````md\n```\ninner\n```\n````\nafter", false);
  assert.equal(fence.body, "```\ninner\n```");
  assert.equal(fence.language, "md");
  assert.equal("````md\n```\ninner\n```\n````\nafter".slice(fence.length), "after");
  assert.equal(chat.openingFence("```py", false), null);
  assert.equal(chat.openingFence("```py\nx\n``", false).body, "x");
  assert.equal(chat.openingFence("```a`b\n", true), null);
});

test("the base address is taken with or without /v1", () => {
  for (const base of ["http://h:1", "http://h:1/", "http://h:1/v1", " http://h:1/v1/ "]) {
    assert.equal(chat.endpoint(base, "/v1/models"), "http://h:1/v1/models");
  }
});

/** A store of drafts that answers, in the order in which it was asked, when `answer` is called. */
function slowStore() {
  const kept = new Map();
  const waiting = [];
  const ask = (question) => new Promise((resolve) => waiting.push(() => resolve(question())));
  const answer = async () => {
    waiting.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  };
  return {
    kept,
    answer,
    settle: async () => {
      while (waiting.length) await answer();
    },
    load: (id) => ask(() => structuredClone(kept.get(id))),
    save: (id, draft) => {
      const copy = structuredClone(draft);
      return ask(() => kept.set(id, copy) !== undefined);
    },
  };
}

test("another draft's field is empty at once, and what is typed there stays there", async () => {
  const store = slowStore();
  store.kept.set("b", { text: "kept", attachments: [] });
  const drafts = new chat.Drafts("a", store, () => {});
  const type = (id, text) => drafts.edit(id, (draft) => ({ ...draft, text: draft.text + text }));
  type("a", "half a thought");
  void drafts.show("b");
  assert.equal(drafts.current.content.text, "");
  type("b", "typed early");
  type("a", " and a late file");
  await store.settle();
  assert.equal(drafts.current.content.text, "kept\ntyped early");
  await Promise.all([drafts.flush(), store.settle()]);
  assert.equal(store.kept.get("a").text, "half a thought and a late file");
  assert.equal(store.kept.get("b").text, "kept\ntyped early");
});

for (let seed = 1; seed <= 30; seed++) {
  test(`no draft is lost or mixed, however late the store answers (seed ${seed})`, async () => {
    const random = seeded(seed);
    const store = slowStore();
    const drafts = new chat.Drafts("0", store, () => {});
    const wanted = new Map();
    for (let step = 0; step < 60; step++) {
      const dice = random();
      const { id } = drafts.current;
      if (dice < 0.3) void drafts.show(String(Math.floor(random() * 3)));
      else if (dice < 0.6) {
        wanted.set(id, [...(wanted.get(id) ?? []), `<${step}>`]);
        drafts.edit(id, (draft) => ({ ...draft, text: `${draft.text}<${step}>` }));
      } else if (dice < 0.65 && drafts.current.read) {
        wanted.delete(id);
        drafts.clear();
      } else await store.answer();
    }
    const flushed = drafts.flush();
    await store.settle();
    await flushed;
    for (const id of ["0", "1", "2"]) {
      const pieces = store.kept.get(id)?.text.match(/<\d+>/g) ?? [];
      assert.deepEqual(pieces, wanted.get(id) ?? [], `draft ${id}`);
    }
  });
}

for (const [written, shown] of [
  [
    "他说：**「你好」**，然后**走了！**。",
    "<strong>「你好」</strong>，然后<strong>走了！</strong>。",
  ],
  ["これは**重要！**です", "<strong>重要！</strong>です"],
  ["이것은 **중요합니다!**라고", "<strong>중요합니다!</strong>라고"],
  ["so \\boxed {5}", 'so <span class="math">\\boxed {5}</span>'],
  [
    "**\\boxed{\\text{a \\} b}}**",
    '<strong><span class="math">\\boxed{\\text{a \\} b}}</span></strong>',
  ],
  ["\\\\boxed{1} and `\\boxed{2}`", "\\boxed{1} and <code>\\boxed{2}</code>"],
  [
    "so \\begin{gather*}a\\end{gather*}.",
    '<span class="math display">\\begin{gather*}a\\end{gather*}</span>.',
  ],
  [
    "\\begin{align}\na\n\nb\n\\end{align}",
    '<div class="math display">\\begin{align}\na\n\nb\n\\end{align}</div>',
  ],
  ["a<BR/>b</br>c", "a<br>\nb<br>\nc"],
  ["H<SUB>2</SUB>O, y<sub>open", "H<sub>2</sub>O, y&lt;sub&gt;open"],
  ["1. [X] one", '<li class="task"><span class="task-mark">☑ </span>one</li>'],
  ["- [x](http://a.b) link", '<li><a href="http://a.b">x</a> link</li>'],
  ["$5 and $6, $x$", '$5 and $6, <span class="math">x</span>'],
]) {
  test(`shown as it is meant: ${JSON.stringify(written)}`, () => {
    const html = chat.parser.render(written);
    assert.ok(html.includes(shown), html);
  });
}
