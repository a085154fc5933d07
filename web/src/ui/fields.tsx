/** Labelled form fields. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { t } from "../language";
import { useUniqueId } from "./hooks";

interface FieldProps {
  label: string;
  hint?: string;
  error?: string;
  children: (attributes: { id: string; "aria-describedby": string }) => ComponentChildren;
}

export function Field({ label, hint, error, children }: FieldProps) {
  const id = useUniqueId();
  const note = error ?? hint;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children({ id, "aria-describedby": `${id}-note` })}
      <p id={`${id}-note`} class={error ? "field-error" : "field-hint"}>
        {note}
      </p>
    </div>
  );
}

interface NumberProps {
  label: string;
  hint?: string;
  value: number | null;
  min: number;
  max?: number;
  whole?: boolean;
  onChange: (value: number | null) => void;
}

/** A number, or nothing for the server's default; what is out of range is not taken. */
export function NumberField({ label, hint, value, min, max, whole, onChange }: NumberProps) {
  const [text, setText] = useState(value === null ? "" : String(value));
  const range = max === undefined ? t.rangeAtLeast(min) : t.rangeFrom(min, max);
  const rule = t.numberRule(whole === true, range);
  const read = (given: string) => {
    const number = Number(given);
    const fits = number >= min && number <= (max ?? Infinity);
    return fits && (!whole || Number.isSafeInteger(number)) ? number : undefined;
  };
  const empty = text.trim() === "";
  const bad = !empty && read(text) === undefined;
  return (
    <Field label={label} hint={hint} error={bad ? rule : undefined}>
      {(attributes) => (
        <input
          {...attributes}
          inputMode={whole ? "numeric" : "decimal"}
          autocomplete="off"
          placeholder={t.defaultWord}
          aria-invalid={bad}
          value={text}
          onInput={(event) => {
            const given = event.currentTarget.value;
            setText(given);
            if (given.trim() === "") onChange(null);
            else if (read(given) !== undefined) onChange(read(given) ?? null);
          }}
        />
      )}
    </Field>
  );
}
