/** The thinking of a reply: open while it goes on, then folded to "Thought for N s". */

import { useEffect, useRef, useState } from "preact/hooks";
import { copyText } from "../browser";
import { t } from "../language";
import type { ThinkingStep } from "../types";
import { useFollow } from "./hooks";
import { Icon, IconButton } from "./icons";
import { Markdown } from "./markdown";
import { useTextSearch } from "./textsearch";

interface Props {
  step: ThinkingStep;
  active: boolean;
  /** Thinking tokens after which it must answer; null for no limit. */
  budget: number | null;
}

export function Thinking({ step, active, budget }: Props) {
  const [chosen, choose] = useState<boolean | null>(null);
  const [searching, setSearching] = useState(false);
  const [copied, setCopied] = useState(false);
  const open = chosen ?? active;
  const { box, onScroll } = useFollow(open && active);
  const seconds = useSeconds(step, active);

  return (
    <div class={`thinking ${active ? "active" : ""}`} role="group" aria-label={t.thinking}>
      <div class="thinking-head">
        <button
          type="button"
          class="thinking-toggle"
          aria-expanded={open}
          onClick={() => choose(!open)}
        >
          <Icon name="bulb" />
          <span>{active ? t.thinkingNow(seconds) : t.thoughtFor(duration(seconds))}</span>
          <Icon name="down" />
        </button>
        {active && <Spent pieces={step.pieces} budget={budget} />}
        {open && !active && (
          <span class="thinking-tools">
            <IconButton
              name="search"
              label={t.searchThinking}
              expanded={searching}
              onClick={() => setSearching(!searching)}
            />
            <IconButton
              name="copy"
              label={copied ? t.copied : t.copyThinking}
              onClick={() => {
                void copyText(step.text.trim()).then(setCopied);
                setTimeout(() => setCopied(false), 1500);
              }}
            />
          </span>
        )}
      </div>
      {open && searching && !active && <SearchField box={box} />}
      {open && (
        <div
          class="thinking-text"
          ref={box}
          onScroll={onScroll}
          tabIndex={0}
          role="group"
          aria-label={t.thinkingText}
        >
          <Markdown text={step.text} done={!active} />
        </div>
      )}
    </div>
  );
}

/** Tokens so far, against the budget where there is one. */
function Spent({ pieces, budget }: { pieces: number; budget: number | null }) {
  if (budget === null) return <span class="spent">{t.tokensSoFar(pieces)}</span>;
  const text = t.tokensOf(pieces, budget);
  return (
    <span class="spent">
      <progress max={budget} value={Math.min(pieces, budget)} aria-label={text} />
      {text}
    </span>
  );
}

function SearchField({ box }: { box: { current: HTMLElement | null } }) {
  const field = useRef<HTMLInputElement>(null);
  const { count, at, search, next } = useTextSearch(box);
  useEffect(() => field.current?.focus(), []);
  return (
    <p class="thinking-search">
      <input
        ref={field}
        type="search"
        aria-label={t.searchThinking}
        placeholder={t.searchThinking}
        onInput={(event) => search(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter") return;
          event.preventDefault();
          next(event.shiftKey ? -1 : 1);
        }}
      />
      <span role="status">{field.current?.value ? t.matches(at, count) : ""}</span>
    </p>
  );
}

/** Whole seconds of thinking; they go on while nothing comes. */
function useSeconds(step: ThinkingStep, active: boolean): number {
  const [, tick] = useState(0);
  const known = useRef({ seconds: -1, at: 0 });
  if (known.current.seconds !== step.seconds) {
    known.current = { seconds: step.seconds, at: performance.now() };
  }
  useEffect(() => {
    if (!active) return;
    const timer = setInterval(() => tick((count) => count + 1), 500);
    return () => clearInterval(timer);
  }, [active]);
  const since = active ? (performance.now() - known.current.at) / 1000 : 0;
  return Math.round(step.seconds + since);
}

function duration(seconds: number): string {
  if (seconds < 1) return t.aMoment;
  if (seconds < 60) return t.seconds(seconds);
  return t.minutes(Math.floor(seconds / 60), seconds % 60);
}
