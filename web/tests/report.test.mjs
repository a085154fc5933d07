/** A run's report (the file REPORT) at 390 and 1,440 pixels, light and dark: clean, no violation. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { startBrowser, Visit } from "./page.mjs";

const { REPORT: report } = process.env;

for (const width of [390, 1440]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`${width} pixels, ${colorScheme}`, { skip: !report }, async () => {
      const browser = await startBrowser();
      try {
        const view = { viewport: { width, height: 900 }, colorScheme, bypassCSP: true };
        const context = await browser.newContext(view);
        const visit = new Visit(context, `file://${report}`, "", width < 600);
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
        await visit.picture(`report-${width}-${colorScheme}`);
        await visit.close();
      } finally {
        await browser.close();
      }
    });
  }
}
