/** The page: conversations at the side, the chat, the message field, and its dialogs. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { Chat } from "../chat";
import { shownPath } from "../tree";
import type { AssistantTurn, Remedy, Summary, Theme } from "../types";
import { Composer } from "./composer";
import { DeleteDialog, HelpDialog } from "./help";
import { IconButton, type IconName } from "./icons";
import { OptionsDialog } from "./options";
import { ProblemCard } from "./problem";
import { SettingsDialog } from "./settings";
import { Sidebar } from "./sidebar";
import { Transcript } from "./transcript";

type Open = "settings" | "options" | "help" | null;

const PHONE = matchMedia("(max-width: 800px)");
const THEMES: Record<Theme, { next: Theme; icon: IconName; label: string }> = {
  auto: { next: "light", icon: "auto", label: "Appearance: as the system" },
  light: { next: "dark", icon: "sun", label: "Appearance: light" },
  dark: { next: "auto", icon: "moon", label: "Appearance: dark" },
};

export function App({ chat }: { chat: Chat }) {
  const [open, setOpen] = useState<Open>(null);
  const [drawer, setDrawer] = useState(!PHONE.matches);
  const [deleting, setDeleting] = useState<Summary | null>(null);
  const [editing, setEditing] = useState<string | null>(null);
  const area = useRef<HTMLTextAreaElement>(null);
  const { conversation, settings, run } = chat;

  // A dialog that closes late must not take away the one opened meanwhile.
  const close = (dialog: Open) => setOpen((now) => (now === dialog ? null : now));
  const focusComposer = () => area.current?.focus();
  const afterChoice = () => {
    setEditing(null);
    if (PHONE.matches) setDrawer(false);
    focusComposer();
  };
  const newChat = () => {
    chat.newChat();
    afterChoice();
  };
  const editLast = () => {
    const last = shownPath(conversation).findLast((turn) => turn.role === "user");
    if (last && !run) setEditing(last.id);
  };

  useEffect(() => {
    document.documentElement.dataset["theme"] = settings.theme;
  }, [settings.theme]);
  useEffect(() => {
    document.title = conversation.title === "New chat" ? "OpenQwQ" : conversation.title;
  }, [conversation.title]);
  useEffect(() => {
    if (!PHONE.matches) focusComposer();
  }, []);
  useShortcuts({
    stop: () => chat.stop(),
    focusComposer,
    newChat,
    toggleDrawer: () => setDrawer(!drawer),
    open: setOpen,
  });

  const remedy = (kind: Remedy, turn?: AssistantTurn) => {
    if (kind === "retry") turn ? chat.retry(turn) : void chat.refreshModels();
    if (kind === "settings" || kind === "options") setOpen(kind);
    if (kind === "new") newChat();
  };
  const exportJson = (id?: string) =>
    void chat.exported(id).then((text) => download(text, id ? "chat.json" : "chats.json"));

  const actions = {
    edit: (id: string, text: string) => {
      chat.edit(id, text);
      focusComposer();
    },
    regenerate: (id: string) => chat.regenerate(id),
    showBranch: (id: string) => chat.showBranch(id),
    giveResult: chat.giveResult.bind(chat),
    remedy,
  };
  const thinking = run?.turn.steps.at(-1)?.kind === "thinking";
  const theme = THEMES[settings.theme];

  return (
    <div class={`app ${drawer ? "with-sidebar" : ""}`}>
      <Sidebar
        summaries={chat.summaries}
        current={conversation.id}
        open={drawer}
        onClose={() => setDrawer(false)}
        onNew={newChat}
        onOpen={(id) => {
          void chat.open(id);
          afterChoice();
        }}
        onRename={(id, title) => void chat.rename(id, title)}
        onExport={exportJson}
        onRemove={setDeleting}
      />
      {drawer && <div class="scrim" onClick={() => setDrawer(false)} />}
      <main>
        <header class="top">
          <IconButton
            name="menu"
            label="Conversations"
            expanded={drawer}
            onClick={() => setDrawer(!drawer)}
          />
          <h1 class="visually-hidden">{conversation.title}</h1>
          <ModelPicker
            models={chat.models}
            model={settings.model}
            onChange={(model) => chat.saveSettings({ model })}
            onSettings={() => setOpen("settings")}
          />
          <span class="spacer" />
          <IconButton
            name={theme.icon}
            label={theme.label}
            onClick={() => chat.saveSettings({ theme: theme.next })}
          />
          <IconButton name="options" label="Chat options" onClick={() => setOpen("options")} />
          <IconButton name="settings" label="Settings" onClick={() => setOpen("settings")} />
          <IconButton
            name="help"
            label="Keyboard shortcuts"
            class="desktop-only"
            onClick={() => setOpen("help")}
          />
        </header>
        {chat.storageFailed && (
          <p class="banner" role="status">
            This browser does not keep your chats (private window or full disk).
          </p>
        )}
        {chat.connection && (
          <div class="banner">
            <ProblemCard problem={chat.connection} onRemedy={(kind) => remedy(kind)} />
          </div>
        )}
        <Transcript
          conversation={conversation}
          busy={run !== undefined}
          editing={editing}
          onEditing={(id) => {
            setEditing(id);
            if (id === null) focusComposer();
          }}
          onStarter={(text) => chat.send(text)}
          actions={actions}
        />
        <Composer
          area={area}
          running={run !== undefined}
          answerable={thinking && chat.canAnswerNow && run?.responseId !== null}
          onSend={(text) => chat.send(text)}
          onStop={() => chat.stop()}
          onAnswerNow={() => void chat.answerNow()}
          onEditLast={editLast}
        />
      </main>
      {open === "help" && <HelpDialog onClose={() => close("help")} />}
      {open === "options" && (
        <OptionsDialog
          options={conversation.options}
          onChange={(change) => chat.setOptions(change)}
          onReset={() => chat.resetOptions()}
          onClose={() => close("options")}
        />
      )}
      {open === "settings" && (
        <SettingsDialog
          settings={settings}
          models={chat.models}
          connection={chat.connection}
          conversations={chat.summaries.length}
          onChange={(change) => chat.saveSettings(change)}
          onRefresh={() => void chat.refreshModels()}
          onExportAll={() => exportJson()}
          onRemoveAll={() => void chat.removeAll()}
          onClose={() => close("settings")}
        />
      )}
      {deleting && (
        <DeleteDialog
          summary={deleting}
          onClose={() => setDeleting(null)}
          onDelete={() => {
            void chat.remove(deleting.id);
            setDeleting(null);
            focusComposer();
          }}
        />
      )}
    </div>
  );
}

interface PickerProps {
  models: string[];
  model: string;
  onChange: (model: string) => void;
  onSettings: () => void;
}

function ModelPicker({ models, model, onChange, onSettings }: PickerProps) {
  if (models.length < 2) {
    return (
      <button type="button" class="model" title="Settings" onClick={onSettings}>
        {model || "No model"}
      </button>
    );
  }
  return (
    <select
      class="model"
      aria-label="Model"
      value={model}
      onChange={(event) => onChange(event.currentTarget.value)}
    >
      {models.map((name) => (
        <option value={name}>{name}</option>
      ))}
    </select>
  );
}

interface Shortcuts {
  stop: () => void;
  focusComposer: () => void;
  newChat: () => void;
  toggleDrawer: () => void;
  open: (dialog: Open) => void;
}

function useShortcuts(shortcuts: Shortcuts): void {
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
  if (key === "escape") return event.shiftKey ? shortcuts.focusComposer : shortcuts.stop;
  if (command && event.shiftKey && key === "o") return shortcuts.newChat;
  if (command && event.shiftKey && key === "h") return shortcuts.toggleDrawer;
  if (command && key === ",") return () => shortcuts.open("settings");
  if (command && key === ".") return () => shortcuts.open("options");
  if (key === "?" && !typing) return () => shortcuts.open("help");
  return undefined;
}

function download(text: string, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
