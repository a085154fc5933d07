/** Modules of the page's own sources, for tests that need no browser. */

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
