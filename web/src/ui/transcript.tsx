/** The shown path of a conversation; it follows the reply until the reader scrolls away. */

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { t } from "../language";
import { childrenByParent, shownPath } from "../tree";
import type { Conversation } from "../types";
import { useFollow } from "./hooks";
import { Icon } from "./icons";
import { TurnView, type TurnActions, type TurnFacts } from "./turns";

const FIRST_TURNS = 40;
const MORE_TURNS = 60;

interface Props {
  conversation: Conversation;
  busy: boolean;
  editing: string | null;
  onEditing: (id: string | null) => void;
  onStarter: (text: string) => void;
  actions: TurnActions;
  facts: TurnFacts;
}

export function Transcript(props: Props) {
  const { conversation, busy, editing, onEditing, actions } = props;
  const { box, onScroll, toEnd, away } = useFollow(true);
  const byParent = childrenByParent(conversation);
  const path = shownPath(conversation, byParent);
  const shown = useGradual(conversation.id, path.length, box);
  const lastAsked = path.findLast((turn) => turn.role === "user")?.id;

  useLayoutEffect(toEnd, [conversation.id, lastAsked]);

  return (
    <div class="transcript-frame">
      <div
        class="transcript"
        ref={box}
        onScroll={onScroll}
        tabIndex={0}
        role="region"
        aria-label={t.conversation}
        aria-busy={busy}
      >
        <div class="turns">
          {path.length === 0 && <Welcome onStarter={props.onStarter} />}
          {path.length > 0 && <PrintHead conversation={conversation} />}
          {path.slice(-shown).map((turn) => (
            <TurnView
              key={turn.id}
              turn={turn}
              revision={turn.role === "assistant" ? turn.revision : 0}
              siblings={(byParent.get(turn.parent) ?? []).map(({ id }) => id)}
              busy={busy}
              editing={editing === turn.id}
              onEditing={onEditing}
              actions={actions}
              facts={props.facts}
            />
          ))}
        </div>
      </div>
      {away && (
        <button type="button" class="to-end" onClick={toEnd}>
          <Icon name="down" />
          {t.latest}
        </button>
      )}
    </div>
  );
}

/** How many turns are shown, from the end: a few at once, the rest while nothing else is to do. */
function useGradual(id: string, length: number, box: { current: HTMLElement | null }): number {
  const [state, setState] = useState({ id, shown: FIRST_TURNS });
  const shown = state.id === id ? state.shown : FIRST_TURNS;
  const height = useRef(0);

  useEffect(() => {
    if (shown >= length) return;
    const show = (more: number) => {
      height.current = box.current?.scrollHeight ?? 0;
      setState({ id, shown: shown + more });
    };
    const all = () => show(length);
    addEventListener("beforeprint", all);
    const idle = window.setTimeout(() => show(MORE_TURNS), 30);
    return () => {
      removeEventListener("beforeprint", all);
      clearTimeout(idle);
    };
  }, [id, shown, length]);

  // What has been added stands above what the reader sees.
  useLayoutEffect(() => {
    if (!box.current || !height.current) return;
    box.current.scrollTop += box.current.scrollHeight - height.current;
    height.current = 0;
  }, [shown]);
  return Math.max(shown, FIRST_TURNS);
}

/** On paper only: what this is. */
function PrintHead({ conversation }: { conversation: Conversation }) {
  const replies = Object.values(conversation.turns).filter((turn) => turn.role === "assistant");
  const models = [...new Set(replies.map(({ model }) => model))].join(", ");
  const date = new Date(conversation.updated).toLocaleDateString(t.code);
  return (
    <header class="print-only print-head">
      <p class="print-title">{conversation.title || t.newChat}</p>
      <p>{t.printedFrom(models, date)}</p>
    </header>
  );
}

function Welcome({ onStarter }: { onStarter: (text: string) => void }) {
  return (
    <div class="welcome">
      <img src="icon.svg" alt="" />
      <h2>{t.welcome}</h2>
      <ul>
        {t.starters.map((text) => (
          <li>
            <button type="button" onClick={() => onStarter(text)}>
              {text}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
