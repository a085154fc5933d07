/** The replies that are being written: asked for, followed, picked up again, stopped. */

import type { Announcer, Reading } from "./announce";
import {
  ApiError,
  ConnectionError,
  listTools,
  requestBody,
  streamChat,
  type Chunk,
  type FunctionTool,
  type RequestTools,
} from "./api";
import { t } from "./language";
import { explain } from "./problems";
import { ReplyFolder } from "./reply";
import {
  cancelResponse,
  chunkOf,
  endOf,
  isLast,
  responseBody,
  resumeResponse,
  startResponse,
  type ResponseEvent,
} from "./responses";
import { pathTo, toMessages, type ApiMessage } from "./tree";
import type { AssistantTurn, ChatOptions, Conversation, Model, Settings, TextStep } from "./types";

const SAVE_EVERY = 2000;
const RETRY_SECONDS = [0.5, 1, 2, 4, 8, 8, 8, 8, 8];
export const CONTINUE =
  "Continue exactly where you stopped, without repeating anything and without a remark.";

/** One reply that is being written. */
export interface Run {
  conversation: Conversation;
  turn: AssistantTurn;
  abort: AbortController;
  /** The server's id of this reply, once known: what "answer now" names. */
  responseId: string | null;
  savedAt: number;
  /** Of the answer text after the last tool. */
  reading: Reading;
}

/** What the replies need of the page around them. */
export interface Surroundings {
  settings: () => Settings;
  model: (name: string) => Model | undefined;
  isOpen: (conversation: Conversation) => boolean;
  announcer: Announcer;
  redraw: () => void;
  save: (conversation: Conversation, turn: AssistantTurn) => void;
  ended: (run: Run) => void;
}

export class Replies {
  private readonly runs = new Map<string, Run>();
  private tools: Promise<FunctionTool[]> | null = null;

  constructor(private readonly around: Surroundings) {}

  of(conversation: string): Run | undefined {
    return this.runs.get(conversation);
  }

  /** Another server, with tools of its own. */
  forgetTools(): void {
    this.tools = null;
  }

  /** Asks for a reply; `options` may differ from the conversation's for this once. */
  ask(conversation: Conversation, turn: AssistantTurn, options: ChatOptions): void {
    const turns = pathTo(conversation, turn.id);
    const messages = toMessages(turns, options.system);
    void this.run(conversation, turn, new ReplyFolder(turn, performance.now()), (run) =>
      this.chunks(run, messages, options),
    );
  }

  /** Has a reply that was stopped, or cut off, written on from where it is. */
  writeOn(conversation: Conversation, turn: AssistantTurn): void {
    const { options } = conversation;
    const messages = toMessages(pathTo(conversation, turn.id), options.system);
    const last = turn.steps.at(-1);
    const into = last?.kind === "text" ? last : null;
    messages.push({ role: "user", content: into ? CONTINUE : continueThinking(turn) });
    const folder = new ReplyFolder(turn, performance.now(), into as TextStep | null);
    void this.run(conversation, turn, folder, (run) => this.chunks(run, messages, options));
  }

  /** Goes on reading a reply that the server has kept writing. */
  reattach(conversation: Conversation, turn: AssistantTurn): void {
    const { resumable } = turn;
    if (!resumable || this.runs.has(conversation.id)) return;
    const missed = Math.max(0, Date.now() - resumable.at);
    const folder = ReplyFolder.resumed(turn, performance.now(), missed);
    void this.run(conversation, turn, folder, (run) => {
      run.responseId = resumable.id;
      return this.resumed(run, resumable.sequence);
    });
  }

  stop(conversation: string): void {
    const run = this.runs.get(conversation);
    if (!run) return;
    const { resumable } = run.turn;
    run.abort.abort();
    if (resumable) void cancelResponse(this.around.settings(), resumable.id);
  }

  /** Ends a reply whose conversation is gone. */
  drop(conversation: string): void {
    this.stop(conversation);
    this.runs.delete(conversation);
  }

  private async run(
    conversation: Conversation,
    turn: AssistantTurn,
    folder: ReplyFolder,
    chunks: (run: Run) => AsyncGenerator<Chunk>,
  ): Promise<void> {
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
    turn.revision++;
    this.around.announcer.say(t.say.waiting);
    this.around.redraw();
    this.save(run);
    try {
      await this.receive(run, folder, chunks(run));
      folder.end(performance.now());
      turn.status = run.abort.signal.aborted ? "stopped" : "done";
      turn.resumable = null;
    } catch (error) {
      folder.end(performance.now());
      turn.status = run.abort.signal.aborted ? "stopped" : "failed";
      if (turn.status === "failed") turn.problem = explain(error, this.around.settings().base);
      // A connection that stays away leaves the reply where it is: on the server.
      if (!(error instanceof ConnectionError)) turn.resumable = null;
    }
    turn.revision++;
    this.finish(run);
  }

  private async receive(
    run: Run,
    folder: ReplyFolder,
    chunks: AsyncGenerator<Chunk>,
  ): Promise<void> {
    const { turn } = run;
    for await (const chunk of chunks) {
      const isKnown = run.responseId !== null;
      run.responseId ??= chunk.id ?? null;
      const steps = turn.steps.length;
      folder.push(chunk, performance.now());
      this.announceProgress(run, steps);
      // From the moment that the reply has a name, a page that comes back can find it.
      if (!isKnown || performance.now() - run.savedAt > SAVE_EVERY) this.save(run);
      this.around.redraw();
    }
    if (!turn.finish && !run.abort.signal.aborted) {
      throw new ConnectionError("stream", t.problems.endedEarly);
    }
  }

