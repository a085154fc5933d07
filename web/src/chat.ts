/** What the page does: the open conversation, the replies that run, and every action on them. */

import { Announcer, type Reading } from "./announce";
import { answerNow, ConnectionError, listModels, requestBody, streamChat } from "./api";
import { explain } from "./problems";
import { ReplyFolder } from "./reply";
import { defaultOptions, loadSettings, saveSettings, Store } from "./store";
import {
  addTurn,
  assistantTurn,
  newConversation,
  pathTo,
  shownPath,
  titleFrom,
  toMessages,
  userTurn,
} from "./tree";
import type {
  AssistantTurn,
  ChatOptions,
  Conversation,
  Problem,
  Settings,
  Summary,
  ToolStep,
} from "./types";

const SAVE_EVERY = 2000;

/** One reply that is being written. */
interface Run {
  conversation: Conversation;
  turn: AssistantTurn;
  abort: AbortController;
  /** The server's id of this reply, once known: what "answer now" names. */
  responseId: string | null;
  savedAt: number;
  /** Of the answer text after the last tool. */
  reading: Reading;
}

export class Chat {
  settings: Settings = loadSettings();
  conversation: Conversation;
  summaries: Summary[] = [];
  models: string[] = [];
  /** Why the list of models is empty, if it is. */
  connection: Problem | null = null;
  /** Set where this browser does not keep conversations. */
  storageFailed = false;
  /** Servers without "answer now" lose the button at its first use. */
  canAnswerNow = true;
  readonly announcer: Announcer;
  private readonly runs = new Map<string, Run>();
  private readonly store = new Store();
  private readonly channel = new BroadcastChannel("openqwq");
  private modelsRequest: AbortController | null = null;

  constructor(
    private readonly redraw: () => void,
    region: () => HTMLElement | null,
  ) {
    this.conversation = newConversation(this.settings.options);
    this.announcer = new Announcer(region);
    this.channel.onmessage = () => void this.refreshList();
  }

  async start(): Promise<void> {
    await Promise.all([this.refreshList(), this.refreshModels()]);
  }

