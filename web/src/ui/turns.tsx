/** One message of the reader or the model, with what can be done to it. */

import { Component } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { copyText } from "../browser";
import { t } from "../language";
import { breakable } from "../markdown/words";
import { answerText } from "../tree";
import type { AssistantTurn, Rating, Remedy, Step, ToolStep, Turn, UserTurn } from "../types";
import { Attachments } from "./composer";
import { IconButton } from "./icons";
import { Markdown } from "./markdown";
import { ProblemCard } from "./problem";
import { RatingButtons, RatingReason } from "./rating";
import { Thinking } from "./thinking";
import { ToolCard } from "./toolcard";

export interface TurnActions {
  edit: (id: string, text: string) => void;
  editAnswer: (turn: AssistantTurn, text: string) => void;
  regenerate: (id: string) => void;
  thinkMore: (turn: AssistantTurn) => void;
  continueReply: (turn: AssistantTurn) => void;
  showBranch: (id: string) => void;
  giveResult: (turn: AssistantTurn, step: ToolStep, result: string) => void;
  approve: (turn: AssistantTurn, step: ToolStep) => void;
  refuse: (turn: AssistantTurn, step: ToolStep) => void;
  rate: (turn: AssistantTurn, value: Rating["value"], reason: string) => void;
  prefer: (turn: AssistantTurn) => void;
  remedy: (remedy: Remedy, turn: AssistantTurn) => void;
}

/** What every turn of the page is drawn by. */
export interface TurnFacts {
  language: string;
  /** Tools that the server runs, so that a call of one needs the reader's word only. */
  serverTools: string[];
  feedback: boolean;
  feedbackNote: string;
  /** Thinking tokens of the replies that are asked for now. */
  budget: number | null;
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
  facts: TurnFacts;
}

/** Drawn again only when its own turn has changed. */
export class TurnView extends Component<TurnProps> {
  override shouldComponentUpdate(next: TurnProps): boolean {
    const { turn, revision, busy, editing, siblings, facts } = this.props;
    return (
      next.turn !== turn ||
      next.revision !== revision ||
      next.busy !== busy ||
      next.editing !== editing ||
      next.siblings.join() !== siblings.join() ||
      JSON.stringify(next.facts) !== JSON.stringify(facts)
    );
  }

