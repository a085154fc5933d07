/** Replies that the server finishes without us: made, followed, picked up again, cancelled.
 *
 * The server numbers and keeps the events of a background response, so a page that was closed, or
 * whose network failed, asks for those that it has missed.
 */

import { ApiError, ConnectionError, errorParts, send, type Chunk } from "./api";
import { readEvents } from "./sse";
import type { ApiMessage } from "./tree";
import type { Settings } from "./types";

interface Item {
  type: string;
  id?: string;
  call_id?: string;
  name?: string;
  arguments?: string;
  output?: string | null;
  error?: unknown;
  status?: string;
}

export interface ResponseEvent {
  type: string;
  sequence_number: number;
  delta?: string;
  output_index?: number;
  item_id?: string;
  item?: Item;
  response?: {
    id: string;
    model: string;
    error?: { code?: string; message?: string } | null;
    finish_details?: { message?: string } | null;
    output: Item[];
    usage?: {
      input_tokens: number;
      output_tokens: number;
      output_tokens_details: { reasoning_tokens: number };
    } | null;
  };
}

/** A chat request as a background response that streams. */
export function responseBody(chat: Record<string, unknown>): Record<string, unknown> {
  const { messages, stream_options: _, max_tokens, reasoning_effort, tools, ...same } = chat;
  const [first, ...rest] = messages as ApiMessage[];
  const system = first?.role === "system" ? first.content : null;
  const turns = system === null ? (messages as ApiMessage[]) : rest;
  const body: Record<string, unknown> = { ...same, background: true, store: true };
  body["input"] = turns.flatMap(itemsOf);
  if (system !== null) body["instructions"] = system;
  if (max_tokens !== undefined) body["max_output_tokens"] = max_tokens;
  if (reasoning_effort !== undefined) body["reasoning"] = { effort: reasoning_effort };
  if (Array.isArray(tools)) {
    body["tools"] = tools.map(({ function: own }: { function: object }) => ({
      type: "function",
      ...own,
    }));
  }
  return body;
}

function itemsOf({ role, content, tool_calls = [], tool_call_id }: ApiMessage): unknown[] {
  if (role === "tool") {
    return [{ type: "function_call_output", call_id: tool_call_id, output: content }];
  }
  const items: unknown[] = [];
  if (content || !tool_calls.length) items.push({ type: "message", role, content });
  for (const { id, function: call } of tool_calls) {
    items.push({ type: "function_call", call_id: id, ...call });
  }
  return items;
}

export function startResponse(
  settings: Settings,
  body: Record<string, unknown>,
  signal: AbortSignal,
): AsyncGenerator<ResponseEvent> {
  const init = { method: "POST", body: JSON.stringify(body), signal };
  return eventsOf(send(settings, "/v1/responses", init), signal);
}

/** The events behind number `after`, those to come included. */
export function resumeResponse(
  settings: Settings,
  id: string,
  after: number,
  signal: AbortSignal,
): AsyncGenerator<ResponseEvent> {
  const query = after >= 0 ? `&starting_after=${after}` : "";
  const path = `/v1/responses/${encodeURIComponent(id)}?stream=true${query}`;
  return eventsOf(send(settings, path, { signal }), signal);
}

/** The last event of a response that has ended, made of what is stored; null while it runs.
 *
 * A server that was killed may not have stored the last events that it sent, so that its word on
 * the end has a number that the page has seen already.
 */
export async function endOf(settings: Settings, id: string): Promise<ResponseEvent | null> {
  const answer = await send(settings, `/v1/responses/${encodeURIComponent(id)}`, {});
  const response = (await answer.json()) as ResponseEvent["response"] & { status: string };
  if (["queued", "in_progress"].includes(response.status)) return null;
  return { type: `response.${response.status}`, sequence_number: 0, response };
}

/** Ends a response on the server; that it has ended already, or is gone, is no matter. */
export async function cancelResponse(settings: Settings, id: string): Promise<void> {
  const path = `/v1/responses/${encodeURIComponent(id)}/cancel`;
  await send(settings, path, { method: "POST" }).catch(() => undefined);
}

async function* eventsOf(
  request: Promise<Response>,
  signal: AbortSignal,
): AsyncGenerator<ResponseEvent> {
  const response = await request;
  if (!response.body) throw new ConnectionError("stream", "empty response");
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data) as ResponseEvent;
      if (event.type === undefined) {
        const { code, message } = errorParts(data);
        throw new ApiError(response.status, code, message, null);
      }
      yield event;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ConnectionError("stream", String(error));
  }
}

export function isLast({ type }: ResponseEvent): boolean {
  return /^response\.(completed|incomplete|failed|cancelled)$/.test(type);
}

/** An event as the chunk of a chat completion that says the same; null where it says nothing.
 *
 * Raises ApiError for a response that failed.
 */
export function chunkOf(event: ResponseEvent): Chunk | null {
  const { type, delta = "", response } = event;
  switch (type) {
    case "response.created":
      return response ? { id: response.id, model: response.model } : null;
    case "response.reasoning_text.delta":
      return withDelta({ reasoning_content: delta });
    case "response.output_text.delta":
      return withDelta({ content: delta });
    case "response.output_item.added":
    case "response.output_item.done":
      return itemChunk(event);
    case "response.function_call_arguments.delta":
      return withDelta({
        tool_calls: [{ index: event.output_index ?? 0, function: { arguments: delta } }],
      });
    case "response.completed":
    case "response.incomplete":
      return response ? lastChunk(type, response) : null;
    case "response.failed": {
      const { code = "server_error", message = "The response failed." } = response?.error ?? {};
      throw new ApiError(code === "server_error" ? 500 : 400, code, message, null);
    }
  }
  return null;
}

function withDelta(delta: NonNullable<NonNullable<Chunk["choices"]>[0]["delta"]>): Chunk {
  return { choices: [{ delta }] };
}

function itemChunk({ type, item, output_index = 0 }: ResponseEvent): Chunk | null {
  if (item?.type === "function_call" && type.endsWith("added")) {
    const call = { index: output_index, id: item.call_id ?? "", function: { name: item.name } };
    return withDelta({ tool_calls: [call] });
  }
  if (item?.type !== "mcp_call") return null;
  const failed = item.error !== null && item.error !== undefined;
  const done = type.endsWith("done");
  return withDelta({
    tool_steps: [
      {
        id: item.id ?? "",
        name: item.name ?? "",
        arguments: item.arguments ?? "",
        result: done ? String((failed ? item.error : item.output) ?? "") : null,
        error: failed,
      },
    ],
  });
}

function lastChunk(type: string, response: NonNullable<ResponseEvent["response"]>): Chunk {
  const calls = response.output.some((item) => item.type === "function_call");
  const cut = type === "response.incomplete";
  const { usage } = response;
  return {
    choices: [
      {
        finish_reason: cut ? "length" : calls ? "tool_calls" : "stop",
        finish_details: response.finish_details ?? null,
      },
    ],
    usage: usage
      ? {
          prompt_tokens: usage.input_tokens,
          completion_tokens: usage.output_tokens,
          completion_tokens_details: {
            reasoning_tokens: usage.output_tokens_details.reasoning_tokens,
          },
        }
      : null,
  };
}
