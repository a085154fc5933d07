/** Turns failures into words a reader can act on. */

import { ApiError, ConnectionError } from "./api";
import { t } from "./language";
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
  return problem(t.problems.nonsense, t.problems.nonsenseAdvice, String(error), [
    "retry",
    "settings",
  ]);
}

function connectionProblem(error: ConnectionError, base: string): Problem {
  if (error.during === "stream") {
    return problem(t.problems.brokeOff, t.problems.brokeOffAdvice, error.message, ["retry"]);
  }
  const elsewhere = base.trim() !== "" && new URL(base, location.href).origin !== location.origin;
  const hint = elsewhere ? t.problems.elsewhere : "";
  return problem(
    t.problems.unreachable,
    t.problems.unreachableAdvice + hint,
    `${base.trim() || location.origin}: ${error.message}`,
    ["retry", "settings"],
  );
}

function apiProblem(error: ApiError): Problem {
  const { status, message } = error;
  if (isOverflow(error)) {
    return problem(t.problems.tooLong, t.problems.tooLongAdvice, message, ["options", "new"]);
  }
  if (status === 401 || status === 403) {
    return problem(t.problems.key, t.problems.keyAdvice, message, ["settings", "retry"]);
  }
  if (status === 429 || status === 503) {
    const wait = error.retryAfter ?? null;
    const retryAt = wait === null ? null : Date.now() + Math.max(0, wait) * 1000;
    const advice = wait === null ? t.problems.busyAdvice : t.problems.busyCountdown;
    return problem(t.problems.busy, advice, message, ["retry"], retryAt);
  }
  if (status === 404) {
    return problem(t.problems.unknown, t.problems.unknownAdvice, message, ["settings", "retry"]);
  }
  if (status >= 500) {
    const advice = t.problems.failedAdvice;
    return problem(t.problems.failed, advice, `${status}: ${message}`, ["retry"]);
  }
  if (status >= 400) {
    const advice = t.problems.refusedAdvice;
    return problem(t.problems.refused, advice, message, ["options", "retry"]);
  }
  return problem(t.problems.replyFailed, t.problems.replyFailedAdvice, message, ["retry"]);
}

function isOverflow({ code, message, status }: ApiError): boolean {
  if (code === "context_length_exceeded" || status === 413) return true;
  const words = /context (length|window|size)|maximum context|too many tokens|tokens over/i;
  return words.test(message);
}
