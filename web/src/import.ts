/** Conversations from exported files: this page's own, open-webui's, ChatGPT's. */

import { newId } from "./browser";
import { defaultOptions } from "./store";
import { assistantTurn, newConversation, titleFrom, userTurn } from "./tree";
import type { ChatOptions, Conversation, Turn } from "./types";

export interface Imported {
  conversations: Conversation[];
  /** Those that could not be read. */
  skipped: number;
}

type Json = Record<string, unknown>;

/** Null for a file that is none of the three. */
export function readExport(text: string): Imported | null {
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch {
    return null;
  }
  const own = isObject(data) && data["format"] === "openqwq-chat-1" ? data["conversations"] : data;
  const list = Array.isArray(own) ? own : [own];
  const imported: Imported = { conversations: [], skipped: 0 };
  for (const entry of list) {
    const conversation = readConversation(entry);
    if (conversation) imported.conversations.push(conversation);
    else imported.skipped++;
  }
  return imported.conversations.length ? imported : null;
}

function readConversation(entry: unknown): Conversation | null {
  if (!isObject(entry)) return null;
  try {
    if (isObject(entry["turns"])) return ownConversation(entry);
    if (isObject(entry["mapping"])) return chatGptConversation(entry);
    const chat = isObject(entry["chat"]) ? entry["chat"] : entry;
    const history = chat["history"];
    if (isObject(history) && isObject(history["messages"])) {
      return openWebUiConversation(entry, history["messages"], history["currentId"]);
    }
  } catch {
    // a part of it is of another kind than its form says
  }
  return null;
}

/** Under new ids, so that what is here already stays as it is. */
function ownConversation(entry: Json): Conversation | null {
  const names = new Map<string, string>();
  const turns = Object.values(entry["turns"] as Json).filter(isTurn);
  for (const { id } of turns) names.set(id, newId());
  const renamed = (id: string | null) => (id === null ? null : (names.get(id) ?? null));
  const conversation = begun(entry["title"], entry["created"], entry["updated"], 1);
  if (isObject(entry["options"])) conversation.options = knownOptions(entry["options"]);
  conversation.named = entry["named"] === true;
  for (const turn of turns) {
    const id = names.get(turn.id) ?? newId();
    const copy = { ...turn, id, parent: renamed(turn.parent) } as Turn;
    if (copy.role === "assistant") {
      copy.resumable = null;
      if (copy.status === "streaming") copy.status = "stopped";
    }
    conversation.turns[id] = copy;
  }
  for (const [parent, child] of Object.entries((entry["chosen"] ?? {}) as Json)) {
    const chosen = renamed(String(child));
    if (chosen) conversation.chosen[renamed(parent || null) ?? ""] = chosen;
  }
  return turns.length ? conversation : null;
}

/** The options of a kind that the page knows; every other value is left out. */
function knownOptions(given: Json): ChatOptions {
  const options: Json = { ...defaultOptions };
  for (const [name, usual] of Object.entries(defaultOptions)) {
    const value = given[name];
    const isNumber = usual === null && typeof value === "number";
    const isSame = usual !== null && typeof value === typeof usual;
    if (isNumber || (isSame && Array.isArray(value) === Array.isArray(usual)))
      options[name] = value;
  }
  return options as unknown as ChatOptions;
}

function isTurn(value: unknown): value is Turn {
  if (!isObject(value) || typeof value["id"] !== "string") return false;
  if (value["role"] === "user") return typeof value["text"] === "string";
  const steps = value["steps"];
  return value["role"] === "assistant" && Array.isArray(steps) && steps.every(isStep);
}

function isStep(value: unknown): boolean {
  if (!isObject(value)) return false;
  if (value["kind"] !== "tool") return typeof value["text"] === "string";
  return typeof value["name"] === "string" && typeof value["arguments"] === "string";
}

interface Message {
  id: string;
  parent: string | null;
  role: string;
  text: string;
  thinking: string;
  model: string;
  seconds: number;
}

function openWebUiConversation(entry: Json, messages: Json, current: unknown): Conversation | null {
  const chat = isObject(entry["chat"]) ? entry["chat"] : entry;
  const conversation = begun(
    entry["title"] ?? chat["title"],
    entry["created_at"],
    entry["updated_at"],
  );
  const read = Object.values(messages).filter(isObject).map(openWebUiMessage);
  return filled(conversation, read, String(current ?? ""));
}

