/** The nouns every other module speaks in: conversations, turns, the steps of a reply. */

export interface ThinkingStep {
  kind: "thinking";
  text: string;
  /** Seconds spent so far; final once a later step exists or the turn has ended. */
  seconds: number;
  /** Pieces that came so far, which is about as many tokens. */
  pieces: number;
}

export interface TextStep {
  kind: "text";
  text: string;
}

export interface ToolStep {
  kind: "tool";
  id: string;
  name: string;
  /** JSON text, as the model wrote it; may be incomplete while it streams. */
  arguments: string;
  /** What the tool said, null until it has. */
  result: string | null;
  failed: boolean;
  seconds: number | null;
  /** The server runs its own tools; a call of ours waits for the reader to give a result. */
  ranBy: "server" | "reader";
}

export type Step = ThinkingStep | TextStep | ToolStep;

export interface Usage {
  prompt: number;
  completion: number;
  reasoning: number;
}

/** Seconds that a reply took: to its first piece, and from there to its last. */
export interface Timing {
  first: number;
  writing: number;
}

/** Where a reply that the server finishes by itself can be picked up again. */
export interface Resumable {
  base: string;
  id: string;
  /** The number of the last event that is in the turn. */
  sequence: number;
  /** Unix milliseconds when that event came. */
  at: number;
}

export interface Rating {
  value: 1 | -1;
  reason: string;
}

/** Text that goes along with a message. */
export interface Attachment {
  name: string;
  kind: "text" | "table" | "pdf" | "paste";
  text: string;
  /** What it counts for; `exact` where the server has counted. */
  tokens: number;
  exact: boolean;
  /** What the reader should know about it, such as pages without text. */
  note: string;
}

/** What the reader is about to send. */
export interface Draft {
  text: string;
  attachments: Attachment[];
}

export type Remedy = "retry" | "settings" | "options" | "new";

/** Something that went wrong, in words for the reader, and what can be done about it. */
export interface Problem {
  title: string;
  advice: string;
  detail: string;
  remedies: Remedy[];
  /** Unix milliseconds before which a retry is pointless. */
  retryAt: number | null;
}

interface TurnBase {
  id: string;
  /** The turn this one answers or follows; null for the first turns of a conversation. */
  parent: string | null;
  created: number;
}

export interface UserTurn extends TurnBase {
  role: "user";
  text: string;
  attachments?: Attachment[];
}

export type TurnStatus = "streaming" | "done" | "stopped" | "failed";

export interface AssistantTurn extends TurnBase {
  role: "assistant";
  model: string;
  steps: Step[];
  status: TurnStatus;
  finish: string | null;
  /** The server's word on why it ended, where it gave one. */
  finishNote: string;
  usage: Usage | null;
  problem: Problem | null;
  timing?: Timing | null;
  resumable?: Resumable | null;
  /** Unix milliseconds of the last sign of life from the tab that receives it. */
  seen?: number;
  rating?: Rating | null;
  /** Whether the reader said that this version is the best one. */
  preferred?: boolean;
  /** Whether the reader wrote it, from a version of the model's. */
  edited?: boolean;
  /** Grows with every change, so that a view can tell whether to draw again. */
  revision: number;
}

export type Turn = UserTurn | AssistantTurn;

/** What is sent along with the messages; null and "" mean: leave it to the server. */
export interface ChatOptions {
  system: string;
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  maxTokens: number | null;
  seed: number | null;
  effort: "" | "none" | "low" | "medium" | "high";
  /** Thinking tokens; where given, it is sent instead of the effort. */
  thinkingBudget: number | null;
  /** A JSON list of OpenAI function tools, or "". */
  tools: string;
  /** The server's tools that this chat does without. */
  withoutTools: string[];
  /** Whether the reader is asked before one of the server's tools runs. */
  approve: boolean;
}

export interface Conversation {
  id: string;
  title: string;
  /** True once the reader has chosen the title. */
  named: boolean;
  created: number;
  updated: number;
  options: ChatOptions;
  turns: Record<string, Turn>;
  /** Which child of a turn is shown, by parent id; "" stands for the beginning. */
  chosen: Record<string, string>;
}

export interface Summary {
  id: string;
  title: string;
  updated: number;
  /** Words around what a search has found. */
  snippet?: string;
}

/** A model as the server lists it; a server of another make says less. */
export interface Model {
  id: string;
  contextLength: number | null;
  /** Names of tools that the server runs itself. */
  tools: string[];
  /** Whether it is OpenQwQ, which finishes replies by itself. */
  durable: boolean;
  feedback: boolean;
}

export type LanguageName = "auto" | "en" | "zh";

export type Theme = "auto" | "light" | "dark";

export interface Settings {
  base: string;
  key: string;
  model: string;
  theme: Theme;
  language: LanguageName;
  /** The options a new conversation starts with: those last used. */
  options: ChatOptions;
}
