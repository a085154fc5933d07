/** What the page does: the open conversation, the list of all, and every action on them. */

import { Announcer } from "./announce";
import { answerNow, ApiError, callTool, listModels, sendFeedback, withdrawFeedback } from "./api";
import { Drafts, type DraftStore } from "./drafts";
import { readExport, type Imported } from "./import";
import { speak, t } from "./language";
import { explain } from "./problems";
import { Replies, type Run } from "./replies";
import { defaultOptions, isNewer, loadSettings, saveSettings, Store } from "./store";
import {
  addTurn,
  answerText,
  assistantTurn,
  children,
  newConversation,
  pathTo,
  shownPath,
  thinkingText,
  titleFrom,
  toMessages,
  userTurn,
} from "./tree";
import type {
  AssistantTurn,
  ChatOptions,
  Conversation,
  Draft,
  Model,
  Problem,
  Rating,
  Settings,
  Summary,
  ToolStep,
  Turn,
} from "./types";

/** A tab that receives a reply gives a sign of life at least so often, in milliseconds. */
const LIFE_SIGN = 8000;
const LEAST_MORE_THINKING = 4096;

export class Chat {
  settings: Settings = loadSettings();
  conversation: Conversation;
  summaries: Summary[] = [];
  models: Model[] = [];
  /** Why the list of models is empty, if it is. */
  connection: Problem | null = null;
  /** A sentence about the last rating, or "". */
  feedbackNote = "";
  /** Set where this browser does not keep conversations. */
  storageFailed = false;
  /** Set where another tab has deleted the open conversation. */
  gone = false;
  /** Servers without "answer now" lose the button at its first use. */
  canAnswerNow = true;
  readonly announcer: Announcer;
  readonly drafts: Drafts;
  private readonly replies: Replies;
  private readonly store = new Store();
  private readonly channel = new BroadcastChannel("openqwq");
  private modelsRequest: AbortController | null = null;
  /** The conversation that the reader chose last; "" for a new one. */
  private wanted = "";
  /** Whether the open conversation is in the store. */
  private stored = new Set<string>();

  constructor(
    private readonly redraw: () => void,
    region: () => HTMLElement | null,
  ) {
    speak(this.settings.language);
    this.conversation = newConversation(this.settings.options);
    this.announcer = new Announcer(region);
    this.drafts = new Drafts(this.draftId, this.draftStore(), redraw);
    this.channel.onmessage = ({ data }) => void this.changedElsewhere(String(data));
    this.replies = new Replies({
      settings: () => this.settings,
      model: (name) => this.models.find(({ id }) => id === name),
      isOpen: (conversation) => conversation === this.conversation,
      announcer: this.announcer,
      redraw,
      save: (conversation, turn) => void this.saveTurns(conversation, [turn]),
      ended: (run) => void this.runTools(run),
    });
  }

