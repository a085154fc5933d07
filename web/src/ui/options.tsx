/** What is sent along with the messages of this chat: system prompt, sampling, thinking, tools. */

import { useState } from "preact/hooks";
import { t } from "../language";
import type { ChatOptions } from "../types";
import { Dialog } from "./dialog";
import { Field, NumberField } from "./fields";

interface Props {
  options: ChatOptions;
  onChange: (change: Partial<ChatOptions>) => void;
  onReset: () => void;
  onClose: () => void;
}

export function OptionsDialog({ options, onChange, onReset, onClose }: Props) {
  // A reset makes new fields, since fields keep the text that is being typed.
  const [edition, setEdition] = useState(0);
  return (
    <Dialog title={t.options} onClose={onClose}>
      <div class="fields" key={edition}>
        <p class="hint">{t.optionsHint}</p>
        <Field label={t.systemPrompt}>
          {(attributes) => (
            <textarea
              {...attributes}
              rows={3}
              dir="auto"
              placeholder={t.none}
              value={options.system}
              onInput={(event) => onChange({ system: event.currentTarget.value })}
            />
          )}
        </Field>
        <ThinkingFields options={options} onChange={onChange} />
        <SamplingFields options={options} onChange={onChange} />
        <ToolsField tools={options.tools} onChange={(tools) => onChange({ tools })} />
        <div class="dialog-actions">
          <button
            type="button"
            class="button"
            onClick={() => {
              onReset();
              setEdition(edition + 1);
            }}
          >
            {t.resetAll}
          </button>
        </div>
      </div>
    </Dialog>
  );
}

type FieldsProps = Pick<Props, "options" | "onChange">;

function ThinkingFields({ options, onChange }: FieldsProps) {
  const [custom, setCustom] = useState(options.thinkingBudget !== null);
  return (
    <div class="field-row">
      <Field label={t.thinking} hint={t.thinkingHint}>
        {(attributes) => (
          <select
            {...attributes}
            value={custom ? "custom" : options.effort}
            onChange={(event) => {
              const value = event.currentTarget.value;
              setCustom(value === "custom");
              if (value === "custom") onChange({ thinkingBudget: 4096 });
              else onChange({ effort: value as ChatOptions["effort"], thinkingBudget: null });
            }}
          >
            <option value="">{t.defaultWord}</option>
            <option value="none">{t.none}</option>
            <option value="low">{t.effortLow}</option>
            <option value="medium">{t.effortMedium}</option>
            <option value="high">{t.effortHigh}</option>
            <option value="custom">{t.budget}</option>
          </select>
        )}
      </Field>
      {custom && (
        <NumberField
          label={t.thinkingTokens}
          hint={t.thinkingTokensHint}
          value={options.thinkingBudget}
          min={0}
          whole
          onChange={(thinkingBudget) => onChange({ thinkingBudget })}
        />
      )}
    </div>
  );
}

function SamplingFields({ options, onChange }: FieldsProps) {
  return (
    <>
      <div class="field-row">
        <NumberField
          label={t.temperature}
          hint={t.temperatureHint}
          value={options.temperature}
          min={0}
          max={2}
          onChange={(temperature) => onChange({ temperature })}
        />
        <NumberField
          label={t.topP}
          hint={t.topPHint}
          value={options.topP}
          min={0.01}
          max={1}
          onChange={(topP) => onChange({ topP })}
        />
        <NumberField
          label={t.topK}
          hint={t.topKHint}
          value={options.topK}
          min={0}
          whole
          onChange={(topK) => onChange({ topK })}
        />
      </div>
      <div class="field-row">
        <NumberField
          label={t.maxTokens}
          hint={t.maxTokensHint}
          value={options.maxTokens}
          min={1}
          whole
          onChange={(maxTokens) => onChange({ maxTokens })}
        />
        <NumberField
          label={t.seed}
          hint={t.seedHint}
          value={options.seed}
          min={0}
          whole
          onChange={(seed) => onChange({ seed })}
        />
      </div>
    </>
  );
}

interface ToolsProps {
  tools: string;
  onChange: (tools: string) => void;
}

/** Tools that the reader plays; kept only while they are a JSON list, so a request never breaks. */
function ToolsField({ tools, onChange }: ToolsProps) {
  const [text, setText] = useState(tools);
  const valid = isToolList(text);
  return (
    <details class="tools-field" open={tools !== ""}>
      <summary>{t.ownTools}</summary>
      <Field
        label={t.ownToolsLabel}
        hint={t.ownToolsHint}
        error={valid ? undefined : t.ownToolsBad}
      >
        {(attributes) => (
          <textarea
            {...attributes}
            class="code-input"
            rows={5}
            spellcheck={false}
            aria-invalid={!valid}
            value={text}
            onInput={(event) => {
              setText(event.currentTarget.value);
              if (isToolList(event.currentTarget.value)) onChange(event.currentTarget.value);
            }}
          />
        )}
      </Field>
    </details>
  );
}

function isToolList(text: string): boolean {
  if (!text.trim()) return true;
  try {
    const tools = JSON.parse(text) as unknown;
    const isTool = (tool: unknown) => typeof tool === "object" && tool !== null && "type" in tool;
    return Array.isArray(tools) && tools.length > 0 && tools.every(isTool);
  } catch {
    return false;
  }
}
