// codex: its own command, which calls the shell once; it always streams.
// requires: @openai/codex
import { spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

const home = mkdtempSync(join(tmpdir(), "codex-"));
const program = join(dirname(createRequire(import.meta.url).resolve("@openai/codex/package.json")), "bin", "codex.js");
const provider = `{name="q",base_url="${process.env.QWQ_URL}/v1",wire_api="responses",env_key="OPENAI_API_KEY"}`;
const options = ["-c", "model_provider=q", "-c", `model_providers.q=${provider}`, "-m", "puppet"];
const done = spawnSync(process.execPath, [program, "exec", "--skip-git-repo-check", ...options, "Weather in Oslo?"], {
  env: { ...process.env, HOME: home, CODEX_HOME: home },
  cwd: home,
  encoding: "utf8",
  input: "",
});
if (done.status !== 0) throw new Error(done.stdout + done.stderr);
console.log(JSON.stringify({ streamed: null, tool: done.stdout.trim().split("\n").at(-1) }));
