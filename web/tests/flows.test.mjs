/** Everything a reader does with the chat, in real Chromium, on a desktop and on a phone. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe } from "node:test";
import {
  eventually,
  FAILED_REQUEST,
  fieldHolds,
  names,
  prepareFlows,
  says,
  shows,
} from "./page.mjs";

const { flow, mock } = prepareFlows();

describe("answers", () => {
  flow(
    "Markdown, formulas, code and tables are shown",
    async (visit, name) => {
      const { page } = visit;
      await visit.picture(`welcome-${name}`);
      await visit.assertAccessible();
      await visit.ask("markdown please");
      await page.locator(".math .katex").nth(3).waitFor();
      await page.locator(".hljs-keyword").first().waitFor();
      const reply = visit.reply;
      await says(reply.locator("h3"), "Result");
      await shows(reply.locator("td.align-right"), 2);
      await shows(reply.locator(".math.display .katex-display"), 2);
      await shows(reply.locator("math"), 4);
      await says(reply.locator("blockquote"), /costs \$5 and then \$10/);
      await shows(reply.locator("ol ul li"), 1);
      await shows(reply.locator("img"), 0);
      const picture = reply.locator("a", { hasText: "Image: a picture" });
      assert.equal(await picture.getAttribute("href"), "https://example.org/picture.png");
      assert.match(await picture.getAttribute("rel"), /noopener noreferrer/);
      await reply.getByRole("button", { name: "Copy code" }).click();
      await reply.getByText("Copied").waitFor();
      assert.match(
        await page.evaluate(() => navigator.clipboard.readText()),
        /^def area[^]*"x"\)$/,
      );
      await says(reply.locator(".usage"), /1,234 tokens, 1,200 thinking/);
      await visit.assertAccessible();
      await visit.picture(`markdown-${name}`);
    },
    names,
  );

  flow("what reasoning models write is shown as they mean it", async (visit, name) => {
    const { page, reply } = visit;
    await visit.ask("rendering");
    await page.locator(".math .katex").nth(2).waitFor();
    await says(reply.locator("strong").first(), "注意：");
    await says(reply.locator("strong").nth(1), "“引号”");
    await shows(reply.locator(".katex .boxed, .katex .fbox"), 1);
    await shows(reply.locator(".math.display .katex-display"), 1);
    await says(reply.locator("sub"), "2");
    await shows(reply.locator("p br"), 1);
    await says(reply, /<b>this<\/b>/);
    await shows(reply.locator("li.task"), 2);
    await says(reply.locator("li.task").last(), /☑ done/);
    const hebrew = reply.locator("ul", { hasText: "שלום" });
    assert.equal(await hebrew.evaluate((list) => getComputedStyle(list).direction), "rtl");
    await shows(reply.locator("td br"), 1);
    await visit.assertAccessible();
    await visit.picture(`rendering-${name}`);
  });

  flow("a selection copies formulas as TeX", async (visit) => {
    const { page } = visit;
    await visit.ask("rendering");
    await page.locator(".math.display .katex").waitFor();
    await visit.reply.evaluate((reply) => getSelection().selectAllChildren(reply));
    await page.evaluate(() => document.execCommand("copy"));
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    assert.match(copied, /\$\\boxed\{\\frac\{1\}\{2\}\}\$/);
    assert.match(copied, /\$\$\\begin\{align\}[^]*\\end\{align\}\$\$/);
    assert.match(copied, /to do\n/);
  });

  flow("a table of 2,000 rows and a word of 24,000 letters stay fluent", async (visit) => {
    const { page } = visit;
    const gaps = await visit.watchFrames();
    await visit.ask("table");
    await shows(visit.reply.locator("tbody tr"), 2000);
    await shows(visit.reply.locator("td.align-right"), 2000);
    await says(visit.reply, /After the table\.$|After the table\./);
    await visit.ask("word");
    await says(visit.reply.locator(".overlong"), "W".repeat(24_000));
    assert.ok((await gaps()) < 4000, `${await gaps()} ms without a frame`);
  });

  flow("paper gets a document", async (visit, name) => {
    const { page } = visit;
    await visit.ask("markdown please");
    await page.emulateMedia({ media: "print" });
    await page.locator(".composer").waitFor({ state: "hidden" });
    await page.locator(".top").waitFor({ state: "hidden" });
    const pdf = await page.pdf({ format: "A4" });
    assert.ok(pdf.length > 20_000);
    await visit.picture(`print-${name}`);
    await page.emulateMedia({ media: null });
  });

  flow("what is settled is not drawn again", async ({ page, ...visit }, _name) => {
    void visit;
    await page.locator(".composer textarea").fill("markdown");
    await page.locator(".composer textarea").press("Enter");
    const heading = await page.locator(".markdown h3").elementHandle({ timeout: 10_000 });
    await page.locator(".turn.assistant .turn-actions").waitFor();
    assert.equal(await heading.evaluate((element) => element.isConnected), true);
  });

  flow("thinking shows, follows, folds, and gives way to Answer now", async (visit, name) => {
    const { page, reply } = visit;
    await visit.send("think about it");
    const text = page.locator(".thinking-text");
    await page.getByRole("button", { name: "Thinking…" }).waitFor();
    await page.waitForFunction(() => {
      const box = document.querySelector(".thinking-text");
      return box && box.scrollHeight > box.clientHeight + 60;
    });
    const gap = () => text.evaluate((box) => box.scrollHeight - box.scrollTop - box.clientHeight);
    await eventually(async () => assert.ok((await gap()) < 4, "follows the thinking"));
    await visit.assertAccessible();
    await visit.picture(`thinking-${name}`);
    await text.evaluate((box) => (box.scrollTop = 0));
    const longer = (height) => document.querySelector(".thinking-text").scrollHeight > height + 60;
    await page.waitForFunction(longer, await text.evaluate((box) => box.scrollHeight));
    assert.ok((await gap()) > 40, "stays where the reader scrolled to");
    await page.getByRole("button", { name: "Answer now" }).click();
    await visit.ended();
    await says(reply.locator(".markdown").last(), /The answer is 42/);
    await shows(text, 0);
    const toggle = page.getByRole("button", { name: /Thought for/ });
    await toggle.press("Enter");
    await says(text, /Step 0: let me check/);
    await shows(page.getByRole("button", { name: "Answer now" }), 0);
  });

  flow("a server without Answer now loses the button, not the reply", async (visit) => {
    visit.expect(FAILED_REQUEST);
    const { page } = visit;
    await visit.send("reason in the other field");
    const button = page.getByRole("button", { name: "Answer now" });
    await button.click();
    await button.waitFor({ state: "detached" });
    await says(page.locator(".thinking-text"), /Step 0/);
    await visit.composer.press("Escape");
    await page.locator("#app").getByText("Stopped.").waitFor();
  });

  flow("Esc stops and keeps what has come; the server is told", async (visit) => {
    const { page } = visit;
    const disconnects = async () =>
      (await (await fetch(`${mock.url}mock/requests`)).json()).disconnects;
    const before = await disconnects();
    await visit.send("slow");
    await page.locator("#app").getByText("word 2.").waitFor();
    await page.keyboard.press("Escape");
    await page.locator("#app").getByText("Stopped.").waitFor();
    await says(visit.reply, /word 0\. word 1\./);
    await eventually(async () => assert.ok((await disconnects()) > before));
    await visit.reply.getByRole("button", { name: "Continue" }).click();
    await visit.reply.getByText("You said: Continue").waitFor();
    await visit.ended();
    await says(visit.reply, /word 0\. word 1\.[^]*You said: Continue/);
    await shows(page.locator(".turn"), 2);
    await visit.ask("plain");
    await says(visit.reply, /A short answer/);
  });

  flow("thinking in <think> tags is told from the answer", async (visit) => {
    for (const [name, thought] of [
      ["foreign", "foreign thoughts"],
      ["opened", "thoughts without opening"],
    ]) {
      await visit.ask(name);
      await says(visit.reply.locator(".markdown").last(), /^The visible answer/);
      await visit.reply.getByRole("button", { name: /Thought for/ }).click();
      await says(visit.reply.locator(".thinking-text"), thought);
    }
    await says(visit.page.locator(".markdown code").first(), /^<think>$/);
  });

  flow("replies that end oddly say so", async (visit) => {
    for (const [name, text] of [
      ["loop", "It repeats itself."],
      ["length", "The token limit was reached."],
      ["whole", "Not streamed."],
    ]) {
      await visit.ask(name);
      await says(visit.reply, new RegExp(text));
    }
  });
});

describe("tools", () => {
  flow("the reader plays a tool and the model goes on", async (visit, name) => {
    await visit.ask("tools");
    const card = visit.reply.getByRole("group", { name: "Tool get_weather" });
    await says(card, /waits for you[^]*city[^]*Paris/);
    await visit.assertAccessible();
    await visit.picture(`tool-${name}`);
    await card.getByRole("textbox").fill("18 degrees");
    await card.getByRole("button", { name: "Send result" }).click();
    await visit.reply.getByText("The tool said: 18 degrees.").waitFor();
    const { messages } = (await visit.requests()).at(-1);
    assert.deepEqual(
      messages.map(({ role }) => role),
      ["user", "assistant", "tool"],
    );
    assert.deepEqual(messages[1].tool_calls[0].function.arguments, '{"city": "Paris"}');
    assert.equal(messages[2].tool_call_id, "call_1");
  });

  flow("the server's own tools show their steps", async (visit, name) => {
    await visit.ask("server");
    const cards = visit.reply.locator(".tool");
    await shows(cards, 2);
    await cards.nth(0).getByRole("button").click();
    await cards.nth(1).getByRole("button").click();
    await says(cards.nth(0), /python[^]*done[^]*print\(6 \* 7\)[^]*42/);
    await says(cards.nth(1), /failed[^]*<b>life<\/b>[^]*no network/);
    await says(visit.reply, /It is 42\./);
    await visit.assertAccessible();
    await visit.picture(`server-tools-${name}`);
  });
});

describe("conversations", () => {
  flow("editing and regenerating make branches", async (visit, name) => {
    const { page } = visit;
    await visit.ask("first question");
    await visit.ask("plain second");
    const first = page.locator(".turn.user").first();
    await first.hover();
    await first.getByRole("button", { name: "Edit message" }).click();
    await page.getByRole("textbox", { name: "Edit message" }).fill("other question");
    await page.keyboard.press("Enter");
    await page.locator("#app").getByText("You said: other").waitFor();
    await visit.ended();
    await shows(page.locator(".turn"), 2);
    await says(first.locator(".branches"), /2\/2/);
    assert.equal((await visit.requests()).at(-1).messages.length, 1);
    await visit.reply.getByRole("button", { name: "Write another answer" }).click();
    await page.locator(".turn.assistant .branches").waitFor();
    await says(visit.reply.locator(".branches"), /2\/2/);
    await visit.picture(`branches-${name}`);
    await first.getByRole("button", { name: "Previous version" }).click();
    await page.locator("#app").getByText("plain second").first().waitFor();
    await shows(page.locator(".turn"), 4);
    await visit.composer.press("ArrowUp");
    await fieldHolds(page.getByRole("textbox", { name: "Edit message" }), "plain second");
    await page.keyboard.press("Escape");
  });

  flow("history stays in the browser: renamed, exported, deleted", async (visit, name) => {
    const { page } = visit;
    await visit.ask("plain to keep");
    await page.reload();
    await visit.openSidebar();
    await page.getByRole("button", { name: "plain to keep", exact: true }).click();
    await page.locator("#app").getByText("A short answer.").waitFor();
    await visit.openSidebar();
    await page.getByRole("button", { name: "Rename plain to keep" }).click();
    await page.getByRole("textbox", { name: "New title" }).fill("A better title");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "A better title", exact: true }).waitFor();
    await visit.assertAccessible();
    await visit.picture(`history-${name}`);
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Export A better title" }).click(),
    ]);
    const exported = JSON.parse(readFileSync(await download.path(), "utf8"));
    assert.equal(exported.conversations[0].title, "A better title");
    assert.equal(Object.keys(exported.conversations[0].turns).length, 2);
    await page.getByRole("button", { name: "Delete A better title" }).click();
    await visit.assertAccessible();
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.locator("#app").getByText("Your chats are kept in this browser.").waitFor();
    await page.reload();
    await visit.openSidebar();
    await page.locator("#app").getByText("Your chats are kept in this browser.").waitFor();
  });

  flow("a reply runs on while another chat is open, and in every tab's list", async (visit) => {
    const { page } = visit;
    await visit.send("slow in the background");
    await page.locator("#app").getByText("word 1.").waitFor();
    await visit.newChat();
    await visit.ask("plain beside it");
    const other = await visit.newPage();
    if (visit.phone)
      await other.getByRole("button", { name: "Conversations", exact: true }).click();
    await other.getByRole("button", { name: "slow in the background", exact: true }).waitFor();
    await other.close();
    await visit.openSidebar();
    await page.getByRole("button", { name: "slow in the background", exact: true }).click();
    await page.locator("#app").getByText("word 8.").waitFor();
    await page.getByRole("button", { name: "Stop" }).click();
    await page.locator("#app").getByText("Stopped.").waitFor();
  });
});

describe("plain HTTP from another machine", () => {
  flow(
    "chats and copies without a secure context",
    async (visit) => {
      const { page } = visit;
      assert.equal(await page.evaluate(() => isSecureContext), false);
      await visit.ask("markdown");
      await visit.reply.getByRole("button", { name: "Copy code" }).click();
      await visit.reply.getByText("Copied").waitFor();
      await visit.composer.focus();
      await page.keyboard.press("Control+V");
      await fieldHolds(visit.composer, /^def area/);
    },
    ["desktop light"],
    () => `http://chat.test:${mock.port}/`,
  );
});

describe("options and settings", () => {
  flow("what the reader sets is sent, and only that", async (visit, name) => {
    const { page } = visit;
    await visit.ask("plain");
    assert.deepEqual(Object.keys((await visit.requests()).at(-1)).sort(), [
      "messages",
      "model",
      "stream",
      "stream_options",
    ]);
    await page.getByRole("button", { name: "Chat options" }).click();
    await page.getByLabel("System prompt").fill("Be brief.");
    await page.getByLabel("Temperature").fill("0.5");
    await page.getByLabel("Top-p").fill("0.9");
    await page.getByLabel("Top-k").fill("20");
    await page.getByLabel("Max tokens").fill("512");
    await page.getByLabel("Seed").fill("-3");
    await says(page.locator("dialog"), /whole number at least 0/);
    await page.getByLabel("Seed").fill("7");
    await page.locator("dialog").getByRole("combobox", { name: "Thinking" }).selectOption("custom");
    await page.getByLabel("Thinking tokens").fill("100");
    await visit.assertFits();
    await visit.assertAccessible();
    await visit.picture(`options-${name}`);
    await visit.closeDialog();
    await visit.newChat();
    await visit.ask("plain again");
    const { messages, stream_options, ...sent } = (await visit.requests()).at(-1);
    assert.deepEqual(messages[0], { role: "system", content: "Be brief." });
    assert.deepEqual(stream_options, { include_usage: true });
    assert.deepEqual(sent, {
      model: "mock-qwq",
      stream: true,
      temperature: 0.5,
      top_p: 0.9,
      top_k: 20,
      max_tokens: 512,
      seed: 7,
      thinking_budget: 100,
    });
    await page.getByRole("button", { name: "Chat options" }).click();
    await page.getByRole("button", { name: "Reset all" }).click();
    await page.locator("dialog").getByRole("combobox", { name: "Thinking" }).selectOption("low");
    await visit.closeDialog();
    await visit.ask("plain third");
    const last = (await visit.requests()).at(-1);
    assert.equal(last.reasoning_effort, "low");
    assert.equal("temperature" in last || "thinking_budget" in last, false);
  });

  flow("another server: key asked for, given, used; other origins work", async (visit, name) => {
    visit.expect(FAILED_REQUEST);
    const { page } = visit;
    const server = async (base, key) => {
      await page.getByLabel("Server", { exact: true }).fill(base);
      await page.getByLabel("API key").fill(key);
      await page.getByRole("button", { name: "Connect" }).click();
    };
    await page.getByRole("button", { name: "Settings" }).click();
    await server(`${mock.url}keyed`, "");
    await page.locator("dialog").getByText("The server wants an API key").waitFor();
    await visit.assertAccessible();
    await visit.picture(`settings-${name}`);
    await server(`${mock.url}keyed/v1/`, "secret");
    await page.locator("#app").getByText("Connected: 2 models.").waitFor();
    await server(`http://localhost:${mock.port}/v1`, "");
    await page.locator("#app").getByText("Connected: 2 models.").waitFor();
    await page.getByRole("combobox", { name: "Model" }).last().selectOption("mock-other");
    await visit.closeDialog();
    await visit.ask("plain");
    assert.equal((await visit.requests()).at(-1).model, "mock-other");
    visit.expect(/127\.0\.0\.2|violates the following/);
    await page.getByRole("button", { name: "Settings" }).click();
    await server(`http://127.0.0.2:${mock.port}`, "");
    await page
      .locator("dialog")
      .getByText(/cannot be reached[^]*this page's own server must/)
      .waitFor();
  });

  flow("the appearance is chosen and kept", async ({ page }, name) => {
    const shown = (color) =>
      page.waitForFunction(
        (wanted) => getComputedStyle(document.body).backgroundColor === wanted,
        color,
      );
    const light = "rgb(251, 250, 248)";
    const dark = "rgb(24, 23, 22)";
    await shown(name.endsWith("light") ? light : dark);
    await page.getByRole("button", { name: "Appearance: system" }).click();
    await shown(light);
    await page.getByRole("button", { name: "Appearance: light" }).click();
    await shown(dark);
    await page.reload();
    await page.getByRole("button", { name: "Appearance: dark" }).waitFor();
    await shown(dark);
  });
});

describe("failures", () => {
  flow("each failure says what to do", async (visit, name) => {
    visit.expect(FAILED_REQUEST);
    for (const [word, text, button] of [
      ["error401", /wants an API key[^]*Incorrect API key/, "Open settings"],
      ["error500", /The server failed[^]*500: Something broke/, "Try again"],
      ["error400", /refused the request[^]*top_k is -1/, "Chat options"],
      ["overflow", /too long for this model[^]*1200 tokens over/, "New chat"],
      ["cut", /Half of an ans[^]*connection was lost/, "Try again"],
      ["midstream", /The server failed|The reply failed/, "Try again"],
    ]) {
      await visit.ask(word);
      await says(visit.reply, text);
      await visit.reply.getByRole("button", { name: button }).waitFor();
    }
    await visit.assertAccessible();
    await visit.picture(`failures-${name}`);
  });

  flow("a busy server is tried again after its time", async (visit, name) => {
    visit.expect(FAILED_REQUEST);
    const soon = { name: /Try again in [12] s/, disabled: true };
    const waiting = visit.reply.getByRole("button", soon).waitFor();
    await Promise.all([visit.ask("error429"), waiting]);
    await visit.picture(`busy-${name}`);
    const count = (await visit.requests()).length;
    await visit.reply.getByRole("button", { name: "Try again", exact: true }).click();
    await visit.ended();
    assert.equal((await visit.requests()).length, count + 1);
    await shows(visit.page.locator(".turn.assistant"), 1);
  });

  flow("without network the message and the way out are shown", async (visit) => {
    visit.expect(/ERR_INTERNET_DISCONNECTED/);
    await visit.context.setOffline(true);
    await visit.ask("plain");
    await says(visit.reply, /cannot be reached/);
    await visit.context.setOffline(false);
    await visit.reply.getByRole("button", { name: "Try again" }).click();
    await visit.reply.getByText("A short answer.").waitFor();
  });
});

describe("hostile output", () => {
  flow("does nothing", async (visit, name) => {
    const { page } = visit;
    await visit.send("hostile");
    await visit.reply.getByText("THE END").waitFor({ timeout: 40_000 });
    await visit.ended();
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    const elements =
      "script, img, iframe, object, embed, form, style, link, base, meta, svg[onload]";
    await shows(visit.reply.locator(elements), 0);
    const links = await visit.reply
      .locator("a")
      .evaluateAll((all) =>
        all.map((link) => [link.protocol, link.target, link.rel, link.getAttributeNames().join()]),
      );
    assert.ok(links.length >= 3);
    for (const [protocol, target, rel, attributes] of links) {
      assert.match(protocol, /^(https?|mailto):$/);
      assert.equal(target, "_blank");
      assert.match(rel, /noopener noreferrer/);
      assert.doesNotMatch(attributes, /\bon|style/);
    }
    const handlers = await visit.reply.evaluate(
      (reply) =>
        [...reply.querySelectorAll("*")].filter((e) => /\bon\w+=/.test(e.outerHTML.split(">")[0]))
          .length,
    );
    assert.equal(handlers, 0);
    await visit.picture(`hostile-${name}`);
  });

  flow("a megabyte of code leaves the page responsive", async (visit) => {
    const { page } = visit;
    const gaps = await visit.watchFrames();
    await visit.send("big");
    await visit.composer.fill("I can still type");
    await page.locator("#app").getByText("After the block.").waitFor({ timeout: 40_000 });
    await visit.ended();
    await fieldHolds(visit.composer, "I can still type");
    const longest = await gaps();
    // 250 ms where nothing else runs; the bound leaves room for a machine that is ten times busier.
    assert.ok(longest < 4000, `${longest} ms without a frame`);
    const length = await page.locator(".code code").evaluate((code) => code.textContent.length);
    assert.ok(length > 990_000);
  });
});

describe("keyboard and screen reader", () => {
  flow("everything is reached by keyboard", async (visit) => {
    const { page, composer } = visit;
    if (!visit.phone) await visit.composerHasFocus();
    await composer.focus();
    await composer.pressSequentially("two");
    await page.keyboard.press("Shift+Enter");
    await composer.pressSequentially("lines?");
    await fieldHolds(composer, "two\nlines?");
    await composer.fill("");
    await page.locator(".transcript").focus();
    await page.keyboard.press("?");
    await page.getByRole("heading", { name: "Keyboard shortcuts" }).waitFor();
    await visit.assertAccessible();
    await visit.closeDialog();
    await page.keyboard.press("Shift+Escape");
    await visit.composerHasFocus();
    await page.keyboard.press("Control+,");
    await page.getByRole("heading", { name: "Settings" }).waitFor();
    await visit.closeDialog();
    await page.keyboard.press("Control+.");
    await page.getByRole("heading", { name: "Chat options" }).waitFor();
    await visit.closeDialog();
    await visit.composerHasFocus();
    const shown = await page.locator("#sidebar").isVisible();
    await page.keyboard.press("Control+Shift+H");
    await page.locator("#sidebar").waitFor({ state: shown ? "hidden" : "visible" });
    if (!visit.phone) return;
    await page.locator("main[inert]").waitFor();
    await page.keyboard.press("Escape");
    await page.locator("#sidebar").waitFor({ state: "hidden" });
    await visit.composerHasFocus();
  });

  flow("a screen reader hears sentences, not tokens", async (visit) => {
    const { page } = visit;
    await page.evaluate(() => {
      window.heard = [];
      const region = document.querySelector("[aria-live=polite]");
      new MutationObserver(() => window.heard.push(region.textContent)).observe(region, {
        childList: true,
        characterData: true,
        subtree: true,
      });
    });
    await visit.ask("plain");
    await page.waitForFunction(() => window.heard.join(" ").includes("Reply complete."));
    const heard = await page.evaluate(() => window.heard);
    assert.match(heard.join(" "), /A short answer\. It has two sentences\./);
    for (const text of heard) assert.match(text, /[.!?]$/);
    assert.ok(heard.length <= 4, heard.join(" | "));
    await shows(page.getByRole("main"), 1);
  });
});
