/** Bundles the page into openqwq/serve/static (or a folder that is named), as the wheel carries it.
 *
 * `build.json` records a digest of the sources, so that a test without Node can tell whether the
 * committed bundle is theirs.
 */

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = resolve(process.argv[2] ?? join(here, "../openqwq/serve/static"));
const SOURCES = ["build.mjs", "icon.svg", "index.html", "package-lock.json", "preview.html", "src"];
const PDF_WORKER = join(here, "node_modules/pdfjs-dist/build/pdf.worker.min.mjs");
const FIRST_LOAD_LIMIT = 300_000;

/** KaTeX names three formats of each font; every browser that runs this page takes woff2. */
const onlyWoff2 = {
  name: "only-woff2",
  setup({ onLoad }) {
    onLoad({ filter: /katex\.css$/ }, ({ path }) => {
      const css = readFileSync(path, "utf8");
      const contents = css.replace(/,\s*url\([^)]*\.(woff|ttf)\)\s*format\("[^"]*"\)/g, "");
      return { contents, loader: "css" };
    });
  },
};

function filesIn(folder) {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** SHA-256 over the names and contents of the sources, in the order of their names. */
function sourceDigest() {
  const files = SOURCES.flatMap((name) =>
    name === "src" ? filesIn(join(here, name)) : [join(here, name)],
  );
  const names = files.map((path) => relative(here, path).replaceAll("\\", "/")).sort();
  const digest = createHash("sha256");
  for (const name of names) {
    const content = createHash("sha256")
      .update(readFileSync(join(here, name)))
      .digest("hex");
    digest.update(`${name} ${content}\n`);
  }
  return digest.digest("hex");
}

/** The licences of the libraries in the bundle, which ask to travel with it. */
function licences(inputs) {
  const packages = new Set();
  for (const input of inputs) {
    const match = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (match) packages.add(match[1]);
  }
  return [...packages].sort().map((name) => {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? readFileSync(join(folder, file), "utf8").trim() : "";
    return `${name} ${version} (${license})\n\n${text}\n`;
  });
}

rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.tsx" },
  outdir: target,
  bundle: true,
  splitting: true,
  format: "esm",
  target: ["chrome123", "firefox124", "safari17.5"],
  minify: true,
  legalComments: "none",
  chunkNames: "[name]-[hash]",
  assetNames: "fonts/[name]",
  loader: { ".woff2": "file" },
  plugins: [onlyWoff2],
  metafile: true,
});
// The frame of previews has no origin, so its script cannot be a module.
await build({
  absWorkingDir: here,
  entryPoints: ["src/preview.ts"],
  outdir: target,
  bundle: true,
  format: "iife",
  target: ["chrome123", "firefox124", "safari17.5"],
  minify: true,
});
for (const name of ["index.html", "icon.svg", "preview.html"]) {
  writeFileSync(join(target, name), readFileSync(join(here, name)));
}
writeFileSync(join(target, "pdf.worker.js"), readFileSync(PDF_WORKER));
writeFileSync(
  join(target, "licences.txt"),
  licences(Object.keys(metafile.inputs)).join("\n---\n\n"),
);
writeFileSync(join(target, "build.json"), `${JSON.stringify({ sources: sourceDigest() })}\n`);

const sizes = Object.fromEntries(
  filesIn(target).map((path) => {
    const content = readFileSync(path);
    const packed = path.endsWith(".woff2") ? content.length : gzipSync(content).length;
    return [relative(target, path), { bytes: content.length, packed }];
  }),
);
const staticImports = (name, seen = new Set()) => {
  if (seen.has(name)) return seen;
  seen.add(name);
  for (const { path, kind } of metafile.outputs[name].imports) {
    if (kind === "import-statement") staticImports(path, seen);
  }
  return seen;
};
const entry = Object.keys(metafile.outputs).find((name) => name.endsWith("/app.js"));
const first = [...staticImports(entry)].map((name) => relative(target, join(here, name)));
first.push("app.css", "index.html", "icon.svg", "fonts/inter-latin-wght-normal.woff2");
const firstLoad = first.reduce((sum, name) => sum + sizes[name].packed, 0);
const total = Object.values(sizes).reduce((sum, { bytes }) => sum + bytes, 0);
for (const [name, { bytes, packed }] of Object.entries(sizes)) {
  if (!name.startsWith("fonts/"))
    console.log(`${name.padEnd(28)} ${bytes} bytes, ${packed} gzipped`);
}
console.log(
  `first load ${firstLoad} bytes gzipped (limit ${FIRST_LOAD_LIMIT}); all files ${total} bytes`,
);
if (firstLoad > FIRST_LOAD_LIMIT) process.exit(1);
