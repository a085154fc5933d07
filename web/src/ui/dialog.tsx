/** A modal dialog: the browser's own, so that focus stays inside and returns afterwards. */

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { t } from "../language";
import { useUniqueId } from "./hooks";
import { IconButton } from "./icons";

interface Props {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  class?: string;
}

export function Dialog({ title, onClose, children, ...rest }: Props) {
  const element = useRef<HTMLDialogElement>(null);
  const heading = useUniqueId();
  useLayoutEffect(() => {
    element.current?.showModal();
  }, []);
  return (
    <dialog
      ref={element}
      class={rest.class ?? ""}
      aria-labelledby={heading}
      onClose={onClose}
      onClick={(event) => {
        // Outside the dialog, on its backdrop.
        if (event.target === element.current) element.current?.close();
      }}
    >
      <div class="dialog-inner">
        <header class="dialog-head">
          <h2 id={heading}>{title}</h2>
          <IconButton name="close" label={t.close} onClick={() => element.current?.close()} />
        </header>
        {children}
      </div>
    </dialog>
  );
}
