/** Two tabs over one store, against a model of what it must hold. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { IDBFactory } from "fake-indexeddb";
import { bundled, seeded } from "./sources.mjs";

const chat = await bundled("store", "tree", "import");

/** What the store must hold: by conversation, the text and state of each turn. */
class Model {
  conversations = new Map();

  turns(id) {
    return this.conversations.get(id);
  }
}

function userTurn(random, parent) {
  return chat.userTurn(parent, `text ${Math.floor(random() * 1e9)}`);
}

/** One step of a tab: what it does to the store, and to the model. */
function step(random, store, model) {
  const ids = [...model.conversations.keys()];
  const id = ids[Math.floor(random() * ids.length)];
  const dice = random();
  if (!id || dice < 0.1) {
    const conversation = chat.newConversation(chat.defaultOptions);
    const turn = chat.addTurn(conversation, userTurn(random, null));
    model.conversations.set(conversation.id, new Map([[turn.id, turn]]));
    return store.create(conversation);
  }
  const turns = model.turns(id);
  const known = [...turns.values()];
  const parent = known[Math.floor(random() * known.length)];
  if (dice < 0.5) {
    const turn = userTurn(random, parent.id);
    turns.set(turn.id, turn);
    return store.saveTurns(id, [turn]);
  }
  if (dice < 0.75) {
    const turn = chat.assistantTurn(parent.id, "m");
    turn.steps.push({ kind: "text", text: `said ${random()}` });
    turn.status = random() < 0.5 ? "streaming" : "done";
    turn.revision = Math.floor(random() * 10);
    turns.set(turn.id, turn);
    return store.saveTurns(id, [turn]);
  }
  if (dice < 0.9) {
    // A newer or an older state of a reply, as a slower tab would write it.
    const replies = known.filter(({ role }) => role === "assistant");
    const reply = replies[Math.floor(random() * replies.length)];
    if (!reply) return Promise.resolve(true);
    const revision = reply.revision + Math.floor(random() * 5) - 2;
    const state = { ...reply, revision, status: random() < 0.5 ? "done" : "streaming" };
    state.steps = [{ kind: "text", text: `at ${revision}` }];
    if (chat.isNewer(state, reply)) turns.set(reply.id, state);
    return store.saveTurns(id, [state]);
  }
  model.conversations.delete(id);
  return store.remove(id);
}

for (let seed = 1; seed <= 30; seed++) {
  test(`two tabs lose nothing and overwrite nothing (seed ${seed})`, async () => {
    globalThis.indexedDB = new IDBFactory();
    const random = seeded(seed);
    const tabs = [new chat.Store(), new chat.Store()];
    const model = new Model();
    for (let round = 0; round < 25; round++) {
      // Both act at the same time; transactions put them in the order of the calls.
      await Promise.all(tabs.map((tab) => step(random, tab, model)));
    }
    for (const tab of tabs) {
      const all = await tab.all();
      assert.deepEqual(
        all.map(({ id }) => id).sort(),
        [...model.conversations.keys()].sort(),
        "conversations",
      );
      for (const { id, turns } of all) {
        const wanted = Object.fromEntries(model.turns(id));
        assert.deepEqual(turns, wanted);
        assert.deepEqual((await tab.load(id)).turns, wanted);
      }
    }
  });
}

test("a deleted conversation does not come back by a late turn", async () => {
  globalThis.indexedDB = new IDBFactory();
  const [one, two] = [new chat.Store(), new chat.Store()];
  const conversation = chat.newConversation(chat.defaultOptions);
  const turn = chat.addTurn(conversation, chat.userTurn(null, "hello"));
  await one.create(conversation);
  await two.remove(conversation.id);
  assert.equal(await one.saveTurns(conversation.id, [turn]), false);
  assert.equal(await one.saveHead(conversation.id, (head) => (head.title = "x")), false);
  assert.deepEqual(await one.all(), []);
});

test("conversations of the first layout are taken over", async () => {
  globalThis.indexedDB = new IDBFactory();
  const conversation = chat.newConversation(chat.defaultOptions);
  conversation.title = "old";
  chat.addTurn(conversation, chat.userTurn(null, "hello"));
  await new Promise((resolve, reject) => {
    const request = indexedDB.open("openqwq", 1);
    request.onupgradeneeded = () => {
      const old = request.result.createObjectStore("conversations", { keyPath: "id" });
      request.result.createObjectStore("summaries", { keyPath: "id" });
      old.put(conversation);
    };
    request.onsuccess = () => {
      request.result.close();
      resolve();
    };
    request.onerror = reject;
  });
  const [found] = await new chat.Store().all();
  assert.deepEqual(found, conversation);
});