  get run(): Run | undefined {
    return this.runs.get(this.conversation.id);
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
    if (elsewhere) {
      this.canAnswerNow = true;
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
      const known = this.models.includes(this.settings.model);
      if (!known && this.models[0]) this.saveSettings({ model: this.models[0] });
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
    if (Object.keys(this.conversation.turns).length) void this.save(this.conversation);
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

  newChat(): void {
    this.conversation = newConversation(this.settings.options);
    this.redraw();
  }

  async open(id: string): Promise<void> {
    const running = this.runs.get(id)?.conversation;
    const loaded = running ?? (await this.kept(() => this.store.load(id)));
    if (!loaded) return;
    this.conversation = { ...loaded, options: { ...defaultOptions, ...loaded.options } };
    if (running) this.conversation = running;
    else settleBrokenOff(this.conversation);
    this.redraw();
  }

  async rename(id: string, title: string): Promise<void> {
    const target = await this.find(id);
    if (!target || !title.trim()) return;
    target.title = title.trim();
    target.named = true;
    await this.save(target);
  }

  async remove(id: string): Promise<void> {
    this.runs.get(id)?.abort.abort();
    this.runs.delete(id);
    await this.kept(() => this.store.remove(id));
    if (this.conversation.id === id) this.newChat();
    this.channel.postMessage("changed");
    await this.refreshList();
  }

  async removeAll(): Promise<void> {
    for (const { id } of this.summaries) await this.remove(id);
  }

  /** One conversation, or with no id all of them, as JSON text. */
  async exported(id?: string): Promise<string> {
    const conversations = id ? [await this.find(id)] : await this.kept(() => this.store.all());
    return JSON.stringify({ format: "openqwq-chat-1", conversations }, null, 2);
  }

  private find(id: string): Promise<Conversation | undefined> {
    if (this.conversation.id === id) return Promise.resolve(this.conversation);
    const running = this.runs.get(id)?.conversation;
    return running ? Promise.resolve(running) : this.kept(() => this.store.load(id));
  }

  private async save(conversation: Conversation): Promise<void> {
    await this.kept(() => this.store.save(conversation));
    this.channel.postMessage("changed");
    await this.refreshList();
  }

  private async kept<T>(work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch {
      this.storageFailed = true;
      return undefined;
    }
  }

  // Turns.

  send(text: string): void {
    const end = shownPath(this.conversation).at(-1);
    this.ask(end?.id ?? null, text);
  }

  /** Asks again with other words: a new branch beside the old message. */
  edit(id: string, text: string): void {
    const turn = this.conversation.turns[id];
    if (turn) this.ask(turn.parent, text);
  }

  private ask(parent: string | null, text: string): void {
    if (this.run || !text.trim()) return;
    const { conversation } = this;
    if (!conversation.named && parent === null) conversation.title = titleFrom(text);
    const turn = addTurn(conversation, userTurn(parent, text));
    this.answer(turn.id);
  }

  /** Another answer to the same message: a new branch beside the old one. */
  regenerate(id: string): void {
    const parent = this.conversation.turns[id]?.parent;
    if (parent && !this.run) this.answer(parent);
  }

  /** Tries a failed reply again; where nothing of it had arrived, in its place. */
  retry(turn: AssistantTurn): void {
    if (this.run) return;
    if (!turn.steps.length) delete this.conversation.turns[turn.id];
    if (turn.parent) this.answer(turn.parent);
  }

  showBranch(id: string): void {
    const turn = this.conversation.turns[id];
    if (!turn) return;
    this.conversation.chosen[turn.parent ?? ""] = id;
    void this.save(this.conversation);
    this.redraw();
  }

  /** The reader plays a tool; once every call has its result, the model goes on. */
  giveResult(turn: AssistantTurn, step: ToolStep, result: string): void {
    step.result = result;
    turn.revision++;
    const open = turn.steps.some((other) => other.kind === "tool" && other.result === null);
    if (open) void this.save(this.conversation);
    else void this.stream(this.conversation, turn);
    this.redraw();
  }

  stop(): void {
    this.run?.abort.abort();
  }

  async answerNow(): Promise<void> {
    const id = this.run?.responseId;
    if (!id) return;
    this.canAnswerNow = await answerNow(this.settings, id);
    this.announcer.say(this.canAnswerNow ? "Asked to answer now." : "This server cannot do that.");
    this.redraw();
  }

  private answer(parent: string): void {
    const turn = addTurn(this.conversation, assistantTurn(parent, this.settings.model));
    void this.stream(this.conversation, turn);
  }

  private async stream(conversation: Conversation, turn: AssistantTurn): Promise<void> {
    const run: Run = {
      conversation,
      turn,
      abort: new AbortController(),
      responseId: null,
      savedAt: 0,
      reading: { spoken: 0 },
    };
    this.runs.set(conversation.id, run);
    turn.status = "streaming";
    turn.problem = turn.finish = null;
    turn.finishNote = "";
    this.announcer.say("Waiting for the reply.");
    this.redraw();
    void this.save(conversation);
    const folder = new ReplyFolder(turn, performance.now());
    try {
      await this.receive(run, folder);
      folder.end(performance.now());
      turn.status = "done";
    } catch (error) {
      folder.end(performance.now());
      turn.status = run.abort.signal.aborted ? "stopped" : "failed";
      if (turn.status === "failed") turn.problem = explain(error, this.settings.base);
    }
    turn.revision++;
    this.finish(run);
  }

  private async receive(run: Run, folder: ReplyFolder): Promise<void> {
    const { conversation, turn, abort } = run;
    const turns = pathTo(conversation, turn.id);
    const messages = toMessages(turns, conversation.options.system);
    const body = requestBody(this.settings.model, messages, conversation.options);
    for await (const chunk of streamChat(this.settings, body, abort.signal)) {
      run.responseId ??= chunk.id ?? null;
      const steps = turn.steps.length;
      folder.push(chunk, performance.now());
      this.announceProgress(run, steps);
      if (performance.now() - run.savedAt > SAVE_EVERY) {
        run.savedAt = performance.now();
        void this.kept(() => this.store.save(conversation));
      }
      this.redraw();
    }
    if (!turn.finish) throw new ConnectionError("stream", "The stream ended before the reply did.");
  }

  /** Only the open conversation is read out. */
  private announceProgress({ conversation, turn, reading }: Run, stepsBefore: number): void {
    const last = turn.steps.at(-1);
    if (!last || conversation !== this.conversation) return;
    const isNew = turn.steps.length > stepsBefore;
    if (isNew) reading.spoken = 0;
    if (last.kind === "thinking" && isNew) this.announcer.say("Thinking.");
    if (last.kind === "tool" && isNew) this.announcer.say(`Calls the tool ${last.name}.`);
    if (last.kind === "text") this.announcer.answer(reading, last.text, false);
  }

  private announceEnd({ conversation, turn, reading }: Run): void {
    if (conversation !== this.conversation) return;
    const last = turn.steps.at(-1);
    if (last?.kind === "text") this.announcer.answer(reading, last.text, true);
    const notices = { done: "Reply complete.", stopped: "Stopped.", streaming: "" };
    if (turn.status !== "failed") this.announcer.say(notices[turn.status]);
    else this.announcer.say(`${turn.problem?.title}. ${turn.problem?.advice}`);
  }

  private finish(run: Run): void {
    const { conversation } = run;
    const current = this.runs.get(conversation.id) === run;
    if (current) this.runs.delete(conversation.id);
    conversation.updated = Date.now();
    this.announceEnd(run);
    if (current) void this.save(conversation);
    this.redraw();
  }
}

/** A reply that was being written when the page closed stays as far as it had come. */
function settleBrokenOff(conversation: Conversation): void {
  for (const turn of Object.values(conversation.turns)) {
    if (turn.role === "assistant" && turn.status === "streaming") turn.status = "stopped";
  }
}
