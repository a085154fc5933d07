/** The list of conversations: open, search, rename, export, delete. */

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { t } from "../language";
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
  onSearch: (query: string) => Promise<Summary[] | undefined>;
}

const SEARCH_DELAY = 150;

/** What a search has found, null while it goes on; every conversation where none is asked for. */
function useSearch(query: string, all: Summary[], search: Props["onSearch"]): Summary[] | null {
  const [found, setFound] = useState<Summary[] | null>(null);
  useEffect(() => {
    let current = true;
    setFound(null);
    if (!query.trim()) return;
    const timer = setTimeout(() => {
      void search(query).then((result) => {
        if (current) setFound(result ?? []);
      });
    }, SEARCH_DELAY);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [query, all]);
  return query.trim() ? found : all;
}

export function Sidebar(props: Props) {
  const { summaries, current, open, modal, onClose, onNew } = props;
  const newChat = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (open && modal) newChat.current?.focus();
  }, [open, modal]);
  const [query, setQuery] = useState("");
  const [renaming, setRenaming] = useState<string | null>(null);
  const found = useSearch(query, summaries, props.onSearch);
  return (
    <nav id="sidebar" class={open ? "open" : ""} aria-label={t.conversations}>
      <div class="sidebar-head">
        <span class="brand">
          <img src="icon.svg" alt="" />
          OpenQwQ
        </span>
        <IconButton
          name="close"
          label={t.closeConversations}
          class="drawer-only"
          onClick={onClose}
        />
      </div>
      <button type="button" class="new-chat" ref={newChat} onClick={onNew}>
        <Icon name="plus" />
        {t.newChat}
      </button>
      {summaries.length > 0 && (
        <input
          type="search"
          class="search"
          placeholder={t.search}
          aria-label={t.searchLabel}
          value={query}
          onInput={(event) => setQuery(event.currentTarget.value)}
        />
      )}
      <div class="conversations">
        {byAge(found ?? []).map(([label, group]) => (
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
        {summaries.length === 0 && <p class="hint">{t.staysHere}</p>}
        {found === null && <p class="hint">{t.searching}</p>}
        {summaries.length > 0 && found?.length === 0 && <p class="hint">{t.nothingFound}</p>}
      </div>
    </nav>
  );
}

interface EntryProps extends Omit<Props, "onRename"> {
  summary: Summary;
  onRename: () => void;
}

function Entry({ summary, current, onOpen, onRename, onExport, onRemove }: EntryProps) {
  const { id, snippet } = summary;
  const title = summary.title || t.newChat;
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
        {snippet && (
          <span class="snippet" dir="auto">
            {snippet}
          </span>
        )}
      </button>
      <div class="conversation-actions">
        <IconButton name="edit" label={t.rename(title)} onClick={onRename} />
        <IconButton name="save" label={t.exportOne(title)} onClick={() => onExport(id)} />
        <IconButton name="trash" label={t.deleteOne(title)} onClick={() => onRemove(summary)} />
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
      aria-label={t.newTitle}
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
    [t.today, today],
    [t.yesterday, today - day],
    [t.lastWeek, today - 7 * day],
    [t.older, -Infinity],
  ];
  const label = (time: number) => ages.find(([, from]) => time >= from)?.[0];
  return ages
    .map(([name]): [string, Summary[]] => [
      name,
      summaries.filter(({ updated }) => label(updated) === name),
    ])
    .filter(([, group]) => group.length > 0);
}
