/** The chat as `qwq serve` serves it: at CHAT_URL, with CHAT_KEY, a model that thinks and says 42;
 * at CHAT_TOOLS_URL one that has the server's calculator multiply; at CHAT_RATED_URL one that
 * writes a program, with a sandbox and a file for ratings; at CHAT_KILLABLE_URL the first again,
 * which CHAT_CONTROL kills and starts.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import { says, startBrowser, VIEWS, Visit } from "./page.mjs";

const { CHAT_URL: url, CHAT_TOOLS_URL: toolsUrl, CHAT_MODEL: model, CHAT_KEY: key } = process.env;
const { CHAT_RATED_URL: rated, CHAT_KILLABLE_URL: killable, CHAT_CONTROL: control } = process.env;

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
      await says(visit.reply.locator(".markdown").last(), /The answer is 42/);
      await visit.reply.getByRole("button", { name: /Thought for/ }).click();
      await says(visit.reply.locator(".thinking-text"), /the quick brown fox/);
      await says(visit.reply.locator(".usage"), /tokens, \d+ thinking/);
      await page.locator(".top").getByRole("button", { name: "Chat options" }).click();
      await page.getByLabel("Max tokens").fill("5");
      await visit.closeDialog();
      await visit.ask("And briefly?");
      await says(visit.reply, /The token limit was reached/);
      await page.locator(".top").getByRole("button", { name: "Chat options" }).click();
      await page.getByRole("button", { name: "Reset all" }).click();
      await visit.closeDialog();
      await visit.send("Again, and stop.");
      await page.getByRole("button", { name: /Thinking…/ }).waitFor();
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
        await says(card, /calculator.*done/);
        await card.getByRole("button").click();
        await says(card, /expression6\*7Result42/);
        await says(visit.reply.locator(".markdown").last(), /It is 42\./);
      }
      await visit.picture("served-tools");
      await visit.close();
    } finally {
      await browser.close();
    }
  },
);

/** Sends without waiting for the end. */
async function begin(visit, text) {
  await visit.send(text);
  await visit.page.getByRole("button", { name: /Thinking…/ }).waitFor();
}

test("a reply goes on while its page is gone, and any tab follows it", { skip: !url }, async () => {
  const browser = await startBrowser();
  try {
    const httpCredentials = { username: "reader", password: key ?? "" };
    const view = { ...VIEWS["desktop light"], httpCredentials };
    const visit = await Visit.open(browser, url, view, model);
    const { page } = visit;
    await begin(visit, "What is 6 times 7?");
    const link = page.url();
    await page.waitForFunction(() => location.hash.length > 1);
    await page.reload();
    await page.getByRole("button", { name: /Thinking…/ }).waitFor();
    const other = await visit.newPage();
    await other.goto(page.url());
    for (const tab of [page, other]) {
      await tab.locator(".turn").getByText("The answer is").waitFor();
      await tab.locator(".turn.assistant .usage").waitFor();
      // Nothing twice, nothing missing.
      await says(tab.locator(".turn.assistant .markdown").last(), "The answer is 42.");
    }
    assert.ok(link.startsWith(url));
    await begin(visit, "And then?");
    await page.goto("about:blank");
    await other.locator(".turn.assistant .usage").nth(1).waitFor();
    await page.goto(other.url());
    await page.locator(".turn.assistant .usage").nth(1).waitFor();
    await other.close();
    await visit.close();
  } finally {
    await browser.close();
  }
});

test("a server that is killed and comes back is found again", { skip: !killable }, async () => {
  const browser = await startBrowser();
  try {
    const visit = await Visit.open(browser, killable, VIEWS["phone dark"], model);
    visit.expect(/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE|Failed to load|ERR_CONNECTION_RESET/);
    const { page } = visit;
    await begin(visit, "What is 6 times 7?");
    await page.locator(".thinking-text").getByText("fox").first().waitFor();
    await Promise.all([page.waitForEvent("requestfailed"), fetch(`${control}kill`)]);
    await fetch(`${control}start`);
    await page.locator(".turn.assistant .problem").waitFor({ timeout: 40_000 });
    await says(visit.reply, /the server ended while it wrote/);
    await page.getByRole("button", { name: /Thought for/ }).click();
    await says(page.locator(".thinking-text"), /quick brown fox/);
    await visit.reply.getByRole("button", { name: "Try again" }).click();
    await visit.reply.getByText("The answer is").waitFor({ timeout: 40_000 });
    await visit.close();
  } finally {
    await browser.close();
  }
});

test("tools are listed, switched and approved; Python runs", { skip: !toolsUrl }, async () => {
  const browser = await startBrowser();
  try {
    const visit = await Visit.open(browser, toolsUrl, VIEWS["desktop light"], model);
    const { page, reply } = visit;
    await page.getByRole("button", { name: /^Tools/ }).click();
    await page.getByLabel("calculator").uncheck();
    const chip = page.locator(".status-line .chip", { hasText: "1 tool off" });
    await chip.waitFor();
    await page.getByRole("button", { name: "Tools 0/1" }).waitFor();
    await page.getByLabel("calculator").check();
    await chip.waitFor({ state: "detached" });
    await page.getByLabel("Ask me before a tool runs").check();
    await visit.assertAccessible();
    await visit.picture("served-menu");
    await page.keyboard.press("Escape");
    await visit.ask("What is 6 times 7?");
    await reply.getByText("Let it run calculator?").waitFor();
    await visit.picture("served-approval");
    await visit.assertAccessible();
    await reply.getByRole("button", { name: "Run", exact: true }).click();
    await reply.getByText("It is 42.").waitFor();
    await says(reply.locator(".tool"), /calculator.*done/);
    await visit.ask("And again?");
    await reply.getByRole("button", { name: "Refuse" }).click();
    await reply.getByText("It is 42.").waitFor();
    await reply.locator(".tool-head").click();
    await says(reply.locator(".tool"), /The user refused this call/);
    await visit.close();
  } finally {
    await browser.close();
  }
});

test("a Python block runs, and ratings are kept", { skip: !rated }, async () => {
  const browser = await startBrowser();
  try {
    const visit = await Visit.open(browser, rated, VIEWS["desktop light"], model);
    const { page, reply } = visit;
    await visit.ask("Write a program.");
    await reply.getByRole("button", { name: "Run", exact: true }).click();
    await reply.locator(".code-output", { hasText: "42" }).waitFor();
    await reply.getByRole("button", { name: "Good answer" }).click();
    await page.getByRole("textbox", { name: "Why? (optional)" }).fill("it runs");
    await page.getByRole("button", { name: "Save", exact: true }).click();
    await page.getByText("Thank you. Kept by this server").waitFor();
    await visit.assertAccessible();
    await visit.picture("served-rating");
    await reply.getByRole("button", { name: "Write another answer" }).click();
    await page.locator(".turn.assistant .branches").waitFor();
    await visit.ended();
    const isKept = () => page.waitForResponse((response) => response.url().includes("/feedback"));
    const better = reply.getByRole("button", { name: "This version is the best" });
    await Promise.all([isKept(), better.click()]);
    await reply.getByRole("button", { name: "Edit answer" }).click();
    await page.getByRole("textbox", { name: "Edit answer" }).fill("My own.");
    await Promise.all([isKept(), page.keyboard.press("Enter")]);
    await reply.getByText("Edited by you.").waitFor();
    await visit.close();
  } finally {
    await browser.close();
  }
});
