/** What was typed and not sent, one draft a conversation; the store answers later than the reader types. */

import type { Draft } from "./types";

/** Where the drafts are kept; `load` gives undefined, and `save` false, where that failed. */
export interface DraftStore {
  load: (id: string) => Promise<Draft | undefined>;
  save: (id: string, draft: Draft) => Promise<boolean>;
}

/** The draft of one conversation, or of "new", while the page works with it. */
interface OpenDraft {
  readonly id: string;
  content: Draft;
  /** Whether the store has said what it holds; until then nothing is written over it. */
  read: boolean;
  /** Whether `content` differs from what the store was last given. */
  changed: boolean;
}

const SAVE_DELAY = 300;

export class Drafts {
  current: OpenDraft;
  /** Grows whenever the field must show another text than the reader typed into it. */
  edition = 0;
  private readonly open = new Map<string, OpenDraft>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    id: string,
    private readonly store: DraftStore,
    private readonly redraw: () => void,
  ) {
    this.current = this.opened(id);
  }

  /** Shows the draft `id`: an empty one at once, and what the store holds as soon as it is read. */
  async show(id: string): Promise<void> {
    const left = this.current;
    const known = this.open.get(id);
    this.current = known ?? this.opened(id);
    this.edition++;
    this.redraw();
    await Promise.all([this.keep(left), this.keep(this.current)]);
  }

  /** Changes the draft `id`, which may have been left since: a file takes its time to read. */
  edit(id: string, change: (content: Draft) => Draft): void {
    const draft = this.open.get(id) ?? this.opened(id);
    draft.content = change(draft.content);
    draft.changed = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.flush(), SAVE_DELAY);
    this.redraw();
  }

  /** Empties the current draft, which has been sent. */
  clear(): void {
    this.edit(this.current.id, emptyDraft);
    this.edition++;
    void this.flush();
  }

  /** Forgets a draft whose conversation has been deleted. */
  drop(id: string): void {
    const draft = this.open.get(id);
    if (draft) draft.changed = false;
    if (draft !== this.current) this.open.delete(id);
  }

  /** Writes every draft that has changed. */
  async flush(): Promise<void> {
    clearTimeout(this.timer);
    const drafts = [...this.open.values()];
    await Promise.all(drafts.map((draft) => this.keep(draft)));
  }

  private opened(id: string): OpenDraft {
    const draft = { id, content: emptyDraft(), read: false, changed: false };
    this.open.set(id, draft);
    return draft;
  }

  /** Reads what the store holds, where that has not been read, and writes what has changed. */
  private async keep(draft: OpenDraft): Promise<void> {
    if (!draft.read) {
      const stored = await this.store.load(draft.id);
      if (!draft.read && stored) this.join(draft, stored);
      draft.read = true;
    }
    await this.write(draft);
  }

  private join(draft: OpenDraft, stored: Draft): void {
    draft.content = joined(stored, draft.content);
    if (draft !== this.current) return;
    this.edition++;
    this.redraw();
  }

  /** A draft that is written and not shown is forgotten: another tab may change it. */
  private async write(draft: OpenDraft): Promise<void> {
    if (!draft.read) return;
    if (draft.changed) {
      draft.changed = false;
      const saved = await this.store.save(draft.id, draft.content);
      if (!saved) draft.changed = true;
    }
    const done = !draft.changed && draft !== this.current;
    if (done && this.open.get(draft.id) === draft) this.open.delete(draft.id);
  }
}

function emptyDraft(): Draft {
  return { text: "", attachments: [] };
}

/** What was kept, and after it what was typed before that had been read. */
function joined(kept: Draft, typed: Draft): Draft {
  const texts = [kept.text, typed.text].filter((text) => text !== "");
  return { text: texts.join("\n"), attachments: [...kept.attachments, ...typed.attachments] };
}
