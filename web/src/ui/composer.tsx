/** Where the reader writes, attaches and sets the thinking; while a reply runs, where it stops. */

import type { Ref } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { attachFile, isLongPaste, pastedAttachment, RefusedFile } from "../attach";
import { countTokens } from "../api";
import type { Chat } from "../chat";
import { t } from "../language";
import type { Attachment, ChatOptions } from "../types";
import type { OpenDialog } from "./dialogs";
import { Icon, IconButton } from "./icons";
import { StatusLine } from "./status";
import { ToolsMenu } from "./toolsmenu";

interface Props {
  chat: Chat;
  area: { current: HTMLTextAreaElement | null };
  onEditLast: () => void;
  onOpen: (dialog: OpenDialog) => void;
}

const TALLEST = 240;

export function Composer({ chat, area, onEditLast, onOpen }: Props) {
  const { draft } = chat;
  const running = chat.run !== undefined;
  const { reading, refused, add } = useAttaching(chat);
  const [over, setOver] = useState(false);

  useLayoutEffect(() => {
    const element = area.current;
    if (!element) return;
    element.style.height = "auto";
    element.style.height = `${Math.min(TALLEST, element.scrollHeight)}px`;
  }, [draft.text, chat.drafts.edition]);

  const sendable = draft.text.trim() !== "" || draft.attachments.length > 0;
  const submit = () => {
    // The draft may be newer than this drawing.
    if (!chat.run && !reading) chat.send(chat.draft);
  };

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
    if (event.key === "ArrowUp" && chat.draft.text === "") {
      event.preventDefault();
      onEditLast();
    }
  };

  const onPaste = (event: ClipboardEvent) => {
    const files = [...(event.clipboardData?.files ?? [])];
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (text && isLongPaste(text)) {
      event.preventDefault();
      add([], [pastedAttachment(text)]);
    } else if (!text && files.length) {
      event.preventDefault();
      add(files, [], t.clipboardImage);
    }
  };

  return (
    <form
      class={over ? "composer over" : "composer"}
      aria-label={t.message}
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
      onDragOver={(event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        add([...(event.dataTransfer?.files ?? [])]);
      }}
    >
      {running && chat.answerable && (
        <button type="button" class="answer-now" onClick={() => void chat.answerNow()}>
          <Icon name="fast" />
          {t.answerNow}
        </button>
      )}
      <div class="composer-box">
        <Attachments
          attachments={draft.attachments}
          onRemove={(place) => {
            const attachments = draft.attachments.filter((_, other) => other !== place);
            chat.editDraft({ attachments });
          }}
        />
        {reading && <p class="attaching">{t.reading(reading)}</p>}
        {refused && (
          <p class="refused" role="alert">
            {refused}
          </p>
        )}
        <textarea
          ref={area as Ref<HTMLTextAreaElement>}
          aria-label={t.message}
          placeholder={over ? t.dropHere : t.askAnything}
          rows={1}
          dir="auto"
          value={draft.text}
          onInput={(event) => chat.editDraft({ text: event.currentTarget.value })}
          onKeyDown={onKeyDown}
          onPaste={onPaste}
        />
        <div class="composer-bar">
          <AttachButton onFiles={(files) => add(files)} />
          <ThinkingControl chat={chat} onOpen={onOpen} />
          <ToolsMenu chat={chat} />
          <span class="spacer" />
          {running ? (
            <button
              type="button"
              class="send stop"
              aria-label={t.stop}
              title={t.stopHint}
              onClick={() => chat.stop()}
            >
              <Icon name="stop" />
            </button>
          ) : (
            <button
              type="submit"
              class="send"
              aria-label={t.send}
              title={t.sendHint}
              disabled={!sendable || reading !== ""}
            >
              <Icon name="send" />
            </button>
          )}
        </div>
      </div>
      <StatusLine chat={chat} onOpen={onOpen} />
    </form>
  );
}