test("a search reads titles, messages, answers and attachments", async () => {
  globalThis.indexedDB = new IDBFactory();
  const store = new chat.Store();
  const conversation = chat.newConversation(chat.defaultOptions);
  conversation.title = "Sums";
  const attached = { name: "a.csv", kind: "table", text: "Zürich,3", tokens: 1, note: "" };
  const asked = chat.addTurn(conversation, chat.userTurn(null, "How many？", [attached]));
  const reply = chat.addTurn(conversation, chat.assistantTurn(asked.id, "m"));
  reply.steps.push({ kind: "thinking", text: "hmm", seconds: 1, pieces: 1 });
  reply.steps.push({ kind: "text", text: "答案是 42。" });
  await store.create(conversation);
  for (const query of ["sums", "ZÜRICH", "答案", "hmm", "many 42", "how many?"]) {
    assert.equal((await store.search(query)).length, 1, query);
  }
  assert.deepEqual(await store.search("nothing"), []);
  assert.match((await store.search("答案"))[0].snippet, /答案是 42/);
});

const CHATGPT = [
  {
    title: "From ChatGPT",
    create_time: 1700000000.5,
    update_time: 1700000100,
    current_node: "c",
    mapping: {
      root: { id: "root", parent: null, children: ["s"], message: null },
      s: {
        id: "s",
        parent: "root",
        message: { author: { role: "system" }, content: { content_type: "text", parts: [""] } },
      },
      a: {
        id: "a",
        parent: "s",
        message: { author: { role: "user" }, content: { content_type: "text", parts: ["hi"] } },
      },
      b: {
        id: "b",
        parent: "a",
        message: {
          author: { role: "assistant" },
          content: { content_type: "text", parts: ["old"] },
          metadata: { model_slug: "gpt" },
        },
      },
      c: {
        id: "c",
        parent: "a",
        message: {
          author: { role: "assistant" },
          content: { content_type: "text", parts: ["new"] },
        },
      },
    },
  },
];
const WEBUI = [
  {
    id: "x",
    title: "From open-webui",
    chat: {
      history: {
        currentId: "2",
        messages: {
          1: { id: "1", parentId: null, role: "user", content: "hi", timestamp: 1700000000 },
          2: {
            id: "2",
            parentId: "1",
            role: "assistant",
            model: "qwq",
            content:
              '<details type="reasoning" done="true">\n<summary>Thought</summary>\n&gt; so &lt;x&gt;\n</details>\nhello',
          },
        },
      },
    },
  },
];

test("exports of ChatGPT and open-webui become conversations", () => {
  const [gpt] = chat.readExport(JSON.stringify(CHATGPT)).conversations;
  assert.equal(gpt.title, "From ChatGPT");
  const shown = chat.shownPath(gpt);
  assert.deepEqual(
    shown.map((turn) => turn.text ?? turn.steps[0].text),
    ["hi", "new"],
  );
  assert.equal(Object.keys(gpt.turns).length, 3);
  const [webui] = chat.readExport(JSON.stringify(WEBUI)).conversations;
  const [, reply] = chat.shownPath(webui);
  assert.deepEqual(
    reply.steps.map(({ kind, text }) => [kind, text]),
    [
      ["thinking", "so <x>"],
      ["text", "hello"],
    ],
  );
});

test("an own export comes back under new ids, and damaged ones are counted", () => {
  const conversation = chat.newConversation(chat.defaultOptions);
  const first = chat.addTurn(conversation, chat.userTurn(null, "one"));
  chat.addTurn(conversation, chat.userTurn(null, "two"));
  conversation.chosen[""] = first.id;
  conversation.options.tools = { not: "a text" };
  const bad = { turns: { a: { id: "a", role: "assistant", steps: [{ kind: "text", text: 5 }] } } };
  const file = { format: "openqwq-chat-1", conversations: [conversation, bad, 7, null] };
  const imported = chat.readExport(JSON.stringify(file));
  assert.equal(imported.skipped, 3);
  const [copy] = imported.conversations;
  assert.notEqual(copy.id, conversation.id);
  assert.equal(chat.shownPath(copy)[0].text, "one");
  assert.equal(copy.options.tools, "");
  for (const text of ["", "[]", "{", '{"a": 1}', "[1, 2]"])
    assert.equal(chat.readExport(text), null);
});
