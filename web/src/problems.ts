/** Turns failures into words a reader can act on. */

import { ApiError, ConnectionError } from "./api";
import type { Problem, Remedy } from "./types";

function problem(
  title: string,
  advice: string,
  detail: string,
  remedies: Remedy[],
  retryAt: number | null = null,
): Problem {
  return { title, advice, detail, remedies, retryAt };
}

export function explain(error: unknown, base: string): Problem {
  if (error instanceof ConnectionError) return connectionProblem(error, base);
  if (error instanceof ApiError) return apiProblem(error);
  return problem(
    "The server's answer made no sense",
    "It may not speak OpenAI's protocol. Check the server address in Settings.",
    String(error),
    ["retry", "settings"],
  );
}

function connectionProblem(error: ConnectionError, base: string): Problem {
  if (error.during === "stream") {
    return problem(
      "The connection broke off",
      "What had arrived is kept. Check the network, then try again.",
      error.message,
      ["retry"],
    );
  }
  const elsewhere = base.trim() !== "" && new URL(base, location.href).origin !== location.origin;
  const hint = elsewhere
    ? " A server at another address must also allow this page (CORS), and this page's own server must permit the connection."
    : "";
  return problem(
    "The server cannot be reached",
    `Check that it is running and that you are online.${hint}`,
    `${base.trim() || location.origin}: ${error.message}`,
    ["retry", "settings"],
  );
}

function apiProblem(error: ApiError): Problem {
  const { status, message } = error;
  if (isOverflow(error)) {
    return problem(
      "The conversation is too long for this model",
      "Edit an earlier message, lower “Max tokens”, or start a new chat.",
      message,
      ["options", "new"],
    );
  }
  if (status === 401 || status === 403) {
    return problem(
      "The server wants an API key",
      "Enter the key in Settings, or check the one that is there.",
      message,
      ["settings", "retry"],
    );
  }
  if (status === 429 || status === 503) {
    const wait = error.retryAfter ?? null;
    const retryAt = wait === null ? null : Date.now() + Math.max(0, wait) * 1000;
    const advice =
      wait === null ? "Wait a moment, then try again." : "Try again when the countdown ends.";
    return problem("The server is busy", advice, message, ["retry"], retryAt);
  }
  if (status === 404) {
    return problem(
      "The server does not know this model or address",
      "Choose another model, or check the server address in Settings.",
      message,
      ["settings", "retry"],
    );
  }
  if (status >= 500) {
    const advice = "Try again; if it stays, its log says more.";
    return problem("The server failed", advice, `${status}: ${message}`, ["retry"]);
  }
  if (status >= 400) {
    const advice = "The server's reason is below. The chat options may hold a value it refuses.";
    return problem("The server refused the request", advice, message, ["options", "retry"]);
  }
  return problem("The reply failed", "Try again.", message, ["retry"]);
}

function isOverflow({ code, message, status }: ApiError): boolean {
  if (code === "context_length_exceeded" || status === 413) return true;
  const words = /context (length|window|size)|maximum context|too many tokens|tokens over/i;
  return words.test(message);
}
