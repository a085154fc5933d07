/** Where the model is, how the page looks, and the reader's data. */

import { useState } from "preact/hooks";
import type { Problem, Settings, Theme } from "../types";
import { Dialog } from "./dialog";
import { Field } from "./fields";

interface Props {
  settings: Settings;
  models: string[];
  connection: Problem | null;
  conversations: number;
  onChange: (change: Partial<Settings>) => void;
  onRefresh: () => void;
  onExportAll: () => void;
  onRemoveAll: () => void;
  onClose: () => void;
}

export function SettingsDialog(props: Props) {
  const { settings, onChange, onClose } = props;
  return (
    <Dialog title="Settings" onClose={onClose}>
      <div class="fields">
        <Connection {...props} />
        <Field label="Appearance">
          {(attributes) => (
            <select
              {...attributes}
              value={settings.theme}
              onChange={(event) => onChange({ theme: event.currentTarget.value as Theme })}
            >
              <option value="auto">As the system</option>
              <option value="light">Light</option>
              <option value="dark">Dark</option>
            </select>
          )}
        </Field>
        <YourData {...props} />
      </div>
    </Dialog>
  );
}

function Connection({ settings, models, connection, onChange, onRefresh }: Props) {
  const [base, setBase] = useState(settings.base);
  const [key, setKey] = useState(settings.key);
  const bad = base.trim() !== "" && !/^https?:\/\/./.test(base.trim());
  return (
    <form
      class="fields"
      onSubmit={(event) => {
        event.preventDefault();
        if (bad) return;
        if (base === settings.base && key === settings.key) onRefresh();
        else onChange({ base: base.trim(), key: key.trim() });
      }}
    >
      <Field
        label="Server"
        hint="Any OpenAI-compatible address. Empty: the server of this page."
        error={bad ? "An address begins with http:// or https://." : undefined}
      >
        {(attributes) => (
          <input
            {...attributes}
            inputMode="url"
            autocomplete="off"
            spellcheck={false}
            placeholder={location.origin}
            aria-invalid={bad}
            value={base}
            onInput={(event) => setBase(event.currentTarget.value)}
          />
        )}
      </Field>
      <Field label="API key" hint="Kept in this browser and sent to this server only.">
        {(attributes) => (
          <input
            {...attributes}
            type="password"
            autocomplete="off"
            value={key}
            onInput={(event) => setKey(event.currentTarget.value)}
          />
        )}
      </Field>
      <div class="connection">
        <button type="submit" class="button primary" disabled={bad}>
          Connect
        </button>
        <p role="status" class={connection ? "field-error" : "field-hint"}>
          {connection
            ? `${connection.title}. ${connection.advice}`
            : models.length > 0
              ? `Connected: ${models.length} model${models.length === 1 ? "" : "s"}.`
              : "No model yet."}
        </p>
      </div>
      <Field label="Model">
        {(attributes) =>
          models.length > 0 ? (
            <select
              {...attributes}
              value={settings.model}
              onChange={(event) => onChange({ model: event.currentTarget.value })}
            >
              {models.map((model) => (
                <option value={model}>{model}</option>
              ))}
            </select>
          ) : (
            <input
              {...attributes}
              autocomplete="off"
              spellcheck={false}
              placeholder="Name of the model"
              value={settings.model}
              onInput={(event) => onChange({ model: event.currentTarget.value })}
            />
          )
        }
      </Field>
    </form>
  );
}

function YourData({ conversations, onExportAll, onRemoveAll }: Props) {
  const [sure, setSure] = useState(false);
  return (
    <section class="your-data" aria-label="Your data">
      <h3>Your data</h3>
      <p class="hint">
        {conversations} {conversations === 1 ? "chat" : "chats"} in this browser, nowhere else.
      </p>
      <div class="dialog-actions">
        <button type="button" class="button" disabled={!conversations} onClick={onExportAll}>
          Export all
        </button>
        <button
          type="button"
          class="button danger"
          disabled={!conversations}
          onClick={() => {
            if (sure) onRemoveAll();
            setSure(!sure);
          }}
        >
          {sure ? "Really delete all?" : "Delete all"}
        </button>
      </div>
    </section>
  );
}
