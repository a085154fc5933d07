/** The nouns every other module speaks in: conversations, turns, the steps of a reply. */

export interface ThinkingStep {
  kind: "thinking";
  text: string;
  /** Seconds spent so far; final once a later step exists or the turn has ended. */
  seconds: number;
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
}

export type Theme = "auto" | "light" | "dark";

export interface Settings {
  base: string;
  key: string;
  model: string;
  theme: Theme;
  /** The options a new conversation starts with: those last used. */
  options: ChatOptions;
}
