/** The line on top: conversations, the model, appearance, options, settings. */

import type { Chat } from "../chat";
import { t } from "../language";
import type { Theme } from "../types";
import type { OpenDialog } from "./dialogs";
import { IconButton, type IconName } from "./icons";

const THEMES: Record<Theme, { next: Theme; icon: IconName; label: () => string }> = {
  auto: { next: "light", icon: "auto", label: () => t.appearanceAuto },
  light: { next: "dark", icon: "sun", label: () => t.appearanceLight },
  dark: { next: "auto", icon: "moon", label: () => t.appearanceDark },
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
      <IconButton name="menu" label={t.conversations} expanded={drawer} onClick={onDrawer} />
      <h1 class="visually-hidden">{chat.conversation.title || t.newChat}</h1>
      <ModelPicker
        models={chat.models.map(({ id }) => id)}
        model={chat.settings.model}
        onChange={(model) => chat.saveSettings({ model })}
        onSettings={() => onOpen("settings")}
      />
      <span class="spacer" />
      <IconButton
        name={theme.icon}
        label={theme.label()}
        onClick={() => chat.saveSettings({ theme: theme.next })}
      />
      <IconButton name="options" label={t.options} onClick={() => onOpen("options")} />
      <IconButton name="settings" label={t.settings} onClick={() => onOpen("settings")} />
      <IconButton
        name="help"
        label={t.shortcuts}
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
      <button type="button" class="model" title={t.settings} onClick={onSettings}>
        {model || t.noModel}
      </button>
    );
  }
  return (
    <select
      class="model"
      aria-label={t.model}
      value={model}
      onChange={(event) => onChange(event.currentTarget.value)}
    >
      {models.map((name) => (
        <option value={name}>{name}</option>
      ))}
    </select>
  );
}
