/** What went wrong and the buttons that help. */

import { useEffect, useState } from "preact/hooks";
import { t } from "../language";
import type { Problem, Remedy } from "../types";
import { Icon } from "./icons";

const labels = (): Record<Remedy, string> => ({
  retry: t.tryAgain,
  settings: t.openSettings,
  options: t.options,
  new: t.newChat,
});

interface Props {
  problem: Problem;
  onRemedy: (remedy: Remedy) => void;
}

export function ProblemCard({ problem, onRemedy }: Props) {
  const wait = useCountdown(problem.retryAt);
  return (
    <div class="problem" role="group" aria-label={t.problem}>
      <Icon name="warning" />
      <div>
        <p class="problem-title">{problem.title}</p>
        <p>{problem.advice}</p>
        {problem.detail && <p class="problem-detail">{problem.detail}</p>}
        <div class="problem-remedies">
          {problem.remedies.map((remedy) => (
            <button
              type="button"
              class="button"
              disabled={remedy === "retry" && wait > 0}
              onClick={() => onRemedy(remedy)}
            >
              {remedy === "retry" && wait > 0 ? t.tryAgainIn(wait) : labels()[remedy]}
            </button>
          ))}
        </div>
      </div>
    </div>
  );
}

/** Whole seconds until `time` (Unix milliseconds), counting down. */
function useCountdown(time: number | null): number {
  const left = () => (time === null ? 0 : Math.max(0, Math.ceil((time - Date.now()) / 1000)));
  const [seconds, setSeconds] = useState(left);
  useEffect(() => {
    setSeconds(left());
    if (left() === 0) return;
    const timer = setInterval(() => {
      setSeconds(left());
      if (left() === 0) clearInterval(timer);
    }, 250);
    return () => clearInterval(timer);
  }, [time]);
  return seconds;
}
