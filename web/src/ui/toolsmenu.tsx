/** The server's tools: which of them this chat may use, and whether the reader is asked first. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { Chat } from "../chat";
import { t } from "../language";
import { Icon } from "./icons";

export function ToolsMenu({ chat }: { chat: Chat }) {
  const box = useRef<HTMLDivElement>(null);
  const [open, setOpen] = useState(false);
  const tools = chat.model?.tools ?? [];
  const { options } = chat.conversation;

  useEffect(() => {
    if (!open) return;
    const onDown = (event: Event) => {
      if (!box.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", onDown);
    return () => document.removeEventListener("pointerdown", onDown);
  }, [open]);

  if (!tools.length) return null;
  const toggle = (name: string, on: boolean) => {
    const others = options.withoutTools.filter((other) => other !== name);
    chat.setOptions({ withoutTools: on ? others : [...others, name] });
  };
  const active = tools.filter((name) => !options.withoutTools.includes(name)).length;
  return (
    <div
      class="tools-menu"
      ref={box}
      onKeyDown={(event) => {
        if (event.key !== "Escape" || !open) return;
        event.preventDefault();
        event.stopPropagation();
        setOpen(false);
      }}
    >
      <button type="button" class="menu-button" aria-expanded={open} onClick={() => setOpen(!open)}>
        <Icon name="tool" />
        {t.toolsMenu} {active}/{tools.length}
      </button>
      {open && (
        <fieldset class="menu">
          <legend>{t.toolsHint}</legend>
          {tools.map((name) => (
            <label>
              <input
                type="checkbox"
                checked={!options.withoutTools.includes(name)}
                onChange={(event) => toggle(name, event.currentTarget.checked)}
              />
              <span>{name}</span>
            </label>
          ))}
          <label class="menu-last">
            <input
              type="checkbox"
              checked={options.approve}
              onChange={(event) => chat.setOptions({ approve: event.currentTarget.checked })}
            />
            <span>{t.approveFirst}</span>
          </label>
        </fieldset>
      )}
    </div>
  );
}
