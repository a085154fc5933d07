/** Conversations in this browser's IndexedDB, settings in its localStorage.
 *
 * Every turn is a record of its own. Tabs that write to one conversation at the same time add
 * their turns to it; none overwrites what another has written, and a finished reply is never
 * replaced by an earlier state of itself.
 */

import type { ChatOptions, Conversation, Draft, Settings, Summary, Turn } from "./types";

const DATABASE = "openqwq";
const SETTINGS = "openqwq.settings";
const STORES = ["heads", "turns", "drafts"] as const;
const SNIPPET = 40;

/** A conversation without its turns. */
export type Head = Omit<Conversation, "turns">;
type StoredTurn = Turn & { conversation: string };
type Stores = Record<(typeof STORES)[number], IDBObjectStore>;

export const defaultOptions: ChatOptions = {
  system: "",
  temperature: null,
  topP: null,
  topK: null,
  maxTokens: null,
  seed: null,
  effort: "",
  thinkingBudget: null,
  tools: "",
  withoutTools: [],
  approve: false,
};

export function loadSettings(): Settings {
  const defaults: Settings = {
    base: "",
    key: "",
    model: "",
    theme: "auto",
    language: "auto",
    options: defaultOptions,
  };
  try {
    const stored = JSON.parse(localStorage.getItem(SETTINGS) ?? "{}") as Partial<Settings>;
    return { ...defaults, ...stored, options: { ...defaultOptions, ...stored.options } };
  } catch {
    return defaults;
  }
}

/** False where the browser keeps nothing (private mode, full disk). */
export function saveSettings(settings: Settings): boolean {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
    return true;
  } catch {
    return false;
  }
}

export class Store {
  private database: Promise<IDBDatabase> | null = null;

  async list(): Promise<Summary[]> {
    const heads = await this.ask<Head[]>("readonly", ({ heads }) => heads.getAll());
    const summaries = heads.map(({ id, title, updated }) => ({ id, title, updated }));
    return summaries.sort((a, b) => b.updated - a.updated);
  }

  async load(id: string): Promise<Conversation | undefined> {
    const head = await this.ask<Head | undefined>("readonly", ({ heads }) => heads.get(id));
    if (!head) return undefined;
    const found = await this.ask<StoredTurn[]>("readonly", ({ turns }) =>
      turns.index("conversation").getAll(id),
    );
    return assembled(head, found);
  }

  async all(): Promise<Conversation[]> {
    const heads = await this.ask<Head[]>("readonly", (stores) => stores.heads.getAll());
    const turns = await this.ask<StoredTurn[]>("readonly", (stores) => stores.turns.getAll());
    const byConversation = new Map<string, StoredTurn[]>();
    for (const turn of turns) {
      const known = byConversation.get(turn.conversation);
      if (known) known.push(turn);
      else byConversation.set(turn.conversation, [turn]);
    }
    return heads.map((head) => assembled(head, byConversation.get(head.id) ?? []));
  }

  /** Writes a conversation that is new here, with all its turns. */
  async create(conversation: Conversation): Promise<void> {
    const { turns: all, ...head } = conversation;
    await this.ask("readwrite", ({ heads, turns }) => {
      for (const turn of Object.values(all)) {
        turns.put({ ...turn, conversation: conversation.id });
      }
      return heads.put(head);
    });
  }

  /** Adds turns, or newer states of them; false where the conversation has been deleted.
   *
   * A turn that is new becomes the one that is shown of its siblings.
   */
  async saveTurns(id: string, given: Turn[]): Promise<boolean> {
    return this.change(id, (head, { turns }, write) => {
      for (const turn of given) {
        const request: IDBRequest<StoredTurn | undefined> = turns.get(turn.id);
        request.onsuccess = () => {
          const stored = request.result;
          if (!isNewer(turn, stored)) return;
          turns.put({ ...turn, conversation: id });
          head.updated = Math.max(head.updated, turn.created);
          if (!stored) head.chosen[turn.parent ?? ""] = turn.id;
          write();
        };
      }
    });
  }

  /** Changes a conversation's title, options or shown branches; false where the conversation has been deleted. */
  async saveHead(id: string, change: (head: Head) => void): Promise<boolean> {
    return this.change(id, change);
  }

  async removeTurn(id: string): Promise<void> {
    await this.ask("readwrite", ({ turns }) => turns.delete(id));
  }

  async remove(id: string): Promise<void> {
    await this.ask("readwrite", ({ heads, turns, drafts }) => {
      const request = turns.index("conversation").getAllKeys(id);
      request.onsuccess = () => {
        for (const key of request.result) turns.delete(key);
      };
      drafts.delete(id);
      return heads.delete(id);
    });
  }

  /** What was typed and not sent; `id` is a conversation's, or "new". */
  async loadDraft(id: string): Promise<Draft> {
    const found = await this.ask<(Draft & { id: string }) | undefined>("readonly", (stores) =>
      stores.drafts.get(id),
    );
    return { text: found?.text ?? "", attachments: found?.attachments ?? [] };
  }

