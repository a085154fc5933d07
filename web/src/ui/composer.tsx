/** Where the reader writes; while a reply is being written, where it is stopped. */

import type { Ref } from "preact";
import { useLayoutEffect, useState } from "preact/hooks";
import { Icon } from "./icons";

interface Props {
  area: { current: HTMLTextAreaElement | null };
  running: boolean;
  /** True while "answer now" would help: the model thinks and the server can be asked. */
  answerable: boolean;
  onSend: (text: string) => void;
  onStop: () => void;
  onAnswerNow: () => void;
  onEditLast: () => void;
}

const TALLEST = 240;

export function Composer(props: Props) {
  const { area, running, answerable, onSend, onStop, onAnswerNow, onEditLast } = props;
  const [text, setText] = useState("");

  useLayoutEffect(() => {
    const element = area.current;
    if (!element) return;
    element.style.height = "auto";
    element.style.height = `${Math.min(TALLEST, element.scrollHeight)}px`;
  }, [text]);

  const submit = () => {
    if (running || !text.trim()) return;
    onSend(text);
    setText("");
  };

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
    if (event.key === "ArrowUp" && text === "") {
      event.preventDefault();
      onEditLast();
    }
  };

  return (
    <form
      class="composer"
      aria-label="Message"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      {running && answerable && (
        <button type="button" class="answer-now" onClick={onAnswerNow}>
          <Icon name="fast" />
          Answer now
        </button>
      )}
      <div class="composer-box">
        <textarea
          ref={area as Ref<HTMLTextAreaElement>}
          aria-label="Message"
          placeholder="Ask anything"
          rows={1}
          dir="auto"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        {running ? (
          <button
            type="button"
            class="send stop"
            aria-label="Stop"
            title="Stop (Esc)"
            onClick={onStop}
          >
            <Icon name="stop" />
          </button>
        ) : (
          <button
            type="submit"
            class="send"
            aria-label="Send"
            title="Send (Enter)"
            disabled={!text.trim()}
          >
            <Icon name="send" />
          </button>
        )}
      </div>
    </form>
  );
}
