/** The page: conversations at the side, the chat, the message field, and its dialogs. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { Chat } from "../chat";
import { codeRunner } from "../markdown/code";
import { t } from "../language";
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
import type { TurnFacts } from "./turns";

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
    document.title = conversation.title || t.appTitle;
  }, [conversation.title]);
  const runsPython = chat.model?.tools.includes("python") ?? false;
  useEffect(() => {
    // A style sheet shows the buttons that run code where a server can.
    document.documentElement.toggleAttribute("data-python", runsPython);
    const call = (code: string) =>
      chat.called({ name: "python", arguments: JSON.stringify({ code }) });
    codeRunner.run = runsPython ? call : null;
  }, [runsPython]);
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
        onSearch={(query) => chat.search(query)}
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
        <Conversation chat={chat} area={area} onRemedy={remedy} onOpen={setDialog} />
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
  onOpen: (dialog: OpenDialog) => void;
}

/** Thinking tokens that OpenQwQ allows an effort; of other servers nothing is known. */
const EFFORT_TOKENS: Record<string, number> = { low: 1024, medium: 8192 };

function factsOf({ settings, model, conversation, feedbackNote }: Chat): TurnFacts {
  const { thinkingBudget, effort } = conversation.options;
  const known = model?.durable ? (EFFORT_TOKENS[effort] ?? null) : null;
  return {
    language: settings.language,
    serverTools: model?.tools ?? [],
    feedback: model?.feedback ?? false,
    feedbackNote,
    budget: thinkingBudget ?? known,
  };
}

function Conversation({ chat, area, onRemedy, onOpen }: ConversationProps) {
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
        onStarter={(text) => chat.send({ text, attachments: [] })}
        facts={factsOf(chat)}
        actions={{
          edit: (id, text) => chat.edit(id, text),
          editAnswer: (turn, text) => chat.editAnswer(turn, text),
          regenerate: (id) => chat.regenerate(id),
          thinkMore: (turn) => chat.thinkMore(turn),
          continueReply: (turn) => chat.continueReply(turn),
          showBranch: (id) => chat.showBranch(id),
          giveResult: (turn, step, result) => chat.giveResult(turn, step, result),
          approve: (turn, step) => void chat.approve(turn, step),
          refuse: (turn, step) => chat.giveResult(turn, step, t.refusedCall, true),
          rate: (turn, value, reason) => chat.rate(turn, value, reason),
          prefer: (turn) => chat.prefer(turn),
          remedy: onRemedy,
        }}
      />
      <Composer
        chat={chat}
        area={area}
        onOpen={onOpen}
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
          {t.noStorage}
        </p>
      )}
      {chat.gone && (
        <p class="banner" role="status">
          {t.conversationGone}
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