/** Reads files one after another into the draft; what is refused is said. */
function useAttaching(chat: Chat) {
  const [reading, setReading] = useState("");
  const [refused, setRefused] = useState("");
  const add = async (files: File[], ready: Attachment[] = [], unnamed = "") => {
    setRefused("");
    // While a file is read, the reader may turn to another conversation.
    const { id } = chat.drafts.current;
    const made = [...ready];
    for (const file of files) {
      const known = unnamed ? new File([file], unnamed, { type: file.type }) : file;
      setReading(known.name);
      try {
        made.push(await attachFile(known));
      } catch (error) {
        if (!(error instanceof RefusedFile)) throw error;
        setRefused(error.message);
      }
    }
    setReading("");
    if (!made.length) return;
    chat.drafts.edit(id, (draft) => {
      return { ...draft, attachments: [...draft.attachments, ...made] };
    });
    await count(chat, id, made);
  };
  const start = (files: File[], ready: Attachment[] = [], unnamed = "") =>
    void add(files, ready, unnamed);
  return { reading, refused, add: start };
}

/** Has our server count the tokens; other servers have no route for it. */
async function count(chat: Chat, id: string, made: Attachment[]): Promise<void> {
  if (!chat.model?.durable) return;
  for (const attachment of made) {
    const tokens = await countTokens(chat.settings, attachment.text);
    if (tokens !== null) Object.assign(attachment, { tokens, exact: true });
  }
  chat.drafts.edit(id, (draft) => ({ ...draft }));
}

interface AttachmentsProps {
  attachments: Attachment[];
  onRemove?: (place: number) => void;
}

export function Attachments({ attachments, onRemove }: AttachmentsProps) {
  if (!attachments.length) return null;
  return (
    <ul class="attachments">
      {attachments.map((attachment, place) => (
        <li>
          <details>
            <summary>
              <Icon name="file" />
              <span class="attachment-name" dir="auto">
                {attachment.name}
              </span>
              <span class="attachment-note">
                {[attachment.note, t.attachmentTokens(attachment.tokens, attachment.exact)]
                  .filter(Boolean)
                  .join(" · ")}
              </span>
            </summary>
            <pre tabIndex={0} role="group" aria-label={attachment.name}>
              {attachment.text.slice(0, 4000)}
            </pre>
          </details>
          {onRemove && (
            <IconButton
              name="close"
              label={t.removeAttachment(attachment.name)}
              onClick={() => onRemove(place)}
            />
          )}
        </li>
      ))}
    </ul>
  );
}

function AttachButton({ onFiles }: { onFiles: (files: File[]) => void }) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <IconButton name="clip" label={t.attach} onClick={() => input.current?.click()} />
      <input
        ref={input}
        type="file"
        multiple
        hidden
        aria-label={t.attach}
        onChange={(event) => {
          onFiles([...(event.currentTarget.files ?? [])]);
          event.currentTarget.value = "";
        }}
      />
    </>
  );
}

interface ThinkingProps {
  chat: Chat;
  onOpen: (dialog: OpenDialog) => void;
}

/** How much the next replies may think. */
function ThinkingControl({ chat, onOpen }: ThinkingProps) {
  const { options } = chat.conversation;
  const custom = options.thinkingBudget !== null;
  const names = Object.keys(t.efforts) as (keyof typeof t.efforts)[];
  const value = custom ? "custom" : options.effort;
  return (
    <label class="thinking-control">
      <Icon name="bulb" />
      <span class="visually-hidden">{t.thinking}</span>
      <select
        aria-label={t.thinking}
        value={value}
        onChange={(event) => {
          const chosen = event.currentTarget.value as keyof typeof t.efforts;
          if (chosen === "custom") {
            chat.setOptions({ thinkingBudget: options.thinkingBudget ?? 4096, effort: "" });
            onOpen("options");
          } else {
            const effort: ChatOptions["effort"] = chosen;
            chat.setOptions({ effort, thinkingBudget: null });
          }
        }}
      >
        {names.map((name) => (
          <option value={name}>
            {name === "custom" && custom
              ? `${t.budget}: ${t.number(options.thinkingBudget ?? 0)}`
              : t.efforts[name]}
          </option>
        ))}
      </select>
    </label>
  );
}
