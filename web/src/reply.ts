/** Folds the chunks of a stream into the steps of a reply. */

import type { CallDelta, Chunk, Delta, ServerStep } from "./api";
import { ThinkSplitter } from "./think";
import type { AssistantTurn, Step, TextStep, ThinkingStep, ToolStep, Usage } from "./types";

export class ReplyFolder {
  private splitter = new ThinkSplitter();
  private sawReasoning = false;
  /** Calls of the current round by the index that the stream gives them. */
  private calls = new Map<number, ToolStep>();

  private readonly asked: number;
  private first: number | null = null;
  private last: number;

  /** `into` is a text that broke off and is written on. */
  constructor(
    private readonly turn: AssistantTurn,
    private started: number,
    private readonly into: TextStep | null = null,
  ) {
    this.asked = this.last = started;
  }

  /** Goes on with a turn of which a part was received before; its thinking has been on since. */
  static resumed(turn: AssistantTurn, now: number, missed: number): ReplyFolder {
    const last = turn.steps.at(-1);
    const spent = last?.kind === "thinking" ? last.seconds * 1000 : 0;
    const folder = new ReplyFolder(turn, now - spent - missed);
    folder.sawReasoning = true;
    if (turn.timing) folder.first = now - missed - turn.timing.writing * 1000;
    return folder;
  }

  /** Takes one chunk, received at `now` (milliseconds). */
  push(chunk: Chunk, now: number): void {
    const choice = chunk.choices?.[0];
    const delta = choice?.delta ?? choice?.message;
    if (chunk.usage) this.turn.usage = usageOf(chunk);
    if (chunk.model) this.turn.model = chunk.model;
    if (delta) {
      this.pushDelta(delta, now);
      this.time(now);
    }
    if (choice?.finish_reason) this.turn.finish = choice.finish_reason;
    if (choice?.finish_details?.message) this.turn.finishNote = choice.finish_details.message;
    this.turn.revision++;
  }

  private time(now: number): void {
    if (!this.turn.steps.length) return;
    this.first ??= now;
    this.last = now;
    const wait = this.turn.timing?.first ?? (this.first - this.asked) / 1000;
    this.turn.timing = { first: wait, writing: (this.last - this.first) / 1000 };
  }

  /** No more chunks come; what was held back is given out. */
  end(now: number): void {
    for (const piece of this.splitter.end()) {
      if (piece.kind !== "was-thinking") this.append(piece.kind, piece.text, now);
    }
    const last = this.turn.steps.at(-1);
    if (last?.kind === "thinking") last.seconds = (now - this.started) / 1000;
    this.turn.revision++;
  }

  private pushDelta(delta: Delta, now: number): void {
    const reasoning = delta.reasoning_content || delta.reasoning;
    if (reasoning) {
      this.sawReasoning = true;
      this.append("thinking", reasoning, now);
    }
    if (delta.content) this.pushContent(delta.content, now);
    for (const call of delta.tool_calls ?? []) this.pushCall(call);
    for (const step of delta.tool_steps ?? []) this.pushServerStep(step, now);
  }

  private pushContent(content: string, now: number): void {
    if (this.sawReasoning) return this.append("text", content, now);
    for (const piece of this.splitter.push(content)) {
      if (piece.kind === "was-thinking") this.retract(now);
      else this.append(piece.kind, piece.text, now);
    }
  }

  private append(kind: "text" | "thinking", text: string, now: number): void {
    if (this.into) return this.writeOn(this.into, kind, text, now);
    let last = this.turn.steps.at(-1);
    if (last?.kind !== kind) {
      if (!text.trim()) return;
      if (last?.kind === "text") this.started = now;
      last = kind === "thinking" ? newThinking() : { kind, text: "" };
      this.turn.steps.push(last);
    }
    last.text += text;
    if (last.kind !== "thinking") return;
    last.seconds = (now - this.started) / 1000;
    last.pieces++;
  }

  /** Thinking goes before the text that broke off, and the text goes on where it stopped. */
  private writeOn(into: TextStep, kind: "text" | "thinking", text: string, now: number): void {
    if (kind === "text") {
      into.text += text;
      return;
    }
    const at = this.turn.steps.indexOf(into);
    let thought = this.turn.steps[at - 1];
    if (thought?.kind !== "thinking") {
      thought = newThinking();
      this.turn.steps.splice(at, 0, thought);
    }
    thought.text += text;
    thought.seconds = (now - this.started) / 1000;
    thought.pieces++;
  }

  /** The text so far was thinking whose opening tag stood in the prompt. */
  private retract(now: number): void {
    const text = this.turn.steps.map((step) => (step.kind === "text" ? step.text : "")).join("");
    const others = this.turn.steps.filter((step) => step.kind !== "text");
    const seconds = (now - this.started) / 1000;
    this.turn.steps = [{ ...newThinking(), text, seconds }, ...others] as Step[];
  }

  private pushCall(delta: CallDelta): void {
    const index = delta.index ?? 0;
    let step = this.calls.get(index);
    if (!step || (delta.id && step.id && delta.id !== step.id)) {
      step = toolStep(delta.id ?? `call_${this.turn.steps.length}`, "");
      this.calls.set(index, step);
      this.turn.steps.push(step);
    }
    step.name += delta.function?.name ?? "";
    step.arguments += delta.function?.arguments ?? "";
  }

  private pushServerStep(sent: ServerStep, now: number): void {
    let step = this.turn.steps.find((known) => known.kind === "tool" && known.id === sent.id);
    if (step?.kind !== "tool") {
      step = toolStep(sent.id, sent.name);
      this.turn.steps.push(step);
    }
    const { arguments: given, result, error = false, seconds = null } = sent;
    step.arguments = typeof given === "string" ? given : JSON.stringify(given ?? {});
    Object.assign(step, { result, failed: error, seconds, ranBy: "server" });
    this.started = now;
  }
}

function newThinking(): ThinkingStep {
  return { kind: "thinking", text: "", seconds: 0, pieces: 0 };
}

function toolStep(id: string, name: string): ToolStep {
  return {
    kind: "tool",
    id,
    name,
    arguments: "",
    result: null,
    failed: false,
    seconds: null,
    ranBy: "reader",
  };
}

function usageOf(chunk: Chunk): Usage {
  return {
    prompt: chunk.usage?.prompt_tokens ?? 0,
    completion: chunk.usage?.completion_tokens ?? 0,
    reasoning: chunk.usage?.completion_tokens_details?.reasoning_tokens ?? 0,
  };
}
