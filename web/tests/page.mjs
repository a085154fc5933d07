/** Opens the chat in Chromium beside a scripted server, and watches that nothing goes wrong. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const MOCK = fileURLToPath(new URL("../../tests/serve/web_mock.py", import.meta.url));
const FLAGS =
  "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";

export const VIEWS = {
  "desktop light": { viewport: { width: 1440, height: 900 }, colorScheme: "light" },
  "phone dark": { viewport: { width: 390, height: 844 }, colorScheme: "dark", hasTouch: true },
  "desktop dark": { viewport: { width: 1440, height: 900 }, colorScheme: "dark" },
  "phone light": { viewport: { width: 390, height: 844 }, colorScheme: "light", hasTouch: true },
};

/** Waits until what `check` asserts is so; if that never comes, its last error is the test's. */
export async function eventually(check, milliseconds = 30_000) {
  const end = Date.now() + milliseconds;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

function agrees(text, wanted) {
  if (wanted instanceof RegExp) assert.match(text, wanted);
  else assert.equal(text.trim(), wanted);
}

/** Waits until the element's text is `wanted`, or matches it. */
export const says = (locator, wanted) =>
  eventually(async () => agrees(await locator.textContent(), wanted));

/** Waits until the field holds `wanted`. */
export const fieldHolds = (locator, wanted) =>
  eventually(async () => agrees(await locator.inputValue(), wanted));

/** Waits until so many elements match. */
export const shows = (locator, count) =>
  eventually(async () => assert.equal(await locator.count(), count));

export async function startMock() {
  const child = spawn(process.env.PYTHON ?? "python3", [MOCK], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const port = await new Promise((resolve, reject) => {
    child.stdout.once("data", (data) => resolve(Number(data)));
    child.once("exit", (code) => reject(new Error(`the mock server exited with ${code}`)));
  });
  return { url: `http://127.0.0.1:${port}/`, port, stop: () => child.kill() };
}

export function startBrowser() {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  return chromium.launch({
    executablePath,
    args: [...FLAGS.split(" "), "--host-resolver-rules=MAP chat.test 127.0.0.1"],
  });
}

/** A fresh visitor's page; `close` asserts that it stayed clean. */
export class Visit {
  static async open(browser, url, view, model = "mock-qwq") {
    const options = { ...view, permissions: ["clipboard-read", "clipboard-write"] };
    const context = await browser.newContext(options);
    const visit = new Visit(context, url, model, view.viewport.width < 600);
    await context.addInitScript(() => {
      addEventListener("securitypolicyviolation", (event) => {
        console.error(`CSP: ${event.effectiveDirective} ${event.blockedURI} ${event.sample}`);
      });
    });
    visit.page = await visit.newPage();
    return visit;
  }

  constructor(context, url, model, phone) {
    Object.assign(this, { context, url, model, phone, faults: [], expected: [] });
  }

  async newPage() {
    const page = await this.context.newPage();
    page.setDefaultTimeout(30_000);
    page.on("pageerror", (error) => this.faults.push(`page error: ${error.stack}`));
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) this.faults.push(message.text());
    });
    page.on("request", (request) => {
      const { hostname, protocol } = new URL(request.url());
      const ours =
        ["127.0.0.1", "localhost", "chat.test"].includes(hostname) || protocol === "blob:";
      if (!ours && protocol !== "data:") this.faults.push(`request to ${request.url()}`);
    });
    await page.goto(this.url);
    await page.locator(".composer").waitFor();
    await page.locator(".model", { hasText: this.model }).waitFor();
    return page;
  }

  /** Console errors that a flow provokes on purpose, such as the browser's note of a 429. */
  expect(pattern) {
    this.expected.push(pattern);
  }

  get composer() {
    return this.page.locator(".composer textarea");
  }

  get reply() {
    return this.page.locator(".turn.assistant").last();
  }

  async send(text) {
    await this.composer.fill(text);
    await this.composer.press("Enter");
  }

  /** Waits for the frame in which everything is drawn that has been done to the page so far. */
  async drawn() {
    await this.page.evaluate(() => new Promise((done) => requestAnimationFrame(() => done())));
  }

  /** Waits until the last reply has ended, also where a click has only just asked for it. */
  async ended() {
    await this.drawn();
    await this.page.waitForFunction(() => {
      const last = [...document.querySelectorAll(".turn.assistant")].at(-1);
      const over = last?.querySelector(".turn-actions, .problem");
      return over && document.querySelector(".send:not(.stop)");
    });
  }

  async ask(text) {
    const asked = this.page.locator(".turn.user");
    const before = await asked.count();
    await this.send(text);
    await asked.nth(before).waitFor();
    await this.ended();
  }

  /** Opens a new chat, and waits until it is shown: `ask` counts the turns of the open chat. */
  async newChat() {
    await this.page.keyboard.press("Control+Shift+O");
    await this.page.locator("#app").getByText("What shall we think about?").waitFor();
  }

  /** Closes the open dialog, and waits until it is gone: the page behind it takes no keys. */
  async closeDialog() {
    await this.page.keyboard.press("Escape");
    await this.page.locator("dialog").waitFor({ state: "detached" });
  }

  /** Waits until the message field has the focus. */
  async composerHasFocus() {
    await this.page.waitForFunction(() => document.activeElement?.matches(".composer textarea"));
  }

  /** Waits until this browser keeps a turn with `text`. */
  async kept(text) {
    const turns = () =>
      this.page.evaluate(
        () =>
          new Promise((resolve, reject) => {
            const opening = indexedDB.open("openqwq");
            opening.onerror = () => reject(opening.error);
            opening.onsuccess = () => {
              const database = opening.result;
              const asking = database.transaction("turns").objectStore("turns").getAll();
              asking.onsuccess = () => resolve(JSON.stringify(asking.result));
              asking.onerror = () => reject(asking.error);
              database.close();
            };
          }),
      );
    await eventually(async () => assert.ok((await turns()).includes(text), `kept: ${text}`));
  }

  async openSidebar() {
    if (!(await this.page.locator("#sidebar").isVisible())) {
      await this.page.getByRole("button", { name: "Conversations", exact: true }).click();
    }
  }

  async requests() {
    return (await (await fetch(`${this.url}mock/requests`)).json()).requests;
  }

  /** Counts frames from now on; the function it gives tells the longest gap, in milliseconds. */
  async watchFrames() {
    await this.page.evaluate(() => {
      window.longestGap = 0;
      let last = performance.now();
      const frame = (now) => {
        window.longestGap = Math.max(window.longestGap, now - last);
        last = now;
        requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    });
    return () => this.page.evaluate(() => window.longestGap);
  }

  async assertFits() {
    const wide = () =>
      this.page.evaluate(() =>
        [
          document.documentElement,
          ...document.querySelectorAll(".transcript, dialog[open], #sidebar"),
        ]
          .filter((element) => element.scrollWidth > element.clientWidth + 1)
          .map((element) => `${element.className || element.tagName} ${element.scrollWidth}`),
      );
    await eventually(async () => assert.deepEqual(await wide(), [], "scrolls sideways"));
  }

  /** Not one violation that axe-core knows on the page as it is. */
  async assertAccessible() {
    const session = await this.context.newCDPSession(this.page);
    const evaluate = async (expression) => {
      const { result, exceptionDetails } = await session.send("Runtime.evaluate", {
        expression,
        awaitPromise: true,
        returnByValue: true,
      });
      assert.equal(exceptionDetails, undefined, JSON.stringify(exceptionDetails));
      return result.value;
    };
    await evaluate(`${AXE};0`);
    const findings = await evaluate(
      `axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => violations
        .map(({id, nodes}) => id + ": " + nodes.map(({html}) => html.slice(0, 200)).join(" | ")))`,
    );
    assert.deepEqual(findings, [], "axe-core");
  }

  async picture(name) {
    if (process.env.PICTURES)
      await this.page.screenshot({ path: `${process.env.PICTURES}/${name}.png` });
  }

  async close() {
    await this.context.close();
    const unexpected = this.faults.filter(
      (fault) => !this.expected.some((known) => known.test(fault)),
    );
    assert.deepEqual(unexpected, [], "faults of the page");
  }
}

