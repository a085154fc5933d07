/** The line on top: conversations, the model, appearance, options, settings. */

import type { Chat } from "../chat";
import type { Theme } from "../types";
import type { OpenDialog } from "./dialogs";
import { IconButton, type IconName } from "./icons";

const THEMES: Record<Theme, { next: Theme; icon: IconName; label: string }> = {
  auto: { next: "light", icon: "auto", label: "Appearance: as the system" },
  light: { next: "dark", icon: "sun", label: "Appearance: light" },
  dark: { next: "auto", icon: "moon", label: "Appearance: dark" },
};

interface Props {
  chat: Chat;
  drawer: boolean;
  onDrawer: () => void;
  onOpen: (dialog: OpenDialog) => void;
}

export function Header({ chat, drawer, onDrawer, onOpen }: Props) {
  const theme = THEMES[chat.settings.theme];
  return (
    <header class="top">
      <IconButton name="menu" label="Conversations" expanded={drawer} onClick={onDrawer} />
      <h1 class="visually-hidden">{chat.conversation.title}</h1>
      <ModelPicker
        models={chat.models}
        model={chat.settings.model}
        onChange={(model) => chat.saveSettings({ model })}
        onSettings={() => onOpen("settings")}
      />
      <span class="spacer" />
      <IconButton
        name={theme.icon}
        label={theme.label}
        onClick={() => chat.saveSettings({ theme: theme.next })}
      />
      <IconButton name="options" label="Chat options" onClick={() => onOpen("options")} />
      <IconButton name="settings" label="Settings" onClick={() => onOpen("settings")} />
      <IconButton
        name="help"
        label="Keyboard shortcuts"
        class="desktop-only"
        onClick={() => onOpen("help")}
      />
    </header>
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
