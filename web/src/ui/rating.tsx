/** What the reader thinks of an answer, where the server was started to keep it. */

import { useState } from "preact/hooks";
import { t } from "../language";
import type { AssistantTurn, Rating } from "../types";
import { IconButton } from "./icons";

interface Props {
  turn: AssistantTurn;
  versions: number;
  onRate: (value: Rating["value"], reason: string) => void;
  onPrefer: () => void;
}

export function RatingButtons({ turn, versions, onRate, onPrefer }: Props) {
  const value = turn.rating?.value;
  return (
    <>
      <IconButton
        name="thumbUp"
        label={t.good}
        pressed={value === 1}
        onClick={() => onRate(1, turn.rating?.value === 1 ? turn.rating.reason : "")}
      />
      <IconButton
        name="thumbDown"
        label={t.bad}
        pressed={value === -1}
        onClick={() => onRate(-1, turn.rating?.value === -1 ? turn.rating.reason : "")}
      />
      {versions > 1 && (
        <IconButton
          name="star"
          label={t.better}
          pressed={turn.preferred === true}
          onClick={onPrefer}
        />
      )}
    </>
  );
}

interface ReasonProps {
  turn: AssistantTurn;
  note: string;
  onRate: (value: Rating["value"], reason: string) => void;
}

export function RatingReason({ turn, note, onRate }: ReasonProps) {
  const { rating } = turn;
  const [reason, setReason] = useState(rating?.reason ?? "");
  if (!rating) return null;
  return (
    <form
      class="rating-reason"
      onSubmit={(event) => {
        event.preventDefault();
        if (reason !== rating.reason) onRate(rating.value, reason);
      }}
    >
      <input
        aria-label={t.why}
        placeholder={t.why}
        maxLength={2000}
        value={reason}
        onInput={(event) => setReason(event.currentTarget.value)}
      />
      <button type="submit" class="button" disabled={reason === rating.reason}>
        {t.save}
      </button>
      <p class="hint" role="status">
        {note} {t.feedbackNote}
      </p>
    </form>
  );
}