  private save(run: Run): void {
    run.savedAt = performance.now();
    run.turn.seen = Date.now();
    this.around.save(run.conversation, run.turn);
  }

  private async *chunks(
    run: Run,
    messages: ApiMessage[],
    options: ChatOptions,
  ): AsyncGenerator<Chunk> {
    const settings = this.around.settings();
    const model = this.around.model(settings.model);
    const tools = await this.requestTools(options, model);
    const body = requestBody(settings.model, messages, options, tools);
    if (!model?.durable) {
      yield* streamChat(settings, body, run.abort.signal);
      return;
    }
    const events = startResponse(settings, responseBody(body), run.abort.signal);
    yield* this.followed(run, events, settings);
  }

  /** Own tools go along; so do the server's where the reader is asked first, or has some off. */
  private async requestTools(options: ChatOptions, model?: Model): Promise<RequestTools> {
    const own = options.tools.trim() ? (JSON.parse(options.tools) as FunctionTool[]) : [];
    const off = (model?.tools ?? []).filter((name) => options.withoutTools.includes(name));
    if (!model?.tools.length || (!off.length && !options.approve)) {
      return { tools: own, none: false };
    }
    this.tools ??= listTools(this.around.settings());
    const offered = (await this.tools).filter(({ function: { name } }) => !off.includes(name));
    return { tools: [...own, ...offered], none: !own.length && !offered.length };
  }

  /** Events as chunks; where the connection breaks off, those behind it are asked for. */
  private async *followed(
    run: Run,
    events: AsyncGenerator<ResponseEvent>,
    settings: Settings,
  ): AsyncGenerator<Chunk> {
    const { turn, abort } = run;
    for (let attempt = 0; ;) {
      try {
        for await (const event of events) {
          attempt = 0;
          const chunk = chunkOf(event);
          if (chunk?.id) {
            turn.resumable = { base: settings.base, id: chunk.id, sequence: 0, at: Date.now() };
          }
          if (turn.resumable) {
            turn.resumable.sequence = event.sequence_number;
            turn.resumable.at = Date.now();
          }
          if (event.type === "response.cancelled") {
            abort.abort();
            return;
          }
          if (chunk) yield chunk;
          if (isLast(event)) return;
        }
        const end = turn.resumable && (await endOf(settings, turn.resumable.id));
        if (!end) throw new ConnectionError("stream", t.problems.endedEarly);
        const chunk = chunkOf(end);
        if (chunk) yield chunk;
        else abort.abort();
        return;
      } catch (error) {
        const wait = RETRY_SECONDS[attempt++];
        const broken = error instanceof ConnectionError && !abort.signal.aborted;
        if (!broken || !turn.resumable || wait === undefined) throw error;
        await pause(wait, abort.signal);
        const { id, sequence } = turn.resumable;
        events = resumeResponse(settings, id, sequence, abort.signal);
      }
    }
  }

  private async *resumed(run: Run, after: number): AsyncGenerator<Chunk> {
    const settings = this.around.settings();
    const id = run.turn.resumable?.id ?? "";
    try {
      yield* this.followed(run, resumeResponse(settings, id, after, run.abort.signal), settings);
    } catch (error) {
      const gone = error instanceof ApiError && error.status === 404;
      if (gone) throw new ConnectionError("stream", error.message);
      throw error;
    }
  }

  /** Only the open conversation is read out. */
  private announceProgress({ conversation, turn, reading }: Run, stepsBefore: number): void {
    const last = turn.steps.at(-1);
    if (!last || !this.around.isOpen(conversation)) return;
    const { announcer } = this.around;
    const isNew = turn.steps.length > stepsBefore;
    if (isNew) reading.spoken = 0;
    if (last.kind === "thinking" && isNew) announcer.say(t.say.thinking);
    if (last.kind === "tool" && isNew) announcer.say(t.say.calls(last.name));
    if (last.kind === "text") announcer.answer(reading, last.text, false);
  }

  private announceEnd({ conversation, turn, reading }: Run): void {
    if (!this.around.isOpen(conversation)) return;
    const { announcer } = this.around;
    const last = turn.steps.at(-1);
    if (last?.kind === "text") announcer.answer(reading, last.text, true);
    const notices = { done: t.say.complete, stopped: t.say.stopped, streaming: "" };
    if (turn.status !== "failed") announcer.say(notices[turn.status]);
    else announcer.say(`${turn.problem?.title}. ${turn.problem?.advice}`);
  }

  private finish(run: Run): void {
    const current = this.runs.get(run.conversation.id) === run;
    if (current) this.runs.delete(run.conversation.id);
    run.conversation.updated = Date.now();
    this.announceEnd(run);
    if (current) this.save(run);
    this.around.ended(run);
    this.around.redraw();
  }
}

function continueThinking(turn: AssistantTurn): string {
  const thoughts = turn.steps.map((step) => (step.kind === "thinking" ? step.text : ""));
  return `You had thought so far:\n\n${thoughts.join("\n\n")}\n\nGo on from there and answer.`;
}

function pause(seconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
