/** Where the model is, how the page looks, and the reader's data. */

import { useRef, useState } from "preact/hooks";
import type { Imported } from "../import";
import { t } from "../language";
import type { LanguageName, Model, Problem, Settings, Theme } from "../types";
import { Dialog } from "./dialog";
import { Field } from "./fields";

interface Props {
  settings: Settings;
  models: Model[];
  connection: Problem | null;
  conversations: number;
  onChange: (change: Partial<Settings>) => void;
  onRefresh: () => void;
  onExportAll: () => void;
  onImport: (text: string) => Promise<Imported | null>;
  onRemoveAll: () => void;
  onClose: () => void;
}

export function SettingsDialog(props: Props) {
  const { settings, onChange, onClose } = props;
  return (
    <Dialog title={t.settings} onClose={onClose}>
      <div class="fields">
        <Connection {...props} />
        <Field label={t.appearance}>
          {(attributes) => (
            <select
              {...attributes}
              value={settings.theme}
              onChange={(event) => onChange({ theme: event.currentTarget.value as Theme })}
            >
              <option value="auto">{t.asSystem}</option>
              <option value="light">{t.light}</option>
              <option value="dark">{t.dark}</option>
            </select>
          )}
        </Field>
        <Field label={t.language}>
          {(attributes) => (
            <select
              {...attributes}
              value={settings.language}
              onChange={(event) =>
                onChange({ language: event.currentTarget.value as LanguageName })
              }
            >
              <option value="auto">{t.asSystem}</option>
              <option value="en" lang="en">
                English
              </option>
              <option value="zh" lang="zh">
                中文
              </option>
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
      <Field label={t.server} hint={t.serverHint} error={bad ? t.serverBad : undefined}>
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
      <Field label={t.apiKey} hint={t.apiKeyHint}>
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
          {t.connect}
        </button>
        <p role="status" class={connection ? "field-error" : "field-hint"}>
          {connection
            ? `${connection.title}. ${connection.advice}`
            : models.length > 0
              ? t.connected(models.length)
              : t.noModelYet}
        </p>
      </div>
      <Field label={t.model}>
        {(attributes) =>
          models.length > 0 ? (
            <select
              {...attributes}
              value={settings.model}
              onChange={(event) => onChange({ model: event.currentTarget.value })}
            >
              {models.map(({ id }) => (
                <option value={id}>{id}</option>
              ))}
            </select>
          ) : (
            <input
              {...attributes}
              autocomplete="off"
              spellcheck={false}
              placeholder={t.nameOfModel}
              value={settings.model}
              onInput={(event) => onChange({ model: event.currentTarget.value })}
            />
          )
        }
      </Field>
    </form>
  );
}

function YourData({ conversations, models, onExportAll, onImport, onRemoveAll }: Props) {
  const [sure, setSure] = useState(false);
  return (
    <section class="your-data" aria-label={t.yourData}>
      <h3>{t.yourData}</h3>
      <p class="hint">{t.chatsHere(conversations)}</p>
      {models.some(({ durable }) => durable) && <p class="hint">{t.keepsReplies}</p>}
      {models.some(({ feedback }) => feedback) && <p class="hint">{t.keepsRatings}</p>}
      <div class="dialog-actions">
        <ImportButton onImport={onImport} />
        <button type="button" class="button" disabled={!conversations} onClick={onExportAll}>
          {t.exportAll}
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
          {sure ? t.reallyDeleteAll : t.deleteAll}
        </button>
      </div>
    </section>
  );
}

function ImportButton({ onImport }: Pick<Props, "onImport">) {
  const input = useRef<HTMLInputElement>(null);
  const [told, setTold] = useState("");
  const read = async (file: File) => {
    const imported = await onImport(await file.text());
    setTold(imported ? t.imported(imported.conversations.length, imported.skipped) : t.importBad);
  };
  return (
    <>
      <p class="hint import-note" role="status">
        {told || t.importHint}
      </p>
      <button type="button" class="button" onClick={() => input.current?.click()}>
        {t.importChats}
      </button>
      <input
        ref={input}
        type="file"
        hidden
        accept=".json,application/json"
        aria-label={t.importChats}
        onChange={(event) => {
          const file = event.currentTarget.files?.[0];
          if (file) void read(file);
          event.currentTarget.value = "";
        }}
      />
    </>
  );
}
