// Claude Code: its own command, which calls the shell once; it always streams.
// requires: @anthropic-ai/claude-code
import { spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const home = mkdtempSync(join(tmpdir(), "claude-"));
const native = `@anthropic-ai/claude-code-${process.platform}-${process.arch}/package.json`;
const program = join(dirname(createRequire(import.meta.url).resolve(native)), "claude");
const done = spawnSync(program, ["-p", "--allowedTools", "Bash", "--", "Weather in Oslo?"], {
  env: { ...process.env, HOME: home, ANTHROPIC_BASE_URL: process.env.QWQ_URL, ANTHROPIC_API_KEY: "none" },
  cwd: home,
  encoding: "utf8",
  input: "",
});
if (done.status !== 0) throw new Error(done.stdout + done.stderr);
console.log(JSON.stringify({ streamed: null, tool: done.stdout.trim() }));
