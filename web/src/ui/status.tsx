/** The quiet line under the message field: what the last reply took, and what is not usual. */

import type { Chat } from "../chat";
import { t } from "../language";
import { shownPath } from "../tree";
import type { AssistantTurn, ChatOptions } from "../types";
import type { OpenDialog } from "./dialogs";

interface Props {
  chat: Chat;
  onOpen: (dialog: OpenDialog) => void;
}

export function StatusLine({ chat, onOpen }: Props) {
  const replies = shownPath(chat.conversation).filter((turn) => turn.role === "assistant");
  const last = replies.at(-1) as AssistantTurn | undefined;
  const figures = last ? figuresOf(last, chat.model?.contextLength ?? null) : [];
  const chips = unusual(chat.conversation.options);
  if (!figures.length && !chips.length) return null;
  return (
    <div class="status-line" role="group" aria-label={t.status}>
      {figures.map((text) => (
        <span>{text}</span>
      ))}
      {chips.map((text) => (
        <button type="button" class="chip" title={t.options} onClick={() => onOpen("options")}>
          {text}
        </button>
      ))}
    </div>
  );
}

function figuresOf(turn: AssistantTurn, contextLength: number | null): string[] {
  const { timing, usage, model } = turn;
  const figures = [model];
  const pieces = turn.steps.reduce(
    (sum, step) => sum + (step.kind === "thinking" ? step.pieces : 0),
    0,
  );
  const tokens = usage?.completion ?? pieces;
  if (timing && timing.writing > 0.05 && tokens > 1) {
    figures.push(t.tokensPerSecond((tokens / timing.writing).toFixed(1)));
  }
  if (timing) figures.push(t.firstToken(timing.first.toFixed(1)));
  if (usage) figures.push(t.contextUsed(usage.prompt + usage.completion, contextLength));
  return figures.filter(Boolean);
}

/** Every option that is not the default, in a word or two. */
function unusual(options: ChatOptions): string[] {
  const chips: string[] = [];
  if (options.system.trim()) chips.push(t.chipSystem);
  const numbers: [string, number | null][] = [
    [t.temperature, options.temperature],
    [t.topP, options.topP],
    [t.topK, options.topK],
    [t.maxTokens, options.maxTokens],
    [t.seed, options.seed],
    [t.thinkingTokens, options.thinkingBudget],
  ];
  for (const [name, value] of numbers) {
    if (value !== null) chips.push(`${name} ${t.number(value)}`);
  }
  if (options.effort && options.thinkingBudget === null) chips.push(t.efforts[options.effort]);
  if (options.tools.trim()) chips.push(t.chipTools);
  if (options.approve) chips.push(t.chipApprove);
  if (options.withoutTools.length) chips.push(t.chipWithout(options.withoutTools.length));
  return chips;
}
