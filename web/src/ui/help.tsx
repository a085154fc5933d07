/** The keyboard shortcuts, and the question before something is deleted. */

import { t } from "../language";
import type { Summary } from "../types";
import { Dialog } from "./dialog";

const SHORTCUTS: [string[], keyof typeof t.shortcutList][] = [
  [["Enter"], "send"],
  [["Shift", "Enter"], "newLine"],
  [["Esc"], "stop"],
  [["↑"], "edit"],
  [["Shift", "Esc"], "field"],
  [["Ctrl", "Shift", "O"], "newChat"],
  [["Ctrl", "Shift", "H"], "list"],
  [["Ctrl", ","], "settings"],
  [["Ctrl", "."], "options"],
  [["?"], "help"],
];

export function HelpDialog({ onClose }: { onClose: () => void }) {
  const mac = navigator.userAgent.includes("Mac");
  return (
    <Dialog title={t.shortcuts} onClose={onClose} class="narrow">
      <dl class="shortcuts">
        {SHORTCUTS.map(([keys, what]) => (
          <div>
            <dt>{t.shortcutList[what]}</dt>
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
    <Dialog title={t.deleteTitle} onClose={onClose} class="narrow">
      <p class="delete-title" dir="auto">
        {summary.title || t.newChat}
      </p>
      <p class="hint">{t.deleteHint}</p>
      <div class="dialog-actions">
        <button type="button" class="button" onClick={onClose}>
          {t.keep}
        </button>
        <button type="button" class="button danger" onClick={onDelete}>
          {t.delete}
        </button>
      </div>
    </Dialog>
  );
}
