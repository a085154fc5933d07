/** The list of conversations: open, search, rename, export, delete. */

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Summary } from "../types";
import { Icon, IconButton } from "./icons";

interface Props {
  summaries: Summary[];
  current: string;
  /** False where the list is a drawer that is shut. */
  open: boolean;
  /** Whether it is a drawer over the page, which takes the focus. */
  modal: boolean;
  onClose: () => void;
  onNew: () => void;
  onOpen: (id: string) => void;
  onRename: (id: string, title: string) => void;
  onExport: (id: string) => void;
  onRemove: (summary: Summary) => void;
}

const SEARCH_FROM = 8;

export function Sidebar(props: Props) {
  const { summaries, current, open, modal, onClose, onNew } = props;
  const newChat = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (open && modal) newChat.current?.focus();
  }, [open, modal]);
  const [query, setQuery] = useState("");
  const [renaming, setRenaming] = useState<string | null>(null);
  const found = summaries.filter(({ title }) => title.toLowerCase().includes(query.toLowerCase()));
  return (
    <nav id="sidebar" class={open ? "open" : ""} aria-label="Conversations">
      <div class="sidebar-head">
        <span class="brand">
          <img src="icon.svg" alt="" />
          OpenQwQ
        </span>
        <IconButton
          name="close"
          label="Close conversations"
          class="drawer-only"
          onClick={onClose}
        />
      </div>
      <button type="button" class="new-chat" ref={newChat} onClick={onNew}>
        <Icon name="plus" />
        New chat
      </button>
      {summaries.length >= SEARCH_FROM && (
        <input
          type="search"
          class="search"
          placeholder="Search titles"
          aria-label="Search conversations by title"
          value={query}
          onInput={(event) => setQuery(event.currentTarget.value)}
        />
      )}
      <div class="conversations">
        {byAge(found).map(([label, group]) => (
          <section aria-label={label}>
            <h2>{label}</h2>
            <ul>
              {group.map((summary) => (
                <li key={summary.id} class={summary.id === current ? "current" : ""}>
                  {renaming === summary.id ? (
                    <RenameField
                      title={summary.title}
                      onDone={(title) => {
                        setRenaming(null);
                        if (title !== null) props.onRename(summary.id, title);
                      }}
                    />
                  ) : (
                    <Entry {...props} summary={summary} onRename={() => setRenaming(summary.id)} />
                  )}
                </li>
              ))}
            </ul>
          </section>
        ))}
        {summaries.length === 0 && <p class="hint">Your chats stay in this browser.</p>}
        {summaries.length > 0 && found.length === 0 && <p class="hint">No title matches.</p>}
      </div>
    </nav>
  );
}

interface EntryProps extends Omit<Props, "onRename"> {
  summary: Summary;
  onRename: () => void;
}

function Entry({ summary, current, onOpen, onRename, onExport, onRemove }: EntryProps) {
  const { id, title } = summary;
  return (
    <>
      <button
        type="button"
        class="conversation"
        aria-current={id === current ? "page" : undefined}
        title={title}
        onClick={() => onOpen(id)}
      >
        <span dir="auto">{title}</span>
      </button>
      <div class="conversation-actions">
        <IconButton name="edit" label={`Rename ${title}`} onClick={onRename} />
        <IconButton name="save" label={`Export ${title}`} onClick={() => onExport(id)} />
        <IconButton name="trash" label={`Delete ${title}`} onClick={() => onRemove(summary)} />
      </div>
    </>
  );
}

interface RenameProps {
  title: string;
  onDone: (title: string | null) => void;
}

function RenameField({ title, onDone }: RenameProps) {
  const field = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => field.current?.select(), []);
  return (
    <input
      ref={field}
      class="rename"
      aria-label="New title"
      maxLength={200}
      defaultValue={title}
      onBlur={(event) => onDone(event.currentTarget.value)}
      onKeyDown={(event) => {
        if (event.key === "Enter") onDone(event.currentTarget.value);
        if (event.key === "Escape") {
          event.stopPropagation();
          onDone(null);
        }
      }}
    />
  );
}

function byAge(summaries: Summary[]): [string, Summary[]][] {
  const today = new Date().setHours(0, 0, 0, 0);
  const day = 24 * 3600 * 1000;
  const ages: [string, number][] = [
    ["Today", today],
    ["Yesterday", today - day],
    ["Last 7 days", today - 7 * day],
    ["Older", -Infinity],
  ];
  const label = (time: number) => ages.find(([, from]) => time >= from)?.[0];
  return ages
    .map(([name]): [string, Summary[]] => [
      name,
      summaries.filter(({ updated }) => label(updated) === name),
    ])
    .filter(([, group]) => group.length > 0);
}
