/** What keys do on the page; `help.tsx` lists them for the reader. */

import { useEffect, useRef } from "preact/hooks";
import type { OpenDialog } from "./dialogs";

interface Shortcuts {
  escape: () => void;
  focusComposer: () => void;
  newChat: () => void;
  toggleDrawer: () => void;
  open: (dialog: OpenDialog) => void;
}

/** Listens while no dialog is open, for a dialog has keys of its own. */
export function useShortcuts(shortcuts: Shortcuts): void {
  const current = useRef(shortcuts);
  current.current = shortcuts;
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
      const action = shortcutOf(event, current.current);
      if (!action) return;
      event.preventDefault();
      action();
    };
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, []);
}

function shortcutOf(event: KeyboardEvent, shortcuts: Shortcuts): (() => void) | undefined {
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  const typing = event.target instanceof Element && event.target.matches("input, textarea, select");
  if (key === "escape") return event.shiftKey ? shortcuts.focusComposer : shortcuts.escape;
  if (command && event.shiftKey && key === "o") return shortcuts.newChat;
  if (command && event.shiftKey && key === "h") return shortcuts.toggleDrawer;
  if (command && key === ",") return () => shortcuts.open("settings");
  if (command && key === ".") return () => shortcuts.open("options");
  if (key === "?" && !typing) return () => shortcuts.open("help");
  return undefined;
}
