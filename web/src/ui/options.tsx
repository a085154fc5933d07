/** What is sent along with the messages of this chat: system prompt, sampling, thinking, tools. */

import { useState } from "preact/hooks";
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
  // A reset draws the fields anew, since they keep the text that is being typed.
  const [edition, setEdition] = useState(0);
  return (
    <Dialog title="Chat options" onClose={onClose}>
      <div class="fields" key={edition}>
        <p class="hint">For this chat, and for the ones you start after it.</p>
        <Field label="System prompt">
          {(attributes) => (
            <textarea
              {...attributes}
              rows={3}
              dir="auto"
              placeholder="None"
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
            Reset all
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
      <Field label="Thinking" hint="How long it may think.">
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
            <option value="">Default</option>
            <option value="none">None</option>
            <option value="low">Low</option>
            <option value="medium">Medium</option>
            <option value="high">High</option>
            <option value="custom">Budget</option>
          </select>
        )}
      </Field>
      {custom && (
        <NumberField
          label="Thinking tokens"
          hint="Then it must answer."
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
          label="Temperature"
          hint="Lower is steadier."
          value={options.temperature}
          min={0}
          max={2}
          onChange={(temperature) => onChange({ temperature })}
        />
        <NumberField
          label="Top-p"
          hint="Likeliest share kept."
          value={options.topP}
          min={0.01}
          max={1}
          onChange={(topP) => onChange({ topP })}
        />
        <NumberField
          label="Top-k"
          hint="Likeliest tokens kept."
          value={options.topK}
          min={0}
          whole
          onChange={(topK) => onChange({ topK })}
        />
      </div>
      <div class="field-row">
        <NumberField
          label="Max tokens"
          hint="Thinking included."
          value={options.maxTokens}
          min={1}
          whole
          onChange={(maxTokens) => onChange({ maxTokens })}
        />
        <NumberField
          label="Seed"
          hint="Same seed, same reply."
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
      <summary>Tools you play yourself</summary>
      <Field
        label="Tools (JSON)"
        hint="A list of OpenAI function tools. The model calls, you give the results."
        error={valid ? undefined : 'Not a list of tools: [{"type": "function", "function": {…}}]'}
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