function openWebUiMessage(message: Json): Message {
  const content = String(message["content"] ?? "");
  // Thinking is stored in the text, as details that are folded.
  const details = /<details type="reasoning"[^>]*>([^]*?)<\/details>\s*/g;
  const thoughts = [...content.matchAll(details)].map(([, inside = ""]) =>
    unescaped(inside.replace(/<summary>[^]*?<\/summary>/, ""))
      .replace(/^> ?/gm, "")
      .trim(),
  );
  return {
    id: String(message["id"]),
    parent: message["parentId"] ? String(message["parentId"]) : null,
    role: String(message["role"]),
    text: content.replace(details, "").trim(),
    thinking: thoughts.join("\n\n"),
    model: String(message["model"] ?? ""),
    seconds: Number(message["timestamp"] ?? 0),
  };
}

function unescaped(text: string): string {
  const signs: Record<string, string> = { lt: "<", gt: ">", quot: '"', "#39": "'", amp: "&" };
  return text.replace(/&(lt|gt|quot|#39|amp);/g, (_, name: string) => signs[name] ?? "");
}

function chatGptConversation(entry: Json): Conversation | null {
  const conversation = begun(entry["title"], entry["create_time"], entry["update_time"]);
  const read: Message[] = [];
  for (const node of Object.values(entry["mapping"] as Json)) {
    if (isObject(node)) read.push(chatGptMessage(node));
  }
  return filled(conversation, read, String(entry["current_node"] ?? ""));
}

function chatGptMessage(node: Json): Message {
  const message = isObject(node["message"]) ? node["message"] : {};
  const author = isObject(message["author"]) ? message["author"] : {};
  const content = isObject(message["content"]) ? message["content"] : {};
  const metadata = isObject(message["metadata"]) ? message["metadata"] : {};
  const parts = Array.isArray(content["parts"]) ? content["parts"] : [];
  const texts = parts.filter((part): part is string => typeof part === "string");
  const kind = content["content_type"];
  const hidden = metadata["is_visually_hidden_from_conversation"] === true;
  const shown = !hidden && (kind === "text" || kind === "multimodal_text");
  return {
    id: String(node["id"]),
    parent: node["parent"] ? String(node["parent"]) : null,
    role: String(author["role"] ?? ""),
    text: shown ? texts.join("\n\n").trim() : "",
    thinking: "",
    model: String(metadata["model_slug"] ?? ""),
    seconds: Number(message["create_time"] ?? 0),
  };
}

/** Turns from messages; one without text is left out, and what follows it goes to its parent. */
function filled(
  conversation: Conversation,
  messages: Message[],
  current: string,
): Conversation | null {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const made = new Map<string, string>();
  const shown = (message: Message) =>
    (message.role === "user" && message.text !== "") ||
    (message.role === "assistant" && (message.text !== "" || message.thinking !== ""));
  const parentOf = ({ parent }: Message): Message | undefined => {
    let above = byId.get(parent ?? "");
    for (let hops = 0; above && !shown(above) && hops < messages.length; hops++) {
      above = byId.get(above.parent ?? "");
    }
    return above && shown(above) ? above : undefined;
  };
  for (const message of messages) if (shown(message)) made.set(message.id, newId());
  messages.forEach((message, place) => {
    const id = made.get(message.id);
    if (!id) return;
    const above = parentOf(message);
    const parent = above ? (made.get(above.id) ?? null) : null;
    const turn = message.role === "user" ? userTurn(parent, message.text) : reply(parent, message);
    const created = message.seconds ? message.seconds * 1000 : conversation.created;
    conversation.turns[id] = { ...turn, id, created: created + place / 1000 };
  });
  for (let at = byId.get(current), hops = 0; at && hops <= messages.length; hops++) {
    const id = made.get(at.id);
    const above = parentOf(at);
    if (id) conversation.chosen[above ? (made.get(above.id) ?? "") : ""] = id;
    at = above ?? undefined;
  }
  if (!conversation.title) conversation.title = titleFrom(messages.find(shown)?.text ?? "");
  return made.size ? conversation : null;
}

function reply(parent: string | null, { text, thinking, model }: Message): Turn {
  const turn = assistantTurn(parent ?? "", model);
  if (parent === null) (turn as { parent: string | null }).parent = null;
  if (thinking) turn.steps.push({ kind: "thinking", text: thinking, seconds: 0, pieces: 0 });
  if (text) turn.steps.push({ kind: "text", text });
  turn.status = "done";
  turn.finish = "stop";
  return turn;
}

/** `created` and `updated` in units of `unit` milliseconds. */
function begun(title: unknown, created: unknown, updated: unknown, unit = 1000): Conversation {
  const conversation = newConversation(defaultOptions);
  conversation.title = typeof title === "string" ? title.slice(0, 200) : "";
  conversation.named = conversation.title !== "";
  const times = [Number(created), Number(updated)].map((time) => time * unit);
  conversation.created = times[0] || conversation.created;
  conversation.updated = times[1] || times[0] || conversation.updated;
  return conversation;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
