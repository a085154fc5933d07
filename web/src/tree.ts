/** A conversation is a tree of turns; one path through it is shown and sent to the model. */

import { fencedAttachment } from "./attach";
import { newId } from "./browser";
import type { AssistantTurn, Attachment, ChatOptions, Conversation, Turn, UserTurn } from "./types";

export interface ApiMessage {
  role: "system" | "user" | "assistant" | "tool";
  content: string;
  tool_calls?: { id: string; type: "function"; function: { name: string; arguments: string } }[];
  tool_call_id?: string;
}

export function newConversation(options: ChatOptions): Conversation {
  const now = Date.now();
  return {
    id: newId(),
    title: "",
    named: false,
    created: now,
    updated: now,
    options: { ...options },
    turns: {},
    chosen: {},
  };
}

export function children(conversation: Conversation, parent: string | null): Turn[] {
  return childrenByParent(conversation).get(parent) ?? [];
}

/** Every turn's children; looked up once where many are asked for. */
export function childrenByParent(conversation: Conversation): Map<string | null, Turn[]> {
  const map = new Map<string | null, Turn[]>();
  for (const turn of Object.values(conversation.turns)) {
    const siblings = map.get(turn.parent);
    if (siblings) siblings.push(turn);
    else map.set(turn.parent, [turn]);
  }
  return map;
}

/** The turns from the beginning to the end of the chosen branch. */
export function shownPath(
  conversation: Conversation,
  byParent = childrenByParent(conversation),
): Turn[] {
  const path: Turn[] = [];
  let parent: string | null = null;
  for (;;) {
    const chosen: Turn | undefined = conversation.turns[conversation.chosen[parent ?? ""] ?? ""];
    const last: Turn | undefined = byParent.get(parent)?.at(-1);
    const next: Turn | undefined = chosen?.parent === parent ? chosen : last;
    if (!next) return path;
    path.push(next);
    parent = next.id;
  }
}

export function addTurn<T extends Turn>(conversation: Conversation, turn: T): T {
  conversation.turns[turn.id] = turn;
  conversation.chosen[turn.parent ?? ""] = turn.id;
  conversation.updated = Date.now();
  return turn;
}

export function userTurn(
  parent: string | null,
  text: string,
  attachments: Attachment[] = [],
): UserTurn {
  const turn: UserTurn = { id: newId(), parent, created: Date.now(), role: "user", text };
  if (attachments.length) turn.attachments = attachments;
  return turn;
}

export function assistantTurn(parent: string, model: string): AssistantTurn {
  return {
    id: newId(),
    parent,
    created: Date.now(),
    role: "assistant",
    model,
    steps: [],
    status: "streaming",
    finish: null,
    finishNote: "",
    usage: null,
    problem: null,
    timing: null,
    resumable: null,
    rating: null,
    revision: 0,
  };
}

/** The turns from the beginning down to `id`, both included. */
export function pathTo(conversation: Conversation, id: string): Turn[] {
  const path: Turn[] = [];
  for (let at = conversation.turns[id]; at; at = conversation.turns[at.parent ?? ""]) {
    path.push(at);
  }
  return path.reverse();
}

/** The messages that a request sends: no thinking, and only calls that have a result. */
export function toMessages(turns: Turn[], system: string): ApiMessage[] {
  const messages: ApiMessage[] = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    if (turn.role === "user") messages.push({ role: "user", content: userContent(turn) });
    else messages.push(...assistantMessages(turn));
  }
  return messages;
}

function userContent({ text, attachments = [] }: UserTurn): string {
  const blocks = attachments.map(fencedAttachment);
  return [...blocks, text].filter(Boolean).join("\n\n");
}

function assistantMessages(turn: AssistantTurn): ApiMessage[] {
  const messages: ApiMessage[] = [];
  let current: ApiMessage | null = null;
  let results: ApiMessage[] = [];
  const close = () => {
    if (current) messages.push(current, ...results);
    current = null;
    results = [];
  };
  for (const step of turn.steps) {
    if (step.kind === "thinking" || (step.kind === "tool" && step.result === null)) continue;
    if (step.kind === "text" && results.length) close();
    current ??= { role: "assistant", content: "" };
    if (step.kind === "text") {
      current.content += step.text;
      continue;
    }
    const call = { name: step.name, arguments: step.arguments || "{}" };
    (current.tool_calls ??= []).push({ id: step.id, type: "function", function: call });
    results.push({ role: "tool", tool_call_id: step.id, content: step.result ?? "" });
  }
  close();
  return messages;
}

/** The answer's text, without thinking and tools. */
export function answerText(turn: AssistantTurn): string {
  const texts = turn.steps.map((step) => (step.kind === "text" ? step.text : ""));
  return texts.filter(Boolean).join("\n\n").trim();
}

export function thinkingText(turn: AssistantTurn): string {
  const texts = turn.steps.map((step) => (step.kind === "thinking" ? step.text : ""));
  return texts.filter(Boolean).join("\n\n").trim();
}

/** A title from the first words the reader wrote. */
export function titleFrom(text: string): string {
  const line = text.trim().split("\n", 1)[0] ?? "";
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}