  render(props: TurnProps) {
    const { turn } = props;
    return (
      <article class={`turn ${turn.role}`} data-turn={turn.id}>
        <h2 class="visually-hidden">{turn.role === "user" ? t.you : t.model}</h2>
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
        label={t.editMessage}
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
      <Attachments attachments={turn.attachments ?? []} />
      {turn.text && (
        <div class="bubble" dir="auto">
          <Breakable text={turn.text} />
        </div>
      )}
      <div class="turn-actions">
        <Branches {...props} />
        <CopyButton text={turn.text} />
        <IconButton
          name="edit"
          label={t.editMessage}
          disabled={busy}
          onClick={() => onEditing(turn.id)}
        />
      </div>
    </>
  );
}

/** Text whose long words may break anywhere. */
function Breakable({ text }: { text: string }) {
  return (
    <>
      {breakable(text).map((part, place) => (
        <>
          {place > 0 && <wbr />}
          {part}
        </>
      ))}
    </>
  );
}

interface EditorProps {
  label: string;
  text: string;
  onCancel: () => void;
  onDone: (text: string) => void;
}

function Editor({ label, text, onCancel, onDone }: EditorProps) {
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
        aria-label={label}
        rows={Math.min(12, value.split("\n").length + 1)}
        value={value}
        onInput={(event) => setValue(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <div class="editor-actions">
        <button type="button" class="button" onClick={onCancel}>
          {t.cancel}
        </button>
        <button
          type="button"
          class="button primary"
          disabled={!value.trim()}
          onClick={() => onDone(value)}
        >
          {t.send}
        </button>
      </div>
    </div>
  );
}

function Reply(props: TurnProps & { turn: AssistantTurn }) {
  const { turn, editing, facts, actions } = props;
  const streaming = turn.status === "streaming";
  const answer = answerText(turn);
  if (editing) {
    return (
      <Editor
        label={t.editAnswer}
        text={answer}
        onCancel={() => props.onEditing(null)}
        onDone={(text) => {
          props.onEditing(null);
          actions.editAnswer(turn, text);
        }}
      />
    );
  }
  return (
    <>
      {turn.steps.map((step, index) => (
        <StepView
          key={`${index} ${step.kind}`}
          step={step}
          active={streaming && index === turn.steps.length - 1}
          turn={turn}
          actions={actions}
          facts={facts}
        />
      ))}
      {streaming && turn.steps.length === 0 && <Waiting />}
      {turn.problem && (
        <ProblemCard problem={turn.problem} onRemedy={(remedy) => actions.remedy(remedy, turn)} />
      )}
      <EndNote turn={turn} onContinue={() => actions.continueReply(turn)} busy={props.busy} />
      {!streaming && <ReplyActions {...props} answer={answer} />}
      {facts.feedback && turn.rating && (
        <RatingReason
          key={turn.rating.value}
          turn={turn}
          note={facts.feedbackNote}
          onRate={(value, reason) => actions.rate(turn, value, reason)}
        />
      )}
    </>
  );
}

type ReplyActionsProps = TurnProps & { turn: AssistantTurn; answer: string };

function ReplyActions(props: ReplyActionsProps) {
  const { turn, answer, busy, siblings, actions, facts } = props;
  const thought = turn.steps.some((step) => step.kind === "thinking");
  return (
    <div class="turn-actions">
      <Branches {...props} />
      {answer && <CopyButton text={answer} />}
      {turn.steps.length > 0 && (
        <IconButton
          name="redo"
          label={t.anotherAnswer}
          disabled={busy}
          onClick={() => actions.regenerate(turn.id)}
        />
      )}
      {thought && (
        <IconButton
          name="more"
          label={t.thinkMore}
          disabled={busy}
          onClick={() => actions.thinkMore(turn)}
        />
      )}
      {answer && (
        <IconButton
          name="edit"
          label={t.editAnswer}
          disabled={busy}
          onClick={() => props.onEditing(turn.id)}
        />
      )}
      {facts.feedback && answer && (
        <RatingButtons
          turn={turn}
          versions={siblings.length}
          onRate={(value, reason) => actions.rate(turn, value, reason)}
          onPrefer={() => actions.prefer(turn)}
        />
      )}
      <UsageNote turn={turn} />
    </div>
  );
}

interface StepProps {
  step: Step;
  active: boolean;
  turn: AssistantTurn;
  actions: TurnActions;
  facts: TurnFacts;
}

function StepView({ step, active, turn, actions, facts }: StepProps) {
  if (step.kind === "thinking") {
    return <Thinking step={step} active={active} budget={facts.budget} />;
  }
  if (step.kind === "text") {
    return <Markdown text={step.text} done={!active} language={facts.language} />;
  }
  return (
    <ToolCard
      step={step}
      running={turn.status === "streaming"}
      runnable={facts.serverTools.includes(step.name)}
      onResult={(result) => actions.giveResult(turn, step, result)}
      onApprove={() => actions.approve(turn, step)}
      onRefuse={() => actions.refuse(turn, step)}
    />
  );
}

function Waiting() {
  return (
    <p class="waiting">
      <span class="visually-hidden">{t.waiting}</span>
      <span class="dot" />
      <span class="dot" />
      <span class="dot" />
    </p>
  );
}

interface EndNoteProps {
  turn: AssistantTurn;
  busy: boolean;
  onContinue: () => void;
}

function EndNote({ turn, busy, onContinue }: EndNoteProps) {
  const note = endNote(turn);
  if (!note) return null;
  const unfinished = turn.status === "stopped" || turn.finish === "length";
  return (
    <p class="end-note">
      {note}
      {unfinished && turn.steps.length > 0 && (
        <button type="button" class="button continue" disabled={busy} onClick={onContinue}>
          {t.continueReply}
        </button>
      )}
    </p>
  );
}

/** Why a reply ended where it did, unless it simply came to its end. */
function endNote(turn: AssistantTurn): string {
  if (turn.status === "stopped") return turn.finishNote || t.stopped;
  if (turn.status !== "done") return "";
  if (turn.finishNote) return turn.finishNote;
  if (turn.finish === "length") return t.lengthReached;
  if (turn.finish === "content_filter") return t.filtered;
  if (turn.edited) return t.editedByYou;
  return turn.steps.length ? "" : t.emptyReply;
}

function UsageNote({ turn }: { turn: AssistantTurn }) {
  if (!turn.usage?.completion) return null;
  const { completion, reasoning } = turn.usage;
  return (
    <span class="usage" title={turn.model}>
      {t.usage(completion, reasoning)}
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
    <div class="branches" role="group" aria-label={t.versions}>
      <IconButton
        name="left"
        label={t.previousVersion}
        disabled={busy || at === 0}
        onClick={() => go(-1)}
      />
      <span>
        {at + 1}/{siblings.length}
      </span>
      <IconButton
        name="right"
        label={t.nextVersion}
        disabled={busy || at === siblings.length - 1}
        onClick={() => go(1)}
      />
    </div>
  );
}

function CopyButton({ text }: { text: string }) {
  const [told, setTold] = useState("");
  const copy = () => {
    void copyText(text).then((copied) => setTold(copied ? t.copied : t.copyFailed));
    setTimeout(() => setTold(""), 1500);
  };
  return (
    <IconButton name="copy" label={told || t.copy} onClick={copy} class={told ? "told" : ""} />
  );
}