  async saveDraft(id: string, draft: Draft): Promise<void> {
    const empty = draft.text === "" && draft.attachments.length === 0;
    await this.ask("readwrite", ({ drafts }) =>
      empty ? drafts.delete(id) : drafts.put({ ...draft, id }),
    );
  }

  /** The conversations whose title or text holds every word of `query`, with a snippet each. */
  async search(query: string): Promise<Summary[]> {
    const words = folded(query).split(/\s+/).filter(Boolean);
    if (!words.length) return this.list();
    const found: Summary[] = [];
    for (const conversation of await this.all()) {
      const texts = Object.values(conversation.turns).map(textOf);
      const whole = folded([conversation.title, ...texts].join("\n"));
      if (!words.every((word) => whole.includes(word))) continue;
      const { id, title, updated } = conversation;
      found.push({ id, title, updated, snippet: snippetOf(texts, words[0] ?? "") });
    }
    return found.sort((a, b) => b.updated - a.updated);
  }

  /** Reads and writes a conversation's head in one transaction; `write` puts it there again. */
  private async change(
    id: string,
    change: (head: Head, stores: Stores, write: () => void) => void,
  ): Promise<boolean> {
    let exists = false;
    await this.ask("readwrite", (stores) => {
      const request: IDBRequest<Head | undefined> = stores.heads.get(id);
      request.onsuccess = () => {
        const head = request.result;
        if (!head) return;
        exists = true;
        const write = () => stores.heads.put(head);
        change(head, stores, write);
        write();
      };
      return request;
    });
    return exists;
  }

  private async ask<T>(
    mode: IDBTransactionMode,
    question: (stores: Stores) => IDBRequest,
  ): Promise<T> {
    this.database ??= openDatabase();
    const transaction = (await this.database).transaction(STORES, mode);
    const request = question({
      heads: transaction.objectStore("heads"),
      turns: transaction.objectStore("turns"),
      drafts: transaction.objectStore("drafts"),
    });
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request.result as T);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  }
}

/** Turns in the order in which they were made, as `Object.values` gives them back. */
function assembled(head: Head, stored: StoredTurn[]): Conversation {
  const turns: Record<string, Turn> = {};
  const ordered = stored.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
  for (const { conversation: _, ...turn } of ordered) turns[turn.id] = turn as Turn;
  return { ...head, turns };
}

export function isNewer(turn: Turn, stored: Turn | undefined): boolean {
  if (stored?.role !== "assistant" || turn.role !== "assistant") return true;
  const ended = stored.status !== "streaming";
  if (ended && turn.status === "streaming") return turn.revision > stored.revision;
  return turn.revision >= stored.revision;
}

export function textOf(turn: Turn): string {
  if (turn.role === "user") {
    const attached = (turn.attachments ?? []).map(({ name, text }) => `${name}\n${text}`);
    return [turn.text, ...attached].join("\n");
  }
  const texts = turn.steps.map((step) => (step.kind === "tool" ? (step.result ?? "") : step.text));
  return texts.join("\n");
}

function folded(text: string): string {
  return text.normalize("NFKC").toLowerCase();
}

function snippetOf(texts: string[], word: string): string {
  for (const text of texts) {
    const at = folded(text).indexOf(word);
    if (at < 0) continue;
    const start = Math.max(0, at - SNIPPET);
    const part = text.slice(start, at + word.length + SNIPPET).replace(/\s+/g, " ");
    return `${start > 0 ? "…" : ""}${part.trim()}…`;
  }
  return "";
}

function openDatabase(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 2);
    request.onupgradeneeded = () => {
      const { result: database, transaction } = request;
      database.createObjectStore("heads", { keyPath: "id" });
      const turns = database.createObjectStore("turns", { keyPath: "id" });
      turns.createIndex("conversation", "conversation");
      database.createObjectStore("drafts", { keyPath: "id" });
      if (transaction && database.objectStoreNames.contains("conversations")) {
        takeOver(database, transaction);
      }
    };
    request.onsuccess = () => {
      // A later page with another layout must not wait for this tab.
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
  });
}

/** Conversations of the page's first layout, which kept each in one record. */
function takeOver(database: IDBDatabase, transaction: IDBTransaction): void {
  const cursor = transaction.objectStore("conversations").openCursor();
  cursor.onsuccess = () => {
    const at = cursor.result;
    if (!at) {
      database.deleteObjectStore("conversations");
      if (database.objectStoreNames.contains("summaries")) {
        database.deleteObjectStore("summaries");
      }
      return;
    }
    const { turns, ...head } = at.value as Conversation;
    transaction.objectStore("heads").put(head);
    for (const turn of Object.values(turns)) {
      transaction.objectStore("turns").put({ ...turn, conversation: head.id });
    }
    at.continue();
  };
}
