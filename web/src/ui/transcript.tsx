/** The shown path of a conversation; it follows the reply until the reader scrolls away. */

import { useLayoutEffect } from "preact/hooks";
import { children, shownPath } from "../tree";
import type { Conversation } from "../types";
import { useFollow } from "./hooks";
import { Icon } from "./icons";
import { TurnView, type TurnActions } from "./turns";

interface Props {
  conversation: Conversation;
  busy: boolean;
  editing: string | null;
  onEditing: (id: string | null) => void;
  onStarter: (text: string) => void;
  actions: TurnActions;
}

const STARTERS = [
  "How many positive integers below 1000 are divisible by neither 7 nor 11?",
  "Prove that the square root of 2 is irrational.",
  "Write a Python function that merges overlapping intervals, and test it.",
];

export function Transcript(props: Props) {
  const { conversation, busy, editing, onEditing, actions } = props;
  const { box, onScroll, toEnd, away } = useFollow(true);
  const path = shownPath(conversation);
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
        aria-label="Conversation"
        aria-busy={busy}
      >
        <div class="turns">
          {path.length === 0 && <Welcome onStarter={props.onStarter} />}
          {path.map((turn) => (
            <TurnView
              key={turn.id}
              turn={turn}
              revision={turn.role === "assistant" ? turn.revision : 0}
              siblings={children(conversation, turn.parent).map(({ id }) => id)}
              busy={busy}
              editing={editing === turn.id}
              onEditing={onEditing}
              actions={actions}
            />
          ))}
        </div>
      </div>
      {away && (
        <button type="button" class="to-end" onClick={toEnd}>
          <Icon name="down" />
          Latest
        </button>
      )}
    </div>
  );
}

function Welcome({ onStarter }: { onStarter: (text: string) => void }) {
  return (
    <div class="welcome">
      <img src="icon.svg" alt="" />
      <h2>What shall we think about?</h2>
      <ul>
        {STARTERS.map((text) => (
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
