/** One message of the reader or the model, with what can be done to it. */

import { Component } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { copyText } from "../browser";
import type { AssistantTurn, Remedy, Step, ToolStep, Turn, UserTurn } from "../types";
import { IconButton } from "./icons";
import { Markdown } from "./markdown";
import { ProblemCard } from "./problem";
import { Thinking } from "./thinking";
import { ToolCard } from "./toolcard";

export interface TurnActions {
  edit: (id: string, text: string) => void;
  regenerate: (id: string) => void;
  showBranch: (id: string) => void;
  giveResult: (turn: AssistantTurn, step: ToolStep, result: string) => void;
  remedy: (remedy: Remedy, turn: AssistantTurn) => void;
}

interface TurnProps {
  turn: Turn;
  revision: number;
  /** The ids of this turn and its alternatives, in order. */
  siblings: string[];
  /** No action while a reply is being written. */
  busy: boolean;
  editing: boolean;
  onEditing: (id: string | null) => void;
  actions: TurnActions;
}

/** Drawn again only when its own turn has changed. */
export class TurnView extends Component<TurnProps> {
  override shouldComponentUpdate(next: TurnProps): boolean {
    const { turn, revision, busy, editing, siblings } = this.props;
    return (
      next.turn !== turn ||
      next.revision !== revision ||
      next.busy !== busy ||
      next.editing !== editing ||
      next.siblings.join() !== siblings.join()
    );
  }

  render(props: TurnProps) {
    const { turn } = props;
    return (
      <article class={`turn ${turn.role}`} data-turn={turn.id}>
        <h2 class="visually-hidden">{turn.role === "user" ? "You" : "Model"}</h2>
        {turn.role === "user" ? (
          <UserMessage {...props} turn={turn} />
        ) : (
          <Reply {...props} turn={turn} />
        )}
      </article>
    );
  }
}

function UserMessage(props: TurnProps & { turn: UserTurn }) {
  const { turn, editing, busy, onEditing, actions } = props;
  if (editing) {
    return (
      <Editor
        text={turn.text}
        onCancel={() => onEditing(null)}
        onDone={(text) => {
          onEditing(null);
          actions.edit(turn.id, text);
        }}
      />
    );
  }
  return (
    <>
      <div class="bubble" dir="auto">
        {turn.text}
      </div>
      <div class="turn-actions">
        <Branches {...props} />
        <CopyButton text={turn.text} />
        <IconButton
          name="edit"
          label="Edit message"
          disabled={busy}
          onClick={() => onEditing(turn.id)}
        />
      </div>
    </>
  );
}

interface EditorProps {
  text: string;
  onCancel: () => void;
  onDone: (text: string) => void;
}

function Editor({ text, onCancel, onDone }: EditorProps) {
  const area = useRef<HTMLTextAreaElement>(null);
  const [value, setValue] = useState(text);
  useLayoutEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
  }, []);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      onCancel();
    }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (value.trim()) onDone(value);
    }
  };
  return (
    <div class="editor">
      <textarea
        ref={area}
        aria-label="Edit message"
        rows={Math.min(12, value.split("\n").length + 1)}
        value={value}
        onInput={(event) => setValue(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <div class="editor-actions">
        <button type="button" class="button" onClick={onCancel}>
          Cancel
        </button>
        <button
          type="button"
          class="button primary"
          disabled={!value.trim()}
          onClick={() => onDone(value)}
        >
          Send
        </button>
      </div>
    </div>
  );
}

function Reply(props: TurnProps & { turn: AssistantTurn }) {
  const { turn, busy, actions } = props;
  const streaming = turn.status === "streaming";
  const answer = turn.steps.map((step) => (step.kind === "text" ? step.text : "")).join("\n\n");
  return (
    <>
      {turn.steps.map((step, index) => (
        <StepView
          key={`${index} ${step.kind}`}
          step={step}
          active={streaming && index === turn.steps.length - 1}
          streaming={streaming}
          onResult={(tool, result) => actions.giveResult(turn, tool, result)}
        />
      ))}
      {streaming && turn.steps.length === 0 && <Waiting />}
      {turn.problem && (
        <ProblemCard problem={turn.problem} onRemedy={(remedy) => actions.remedy(remedy, turn)} />
      )}
      <EndNote turn={turn} />
      {!streaming && (
        <div class="turn-actions">
          <Branches {...props} />
          {answer.trim() && <CopyButton text={answer.trim()} />}
          {turn.steps.length > 0 && (
            <IconButton
              name="redo"
              label="Write another answer"
              disabled={busy}
              onClick={() => actions.regenerate(turn.id)}
            />
          )}
          <UsageNote turn={turn} />
        </div>
      )}
    </>
  );
}

interface StepProps {
  step: Step;
  active: boolean;
  streaming: boolean;
  onResult: (step: ToolStep, result: string) => void;
}

function StepView({ step, active, streaming, onResult }: StepProps) {
  if (step.kind === "thinking") return <Thinking step={step} active={active} />;
  if (step.kind === "text") return <Markdown text={step.text} done={!active} />;
  return <ToolCard step={step} running={streaming} onResult={(result) => onResult(step, result)} />;
}

function Waiting() {
  return (
    <p class="waiting">
      <span class="visually-hidden">Waiting for the reply</span>
      <span class="dot" />
      <span class="dot" />
      <span class="dot" />
    </p>
  );
}

function EndNote({ turn }: { turn: AssistantTurn }) {
  if (turn.status === "stopped") return <p class="end-note">Stopped.</p>;
  if (turn.status !== "done") return null;
  if (turn.finishNote) return <p class="end-note">{turn.finishNote}</p>;
  if (turn.finish === "length") {
    return (
      <p class="end-note">
        The token limit was reached. Raise “Max tokens” in the chat options for longer replies.
      </p>
    );
  }
  if (turn.finish === "content_filter") {
    return <p class="end-note">The server's content filter ended this reply.</p>;
  }
  if (!turn.steps.length) return <p class="end-note">The reply is empty.</p>;
  return null;
}

function UsageNote({ turn }: { turn: AssistantTurn }) {
  if (!turn.usage?.completion) return null;
  const { completion, reasoning } = turn.usage;
  const thinking = reasoning ? `, ${reasoning.toLocaleString("en")} thinking` : "";
  return (
    <span class="usage" title={turn.model}>
      {completion.toLocaleString("en")} tokens{thinking}
    </span>
  );
}

function Branches({ turn, siblings, busy, actions }: TurnProps) {
  if (siblings.length < 2) return null;
  const at = siblings.indexOf(turn.id);
  const go = (step: number) => {
    const id = siblings[at + step];
    if (id) actions.showBranch(id);
  };
  return (
    <div class="branches" role="group" aria-label="Versions">
      <IconButton
        name="left"
        label="Previous version"
        disabled={busy || at === 0}
        onClick={() => go(-1)}
      />
      <span>
        {at + 1}/{siblings.length}
      </span>
      <IconButton
        name="right"
        label="Next version"
        disabled={busy || at === siblings.length - 1}
        onClick={() => go(1)}
      />
    </div>
  );
}

function CopyButton({ text }: { text: string }) {
  const [label, setLabel] = useState("Copy");
  const copy = () => {
    void copyText(text).then((copied) => setLabel(copied ? "Copied" : "Copy failed"));
    setTimeout(() => setLabel("Copy"), 1500);
  };
  return (
    <IconButton name="copy" label={label} onClick={copy} class={label === "Copy" ? "" : "told"} />
  );
}