  async start(): Promise<void> {
    addEventListener("popstate", () => void this.openLinked());
    addEventListener("pagehide", () => void this.drafts.flush());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) void this.drafts.flush();
      else this.reattach();
    });
    await Promise.all([this.refreshList(), this.refreshModels(), this.openLinked()]);
  }

  get run(): Run | undefined {
    return this.replies.of(this.conversation.id);
  }

  get model(): Model | undefined {
    return this.models.find(({ id }) => id === this.settings.model);
  }

  /** Whether "answer now" would help: the model thinks, and the server may know the way. */
  get answerable(): boolean {
    const thinking = this.run?.turn.steps.at(-1)?.kind === "thinking";
    return thinking && this.canAnswerNow && this.run?.responseId !== null;
  }

  // Settings and models.

  saveSettings(change: Partial<Settings>): void {
    const elsewhere = "base" in change || "key" in change;
    this.settings = { ...this.settings, ...change };
    if (!saveSettings(this.settings)) this.storageFailed = true;
    if (change.language) speak(change.language);
    if (elsewhere) {
      this.canAnswerNow = true;
      this.replies.forgetTools();
      void this.refreshModels();
    }
    this.redraw();
  }

  async refreshModels(): Promise<void> {
    this.modelsRequest?.abort();
    const request = (this.modelsRequest = new AbortController());
    try {
      this.models = await listModels(this.settings, request.signal);
      this.connection = null;
      const known = this.models.some(({ id }) => id === this.settings.model);
      if (!known && this.models[0]) this.saveSettings({ model: this.models[0].id });
      this.reattach();
    } catch (error) {
      if (request.signal.aborted) return;
      this.models = [];
      this.connection = explain(error, this.settings.base);
    }
    this.redraw();
  }

  setOptions(change: Partial<ChatOptions>): void {
    Object.assign(this.conversation.options, change);
    this.saveSettings({ options: { ...this.conversation.options } });
    const { options } = this.conversation;
    void this.saveHead(this.conversation.id, (head) => (head.options = { ...options }));
  }

  resetOptions(): void {
    this.setOptions(defaultOptions);
  }

  // The list of conversations.

  async refreshList(): Promise<void> {
    await this.kept(async () => {
      this.summaries = await this.store.list();
    });
    this.redraw();
  }

  search(query: string): Promise<Summary[] | undefined> {
    return this.kept(() => this.store.search(query));
  }

  newChat(): void {
    this.wanted = "";
    this.conversation = newConversation(this.settings.options);
    this.gone = false;
    this.link("");
    void this.drafts.show(this.draftId);
  }

  async open(id: string, link = true): Promise<void> {
    this.wanted = id;
    const running = this.replies.of(id)?.conversation;
    const loaded = running ?? (await this.kept(() => this.store.load(id)));
    if (!loaded || this.wanted !== id) return;
    this.stored.add(id);
    this.conversation = loaded;
    if (!running) loaded.options = { ...defaultOptions, ...loaded.options };
    this.gone = false;
    if (link) this.link(id);
    this.reattach();
    await this.drafts.show(this.draftId);
  }

  async rename(id: string, title: string): Promise<void> {
    if (!title.trim()) return;
    const name = (head: { title: string; named: boolean }) => {
      head.title = title.trim();
      head.named = true;
    };
    if (this.conversation.id === id) name(this.conversation);
    await this.saveHead(id, name);
  }

  async remove(id: string): Promise<void> {
    this.replies.drop(id);
    await this.kept(() => this.store.remove(id));
    this.stored.delete(id);
    this.drafts.drop(id);
    if (this.conversation.id === id) this.newChat();
    this.channel.postMessage(id);
    await this.refreshList();
  }

  async removeAll(): Promise<void> {
    for (const { id } of this.summaries) await this.remove(id);
  }

  /** One conversation, or with no id all of them, as JSON text. */
  async exported(id?: string): Promise<string> {
    const conversations = id
      ? [await this.kept(() => this.store.load(id))]
      : await this.kept(() => this.store.all());
    return JSON.stringify({ format: "openqwq-chat-1", conversations }, null, 2);
  }

  /** Adds the conversations of an exported file; null where it is no such file. */
  async importFile(text: string): Promise<Imported | null> {
    const imported = readExport(text);
    for (const conversation of imported?.conversations ?? []) {
      await this.kept(() => this.store.create(conversation));
    }
    this.channel.postMessage("");
    await this.refreshList();
    return imported;
  }

  // Links, drafts, other tabs.

  private link(id: string): void {
    const hash = id ? `#${id}` : "";
    if (location.hash !== hash) history.pushState(null, "", location.pathname + hash);
  }

  private async openLinked(): Promise<void> {
    const id = location.hash.slice(1);
    if (id) await this.open(id, false);
    else this.newChat();
  }

  get draft(): Draft {
    return this.drafts.current.content;
  }

  editDraft(change: Partial<Draft>): void {
    this.drafts.edit(this.drafts.current.id, (draft) => ({ ...draft, ...change }));
  }

  private get draftId(): string {
    return Object.keys(this.conversation.turns).length ? this.conversation.id : "new";
  }

  /** Drafts in this browser's store. */
  private draftStore(): DraftStore {
    const saved = async (id: string, draft: Draft) => {
      await this.store.saveDraft(id, draft);
      return true;
    };
    return {
      load: (id) => this.kept(() => this.store.loadDraft(id)),
      save: async (id, draft) => (await this.kept(() => saved(id, draft))) ?? false,
    };
  }

  /** Another tab has written to a conversation: its turns join those that are shown here. */
  private async changedElsewhere(id: string): Promise<void> {
    const open = this.conversation;
    if (id === open.id && this.stored.has(id)) {
      const found = await this.kept(() => this.store.load(id));
      if (this.conversation === open) {
        if (found) this.join(open, found);
        else this.gone = true;
      }
    }
    await this.refreshList();
  }

  private join(open: Conversation, found: Conversation): void {
    const receiving = this.run?.turn.id;
    for (const turn of Object.values(found.turns)) {
      if (turn.id !== receiving && isNewer(turn, open.turns[turn.id])) open.turns[turn.id] = turn;
    }
    open.title = found.title;
    open.named = found.named;
    open.chosen = { ...found.chosen, ...open.chosen };
    this.reattach();
  }

  /** Picks up replies that were being written when this page, or another tab, went away. */
  private reattach(): void {
    const { conversation } = this;
    if (this.run) return;
    for (const turn of Object.values(conversation.turns)) {
      if (turn.role !== "assistant" || turn.status !== "streaming") continue;
      if (turn.resumable?.base === this.settings.base && this.models.length) {
        this.replies.reattach(conversation, turn);
        return;
      }
      if (!turn.resumable) this.settle(turn);
    }
  }

  /** A reply that only its page could receive stays as far as it had come once that is gone. */
  private settle(turn: AssistantTurn): void {
    const silent = Date.now() - (turn.seen ?? 0);
    if (silent < LIFE_SIGN) {
      setTimeout(() => this.reattach(), LIFE_SIGN - silent + 100);
      return;
    }
    turn.status = "stopped";
    turn.finishNote = t.brokenOff;
    turn.revision++;
    this.redraw();
  }

  private async saveTurns(conversation: Conversation, turns: Turn[]): Promise<void> {
    const { id } = conversation;
    if (!this.stored.has(id)) {
      this.stored.add(id);
      await this.kept(() => this.store.create(conversation));
      if (conversation === this.conversation) this.link(id);
    } else {
      const exists = await this.kept(() => this.store.saveTurns(id, turns));
      if (exists === false && conversation === this.conversation) this.gone = true;
    }
    this.channel.postMessage(id);
    await this.refreshList();
  }

  private async saveHead(id: string, change: (head: Conversation) => void): Promise<void> {
    if (!this.stored.has(id) && !this.summaries.some((known) => known.id === id)) return;
    await this.kept(() => this.store.saveHead(id, change as never));
    this.channel.postMessage(id);
    await this.refreshList();
  }

  private async kept<T>(work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch {
      this.storageFailed = true;
      this.redraw();
      return undefined;
    }
  }

  // Turns.

  send({ text, attachments }: Draft): void {
    if (this.run || !(text.trim() || attachments.length)) return;
    // What another tab is being told is not there yet: this goes next to its question.
    const end = shownPath(this.conversation).findLast(
      (turn) => turn.role === "assistant" && turn.status !== "streaming",
    );
    this.drafts.clear();
    this.ask(end?.id ?? null, text, attachments);
    // A new conversation has an id, and with it a draft, from its first turn on.
    void this.drafts.show(this.draftId);
  }

  /** Asks again with other words: a new branch next to the old message. */
  edit(id: string, text: string): void {
    const turn = this.conversation.turns[id];
    if (turn?.role === "user") this.ask(turn.parent, text, turn.attachments);
  }

  private ask(parent: string | null, text: string, attachments: Draft["attachments"] = []): void {
    if (this.run || !(text.trim() || attachments.length)) return;
    const { conversation } = this;
    if (!conversation.named && parent === null) {
      conversation.title = titleFrom(text) || (attachments[0]?.name ?? "");
    }
    const turn = addTurn(conversation, userTurn(parent, text, attachments));
    void this.saveTurns(conversation, [turn]);
    this.answer(turn.id);
  }

  /** Another answer to the same message: a new branch next to the old one. */
  regenerate(id: string): void {
    const parent = this.conversation.turns[id]?.parent;
    if (parent && !this.run) this.answer(parent);
  }

  /** Another answer, with twice the thinking of this one. */
  thinkMore(turn: AssistantTurn): void {
    if (!turn.parent || this.run) return;
    const { options } = this.conversation;
    const spent = Math.max(turn.usage?.reasoning ?? 0, options.thinkingBudget ?? 0);
    const more = Math.max(LEAST_MORE_THINKING, 2 * spent);
    const change: Partial<ChatOptions> = this.model?.durable
      ? { thinkingBudget: more, effort: "" }
      : { thinkingBudget: null, effort: "high" };
    this.answer(turn.parent, { ...options, ...change });
  }

  /** Has a reply that was stopped or cut off go on. */
  continueReply(turn: AssistantTurn): void {
    if (!this.run) this.replies.writeOn(this.conversation, turn);
  }

  /** Tries a failed reply again; where nothing of it had arrived, in its place. */
  retry(turn: AssistantTurn): void {
    if (this.run) return;
    if (turn.resumable) {
      this.replies.reattach(this.conversation, turn);
      return;
    }
    if (!turn.steps.length) {
      delete this.conversation.turns[turn.id];
      void this.kept(() => this.store.removeTurn(turn.id));
    }
    if (turn.parent) this.answer(turn.parent);
  }

  showBranch(id: string): void {
    const turn = this.conversation.turns[id];
    if (!turn) return;
    const parent = turn.parent ?? "";
    this.conversation.chosen[parent] = id;
    void this.saveHead(this.conversation.id, (head) => (head.chosen[parent] = id));
    this.redraw();
  }

  stop(): void {
    this.replies.stop(this.conversation.id);
  }

  async answerNow(): Promise<void> {
    const id = this.run?.responseId;
    if (!id) return;
    this.canAnswerNow = await answerNow(this.settings, id);
    this.announcer.say(this.canAnswerNow ? t.say.asked : t.say.cannot);
    this.redraw();
  }

  private answer(parent: string, options = this.conversation.options): void {
    const turn = addTurn(this.conversation, assistantTurn(parent, this.settings.model));
    this.replies.ask(this.conversation, turn, options);
  }

  // Tools.

  /** The reader plays a tool; once every call has its result, the model goes on. */
  giveResult(turn: AssistantTurn, step: ToolStep, result: string, failed = false): void {
    this.resolve(this.conversation, turn, step, { result, error: failed, seconds: null });
  }

  /** The reader lets one of the server's tools run. */
  async approve(turn: AssistantTurn, step: ToolStep): Promise<void> {
    const { conversation } = this;
    step.ranBy = "server"; // it cannot be approved twice
    turn.revision++;
    this.redraw();
    this.resolve(conversation, turn, step, await this.called(step));
  }

  /** Runs one call at the server; what goes wrong becomes a result that the model reads. */
  async called(step: { name: string; arguments: string }): Promise<ToolOutcome> {
    try {
      const given: unknown = JSON.parse(step.arguments || "{}");
      return await callTool(this.settings, step.name, given);
    } catch (error) {
      return { result: String(error), error: true, seconds: null };
    }
  }

  /** Calls of the server's tools that nobody wants to see first run at once. */
  private async runTools({ conversation, turn }: Run): Promise<void> {
    if (turn.status !== "done" || conversation.options.approve) return;
    const own = this.model?.tools ?? [];
    for (const step of turn.steps) {
      if (step.kind !== "tool" || step.result !== null || !own.includes(step.name)) continue;
      this.resolve(conversation, turn, step, await this.called(step));
    }
  }

  private resolve(
    conversation: Conversation,
    turn: AssistantTurn,
    step: ToolStep,
    { result, error, seconds }: ToolOutcome,
  ): void {
    Object.assign(step, { result, failed: error, seconds });
    turn.revision++;
    const open = turn.steps.some((other) => other.kind === "tool" && other.result === null);
    if (open) void this.saveTurns(conversation, [turn]);
    else this.replies.ask(conversation, turn, conversation.options);
    this.redraw();
  }

  // Ratings, which the server keeps where it was started to.

  /** The reader's own words in place of an answer: another version. */
  editAnswer(turn: AssistantTurn, text: string): void {
    if (!turn.parent || !text.trim() || this.run) return;
    const edited = assistantTurn(turn.parent, turn.model);
    edited.steps = [{ kind: "text", text: text.trim() }];
    edited.status = "done";
    edited.finish = "stop";
    edited.edited = true;
    addTurn(this.conversation, edited);
    void this.saveTurns(this.conversation, [edited]);
    const sides = { answer: answerOf(turn), edited: { content: text.trim() } };
    if (this.model?.feedback) void this.sendOpinion("edit", edited.id, turn, sides);
    this.redraw();
  }

  /** A thumb up or down; the same one again takes it back. */
  rate(turn: AssistantTurn, value: Rating["value"], reason = ""): void {
    const again = turn.rating?.value === value && turn.rating.reason === reason;
    turn.rating = again ? null : { value, reason };
    turn.revision++;
    void this.saveTurns(this.conversation, [turn]);
    const id = `rating-${turn.id}`;
    if (again) void this.told(() => withdrawFeedback(this.settings, id));
    else {
      const said = { rating: value, reason: reason || null, answer: answerOf(turn) };
      void this.sendOpinion("rating", id, turn, said);
    }
    this.redraw();
  }

  /** The best of several versions: better than each of the others. */
  prefer(turn: AssistantTurn): void {
    const siblings = children(this.conversation, turn.parent);
    for (const other of siblings) {
      if (other.role !== "assistant" || other.id === turn.id || !answerText(other)) continue;
      other.preferred = false;
      other.revision++;
      const sides = { chosen: answerOf(turn), rejected: answerOf(other) };
      const pair = [turn.id, other.id].sort().join("-");
      void this.sendOpinion("preference", `pair-${pair}`, turn, sides);
    }
    turn.preferred = true;
    turn.revision++;
    void this.saveTurns(this.conversation, siblings);
    this.redraw();
  }

  private async sendOpinion(
    kind: string,
    id: string,
    turn: AssistantTurn,
    said: Record<string, unknown>,
  ): Promise<void> {
    const asked = pathTo(this.conversation, turn.id).slice(0, -1);
    const messages = toMessages(asked, this.conversation.options.system);
    const opinion = { kind, id, model: turn.model, messages, ...said };
    await this.told(() => sendFeedback(this.settings, opinion));
  }

  private async told(send: () => Promise<void>): Promise<void> {
    try {
      await send();
      this.feedbackNote = t.feedbackSent;
    } catch (error) {
      const why = error instanceof ApiError ? error.message : String(error);
      this.feedbackNote = t.feedbackFailed(why);
    }
    this.announcer.say(this.feedbackNote);
    this.redraw();
  }
}

interface ToolOutcome {
  result: string;
  error: boolean;
  seconds: number | null;
}

function answerOf(turn: AssistantTurn): { content: string; reasoning_content?: string } {
  const thinking = thinkingText(turn);
  const content = answerText(turn);
  return thinking ? { content, reasoning_content: thinking } : { content };
}
