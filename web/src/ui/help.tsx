/** The keyboard shortcuts, and the question before something is deleted. */

import type { Summary } from "../types";
import { Dialog } from "./dialog";

const SHORTCUTS: [string[], string][] = [
  [["Enter"], "Send"],
  [["Shift", "Enter"], "New line"],
  [["Esc"], "Stop the reply, or close a dialog"],
  [["↑"], "Edit your last message, from an empty field"],
  [["Shift", "Esc"], "Go to the message field"],
  [["Ctrl", "Shift", "O"], "New chat"],
  [["Ctrl", "Shift", "H"], "Show or hide the conversations"],
  [["Ctrl", ","], "Settings"],
  [["Ctrl", "."], "Chat options"],
  [["?"], "This list"],
];

export function HelpDialog({ onClose }: { onClose: () => void }) {
  const mac = navigator.userAgent.includes("Mac");
  return (
    <Dialog title="Keyboard shortcuts" onClose={onClose} class="narrow">
      <dl class="shortcuts">
        {SHORTCUTS.map(([keys, what]) => (
          <div>
            <dt>{what}</dt>
            <dd>
              {keys.map((key) => (
                <kbd>{mac && key === "Ctrl" ? "⌘" : key}</kbd>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}

interface DeleteProps {
  summary: Summary;
  onClose: () => void;
  onDelete: () => void;
}

export function DeleteDialog({ summary, onClose, onDelete }: DeleteProps) {
  return (
    <Dialog title="Delete this chat?" onClose={onClose} class="narrow">
      <p class="delete-title" dir="auto">
        {summary.title}
      </p>
      <p class="hint">It is only in this browser, and it cannot be brought back.</p>
      <div class="dialog-actions">
        <button type="button" class="button" onClick={onClose}>
          Keep
        </button>
        <button type="button" class="button danger" onClick={onDelete}>
          Delete
        </button>
      </div>
    </Dialog>
  );
}
