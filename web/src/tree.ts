/** A conversation is a tree of turns; one path through it is shown and sent to the model. */

import { newId } from "./browser";
import type { AssistantTurn, ChatOptions, Conversation, Turn, UserTurn } from "./types";

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
    title: "New chat",
    named: false,
    created: now,
    updated: now,
    options: { ...options },
    turns: {},
    chosen: {},
  };
}

export function children(conversation: Conversation, parent: string | null): Turn[] {
  return Object.values(conversation.turns).filter((turn) => turn.parent === parent);
}

/** The turns from the beginning to the end of the chosen branch. */
export function shownPath(conversation: Conversation): Turn[] {
  const path: Turn[] = [];
  let at: Turn | undefined = shownChild(conversation, null);
  while (at) {
    path.push(at);
    at = shownChild(conversation, at.id);
  }
  return path;
}

function shownChild(conversation: Conversation, parent: string | null): Turn | undefined {
  const chosen = conversation.turns[conversation.chosen[parent ?? ""] ?? ""];
  return chosen && chosen.parent === parent ? chosen : children(conversation, parent).at(-1);
}

export function addTurn<T extends Turn>(conversation: Conversation, turn: T): T {
  conversation.turns[turn.id] = turn;
  conversation.chosen[turn.parent ?? ""] = turn.id;
  conversation.updated = Date.now();
  return turn;
}

export function userTurn(parent: string | null, text: string): UserTurn {
  return { id: newId(), parent, created: Date.now(), role: "user", text };
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
    revision: 0,
  };
}

/** The turns from the beginning down to `id`, both included. */
export function pathTo(conversation: Conversation, id: string): Turn[] {
  const path: Turn[] = [];
  for (let at = conversation.turns[id]; at; at = conversation.turns[at.parent ?? ""]) {
    path.unshift(at);
  }
  return path;
}

/** The messages that a request sends: no thinking, and only calls that have a result. */
export function toMessages(turns: Turn[], system: string): ApiMessage[] {
  const messages: ApiMessage[] = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    if (turn.role === "user") messages.push({ role: "user", content: turn.text });
    else messages.push(...assistantMessages(turn));
  }
  return messages;
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

/** A title from the first words the reader wrote. */
export function titleFrom(text: string): string {
  const line = text.trim().split("\n", 1)[0] ?? "";
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line || "New chat";
}
