/** One tool call: its name, its arguments and, once there, its result. */

import { useState } from "preact/hooks";
import { useUniqueId } from "./hooks";
import { t } from "../language";
import type { ToolStep } from "../types";
import { Icon } from "./icons";

const LONGEST = 20_000;

interface Props {
  step: ToolStep;
  /** True while the reply that holds it is being written. */
  running: boolean;
  /** Whether it is a tool of the server's, which waits for the reader's word. */
  runnable: boolean;
  onResult: (result: string) => void;
  onApprove: () => void;
  onRefuse: () => void;
}

export function ToolCard({ step, running, runnable, onResult, onApprove, onRefuse }: Props) {
  const waiting = step.result === null && !running;
  const [chosen, choose] = useState<boolean | null>(null);
  const open = chosen ?? (waiting && step.ranBy === "reader");
  return (
    <div class={`tool ${step.failed ? "failed" : ""}`} role="group" aria-label={t.tool(step.name)}>
      <button type="button" class="tool-head" aria-expanded={open} onClick={() => choose(!open)}>
        <Icon name="tool" />
        <span class="tool-name">{step.name || "tool"}</span>
        <span class="tool-state">{stateOf(step, running)}</span>
        <Icon name="down" />
      </button>
      {open && (
        <div class="tool-body">
          {argumentParts(step.arguments).map(([name, text]) => (
            <Part title={name} text={text} />
          ))}
          {step.result !== null && (
            <Part
              title={step.failed ? t.error : t.result}
              text={pretty(step.result) || t.emptyResult}
            />
          )}
          {waiting && step.ranBy === "reader" && !runnable && (
            <ResultForm name={step.name} onResult={onResult} />
          )}
          {waiting && step.ranBy === "reader" && runnable && (
            <Approval name={step.name} onApprove={onApprove} onRefuse={onRefuse} />
          )}
        </div>
      )}
    </div>
  );
}

function stateOf(step: ToolStep, running: boolean): string {
  const took = (step.seconds ?? 0) < 0.05 ? "" : ` · ${step.seconds?.toFixed(1)} s`;
  if (step.failed) return t.toolFailed + took;
  if (step.result !== null) return t.toolDone + took;
  if (step.ranBy === "server") return running ? t.toolRunning : t.toolUnfinished;
  return running ? t.toolCalling : t.toolWaits;
}

function Part({ title, text }: { title: string; text: string }) {
  return (
    <div class="tool-part">
      <h3>{title}</h3>
      <pre tabIndex={0} role="group" aria-label={title}>
        {text}
      </pre>
    </div>
  );
}

interface ApprovalProps {
  name: string;
  onApprove: () => void;
  onRefuse: () => void;
}

function Approval({ name, onApprove, onRefuse }: ApprovalProps) {
  return (
    <div class="tool-form">
      <p>{t.mayRun(name)}</p>
      <div class="tool-choice">
        <button type="button" class="button primary" onClick={onApprove}>
          {t.run}
        </button>
        <button type="button" class="button" onClick={onRefuse}>
          {t.refuse}
        </button>
      </div>
    </div>
  );
}

function ResultForm({ name, onResult }: { name: string; onResult: (result: string) => void }) {
  const id = useUniqueId();
  const [text, setText] = useState("");
  return (
    <div class="tool-form">
      <label for={id}>{t.whatIsResult(name)}</label>
      <textarea
        id={id}
        rows={2}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
      />
      <button type="button" class="button primary" onClick={() => onResult(text)}>
        {t.sendResult}
      </button>
    </div>
  );
}

/** Each argument by its name, texts as they are: a program is read by its lines. */
function argumentParts(json: string): [string, string][] {
  try {
    const given = JSON.parse(json || "{}") as unknown;
    if (typeof given === "object" && given !== null && !Array.isArray(given)) {
      return Object.entries(given).map(([name, value]) => [
        name,
        typeof value === "string" ? shortened(value) : pretty(JSON.stringify(value)),
      ]);
    }
  } catch {
    // still being written, or not JSON
  }
  return [[t.arguments, shortened(json)]];
}

/** JSON spread over lines; anything else as it is. */
function pretty(text: string): string {
  try {
    if (text.length <= LONGEST) return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // not JSON
  }
  return shortened(text);
}

function shortened(text: string): string {
  const more = text.length - LONGEST;
  return more > 0 ? `${text.slice(0, LONGEST)}\n${t.moreCharacters(more)}` : text;
}
