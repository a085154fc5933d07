/** The page: conversations at the side, the chat, the message field, and its dialogs. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { Chat } from "../chat";
import { shownPath } from "../tree";
import type { AssistantTurn, Remedy } from "../types";
import { Composer } from "./composer";
import { Dialogs, type OpenDialog } from "./dialogs";
import { Header } from "./header";
import { usePhone } from "./hooks";
import { ProblemCard } from "./problem";
import { useShortcuts } from "./shortcuts";
import { Sidebar } from "./sidebar";
import { Transcript } from "./transcript";

export function App({ chat }: { chat: Chat }) {
  const phone = usePhone();
  const [dialog, setDialog] = useState<OpenDialog | null>(null);
  const [drawer, setDrawer] = useState(!phone);
  const area = useRef<HTMLTextAreaElement>(null);
  const { settings, conversation } = chat;

  const focusComposer = () => area.current?.focus();
  // What had the focus may be gone, such as a conversation that was deleted.
  const keepFocus = () => {
    if (document.activeElement === document.body) focusComposer();
  };
  const leaveDrawer = () => {
    if (phone) setDrawer(false);
    // The message field is inert until the drawer is gone.
    requestAnimationFrame(focusComposer);
  };
  const newChat = () => {
    chat.newChat();
    leaveDrawer();
  };
  const exportJson = (id?: string) =>
    void chat.exported(id).then((text) => download(text, id ? "chat.json" : "chats.json"));
  const remedy = (kind: Remedy, turn?: AssistantTurn) => {
    if (kind === "retry") turn ? chat.retry(turn) : void chat.refreshModels();
    if (kind === "settings" || kind === "options") setDialog(kind);
    if (kind === "new") newChat();
  };

  useEffect(() => {
    document.documentElement.dataset["theme"] = settings.theme;
  }, [settings.theme]);
  useEffect(() => {
    document.title = conversation.title === "New chat" ? "OpenQwQ" : conversation.title;
  }, [conversation.title]);
  useEffect(() => {
    if (!phone) focusComposer();
  }, []);
  useShortcuts({
    escape: () => (phone && drawer ? leaveDrawer() : chat.stop()),
    focusComposer,
    newChat,
    toggleDrawer: () => setDrawer(!drawer),
    open: setDialog,
  });

  return (
    <div class="app">
      <Sidebar
        summaries={chat.summaries}
        current={conversation.id}
        open={drawer}
        modal={phone}
        onClose={leaveDrawer}
        onNew={newChat}
        onOpen={(id) => {
          void chat.open(id);
          leaveDrawer();
        }}
        onRename={(id, title) => void chat.rename(id, title)}
        onExport={exportJson}
        onRemove={setDialog}
      />
      {drawer && <div class="scrim" onClick={leaveDrawer} />}
      <main inert={phone && drawer}>
        <Header
          chat={chat}
          drawer={drawer}
          onDrawer={() => setDrawer(!drawer)}
          onOpen={setDialog}
        />
        <Banners chat={chat} onRemedy={remedy} />
        <Conversation chat={chat} area={area} onRemedy={remedy} />
      </main>
      <Dialogs
        chat={chat}
        open={dialog}
        onClose={() => {
          // A dialog that closes late must not take away the one opened meanwhile.
          setDialog((now) => (now === dialog ? null : now));
          requestAnimationFrame(keepFocus);
        }}
        onExportAll={() => exportJson()}
      />
    </div>
  );
}

interface ConversationProps {
  chat: Chat;
  area: { current: HTMLTextAreaElement | null };
  onRemedy: (kind: Remedy, turn?: AssistantTurn) => void;
}

function Conversation({ chat, area, onRemedy }: ConversationProps) {
  const [editing, setEditing] = useState<string | null>(null);
  const { conversation, run } = chat;
  const edit = (id: string | null) => {
    setEditing(id);
    if (id === null) area.current?.focus();
  };
  return (
    <>
      <Transcript
        conversation={conversation}
        busy={run !== undefined}
        editing={editing}
        onEditing={edit}
        onStarter={(text) => chat.send(text)}
        actions={{
          edit: (id, text) => chat.edit(id, text),
          regenerate: (id) => chat.regenerate(id),
          showBranch: (id) => chat.showBranch(id),
          giveResult: (turn, step, result) => chat.giveResult(turn, step, result),
          remedy: onRemedy,
        }}
      />
      <Composer
        area={area}
        running={run !== undefined}
        answerable={chat.answerable}
        onSend={(text) => chat.send(text)}
        onStop={() => chat.stop()}
        onAnswerNow={() => void chat.answerNow()}
        onEditLast={() => {
          const last = shownPath(conversation).findLast((turn) => turn.role === "user");
          if (last && !run) edit(last.id);
        }}
      />
    </>
  );
}

function Banners({ chat, onRemedy }: { chat: Chat; onRemedy: (kind: Remedy) => void }) {
  return (
    <>
      {chat.storageFailed && (
        <p class="banner" role="status">
          This browser does not keep your chats (private window or full disk).
        </p>
      )}
      {chat.connection && (
        <div class="banner">
          <ProblemCard problem={chat.connection} onRemedy={onRemedy} />
        </div>
      )}
    </>
  );
}

function download(text: string, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
