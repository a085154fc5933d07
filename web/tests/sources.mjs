/** Modules of the page's own sources, and numbers, for tests that need no browser. */

import { build } from "esbuild";

export async function bundled(...names) {
  const { outputFiles } = await build({
    stdin: {
      contents: names.map((name) => `export * from "./src/${name}";`).join("\n"),
      resolveDir: new URL("..", import.meta.url).pathname,
    },
    bundle: true,
    format: "esm",
    write: false,
    external: ["./pdf"],
  });
  const code = Buffer.from(outputFiles[0].contents).toString("base64");
  return import(`data:text/javascript;base64,${code}`);
}

/** Numbers from a seed: mulberry32. */
export function seeded(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
