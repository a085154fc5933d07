/** Whichever dialog is open. */

import type { Chat } from "../chat";
import type { Summary } from "../types";
import { DeleteDialog, HelpDialog } from "./help";
import { OptionsDialog } from "./options";
import { SettingsDialog } from "./settings";

/** A conversation stands for the question whether to delete it. */
export type OpenDialog = "settings" | "options" | "help" | Summary;

interface Props {
  chat: Chat;
  open: OpenDialog | null;
  onClose: () => void;
  onExportAll: () => void;
}

export function Dialogs({ chat, open, onClose, onExportAll }: Props) {
  if (open === null) return null;
  if (open === "help") return <HelpDialog onClose={onClose} />;
  if (open === "options") {
    return (
      <OptionsDialog
        options={chat.conversation.options}
        onChange={(change) => chat.setOptions(change)}
        onReset={() => chat.resetOptions()}
        onClose={onClose}
      />
    );
  }
  if (open === "settings") {
    return (
      <SettingsDialog
        settings={chat.settings}
        models={chat.models}
        connection={chat.connection}
        conversations={chat.summaries.length}
        onChange={(change) => chat.saveSettings(change)}
        onRefresh={() => void chat.refreshModels()}
        onExportAll={onExportAll}
        onImport={(text) => chat.importFile(text)}
        onRemoveAll={() => void chat.removeAll()}
        onClose={onClose}
      />
    );
  }
  return (
    <DeleteDialog
      summary={open}
      onClose={onClose}
      onDelete={() => {
        void chat.remove(open.id);
        onClose();
      }}
    />
  );
}
