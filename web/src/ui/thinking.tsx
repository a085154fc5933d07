/** The thinking of a reply: open while it goes on, then folded to "Thought for N s". */

import { useState } from "preact/hooks";
import type { ThinkingStep } from "../types";
import { useFollow } from "./hooks";
import { Icon } from "./icons";
import { Markdown } from "./markdown";

export function Thinking({ step, active }: { step: ThinkingStep; active: boolean }) {
  const [chosen, choose] = useState<boolean | null>(null);
  const open = chosen ?? active;
  const seconds = Math.round(step.seconds);

  const { box, onScroll } = useFollow(open && active);

  return (
    <section class={`thinking ${active ? "active" : ""}`} aria-label="Thinking">
      <button
        type="button"
        class="thinking-toggle"
        aria-expanded={open}
        onClick={() => choose(!open)}
      >
        <Icon name="bulb" />
        <span>{active ? "Thinking…" : `Thought for ${duration(seconds)}`}</span>
        <Icon name="down" />
      </button>
      {open && (
        <div
          class="thinking-text"
          ref={box}
          onScroll={onScroll}
          tabIndex={0}
          role="region"
          aria-label="Thinking text"
        >
          <Markdown text={step.text} done={!active} />
        </div>
      )}
    </section>
  );
}

function duration(seconds: number): string {
  if (seconds < 1) return "a moment";
  if (seconds < 60) return `${seconds} s`;
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}
