/** A run's report (the pages in the folder REPORT) at 390 and 1,440 pixels, light and dark: clean,
 * no violation, in both languages.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually, startBrowser, Visit } from "./page.mjs";

const { REPORT: folder } = process.env;

for (const name of ["report", "report.zh"]) {
  for (const width of [390, 1440]) {
    for (const colorScheme of ["light", "dark"]) {
      test(`${name}, ${width} pixels, ${colorScheme}`, { skip: !folder }, async () => {
        const browser = await startBrowser();
        try {
          const view = { viewport: { width, height: 900 }, colorScheme, bypassCSP: true };
          const context = await browser.newContext(view);
          const visit = new Visit(context, `file://${folder}/${name}.html`, "", width < 600);
          visit.page = await context.newPage();
          visit.page.on("console", (message) => visit.faults.push(message.text()));
          await visit.page.goto(visit.url);
          await visit.page.locator(".lead").waitFor();
          await visit.assertFits();
          await visit.assertAccessible();
          const wrapped = await visit.page
            .locator(".tile b")
            .evaluateAll((all) =>
              all.filter((e) => e.getBoundingClientRect().height > 60).map((e) => e.textContent),
            );
          assert.deepEqual(wrapped, [], "headline numbers wrap");
          await visit.picture(`${name}-${width}-${colorScheme}`);
          await visit.close();
        } finally {
          await browser.close();
        }
      });
    }
  }
}

test("a reader turns to the other language and back", { skip: !folder }, async () => {
  const browser = await startBrowser();
  try {
    const page = await (await browser.newContext()).newPage();
    await page.goto(`file://${folder}/report.html`);
    await page.getByRole("link", { name: "中文" }).click();
    await page.getByRole("heading", { name: "留出题正确率" }).waitFor();
    await page.getByRole("link", { name: "训练前后" }).click();
    await eventually(() => assert.match(page.url(), /report\.zh\.html#before-and-after$/));
    await page.getByRole("link", { name: "English" }).click();
    await page.getByRole("heading", { name: "Held-out accuracy" }).waitFor();
  } finally {
    await browser.close();
  }
});