export const FAILED_REQUEST = /Failed to load resource/;
export const names = Object.keys(VIEWS);

/** A browser and a mock server for the flows of one file; `flow` declares one. */
export function prepareFlows() {
  const mock = {};
  let browser;
  let flows = 0;
  before(async () => {
    const [started, server] = await Promise.all([startBrowser(), startMock()]);
    browser = started;
    Object.assign(mock, server);
  });
  after(async () => {
    await browser?.close();
    mock.stop?.();
  });

  /** VIEWS=all: every flow in every view; VIEWS=one: each in one, by turns; else in two. */
  const usualViews = () => {
    if (process.env.VIEWS === "all") return names;
    return process.env.VIEWS === "one" ? [names[flows++ % 2]] : names.slice(0, 2);
  };

  const flow = (title, run, views = usualViews(), address = () => mock.url) => {
    for (const name of views) {
      test(`${title} (${name})`, { timeout: 120_000 }, async () => {
        const visit = await Visit.open(browser, address(), VIEWS[name]);
        try {
          await run(visit, name.replace(" ", "-"));
          await visit.assertFits();
        } catch (error) {
          await visit.picture(`failed-${title.replaceAll(/\W+/g, "-").slice(0, 60)}`);
          throw error;
        }
        await visit.close();
      });
    }
  };
  return { flow, mock };
}
