/** Conversations in this browser's IndexedDB, settings in its localStorage. */

import type { ChatOptions, Conversation, Settings, Summary } from "./types";

const DATABASE = "openqwq";
const SETTINGS = "openqwq.settings";

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
};

export function loadSettings(): Settings {
  const defaults: Settings = {
    base: "",
    key: "",
    model: "",
    theme: "auto",
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

/** Whole conversations and, apart from them, the short records that the list shows. */
export class Store {
  private database: Promise<IDBDatabase> | null = null;

  async list(): Promise<Summary[]> {
    const summaries = await this.ask<Summary[]>("readonly", (stores) => stores.summaries.getAll());
    return summaries.sort((a, b) => b.updated - a.updated);
  }

  load(id: string): Promise<Conversation | undefined> {
    return this.ask("readonly", (stores) => stores.conversations.get(id));
  }

  all(): Promise<Conversation[]> {
    return this.ask("readonly", (stores) => stores.conversations.getAll());
  }

  async save(conversation: Conversation): Promise<void> {
    const { id, title, updated } = conversation;
    await this.ask("readwrite", (stores) => {
      stores.conversations.put(conversation);
      return stores.summaries.put({ id, title, updated });
    });
  }

  async remove(id: string): Promise<void> {
    await this.ask("readwrite", (stores) => {
      stores.conversations.delete(id);
      return stores.summaries.delete(id);
    });
  }

  private async ask<T>(
    mode: IDBTransactionMode,
    question: (stores: Record<"conversations" | "summaries", IDBObjectStore>) => IDBRequest,
  ): Promise<T> {
    this.database ??= openDatabase();
    const transaction = (await this.database).transaction(["conversations", "summaries"], mode);
    const request = question({
      conversations: transaction.objectStore("conversations"),
      summaries: transaction.objectStore("summaries"),
    });
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request.result as T);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  }
}

function openDatabase(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      request.result.createObjectStore("summaries", { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
