/** One tool call: its name, its arguments and, once there, its result. */

import { useState } from "preact/hooks";
import { useUniqueId } from "./hooks";
import type { ToolStep } from "../types";
import { Icon } from "./icons";

interface Props {
  step: ToolStep;
  /** True while the reply that holds it is being written. */
  running: boolean;
  onResult: (result: string) => void;
}

export function ToolCard({ step, running, onResult }: Props) {
  const waiting = step.result === null && !running;
  const [chosen, choose] = useState<boolean | null>(null);
  const open = chosen ?? (waiting && step.ranBy === "reader");
  return (
    <section class={`tool ${step.failed ? "failed" : ""}`} aria-label={`Tool ${step.name}`}>
      <button type="button" class="tool-head" aria-expanded={open} onClick={() => choose(!open)}>
        <Icon name="tool" />
        <span class="tool-name">{step.name || "tool"}</span>
        <span class="tool-state">{stateOf(step, running)}</span>
        <Icon name="down" />
      </button>
      {open && (
        <div class="tool-body">
          <Part title="Arguments" text={pretty(step.arguments) || "none"} />
          {step.result !== null && (
            <Part title={step.failed ? "Error" : "Result"} text={pretty(step.result) || "empty"} />
          )}
          {waiting && step.ranBy === "reader" && (
            <ResultForm name={step.name} onResult={onResult} />
          )}
        </div>
      )}
    </section>
  );
}

function stateOf(step: ToolStep, running: boolean): string {
  const took = step.seconds === null ? "" : ` · ${step.seconds.toFixed(1)} s`;
  if (step.failed) return `failed${took}`;
  if (step.result !== null) return `done${took}`;
  if (step.ranBy === "server") return running ? "running…" : "not finished";
  return running ? "calling…" : "waits for you";
}

function Part({ title, text }: { title: string; text: string }) {
  return (
    <div class="tool-part">
      <h3>{title}</h3>
      <pre tabIndex={0} role="region" aria-label={title}>
        {text}
      </pre>
    </div>
  );
}

function ResultForm({ name, onResult }: { name: string; onResult: (result: string) => void }) {
  const id = useUniqueId();
  const [text, setText] = useState("");
  return (
    <div class="tool-form">
      <label for={id}>The model asks for {name}. What is its result?</label>
      <textarea
        id={id}
        rows={2}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
      />
      <button type="button" class="button primary" onClick={() => onResult(text)}>
        Send result
      </button>
    </div>
  );
}

/** JSON spread over lines; anything else as it is, and no more than a screen can use. */
function pretty(text: string): string {
  const limit = 20_000;
  let shown = text;
  try {
    if (text.length <= limit) shown = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // not JSON
  }
  if (shown === "{}") return "";
  return shown.length > limit ? `${shown.slice(0, limit)}\n… ${shown.length - limit} more` : shown;
}
