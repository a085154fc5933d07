/** The chat as `qwq serve` serves it: at CHAT_URL, with CHAT_KEY, a model that thinks and says 42;
 * at CHAT_TOOLS_URL one that has the server's calculator multiply.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import { startBrowser, VIEWS, Visit } from "./page.mjs";

const { CHAT_URL: url, CHAT_TOOLS_URL: toolsUrl, CHAT_MODEL: model, CHAT_KEY: key } = process.env;

test(
  "a question, its thinking, its answer, and an answer asked for early",
  { skip: !url },
  async () => {
    const browser = await startBrowser();
    try {
      const httpCredentials = { username: "reader", password: key ?? "" };
      const view = { ...VIEWS["phone light"], httpCredentials };
      const visit = await Visit.open(browser, url, view, model);
      const { page } = visit;
      await visit.ask("What is 6 times 7?");
      assert.match(await visit.reply.locator(".markdown").last().textContent(), /The answer is 42/);
      await visit.reply.getByRole("button", { name: /Thought for/ }).click();
      assert.match(
        await visit.reply.locator(".thinking-text").textContent(),
        /the quick brown fox/,
      );
      assert.match(await visit.reply.locator(".usage").textContent(), /tokens, \d+ thinking/);
      await page.locator(".top").getByRole("button", { name: "Chat options" }).click();
      await page.getByLabel("Max tokens").fill("5");
      await page.keyboard.press("Escape");
      await visit.ask("And briefly?");
      assert.match(await visit.reply.textContent(), /The token limit was reached/);
      await page.locator(".top").getByRole("button", { name: "Chat options" }).click();
      await page.getByLabel("Max tokens").fill("999999");
      await page.keyboard.press("Escape");
      visit.expect(/Failed to load resource/);
      await visit.ask("Too much?");
      await visit.reply.locator(".problem").waitFor();
      await page.locator(".top").getByRole("button", { name: "Chat options" }).click();
      await page.getByRole("button", { name: "Reset all" }).click();
      await page.keyboard.press("Escape");
      await visit.send("Again, and stop.");
      await page.getByRole("button", { name: "Thinking…" }).waitFor();
      await page.getByRole("button", { name: "Answer now" }).click();
      await page.getByRole("button", { name: "Stop" }).click();
      await page.getByText("Stopped.").waitFor();
      await visit.assertAccessible();
      await visit.picture("served");
      await visit.close();
    } finally {
      await browser.close();
    }
  },
);

test(
  "tools that the server runs, and their results in the next turn",
  { skip: !toolsUrl },
  async () => {
    const browser = await startBrowser();
    try {
      const visit = await Visit.open(browser, toolsUrl, VIEWS["desktop dark"], model);
      for (const question of ["What is 6 times 7?", "And once more?"]) {
        await visit.ask(question);
        const card = visit.reply.locator(".tool");
        assert.match(await card.textContent(), /calculator.*done/);
        await card.getByRole("button").click();
        assert.match(await card.textContent(), /expression6\*7Result42/);
        assert.match(await visit.reply.locator(".markdown").last().textContent(), /It is 42\./);
      }
      await visit.picture("served-tools");
      await visit.close();
    } finally {
      await browser.close();
    }
  },
);
