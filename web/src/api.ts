/** The OpenAI-compatible endpoint: models, streamed chat completions, what our server adds. */

import { readEvents } from "./sse";
import type { ApiMessage } from "./tree";
import type { ChatOptions, Model, Settings } from "./types";

/** The server said no; `code` is OpenAI's error code or type where it gave one. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfter: number | null,
  ) {
    super(message);
  }
}

/** The server was not reached, or the connection broke off. */
export class ConnectionError extends Error {
  constructor(
    readonly during: "connect" | "stream",
    message: string,
  ) {
    super(message);
  }
}

export interface Delta {
  content?: string | null;
  reasoning_content?: string | null;
  reasoning?: string | null;
  tool_calls?: CallDelta[] | null;
  tool_steps?: ServerStep[] | null;
}

export interface CallDelta {
  index?: number;
  id?: string | null;
  function?: { name?: string | null; arguments?: string | null } | null;
}

/** OpenQwQ's extension: a call that the server runs itself; the result is null while it runs. */
export interface ServerStep {
  id: string;
  name: string;
  arguments: unknown;
  result: string | null;
  error?: boolean;
  seconds?: number | null;
}

export interface Chunk {
  id?: string;
  model?: string;
  choices?: {
    delta?: Delta;
    message?: Delta;
    finish_reason?: string | null;
    finish_details?: { message?: string } | null;
  }[];
  usage?: {
    prompt_tokens?: number;
    completion_tokens?: number;
    completion_tokens_details?: { reasoning_tokens?: number } | null;
  } | null;
  error?: { message?: string; code?: unknown; type?: string } | string;
}

/** `base` may be given with or without `/v1`; "" is the server this page came from. */
export function endpoint(base: string, path: string): string {
  const root = base.trim() || new URL(".", location.href).href;
  return root.replace(/\/+$/, "").replace(/\/v1$/, "") + path;
}

export async function send(settings: Settings, path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  if (settings.key) headers.set("Authorization", `Bearer ${settings.key}`);
  if (init.body) headers.set("Content-Type", "application/json");
  // The page's own server may have asked for the key as the browser's password: it goes along.
  const privacy = { referrerPolicy: "no-referrer", credentials: "same-origin" } as const;
  let response: Response;
  try {
    response = await fetch(endpoint(settings.base, path), { ...init, headers, ...privacy });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ConnectionError("connect", String(error));
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => "");
  const wait = response.headers.get("Retry-After");
  const seconds = wait === null ? NaN : Number(wait);
  const date = wait === null ? NaN : (Date.parse(wait) - Date.now()) / 1000;
  const retryAfter = [seconds, date].find((value) => Number.isFinite(value)) ?? null;
  const { code, message } = errorParts(text);
  return new ApiError(response.status, code, message || response.statusText, retryAfter);
}

export function errorParts(text: string): { code: string; message: string } {
  try {
    const body = JSON.parse(text) as Chunk & { detail?: unknown; message?: string };
    const error = body.error ?? body.detail ?? body.message;
    if (typeof error === "object" && error !== null) {
      const { code, type, message } = error as { code?: unknown; type?: string; message?: string };
      return { code: String(code ?? type ?? ""), message: message ?? JSON.stringify(error) };
    }
    return { code: "", message: typeof error === "string" ? error : text.slice(0, 500) };
  } catch {
    return {
      code: "",
      message: text
        .replace(/<[^>]*>/g, " ")
        .slice(0, 500)
        .trim(),
    };
  }
}

interface ListedModel {
  id?: unknown;
  owned_by?: unknown;
  context_length?: unknown;
  max_model_len?: unknown;
  tools?: unknown;
  loaded?: unknown;
  feedback?: unknown;
}

export async function listModels(settings: Settings, signal: AbortSignal): Promise<Model[]> {
  const response = await send(settings, "/v1/models", { signal });
  const body = (await response.json().catch(() => null)) as { data?: ListedModel[] } | null;
  if (!Array.isArray(body?.data)) {
    throw new ApiError(response.status, "", "It does not list models as OpenAI's API does.", null);
  }
  return body.data.map(modelOf).filter(({ id }) => id);
}

function modelOf(listed: ListedModel): Model {
  const length = listed.context_length ?? listed.max_model_len;
  return {
    id: String(listed.id ?? ""),
    contextLength: typeof length === "number" ? length : null,
    tools: Array.isArray(listed.tools) ? listed.tools.map(String) : [],
    durable: listed.owned_by === "openqwq" && "loaded" in listed,
    feedback: listed.feedback === true,
  };
}

