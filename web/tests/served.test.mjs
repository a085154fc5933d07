/** The chat as `qwq serve` serves it at CHAT_URL, with CHAT_KEY; its model thinks, then says 42. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { startBrowser, VIEWS, Visit } from "./page.mjs";

const url = process.env.CHAT_URL;

test(
  "a question, its thinking, its answer, and an answer asked for early",
  { skip: !url },
  async () => {
    const browser = await startBrowser();
    try {
      const httpCredentials = { username: "reader", password: process.env.CHAT_KEY ?? "" };
      const view = { ...VIEWS["phone light"], httpCredentials };
      const visit = await Visit.open(browser, url, view, process.env.CHAT_MODEL);
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