/** A function tool in OpenAI's form. */
export interface FunctionTool {
  type: "function";
  function: { name: string; description?: string; parameters?: unknown };
}

/** What a chat's tools come to in a request. */
export interface RequestTools {
  tools: FunctionTool[];
  /** Whether the server must leave its own tools alone. */
  none: boolean;
}

/** The request of one reply; what the reader left open is left out. */
export function requestBody(
  model: string,
  messages: ApiMessage[],
  options: ChatOptions,
  { tools, none }: RequestTools,
): Record<string, unknown> {
  const body: Record<string, unknown> = {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
  };
  const wanted: Record<string, unknown> = {
    temperature: options.temperature,
    top_p: options.topP,
    top_k: options.topK,
    max_tokens: options.maxTokens,
    seed: options.seed,
    reasoning_effort: options.thinkingBudget === null ? options.effort || null : null,
    thinking_budget: options.thinkingBudget,
    tools: tools.length ? tools : null,
    tool_choice: none ? "none" : null,
  };
  for (const [name, value] of Object.entries(wanted)) if (value !== null) body[name] = value;
  return body;
}

/** The chunks of one streamed reply; a server that does not stream gives a single one. */
export async function* streamChat(
  settings: Settings,
  body: Record<string, unknown>,
  signal: AbortSignal,
): AsyncGenerator<Chunk> {
  const init = { method: "POST", body: JSON.stringify(body), signal };
  const response = await send(settings, "/v1/chat/completions", init);
  if (!response.headers.get("Content-Type")?.includes("text/event-stream")) {
    yield (await response.json()) as Chunk;
    return;
  }
  if (!response.body) throw new ConnectionError("stream", "empty response");
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") return;
      yield parseChunk(data, response.status);
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ConnectionError("stream", String(error));
  }
}

function parseChunk(data: string, status: number): Chunk {
  const chunk = JSON.parse(data) as Chunk;
  if (!chunk.error) return chunk;
  const { code, message } = errorParts(data);
  throw new ApiError(status, code, message, null);
}

/** Asks the server to end the thinking of a running reply; false where it cannot. */
export async function answerNow(settings: Settings, id: string): Promise<boolean> {
  const kind = id.startsWith("resp_") ? "responses" : "chat/completions";
  return succeeds(send(settings, `/v1/${kind}/${encodeURIComponent(id)}/answer_now`, POST));
}

const POST = { method: "POST" };

async function succeeds(request: Promise<unknown>): Promise<boolean> {
  try {
    await request;
    return true;
  } catch (error) {
    if (error instanceof ApiError || error instanceof ConnectionError) return false;
    throw error;
  }
}

/** The tools that the server runs, as a model is shown them. */
export async function listTools(settings: Settings): Promise<FunctionTool[]> {
  const response = await send(settings, "/v1/tools", {});
  return ((await response.json()) as { data: FunctionTool[] }).data;
}

export interface ToolResult {
  result: string;
  error: boolean;
  seconds: number;
}

/** Runs one call of a tool of the server's. */
export async function callTool(
  settings: Settings,
  name: string,
  given: unknown,
): Promise<ToolResult> {
  const body = JSON.stringify({ arguments: given });
  const path = `/v1/tools/${encodeURIComponent(name)}`;
  const response = await send(settings, path, { ...POST, body });
  return (await response.json()) as ToolResult;
}

/** How many tokens a text has, as the server's tokenizer counts; null where it has no such route. */
export async function countTokens(settings: Settings, text: string): Promise<number | null> {
  try {
    const body = JSON.stringify({ text });
    const response = await send(settings, "/tokenize", { ...POST, body });
    return ((await response.json()) as { count: number }).count;
  } catch {
    return null;
  }
}

/** Sends an opinion, or withdraws it. */
export async function sendFeedback(
  settings: Settings,
  opinion: Record<string, unknown>,
): Promise<void> {
  await send(settings, "/v1/feedback", { ...POST, body: JSON.stringify(opinion) });
}

export async function withdrawFeedback(settings: Settings, id: string): Promise<void> {
  await send(settings, `/v1/feedback/${encodeURIComponent(id)}`, { method: "DELETE" });
}
